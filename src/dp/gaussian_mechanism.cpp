#include "dp/gaussian_mechanism.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sodium.h>

#include "base/error.h"
#include "dp/device_noise.h"
#include "dp/keystream.h"

namespace dpldm::dp {
namespace {

// Noise is made and sent in pieces of 16 MiB, so that it never takes as much memory as the gradient.
constexpr std::size_t kPiece = std::size_t{1} << 22;

// No normal value is beyond 9.5 deviations, so noise and a sum below 2^62 stay within 64 bits.
constexpr double kLargestIntegerDeviation = 0x1p58;

// Memory that is wiped on the way out: who knows the noise knows the bare sum.
template <class Value>
struct NoisePiece {
  std::vector<Value> values;
  explicit NoisePiece(std::size_t size) : values(size) {}
  ~NoisePiece() { sodium_memzero(values.data(), values.size() * sizeof(Value)); }
  NoisePiece(const NoisePiece&) = delete;
  NoisePiece& operator=(const NoisePiece&) = delete;
};

template <class Value>
void add(std::span<Value> noise, std::span<Value> sum) {
  std::transform(noise.begin(), noise.end(), sum.begin(), sum.begin(), [](Value a, Value b) { return a + b; });
}

void draw_part(const Keystream& stream, std::uint64_t first, std::span<float> out, double deviation) {
  stream.gaussians(first, out, deviation);
}
void draw_part(const Keystream& stream, std::uint64_t first, std::span<std::int64_t> out, double deviation) {
  stream.rounded_gaussians(first, out, deviation);
}

// A value depends on its number alone, so it does not matter which thread draws it.
template <class Value>
void draw(const Keystream& stream, std::uint64_t first, std::span<Value> out, double deviation, std::size_t threads) {
  constexpr std::size_t kWorthAThread = 1 << 15;
  const std::size_t part = std::max(kWorthAThread, (out.size() + threads - 1) / threads);
  std::vector<std::jthread> others;
  others.reserve(threads);
  for (std::size_t begin = part; begin < out.size(); begin += part) {
    others.emplace_back([&, begin] {
      draw_part(stream, first + begin, out.subspan(begin, std::min(part, out.size() - begin)), deviation);
    });
  }
  draw_part(stream, first, out.first(std::min(part, out.size())), deviation);
}

}  // namespace

ReleaseMode release_mode_from(const std::string& text) {
  if (text == "allreduce") return ReleaseMode::kAllReduce;
  if (text == "root") return ReleaseMode::kRoot;
  throw ConfigError(fmt::format("the release mode is '{}'; it must be allreduce or root", text));
}

GaussianMechanism::GaussianMechanism(comm::Communicator& comm, std::optional<SecretKey> noise_key,
                                     double noise_multiplier, double clip_norm, ReleaseMode mode, int num_threads)
    : comm_(comm),
      noise_key_(std::move(noise_key)),
      noise_multiplier_(noise_multiplier),
      clip_norm_(clip_norm),
      mode_(mode),
      num_threads_(static_cast<std::size_t>(std::max(1, num_threads))) {
  if (noise_key_.has_value() != comm_.is_root()) {
    throw InternalError(fmt::format("the noise key must be on rank 0 and nowhere else; rank {} {} it", comm_.rank(),
                                    noise_key_ ? "has" : "lacks"));
  }
  if (!(std::isfinite(noise_multiplier_) && noise_multiplier_ >= 0)) {
    throw ConfigError(fmt::format("the noise multiplier is {}; it must be 0 or more", noise_multiplier_));
  }
  if (!(std::isfinite(clip_norm_) && clip_norm_ > 0)) {
    throw ConfigError(fmt::format("the clip norm is {}; it must be positive", clip_norm_));
  }
}

void GaussianMechanism::release(std::span<float> sum, ChargedStep charge) { release_values(sum, charge); }

void GaussianMechanism::release(std::span<std::int64_t> sum, ChargedStep charge) {
  // Noise that does not fit its integers would all be one and the same number.
  if (!(noise_multiplier_ * clip_norm_ <= kLargestIntegerDeviation)) {
    throw ConfigError(
        fmt::format("the noise multiplier is {}; that much noise does not fit the grid's integers", noise_multiplier_));
  }
  release_values(sum, charge);
}

void GaussianMechanism::release_on_device(std::span<float> sum, ChargedStep charge) {
  const std::uint64_t step = take(charge);
  const comm::Buffer buffer{sum.data(), sum.size(), comm::DType::kFloat32, comm::Place::kDevice};
  comm_.reduce_sum(buffer, 0);
  if (noise_key_) add_noise_on_device(sum.data(), sum.size(), *noise_key_, step, noise_multiplier_ * clip_norm_);
  comm_.broadcast(buffer, 0);
}

std::uint64_t GaussianMechanism::take(const ChargedStep& charge) {
  require_releasable(charge);
  last_step_ = charge.step();
  return static_cast<std::uint64_t>(charge.step());
}

template <class Value>
void GaussianMechanism::release_values(std::span<Value> sum, const ChargedStep& charge) {
  const std::uint64_t step = take(charge);
  switch (mode_) {
    case ReleaseMode::kAllReduce:
      release_by_all_reduce(sum, step);
      return;
    case ReleaseMode::kRoot:
      release_by_root(sum, step);
      return;
  }
}

void GaussianMechanism::require_releasable(const ChargedStep& charge) const {
  if (!charge.is_usable()) throw InternalError(fmt::format("the charge for step {} was used before", charge.step()));
  if (charge.step() <= last_step_) {
    throw InternalError(fmt::format("step {} cannot be released after step {}", charge.step(), last_step_));
  }
  if (charge.noise_multiplier() != noise_multiplier_) {
    throw InternalError(fmt::format("step {} was charged at noise multiplier {}, but the noise has {}", charge.step(),
                                    charge.noise_multiplier(), noise_multiplier_));
  }
}

template <class Value>
void GaussianMechanism::release_by_all_reduce(std::span<Value> sum, std::uint64_t step) {
  comm_.all_reduce_sum(comm::host_buffer(sum));
  NoisePiece<Value> noise(std::min(kPiece, sum.size()));
  for (std::size_t first = 0; first < sum.size(); first += kPiece) {
    const auto piece = std::span(noise.values).first(std::min(kPiece, sum.size() - first));
    if (noise_key_) draw(Keystream(*noise_key_, step), first, piece, noise_multiplier_ * clip_norm_, num_threads_);
    comm_.broadcast(comm::host_buffer(piece), 0);
    add(piece, sum.subspan(first, piece.size()));
  }
}

template <class Value>
void GaussianMechanism::release_by_root(std::span<Value> sum, std::uint64_t step) {
  comm_.reduce_sum(comm::host_buffer(sum), 0);
  if (noise_key_) {
    const Keystream stream(*noise_key_, step);
    NoisePiece<Value> noise(std::min(kPiece, sum.size()));
    for (std::size_t first = 0; first < sum.size(); first += kPiece) {
      const auto piece = std::span(noise.values).first(std::min(kPiece, sum.size() - first));
      draw(stream, first, piece, noise_multiplier_ * clip_norm_, num_threads_);
      add(piece, sum.subspan(first, piece.size()));
    }
  }
  comm_.broadcast(comm::host_buffer(sum), 0);
}

}  // namespace dpldm::dp
