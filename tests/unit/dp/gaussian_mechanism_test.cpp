#include "dp/gaussian_mechanism.h"

#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "dp/keystream.h"
#include "support/faulty_communicator.h"
#include "support/temporary_directory.h"

namespace dpldm::dp {
namespace {

constexpr double kSigma = 2.0;

// Misuse is impossible by type.
static_assert(!std::is_default_constructible_v<ChargedStep>);
static_assert(!std::is_constructible_v<ChargedStep, std::int64_t, double>);
static_assert(!std::is_copy_constructible_v<ChargedStep>);

class GaussianMechanismTest : public testing::Test {
 protected:
  GaussianMechanism mechanism(ReleaseMode mode = ReleaseMode::kAllReduce, double sigma = kSigma, int num_threads = 1) {
    return {*comm_, RunKeys::create(*comm_, 7).take_noise(), sigma, 0.5, mode, num_threads};
  }
  ChargedStep charge(std::int64_t step, double sigma = kSigma) {
    accounting::LedgerEntry entry;
    entry.step = step;
    entry.attempt = next_attempt_++;  // the ledger takes any step of a new attempt
    entry.event = {0.01, sigma, 1, accounting::Sampler::kPoisson};
    return charge_step(*comm_, &ledger_, entry);
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<comm::Communicator> comm_ = comm::make_self_communicator();
  std::int64_t next_attempt_ = 0;
  accounting::PrivacyLedger ledger_ = accounting::PrivacyLedger::create(directory_.path() / "ledger.jsonl", {});
};

TEST_F(GaussianMechanismTest, BothModes_ReleaseTheSame) {
  std::vector<float> a(10, 3.0F);
  std::vector<float> b = a;
  mechanism(ReleaseMode::kAllReduce).release(a, charge(0));
  mechanism(ReleaseMode::kRoot).release(b, charge(0));
  EXPECT_EQ(a, b);
  EXPECT_NE(a, std::vector<float>(10, 3.0F));
}

TEST_F(GaussianMechanismTest, AnyNumberOfThreads_DrawsTheSame) {
  const std::size_t size = (std::size_t{1} << 17) + 5;  // several parts, the last of them short
  std::vector<float> one(size);
  std::vector<float> many(size);
  mechanism().release(one, charge(0));
  mechanism(ReleaseMode::kAllReduce, kSigma, 3).release(many, charge(0));
  EXPECT_EQ(one, many);
}

// Noise is made and sent in pieces.
TEST_F(GaussianMechanismTest, SumLongerThanAPiece_HasNoiseOfItsOwnEverywhere) {
  const std::size_t size = (std::size_t{1} << 22) + 100;
  std::vector<float> expected(size);
  Keystream(RunKeys::create(*comm_, 7).take_noise().value(), 0).gaussians(0, expected, kSigma * 0.5);
  for (const ReleaseMode mode : {ReleaseMode::kAllReduce, ReleaseMode::kRoot}) {
    std::vector<float> sum(size);
    mechanism(mode).release(sum, charge(0));
    EXPECT_TRUE(sum == expected);
  }
}

TEST_F(GaussianMechanismTest, SigmaZero_ReleasesTheSumItself) {
  std::vector<float> sum = {1, 2, 3};
  mechanism(ReleaseMode::kAllReduce, 0.0).release(sum, charge(0, 0.0));
  EXPECT_EQ(sum, (std::vector<float>{1, 2, 3}));
}

// All of it would be the one integer that stands for what is too large, and the sum would be released bare.
TEST_F(GaussianMechanismTest, NoiseBeyondTheIntegers_IsRefused) {
  std::vector<std::int64_t> sum = {5, -3};
  for (const double sigma : {1e18, 1e300}) {
    EXPECT_THROW(mechanism(ReleaseMode::kAllReduce, sigma).release(sum, charge(0, sigma)), ConfigError);
    EXPECT_THROW(mechanism(ReleaseMode::kRoot, sigma).release(sum, charge(0, sigma)), ConfigError);
  }
}

TEST_F(GaussianMechanismTest, EmptySum_IsReleased) {
  std::vector<float> nothing;
  mechanism().release(nothing, charge(0));
}

TEST_F(GaussianMechanismTest, AStep_CannotBeReleasedTwiceOrBackwards) {
  auto m = mechanism();
  std::vector<float> sum(3);
  m.release(sum, charge(4));
  EXPECT_THROW(m.release(sum, charge(4)), InternalError);
  EXPECT_THROW(m.release(sum, charge(3)), InternalError);
  m.release(sum, charge(5));
}

TEST_F(GaussianMechanismTest, AUsedCharge_IsRefused) {
  auto m = mechanism();
  std::vector<float> sum(3);
  ChargedStep step = charge(0);
  ChargedStep moved = std::move(step);
  EXPECT_THROW(m.release(sum, std::move(step)), InternalError);  // NOLINT(bugprone-use-after-move): the point
  m.release(sum, std::move(moved));
}

TEST_F(GaussianMechanismTest, AChargeForAnotherSigma_IsRefused) {
  auto m = mechanism();
  std::vector<float> sum = {1, 2, 3};
  EXPECT_THROW(m.release(sum, charge(0, 4.0)), InternalError);
  EXPECT_EQ(sum, (std::vector<float>{1, 2, 3})) << "nothing was released";
}

TEST_F(GaussianMechanismTest, WithoutItsKey_RankZeroRefusesToStart) {
  EXPECT_THROW(GaussianMechanism(*comm_, std::nullopt, 1.0, 1.0, ReleaseMode::kRoot), InternalError);
}

TEST_F(GaussianMechanismTest, SigmaAndClipNormOutsideTheirDomain_AreRefused) {
  const auto make = [&](double sigma, double clip) {
    GaussianMechanism(*comm_, RunKeys::create(*comm_, 7).take_noise(), sigma, clip, ReleaseMode::kRoot);
  };
  EXPECT_THROW(make(-1, 1), ConfigError);
  EXPECT_THROW(make(std::nan(""), 1), ConfigError);
  EXPECT_THROW(make(1, 0), ConfigError);
  EXPECT_THROW(make(1, INFINITY), ConfigError);
}

TEST_F(GaussianMechanismTest, FailedCollective_IsAnErrorAndTheChargeIsGone) {
  test::FaultyCommunicator faulty(comm::make_self_communicator(), test::FaultyCommunicator::Fault::kFail, 0);
  GaussianMechanism m(faulty, RunKeys::create(*comm_, 7).take_noise(), kSigma, 0.5, ReleaseMode::kAllReduce);
  std::vector<float> sum(3);
  EXPECT_THROW(m.release(sum, charge(0)), CommunicationError);
  EXPECT_THROW(m.release(sum, charge(0)), InternalError) << "the step counts as released";
}

}  // namespace
}  // namespace dpldm::dp
