#include "app/privacy_options.h"

#include <cmath>
#include <set>

#include <fmt/format.h>

#include "app/number_option.h"
#include "base/error.h"
#include "base/log.h"

namespace dpldm::app {

void add_accounting_options(cxxopts::Options& options) {
  options.add_options()("num-records", "number of private records N", cxxopts::value<std::int64_t>(), "N")(
      "delta", "default: min(1e-5, 1 / (N ln N))", cxxopts::value<Number>(), "D")(
      "accountant", "pld, rdp or prv", cxxopts::value<std::string>()->default_value("pld"), "A")(
      "neighbouring", "add-remove, zero-out or replace-one", cxxopts::value<std::string>()->default_value("add-remove"),
      "R")("json", "one JSON object on stdout")("h,help", "print this");
}

cxxopts::ParseResult parse_strictly(cxxopts::Options& options, int argc, char** argv) {
  cxxopts::ParseResult given = options.parse(argc, argv);
  if (!given.unmatched().empty()) {
    throw ConfigError("unexpected argument '" + given.unmatched().front() + "'; see --help");
  }
  std::set<std::string> names;
  for (const cxxopts::KeyValue& argument : given.arguments()) {
    if (!names.insert(argument.key()).second) throw ConfigError("--" + argument.key() + " is given twice");
  }
  return given;
}

std::optional<double> optional_number(const cxxopts::ParseResult& given, const std::string& name) {
  const auto number = optional_value<Number>(given, name);
  return number ? std::optional<double>(number->value) : std::nullopt;
}

AccountingChoice accounting_choice(const cxxopts::ParseResult& given) {
  AccountingChoice choice;
  choice.kind = accounting::accountant_from(given["accountant"].as<std::string>());
  choice.neighbouring = accounting::neighbouring_from(given["neighbouring"].as<std::string>());
  const auto num_records = optional_value<std::int64_t>(given, "num-records");
  const auto delta = optional_number(given, "delta");
  if (!delta && !num_records) throw ConfigError("give --delta, or --num-records from which it follows");
  choice.delta = delta ? *delta : accounting::default_delta(*num_records);
  if (num_records) warn_of_large_delta(choice.delta, *num_records);
  return choice;
}

void warn_of_large_delta(double delta, std::int64_t num_records) {
  if (delta * static_cast<double>(num_records) > 1) {
    spdlog::warn("delta {:.3g} is above 1 / N = {:.3g}: publishing one record in full would satisfy it", delta,
                 1 / static_cast<double>(num_records));
  }
}

void warn_of_large_epsilon(double epsilon) {
  if (std::isfinite(epsilon) && epsilon > 10) {
    spdlog::warn(
        "epsilon {:.4g} bounds the odds about one record by a factor of {:.2g}: hardly any protection by this "
        "number alone",
        epsilon, std::exp(epsilon));
  }
}

std::optional<double> sampling_rate(const cxxopts::ParseResult& given) {
  const auto rate = optional_number(given, "sampling-rate");
  const auto batch = optional_number(given, "expected-batch");
  if (rate && batch) throw ConfigError("give --sampling-rate or --expected-batch, not both");
  if (!batch) return rate;
  return *batch / static_cast<double>(required_value<std::int64_t>(given, "num-records"));
}

bool asked_for_help(const cxxopts::Options& options, const cxxopts::ParseResult& given) {
  if (given.count("help") == 0) return false;
  fmt::print("{}", options.help());
  return true;
}

}  // namespace dpldm::app
