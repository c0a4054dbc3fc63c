#include "app/privacy_command.h"

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/bound_text.h"
#include "accounting/caution.h"
#include "accounting/prv.h"
#include "app/arguments.h"
#include "app/privacy_options.h"
#include "base/error.h"
#include "base/words.h"

namespace dpldm::app {
namespace {

using accounting::AccountantKind;
using accounting::GaussianEvent;
using accounting::Sampler;
using Json = nlohmann::ordered_json;

struct Part {
  const char* name;
  const char* summary;
  void (*run)(int, char**);
};
constexpr std::array kParts{
    Part{"epsilon", "what a run costs", run_privacy_epsilon},
    Part{"calibrate", "how much noise, how many steps, or how large a sample a budget allows", run_privacy_calibrate},
    Part{"plan", "a table of choices for a budget, and a plot", run_privacy_plan},
    Part{"ledger", "what a run spent, from its ledger, verified", run_privacy_ledger},
    Part{"verify", "recompute a model's claim from its own numbers", run_privacy_verify},
};

void print_help() {
  fmt::print("Privacy accounting\n\nUsage: dpldm privacy WORD [OPTION...]\n\nWords:\n");
  for (const Part& part : kParts) fmt::print("  {:<10} {}\n", part.name, part.summary);
  fmt::print("\n`dpldm privacy WORD --help` lists the options of one.\n");
}

// JSON has no infinity: null stands for "no finite epsilon".
Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json setting_json(const GaussianEvent& event, const AccountingChoice& choice) {
  return {{"delta", choice.delta},
          {"accountant", to_text(choice.kind)},
          {"neighbouring", to_text(choice.neighbouring)},
          {"sampler", to_text(event.sampler)},
          {"sampling_rate", event.sampling_rate},
          {"noise_multiplier", event.noise_multiplier},
          {"steps", event.count}};
}

std::string setting_text(const GaussianEvent& event, const AccountingChoice& choice) {
  const std::string sampling =
      event.sampler == Sampler::kNone ? "no amplification" : fmt::format("q {:.6g}", event.sampling_rate);
  return fmt::format("{}, sigma {:.6g}, {}, delta {}, {}, {}", sampling, event.noise_multiplier,
                     counted(event.count, "step"), accounting::up_to_digits(choice.delta, 3),
                     to_text(choice.neighbouring), to_text(choice.kind));
}

void add_setting_options(cxxopts::Options& options) {
  options.add_options()("sampling-rate", "rate q of the Poisson sample", cxxopts::value<Number>(), "Q")(
      "expected-batch", "instead of the rate: q N", cxxopts::value<Number>(), "B")(
      "noise-multiplier", "sigma", cxxopts::value<Number>(), "S")("steps", "T", cxxopts::value<std::int64_t>(), "T");
}

}  // namespace

void run_privacy(Invocation& invocation) {
  const std::string word = invocation.argc() > 1 ? invocation.argv()[1] : "";
  if (word == "--help" || word == "-h" || word == "help") return print_help();
  std::string names;
  for (const Part& part : kParts) {
    if (word == part.name) {
      std::string program = std::string(invocation.argv()[0]) + " " + word;
      std::vector<char*> arguments(invocation.argv() + 1, invocation.argv() + invocation.argc());
      arguments[0] = program.data();
      const int count = static_cast<int>(arguments.size());
      arguments.push_back(nullptr);
      return part.run(count, arguments.data());
    }
    names += std::string(names.empty() ? "" : ", ") + part.name;
  }
  throw ConfigError(fmt::format("`dpldm privacy` takes one of {} first{}", names,
                                word.empty() ? "; see --help" : fmt::format("; it was given '{}'", word)));
}

void run_privacy_epsilon(int argc, char** argv) {
  cxxopts::Options options(argv[0], "What a run costs: an upper bound of epsilon.");
  add_setting_options(options);
  options.add_options()("sampler",
                        "poisson; or none, for no amplification: every record in every step, or, of shuffled data, "
                        "once in an epoch, and then --steps counts epochs. With none, --neighbouring is zero-out "
                        "unless given: add-remove has the same epsilon for every record in every step, and does not "
                        "hold for shuffled data, where one record less moves others to other batches",
                        cxxopts::value<std::string>()->default_value("poisson"), "W");
  add_accounting_options(options);
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  AccountingChoice choice = accounting_choice(given);
  GaussianEvent event;
  event.sampler = accounting::sampler_from(given["sampler"].as<std::string>());
  // Of the two with the same epsilon, the one that is true for shuffled data too.
  if (event.sampler == Sampler::kNone && given.count("neighbouring") == 0) {
    choice.neighbouring = accounting::Neighbouring::kZeroOut;
  }
  const auto rate = sampling_rate(given);
  if (!rate && event.sampler == Sampler::kPoisson) throw ConfigError("--sampling-rate is missing; see --help");
  if (rate && event.sampler == Sampler::kNone) {
    warn_of("the sampling rate does not count with --sampler none: every record takes part in each of --steps");
  }
  event.sampling_rate = rate.value_or(1);
  event.noise_multiplier = required_value<Number>(given, "noise-multiplier").value;
  event.count = required_value<std::int64_t>(given, "steps");

  Json answer;
  double epsilon = 0;
  if (choice.kind == AccountantKind::kPrv) {
    const accounting::PrvInterval interval = accounting::prv_epsilon({&event, 1}, choice.delta, choice.neighbouring);
    epsilon = interval.upper;
    answer = {{"epsilon", number_or_null(interval.upper)},
              {"lower", number_or_null(interval.lower)},
              {"estimate", number_or_null(interval.estimate)}};
  } else {
    epsilon = epsilon_of({&event, 1}, choice.delta, choice.kind, choice.neighbouring);
    answer = {{"epsilon", number_or_null(epsilon)}};
  }
  require_accounted(epsilon, event, choice.kind);
  answer.update(setting_json(event, choice));
  warn_of(accounting::caution_about_epsilon(epsilon));
  if (given.count("json") > 0) {
    fmt::print("{}\n", answer.dump());
  } else if (std::isfinite(epsilon)) {
    fmt::print("epsilon {}  ({})\n", accounting::up_to_decimals(epsilon, 6), setting_text(event, choice));
  } else {
    fmt::print("NOT PRIVATE: no finite epsilon  ({})\n", setting_text(event, choice));
  }
}

void run_privacy_calibrate(int argc, char** argv) {
  cxxopts::Options options(argv[0],
                           "The one of --noise-multiplier, --steps and --sampling-rate that is not given, so that the "
                           "run stays within epsilon.");
  add_setting_options(options);
  options.add_options()("epsilon", "the budget", cxxopts::value<Number>(), "E");
  add_accounting_options(options);
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  const AccountingChoice choice = accounting_choice(given);
  const auto epsilon = required_value<Number>(given, "epsilon").value;
  warn_of(accounting::caution_about_epsilon(epsilon));
  const auto rate = sampling_rate(given);
  const auto sigma = optional_number(given, "noise-multiplier");
  const auto steps = optional_value<std::int64_t>(given, "steps");
  if (int{rate.has_value()} + int{sigma.has_value()} + int{steps.has_value()} != 2) {
    throw ConfigError("give two of --sampling-rate (or --expected-batch), --noise-multiplier and --steps");
  }
  GaussianEvent event{rate.value_or(0), sigma.value_or(0), steps.value_or(0), Sampler::kPoisson};
  std::string found;
  if (!sigma) {
    found = "noise_multiplier";
    event.noise_multiplier =
        calibrate_noise_multiplier(*rate, *steps, epsilon, choice.delta, choice.kind, choice.neighbouring);
  } else if (!steps) {
    found = "steps";
    event.count = calibrate_steps(*rate, *sigma, epsilon, choice.delta, choice.kind, choice.neighbouring);
  } else {
    found = "sampling_rate";
    event.sampling_rate =
        calibrate_sampling_rate(*sigma, *steps, epsilon, choice.delta, choice.kind, choice.neighbouring);
  }
  const double spent = epsilon_of({&event, 1}, choice.delta, choice.kind, choice.neighbouring);
  Json answer = setting_json(event, choice);
  answer["epsilon"] = number_or_null(spent);
  if (given.count("json") > 0) {
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{} {}  (epsilon {}; {})\n", found, answer[found].dump(), accounting::up_to_decimals(spent, 6),
               setting_text(event, choice));
  }
}

}  // namespace dpldm::app
