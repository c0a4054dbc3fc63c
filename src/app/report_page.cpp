#include "app/report_page.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/bound_text.h"
#include "accounting/ledger.h"
#include "accounting/ledger_witnesses.h"
#include "accounting/privacy_stamp.h"
#include "app/html.h"
#include "base/atomic_file.h"
#include "base/build_facts.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/unambiguous_json.h"
#include "io/json_file.h"

namespace dpldm::app {
namespace {

namespace fs = std::filesystem;
using accounting::PrivacyLedger;
using nlohmann::json;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20U;
constexpr std::size_t kCurvePoints = 32;  // each one is a run of the accountant
constexpr std::size_t kLossPoints = 200;

std::optional<json> json_if_there(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  return io::read_json_file(path);
}

// Lines that are whole; a crash may have cut the last one.
std::vector<json> read_metrics(const fs::path& path) {
  std::vector<json> lines;
  if (!path_exists(path)) return lines;
  require_regular_file(path);
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) {
    json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object()) lines.push_back(std::move(parsed));
  }
  return lines;
}

// Epsilon after a selection of the ledger's entries, the last one included.
std::vector<std::pair<double, double>> epsilon_curve(const PrivacyLedger& ledger) {
  const auto& entries = ledger.entries();
  const accounting::LedgerHeader& header = ledger.header();
  const std::size_t stride = std::max<std::size_t>(1, (entries.size() + kCurvePoints - 1) / kCurvePoints);
  std::vector<std::pair<double, double>> curve = {{0, 0}};
  std::vector<accounting::GaussianEvent> events;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const accounting::GaussianEvent& event = entries[i].event;
    const auto same = std::find_if(events.begin(), events.end(), [&](const accounting::GaussianEvent& e) {
      return e.sampling_rate == event.sampling_rate && e.noise_multiplier == event.noise_multiplier &&
             e.sampler == event.sampler;
    });
    if (same == events.end()) {
      events.push_back(event);
    } else {
      same->count += event.count;
    }
    if (i != 0 && (i + 1) % stride != 0 && i + 1 != entries.size()) continue;
    const double epsilon = accounting::epsilon_of(events, header.delta, header.accountant, header.neighbouring);
    if (std::isfinite(epsilon)) curve.emplace_back(static_cast<double>(i + 1), epsilon);
  }
  return curve;
}

std::string statement(const PrivacyLedger& ledger) {
  const accounting::LedgerHeader& header = ledger.header();
  const auto charged = static_cast<std::int64_t>(ledger.entries().size());
  if (!header.is_private) {
    return fmt::format(
        "<section class=\"warning\">\n<div class=\"big\"><strong>NOT PRIVATE</strong></div>\n"
        "<p>{}. Nothing of this run may be released as protected.</p>\n</section>\n",
        html_escape(header.not_private_because));
  }
  std::string text = fmt::format(
      "<section class=\"statement\">\n<div class=\"big\">&epsilon; = {} at &delta; = {}</div>\n"
      "<p>for each record that the run was trained on, under the {} relation; spent in {} of {} planned releases, "
      "within "
      "a budget of &epsilon; = {}.</p>\n",
      accounting::up_to_decimals(ledger.epsilon(), 3), accounting::up_to_digits(header.delta, 3),
      html_escape(to_text(header.neighbouring)), charged, header.planned_steps, header.target_epsilon);
  return text + "</section>\n";
}

std::string privacy_section(const PrivacyLedger& ledger, const std::optional<json>& metadata) {
  const accounting::LedgerHeader& header = ledger.header();
  TableRows rows = {
      {"records N", fmt::format("{}", header.num_records)},
      {"sampling", fmt::format("{}, rate q = {:.6g} (expected batch {:g})",
                               header.sampler == "poisson" ? "Poisson" : header.sampler, header.sampling_rate,
                               header.expected_batch_size)},
      {"releases charged T", fmt::format("{}", ledger.entries().size())},
      {"noise multiplier σ", fmt::format("{:.6g}", header.noise_multiplier)},
      {"clip norm C", fmt::format("{:g}", header.clip_norm)},
  };
  if (metadata) {
    rows.emplace_back("draws per record K", metadata->at("noise_multiplicity").dump() + " (averaged before the clip)");
    rows.emplace_back("trained", fmt::format("{} elements, set '{}'", metadata->at("trained_elements").dump(),
                                             metadata->at("trained_set").get<std::string>()));
  }
  rows.emplace_back("accountant", to_text(header.accountant));
  rows.emplace_back("neighbouring relation", to_text(header.neighbouring));
  rows.emplace_back("ledger", "complete and unbroken, head " + ledger.head().substr(0, 16));
  rows.emplace_back("program", "dpldm " + header.program_version);
  std::string section = "<h2>How it was protected</h2>\n" + html_table(rows);
  if (header.is_private) {
    const LineChart chart{.title = "Epsilon spent over the releases",
                          .x_label = "releases",
                          .y_label = "epsilon",
                          .points = epsilon_curve(ledger),
                          .limit = header.target_epsilon,
                          .limit_name = std::isfinite(header.target_epsilon) ? "budget" : ""};
    section += "<h2>Epsilon over the run</h2>\n<figure>\n" + svg_chart(chart) + "</figure>\n";
  }
  return section;
}

// Points averaged in equal groups, so that a noisy curve stays readable.
std::vector<std::pair<double, double>> thinned(const std::vector<json>& metrics, const char* key) {
  std::vector<std::pair<double, double>> all;
  for (const json& line : metrics) {
    if (line.contains(key) && line[key].is_number() && line.contains("step") && line["step"].is_number()) {
      all.emplace_back(line["step"].get<double>(), line[key].get<double>());
    }
  }
  const std::size_t group = std::max<std::size_t>(1, all.size() / kLossPoints);
  std::vector<std::pair<double, double>> points;
  for (std::size_t first = 0; first < all.size(); first += group) {
    const std::size_t end = std::min(first + group, all.size());
    double sum = 0;
    for (std::size_t i = first; i < end; ++i) sum += all[i].second;
    points.emplace_back(all[end - 1].first, sum / static_cast<double>(end - first));
  }
  return points;
}

std::string training_section(const std::vector<json>& metrics) {
  std::string section;
  const auto losses = thinned(metrics, "loss");  // of public data: private runs record none
  if (!losses.empty()) {
    section += "<h2>Loss</h2>\n<figure>\n" +
               svg_chart({.title = "Loss over the steps", .x_label = "steps", .y_label = "loss", .points = losses}) +
               "</figure>\n";
  }
  const auto times = thinned(metrics, "elapsed_seconds");
  if (!times.empty() && times.back().second > 0) {
    section += fmt::format("<p class=\"quiet\">{:g} steps in {}, {:.3g} steps per second.</p>\n", times.back().first,
                           duration_text(times.back().second), times.back().first / times.back().second);
  }
  return section;
}

std::string samples_section(const fs::path& run_dir, const std::optional<json>& metadata) {
  std::string caption = "Synthetic images, one row per class.";
  if (metadata && !metadata->at("class_names").empty()) {
    const auto names = metadata->at("class_names").get<std::vector<std::string>>();
    caption = fmt::format("Synthetic images, one row per class: {}.", fmt::join(names, ", "));
  }
  return "<h2>Samples</h2>\n<figure>\n" + html_picture(run_dir / "samples" / "grid.png", "A grid of synthetic images") +
         "<figcaption>" + html_escape(caption) + "</figcaption>\n</figure>\n";
}

std::string evaluation_section(const json& evaluation) {
  const json& accuracy = evaluation.at("accuracy");
  std::vector<std::string> seeds;
  for (const json& seed : accuracy.at("seeds")) seeds.push_back(fmt::format("{:.1f} %", 100 * seed.get<double>()));
  std::string section = fmt::format(
      "<h2>How useful the samples are</h2>\n<div class=\"figures\"><div><div class=\"big\">{:.1f} %</div>"
      "<div class=\"quiet\">accuracy on real images, &plusmn; {:.1f}</div></div>",
      100 * accuracy.at("mean").get<double>(), 100 * accuracy.at("sd").get<double>());
  if (evaluation.contains("frechet")) {
    section += fmt::format(
        "<div><div class=\"big\">{:.2f}</div><div class=\"quiet\">Frechet distance in the features of {}</div></div>",
        evaluation["frechet"].at("distance").get<double>(),
        html_escape(evaluation["frechet"].at("features").get<std::string>()));
  }
  section += fmt::format(
      "</div>\n<p>Classifiers trained on {} synthetic images alone, tested on {} held-out real ones ({}).</p>\n",
      evaluation.at("samples").at("num").get<std::int64_t>(), evaluation.at("reference").at("num").get<std::int64_t>(),
      html_escape(fmt::format("{}", fmt::join(seeds, ", "))));
  return section +
         fmt::format("<p class=\"quiet\">{}</p>\n", html_escape(evaluation.at("statement").get<std::string>()));
}

constexpr const char* kLimits = R"html(<h2>What the number does not cover</h2>
<ul>
<li>Choices made by looking at the private records or at a held-out real set: learning rate, number of steps, clip norm, what to release.</li>
<li>The number of records, the names of the classes and the image size, which are treated as public.</li>
<li>The machines that ran the job, and the data files themselves.</li>
<li>A person with several records: the unit of protection is one record.</li>
</ul>
)html";

// Only a run of `finetune` has settings of privacy, and it begins with a ledger.
bool saw_private_records(const fs::path& run_dir, const std::string& config) {
  return config.starts_with("privacy:") || config.find("\nprivacy:") != std::string::npos ||
         fs::exists(run_dir / "latents.opening") || fs::exists(run_dir / "model" / "dp_metadata.json");
}

}  // namespace

std::string report_page(const fs::path& run_dir) {
  if (!fs::exists(run_dir / "config.yaml")) throw IoError(run_dir.string() + " holds no run (there is no config.yaml)");
  const std::string config = read_file(run_dir / "config.yaml", kMaxConfigBytes);
  if (!fs::exists(run_dir / "ledger.jsonl") && saw_private_records(run_dir, config)) {
    throw IoError(
        run_dir.string() +
        " holds a run on private records whose ledger.jsonl is missing; nothing can be said about its privacy");
  }
  const std::string name = fs::absolute(run_dir).lexically_normal().filename().string();
  std::string body = fmt::format("<h1>Run &ldquo;{}&rdquo;</h1>\n<p class=\"quiet\">{}</p>\n", html_escape(name),
                                 html_escape(fs::absolute(run_dir).lexically_normal().string()));
  bool protects_nothing = false;
  try {
    std::optional<PrivacyLedger> ledger;
    if (fs::exists(run_dir / "ledger.jsonl")) {
      ledger = accounting::read_with_nothing_lost(run_dir / "ledger.jsonl", run_dir);
      const std::string difference = accounting::weights_beside_the_statement(run_dir / "model");
      if (!difference.empty()) throw IoError(difference + ": what was spent is not about them");
      accounting::require_own_statement(run_dir / "model");
    }
    protects_nothing = ledger && !ledger->header().is_private;
    const std::optional<json> metadata = json_if_there(run_dir / "model" / "dp_metadata.json");
    body +=
        ledger ? statement(*ledger)
               : "<section class=\"statement\">\n<div class=\"big\">Public data only</div>\n<p>This run saw no private "
                 "record, so there is nothing to account for.</p>\n</section>\n";
    if (ledger && !metadata) body += "<p class=\"quiet\">The run has not finished: it has left no model yet.</p>\n";
    if (fs::exists(run_dir / "samples" / "grid.png")) body += samples_section(run_dir, metadata);
    if (const auto evaluation = json_if_there(run_dir / "evaluation.json")) body += evaluation_section(*evaluation);
    if (ledger) body += privacy_section(*ledger, metadata) + (ledger->header().is_private ? kLimits : "");
    body += training_section(read_metrics(run_dir / "metrics.jsonl"));
  } catch (const json::exception& error) {
    throw IoError(
        fmt::format("{}: a file of the run lacks what the report needs: {}", run_dir.string(), reason_of(error)));
  }
  body += "<h2>Settings</h2>\n";
  if (protects_nothing) {
    body +=
        "<p>What stands under <code>privacy:</code> was asked for and is not what this run does: it is NOT "
        "PRIVATE.</p>\n";
  }
  body += "<details>\n<summary>config.yaml, every effective value</summary>\n<pre>" + html_escape(config) +
          "</pre>\n</details>\n";
  body += fmt::format("<footer>Written by dpldm {} from the files of the run.</footer>\n", program_version());
  return html_page("Run " + name, body);
}

}  // namespace dpldm::app
