// Does a ledger still hold everything that its run directory has seen of it?
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "accounting/ledger.h"

namespace dpldm::accounting {

// What a checkpoint's manifest carries as "sha256": the digest of all else that it says.
std::string manifest_digest(nlohmann::json manifest);

// A directory that was put back, or a ledger that lost its end, would make epsilon smaller than what was released.
// Every checkpoint (checkpoints/*/manifest.json, `ledger_head`), also one with damaged weights, and the statement of
// the model (model/dp_metadata.json) recorded the ledger's last line of their time. Throws IoError when the ledger
// lacks one of these lines, when the statement claims privacy and the ledger none, or when it claims less epsilon for
// the same line than the ledger makes; or when it has fewer steps than the name of any checkpoint says, whole or not,
// than privacy_statement.md or than the last lines of metrics.jsonl; and when the statement or the page cannot be read.
// A manifest that is missing from a finished checkpoint, cannot be read, or is
// not what its own digest says, is a witness that says nothing, with a warning. The ledger must be one that nobody
// charges meanwhile: the run's own.
void require_nothing_lost(const PrivacyLedger& ledger, const std::filesystem::path& run_dir);

// The ledger at `path`, held against `run_dir` in the same way. A run may be charging it: the witnesses are heard
// before it is read, so what they saw is in it.
PrivacyLedger read_with_nothing_lost(const std::filesystem::path& path, const std::filesystem::path& run_dir);

}  // namespace dpldm::accounting
