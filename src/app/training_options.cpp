#include "app/training_options.h"

#include <vector>

#include <cxxopts.hpp>
#include <fmt/format.h>

#include "app/arguments.h"
#include "base/error.h"
#include "base/utf8.h"
#include "train/stop_request.h"

namespace dpldm::app {
namespace {

void add_outline_options(cxxopts::Options& options) {
  // clang-format off
  options.add_options()
      ("network", "with --dry-run, in place of a base model and data: a configuration of `dpldm pretrain` for the network",
       cxxopts::value<std::string>(), "FILE")
      ("text-encoder", "with --network: config.json of the text encoder, for a model with text",
       cxxopts::value<std::string>(), "FILE")
      ("records", "with --network: how many private records there would be", cxxopts::value<std::int64_t>(), "N")
      ("classes", "with --network: how many classes they would have", cxxopts::value<std::int64_t>(), "K");
  // clang-format on
}

train::OutlineOptions outline_options_from(const cxxopts::ParseResult& parsed) {
  train::OutlineOptions outline;
  if (parsed.count("network") == 0) {
    if (parsed.count("records") + parsed.count("classes") + parsed.count("text-encoder") > 0) {
      throw ConfigError("--records, --classes and --text-encoder go with --network");
    }
    return outline;
  }
  if (parsed.count("dry-run") == 0) throw ConfigError("--network is for a --dry-run; a run takes model.base");
  if (parsed.count("records") == 0) throw ConfigError("--records is missing: how many private records there would be");
  outline.network = parsed["network"].as<std::string>();
  outline.num_records = parsed["records"].as<std::int64_t>();
  if (parsed.count("text-encoder") > 0) outline.text_encoder = parsed["text-encoder"].as<std::string>();
  if (parsed.count("classes") > 0) outline.num_classes = parsed["classes"].as<std::int64_t>();
  if (outline.num_records < 1) {
    throw ConfigError(fmt::format("--records is {}; it must be at least 1", outline.num_records));
  }
  if (outline.num_classes < 0 || outline.num_classes > 4000) {
    throw ConfigError(fmt::format("--classes is {}; 0 to 4000 are allowed", outline.num_classes));
  }
  return outline;
}

}  // namespace

std::optional<train::RunOptions> read_training_options(Invocation& invocation, const std::string& about,
                                                       config::Schema& schema, train::OutlineOptions* outline) {
  cxxopts::Options options(invocation.argv()[0], about);
  // clang-format off
  options.add_options()
      ("config", "YAML file; configs/README.md lists its keys", cxxopts::value<std::string>(), "FILE")
      ("set", "override one key; may be given several times, the last one for a key counts", cxxopts::value<std::vector<std::string>>(), "KEY=VALUE")
      ("run-dir", "where the run writes", cxxopts::value<std::string>(), "DIR")
      ("resume", "go on from the newest checkpoint in the run directory")
      ("dry-run", "build everything, print what would be done, stop")
      ("print-config", "print the effective configuration and stop");
  // clang-format on
  if (outline != nullptr) add_outline_options(options);
  // A value may contain commas (lists), so cxxopts must not split at them: every --set is one assignment.
  std::vector<std::string> assignments;
  std::vector<char*> rest;
  for (int i = 0; i < invocation.argc(); ++i) {
    const std::string argument = invocation.argv()[i];
    if (argument == "--set" && i + 1 < invocation.argc()) {
      assignments.emplace_back(invocation.argv()[++i]);
    } else if (argument.starts_with("--set=")) {
      assignments.push_back(argument.substr(6));
    } else {
      rest.push_back(invocation.argv()[i]);
    }
  }
  const auto arguments = parse_or_help(options, static_cast<int>(rest.size()), rest.data());
  if (!arguments) return std::nullopt;
  const cxxopts::ParseResult& parsed = *arguments;
  if (parsed.count("config") > 0) schema.load_file(parsed["config"].as<std::string>());
  for (const std::string& assignment : assignments) schema.set(assignment);
  if (parsed.count("print-config") > 0) {
    fmt::print("{}", schema.dump());
    return std::nullopt;
  }
  if (outline != nullptr) *outline = outline_options_from(parsed);
  train::RunOptions run;
  run.resume = parsed.count("resume") > 0;
  run.dry_run = parsed.count("dry-run") > 0;
  if (parsed.count("run-dir") > 0) {
    run.run_dir = parsed["run-dir"].as<std::string>();
  } else if (!run.dry_run) {
    throw ConfigError("--run-dir is missing; it names the directory that the run writes to");
  }
  // It goes into JSON, the statement and the report.
  if (!is_utf8(run.run_dir.string())) throw ConfigError("--run-dir holds bytes that are not UTF-8");
  train::listen_for_stop_signals();
  return run;
}

}  // namespace dpldm::app
