// A run directory as one page: privacy first, then pictures and scores, then settings.
#pragma once

#include <filesystem>
#include <string>

namespace dpldm::app {

// The page's HTML, from what the run left: ledger.jsonl, model/dp_metadata.json, metrics.jsonl, samples/grid.png,
// evaluation.json, config.yaml. What is not there is left out; a run without a ledger is one on public data. Throws
// IoError for a directory that holds no run and for files that are damaged (a broken ledger is never shown as a
// statement).
std::string report_page(const std::filesystem::path& run_dir);

}  // namespace dpldm::app
