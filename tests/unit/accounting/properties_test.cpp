// Statements about epsilon that must hold for any setting, tried on random ones.
#include <cmath>
#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "accounting/accountant.h"
#include "accounting/pld.h"
#include "accounting/prv.h"
#include "accounting/rdp.h"

namespace dpldm::accounting {
namespace {

// How many settings the costly statements are tried on: few by default, to keep the tests to seconds.
int num_settings(int by_default) {
  const char* asked_for = std::getenv("DPLDM_PROPERTY_SETTINGS");
  return asked_for == nullptr ? by_default : std::atoi(asked_for);
}

class RandomSettings {
 public:
  double log_uniform(double low, double high) {
    return std::exp(std::uniform_real_distribution(std::log(low), std::log(high))(generator_));
  }
  GaussianEvent event(double max_steps) {
    return {log_uniform(1e-5, 1), log_uniform(0.6, 20), static_cast<std::int64_t>(log_uniform(1, max_steps))};
  }
  // Little noise, or many steps: where tails are long and sums of many terms round.
  GaussianEvent hard_event() {
    if (std::bernoulli_distribution(0.5)(generator_)) {
      return {log_uniform(1e-6, 1), log_uniform(0.2, 0.6), static_cast<std::int64_t>(log_uniform(1, 30))};
    }
    return {log_uniform(1e-5, 1e-2), log_uniform(0.7, 20), static_cast<std::int64_t>(log_uniform(1e3, 1e5))};
  }
  // Every record in every step, said in one of the two ways, with little noise now and then.
  GaussianEvent event_without_amplification() {
    const auto count = static_cast<std::int64_t>(log_uniform(1, 4));
    if (count % 2 == 0) return {1, log_uniform(0.2, 10), count};
    return {log_uniform(1e-9, 1), log_uniform(0.2, 10), count, Sampler::kNone};
  }
  double delta() { return log_uniform(1e-9, 1e-2); }

 private:
  std::mt19937_64 generator_{20240607};
};

std::string text(const GaussianEvent& e, double delta) {
  return "q " + std::to_string(e.sampling_rate) + ", sigma " + std::to_string(e.noise_multiplier) + ", T " +
         std::to_string(e.count) + ", delta " + std::to_string(delta);
}

// Per step and per order: cheap enough for thousands, and it implies the same for every epsilon.
TEST(EpsilonProperties, RdpOfAStep_GrowsWithRateAndOrderAndLessNoise) {
  RandomSettings random;
  for (int i = 0; i < 2000; ++i) {
    const GaussianEvent event = random.event(10);
    const double order = random.log_uniform(1.05, 60);
    GaussianEvent larger = event;
    double larger_order = order;
    if (i % 3 == 0) larger.sampling_rate = std::min(1.0, event.sampling_rate * random.log_uniform(1.0001, 3));
    if (i % 3 == 1) larger.noise_multiplier = event.noise_multiplier / random.log_uniform(1.0001, 2);
    if (i % 3 == 2) larger_order = order * random.log_uniform(1.0001, 1.5);
    EXPECT_LE(rdp_of_step(event.sampling_rate, event.noise_multiplier, order),
              rdp_of_step(larger.sampling_rate, larger.noise_multiplier, larger_order) * (1 + 1e-10))
        << text(event, 0) << ", order " << order;
  }
}

TEST(EpsilonProperties, Accountants_AreOrdered_AndPldGrowsWithRateStepsAndLessNoise) {
  RandomSettings random;
  for (int i = 0; i < num_settings(50); ++i) {
    const GaussianEvent event = random.event(300);
    const double delta = random.delta();
    GaussianEvent larger = event;
    if (i % 3 == 0) larger.sampling_rate = std::min(1.0, event.sampling_rate * random.log_uniform(1.05, 3));
    if (i % 3 == 1) larger.noise_multiplier = event.noise_multiplier / random.log_uniform(1.05, 2);
    if (i % 3 == 2) larger.count = event.count + event.count / 20 + 1;
    const double pld = pld_epsilon({&event, 1}, delta);
    const PrvInterval prv = prv_epsilon({&event, 1}, delta);
    EXPECT_LE(pld, pld_epsilon({&larger, 1}, delta) + 1e-7) << text(event, delta);
    EXPECT_GE(rdp_epsilon({&event, 1}, delta).epsilon, pld - 1e-7) << text(event, delta);
    EXPECT_GE(pld, prv.lower) << text(event, delta);
    EXPECT_LE(pld, prv.upper) << text(event, delta);
  }
}

TEST(EpsilonProperties, LittleNoiseAndManySteps_KeepTheAccountantsInOrder) {
  RandomSettings random;
  for (int i = 0; i < num_settings(10); ++i) {
    const GaussianEvent event = random.hard_event();
    const double delta = random.delta();
    const double pld = pld_epsilon({&event, 1}, delta);
    const PrvInterval prv = prv_epsilon({&event, 1}, delta);
    EXPECT_GE(rdp_epsilon({&event, 1}, delta).epsilon, pld - 1e-7) << text(event, delta);
    EXPECT_GE(pld, prv.lower) << text(event, delta);
    EXPECT_LE(pld, prv.upper) << text(event, delta);
  }
}

TEST(EpsilonProperties, EventsWithoutAmplificationAmongOthers_KeepTheAccountantsInOrder) {
  RandomSettings random;
  for (int i = 0; i < num_settings(8); ++i) {
    const GaussianEvent events[] = {random.event(100), random.event_without_amplification()};
    const double delta = random.delta();
    const double pld = pld_epsilon(events, delta);
    const PrvInterval prv = prv_epsilon(events, delta);
    const std::string setting = text(events[0], delta) + ", and " + text(events[1], delta);
    EXPECT_GE(pld, prv.lower) << setting;
    EXPECT_LE(pld, prv.upper) << setting;
    EXPECT_LE(pld, rdp_epsilon(events, delta).epsilon + 1e-7) << setting;
    EXPECT_GE(pld, pld_epsilon({events + 1, 1}, delta) - 1e-7) << setting;
  }
}

// What is solved for is within the target, and a little more of it is not.
TEST(EpsilonProperties, Calibration_NeverExceedsTheTargetAndComesNearIt) {
  RandomSettings random;
  for (int i = 0; i < 12; ++i) {
    const AccountantKind kind = i % 4 == 0 ? AccountantKind::kPld : AccountantKind::kRdp;
    GaussianEvent event = random.event(300);
    event.sampling_rate = std::max(event.sampling_rate, 1e-3);
    const double delta = random.delta();
    const auto epsilon_with = [&](double rate, double noise, std::int64_t steps) {
      const GaussianEvent changed{rate, noise, steps};
      return epsilon_of({&changed, 1}, delta, kind);
    };
    const auto& [rate, noise, steps, sampler] = event;
    const double target = random.log_uniform(0.5, 2) * std::max(0.01, epsilon_with(rate, noise, steps));
    const std::string setting = text(event, delta) + ", " + to_text(kind) + ", target " + std::to_string(target);

    const double sigma = calibrate_noise_multiplier(rate, steps, target, delta, kind);
    EXPECT_LE(epsilon_with(rate, sigma, steps), target) << setting;
    if (sigma > 2e-3) {
      EXPECT_GT(epsilon_with(rate, 0.999 * sigma - 2e-4, steps), target) << setting;
    }

    const std::int64_t most_steps = calibrate_steps(rate, noise, target, delta, kind);
    EXPECT_LE(epsilon_with(rate, noise, most_steps), target) << setting;
    EXPECT_GT(epsilon_with(rate, noise, most_steps + 1), target) << setting;

    const double most_rate = calibrate_sampling_rate(noise, steps, target, delta, kind);
    EXPECT_LE(epsilon_with(most_rate, noise, steps), target) << setting;
    if (most_rate < 0.999) {
      EXPECT_GT(epsilon_with(1.001 * most_rate, noise, steps), target) << setting;
    }
  }
}

TEST(EpsilonProperties, ReplaceOne_CostsAtLeastAddRemove) {
  RandomSettings random;
  for (int i = 0; i < num_settings(20); ++i) {
    const GaussianEvent event = random.event(1000);
    const double delta = random.delta();
    EXPECT_GE(pld_epsilon({&event, 1}, delta, Neighbouring::kReplaceOne), pld_epsilon({&event, 1}, delta) - 1e-7)
        << text(event, delta);
    EXPECT_GE(rdp_epsilon({&event, 1}, delta, Neighbouring::kReplaceOne).epsilon,
              pld_epsilon({&event, 1}, delta, Neighbouring::kReplaceOne) - 1e-7)
        << text(event, delta);
  }
}

TEST(EpsilonProperties, MoreEvents_CostMore) {
  RandomSettings random;
  for (int i = 0; i < num_settings(20); ++i) {
    const GaussianEvent events[] = {random.event(500), random.event(500), random.event(500)};
    const double delta = random.delta();
    const double two = pld_epsilon({events, 2}, delta);
    const double three = pld_epsilon(events, delta);
    EXPECT_LE(two, three + 1e-7);
    EXPECT_LE(three, rdp_epsilon(events, delta).epsilon + 1e-7);
  }
}

}  // namespace
}  // namespace dpldm::accounting
