#include "dp/record_products.h"

#include <algorithm>
#include <memory>

#include <ATen/Parallel.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/error.h"
#include "dp/device_products.h"
#include "dp/record_kernels.h"

namespace dpldm::dp {
namespace {

struct InstructionSet {
  const char* name;
  bool available;
  const RecordKernelSet* kernels;
};

#if defined(__x86_64__)
// Whether the processor multiplies tiles of bf16 and the system lets this process use the registers (which it asks for
// once: Linux keeps their contents for those alone that do).
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") != 0 && __builtin_cpu_supports("amx-bf16") != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// The best first.
const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> kSets = [] {
    std::vector<InstructionSet> sets;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                        __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16") != 0;
    static const RecordKernelSet kAmx{kAmxBf16Kernels, kAvx512Kernels.fp32, kAvx512Kernels.fp64};
    sets.push_back({"amx-bf16", avx512_bf16 && may_use_tiles(), &kAmx});
    sets.push_back({"avx512-bf16", avx512_bf16, &kAvx512Bf16Kernels});
    sets.push_back({"avx512", avx512, &kAvx512Kernels});
    sets.push_back({"avx2", avx2, &kAvx2Kernels});
#endif
    sets.push_back({"generic", true, &kGenericKernels});
    return sets;
  }();
  return kSets;
}

const InstructionSet* best() {
  const auto& sets = instruction_sets();
  return &*std::find_if(sets.begin(), sets.end(), [](const InstructionSet& set) { return set.available; });
}

const InstructionSet*& chosen() {
  static const InstructionSet* set = best();
  return set;
}

template <class Real>
const RecordKernels<Real>& kernels(ElementType type) {
  const RecordKernelSet& set = *chosen()->kernels;
  if constexpr (std::is_same_v<Real, double>) {
    if (type != ElementType::kDouble) throw InternalError("results in fp64 of inputs that are not");
    return set.fp64;
  } else {
    if (type == ElementType::kDouble) throw InternalError("results in fp32 of inputs in fp64");
    return type == ElementType::kBFloat16 ? set.bf16 : set.fp32;
  }
}

// Runs `work` with the kernels for inputs of `type`.
template <class Work>
void with_kernels(ElementType type, const Work& work) {
  if (type == ElementType::kDouble) {
    work(kernels<double>(type));
  } else {
    work(kernels<float>(type));
  }
}

void require_partners(const Sequences& a, const Sequences& g) {
  if (a.type != g.type || a.num_records != g.num_records || a.num_tokens != g.num_tokens ||
      a.on_device != g.on_device) {
    throw InternalError("the two sides of a product differ in type, records, tokens or place");
  }
}

// Aligned to a cache line, since packed panels are.
class Scratch {
 public:
  explicit Scratch(std::int64_t bytes)
      : bytes_(
            static_cast<char*>(::operator new(static_cast<std::size_t>(std::max<std::int64_t>(bytes, 64)), kAlign))) {}
  ~Scratch() { ::operator delete(bytes_, kAlign); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* get() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  char* bytes_;
};

constexpr std::int64_t kRecordGrain = 1;

// In add_weighted_products each thread has some rows of the product, in whole panels, and as many packed records as
// half a core's second-level cache holds.
constexpr std::int64_t kPanel = 16;
constexpr std::int64_t kCacheBytes = std::int64_t{512} << 10;

std::int64_t panels_of(std::int64_t rows) { return (rows + kPanel - 1) / kPanel; }

// body(first, last) over records, in LibTorch's threads.
template <class Body>
void for_records(std::int64_t num_records, const Body& body) {
  at::parallel_for(0, num_records, kRecordGrain, body);
}

}  // namespace

void add_product_norms(const Sequences& a, const Sequences& g, double* squared) {
  require_partners(a, g);
  if (a.on_device) return device::add_product_norms(a, g, squared);
  with_kernels(a.type, [&](const auto& k) {
    for_records(a.num_records, [&](std::int64_t first, std::int64_t last) {
      const Scratch scratch(k.scratch_bytes(a, g, g.width));
      k.product_norms(a, g, first, last, scratch.get(), squared);
    });
  });
}

void add_gram_norms(const Sequences& a, const Sequences& g, double* squared) {
  require_partners(a, g);
  if (a.on_device) return device::add_gram_norms(a, g, squared);
  with_kernels(a.type, [&](const auto& k) {
    for_records(a.num_records, [&](std::int64_t first, std::int64_t last) {
      const Scratch scratch(k.gram_scratch_bytes(a, g));
      k.gram_norms(a, g, first, last, scratch.get(), squared);
    });
  });
}

double summation_slack(ElementType type) { return type == ElementType::kDouble ? 1e-14 : 5e-6; }

double gram_slack(const Sequences& a, const Sequences& g) {
  const double u = a.type == ElementType::kDouble ? 1.2e-16 : 6.0e-8;
  return static_cast<double>(2 * a.num_tokens + a.width + g.width + 64) * u;
}

template <class Real>
void add_weighted_products(const Sequences& a, const Sequences& g, const Real* factors, Real* sum) {
  require_partners(a, g);
  if constexpr (std::is_same_v<Real, float>) {
    if (a.on_device) return device::add_weighted_products(a, g, factors, sum);
  }
  const RecordKernels<Real>& k = kernels<Real>(a.type);
  at::parallel_for(0, panels_of(g.width), 1, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t first_row = first * kPanel;
    const std::int64_t last_row = std::min(g.width, last * kPanel);
    const std::int64_t bytes = k.scratch_bytes(a, g, last_row - first_row);
    const std::int64_t block = std::clamp<std::int64_t>(kCacheBytes / std::max<std::int64_t>(bytes, 1), 1,
                                                        std::max<std::int64_t>(a.num_records, 1));
    const Scratch scratch(block * bytes);
    k.weighted_products(a, g, factors, first_row, last_row, block, scratch.get(), sum);
  });
}

template <class Real>
void form_products(const Sequences& a, const Sequences& g, Real* out) {
  require_partners(a, g);
  if constexpr (std::is_same_v<Real, float>) {
    if (a.on_device) return device::form_products(a, g, out);
  }
  const RecordKernels<Real>& k = kernels<Real>(a.type);
  for_records(a.num_records, [&](std::int64_t first, std::int64_t last) {
    const Scratch scratch(k.scratch_bytes(a, g, g.width));
    k.form_products(a, g, first, last, scratch.get(), out);
  });
}

std::int64_t product_scratch_bytes(const Sequences& a, const Sequences& g) {
  if (a.on_device) return 0;
  std::int64_t bytes = 0;
  with_kernels(a.type, [&](const auto& k) { bytes = k.scratch_bytes(a, g, g.width); });
  return at::get_num_threads() * bytes;
}

std::int64_t gram_scratch_bytes(const Sequences& a, const Sequences& g) {
  if (a.on_device) return 0;
  std::int64_t bytes = 0;
  with_kernels(a.type, [&](const auto& k) { bytes = k.gram_scratch_bytes(a, g); });
  return at::get_num_threads() * bytes;
}

std::int64_t weighted_scratch_bytes(const Sequences& a, const Sequences& g) {
  if (a.on_device) return 0;
  const std::int64_t panels = panels_of(g.width);
  const std::int64_t threads = std::min<std::int64_t>(at::get_num_threads(), panels);
  const std::int64_t rows = std::min(g.width, (panels + threads - 1) / threads * kPanel);
  std::int64_t bytes = 0;
  with_kernels(a.type, [&](const auto& k) { bytes = k.scratch_bytes(a, g, rows); });
  return threads * std::max(bytes, kCacheBytes);
}

void add_energies(const Sequences& values, double* energies) {
  if (values.on_device) return device::add_energies(values, energies);
  with_kernels(values.type, [&](const auto& k) {
    for_records(values.num_records,
                [&](std::int64_t first, std::int64_t last) { k.energies(values, first, last, energies); });
  });
}

template <class Real>
void sum_tokens(const Sequences& values, Real* out) {
  if constexpr (std::is_same_v<Real, float>) {
    if (values.on_device) return device::sum_tokens(values, out);
  }
  const RecordKernels<Real>& k = kernels<Real>(values.type);
  for_records(values.num_records,
              [&](std::int64_t first, std::int64_t last) { k.sum_tokens(values, first, last, out); });
}

template <class Real>
void add_squared_rows(const Real* values, std::int64_t num_records, std::int64_t size, double* squared,
                      bool on_device) {
  if constexpr (std::is_same_v<Real, float>) {
    if (on_device) return device::add_squared_rows(values, num_records, size, squared);
  }
  const auto& k = kernels<Real>(std::is_same_v<Real, double> ? ElementType::kDouble : ElementType::kFloat);
  for_records(num_records,
              [&](std::int64_t first, std::int64_t last) { k.squared_rows(values, size, first, last, squared); });
}

template <class Real>
void add_weighted_rows(const Real* values, std::int64_t num_records, std::int64_t size, const Real* factors, Real* sum,
                       bool on_device) {
  if constexpr (std::is_same_v<Real, float>) {
    if (on_device) return device::add_weighted_rows(values, num_records, size, factors, sum);
  }
  const auto& k = kernels<Real>(std::is_same_v<Real, double> ? ElementType::kDouble : ElementType::kFloat);
  constexpr std::int64_t kPiece = 4096;  // of the sum: stays in the first-level cache while the records pass by
  at::parallel_for(0, (size + kPiece - 1) / kPiece, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t piece = first; piece < last; ++piece) {
      k.weighted_rows(values, num_records, size, piece * kPiece, std::min(size, (piece + 1) * kPiece), factors, sum);
    }
  });
}

template <class Real>
void layer_norm_gradients(const NormalisedInput& input, std::int64_t tokens, Real* weight, Real* bias) {
  const RecordKernels<Real>& k = kernels<Real>(input.type);
  for_records(input.num_records,
              [&](std::int64_t first, std::int64_t last) { k.layer_norm(input, tokens, first, last, weight, bias); });
}

template <class Real>
void group_norm_gradients(const NormalisedInput& input, std::int64_t positions, std::int64_t groups, Real* weight,
                          Real* bias) {
  const RecordKernels<Real>& k = kernels<Real>(input.type);
  for_records(input.num_records, [&](std::int64_t first, std::int64_t last) {
    k.group_norm(input, positions, groups, first, last, weight, bias);
  });
}

template void add_weighted_products(const Sequences&, const Sequences&, const float*, float*);
template void add_weighted_products(const Sequences&, const Sequences&, const double*, double*);
template void form_products(const Sequences&, const Sequences&, float*);
template void form_products(const Sequences&, const Sequences&, double*);
template void sum_tokens(const Sequences&, float*);
template void sum_tokens(const Sequences&, double*);
template void add_squared_rows(const float*, std::int64_t, std::int64_t, double*, bool);
template void add_squared_rows(const double*, std::int64_t, std::int64_t, double*, bool);
template void add_weighted_rows(const float*, std::int64_t, std::int64_t, const float*, float*, bool);
template void add_weighted_rows(const double*, std::int64_t, std::int64_t, const double*, double*, bool);
template void layer_norm_gradients(const NormalisedInput&, std::int64_t, float*, float*);
template void layer_norm_gradients(const NormalisedInput&, std::int64_t, double*, double*);
template void group_norm_gradients(const NormalisedInput&, std::int64_t, std::int64_t, float*, float*);
template void group_norm_gradients(const NormalisedInput&, std::int64_t, std::int64_t, double*, double*);

std::string instruction_set() { return chosen()->name; }

bool use_instruction_set(const std::string& name) {
  if (name.empty()) {
    chosen() = best();
    return true;
  }
  for (const InstructionSet& set : instruction_sets()) {
    if (name != set.name || !set.available) continue;
    chosen() = &set;
    return true;
  }
  return false;
}

}  // namespace dpldm::dp
