#include <cmath>
#include <filesystem>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "accounting/caution.h"
#include "accounting/claim.h"
#include "accounting/ledger.h"
#include "accounting/ledger_witnesses.h"
#include "accounting/privacy_stamp.h"
#include "app/arguments.h"
#include "app/privacy_command.h"
#include "app/privacy_options.h"
#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::app {
namespace {

using accounting::PrivacyLedger;
using Json = nlohmann::ordered_json;

// `name` is what the one positional argument is called in messages.
cxxopts::Options check_options(const char* program, const std::string& about, const std::string& name) {
  cxxopts::Options options(program, about);
  options.add_options()("path", name, cxxopts::value<std::string>())("json", "one JSON object on stdout");
  options.parse_positional({"path"});
  options.positional_help(name);
  return options;
}

// A finding that the checks made goes to stdout too, for scripts that read it there.
template <class Check>
auto reporting_failure(bool json, const Check& check) {
  try {
    return check();
  } catch (const Error& error) {
    if (json) fmt::print("{}\n", Json{{"verified", false}, {"error", error.what()}}.dump());
    throw;
  }
}

Json ledger_json(const PrivacyLedger& ledger) {
  const accounting::LedgerHeader& header = ledger.header();
  Json events = Json::array();
  for (const accounting::GaussianEvent& event : ledger.events()) {
    events.push_back({{"sampling_rate", event.sampling_rate},
                      {"noise_multiplier", event.noise_multiplier},
                      {"count", event.count},
                      {"sampler", to_text(event.sampler)}});
  }
  Json answer{{"verified", true}, {"private", header.is_private}};
  const double epsilon = ledger.epsilon();
  answer["epsilon"] = std::isfinite(epsilon) ? Json(epsilon) : Json(nullptr);
  if (!header.is_private) answer["not_private_because"] = header.not_private_because;
  answer["target_epsilon"] = std::isfinite(header.target_epsilon) ? Json(header.target_epsilon) : Json(nullptr);
  answer["delta"] = header.delta;
  answer["accountant"] = to_text(header.accountant);
  answer["neighbouring"] = to_text(header.neighbouring);
  answer["mechanism"] = header.mechanism;
  answer["steps"] = ledger.num_steps();
  answer["planned_steps"] = header.planned_steps;
  answer["attempts"] = ledger.next_attempt();
  answer["num_records"] = header.num_records;
  answer["events"] = events;
  answer["run_id"] = header.run_id;
  answer["head"] = ledger.head();
  return answer;
}

// " and 3 other releases", or nothing.
std::string others_text(const PrivacyLedger& ledger) {
  std::int64_t count = 0;
  for (const auto& other : ledger.other_releases()) count += other.event.count;
  return count == 0 ? "" : fmt::format(" and {} other release{}", count, count == 1 ? "" : "s");
}

}  // namespace

void run_privacy_ledger(int argc, char** argv) {
  cxxopts::Options options =
      check_options(argv[0], "What a run spent, from its ledger, after checking that it is whole.", "RUN_DIR");
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  const std::filesystem::path path = required_value<std::string>(given, "path");
  const bool json = given.count("json") > 0;
  const bool is_run = std::filesystem::is_directory(path);
  const PrivacyLedger ledger = reporting_failure(json, [&] {
    PrivacyLedger read = PrivacyLedger::read(is_run ? path / "ledger.jsonl" : path);
    accounting::require_nothing_lost(read, is_run ? path : path.parent_path());
    return read;
  });
  const accounting::LedgerHeader& header = ledger.header();
  if (header.is_private) {
    warn_of(accounting::caution_about_delta(header.delta, header.num_records));
    warn_of(accounting::caution_about_epsilon(ledger.epsilon()));
  }
  if (json) {
    fmt::print("{}\n", ledger_json(ledger).dump());
  } else if (!header.is_private) {
    fmt::print("NOT PRIVATE: {}. {} steps; the ledger is whole.\n", header.not_private_because, ledger.num_steps());
  } else {
    fmt::print("epsilon {} of {:g} at delta {} ({}, {}); {} steps{} charged in {} attempts; the ledger is whole.\n",
               accounting::up_to_decimals(ledger.epsilon(), 6), header.target_epsilon,
               accounting::up_to_digits(header.delta, 3), to_text(header.neighbouring), to_text(header.accountant),
               ledger.num_steps(), others_text(ledger), ledger.next_attempt());
  }
}

void run_privacy_verify(int argc, char** argv) {
  cxxopts::Options options =
      check_options(argv[0], "Recomputes a model's epsilon from the numbers in its dp_metadata.json.", "MODEL");
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  const std::filesystem::path path = required_value<std::string>(given, "path");
  const bool json = given.count("json") > 0;
  const bool is_model = std::filesystem::is_directory(path);
  bool names_weights = false;
  const auto [claim, epsilon] = reporting_failure(json, [&] {
    if (is_model) {
      names_weights = accounting::statement_names_weights(path);
      accounting::require_own_statement(path);
      const std::string difference = accounting::weights_beside_the_statement(path);
      if (!difference.empty()) throw ConfigError(difference + ": its claim is not about them");
    }
    const accounting::PrivacyClaim read = accounting::read_claim(is_model ? path / "dp_metadata.json" : path);
    return std::pair(read, verified_epsilon(read));
  });
  if (epsilon) {
    warn_of(accounting::caution_about_delta(claim.delta, claim.num_records));
    warn_of(accounting::caution_about_epsilon(*epsilon));
  }
  if (json) {
    const Json answer{{"verified", true},
                      {"weights_compared", names_weights},
                      {"private", claim.is_private},
                      {"epsilon", epsilon ? Json(*epsilon) : Json(nullptr)},
                      {"delta", claim.delta},
                      {"accountant", to_text(claim.accountant)},
                      {"neighbouring", to_text(claim.neighbouring)}};
    fmt::print("{}\n", answer.dump());
  } else if (epsilon) {
    fmt::print("verified{}: epsilon {} at delta {} ({}, {})\n",
               names_weights ? "" : " (the numbers; no weights were compared)", accounting::up_to_decimals(*epsilon, 6),
               accounting::up_to_digits(claim.delta, 3), to_text(claim.neighbouring), to_text(claim.accountant));
  } else {
    fmt::print("NOT PRIVATE: the model claims nothing, consistently\n");
  }
}

}  // namespace dpldm::app
