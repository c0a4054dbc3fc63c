// How long a step's noise, its charge and its budget check take on this CPU, for a given number of trained parameters.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "accounting/ledger.h"
#include "dp/keystream.h"
#include "dp/lattice_sum.h"
#include "dp/record_selection.h"

namespace {

// The least of three runs, in milliseconds of processor time: right on a busy machine too.
template <class Work>
double milliseconds(const Work& work) {
  double best = 1e300;
  for (int run = 0; run < 3; ++run) {
    const std::clock_t begin = std::clock();
    work();
    best = std::min(best, 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace dpldm;
  cxxopts::Options options("perf_noise_speed", "Times what a private step adds to its gradients, on one CPU core.");
  options.add_options()("parameters", "trained parameters", cxxopts::value<std::size_t>()->default_value("24000000"))(
      "records", "private records", cxxopts::value<std::int64_t>()->default_value("60000"))(
      "steps", "charges that are timed", cxxopts::value<std::int64_t>()->default_value("200"));
  const auto given = options.parse(argc, argv);
  const auto parameters = given["parameters"].as<std::size_t>();
  const auto records = given["records"].as<std::int64_t>();
  const auto steps = given["steps"].as<std::int64_t>();

  const dp::SecretKey key = dp::MasterKey::draw().derive({}, "timing");
  const dp::Keystream stream(key, 0);
  const auto report = [&](const char* what, double time, double items, const char* unit) {
    fmt::print("{:<44} {:>10.3f} ms   {:>8.1f} million {}/s\n", what, time, items / time / 1e3, unit);
  };
  {
    std::vector<std::uint64_t> words(parameters);
    report("keystream, 8 bytes a parameter", milliseconds([&] { stream.words(0, words); }),
           static_cast<double>(parameters), "words");
  }
  {
    std::vector<float> noise(parameters);
    report("normal noise, fp32", milliseconds([&] { stream.gaussians(0, noise, 1.0); }),
           static_cast<double>(parameters), "values");
  }
  {
    std::vector<std::int64_t> noise(parameters);
    report("normal noise, rounded to int64", milliseconds([&] { stream.rounded_gaussians(0, noise, 1 << 24); }),
           static_cast<double>(parameters), "values");
    const std::vector<float> record(parameters, static_cast<float>(0.9 / std::sqrt(static_cast<double>(parameters))));
    dp::LatticeSum sum(parameters, records);
    report("one record onto the grid", milliseconds([&] { sum.add_record(record); }), static_cast<double>(parameters),
           "values");
  }
  report("selection", milliseconds([&] { dp::selected_records(key, 0, records, 0.01); }), static_cast<double>(records),
         "records");

  const std::filesystem::path directory =
      std::filesystem::temp_directory_path() / ("dpldm-perf-noise-" + std::to_string(::getpid()));
  std::filesystem::create_directories(directory);
  accounting::LedgerHeader header;
  header.num_records = records;
  header.sampling_rate = 0.01;
  header.noise_multiplier = 1;
  header.planned_steps = steps;
  header.target_epsilon = 10;
  header.delta = 1e-6;
  auto ledger = accounting::PrivacyLedger::create(directory / "ledger.jsonl", header);
  const accounting::GaussianEvent event{0.01, 1.0, 1, accounting::Sampler::kPoisson};
  // Processor time but for the charge, which waits for the disk.
  double checks = 0;
  double bounds = 0;
  std::chrono::duration<double, std::milli> charges{};
  const auto since = [](std::clock_t begin) {
    return 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  };
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::clock_t check = std::clock();
    ledger.epsilon_after(event);
    checks += since(check);
    const auto charge = std::chrono::steady_clock::now();
    ledger.charge({step, 0, "step", event});
    charges += std::chrono::steady_clock::now() - charge;
    const std::clock_t bound = std::clock();
    ledger.epsilon_bound();
    bounds += since(bound);
  }
  const auto n = static_cast<double>(steps);
  fmt::print("{:<44} {:>10.3f} ms\n", fmt::format("budget check, mean of {} steps", steps), checks / n);
  fmt::print("{:<44} {:>10.3f} ms (wall)\n", "charge, synced to disk", charges.count() / n);
  fmt::print("{:<44} {:>10.3f} ms\n", "epsilon for the progress line", bounds / n);
  std::filesystem::remove_all(directory);
}
