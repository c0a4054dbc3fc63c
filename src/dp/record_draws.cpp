#include "dp/record_draws.h"

#include <cstring>

#include <fmt/format.h>
#include <sodium.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

enum Purpose : std::uint64_t { kTimestep, kFlip, kNoise, kPosterior, kNumPurposes };

}  // namespace

// XChaCha20 in two halves: HChaCha20 turns (key, step, record) into a key of its own, whose streams are addressed by
// (draw, purpose). 192 bits of address need no packing of the counters into 64.
RecordDraws::RecordDraws(const SecretKey& key, std::int64_t step, std::int64_t record_id, std::int64_t draw)
    : draw_(draw) {
  static_assert(crypto_core_hchacha20_INPUTBYTES == sizeof(step) + sizeof(record_id));
  static_assert(crypto_core_hchacha20_OUTPUTBYTES == SecretKey::kBytes);
  std::array<std::uint8_t, crypto_core_hchacha20_INPUTBYTES> address{};
  std::memcpy(address.data(), &step, sizeof(step));
  std::memcpy(address.data() + sizeof(step), &record_id, sizeof(record_id));
  crypto_core_hchacha20(key_.data(), address.data(), key.bytes().data(), nullptr);
}

RecordDraws::~RecordDraws() { sodium_memzero(key_.data(), key_.size()); }

Keystream RecordDraws::stream(std::uint64_t purpose) const {
  return {std::span(key_), static_cast<std::uint64_t>(draw_) * kNumPurposes + purpose};
}

std::int64_t RecordDraws::timestep(std::int64_t low, std::int64_t high) const {
  if (low >= high) throw InternalError(fmt::format("there is no timestep in [{}, {})", low, high));
  const auto range = static_cast<unsigned __int128>(high - low);
  return low + static_cast<std::int64_t>((stream(kTimestep).word(0) * range) >> 64);
}

bool RecordDraws::flip() const { return (stream(kFlip).word(0) & 1) != 0; }

void RecordDraws::noise(std::span<float> out) const { stream(kNoise).gaussians(0, out); }

void RecordDraws::posterior_noise(std::span<float> out) const { stream(kPosterior).gaussians(0, out); }

}  // namespace dpldm::dp
