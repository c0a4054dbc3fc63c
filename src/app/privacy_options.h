// What the questions of `dpldm privacy` about a planned run have in common: the setting and how it is accounted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cxxopts.hpp>

#include "accounting/accountant.h"
#include "base/error.h"

namespace dpldm::app {

// Adds --num-records, --delta, --accountant, --neighbouring, --json and --help.
void add_accounting_options(cxxopts::Options& options);

// The command line, of which every argument counts: throws ConfigError for one that no option takes, and for an option
// that is given twice. (Lists have commas, so giving an option twice is a slip.)
cxxopts::ParseResult parse_strictly(cxxopts::Options& options, int argc, char** argv);

struct AccountingChoice {
  double delta = 0;
  accounting::AccountantKind kind = accounting::AccountantKind::kPld;
  accounting::Neighbouring neighbouring = accounting::Neighbouring::kAddRemove;
};

// Without --delta it follows from --num-records; throws ConfigError when neither is given. Warns of a large delta.
AccountingChoice accounting_choice(const cxxopts::ParseResult& given);

// Warns when delta is above 1 / N: then publishing one record in full would satisfy the claim.
void warn_of_large_delta(double delta, std::int64_t num_records);

// Warns of an epsilon so large that it says next to nothing.
void warn_of_large_epsilon(double epsilon);

// The value of an option that may be absent.
template <class T>
std::optional<T> optional_value(const cxxopts::ParseResult& given, const std::string& name) {
  return given.count(name) > 0 ? std::optional<T>(given[name].as<T>()) : std::nullopt;
}

// The same for a number (app/number_option.h).
std::optional<double> optional_number(const cxxopts::ParseResult& given, const std::string& name);

// The option's value; throws ConfigError naming it when it is absent.
template <class T>
T required_value(const cxxopts::ParseResult& given, const std::string& name) {
  if (given.count(name) == 0)
    throw ConfigError(name == "path" ? "the path is missing; see --help" : "--" + name + " is missing; see --help");
  return given[name].as<T>();
}

// --sampling-rate, or --expected-batch over --num-records; none when neither is given.
std::optional<double> sampling_rate(const cxxopts::ParseResult& given);

// Prints usage and returns true for --help.
bool asked_for_help(const cxxopts::Options& options, const cxxopts::ParseResult& given);

}  // namespace dpldm::app
