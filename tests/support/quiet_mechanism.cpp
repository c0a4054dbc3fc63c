// The mechanism with one thing wrong: rank 0 adds the noise, but the release is sent out from the last rank. On one
// rank that is right; on more the noise never leaves rank 0. It takes the place of dp/gaussian_mechanism.cpp where it
// is linked first: in a program of the tests alone.
#include <vector>

#include "base/error.h"
#include "dp/gaussian_mechanism.h"
#include "dp/keystream.h"

namespace dpldm::dp {

ReleaseMode release_mode_from(const std::string& /*text*/) { return ReleaseMode::kAllReduce; }

GaussianMechanism::GaussianMechanism(comm::Communicator& comm, std::optional<SecretKey> noise_key,
                                     double noise_multiplier, double clip_norm, ReleaseMode mode, int num_threads)
    : comm_(comm),
      noise_key_(std::move(noise_key)),
      noise_multiplier_(noise_multiplier),
      clip_norm_(clip_norm),
      mode_(mode),
      num_threads_(static_cast<std::size_t>(num_threads)) {}

void GaussianMechanism::release(std::span<float> sum, ChargedStep charge) {
  comm_.all_reduce_sum(comm::host_buffer(sum));
  if (noise_key_) {
    std::vector<float> noise(sum.size());
    Keystream(*noise_key_, static_cast<std::uint64_t>(charge.step()))
        .gaussians(0, noise, noise_multiplier_ * clip_norm_);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += noise[i];
  }
  comm_.broadcast(comm::host_buffer(sum), comm_.size() - 1);
}

void GaussianMechanism::release(std::span<std::int64_t> /*sum*/, ChargedStep /*charge*/) {
  throw InternalError("this mechanism knows floats only");
}

void GaussianMechanism::release_on_device(std::span<float> /*sum*/, ChargedStep /*charge*/) {
  throw InternalError("this mechanism knows no device");
}

}  // namespace dpldm::dp
