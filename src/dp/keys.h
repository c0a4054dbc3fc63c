// Where the secret randomness of a run comes from.
//
// Rank 0 draws a 256-bit master key from the operating system at every start of the program, derives one sub-key for
// each purpose, and forgets the master key. The sub-keys for selection and for the draws inside a record go to all
// ranks, who need the same answers; the one for the mechanism's noise never leaves rank 0. Nothing here is written to a
// file, a log or a checkpoint, except the commitment, which tells nothing about the key.
//
// Since every start (attempt) has new keys, no noise and no selection can ever be used twice. A test seed makes all of
// it reproducible, the same in every attempt, and the run not private.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/communicator.h"

namespace dpldm::dp {

// 256 bits in memory that is locked against swapping, fenced by guard pages, and wiped when the object goes.
class SecretKey {
 public:
  static constexpr std::size_t kBytes = 32;

  explicit SecretKey(std::span<const std::uint8_t, kBytes> bytes);

  std::span<const std::uint8_t, kBytes> bytes() const {
    return std::span<const std::uint8_t, kBytes>{bytes_.get(), kBytes};
  }

 private:
  friend class MasterKey;
  SecretKey();  // zeros
  std::uint8_t* data() { return bytes_.get(); }

  struct Free {
    void operator()(std::uint8_t* bytes) const;
  };
  std::unique_ptr<std::uint8_t, Free> bytes_;
};

// Distinguishes the attempts of one run, should two ever share a master key.
using AttemptNonce = std::array<std::uint8_t, 16>;

class MasterKey {
 public:
  // From the operating system's generator.
  static MasterKey draw();
  // Reproducible, hence not private.
  static MasterKey from_test_seed(std::uint64_t seed);

  bool is_private() const { return is_private_; }
  // 64 hexadecimal digits of a BLAKE2b of the key: shows later which key was used, without telling it.
  std::string commitment() const;
  // Random; all zeros for a test seed, so that a resumed test run goes on as if it had not been interrupted.
  AttemptNonce new_nonce() const;
  // Keyed BLAKE2b of `purpose`, salted with `nonce`: sub-keys for different pairs are independent.
  SecretKey derive(const AttemptNonce& nonce, const std::string& purpose) const;

 private:
  explicit MasterKey(bool is_private) : is_private_(is_private) {}
  SecretKey key_;
  bool is_private_;
};

// The sub-keys of one attempt, as far as this rank may know them.
class RunKeys {
 public:
  // Collective. `test_seed` must be the same on all ranks. The keys travel in clear over the job's own network, which
  // is trusted (docs/privacy.md).
  static RunKeys create(comm::Communicator& comm, std::optional<std::uint64_t> test_seed);

  bool is_private() const { return is_private_; }
  const std::string& commitment() const { return commitment_; }
  // Which records are in a step.
  const SecretKey& selection() const { return selection_; }
  // Timestep, noise, flip and posterior sample of each draw inside a record.
  const SecretKey& draws() const { return draws_; }
  // The mechanism's noise: on rank 0, once; nothing elsewhere.
  std::optional<SecretKey> take_noise();

 private:
  RunKeys(SecretKey selection, SecretKey draws) : selection_(std::move(selection)), draws_(std::move(draws)) {}

  SecretKey selection_;
  SecretKey draws_;
  std::optional<SecretKey> noise_;
  std::string commitment_;
  bool is_private_ = false;
};

}  // namespace dpldm::dp
