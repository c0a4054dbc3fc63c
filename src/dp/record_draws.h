// The randomness inside one record's gradient: timestep, diffusion noise, flip, posterior sample.
//
// A pure function of (key, step, record, draw), so that a record gives the same gradient on any rank, in any
// micro-batch. The four answers, and the K draws of a record, are independent.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dp/keystream.h"

namespace dpldm::dp {

class RecordDraws {
 public:
  // `draw` counts from 0 to K - 1.
  RecordDraws(const SecretKey& key, std::int64_t step, std::int64_t record_id, std::int64_t draw);
  ~RecordDraws();
  RecordDraws(const RecordDraws&) = delete;
  RecordDraws& operator=(const RecordDraws&) = delete;

  // Uniform in [low, high), up to 2^-64 (high - low). Throws InternalError when the range is empty.
  std::int64_t timestep(std::int64_t low, std::int64_t high) const;
  // True with probability 1/2.
  bool flip() const;
  // Standard normal values, as many as `out` holds; a longer `out` begins with the same ones.
  void noise(std::span<float> out) const;
  // Likewise, for sampling the latent's posterior.
  void posterior_noise(std::span<float> out) const;

 private:
  Keystream stream(std::uint64_t purpose) const;

  std::array<std::uint8_t, SecretKey::kBytes> key_;  // of this record in this step
  std::int64_t draw_;
};

}  // namespace dpldm::dp
