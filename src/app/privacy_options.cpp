#include "app/privacy_options.h"

#include <fmt/format.h>

#include "accounting/caution.h"
#include "app/arguments.h"
#include "base/error.h"
#include "base/log.h"

namespace dpldm::app {

void add_accounting_options(cxxopts::Options& options) {
  options.add_options()("num-records", "number of private records N", cxxopts::value<std::int64_t>(), "N")(
      "delta", "default: min(1e-5, 1 / (N ln N))", cxxopts::value<Number>(), "D")(
      "accountant", "pld, rdp or prv", cxxopts::value<std::string>()->default_value("pld"), "A")(
      "neighbouring", "add-remove, zero-out or replace-one", cxxopts::value<std::string>()->default_value("add-remove"),
      "R")("json", "one JSON object on stdout");
}

AccountingChoice accounting_choice(const cxxopts::ParseResult& given) {
  AccountingChoice choice;
  choice.kind = accounting::accountant_from(given["accountant"].as<std::string>());
  choice.neighbouring = accounting::neighbouring_from(given["neighbouring"].as<std::string>());
  const auto num_records = optional_value<std::int64_t>(given, "num-records");
  const auto delta = optional_number(given, "delta");
  if (!delta && !num_records) throw ConfigError("give --delta, or --num-records from which it follows");
  choice.delta = delta ? *delta : accounting::default_delta(*num_records);
  if (num_records) warn_of(accounting::caution_about_delta(choice.delta, *num_records));
  return choice;
}

void warn_of(const std::optional<std::string>& caution) {
  if (caution) spdlog::warn("{}", *caution);
}

std::optional<double> sampling_rate(const cxxopts::ParseResult& given) {
  const auto rate = optional_number(given, "sampling-rate");
  const auto batch = optional_number(given, "expected-batch");
  if (rate && batch) throw ConfigError("give --sampling-rate or --expected-batch, not both");
  if (!batch) return rate;
  return *batch / static_cast<double>(required_value<std::int64_t>(given, "num-records"));
}

}  // namespace dpldm::app
