// The Gaussian mechanism: the one place where noise is made and added, and the one exit of private data.
//
// What comes in is each rank's sum of clipped gradients, in which one record has an L2 norm of at most C over all
// entries. What goes out, identical on every rank, is the sum over ranks plus one draw of N(0, (sigma C)^2) per entry.
// The draw is rank 0's alone: noise per rank would be too much, or, divided by the number of ranks, too little (the
// accountant knows of one draw).
//
// Sums of floats get normal noise in fp32; sums on a grid of integers (dp/lattice_sum.h) get the same noise rounded to
// integers, and are exact in any order.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "comm/communicator.h"
#include "dp/charged_step.h"
#include "dp/keys.h"

namespace dpldm::dp {

enum class ReleaseMode {
  kAllReduce,  // every rank gets the sum and the noise, and adds them
  kRoot,       // rank 0 gets the sum, adds the noise, and sends the result: only it ever holds the bare sum
};

// "allreduce", "root". Throws ConfigError for another word.
ReleaseMode release_mode_from(const std::string& text);

class GaussianMechanism {
 public:
  // `noise_key`: rank 0's RunKeys::take_noise(); nothing on the others. `noise_multiplier` (sigma) and `clip_norm` (C)
  // must be the same on all ranks; sigma may be 0, in a run that is not private. Throws InternalError when the key is
  // missing on rank 0 or present elsewhere, ConfigError for a sigma or C outside its domain. Rank 0 draws on
  // `num_threads` threads, with the same result for every number.
  GaussianMechanism(comm::Communicator& comm, std::optional<SecretKey> noise_key, double noise_multiplier,
                    double clip_norm, ReleaseMode mode, int num_threads = 1);

  // Collective. Replaces `sum`, of the same length on every rank (zeros where a rank has no records), by the release.
  // Takes the charge: steps are released once each, in rising order. Throws InternalError for a charge that was used,
  // is not above the last step, or is for another sigma.
  void release(std::span<float> sum, ChargedStep charge);
  void release(std::span<std::int64_t> sum, ChargedStep charge);
  // The same for a sum in the memory of this rank's device, always by way of rank 0 (ReleaseMode::kRoot), where the
  // noise is made.
  void release_on_device(std::span<float> sum, ChargedStep charge);

 private:
  template <class Value>
  void release_values(std::span<Value> sum, const ChargedStep& charge);
  // Checks the charge and takes it. The step's number.
  std::uint64_t take(const ChargedStep& charge);
  void require_releasable(const ChargedStep& charge) const;
  template <class Value>
  void release_by_all_reduce(std::span<Value> sum, std::uint64_t step);
  template <class Value>
  void release_by_root(std::span<Value> sum, std::uint64_t step);

  comm::Communicator& comm_;
  std::optional<SecretKey> noise_key_;
  double noise_multiplier_;
  double clip_norm_;
  ReleaseMode mode_;
  std::size_t num_threads_;
  std::int64_t last_step_ = -1;
};

}  // namespace dpldm::dp
