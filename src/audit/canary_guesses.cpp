#include "audit/canary_guesses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"

namespace dpldm::audit {

void check(const CanaryOptions& options) {
  if (options.num_canaries < 2 || options.num_canaries > 1'000'000) {
    throw ConfigError(fmt::format("there are {} canaries; it must be 2 to 1000000", options.num_canaries));
  }
  if (options.num_guesses < 2 || options.num_guesses % 2 != 0 || options.num_guesses > options.num_canaries) {
    throw ConfigError(fmt::format("{} guesses about {} canaries: it must be an even number, at most that of canaries",
                                  options.num_guesses, options.num_canaries));
  }
  if (!(options.confidence > 0 && options.confidence < 1)) {
    throw ConfigError(fmt::format("the confidence is {}; it must lie between 0 and 1", options.confidence));
  }
}

Guesses guess(const std::vector<double>& scores, const std::vector<bool>& included, std::int64_t num_guesses) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  std::int64_t right = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(num_guesses / 2); ++i) {
    right += included[order[i]] ? 1 : 0;
    right += included[order[order.size() - 1 - i]] ? 0 : 1;
  }
  return {static_cast<std::int64_t>(scores.size()), num_guesses, right};
}

CanaryAudit judge(const std::vector<double>& scores, const std::vector<bool>& included, const CanaryOptions& options,
                  double claimed_epsilon, double delta) {
  const auto strange = std::ranges::find_if_not(scores, [](double score) { return std::isfinite(score); });
  if (strange != scores.end()) {
    throw ConfigError(
        fmt::format("the score of a canary is {}: the run diverged (look at optimizer.learning_rate), and its audit "
                    "would show nothing",
                    *strange));
  }
  CanaryAudit audit;
  audit.claimed_epsilon = claimed_epsilon;
  audit.delta = delta;
  audit.confidence = options.confidence;
  audit.guesses = guess(scores, included, options.num_guesses);
  audit.audited_epsilon = audited_epsilon(audit.guesses, delta, options.confidence);
  Guesses all_right = audit.guesses;
  all_right.num_right = all_right.num_guesses;
  audit.provable_epsilon = audited_epsilon(all_right, delta, options.confidence);
  return audit;
}

}  // namespace dpldm::audit
