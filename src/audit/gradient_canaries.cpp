#include "audit/gradient_canaries.h"

#include <cmath>

#include "accounting/ledger.h"
#include "dp/keystream.h"
#include "dp/record_selection.h"

namespace dpldm::audit {
namespace {

// Streams of the canaries' key: one for the coins, then one for each direction.
constexpr std::uint64_t kCoinStream = 0;
std::uint64_t direction_stream(std::int64_t canary) { return 1 + static_cast<std::uint64_t>(canary); }

// A run with a test seed draws from it too; the canaries must not share its streams.
std::optional<std::uint64_t> another(std::optional<std::uint64_t> seed) {
  return seed ? std::optional<std::uint64_t>(*seed + 0x9e3779b97f4a7c15U) : std::nullopt;
}

}  // namespace

GradientCanaries::GradientCanaries(comm::Communicator& comm, std::int64_t num_canaries,
                                   std::optional<std::uint64_t> test_seed)
    : comm_(comm), keys_(dp::RunKeys::create(comm, another(test_seed))) {
  std::vector<std::uint64_t> coins(static_cast<std::size_t>(num_canaries));
  dp::Keystream(keys_.draws(), kCoinStream).words(0, coins);
  for (const std::uint64_t coin : coins) included_.push_back((coin & 1U) != 0);
}

std::vector<std::int64_t> GradientCanaries::taking_part(std::int64_t step, const dp::SecretKey& selection,
                                                        const train::PrivacyPlan& plan) {
  const auto num_canaries = static_cast<std::int64_t>(included_.size());
  std::vector<std::int64_t> mine;
  for (const std::int64_t record :
       dp::selected_records(selection, step, plan.num_records, plan.num_records + num_canaries, plan.sampling_rate)) {
    const std::int64_t canary = record - plan.num_records;
    if (included_[static_cast<std::size_t>(canary)] && canary % comm_.size() == comm_.rank()) mine.push_back(canary);
  }
  return mine;
}

void GradientCanaries::write(std::int64_t canary, std::span<float> vector) {
  // Random signs: as good as a random point of the sphere, and one bit of stream each. A little short of norm 1, for
  // the rounding.
  const auto size = static_cast<float>((1 - 0x1p-20) / std::sqrt(static_cast<double>(vector.size())));
  std::vector<std::uint64_t> words((vector.size() + 63) / 64);
  dp::Keystream(keys_.draws(), direction_stream(canary)).words(0, words);
  for (std::size_t i = 0; i < vector.size(); ++i) vector[i] = ((words[i / 64] >> (i % 64)) & 1U) != 0 ? size : -size;
}

void GradientCanaries::observe(std::span<const float> released) {
  total_.resize(released.size());
  for (std::size_t i = 0; i < released.size(); ++i) total_[i] += released[i];
}

std::vector<double> GradientCanaries::scores() {
  std::vector<double> scores;
  std::vector<float> direction(total_.size());
  for (std::size_t canary = 0; canary < included_.size(); ++canary) {
    write(static_cast<std::int64_t>(canary), direction);
    double along = 0;
    for (std::size_t i = 0; i < total_.size(); ++i) along += total_[i] * direction[i];
    scores.push_back(along);
  }
  return scores;
}

RunClaim claim_of(const std::filesystem::path& run_dir) {
  const auto ledger = accounting::PrivacyLedger::read(run_dir / "ledger.jsonl");
  const accounting::LedgerHeader& header = ledger.header();
  return {accounting::epsilon_of(ledger.events(), header.delta, header.accountant, header.neighbouring), header.delta,
          header.not_private_because};
}

CanaryAudit audit_with_gradient_canaries(config::FinetuneConfig& config, const std::filesystem::path& run_dir,
                                         const CanaryOptions& options, comm::Communicator& comm) {
  check(options);
  const auto seed =
      config.test_seed ? std::optional<std::uint64_t>(static_cast<std::uint64_t>(*config.test_seed)) : std::nullopt;
  GradientCanaries canaries(comm, options.num_canaries, seed);
  train::run_private_training(config, {.run_dir = run_dir}, comm, &canaries);
  CanaryAudit audit;
  comm::run_on_root(comm, [&] {
    const RunClaim claim = claim_of(run_dir);
    audit = judge(canaries.scores(), canaries.included(), options, claim.epsilon, claim.delta);
    audit.not_private_because = claim.not_private_because;
  });
  return audit;
}

}  // namespace dpldm::audit
