#include "accounting/claim.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "accounting/noise_tails.h"
#include "base/error.h"
#include "base/unambiguous_json.h"
#include "base/words.h"

namespace dpldm::accounting {
namespace {

using Json = nlohmann::json;

constexpr double kTolerance = 1e-6;  // relative: what another machine's mathematical library may change
constexpr std::array<std::string_view, 3> kClippings{"flat", "automatic", "per-group"};  // see dp/clipped_sum.h
constexpr std::array kMechanisms{"float", "lattice"};                                    // see dp/gaussian_mechanism.h

bool agree(double a, double b) { return std::abs(a - b) <= kTolerance * std::max(std::abs(a), std::abs(b)); }

// Stricter than the library's own conversion, which cuts fractions off and lets large numbers wrap around.
std::int64_t whole_number(const Json& json) {
  const bool fits = !json.is_number_unsigned() ||
                    json.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
  if (!json.is_number_integer() || !fits) throw ConfigError("it is not a privacy statement: a count is " + json.dump());
  return json.get<std::int64_t>();
}

// Where `json` has the key at all, its value must be what `is_right` says.
template <class IsRight>
void check_if_there(const Json& json, const char* key, const char* must_be, const IsRight& is_right) {
  const auto found = json.find(key);
  if (found != json.end() && !is_right(*found)) {
    throw ConfigError(fmt::format("{} is {}; it must be {}", key, found->dump(), must_be));
  }
}

// Of what people read and no epsilon follows from.
void check_description(const Json& json, const PrivacyClaim& claim) {
  check_if_there(json, "unit_of_privacy", "\"record\"", [](const Json& unit) { return unit == "record"; });
  check_if_there(json, "mechanism", "\"float\" or \"lattice\"", [](const Json& mechanism) {
    return std::ranges::any_of(kMechanisms, [&](const char* known) { return mechanism == known; });
  });
  check_if_there(json, "clip_norm", "positive",
                 [](const Json& norm) { return norm.is_number() && norm.get<double>() > 0; });
  check_if_there(json, "noise_multiplicity", "a whole number, 1 or more",
                 [](const Json& draws) { return whole_number(draws) >= 1; });
  for (const char* key : {"mechanism", "clipping"}) {
    const std::string word = json.value(key, "");
    const auto words = json.find(std::string(key) + "_text");
    if (words == json.end()) continue;
    if (word.empty() || !words->is_string() || !words->get<std::string>().starts_with(word)) {
      throw ConfigError(fmt::format("{0} is '{1}', but {0}_text is {2}", key, word, words->dump()));
    }
  }
  if (claim.is_private && json.contains("not_private_because")) {
    throw ConfigError("it claims privacy, and also says why it is not private: " + json["not_private_because"].dump());
  }
}

GaussianEvent all_steps(const PrivacyClaim& claim) {
  return {claim.sampling_rate, claim.noise_multiplier, claim.steps, claim.sampler};
}

PrivacyClaim claim_from(const Json& json) {
  PrivacyClaim claim;
  if (json.at("format") != "dpldm-privacy" || json.at("version") != 1) {
    throw ConfigError(fmt::format("it has format {}, version {}; this program reads \"dpldm-privacy\", version 1",
                                  json.at("format").dump(), json.at("version").dump()));
  }
  claim.is_private = json.at("private");
  const Json& epsilon = json.at("epsilon");
  if (!epsilon.is_null()) claim.epsilon = epsilon.get<double>();
  // A model that another program trained on private records claims nothing, and nobody here knows its numbers.
  claim.has_numbers = claim.is_private || claim.epsilon || json.contains("sampling_rate");
  if (!claim.has_numbers) return claim;
  claim.delta = json.at("delta");
  claim.neighbouring = neighbouring_from(json.at("neighbouring"));
  claim.sampler = sampler_from(json.at("sampler"));
  claim.accountant = accountant_from(json.at("accountant"));
  claim.noise_multiplier = json.at("noise_multiplier");
  claim.sampling_rate = json.at("sampling_rate");
  claim.steps = whole_number(json.at("steps"));
  if (json.contains("steps_in_model")) claim.steps_in_model = whole_number(json["steps_in_model"]);
  claim.clipping = json.value("clipping", "");
  claim.num_records = whole_number(json.at("num_records"));
  if (json.contains("trained_elements")) claim.trained_elements = whole_number(json["trained_elements"]);
  claim.expected_batch_size = json.at("expected_batch_size");
  for (const Json& release : json.value("other_releases", Json::array())) {
    claim.other_releases.push_back({release.at("sampling_rate"), release.at("noise_multiplier"),
                                    whole_number(release.at("count")), sampler_from(release.at("sampler"))});
  }
  check_description(json, claim);
  return claim;
}

}  // namespace

PrivacyClaim claim_of(const Statement& statement) {
  try {
    return claim_from(statement.content);
  } catch (const Json::exception& error) {
    throw ConfigError(statement.file.string() + " is not a privacy statement: " + reason_of(error));
  } catch (const ConfigError& error) {
    throw ConfigError(statement.file.string() + ": " + error.what());
  }
}

PrivacyClaim read_claim(const std::filesystem::path& dp_metadata) { return claim_of(read_statement(dp_metadata)); }

double delta_of_tails(const PrivacyClaim& claim) {
  if (!claim.is_private) return 0;
  return delta_of_tails(claim.delta, all_steps(claim), claim.neighbouring,
                        std::max<std::int64_t>(2, claim.trained_elements));
}

std::optional<double> verified_epsilon(const PrivacyClaim& claim) {
  if (!claim.is_private) {
    if (!claim.epsilon) return std::nullopt;
    throw ConfigError(fmt::format("the model says that it is not private, and yet claims epsilon {}", *claim.epsilon));
  }
  if (!claim.epsilon) throw ConfigError("the model claims privacy, but states no epsilon");
  if (claim.num_records < 1) {
    throw ConfigError(fmt::format("the number of records is {}; it must be positive", claim.num_records));
  }
  const double expected = claim.sampling_rate * static_cast<double>(claim.num_records);
  if (!agree(expected, claim.expected_batch_size)) {
    throw ConfigError(fmt::format("the expected batch size is {}, but rate {} of {} makes {}",
                                  claim.expected_batch_size, claim.sampling_rate, counted(claim.num_records, "record"),
                                  expected));
  }
  std::vector<GaussianEvent> events = claim.other_releases;
  events.push_back(all_steps(claim));
  const double epsilon = epsilon_of(events, claim.delta, claim.accountant, claim.neighbouring);
  if (!std::isfinite(epsilon)) throw ConfigError("the model claims privacy, but its numbers give no finite epsilon");
  if (claim.steps_in_model < 0 || claim.steps_in_model > claim.steps) {
    throw ConfigError(fmt::format("the model holds {}, but states the cost of {}",
                                  counted(claim.steps_in_model, "step"), claim.steps));
  }
  if (!claim.clipping.empty() && std::ranges::find(kClippings, claim.clipping) == kClippings.end()) {
    throw ConfigError(
        fmt::format("the clipping is '{}', which is not known to bound a record; flat, automatic and "
                    "per-group are",
                    claim.clipping));
  }
  if (!agree(epsilon, *claim.epsilon)) {
    throw ConfigError(fmt::format("the model claims epsilon {}, but its own numbers make {}", *claim.epsilon, epsilon));
  }
  if (const double of_tails = delta_of_tails(claim); of_tails > claim.delta) {
    throw ConfigError(fmt::format("the ends of the noise, whose values stop at 9.49 deviations, may add {} to delta {}",
                                  up_to_digits(of_tails, 3), up_to_digits(claim.delta, 3)));
  }
  return epsilon;
}

}  // namespace dpldm::accounting
