#include "accounting/statement.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/build_facts.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTolerance = 1e-6;  // relative: what another machine's mathematical library may change
constexpr std::size_t kMaxStatementBytes = std::size_t{1} << 20;

constexpr const char* kNotAccountedFor[] = {
    "choices made by looking at the private records: hyper-parameters, the number of steps, the choice of public data",
    "earlier or other runs on the same records, each of which has its own cost",
    "models or samples selected by a comparison with the private records",
};
constexpr const char* kThreatModel =
    "The adversary sees every released model, all intermediate ones included, knows everything about the run except "
    "the "
    "record in question, the random keys and which records were sampled, and may choose all other records. The "
    "machines "
    "that train are trusted.";

// Within the rounding of one multiplication, or of a text with six digits.
bool agree(double a, double b) { return std::abs(a - b) <= kTolerance * std::max(std::abs(a), std::abs(b)); }

Json event_json(const GaussianEvent& event) {
  return {{"sampling_rate", event.sampling_rate},
          {"noise_multiplier", event.noise_multiplier},
          {"count", event.count},
          {"sampler", to_text(event.sampler)}};
}

PrivacyStatement statement_from_json(const Json& json) {
  PrivacyStatement s;
  s.is_private = json.at("private");
  s.not_private_because = json.value("not_private_because", "");
  const Json& epsilon = json.at("epsilon");
  s.epsilon = epsilon.is_null() ? std::numeric_limits<double>::quiet_NaN() : epsilon.get<double>();
  s.delta = json.at("delta");
  s.neighbouring = neighbouring_from(json.at("neighbouring"));
  s.unit_of_privacy = json.value("unit_of_privacy", s.unit_of_privacy);
  s.sampler = json.at("sampler");
  s.accountant = accountant_from(json.at("accountant"));
  s.accountant_version = json.value("accountant_version", "");
  s.noise_multiplier = json.at("noise_multiplier");
  s.sampling_rate = json.at("sampling_rate");
  s.steps = json.at("steps");
  s.num_records = json.at("num_records");
  s.expected_batch_size = json.at("expected_batch_size");
  s.clip_norm = json.value("clip_norm", 0.0);
  s.noise_multiplicity = json.value("noise_multiplicity", std::int64_t{1});
  s.trained_set = json.value("trained_set", "");
  for (const Json& input : json.value("public_inputs", Json::array())) {
    s.public_inputs.push_back({input.at("name"), input.at("sha256")});
  }
  if (json.contains("events")) {
    for (const Json& event : json.at("events")) {
      s.events.push_back({event.at("sampling_rate"), event.at("noise_multiplier"), event.at("count"),
                          sampler_from(event.at("sampler"))});
    }
  } else if (s.is_private) {
    s.events.push_back({s.sampling_rate, s.noise_multiplier, s.steps, sampler_from(s.sampler)});
  }
  s.run_id = json.value("run_id", "");
  s.ledger_head = json.value("ledger_head", "");
  return s;
}

}  // namespace

PrivacyStatement statement_from(const PrivacyLedger& ledger) {
  const LedgerHeader& header = ledger.header();
  PrivacyStatement s;
  s.is_private = header.is_private;
  s.not_private_because = header.not_private_because;
  s.epsilon = ledger.epsilon();
  s.delta = header.delta;
  s.neighbouring = header.neighbouring;
  s.sampler = header.sampler;
  s.accountant = header.accountant;
  s.accountant_version = "dpldm " + program_version();
  s.noise_multiplier = header.noise_multiplier;
  s.sampling_rate = header.sampling_rate;
  s.steps = ledger.num_steps();
  s.num_records = header.num_records;
  s.expected_batch_size = header.expected_batch_size;
  s.clip_norm = header.clip_norm;
  s.events = ledger.events();
  s.run_id = header.run_id;
  s.ledger_head = ledger.head();
  return s;
}

std::string statement_json(const PrivacyStatement& s) {
  Json json{{"private", s.is_private}};
  if (!s.is_private) json["not_private_because"] = s.not_private_because;
  json["epsilon"] = s.is_private && std::isfinite(s.epsilon) ? Json(s.epsilon) : Json(nullptr);
  json["delta"] = s.delta;
  json["neighbouring"] = to_text(s.neighbouring);
  json["unit_of_privacy"] = s.unit_of_privacy;
  json["sampler"] = s.sampler;
  json["accountant"] = to_text(s.accountant);
  json["accountant_version"] = s.accountant_version;
  json["noise_multiplier"] = s.noise_multiplier;
  json["sampling_rate"] = s.sampling_rate;
  json["steps"] = s.steps;
  json["num_records"] = s.num_records;
  json["expected_batch_size"] = s.expected_batch_size;
  json["clip_norm"] = s.clip_norm;
  json["noise_multiplicity"] = s.noise_multiplicity;
  json["trained_set"] = s.trained_set;
  json["public_inputs"] = Json::array();
  for (const PublicInput& input : s.public_inputs) {
    json["public_inputs"].push_back({{"name", input.name}, {"sha256", input.sha256}});
  }
  json["events"] = Json::array();
  for (const GaussianEvent& event : s.events) json["events"].push_back(event_json(event));
  json["not_accounted_for"] = kNotAccountedFor;
  json["threat_model"] = kThreatModel;
  json["run_id"] = s.run_id;
  json["ledger_head"] = s.ledger_head;
  return json.dump(2) + "\n";
}

std::string statement_page(const PrivacyStatement& s) {
  std::string page = "# Privacy statement\n\n";
  if (s.is_private) {
    page += fmt::format(
        "This model is **({:.4g}, {:.3g})-differentially private** with respect to {}, under the {} relation. All that "
        "was released from the private records, every step included, is covered.\n\n",
        s.epsilon, s.delta, s.unit_of_privacy, to_text(s.neighbouring));
  } else {
    page += fmt::format("**NOT PRIVATE.** This model makes no privacy claim, because {}.\n\n", s.not_private_because);
  }
  const auto row = [&page](const std::string& name, const std::string& value) {
    page += fmt::format("| {} | {} |\n", name, value);
  };
  page += "| what | value |\n| --- | --- |\n";
  if (s.is_private) row("epsilon", fmt::format("{:.6f} (an upper bound)", s.epsilon));
  row("delta", fmt::format("{:.6g}", s.delta));
  row("neighbouring relation", to_text(s.neighbouring));
  row("unit of privacy", s.unit_of_privacy);
  row("records N", std::to_string(s.num_records));
  row("sampler", s.sampler);
  row("sampling rate q", fmt::format("{:.9g}", s.sampling_rate));
  row("expected batch", fmt::format("{:.9g}", s.expected_batch_size));
  row("steps T", std::to_string(s.steps));
  row("noise multiplier sigma", fmt::format("{:.9g}", s.noise_multiplier));
  row("clip norm C", fmt::format("{:.9g}", s.clip_norm));
  row("noise multiplicity K", std::to_string(s.noise_multiplicity));
  row("accountant", to_text(s.accountant) + ", " + s.accountant_version);
  row("trained parameters", s.trained_set);
  for (const PublicInput& input : s.public_inputs) row("public input: " + input.name, "SHA-256 " + input.sha256);
  row("run", s.run_id);
  row("ledger head", s.ledger_head);
  page += "\n## Not accounted for\n\n";
  for (const char* item : kNotAccountedFor) page += fmt::format("- {}\n", item);
  page += fmt::format("\n## Threat model\n\n{}\n\n## How to check\n\n", kThreatModel);
  page +=
      "`dpldm privacy verify MODEL` recomputes epsilon from the numbers in `dp_metadata.json`; `dpldm privacy ledger "
      "RUN_DIR` recomputes it from the ledger of the run.\n";
  return page;
}

PrivacyStatement read_statement(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxStatementBytes);
  try {
    return statement_from_json(Json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError(path.string() + " is not a privacy statement: " + error.what());
  } catch (const ConfigError& error) {
    throw ConfigError(path.string() + ": " + error.what());
  }
}

double verified_epsilon(const PrivacyStatement& s) {
  if (!s.is_private) {
    if (!std::isnan(s.epsilon) && std::isfinite(s.epsilon)) {
      throw ConfigError(
          fmt::format("the statement says that the run is not private, and claims epsilon {}", s.epsilon));
    }
    return std::numeric_limits<double>::infinity();
  }
  if (!agree(s.sampling_rate * static_cast<double>(s.num_records), s.expected_batch_size)) {
    throw ConfigError(fmt::format("the expected batch size is {}, but the sampling rate {} of {} records makes {}",
                                  s.expected_batch_size, s.sampling_rate, s.num_records,
                                  s.sampling_rate * static_cast<double>(s.num_records)));
  }
  std::int64_t planned_kind = 0;
  for (const GaussianEvent& event : s.events) {
    if (event.sampling_rate == s.sampling_rate && event.noise_multiplier == s.noise_multiplier &&
        to_text(event.sampler) == s.sampler) {
      planned_kind += event.count;
    }
  }
  if (planned_kind < s.steps) {
    throw ConfigError(
        fmt::format("the statement speaks of {} steps at rate {} with noise multiplier {}, its events of {}", s.steps,
                    s.sampling_rate, s.noise_multiplier, planned_kind));
  }
  const double epsilon = epsilon_of(s.events, s.delta, s.accountant, s.neighbouring);
  if (!std::isfinite(epsilon)) throw ConfigError("the statement claims privacy, but its events have no finite epsilon");
  if (!agree(epsilon, s.epsilon)) {
    throw ConfigError(fmt::format("the statement claims epsilon {}, but its own numbers make {}", s.epsilon, epsilon));
  }
  return epsilon;
}

}  // namespace dpldm::accounting
