// `dpldm audit`: tries to refute the privacy claim by measurement.
#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "accounting/bound_text.h"
#include "accounting/ledger.h"
#include "app/arguments.h"
#include "app/commands.h"
#include "app/training_options.h"
#include "audit/gradient_canaries.h"
#include "audit/input_canaries.h"
#include "audit/mechanism_audit.h"
#include "audit/selection_statistics.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "config/training_config.h"

namespace dpldm::app {
namespace {

using Json = nlohmann::ordered_json;

// Of level 0: enough for a fraction of a percent, few enough for seconds.
constexpr std::int64_t kMadeUpRecords = 512;
constexpr std::int64_t kSelectionRecords = 4096;
constexpr std::int64_t kSelectionSteps = 64;
constexpr double kSelectionRate = 0.1;

cxxopts::Options audit_options(const char* program) {
  cxxopts::Options options(program,
                           "Tries to refute the privacy claim by measurement. Level 0: the mechanism on made-up "
                           "records. Level 1: gradient canaries in a real run. Level 2: input canaries in a real run. "
                           "Levels 1 and 2 also take the options of `dpldm finetune` (--config, --set, --run-dir).");
  // clang-format off
  options.add_options()
      ("level", "0, 1 or 2", cxxopts::value<int>()->default_value("0"), "L")
      ("noise-multiplier", "level 0: sigma", cxxopts::value<Number>()->default_value("1"), "S")
      ("delta", "level 0: where epsilon is stated", cxxopts::value<Number>()->default_value("1e-5"), "D")
      ("mechanism", "level 0: float or lattice", cxxopts::value<std::string>()->default_value("float"), "W")
      ("release-mode", "level 0: allreduce or root", cxxopts::value<std::string>()->default_value("allreduce"), "W")
      ("canaries", "levels 1 and 2: number of canaries m", cxxopts::value<std::int64_t>()->default_value("200"), "M")
      ("guesses", "levels 1 and 2: number of guesses r, even", cxxopts::value<std::int64_t>()->default_value("40"), "R")
      ("confidence", "of the audited epsilon, in levels 1 and 2",
       cxxopts::value<Number>()->default_value("0.95"), "P")
      ("json", "one JSON object on stdout");
  // clang-format on
  return options;
}

// The audit's own arguments apart from those of `dpldm finetune`.
struct SplitArguments {
  std::vector<char*> own;
  std::vector<char*> training;
};

SplitArguments split(Invocation& invocation) {
  constexpr std::array kWithValue{"--level",        "--noise-multiplier", "--delta",   "--mechanism",
                                  "--release-mode", "--canaries",         "--guesses", "--confidence"};
  constexpr std::array kAlone{"--json", "--help", "-h"};
  SplitArguments split{{invocation.argv()[0]}, {invocation.argv()[0]}};
  for (int i = 1; i < invocation.argc(); ++i) {
    char* argument = invocation.argv()[i];
    const std::string text = argument;
    const auto is = [&](const char* name) { return text == name; };
    const auto is_with_value = [&](const char* name) { return text.starts_with(std::string(name) + "="); };
    if (std::any_of(kWithValue.begin(), kWithValue.end(), is)) {
      split.own.push_back(argument);
      if (i + 1 < invocation.argc()) split.own.push_back(invocation.argv()[++i]);
    } else if (std::any_of(kAlone.begin(), kAlone.end(), is) ||
               std::any_of(kWithValue.begin(), kWithValue.end(), is_with_value)) {
      split.own.push_back(argument);
    } else {
      split.training.push_back(argument);
    }
  }
  return split;
}

// The same invocation with fewer arguments.
class PartOfInvocation : public Invocation {
 public:
  PartOfInvocation(Invocation& whole, std::vector<char*> arguments) : whole_(whole), arguments_(std::move(arguments)) {
    arguments_.push_back(nullptr);
  }
  int argc() const override { return static_cast<int>(arguments_.size()) - 1; }
  char** argv() override { return arguments_.data(); }
  comm::Communicator& communicator() override { return whole_.communicator(); }

 private:
  Invocation& whole_;
  std::vector<char*> arguments_;
};

// An option of another level would be passed over, and the audit taken for one of what it names.
void require_options_of_level(const cxxopts::ParseResult& given, int level) {
  const auto refuse = [&given](const char* name, const std::string& instead) {
    if (given.count(name) > 0) throw ConfigError(fmt::format("--{} is not an option of this level{}", name, instead));
  };
  if (level == 0) {
    for (const char* name : {"canaries", "guesses", "confidence"}) refuse(name, "; it is one of levels 1 and 2");
    return;
  }
  for (const auto& [name, key] : {std::pair{"noise-multiplier", "noise_multiplier"}, std::pair{"delta", "delta"},
                                  std::pair{"mechanism", "mechanism"}, std::pair{"release-mode", "release_mode"}}) {
    refuse(name, fmt::format(", whose run has --set privacy.{}=...", key));
  }
}

// On rank 0. Throws when the claim does not hold.
void answer(const Json& json, bool as_json, const std::string& text, const std::string& defects) {
  if (as_json) {
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{}\n", text);
  }
  std::fflush(stdout);
  if (!defects.empty()) throw InternalError("the audit refutes the claim: " + defects);
}

// A ledger for releases of made-up records, on rank 0, in a directory that goes with it.
class AuditLedger {
 public:
  explicit AuditLedger(comm::Communicator& comm) {
    comm::run_on_root(comm, [&] {
      directory_ = temporary_name_for(std::filesystem::temp_directory_path() / "dpldm-audit");
      std::filesystem::create_directories(directory_);
      accounting::LedgerHeader header;
      header.is_private = false;
      header.not_private_because = "an audit of made-up records";
      ledger_ = accounting::PrivacyLedger::create(directory_ / "ledger.jsonl", header);
    });
  }
  ~AuditLedger() {
    std::error_code ignored;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  }
  AuditLedger(const AuditLedger&) = delete;
  AuditLedger& operator=(const AuditLedger&) = delete;

  accounting::PrivacyLedger* get() { return ledger_ ? &*ledger_ : nullptr; }

 private:
  std::filesystem::path directory_;
  std::optional<accounting::PrivacyLedger> ledger_;
};

// Collective. Selection with a real key, shared out over the real ranks.
std::string selection_defects(comm::Communicator& comm) {
  const dp::RunKeys keys = dp::RunKeys::create(comm, std::nullopt);
  std::string defects;
  for (const dp::Sharding sharding : {dp::Sharding::kStatic, dp::Sharding::kBalanced}) {
    defects += audit::defects_of_selection(
        comm,
        [&](std::int64_t step) {
          return dp::share_of_rank(dp::selected_records(keys.selection(), step, kSelectionRecords, kSelectionRate),
                                   kSelectionRecords, comm.rank(), comm.size(), sharding);
        },
        kSelectionRecords, kSelectionRate, kSelectionSteps);
  }
  return defects;
}

void run_level_0(Invocation& invocation, const cxxopts::ParseResult& given) {
  comm::Communicator& comm = invocation.communicator();
  const auto mechanism = given["mechanism"].as<std::string>();
  if (mechanism != "float" && mechanism != "lattice") {
    throw ConfigError("--mechanism is '" + mechanism + "'; it must be float or lattice");
  }
  audit::MechanismAuditOptions options;
  options.noise_multiplier = given["noise-multiplier"].as<Number>().value;
  options.delta = given["delta"].as<Number>().value;
  if (!(options.delta > 0 && options.delta < 1)) {
    throw ConfigError(fmt::format("--delta is {}; it must lie between 0 and 1", options.delta));
  }
  options.expected_batch_size = static_cast<double>(kMadeUpRecords) / 2;

  const audit::MadeUpRecords records(kMadeUpRecords);
  AuditLedger ledger(comm);
  std::optional<audit::MechanismAudit> worst;
  std::string defects = selection_defects(comm);
  for (const dp::Rule rule : {dp::Rule::kKept, dp::Rule::kNormOnly, dp::Rule::kGram}) {
    const auto make_path = [&](double noise_multiplier) {
      audit::PathOptions path;
      path.noise_multiplier = noise_multiplier;
      path.lattice = mechanism == "lattice";
      path.mode = dp::release_mode_from(given["release-mode"].as<std::string>());
      path.rule = rule;
      path.expected_batch_size = options.expected_batch_size;
      return audit::make_real_path(comm, records, ledger.get(), path);
    };
    const audit::MechanismAudit audit = audit_mechanism(records, make_path, options);
    if (!audit.defects.empty()) defects += fmt::format("rule {}: {}", to_text(rule), audit.defects);
    if (!worst || audit.mu_lower > worst->mu_lower) worst = audit;
  }
  comm::run_on_root(comm, [&] {
    const Json json{{"level", 0},
                    {"passed", defects.empty()},
                    {"claimed_epsilon", worst->claimed_epsilon},
                    {"audited_epsilon", worst->audited_epsilon},
                    {"delta", options.delta},
                    {"claimed_mu", worst->claimed_mu},
                    {"mu", worst->mu},
                    {"mu_interval", {worst->mu_lower, worst->mu_upper}},
                    {"canaries", worst->num_canaries},
                    {"measurements", worst->num_measurements},
                    {"confidence", options.confidence},
                    {"mechanism", mechanism},
                    {"ranks", comm.size()},
                    {"defects", defects}};
    answer(json, given.count("json") > 0,
           fmt::format(
               "level 0, {} rank(s), {}: mu {:#.4g} in [{:#.4g}, {:#.4g}], claimed at most {:#.4g}; one release: "
               "claimed epsilon {}, audited {} at delta {} ({} canaries, {} measurements, confidence "
               "{}): {}",
               comm.size(), mechanism, worst->mu, worst->mu_lower, worst->mu_upper, worst->claimed_mu,
               accounting::up_to_decimals(worst->claimed_epsilon, 4),
               accounting::down_to_decimals(worst->audited_epsilon, 4), accounting::up_to_digits(options.delta, 6),
               worst->num_canaries, worst->num_measurements, options.confidence, defects.empty() ? "passed" : "FAILED"),
           defects);
  });
}

// What the answer of levels 1 and 2 ends with.
std::string verdict_of(const audit::CanaryAudit& audit) {
  if (!audit.within_claim()) return "FAILED";
  if (!audit.not_private_because.empty()) return "nothing to refute";
  if (audit.could_refute()) return "passed";
  return fmt::format("passed, as any run would: so many guesses can show {} at most",
                     accounting::up_to_decimals(audit.provable_epsilon, 4));
}

void run_level_with_canaries(Invocation& invocation, const cxxopts::ParseResult& given, int level) {
  config::FinetuneConfig config;
  config::Schema schema = config.schema();
  const auto run = read_training_options(invocation, "", schema);
  if (!run) return;
  if (run->resume || run->dry_run) throw ConfigError("an audit takes neither --resume nor --dry-run");
  audit::CanaryOptions options;
  options.num_canaries = given["canaries"].as<std::int64_t>();
  options.num_guesses = given["guesses"].as<std::int64_t>();
  options.confidence = given["confidence"].as<Number>().value;
  comm::Communicator& comm = invocation.communicator();
  const audit::CanaryAudit audit = level == 1 ? audit::audit_with_gradient_canaries(config, run->run_dir, options, comm)
                                              : audit::audit_with_input_canaries(config, run->run_dir, options, comm);
  comm::run_on_root(comm, [&] {
    const auto [m, r, v] = audit.guesses;
    const std::string defects =
        audit.within_claim() ? ""
                             : fmt::format("epsilon is at least {} with confidence {}, above the {} claimed",
                                           accounting::down_to_decimals(audit.audited_epsilon, 4), audit.confidence,
                                           accounting::up_to_decimals(audit.claimed_epsilon, 4));
    const bool claims = audit.not_private_because.empty();
    const Json json{{"level", level},
                    {"private", claims},
                    {"passed", audit.within_claim()},
                    {"claimed_epsilon", claims ? Json(audit.claimed_epsilon) : Json(nullptr)},
                    {"audited_epsilon", audit.audited_epsilon},
                    {"provable_epsilon", audit.provable_epsilon},
                    {"delta", audit.delta},
                    {"canaries", m},
                    {"guesses", r},
                    {"right", v},
                    {"confidence", audit.confidence},
                    {"ranks", comm.size()}};
    answer(json, given.count("json") > 0,
           fmt::format("level {}, {} rank(s): {}, audited at least {} at delta {} (m = {} canaries, r = {} "
                       "guesses, {} right, confidence {}): {}",
                       level, comm.size(),
                       claims ? "claimed epsilon " + accounting::up_to_decimals(audit.claimed_epsilon, 4)
                              : "NOT PRIVATE (" + audit.not_private_because + "), nothing is claimed",
                       accounting::down_to_decimals(audit.audited_epsilon, 4), accounting::up_to_digits(audit.delta, 3),
                       m, r, v, audit.confidence, verdict_of(audit)),
           defects);
  });
}

}  // namespace

void run_audit(Invocation& invocation) {
  SplitArguments arguments = split(invocation);
  cxxopts::Options options = audit_options(invocation.argv()[0]);
  const auto parsed = parse_or_help(options, static_cast<int>(arguments.own.size()), arguments.own.data());
  if (!parsed) return;
  const cxxopts::ParseResult& given = *parsed;
  const int level = given["level"].as<int>();
  require_options_of_level(given, level);
  if (level == 0) {
    if (arguments.training.size() > 1) {
      throw ConfigError(fmt::format("level 0 knows no argument '{}'; see --help", arguments.training[1]));
    }
    run_level_0(invocation, given);
  } else if (level == 1 || level == 2) {
    PartOfInvocation training(invocation, arguments.training);
    run_level_with_canaries(training, given, level);
  } else {
    throw ConfigError(fmt::format("--level is {}; it must be 0, 1 or 2", level));
  }
}

}  // namespace dpldm::app
