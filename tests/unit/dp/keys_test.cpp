#include "dp/keys.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace {

int num_keys_in_memory = 0;

}  // namespace

// Where the memory of keys comes from and goes to, wiped, in the program under test (--wrap in CMakeLists.txt).
extern "C" void* __real_sodium_malloc(std::size_t size);   // NOLINT
extern "C" void* __wrap_sodium_malloc(std::size_t size) {  // NOLINT
  ++num_keys_in_memory;
  return __real_sodium_malloc(size);
}

extern "C" void __real_sodium_free(void* bytes);   // NOLINT
extern "C" void __wrap_sodium_free(void* bytes) {  // NOLINT
  --num_keys_in_memory;
  __real_sodium_free(bytes);
}

namespace dpldm::dp {
namespace {

std::vector<std::uint8_t> bytes_of(const SecretKey& key) { return {key.bytes().begin(), key.bytes().end()}; }

// Computed with Python's hashlib.blake2b(purpose, key=master, salt=nonce, person=b"dpldm subkey", digest_size=32), with
// master = hashlib.blake2b(seed.to_bytes(8, "little"), person=b"dpldm test seed", digest_size=32).
TEST(MasterKey, DerivedKeysAndCommitment_MatchPythonsBlake2b) {
  const MasterKey master = MasterKey::from_test_seed(7);
  const SecretKey subkey = master.derive(master.new_nonce(), "noise");
  std::string hex;
  for (const std::uint8_t byte : subkey.bytes()) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  EXPECT_EQ(hex, "eaf7158a542b6a231e414f5415aca7276a8ef1434be0c976c81907e887d67020");
  EXPECT_EQ(master.commitment(), "ea1e158d3ec5b2488fc9a02a6b7fecba3411b6b74e9c43afe3ae646fc64b876b");
}

TEST(MasterKey, OperatingSystemKeys_DifferEveryTime) {
  const MasterKey a = MasterKey::draw();
  const MasterKey b = MasterKey::draw();
  EXPECT_TRUE(a.is_private());
  EXPECT_NE(a.commitment(), b.commitment());
  EXPECT_NE(a.new_nonce(), a.new_nonce());
}

TEST(MasterKey, TestSeed_IsReproducibleAndNotPrivate) {
  const MasterKey a = MasterKey::from_test_seed(7);
  const MasterKey b = MasterKey::from_test_seed(7);
  EXPECT_FALSE(a.is_private());
  EXPECT_EQ(a.commitment(), b.commitment());
  EXPECT_NE(a.commitment(), MasterKey::from_test_seed(8).commitment());
  EXPECT_EQ(a.new_nonce(), b.new_nonce());
}

TEST(MasterKey, SubKeys_DifferByPurposeAndByAttempt) {
  const MasterKey master = MasterKey::draw();
  const AttemptNonce first = master.new_nonce();
  const AttemptNonce second = master.new_nonce();
  EXPECT_EQ(bytes_of(master.derive(first, "noise")), bytes_of(master.derive(first, "noise")));
  EXPECT_NE(bytes_of(master.derive(first, "noise")), bytes_of(master.derive(first, "draws")));
  EXPECT_NE(bytes_of(master.derive(first, "noise")), bytes_of(master.derive(second, "noise")));
}

TEST(RunKeys, NoiseKey_CanBeTakenOnce) {
  const auto comm = comm::make_self_communicator();
  RunKeys keys = RunKeys::create(*comm, std::nullopt);
  EXPECT_TRUE(keys.is_private());
  EXPECT_TRUE(keys.take_noise().has_value());
  EXPECT_FALSE(keys.take_noise().has_value());
}

TEST(RunKeys, MasterKey_IsForgottenAndSubKeysGoWithTheirOwner) {
  const auto comm = comm::make_self_communicator();
  const int before = num_keys_in_memory;
  {
    RunKeys keys = RunKeys::create(*comm, std::nullopt);
    EXPECT_EQ(num_keys_in_memory - before, 3) << "selection, draws and noise, and no other";
    {
      const auto noise = keys.take_noise();
      EXPECT_TRUE(noise.has_value());
    }
    EXPECT_EQ(num_keys_in_memory - before, 2);
  }
  EXPECT_EQ(num_keys_in_memory, before);
}

TEST(RunKeys, ThreePurposes_HaveThreeKeys) {
  const auto comm = comm::make_self_communicator();
  RunKeys keys = RunKeys::create(*comm, 7);
  EXPECT_FALSE(keys.is_private());
  const auto noise = bytes_of(keys.take_noise().value());
  EXPECT_NE(bytes_of(keys.selection()), bytes_of(keys.draws()));
  EXPECT_NE(bytes_of(keys.selection()), noise);
  EXPECT_NE(bytes_of(keys.draws()), noise);
}

}  // namespace
}  // namespace dpldm::dp
