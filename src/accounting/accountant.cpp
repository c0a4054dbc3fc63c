#include "accounting/accountant.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "accounting/events.h"
#include "accounting/pld.h"
#include "accounting/prv.h"
#include "accounting/rdp.h"
#include "base/error.h"
#include "base/words.h"

namespace dpldm::accounting {

std::string to_text(AccountantKind kind) {
  switch (kind) {
    case AccountantKind::kPld:
      return "pld";
    case AccountantKind::kRdp:
      return "rdp";
    case AccountantKind::kPrv:
      return "prv";
  }
  throw InternalError("unknown accountant");
}

std::string to_text(Neighbouring neighbouring) {
  switch (neighbouring) {
    case Neighbouring::kAddRemove:
      return "add-remove";
    case Neighbouring::kZeroOut:
      return "zero-out";
    case Neighbouring::kReplaceOne:
      return "replace-one";
  }
  throw InternalError("unknown neighbouring relation");
}

std::string to_text(Sampler sampler) { return sampler == Sampler::kPoisson ? "poisson" : "none"; }

AccountantKind accountant_from(const std::string& text) {
  for (auto kind : {AccountantKind::kPld, AccountantKind::kRdp, AccountantKind::kPrv}) {
    if (to_text(kind) == text) return kind;
  }
  throw ConfigError(fmt::format("the accountant is '{}'; it must be pld, rdp or prv", text));
}

Neighbouring neighbouring_from(const std::string& text) {
  for (auto relation : {Neighbouring::kAddRemove, Neighbouring::kZeroOut, Neighbouring::kReplaceOne}) {
    if (to_text(relation) == text) return relation;
  }
  throw ConfigError(
      fmt::format("the neighbouring relation is '{}'; it must be add-remove, zero-out or replace-one", text));
}

Sampler sampler_from(const std::string& text) {
  for (auto sampler : {Sampler::kPoisson, Sampler::kNone}) {
    if (to_text(sampler) == text) return sampler;
  }
  throw ConfigError(fmt::format("the sampler is '{}'; it must be poisson or none", text));
}

double epsilon_of(std::span<const GaussianEvent> events, double delta, AccountantKind kind, Neighbouring neighbouring) {
  switch (kind) {
    case AccountantKind::kPld:
      return pld_epsilon(events, delta, neighbouring);
    case AccountantKind::kRdp:
      return rdp_epsilon(events, delta, neighbouring).epsilon;
    case AccountantKind::kPrv:
      return prv_epsilon(events, delta, neighbouring).upper;
  }
  throw InternalError("unknown accountant");
}

void require_accounted(double epsilon, const GaussianEvent& event, AccountantKind kind) {
  if (!std::isinf(epsilon) || without_noise(simplified({&event, 1}))) return;
  throw ConfigError(
      fmt::format("the {} accountant cannot tell the cost of {} at rate {} with noise multiplier {}: its numbers reach "
                  "no finite epsilon, which does not say that there is none; take {}more noise or a larger rate",
                  to_text(kind), counted(event.count, "step"), event.sampling_rate, event.noise_multiplier,
                  kind == AccountantKind::kRdp ? "" : "the rdp accountant, "));
}

double default_delta(std::int64_t num_records) {
  if (num_records < 1) throw ConfigError(fmt::format("the number of records is {}; it must be positive", num_records));
  const auto n = static_cast<double>(num_records);
  return num_records == 1 ? 1e-5 : std::min(1e-5, 1 / (n * std::log(n)));
}

}  // namespace dpldm::accounting
