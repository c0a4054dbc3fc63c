#include <cmath>
#include <filesystem>
#include <optional>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "accounting/caution.h"
#include "accounting/claim.h"
#include "accounting/ledger.h"
#include "accounting/ledger_witnesses.h"
#include "accounting/privacy_stamp.h"
#include "accounting/statement.h"
#include "accounting/statement_page.h"
#include "app/arguments.h"
#include "app/privacy_command.h"
#include "app/privacy_options.h"
#include "base/atomic_file.h"
#include "base/build_facts.h"
#include "base/error.h"
#include "base/log.h"
#include "base/words.h"

namespace dpldm::app {
namespace {

namespace fs = std::filesystem;
using accounting::PrivacyLedger;
using Json = nlohmann::ordered_json;

constexpr const char* kModelOfARun = "model";  // its directory in the run's
constexpr const char* kLedgerOfARun = "ledger.jsonl";

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
  return count == 0 ? "" : " and " + counted(count, "other release");
}

// Where a page about the model in the directory `model` lies: with the model itself, or in the directory of its run,
// which keeps it under the name that the page calls it by. A page beside models of other names may be about any of
// them.
std::vector<fs::path> pages_about(const fs::path& model) {
  std::vector<fs::path> pages{model / accounting::kStatementPage};
  const fs::path whole_name = fs::canonical(model);
  const fs::path beside = whole_name.parent_path() / accounting::kStatementPage;
  if (whole_name.filename() == kModelOfARun) {
    pages.push_back(beside);
  } else if (path_exists(beside)) {
    spdlog::warn("{} was not compared: it is about a directory '{}', which this one is not called", beside.string(),
                 kModelOfARun);
  }
  std::erase_if(pages, [](const fs::path& page) { return !path_exists(page); });
  return pages;
}

// The ledger of the run whose model the directory `model` is, where it lies in one.
std::optional<fs::path> ledger_of_its_run(const fs::path& model) {
  const fs::path whole_name = fs::canonical(model);
  const fs::path ledger = whole_name.parent_path() / kLedgerOfARun;
  if (whole_name.filename() != kModelOfARun || !path_exists(ledger)) return std::nullopt;
  return ledger;
}

// A run writes its page when all else is written, and beside its ledger. Throws IoError where the model in the
// directory `model`, about which there is no page, is that of a run.
void require_no_run(const fs::path& model) {
  const std::optional<fs::path> ledger = ledger_of_its_run(model);
  if (!ledger) return;
  throw IoError(
      fmt::format("{} is missing, which a run writes last: the run has not ended (--resume ends it), or the "
                  "page was removed",
                  (ledger->parent_path() / accounting::kStatementPage).string()));
}

// What was found of the page about a model.
enum class Page { kNotLookedFor, kNone, kClaimAlone, kSame };

std::string page_text(Page page) {
  switch (page) {
    case Page::kNotLookedFor:
      return "";
    case Page::kNone:
      return fmt::format("; there is no {} to compare", accounting::kStatementPage);
    case Page::kClaimAlone:
      return fmt::format("; of {} the claim alone was compared", accounting::kStatementPage);
    case Page::kSame:
      return fmt::format("; {} says the same", accounting::kStatementPage);
  }
  throw InternalError("unknown finding about a page");
}

// Throws ConfigError when a page says something else than the statement, IoError when a run lacks its own.
Page compare_pages(const fs::path& model, const accounting::Statement& statement) {
  const std::vector<fs::path> pages = pages_about(model);
  if (pages.empty()) {
    require_no_run(model);
    return Page::kNone;
  }
  for (const fs::path& page : pages) {
    const std::string difference = accounting::difference_from_page(page, statement.content);
    if (!difference.empty()) throw ConfigError(difference);
  }
  if (accounting::has_known_page(statement.content)) return Page::kSame;
  spdlog::warn("of {} the claim alone was compared: {} is of another version of dpldm, whose words {} does not know",
               pages.front().string(), statement.file.string(), program_version());
  return Page::kClaimAlone;
}

// What `verify` found to be true.
struct Verified {
  accounting::PrivacyClaim claim;
  std::optional<double> epsilon;
  bool weights_compared = false;
  Page page = Page::kNotLookedFor;
};

Verified verified_statement(const accounting::Statement& statement) {
  const accounting::PrivacyClaim claim = accounting::claim_of(statement);
  return {.claim = claim, .epsilon = verified_epsilon(claim)};
}

// Warns where the run of the model in the directory `model` has been charged for more than `epsilon`: what was released
// after the statement is outside it. Throws IoError when the run's ledger is not whole, or lacks what the run saw of
// it.
void compare_ledger(const fs::path& model, std::optional<double> epsilon) {
  const std::optional<fs::path> path = ledger_of_its_run(model);
  if (!path) return;
  const PrivacyLedger ledger = accounting::read_with_nothing_lost(*path, path->parent_path());
  if (!epsilon || ledger.epsilon() <= *epsilon * (1 + 1e-6)) return;
  spdlog::warn("{} makes epsilon {}, more than the {} of the model alone: more was released after its statement",
               path->string(), accounting::up_to_decimals(ledger.epsilon(), 6),
               accounting::up_to_decimals(*epsilon, 6));
}

// Of a model in its directory, with its weights, its page and its run's ledger. The statement must be the directory's
// own: one that lies above it may be about another model.
Verified verified_model(const fs::path& model) {
  const std::optional<accounting::Statement> statement = accounting::require_own_statement(model);
  if (!statement || statement->file != model / accounting::kStatementFile) {
    throw IoError(fmt::format("{} has no {}, so nothing is claimed of it", model.string(), accounting::kStatementFile));
  }
  const std::string difference = accounting::weights_beside_the_statement(*statement);
  if (!difference.empty()) throw ConfigError(difference + ": its claim is not about them");
  Verified verified = verified_statement(*statement);
  verified.weights_compared = accounting::names_weights(*statement);
  verified.page = compare_pages(model, *statement);
  compare_ledger(model, verified.epsilon);
  return verified;
}

// `path` is a model's directory, a run's, or a statement by itself.
Verified verified_at(const fs::path& path) {
  if (!fs::is_directory(path)) return verified_statement(accounting::read_statement(path));
  const bool is_run = !path_exists(path / accounting::kStatementFile) && path_exists(path / kModelOfARun);
  return verified_model(is_run ? path / kModelOfARun : path);
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
    return accounting::read_with_nothing_lost(is_run ? path / kLedgerOfARun : path, is_run ? path : path.parent_path());
  });
  const accounting::LedgerHeader& header = ledger.header();
  if (header.is_private) {
    warn_of(accounting::caution_about_delta(header.delta, header.num_records));
    warn_of(accounting::caution_about_epsilon(ledger.epsilon()));
  }
  if (json) {
    fmt::print("{}\n", ledger_json(ledger).dump());
  } else if (!header.is_private) {
    fmt::print("NOT PRIVATE: {}. {}; the ledger is whole.\n", header.not_private_because,
               counted(ledger.num_steps(), "step"));
  } else {
    fmt::print("epsilon {} of {} at delta {} ({}, {}); {}{} charged in {}; the ledger is whole.\n",
               accounting::up_to_decimals(ledger.epsilon(), 6), header.target_epsilon,
               accounting::up_to_digits(header.delta, 3), to_text(header.neighbouring), to_text(header.accountant),
               counted(ledger.num_steps(), "step"), others_text(ledger), counted(ledger.next_attempt(), "attempt"));
  }
}

void run_privacy_verify(int argc, char** argv) {
  cxxopts::Options options = check_options(
      argv[0],
      "Recomputes a model's epsilon from the numbers in its dp_metadata.json, and compares its weights, its page "
      "privacy_statement.md and its run's ledger with it. MODEL is the model's directory, its run's, or a "
      "dp_metadata.json by itself.",
      "MODEL");
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  const fs::path path = required_value<std::string>(given, "path");
  const bool json = given.count("json") > 0;
  const Verified verified = reporting_failure(json, [&] { return verified_at(path); });
  const accounting::PrivacyClaim& claim = verified.claim;
  const std::optional<double>& epsilon = verified.epsilon;
  const std::string page_note = page_text(verified.page);
  if (epsilon) {
    warn_of(accounting::caution_about_delta(claim.delta, claim.num_records));
    warn_of(accounting::caution_about_epsilon(*epsilon));
    warn_of(accounting::caution_about_tails(claim.delta, accounting::delta_of_tails(claim)));
  }
  if (json) {
    const auto if_stated = [&claim](const Json& value) { return claim.has_numbers ? value : Json(nullptr); };
    const Json answer{{"verified", true},
                      {"weights_compared", verified.weights_compared},
                      {"page_compared", verified.page == Page::kSame},
                      {"private", claim.is_private},
                      {"epsilon", epsilon ? Json(*epsilon) : Json(nullptr)},
                      {"delta", if_stated(claim.delta)},
                      {"delta_of_noise_tails", if_stated(accounting::delta_of_tails(claim))},
                      {"accountant", if_stated(to_text(claim.accountant))},
                      {"neighbouring", if_stated(to_text(claim.neighbouring))}};
    fmt::print("{}\n", answer.dump());
  } else if (epsilon) {
    fmt::print("verified{}: epsilon {} at delta {} ({}, {}){}\n",
               verified.weights_compared ? "" : " (the numbers; no weights were compared)",
               accounting::up_to_decimals(*epsilon, 6), accounting::up_to_digits(claim.delta, 3),
               to_text(claim.neighbouring), to_text(claim.accountant), page_note);
  } else {
    fmt::print("NOT PRIVATE: the model claims nothing, consistently{}\n", page_note);
  }
}

}  // namespace dpldm::app
