#include "dp/keys.h"

#include <algorithm>
#include <utility>

#include <sodium.h>

#include "base/error.h"

namespace dpldm::dp {
namespace {

using Personal = std::array<std::uint8_t, crypto_generichash_blake2b_PERSONALBYTES>;
static_assert(sizeof(AttemptNonce) == crypto_generichash_blake2b_SALTBYTES);

// BLAKE2b's own field for keeping the uses of one key apart.
Personal personal(const char* use) {
  Personal field{};
  const std::string text = use;
  std::copy(text.begin(), text.end(), field.begin());
  return field;
}

// BLAKE2b of `message` into 32 bytes at `digest`.
void blake2b(std::uint8_t* digest, std::span<const std::uint8_t> message, std::span<const std::uint8_t> key,
             const AttemptNonce& salt, const char* use) {
  const int result =
      crypto_generichash_blake2b_salt_personal(digest, SecretKey::kBytes, message.data(), message.size(), key.data(),
                                               key.size(), salt.data(), personal(use).data());
  if (result != 0) throw InternalError("BLAKE2b refused its arguments");
}

// Collective. `key` of rank 0, on every rank.
SecretKey broadcast_key(comm::Communicator& comm, std::optional<SecretKey> key) {
  std::array<std::uint8_t, SecretKey::kBytes> bytes{};
  if (key) std::copy(key->bytes().begin(), key->bytes().end(), bytes.begin());
  comm.broadcast(comm::host_buffer(std::span(bytes)), 0);
  SecretKey received{bytes};
  sodium_memzero(bytes.data(), bytes.size());
  return received;
}

}  // namespace

void SecretKey::Free::operator()(std::uint8_t* bytes) const { sodium_free(bytes); }  // wipes first

SecretKey::SecretKey() {
  if (sodium_init() < 0) throw InternalError("libsodium could not be initialised");
  bytes_.reset(static_cast<std::uint8_t*>(sodium_malloc(kBytes)));
  if (!bytes_) throw InternalError("there is no memory for a key");
  std::fill_n(bytes_.get(), kBytes, std::uint8_t{0});
}

SecretKey::SecretKey(std::span<const std::uint8_t, kBytes> bytes) : SecretKey() {
  std::copy(bytes.begin(), bytes.end(), bytes_.get());
}

MasterKey MasterKey::draw() {
  MasterKey master(true);
  randombytes_buf(master.key_.data(), SecretKey::kBytes);
  return master;
}

MasterKey MasterKey::from_test_seed(std::uint64_t seed) {
  MasterKey master(false);
  std::array<std::uint8_t, 8> message{};
  for (std::size_t i = 0; i < message.size(); ++i) message[i] = static_cast<std::uint8_t>(seed >> (8 * i));
  blake2b(master.key_.data(), message, {}, {}, "dpldm test seed");
  return master;
}

std::string MasterKey::commitment() const {
  std::array<std::uint8_t, SecretKey::kBytes> digest{};
  blake2b(digest.data(), {}, key_.bytes(), {}, "dpldm commit");
  std::string text(2 * digest.size() + 1, '\0');
  sodium_bin2hex(text.data(), text.size(), digest.data(), digest.size());
  text.pop_back();
  return text;
}

AttemptNonce MasterKey::new_nonce() const {
  AttemptNonce nonce{};
  if (is_private_) randombytes_buf(nonce.data(), nonce.size());
  return nonce;
}

SecretKey MasterKey::derive(const AttemptNonce& nonce, const std::string& purpose) const {
  SecretKey subkey;
  const auto* text = reinterpret_cast<const std::uint8_t*>(purpose.data());
  blake2b(subkey.data(), {text, purpose.size()}, key_.bytes(), nonce, "dpldm subkey");
  return subkey;
}

RunKeys RunKeys::create(comm::Communicator& comm, std::optional<std::uint64_t> test_seed) {
  std::optional<SecretKey> selection;
  std::optional<SecretKey> draws;
  std::optional<SecretKey> noise;
  std::string commitment;
  if (comm.is_root()) {
    const MasterKey master = test_seed ? MasterKey::from_test_seed(*test_seed) : MasterKey::draw();
    const AttemptNonce nonce = master.new_nonce();
    selection = master.derive(nonce, "selection");
    draws = master.derive(nonce, "draws");
    noise = master.derive(nonce, "noise");
    commitment = master.commitment();
  }
  SecretKey shared_selection = broadcast_key(comm, std::move(selection));
  SecretKey shared_draws = broadcast_key(comm, std::move(draws));
  RunKeys keys(std::move(shared_selection), std::move(shared_draws));
  keys.noise_ = std::move(noise);
  keys.commitment_ = comm::broadcast_text(comm, commitment);
  keys.is_private_ = !test_seed.has_value();
  return keys;
}

std::optional<SecretKey> RunKeys::take_noise() { return std::exchange(noise_, std::nullopt); }

}  // namespace dpldm::dp
