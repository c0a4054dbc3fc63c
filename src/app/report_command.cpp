// `dpldm report`: a run as one page.
#include <cxxopts.hpp>
#include <fmt/format.h>

#include "app/arguments.h"
#include "app/commands.h"
#include "app/report_page.h"
#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::app {

void run_report(Invocation& invocation) {
  cxxopts::Options options(invocation.argv()[0], "Write RUN_DIR/report.html, one self-contained page about a run.");
  // clang-format off
  options.add_options()
      ("run-dir", "the run's directory", cxxopts::value<std::string>(), "RUN_DIR");
  // clang-format on
  options.parse_positional({"run-dir"});
  options.positional_help("RUN_DIR");
  const auto arguments = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!arguments) return;
  const cxxopts::ParseResult& parsed = *arguments;
  if (parsed.count("run-dir") == 0) throw ConfigError("RUN_DIR is missing; see --help");
  const std::filesystem::path run_dir = parsed["run-dir"].as<std::string>();
  const std::filesystem::path page = run_dir / "report.html";
  write_file_atomically(page, report_page(run_dir));
  fmt::print("{}\n", page.string());
}

}  // namespace dpldm::app
