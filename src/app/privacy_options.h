// What the questions of `dpldm privacy` about a planned run have in common: the setting and how it is accounted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cxxopts.hpp>

#include "accounting/accountant.h"

namespace dpldm::app {

// Adds --num-records, --delta, --accountant, --neighbouring and --json.
void add_accounting_options(cxxopts::Options& options);

struct AccountingChoice {
  double delta = 0;
  accounting::AccountantKind kind = accounting::AccountantKind::kPld;
  accounting::Neighbouring neighbouring = accounting::Neighbouring::kAddRemove;
};

// Without --delta it follows from --num-records; throws ConfigError when neither is given. Warns of a large delta.
AccountingChoice accounting_choice(const cxxopts::ParseResult& given);

// Logs a warning if there is one.
void warn_of(const std::optional<std::string>& caution);

// --sampling-rate, or --expected-batch over --num-records; none when neither is given.
std::optional<double> sampling_rate(const cxxopts::ParseResult& given);

}  // namespace dpldm::app
