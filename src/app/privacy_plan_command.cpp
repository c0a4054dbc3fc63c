#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "app/arguments.h"
#include "app/privacy_command.h"
#include "app/privacy_options.h"
#include "base/error.h"
#include "base/words.h"
#include "io/plot.h"

namespace dpldm::app {
namespace {

using Json = nlohmann::ordered_json;

// One way to spend the budget.
struct Choice {
  std::int64_t expected_batch = 0;
  std::int64_t steps = 0;
  double sampling_rate = 0;
  double noise_multiplier = 0;
  // Noise in the averaged gradient, sigma / B, over the same for batches of all records: no batch of that many steps
  // has less. 1 is the best that can be had.
  double relative_noise = 0;
  double cost = 0;  // records processed
};

// A few sizes over the whole range, when the user names none.
std::vector<std::int64_t> default_batches(std::int64_t num_records) {
  std::vector<std::int64_t> batches;
  for (std::int64_t batch = 64; batch < num_records; batch *= 4) batches.push_back(batch);
  batches.push_back(num_records);
  return batches;
}

class Planner {
 public:
  Planner(std::int64_t num_records, double epsilon, const AccountingChoice& accounting)
      : num_records_(num_records), epsilon_(epsilon), accounting_(accounting) {}

  Choice choose(std::int64_t expected_batch, std::int64_t steps) {
    if (expected_batch < 1 || expected_batch > num_records_) {
      throw ConfigError(fmt::format("--expected-batch is {}; it must be between 1 and the number of records, {}",
                                    expected_batch, num_records_));
    }
    if (steps < 1)
      throw ConfigError(fmt::format("{} were asked for; there must be at least one", counted(steps, "step")));
    Choice choice;
    choice.expected_batch = expected_batch;
    choice.steps = steps;
    choice.sampling_rate = static_cast<double>(expected_batch) / static_cast<double>(num_records_);
    choice.noise_multiplier = noise(choice.sampling_rate, steps);
    choice.relative_noise = choice.noise_multiplier / choice.sampling_rate / full_batch_noise(steps);
    choice.cost = static_cast<double>(expected_batch) * static_cast<double>(steps);
    return choice;
  }

 private:
  double noise(double rate, std::int64_t steps) const {
    return accounting::calibrate_noise_multiplier(rate, steps, epsilon_, accounting_.delta, accounting_.kind,
                                                  accounting_.neighbouring);
  }
  double full_batch_noise(std::int64_t steps) {
    const auto known = full_batch_noise_.find(steps);
    if (known != full_batch_noise_.end()) return known->second;
    return full_batch_noise_[steps] = noise(1, steps);
  }

  std::int64_t num_records_;
  double epsilon_;
  AccountingChoice accounting_;
  std::map<std::int64_t, double> full_batch_noise_;  // by steps
};

// One line of the plot: the choices with the same number of steps, or of epochs.
struct Line {
  std::string label;
  std::vector<Choice> choices;
};

void print_table(const std::vector<Line>& lines, std::int64_t num_records) {
  fmt::print("{:>14} {:>9} {:>9} {:>10} {:>10} {:>12} {:>14}\n", "expected batch", "steps", "epochs", "rate q", "sigma",
             "noise/best", "records");
  for (const Line& line : lines) {
    for (const Choice& c : line.choices) {
      fmt::print("{:>14} {:>9} {:>9.4g} {:>10.4g} {:>10} {:>12.3f} {:>14.4g}\n", c.expected_batch, c.steps,
                 c.cost / static_cast<double>(num_records), c.sampling_rate,
                 accounting::up_to_decimals(c.noise_multiplier, 4), c.relative_noise, c.cost);
    }
  }
  fmt::print(
      "\nnoise/best: noise in the averaged gradient over that of full batches for as many steps. records: how many "
      "are processed.\n");
}

Json lines_json(const std::vector<Line>& lines) {
  Json choices = Json::array();
  for (const Line& line : lines) {
    for (const Choice& c : line.choices) {
      choices.push_back({{"expected_batch_size", c.expected_batch},
                         {"steps", c.steps},
                         {"sampling_rate", c.sampling_rate},
                         {"noise_multiplier", c.noise_multiplier},
                         {"relative_noise", c.relative_noise},
                         {"records_processed", c.cost}});
    }
  }
  return choices;
}

void write_plan_plot(const std::string& path, const std::vector<Line>& lines, double epsilon, double delta) {
  io::Plot plot;
  plot.title =
      fmt::format("Noise in the averaged gradient, epsilon {}, delta {}", epsilon, accounting::up_to_digits(delta, 3));
  plot.x_label = "expected batch size";
  plot.y_label = "relative to full batches";
  plot.log_x = plot.log_y = plot.markers = true;
  for (const Line& line : lines) {
    io::PlotSeries series{line.label, {}, {}};
    for (const Choice& choice : line.choices) {
      series.x.push_back(static_cast<double>(choice.expected_batch));
      series.y.push_back(choice.relative_noise);
    }
    plot.series.push_back(series);
  }
  io::write_plot(path, plot);
}

}  // namespace

void run_privacy_plan(int argc, char** argv) {
  cxxopts::Options options(argv[0], "A table of ways to spend a budget: noise and cost for batch sizes and lengths.");
  options.add_options()("expected-batch", "batch sizes, with commas (default: a few up to N)",
                        cxxopts::value<std::vector<std::int64_t>>(), "B,...")(
      "steps", "numbers of steps, with commas", cxxopts::value<std::vector<std::int64_t>>(), "T,...")(
      "epochs", "instead of steps: passes over the records", cxxopts::value<std::vector<Number>>(), "P,...")(
      "epsilon", "the budget", cxxopts::value<Number>(), "E")("plot", "also draw it", cxxopts::value<std::string>(),
                                                              "X.png");
  add_accounting_options(options);
  const auto arguments = parse_or_help(options, argc, argv);
  if (!arguments) return;
  const cxxopts::ParseResult& given = *arguments;
  const auto num_records = required_value<std::int64_t>(given, "num-records");
  const auto epsilon = required_value<Number>(given, "epsilon").value;
  const auto plot = optional_value<std::string>(given, "plot");
  if (plot && !plot->ends_with(".png")) {
    throw ConfigError(fmt::format("--plot is '{}'; the plot is a PNG file, so its name must end in .png", *plot));
  }
  const AccountingChoice accounting = accounting_choice(given);
  if ((given.count("steps") > 0) == (given.count("epochs") > 0))
    throw ConfigError("give --steps or --epochs, one of them");
  const auto batches =
      optional_value<std::vector<std::int64_t>>(given, "expected-batch").value_or(default_batches(num_records));

  Planner planner(num_records, epsilon, accounting);
  std::vector<Line> lines;
  for (std::int64_t steps :
       optional_value<std::vector<std::int64_t>>(given, "steps").value_or(std::vector<std::int64_t>{})) {
    Line line{counted(steps, "step"), {}};
    for (std::int64_t batch : batches) line.choices.push_back(planner.choose(batch, steps));
    lines.push_back(line);
  }
  for (const auto [epochs] : optional_value<std::vector<Number>>(given, "epochs").value_or(std::vector<Number>{})) {
    if (!(epochs > 0 && epochs < 1e9)) throw ConfigError(fmt::format("--epochs is {}; it must be positive", epochs));
    Line line{fmt::format("{:g} {}", epochs, epochs == 1 ? "epoch" : "epochs"), {}};
    for (std::int64_t batch : batches) {
      const double steps =
          std::ceil(epochs * static_cast<double>(num_records) / static_cast<double>(std::max<std::int64_t>(1, batch)));
      line.choices.push_back(planner.choose(batch, static_cast<std::int64_t>(steps)));
    }
    lines.push_back(line);
  }

  if (given.count("json") > 0) {
    const Json answer{{"epsilon", epsilon},
                      {"delta", accounting.delta},
                      {"accountant", to_text(accounting.kind)},
                      {"neighbouring", to_text(accounting.neighbouring)},
                      {"num_records", num_records},
                      {"choices", lines_json(lines)}};
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{}, epsilon {}, delta {}, {}, {}\n\n", counted(num_records, "record"), epsilon,
               accounting::up_to_digits(accounting.delta, 3), to_text(accounting.neighbouring),
               to_text(accounting.kind));
    print_table(lines, num_records);
  }
  if (plot) write_plan_plot(*plot, lines, epsilon, accounting.delta);
}

}  // namespace dpldm::app
