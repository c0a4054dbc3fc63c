// What comes out of the whole path (charge, reduce, noise, broadcast) on several ranks: one draw of N(0, (sigma C)^2)
// per coordinate, no more, no less. Fixed test seeds; the statistics fail a right sample about once in 10^6.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "audit/noise_statistics.h"
#include "base/error.h"
#include "dp/gaussian_mechanism.h"
#include "dp/keystream.h"
#include "dp/record_draws.h"
#include "dp/record_selection.h"
#include "support/forwarding_communicator.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"

namespace dpldm::dp {
namespace {

constexpr double kSigma = 1.5;
constexpr double kClipNorm = 0.4;
constexpr std::size_t kCoordinates = 50'000;

class Release : public testing::TestWithParam<ReleaseMode> {
 protected:
  Release() {
    if (comm_->is_root()) {
      ledger_.emplace(accounting::PrivacyLedger::create(directory_.path() / "ledger.jsonl", {}));
    }
  }

  ChargedStep charge(std::int64_t step) {
    accounting::LedgerEntry entry;
    entry.step = step;
    entry.attempt = next_attempt_++;  // the ledger takes any step of a new attempt
    entry.event = {0.01, kSigma, 1, accounting::Sampler::kPoisson};
    return charge_step(*comm_, ledger_ ? &*ledger_ : nullptr, entry);
  }

  // Sums that are zero on every rank, released `num_steps` times: what comes out is the noise.
  std::vector<std::vector<float>> released_noise(std::int64_t num_steps, std::uint64_t seed) {
    RunKeys keys = RunKeys::create(*comm_, seed);
    GaussianMechanism mechanism(*comm_, keys.take_noise(), kSigma, kClipNorm, GetParam());
    std::vector<std::vector<float>> steps;
    for (std::int64_t step = 0; step < num_steps; ++step) {
      steps.emplace_back(kCoordinates, 0.0F);
      mechanism.release(steps.back(), charge(step));
    }
    return steps;
  }

  // Collective. The largest difference from rank 0's values.
  double largest_difference_from_root(const std::vector<float>& values) {
    std::vector<float> of_root = values;
    comm_->broadcast(comm::host_buffer(std::span(of_root)), 0);
    double difference = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      difference = std::max(difference, static_cast<double>(std::abs(values[i] - of_root[i])));
    }
    comm_->all_reduce_max(comm::host_buffer(std::span(&difference, 1)));
    return difference;
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<comm::Communicator> comm_ = test::make_world_communicator();
  std::optional<accounting::PrivacyLedger> ledger_;
  std::int64_t next_attempt_ = 0;
};

TEST_P(Release, Residual_IsOneDrawOfTheRightNoise) {
  const auto steps = released_noise(8, 11);
  std::vector<float> all;
  for (const auto& step : steps) all.insert(all.end(), step.begin(), step.end());
  EXPECT_EQ(audit::defects_of_noise(all, kSigma * kClipNorm), "");
}

TEST_P(Release, Noise_IsIndependentBetweenSteps) {
  const auto steps = released_noise(4, 12);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_LT(std::abs(audit::correlation_in_standard_errors(steps[i], steps[j])), 5) << i << " and " << j;
    }
  }
}

TEST_P(Release, EveryRank_HoldsTheSameBits) {
  const auto steps = released_noise(1, 13);
  EXPECT_EQ(largest_difference_from_root(steps[0]), 0);
}

TEST_P(Release, Release_IsTheSumOverRanksPlusTheSameNoiseAtAnyNumberOfRanks) {
  const auto noise = released_noise(1, 14);
  RunKeys keys = RunKeys::create(*comm_, 14);
  const auto noise_key = keys.take_noise();
  std::vector<float> expected(kCoordinates);
  if (noise_key) Keystream(*noise_key, 0).gaussians(0, expected, kSigma * kClipNorm);
  comm_->broadcast(comm::host_buffer(std::span(expected)), 0);
  EXPECT_EQ(noise[0], expected);

  GaussianMechanism mechanism(*comm_, RunKeys::create(*comm_, 14).take_noise(), kSigma, kClipNorm, GetParam());
  std::vector<float> sum(kCoordinates, static_cast<float>(comm_->rank() + 1));  // small integers: exact in any order
  mechanism.release(sum, charge(0));
  const auto total = static_cast<float>(comm_->size() * (comm_->size() + 1) / 2);
  std::size_t different = 0;
  for (std::size_t i = 0; i < sum.size(); ++i) different += sum[i] != total + expected[i] ? 1 : 0;
  EXPECT_EQ(different, 0u);
}

TEST_P(Release, RankWithoutRecords_StillReleasesOnce) {
  GaussianMechanism mechanism(*comm_, RunKeys::create(*comm_, 15).take_noise(), kSigma, kClipNorm, GetParam());
  std::vector<float> sum(kCoordinates, comm_->rank() == comm_->size() - 1 ? 0.0F : 1.0F);
  mechanism.release(sum, charge(0));
  for (float& value : sum) value -= static_cast<float>(comm_->size() - 1);
  EXPECT_EQ(audit::defects_of_noise(sum, kSigma * kClipNorm), "");
}

TEST_P(Release, OnALattice_ReleaseIsExactAndTheNoiseIsTheRoundedNormalOne) {
  constexpr double kGrid = 1 << 24;
  GaussianMechanism mechanism(*comm_, RunKeys::create(*comm_, 16).take_noise(), kSigma, kGrid, GetParam());
  std::vector<std::int64_t> sum(kCoordinates, (std::int64_t{1} << 40) + comm_->rank());  // no float holds it
  mechanism.release(sum, charge(0));
  const std::int64_t total = comm_->size() * (std::int64_t{1} << 40) + comm_->size() * (comm_->size() - 1) / 2;
  std::vector<float> noise(sum.size());
  for (std::size_t i = 0; i < sum.size(); ++i)
    noise[i] = static_cast<float>(static_cast<double>(sum[i] - total) / kGrid);
  EXPECT_EQ(audit::defects_of_noise(noise, kSigma), "");

  const auto key = RunKeys::create(*comm_, 16).take_noise();
  std::vector<float> expected(kCoordinates);
  if (key) Keystream(*key, 0).gaussians(0, expected, kSigma);
  comm_->broadcast(comm::host_buffer(std::span(expected)), 0);
  double largest = 0;
  for (std::size_t i = 0; i < noise.size(); ++i) {
    largest = std::max(largest, static_cast<double>(std::abs(noise[i] - expected[i])));
  }
  EXPECT_LT(largest, 1e-6);
}

TEST_P(Release, FailedCharge_ThrowsTheSameOnEveryRankAndReleasesNothing) {
  ledger_.reset();
  accounting::LedgerEntry entry;
  std::string message;
  try {
    charge_step(*comm_, nullptr, entry);
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_NE(message, "");
  comm_->barrier();  // all ranks are still in step
}

TEST_P(Release, NoiseKey_IsOnRankZeroAlone) {
  RunKeys keys = RunKeys::create(*comm_, std::nullopt);
  EXPECT_EQ(keys.take_noise().has_value(), comm_->is_root());
}

// Keeps what this rank's buffers hold after every collective on values in host memory.
class RecordingCommunicator : public test::ForwardingCommunicator {
 public:
  using test::ForwardingCommunicator::ForwardingCommunicator;

  void all_reduce_sum(comm::Buffer buffer) override {
    lent().all_reduce_sum(buffer);
    keep(buffer);
  }
  void reduce_sum(comm::Buffer buffer, int root) override {
    lent().reduce_sum(buffer, root);
    keep(buffer);
  }
  void broadcast(comm::Buffer buffer, int root) override {
    lent().broadcast(buffer, root);
    keep(buffer);
  }
  void all_gather(comm::Buffer mine, comm::Buffer all) override {
    lent().all_gather(mine, all);
    keep(all);
  }

  std::size_t times_held(float value) const {
    return static_cast<std::size_t>(std::count(values_.begin(), values_.end(), value));
  }

 private:
  void keep(const comm::Buffer& buffer) {
    if (buffer.dtype != comm::DType::kFloat32) return;
    const auto* data = static_cast<const float*>(buffer.data);
    values_.insert(values_.end(), data, data + buffer.count);
  }
  std::vector<float> values_;
};

TEST_P(Release, BareSum_IsOnEveryRankInAllReduceModeAndOnRankZeroAloneInRootMode) {
  if (comm_->size() == 1) GTEST_SKIP() << "one rank has the sum";
  RecordingCommunicator recorded(*comm_);
  GaussianMechanism mechanism(recorded, RunKeys::create(*comm_, 17).take_noise(), kSigma, kClipNorm, GetParam());
  std::vector<float> sum(kCoordinates, static_cast<float>(comm_->rank() + 5));
  mechanism.release(sum, charge(0));
  const auto total = static_cast<float>(5 * comm_->size() + comm_->size() * (comm_->size() - 1) / 2);
  // Noise leaves a value as it was, to all bits of a float, for a few coordinates in a million.
  constexpr std::size_t kByChance = kCoordinates / 1000;
  if (comm_->is_root() || GetParam() == ReleaseMode::kAllReduce) {
    EXPECT_GE(recorded.times_held(total), kCoordinates);
  } else {
    EXPECT_LT(recorded.times_held(total), kByChance);
  }
}

INSTANTIATE_TEST_SUITE_P(, Release, testing::Values(ReleaseMode::kAllReduce, ReleaseMode::kRoot),
                         [](const auto& test) { return test.param == ReleaseMode::kAllReduce ? "AllReduce" : "Root"; });

// The ways in which distributed DP-SGD is known to go wrong. The statistics above must see each of them, or they prove
// nothing. With one rank they are all the right mechanism.
class NegativeControl : public testing::Test {
 protected:
  // Collective. Each rank adds noise of deviation `scale` sigma C from a key of its own, then the sum is taken.
  std::string defects_of_noise_per_rank(double scale) {
    const SecretKey key =
        MasterKey::from_test_seed(100 + static_cast<std::uint64_t>(comm_->rank())).derive({}, "noise");
    std::vector<float> sum(400'000);
    Keystream(key, 0).gaussians(0, sum, scale * kSigma * kClipNorm);
    comm_->all_reduce_sum(comm::host_buffer(std::span(sum)));
    return audit::defects_of_noise(sum, kSigma * kClipNorm);
  }

  std::unique_ptr<comm::Communicator> comm_ = test::make_world_communicator();
};

TEST_F(NegativeControl, NoiseOnEachRank_IsCaught) {
  EXPECT_EQ(defects_of_noise_per_rank(1.0).empty(), comm_->size() == 1);
}

TEST_F(NegativeControl, NoiseDividedByTheRanks_IsCaught) {
  EXPECT_EQ(defects_of_noise_per_rank(1.0 / comm_->size()).empty(), comm_->size() == 1);
}

TEST_F(NegativeControl, OneDrawOfTheRightSize_Passes) {
  EXPECT_EQ(defects_of_noise_per_rank(1.0 / std::sqrt(comm_->size())), "");
}

TEST_F(NegativeControl, NoiseSlightlyTooSmall_IsCaught) {
  EXPECT_NE(defects_of_noise_per_rank(0.98 / std::sqrt(comm_->size())), "");
}

TEST(SharedKeys, SelectionAndDraws_AreTheSameOnEveryRank) {
  const auto comm = test::make_world_communicator();
  const RunKeys keys = RunKeys::create(*comm, std::nullopt);  // a real key: equal only if it was broadcast
  std::vector<std::int64_t> selected = selected_records(keys.selection(), 3, 10'000, 0.1);
  selected.resize(10'000, -1);
  std::vector<float> noise(100);
  RecordDraws(keys.draws(), 3, 77, 1).noise(noise);
  comm::require_equal_on_all_ranks(*comm, "the selection",
                                   {reinterpret_cast<const char*>(selected.data()), 8 * selected.size()});
  comm::require_equal_on_all_ranks(*comm, "the noise", {reinterpret_cast<const char*>(noise.data()), 400});
  comm::require_equal_on_all_ranks(*comm, "the commitment", keys.commitment());
}

TEST(RunOnRoot, FailureOnRankZero_IsThrownOnEveryRankWithItsCode) {
  const auto comm = test::make_world_communicator();
  ExitCode code = ExitCode::kDone;
  std::string message;
  try {
    comm::run_on_root(*comm, [] { throw IoError("the disk is full"); });
  } catch (const Error& error) {
    code = error.code();
    message = error.what();
  }
  EXPECT_EQ(code, ExitCode::kIo);
  EXPECT_EQ(message, "the disk is full");
  int calls = 0;
  comm::run_on_root(*comm, [&] { ++calls; });
  EXPECT_EQ(calls, comm->is_root() ? 1 : 0);
}

}  // namespace
}  // namespace dpldm::dp
