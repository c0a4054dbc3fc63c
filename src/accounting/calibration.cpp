// The inverse questions: how much noise, how many steps, how large a sample a budget allows.
//
// Each answer is a setting at which the accountant itself was evaluated and found within the budget, next to one
// (within the tolerance) that was found beyond it. Nothing is extrapolated.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <boost/math/tools/toms748_solve.hpp>
#include <fmt/format.h>

#include "accounting/accountant.h"
#include "accounting/bound_text.h"
#include "accounting/events.h"
#include "base/error.h"
#include "base/words.h"

namespace dpldm::accounting {
namespace {

constexpr double kRelativeTolerance = 5e-5;
constexpr double kLeastNoise = 1e-3;
constexpr double kMostNoise = 1e7;
constexpr double kLeastRate = 1e-9;

// What a calibration asks: does a setting, with everything spent before, stay within the budget?
class Budget {
 public:
  Budget(double epsilon, double delta, Neighbouring neighbouring, std::span<const GaussianEvent> spent)
      : epsilon_(epsilon), delta_(delta), neighbouring_(neighbouring), events_(spent.begin(), spent.end()) {
    if (!(epsilon > 0 && std::isfinite(epsilon))) {
      throw ConfigError(fmt::format("the target epsilon is {}; it must be a positive finite number", epsilon));
    }
    events_.push_back({});
  }

  double epsilon_of_all(const GaussianEvent& next, AccountantKind kind) {
    events_.back() = next;
    return epsilon_of(events_, delta_, kind, neighbouring_);
  }
  bool allows(const GaussianEvent& next, AccountantKind kind) { return epsilon_of_all(next, kind) <= epsilon_; }

  // 0 where the budget is just met, positive beyond it; bounded, so that root finders can work with it.
  double excess(const GaussianEvent& next, AccountantKind kind) {
    return std::clamp(std::log(epsilon_of_all(next, kind) / epsilon_), -20.0, 20.0);
  }

  void check_already_spent(AccountantKind kind) {
    const double spent = epsilon_of_all({}, kind);
    if (spent > epsilon_) {
      throw ConfigError(fmt::format("the target epsilon is {}, but {} is spent already; no setting can stay within it",
                                    epsilon_, up_to_digits(spent, 6)));
    }
  }

  double epsilon() const { return epsilon_; }

 private:
  double epsilon_;
  double delta_;
  Neighbouring neighbouring_;
  std::vector<GaussianEvent> events_;
};

// The setting nearest to `beyond` that is within the budget; `within` is, `beyond` is not. Works on logarithms.
double nearest_within(const std::function<double(double)>& excess, double within, double beyond, double tolerance) {
  double best = within;
  const auto f = [&](double log_x) {
    const double x = std::exp(log_x);
    const double value = excess(x);
    if (value <= 0 && std::abs(x - beyond) < std::abs(best - beyond)) best = x;
    return value;
  };
  const double low = std::log(std::min(within, beyond));
  const double high = std::log(std::max(within, beyond));
  const double f_low = f(low);
  const double f_high = f(high);
  if (f_low * f_high > 0) return best;  // rounding at the ends: `within` is as near as it gets
  std::uintmax_t evaluations = 60;
  boost::math::tools::toms748_solve(
      f, low, high, f_low, f_high, [&](double a, double b) { return b - a <= tolerance; }, evaluations);
  return best;
}

// RDP is far cheaper and never below the others, so it gives them a first setting that is within the budget.
double noise_within(Budget& budget, GaussianEvent event, AccountantKind kind, double start, double shrink) {
  const auto excess = [&](double sigma) {
    event.noise_multiplier = sigma;
    return budget.excess(event, kind);
  };
  double within = start;
  while (excess(within) > 0) {
    within /= shrink;
    if (within > kMostNoise) {
      require_accounted(budget.epsilon_of_all(event, kind), event, kind);
      throw ConfigError(fmt::format("no noise multiplier up to {:g} keeps {} at rate {} within epsilon {}", kMostNoise,
                                    counted(event.count, "step"), event.sampling_rate, budget.epsilon()));
    }
  }
  // In growing strides: where delta allows almost any noise, the answer is far below.
  double beyond = std::max(kLeastNoise, within * shrink);
  while (excess(beyond) <= 0) {
    within = beyond;
    if (within <= kLeastNoise) return within;
    shrink *= shrink;
    beyond = std::max(kLeastNoise, within * shrink);
  }
  return nearest_within(excess, within, beyond, kRelativeTolerance * std::min(1.0, 1 / within));
}

}  // namespace

double calibrate_noise_multiplier(double sampling_rate, std::int64_t steps, double epsilon, double delta,
                                  AccountantKind kind, Neighbouring neighbouring,
                                  std::span<const GaussianEvent> already_spent) {
  Budget budget(epsilon, delta, neighbouring, already_spent);
  const GaussianEvent event{sampling_rate, 1.0, steps, Sampler::kPoisson};
  budget.check_already_spent(kind);
  check_events({&event, 1});
  if (sampling_rate == 0 || steps == 0) return 0;
  constexpr double kNarrow = 0.85;  // what the accountants disagree by, and a little more
  constexpr double kWide = 0.5;
  const AccountantKind rdp = AccountantKind::kRdp;
  if (kind == rdp) return noise_within(budget, event, rdp, 1.0, kWide);
  const bool rdp_can = budget.allows({sampling_rate, kMostNoise / 2, steps, Sampler::kPoisson}, rdp);
  return rdp_can ? noise_within(budget, event, kind, noise_within(budget, event, rdp, 1.0, kWide), kNarrow)
                 : noise_within(budget, event, kind, 1.0, kWide);
}

std::int64_t calibrate_steps(double sampling_rate, double noise_multiplier, double epsilon, double delta,
                             AccountantKind kind, Neighbouring neighbouring,
                             std::span<const GaussianEvent> already_spent) {
  Budget budget(epsilon, delta, neighbouring, already_spent);
  budget.check_already_spent(kind);
  const auto event = [&](std::int64_t steps) {
    return GaussianEvent{sampling_rate, noise_multiplier, steps, Sampler::kPoisson};
  };
  const auto allows = [&](std::int64_t steps) { return budget.allows(event(steps), kind); };
  std::int64_t within = 0;
  std::int64_t beyond = 1;
  while (allows(beyond)) {
    within = beyond;
    beyond *= 2;
    if (beyond > kMostSteps / 2) {
      throw ConfigError(fmt::format("any number of steps at rate {} with noise multiplier {} stays within epsilon {}",
                                    sampling_rate, noise_multiplier, epsilon));
    }
  }
  while (beyond - within > 1) {
    const std::int64_t middle = within + (beyond - within) / 2;
    (allows(middle) ? within : beyond) = middle;
  }
  if (within == 0) require_accounted(budget.epsilon_of_all(event(beyond), kind), event(beyond), kind);
  return within;
}

double calibrate_sampling_rate(double noise_multiplier, std::int64_t steps, double epsilon, double delta,
                               AccountantKind kind, Neighbouring neighbouring,
                               std::span<const GaussianEvent> already_spent) {
  Budget budget(epsilon, delta, neighbouring, already_spent);
  budget.check_already_spent(kind);
  const auto event = [&](double rate) {
    return GaussianEvent{std::min(1.0, rate), noise_multiplier, steps, Sampler::kPoisson};
  };
  const auto excess = [&](double rate) { return budget.excess(event(rate), kind); };
  if (excess(1) <= 0) return 1;
  double within = 0.1;
  double beyond = 1;
  while (excess(within) > 0) {
    beyond = within;
    within /= 10;
    if (within < kLeastRate) {
      require_accounted(budget.epsilon_of_all(event(beyond), kind), event(beyond), kind);
      throw ConfigError(fmt::format("no sampling rate above {:g} keeps {} with noise multiplier {} within epsilon {}",
                                    kLeastRate, counted(steps, "step"), noise_multiplier, epsilon));
    }
  }
  return nearest_within(excess, within, beyond, kRelativeTolerance);
}

}  // namespace dpldm::accounting
