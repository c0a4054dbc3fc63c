// The kernels of record_kernels.h for one instruction set. The including file defines, in an unnamed namespace of
// dpldm::dp, kTileRows and kTilePanels (what fits its registers), PackedBf16 (Pair where it multiplies bf16, float
// where bf16 is widened first) and dot_pairs; or, where the processor has registers for whole tiles, kHasTiles and
// TileRegisters.
//
// A packed operand is cut into panels of 16 columns; a panel has one line of 16 words for each step of the product's
// depth. A tile is kTileRows columns of one operand by up to kTilePanels panels of the other, held in registers while
// the whole depth passes by. Tile registers take the first operand's panels the other way round: 16 lines, one for each
// column, as long as the depth (pack_rows).

// From and to memory with no more alignment than a bf16 has.
template <class Word>
inline __attribute__((always_inline)) typename Lanes<Word>::Type load(const Word* from) {
  typename Lanes<Word>::Type lanes;
  __builtin_memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
template <class Word>
inline __attribute__((always_inline)) void store(Word* to, const typename Lanes<Word>::Type& lanes) {
  __builtin_memcpy(to, &lanes, sizeof lanes);
}

template <class In>
struct Packing {
  using Type = In;
};
template <>
struct Packing<Bf16> {
  using Type = PackedBf16;
};

inline float widened(Bf16 value) { return __builtin_bit_cast(float, static_cast<Pair>(value) << 16); }
inline float widened(float value) { return value; }
inline double widened(double value) { return value; }

// How many values of one column a packed word holds.
template <class Packed>
constexpr std::int64_t kPerWord = __is_same(Packed, Pair) ? 2 : 1;

// Tile registers take a depth of up to 16 as it is, and more in steps of 16.
template <class Packed>
inline std::int64_t depth_of(std::int64_t length) {
  const std::int64_t depth = (length + kPerWord<Packed> - 1) / kPerWord<Packed>;
  return kHasTiles && depth > kLanes ? (depth + kLanes - 1) / kLanes * kLanes : depth;
}

inline std::int64_t panels_of(std::int64_t width) { return (width + kLanes - 1) / kLanes; }
// Of the operand that gives a tile its rows: whole tiles.
constexpr std::int64_t kTileRowPanels = kTileRows > kLanes ? kTileRows / kLanes : 1;
inline std::int64_t row_panels_of(std::int64_t width) {
  return (panels_of(width) + kTileRowPanels - 1) / kTileRowPanels * kTileRowPanels;
}

template <class In>
inline const In* record(const Sequences& s, std::int64_t r) {
  return static_cast<const In*>(s.data) + r * s.record_stride;
}

// 16 x 16 words, transposed by four rounds of interleaving line i with line i + 8. Lines of `out` are `stride` apart.
template <class Word>
inline void transpose(const Word* const (&columns)[kLanes], Word* out, std::int64_t stride = kLanes) {
  using Line = typename Lanes<Word>::Type;
  using Index = typename Lanes<Word>::Mask;
  const Index low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const Index high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  Line v[kLanes];
  for (int i = 0; i < kLanes; ++i) v[i] = load(columns[i]);
  for (int round = 0; round < 4; ++round) {
    Line w[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      w[2 * i] = __builtin_shuffle(v[i], v[i + kLanes / 2], low);
      w[2 * i + 1] = __builtin_shuffle(v[i], v[i + kLanes / 2], high);
    }
    for (int i = 0; i < kLanes; ++i) v[i] = w[i];
  }
  for (int i = 0; i < kLanes; ++i) store(out + i * stride, v[i]);
}

// Word k of a column whose values are `stride` apart; zero beyond its end.
template <class Packed, class In>
inline Packed packed_word(const In* column, std::int64_t k, std::int64_t length, std::int64_t stride) {
  if constexpr (kPerWord<Packed> == 2) {
    const Pair low = 2 * k < length ? column[2 * k * stride] : 0;
    const Pair high = 2 * k + 1 < length ? column[(2 * k + 1) * stride] : 0;
    return low | high << 16;
  } else {
    return widened(column[k * stride]);
  }
}

// Packs up to 16 columns of `length` values into `depth` lines. Value k of column c is panel[k * k_stride + c *
// column_stride].
template <class Packed, class In>
inline void pack_lines(const In* panel, std::int64_t length, std::int64_t k_stride, std::int64_t count,
                       std::int64_t column_stride, std::int64_t depth, Packed* out) {
  const std::int64_t whole = length / kPerWord<Packed>;  // lines without padding
  std::int64_t k = 0;
  if (column_stride == 1 && count == kLanes) {
    for (; k < whole; ++k) {
      Packed* line = out + k * kLanes;
      const In* low = panel + k * kPerWord<Packed> * k_stride;
      if constexpr (kPerWord<Packed> == 2) {
        const In* high = low + k_stride;
        for (int c = 0; c < kLanes; ++c) line[c] = static_cast<Pair>(low[c]) | static_cast<Pair>(high[c]) << 16;
      } else {
        for (int c = 0; c < kLanes; ++c) line[c] = widened(low[c]);
      }
    }
  } else if constexpr (sizeof(In) * kPerWord<Packed> == sizeof(Packed)) {
    if (k_stride == 1 && count == kLanes) {  // a word of the panel is a word of memory
      for (; k + kLanes <= whole; k += kLanes) {
        const Packed* words[kLanes];
        for (int c = 0; c < kLanes; ++c) {
          words[c] = reinterpret_cast<const Packed*>(panel + c * column_stride + k * kPerWord<Packed>);
        }
        transpose(words, out + k * kLanes);
      }
    }
  }
  for (; k < depth; ++k) {
    for (std::int64_t c = 0; c < kLanes; ++c) {
      out[k * kLanes + c] = c < count ? packed_word<Packed>(panel + c * column_stride, k, length, k_stride) : Packed{};
    }
  }
}

// Packs `columns` columns of `length` values. Value k of column c is data[k * k_stride + c * column_stride].
template <class Packed, class In>
void pack(const In* data, std::int64_t length, std::int64_t k_stride, std::int64_t columns, std::int64_t column_stride,
          Packed* out) {
  const std::int64_t depth = depth_of<Packed>(length);
  for (std::int64_t first = 0; first < columns; first += kLanes, out += depth * kLanes) {
    const std::int64_t count = columns - first < kLanes ? columns - first : kLanes;
    pack_lines(data + first * column_stride, length, k_stride, count, column_stride, depth, out);
  }
}

// The same for the operand that gives a tile its rows, up to whole tiles.
template <class Packed, class In>
void pack_rows(const In* data, std::int64_t length, std::int64_t k_stride, std::int64_t columns,
               std::int64_t column_stride, Packed* out) {
  if constexpr (!kHasTiles) {
    pack(data, length, k_stride, columns, column_stride, out);
  } else {
    const std::int64_t depth = depth_of<Packed>(length);
    const std::int64_t padded = row_panels_of(columns) * kLanes;
    if (k_stride == 1) {
      for (std::int64_t c = 0; c < padded; ++c) {
        const std::int64_t count = c < columns ? length : 0;
        In* line = reinterpret_cast<In*>(out + c * depth);
        if (count > 0) __builtin_memcpy(line, data + c * column_stride, static_cast<std::size_t>(count) * sizeof(In));
        __builtin_memset(line + count, 0, static_cast<std::size_t>(depth * kPerWord<Packed> - count) * sizeof(In));
      }
      return;
    }
    alignas(64) Packed block[kLanes * kLanes];
    alignas(64) Packed turned[kLanes * kLanes];
    const Packed* lines[kLanes];
    for (int i = 0; i < kLanes; ++i) lines[i] = block + i * kLanes;
    for (std::int64_t first = 0; first < padded; first += kLanes) {
      const std::int64_t left = columns - first;
      const std::int64_t count = left < 0 ? 0 : left < kLanes ? left : kLanes;
      for (std::int64_t k = 0; k < depth; k += kLanes) {
        const std::int64_t begin = k * kPerWord<Packed>;
        const std::int64_t rest =
            length - begin < kLanes * kPerWord<Packed> ? length - begin : kLanes * kPerWord<Packed>;
        const std::int64_t words = count == 0 || rest <= 0 ? 0 : (rest + kPerWord<Packed> - 1) / kPerWord<Packed>;
        if (words > 0) {
          const In* values = data + begin * k_stride + first * column_stride;
          pack_lines(values, rest, k_stride, count, column_stride, words, block);
        }
        __builtin_memset(block + words * kLanes, 0,
                         static_cast<std::size_t>((kLanes - words) * kLanes) * sizeof(Packed));
        Packed* corner = out + first * depth + k;
        if (depth >= kLanes) {
          transpose(lines, corner, depth);
          continue;
        }
        transpose(lines, turned);
        for (std::int64_t c = 0; c < kLanes; ++c) {
          for (std::int64_t i = 0; i < depth; ++i) corner[c * depth + i] = turned[c * kLanes + i];
        }
      }
    }
  }
}

// acc[i][j] = sum over the depth of rows' column i times columns' panel j.
template <int kPanels, class Packed>
inline __attribute__((always_inline)) void multiply([[maybe_unused]] TileRegisters& tiles, const Packed* rows,
                                                    const Packed* columns, std::int64_t depth,
                                                    typename Lanes<Packed>::Sum (&acc)[kTileRows][kPanels]) {
  if constexpr (kHasTiles) {
    tiles.multiply(rows, columns, depth, acc);
  } else {
    using Sum = typename Lanes<Packed>::Sum;
    Sum sum[kTileRows][kPanels] = {};
    for (std::int64_t k = 0; k < depth; ++k) {
      typename Lanes<Packed>::Type line[kPanels];
      for (int j = 0; j < kPanels; ++j) line[j] = load(columns + (j * depth + k) * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kTileRows; ++i) {
        const Packed row = rows[k * kLanes + i];
#pragma GCC unroll 2
        for (int j = 0; j < kPanels; ++j) {
          if constexpr (kPerWord<Packed> == 2) {
            sum[i][j] = dot_pairs(sum[i][j], row, line[j]);
          } else {
            sum[i][j] += row * line[j];
          }
        }
      }
    }
    for (int i = 0; i < kTileRows; ++i) {
      for (int j = 0; j < kPanels; ++j) acc[i][j] = sum[i][j];
    }
  }
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// body(first row, first panel, Constant<number of panels>) for every tile of a product.
template <class Body>
inline __attribute__((always_inline)) void for_each_tile(std::int64_t num_rows, std::int64_t num_panels,
                                                         const Body& body) {
  for (std::int64_t row = 0; row < num_rows; row += kTileRows) {
    std::int64_t panel = 0;
    for (; panel + kTilePanels <= num_panels; panel += kTilePanels) body(row, panel, Constant<kTilePanels>());
    for (; panel < num_panels; ++panel) body(row, panel, Constant<1>());
  }
}

// Where a tile's rows begin in a packed operand.
template <class Packed>
inline const Packed* rows_at(const Packed* packed, std::int64_t row, std::int64_t depth) {
  return packed + row / kLanes * depth * kLanes + row % kLanes;
}

inline double sum_of_lanes(const DoubleLanes& sum) {
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

template <class In>
std::int64_t scratch_bytes(const Sequences& a, const Sequences& /*g*/, std::int64_t rows) {
  using Packed = typename Packing<In>::Type;
  return (panels_of(a.width) + row_panels_of(rows)) * depth_of<Packed>(a.num_tokens) * kLanes *
         static_cast<std::int64_t>(sizeof(Packed));
}

template <class In>
void product_norms(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                   double* squared) {
  using Packed = typename Packing<In>::Type;
  using Sum = typename Lanes<Packed>::Sum;
  TileRegisters tiles;
  const std::int64_t depth = depth_of<Packed>(a.num_tokens);
  auto* columns = reinterpret_cast<Packed*>(scratch);
  Packed* rows = columns + panels_of(a.width) * depth * kLanes;
  for (std::int64_t r = first; r < last; ++r) {
    pack(record<In>(a, r), a.num_tokens, a.token_stride, a.width, a.channel_stride, columns);
    pack_rows(record<In>(g, r), g.num_tokens, g.token_stride, g.width, g.channel_stride, rows);
    DoubleLanes total{};
    for_each_tile(g.width, panels_of(a.width), [&](std::int64_t row, std::int64_t panel, auto panels) {
      Sum acc[kTileRows][panels.value];
      multiply<panels.value>(tiles, rows_at(rows, row, depth), columns + panel * depth * kLanes, depth, acc);
      Sum squares{};
      for (int i = 0; i < kTileRows; ++i) {
        for (int j = 0; j < panels.value; ++j) squares += acc[i][j] * acc[i][j];
      }
      total += __builtin_convertvector(squares, DoubleLanes);
    });
    squared[r] += sum_of_lanes(total);
  }
}

// Writes (or adds) the first num_rows x width values of a tile.
template <int kPanels, class Sum, class Real>
inline void write_tile(const Sum (&tile)[kTileRows][kPanels], std::int64_t num_rows, std::int64_t width,
                       std::int64_t row_stride, bool add, Real* out) {
  for (int i = 0; i < kTileRows && i < num_rows; ++i) {
    for (int j = 0; j < kPanels; ++j) {
      Real* to = out + i * row_stride + j * kLanes;
      const std::int64_t count = width - j * kLanes;
      if (count >= kLanes) {
        store(to, add ? load(to) + tile[i][j] : tile[i][j]);
      } else {
        for (std::int64_t lane = 0; lane < count; ++lane)
          to[lane] = add ? to[lane] + tile[i][j][lane] : tile[i][j][lane];
      }
    }
  }
}

template <class In, class Real>
void form_products(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                   Real* out) {
  using Packed = typename Packing<In>::Type;
  TileRegisters tiles;
  const std::int64_t depth = depth_of<Packed>(a.num_tokens);
  auto* columns = reinterpret_cast<Packed*>(scratch);
  Packed* rows = columns + panels_of(a.width) * depth * kLanes;
  for (std::int64_t r = first; r < last; ++r) {
    pack(record<In>(a, r), a.num_tokens, a.token_stride, a.width, a.channel_stride, columns);
    pack_rows(record<In>(g, r), g.num_tokens, g.token_stride, g.width, g.channel_stride, rows);
    Real* product = out + r * g.width * a.width;
    for_each_tile(g.width, panels_of(a.width), [&](std::int64_t row, std::int64_t panel, auto panels) {
      typename Lanes<Packed>::Sum acc[kTileRows][panels.value];
      multiply<panels.value>(tiles, rows_at(rows, row, depth), columns + panel * depth * kLanes, depth, acc);
      write_tile<panels.value>(acc, g.width - row, a.width - panel * kLanes, a.width, false,
                               product + row * a.width + panel * kLanes);
    });
  }
}

template <class In, class Real>
void weighted_products(const Sequences& a, const Sequences& g, const Real* factors, std::int64_t first_row,
                       std::int64_t last_row, std::int64_t block, char* scratch, Real* sum) {
  using Packed = typename Packing<In>::Type;
  using Sum = typename Lanes<Packed>::Sum;
  using Mask = typename Lanes<Packed>::Mask;
  TileRegisters tiles;
  const std::int64_t depth = depth_of<Packed>(a.num_tokens);
  const std::int64_t num_rows = last_row - first_row;
  const std::int64_t columns_size = panels_of(a.width) * depth * kLanes;
  const std::int64_t rows_size = row_panels_of(num_rows) * depth * kLanes;
  auto* columns = reinterpret_cast<Packed*>(scratch);
  Packed* rows = columns + block * columns_size;
  for (std::int64_t begin = 0; begin < a.num_records; begin += block) {
    const std::int64_t count = a.num_records - begin < block ? a.num_records - begin : block;
    for (std::int64_t r = 0; r < count; ++r) {
      pack(record<In>(a, begin + r), a.num_tokens, a.token_stride, a.width, a.channel_stride,
           columns + r * columns_size);
      pack_rows(record<In>(g, begin + r) + first_row * g.channel_stride, g.num_tokens, g.token_stride, num_rows,
                g.channel_stride, rows + r * rows_size);
    }
    for_each_tile(num_rows, panels_of(a.width), [&](std::int64_t row, std::int64_t panel, auto panels) {
      Sum total[kTileRows][panels.value] = {};
      for (std::int64_t r = 0; r < count; ++r) {
        Sum acc[kTileRows][panels.value];
        multiply<panels.value>(tiles, rows_at(rows + r * rows_size, row, depth),
                               columns + r * columns_size + panel * depth * kLanes, depth, acc);
        const Real factor = factors[begin + r];
        // 0 * inf and 0 * NaN are NaN, so a record with factor 0 is masked. A branch would take another time.
        const Mask keep = Mask{} - (factor != 0 ? 1 : 0);
        for (int i = 0; i < kTileRows; ++i) {
          for (int j = 0; j < panels.value; ++j) total[i][j] += (Sum)((Mask)(factor * acc[i][j]) & keep);
        }
      }
      write_tile<panels.value>(total, num_rows - row, a.width - panel * kLanes, a.width, true,
                               sum + (first_row + row) * a.width + panel * kLanes);
    });
  }
}

template <class In>
std::int64_t gram_scratch_bytes(const Sequences& a, const Sequences& g) {
  using Packed = typename Packing<In>::Type;
  const std::int64_t panels = panels_of(a.num_tokens) + (kHasTiles ? row_panels_of(a.num_tokens) : 0);
  return panels * (depth_of<Packed>(a.width) + depth_of<Packed>(g.width)) * kLanes *
         static_cast<std::int64_t>(sizeof(Packed));
}

// The tokens of one record, for both sides of a Gram matrix. Where the sides are packed alike, they share memory.
template <class Packed>
struct PackedTokens {
  std::int64_t depth;
  Packed* columns;
  Packed* rows;
};
template <class Packed, class In>
inline void pack_tokens(const Sequences& s, std::int64_t r, const PackedTokens<Packed>& to) {
  pack(record<In>(s, r), s.width, s.channel_stride, s.num_tokens, s.token_stride, to.columns);
  if (kHasTiles) pack_rows(record<In>(s, r), s.width, s.channel_stride, s.num_tokens, s.token_stride, to.rows);
}

// Pairs of tokens (t, u): whole squares on the diagonal, as large as a tile has rows (16 at least), and twice what is
// above them.
template <class In>
void gram_norms(const Sequences& a, const Sequences& g, std::int64_t first, std::int64_t last, char* scratch,
                double* squared) {
  using Packed = typename Packing<In>::Type;
  using Sum = typename Lanes<Packed>::Sum;
  TileRegisters tiles;
  const std::int64_t panels = panels_of(a.num_tokens);
  auto* free = reinterpret_cast<Packed*>(scratch);
  const auto packed_for = [&](const Sequences& s) {
    PackedTokens<Packed> tokens{depth_of<Packed>(s.width), free, free};
    free += panels * tokens.depth * kLanes;
    if (kHasTiles) {
      tokens.rows = free;
      free += row_panels_of(s.num_tokens) * tokens.depth * kLanes;
    }
    return tokens;
  };
  const PackedTokens<Packed> at = packed_for(a);
  const PackedTokens<Packed> gt = packed_for(g);
  for (std::int64_t r = first; r < last; ++r) {
    pack_tokens<Packed, In>(a, r, at);
    pack_tokens<Packed, In>(g, r, gt);
    DoubleLanes total{};
    for (std::int64_t row = 0; row < a.num_tokens; row += kTileRows) {
      for (std::int64_t panel = row / kLanes; panel < panels; ++panel) {
        Sum aa[kTileRows][1];
        Sum gg[kTileRows][1];
        multiply<1>(tiles, rows_at(at.rows, row, at.depth), at.columns + panel * at.depth * kLanes, at.depth, aa);
        multiply<1>(tiles, rows_at(gt.rows, row, gt.depth), gt.columns + panel * gt.depth * kLanes, gt.depth, gg);
        DoubleLanes products{};
        for (int i = 0; i < kTileRows; ++i) products += __builtin_convertvector(aa[i][0] * gg[i][0], DoubleLanes);
        total += panel < row / kLanes + kTileRowPanels ? products : products + products;
      }
    }
    squared[r] += sum_of_lanes(total);
  }
}

// Values that lie side by side, as a sum over 16 lanes.
template <class In, class Term>
inline auto lane_sum(std::int64_t size, const Term& term) {
  using Real = decltype(widened(In{}));
  Real partial[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += term(i + lane);
  }
  for (int lane = 0; i < size; ++i, ++lane) partial[lane] += term(i);
  Real total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += partial[lane];
  return total;
}

template <class In>
void energies(const Sequences& values, std::int64_t first, std::int64_t last, double* out) {
  const bool by_token = values.channel_stride == 1;
  const std::int64_t lines = by_token ? values.num_tokens : values.width;
  const std::int64_t line_stride = by_token ? values.token_stride : values.channel_stride;
  const std::int64_t size = by_token ? values.width : values.num_tokens;
  for (std::int64_t r = first; r < last; ++r) {
    double total = 0;
    for (std::int64_t i = 0; i < lines; ++i) {
      const In* line = record<In>(values, r) + i * line_stride;
      total += static_cast<double>(
          lane_sum<In>(size, [line](std::int64_t k) { return widened(line[k]) * widened(line[k]); }));
    }
    out[r] += total;
  }
}

template <class In, class Real>
void sum_tokens(const Sequences& values, std::int64_t first, std::int64_t last, Real* out) {
  for (std::int64_t r = first; r < last; ++r) {
    const In* data = record<In>(values, r);
    Real* sum = out + r * values.width;
    if (values.channel_stride == 1) {
      for (std::int64_t c = 0; c < values.width; ++c) sum[c] = 0;
      for (std::int64_t t = 0; t < values.num_tokens; ++t) {
        const In* token = data + t * values.token_stride;
        for (std::int64_t c = 0; c < values.width; ++c) sum[c] += widened(token[c]);
      }
    } else {
      for (std::int64_t c = 0; c < values.width; ++c) {
        const In* channel = data + c * values.channel_stride;
        sum[c] = lane_sum<In>(values.num_tokens, [channel](std::int64_t t) { return widened(channel[t]); });
      }
    }
  }
}

template <class Real>
void squared_rows(const Real* values, std::int64_t size, std::int64_t first, std::int64_t last, double* squared) {
  constexpr std::int64_t kPiece = 1024;  // short enough for fp32
  for (std::int64_t r = first; r < last; ++r) {
    double total = 0;
    for (std::int64_t begin = 0; begin < size; begin += kPiece) {
      const Real* piece = values + r * size + begin;
      const std::int64_t count = size - begin < kPiece ? size - begin : kPiece;
      total += static_cast<double>(lane_sum<Real>(count, [piece](std::int64_t k) { return piece[k] * piece[k]; }));
    }
    squared[r] += total;
  }
}

template <class Real>
void weighted_rows(const Real* values, std::int64_t num_records, std::int64_t size, std::int64_t first,
                   std::int64_t last, const Real* factors, Real* sum) {
  using Mask = typename Lanes<Real>::Mask;
  for (std::int64_t r = 0; r < num_records; ++r) {
    const Real* row = values + r * size;
    const Real factor = factors[r];
    const Mask keep = Mask{} - (factor != 0 ? 1 : 0);
    std::int64_t k = first;
    for (; k + kLanes <= last; k += kLanes) {
      store(sum + k, load(sum + k) + (typename Lanes<Real>::Sum)((Mask)(factor * load(row + k)) & keep));
    }
    for (; k < last; ++k) sum[k] += factor != 0 ? factor * row[k] : 0;
  }
}

template <class In, class Real>
void layer_norm(const NormalisedInput& input, std::int64_t tokens, std::int64_t first, std::int64_t last, Real* weight,
                Real* bias) {
  const std::int64_t channels = input.channels;
  const std::int64_t per_record = input.draws * tokens;
  for (std::int64_t r = first; r < last; ++r) {
    Real* w = weight == nullptr ? nullptr : weight + r * channels;
    Real* b = bias == nullptr ? nullptr : bias + r * channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      if (w != nullptr) w[c] = 0;
      if (b != nullptr) b[c] = 0;
    }
    for (std::int64_t token = r * per_record; token < (r + 1) * per_record; ++token) {
      const In* x = static_cast<const In*>(input.x) + token * channels;
      const In* dy = static_cast<const In*>(input.gradient) + token * channels;
      const Real mean = static_cast<const Real*>(input.mean)[token];
      const Real rstd = static_cast<const Real*>(input.rstd)[token];
      if (w != nullptr) {
        for (std::int64_t c = 0; c < channels; ++c) w[c] += (widened(x[c]) - mean) * rstd * widened(dy[c]);
      }
      if (b != nullptr) {
        for (std::int64_t c = 0; c < channels; ++c) b[c] += widened(dy[c]);
      }
    }
  }
}

template <class In, class Real>
void group_norm(const NormalisedInput& input, std::int64_t positions, std::int64_t groups, std::int64_t first,
                std::int64_t last, Real* weight, Real* bias) {
  const std::int64_t channels = input.channels;
  for (std::int64_t r = first; r < last; ++r) {
    for (std::int64_t c = 0; c < channels; ++c) {
      Real w = 0;
      Real b = 0;
      for (std::int64_t row = r * input.draws; row < (r + 1) * input.draws; ++row) {
        const In* x = static_cast<const In*>(input.x) + (row * channels + c) * positions;
        const In* dy = static_cast<const In*>(input.gradient) + (row * channels + c) * positions;
        const std::int64_t group = row * groups + c / (channels / groups);
        const Real mean = static_cast<const Real*>(input.mean)[group];
        const Real rstd = static_cast<const Real*>(input.rstd)[group];
        w += lane_sum<In>(positions, [=](std::int64_t k) { return (widened(x[k]) - mean) * rstd * widened(dy[k]); });
        b += lane_sum<In>(positions, [=](std::int64_t k) { return widened(dy[k]); });
      }
      if (weight != nullptr) weight[r * channels + c] = w;
      if (bias != nullptr) bias[r * channels + c] = b;
    }
  }
}

template <class In, class Real>
constexpr RecordKernels<Real> kernels_for() {
  return {scratch_bytes<In>,           gram_scratch_bytes<In>,  product_norms<In>,    gram_norms<In>,
          weighted_products<In, Real>, form_products<In, Real>, energies<In>,         sum_tokens<In, Real>,
          squared_rows<Real>,          weighted_rows<Real>,     layer_norm<In, Real>, group_norm<In, Real>};
}

template <class Narrow = Bf16>
constexpr RecordKernelSet kernel_set() {
  return {kernels_for<Narrow, float>(), kernels_for<float, float>(), kernels_for<double, double>()};
}
