// How long a step's noise, its charge and its budget check take on this CPU, for a given number of trained parameters.
#include <algorithm>
#include <chrono>
#include <cmath>
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

// The least of three runs, in milliseconds.
template <class Work>
double milliseconds(const Work& work) {
  double best = 1e300;
  for (int run = 0; run < 3; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
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
  std::chrono::duration<double, std::milli> checks{};
  std::chrono::duration<double, std::milli> charges{};
  std::chrono::duration<double, std::milli> bounds{};
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    ledger.epsilon_after(event);
    const auto checked = std::chrono::steady_clock::now();
    ledger.charge({step, 0, "step", event});
    const auto charged = std::chrono::steady_clock::now();
    ledger.epsilon_bound();
    checks += checked - begin;
    charges += charged - checked;
    bounds += std::chrono::steady_clock::now() - charged;
  }
  fmt::print("budget check, mean of {} steps                {:>10.3f} ms\n", steps,
             checks.count() / static_cast<double>(steps));
  fmt::print("charge, synced to disk                        {:>10.3f} ms\n",
             charges.count() / static_cast<double>(steps));
  fmt::print("epsilon for the progress line                 {:>10.3f} ms\n",
             bounds.count() / static_cast<double>(steps));
  std::filesystem::remove_all(directory);
}
