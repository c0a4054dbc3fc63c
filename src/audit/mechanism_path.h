// The path of a step, from per-record gradients to the released average, on made-up records whose effect is known.
//
// Record i's gradient lies in a block of its own: row i of one linear layer's weight, and entry i of its bias. Its norm
// is a thousand clip norms, so what it adds to the sum must be exactly one clip norm along a known direction. Even
// records have most of their gradient in the weight, odd ones in the bias; each has several draws and several tokens
// that all push the same way. So a release shows what each record contributed, and everything else in it is noise.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "dp/clipped_sum.h"
#include "dp/gaussian_mechanism.h"
#include "dp/lattice_sum.h"
#include "dp/record_selection.h"

namespace dpldm::audit {

class MadeUpRecords {
 public:
  static constexpr std::int64_t kInputs = 3;  // the layer's input width
  static constexpr std::int64_t kTokens = 2;
  static constexpr std::int64_t kDraws = 2;
  static constexpr std::size_t kBlock = 4;  // elements that a record moves: its weights and its bias

  explicit MadeUpRecords(std::int64_t num_records) : num_records_(num_records) {}

  std::int64_t num_records() const { return num_records_; }
  std::size_t num_elements() const { return static_cast<std::size_t>(num_records_) * kBlock; }

  // What the layer reports for `records`: input [R draws, tokens, kInputs] and output gradient [R draws, tokens, N].
  at::Tensor activations(std::span<const std::int64_t> records) const;
  at::Tensor output_gradients(std::span<const std::int64_t> records) const;
  // The unit vector along which the record pushes, and where its four elements lie in the flat sum (weight [N,
  // kInputs], then bias [N]).
  std::array<float, kBlock> direction(std::int64_t record) const;
  std::array<std::size_t, kBlock> places(std::int64_t record) const;

 private:
  std::int64_t num_records_;
};

class MechanismPath {
 public:
  virtual ~MechanismPath() = default;
  // Collective. The released average of the step in which `present` take part, in units of the clip norm; the same on
  // every rank. Steps rise.
  virtual std::vector<float> release(std::int64_t step, const std::vector<std::int64_t>& present) = 0;
};

struct PathOptions {
  double noise_multiplier = 1;
  bool lattice = false;
  dp::ReleaseMode mode = dp::ReleaseMode::kAllReduce;
  dp::Rule rule = dp::Rule::kAutomatic;
  dp::Sharding sharding = dp::Sharding::kStatic;
  double expected_batch_size = 0;
  std::optional<std::uint64_t> test_seed;
};

// Collective. The real one, made of the parts that training is made of. `ledger` is rank 0's, null elsewhere.
std::unique_ptr<MechanismPath> make_real_path(comm::Communicator& comm, const MadeUpRecords& records,
                                              accounting::PrivacyLedger* ledger, const PathOptions& options);

}  // namespace dpldm::audit
