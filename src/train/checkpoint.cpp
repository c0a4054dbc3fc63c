#include "train/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "accounting/checkpoint_name.h"
#include "accounting/ledger_witnesses.h"
#include "base/atomic_file.h"
#include "base/build_facts.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/unambiguous_json.h"
#include "base/watchdog.h"
#include "io/safetensors.h"

namespace dpldm::train {
namespace {

namespace fs = std::filesystem;
using accounting::CheckpointName;
using nlohmann::json;

constexpr const char* kFormat = "dpldm-checkpoint";
constexpr int kVersion = 1;
constexpr const char* kManifest = "manifest.json";
constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20;
constexpr const char* kTemporary = ".tmp";
// A checkpoint that is being replaced by one of the same step, for the moment between two renames.
constexpr const char* kReplaced = ".replaced";

// Those that are checkpoints', whole or not.
std::vector<CheckpointName> checkpoints_in(const fs::path& directory) {
  const WatchedFileCall watched("listing", directory);
  std::vector<CheckpointName> names;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error == std::errc::no_such_file_or_directory) return names;
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    if (auto name = accounting::checkpoint_name_from(entries->path().filename().string())) {
      names.push_back(std::move(*name));
    }
  }
  if (error) throw IoError(fmt::format("cannot list {}: {}", directory.string(), error.message()));
  return names;
}

// Says in `error` what went wrong.
void remove_directory(const fs::path& directory, std::error_code& error) {
  const WatchedFileCall watched("removing", directory);
  fs::remove_all(directory, error);
}

void rename_directory(const fs::path& from, const fs::path& to) {
  const WatchedFileCall watched("renaming", from);
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw IoError(fmt::format("cannot rename {} to {}: {}", from.string(), to.string(), error.message()));
}

void require_plain_name(const std::string& name, const std::string& where) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos && name != kManifest;
  if (!plain) throw IoError(fmt::format("{} names a file '{}'; only plain names are allowed", where, name));
}

std::uintmax_t bytes_of(const fs::path& path) {
  const WatchedFileCall watched("looking at", path);
  std::error_code error;
  const std::uintmax_t num_bytes = fs::file_size(path, error);
  if (error) throw IoError(fmt::format("{}: {}", path.string(), error.message()));
  return num_bytes;
}

json manifest_of(const CheckpointInfo& info, const fs::path& directory, std::span<const CheckpointFile> files) {
  json list = json::array();
  for (const CheckpointFile& file : files) {
    const fs::path path = directory / file.name;
    list.push_back({{"name", file.name}, {"bytes", bytes_of(path)}, {"sha256", sha256_of_file(path)}});
  }
  json manifest = {{"format", kFormat},
                   {"version", kVersion},
                   {"program_version", program_version()},
                   {"step", info.step},
                   {"config_hash", info.config_hash},
                   {"num_ranks", info.num_ranks},
                   {"ledger_head", info.ledger_head},
                   {"files", std::move(list)},
                   {"extra", info.extra}};
  manifest["sha256"] = accounting::manifest_digest(manifest);
  return manifest;
}

void verify_file(const fs::path& directory, const json& entry) {
  const auto name = entry.at("name").get<std::string>();
  require_plain_name(name, (directory / kManifest).string());
  const fs::path path = directory / name;
  const std::uintmax_t num_bytes = bytes_of(path);
  if (const auto expected = entry.at("bytes").get<std::uintmax_t>(); num_bytes != expected) {
    throw IoError(fmt::format("{} has {} bytes instead of {}", path.string(), num_bytes, expected));
  }
  if (sha256_of_file(path) != entry.at("sha256").get<std::string>()) {
    throw IoError(fmt::format("{} has another SHA-256 than its manifest says", path.string()));
  }
}

}  // namespace

CheckpointFile tensor_file(const std::string& name, std::map<std::string, at::Tensor> tensors,
                           std::map<std::string, std::string> metadata) {
  return {name, [tensors = std::move(tensors), metadata = std::move(metadata)](const fs::path& path) {
            io::write_safetensors(path, {tensors.begin(), tensors.end()}, metadata);
          }};
}

CheckpointFile text_file(const std::string& name, std::string text) {
  return {name, [text = std::move(text)](const fs::path& path) { write_file_atomically(path, text); }};
}

fs::path Checkpoint::path_of(const std::string& name) const {
  if (std::find(files.begin(), files.end(), name) == files.end()) {
    throw IoError(fmt::format("the checkpoint {} has no file {}", directory.string(), name));
  }
  return directory / name;
}

std::map<std::string, at::Tensor> Checkpoint::tensors(const std::string& name) const {
  const io::NamedTensors named = io::read_safetensors(path_of(name));
  return {named.begin(), named.end()};
}

Checkpoint verify_checkpoint(const fs::path& directory) {
  const fs::path path = directory / kManifest;
  const std::string text = read_file(path, kMaxManifestBytes);
  try {
    const json manifest = json::parse(text);
    if (manifest.at("format") != kFormat) throw IoError(path.string() + " is not a checkpoint's manifest");
    if (const int version = manifest.at("version").get<int>(); version != kVersion) {
      throw IoError(fmt::format("{} has format version {}; this program reads {}", path.string(), version, kVersion));
    }
    if (manifest.at("sha256").get<std::string>() != accounting::manifest_digest(manifest)) {
      throw IoError(path.string() + " was altered: its own SHA-256 does not match");
    }
    Checkpoint checkpoint;
    checkpoint.directory = directory;
    checkpoint.info = {.step = manifest.at("step").get<std::int64_t>(),
                       .config_hash = manifest.at("config_hash").get<std::string>(),
                       .num_ranks = manifest.at("num_ranks").get<int>(),
                       .ledger_head = manifest.at("ledger_head").get<std::string>(),
                       .extra = manifest.at("extra")};
    checkpoint.sha256 = manifest.at("sha256").get<std::string>();
    for (const json& entry : manifest.at("files")) {
      verify_file(directory, entry);
      checkpoint.files.push_back(entry.at("name").get<std::string>());
    }
    return checkpoint;
  } catch (const json::exception& error) {
    throw IoError(fmt::format("{} cannot be read: {}", path.string(), reason_of(error)));
  }
}

CheckpointStore::CheckpointStore(fs::path directory, std::int64_t keep_last, std::int64_t keep_every)
    : directory_(std::move(directory)), keep_last_(keep_last), keep_every_(keep_every) {
  if (keep_last_ < 1 || keep_every_ < 0) {
    throw ConfigError(
        fmt::format("checkpoint.keep_last is {} and checkpoint.keep_every {}; they must be at least 1 and 0",
                    keep_last_, keep_every_));
  }
}

void CheckpointStore::save(const CheckpointInfo& info, std::span<const CheckpointFile> files) const {
  const fs::path final_name = directory_ / to_text(CheckpointName{info.step, ""});
  const fs::path temporary = final_name.string() + kTemporary;
  make_directories(directory_);
  remove_leftovers();
  try {
    make_directories(temporary);
    for (const CheckpointFile& file : files) {
      require_plain_name(file.name, "a checkpoint");
      file.write(temporary / file.name);
      sync_to_disk(temporary / file.name);
    }
    write_file_atomically(temporary / kManifest, manifest_of(info, temporary, files).dump(2) + "\n");
    sync_to_disk(temporary);
  } catch (...) {
    std::error_code ignored;  // the first failure is the one to report
    remove_directory(temporary, ignored);
    throw;
  }
  // A directory cannot be renamed over another one that is not empty. `newest` knows both names, so there is no moment
  // at which the old one is lost and the new one not yet there.
  const bool replaces = path_exists(final_name);
  const fs::path replaced = final_name.string() + kReplaced;
  if (replaces) rename_directory(final_name, replaced);
  rename_directory(temporary, final_name);
  sync_to_disk(directory_);
  std::error_code error;
  if (replaces) remove_directory(replaced, error);
  damaged_.erase(info.step);
  remove_those_not_kept(info.step);
}

std::optional<Checkpoint> CheckpointStore::newest() const {
  std::vector<CheckpointName> candidates = checkpoints_in(directory_);
  std::erase_if(candidates,
                [](const CheckpointName& name) { return !name.suffix.empty() && name.suffix != kReplaced; });
  std::sort(candidates.begin(), candidates.end(), [](const CheckpointName& a, const CheckpointName& b) {
    return std::pair(a.step, a.suffix.empty()) > std::pair(b.step, b.suffix.empty());
  });
  for (const CheckpointName& candidate : candidates) {
    try {
      Checkpoint checkpoint = verify_checkpoint(directory_ / to_text(candidate));
      if (checkpoint.info.step != candidate.step) {
        throw IoError(fmt::format("{} says it is of step {}", to_text(candidate), checkpoint.info.step));
      }
      return checkpoint;
    } catch (const IoError& damage) {
      damaged_.insert(candidate.step);
      spdlog::warn("the checkpoint {} is damaged and is passed over: {}", to_text(candidate), damage.what());
    }
  }
  if (!candidates.empty()) {
    throw IoError(fmt::format("all {} checkpoints in {} are damaged", candidates.size(), directory_.string()));
  }
  return std::nullopt;
}

void CheckpointStore::remove_leftovers() const {
  for (const CheckpointName& name : checkpoints_in(directory_)) {
    const bool was_replaced =
        name.suffix == kReplaced && path_exists(directory_ / to_text(CheckpointName{name.step, ""}));
    if (!was_replaced && name.suffix != kTemporary) continue;
    const fs::path leftover = directory_ / to_text(name);
    std::error_code error;
    remove_directory(leftover, error);
    if (error) throw IoError(fmt::format("cannot remove {}: {}", leftover.string(), error.message()));
  }
}

void CheckpointStore::remove_those_not_kept(std::int64_t saved) const {
  std::set<std::int64_t> steps;
  for (const CheckpointName& name : checkpoints_in(directory_)) {
    if (name.suffix.empty() && name.step <= saved) steps.insert(name.step);
  }
  std::int64_t newer = 0;  // whole ones
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const bool is_kept = newer < keep_last_ || (keep_every_ > 0 && *step % keep_every_ == 0);
    if (!damaged_.contains(*step)) ++newer;
    if (is_kept) continue;
    std::error_code error;
    const fs::path path = directory_ / to_text(CheckpointName{*step, ""});
    const WatchedFileCall watched("removing", path);
    // Under a temporary name first: a removal that is cut short must not leave a checkpoint that looks damaged.
    const fs::path doomed = path.string() + kTemporary;
    fs::rename(path, doomed, error);
    if (!error) fs::remove_all(doomed, error);
    if (error) spdlog::warn("cannot remove the old checkpoint {}: {}", path.string(), error.message());
  }
}

}  // namespace dpldm::train
