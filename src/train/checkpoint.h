// Checkpoints: directories that are either whole or not there.
//
//   checkpoints/step-00000123/   what the caller writes, and manifest.json with the size and SHA-256 of every file
//
// A checkpoint is written beside its final name, synced, and committed by one rename; a crash at any moment leaves the
// earlier ones untouched. When loading, every file is checked against the manifest, and a damaged checkpoint is
// reported and passed over for the one before it. What is stored are full tensors by name, so a checkpoint does not
// know how many ranks wrote it, and it holds no keys and no seeds. One rank writes; docs/checkpoint_format.md has each
// field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

namespace dpldm::train {

// What the manifest says beside the list of files.
struct CheckpointInfo {
  std::int64_t step = 0;      // logical steps that are behind it
  std::string config_hash{};  // of the configuration that must be the same to go on
  int num_ranks = 1;          // for people; loading does not depend on it
  std::string ledger_head{};  // SHA-256 of the ledger's last line; empty where there is no ledger
  nlohmann::json extra = nlohmann::json::object();
};

// One file of a checkpoint: a plain name, and who writes it at the path that it is given.
struct CheckpointFile {
  std::string name;
  std::function<void(const std::filesystem::path&)> write;
};

// A safetensors file. The tensors are not copied: they must not change before the checkpoint is saved.
// `metadata` goes into the file's header.
CheckpointFile tensor_file(const std::string& name, std::map<std::string, at::Tensor> tensors,
                           std::map<std::string, std::string> metadata = {});
CheckpointFile text_file(const std::string& name, std::string text);

// A checkpoint whose files were found as its manifest says.
struct Checkpoint {
  std::filesystem::path directory;
  CheckpointInfo info;
  std::vector<std::string> files;
  std::string sha256{};  // of all that the manifest says, the digest of every file among it

  // Throws IoError when the checkpoint has no file of that name.
  std::filesystem::path path_of(const std::string& name) const;
  std::map<std::string, at::Tensor> tensors(const std::string& name) const;
};

// Reads the manifest and compares every file with it. Throws IoError with what is wrong.
Checkpoint verify_checkpoint(const std::filesystem::path& directory);

class CheckpointStore {
 public:
  // `directory` (a run's checkpoints/) is made by the first save. Kept are the one that is saved and those before it,
  // in all `keep_last` >= 1, and those whose step is a multiple of `keep_every` (0: none). One that `newest` found
  // damaged is not counted.
  CheckpointStore(std::filesystem::path directory, std::int64_t keep_last, std::int64_t keep_every);

  // Writes and commits, then removes what is no longer kept. A checkpoint of the same step is replaced. Those of later
  // steps are left alone: they were passed over as damaged when the run was resumed, and must not count as the newest.
  // Throws IoError, and then the earlier checkpoints are as they were; a failure to remove an old one is only a
  // warning.
  void save(const CheckpointInfo& info, std::span<const CheckpointFile> files) const;

  // The newest whole one; none where nothing was ever committed. Warns about each damaged one on the way. Throws
  // IoError when there are checkpoints and all are damaged: to begin again from nothing would waste privacy already
  // spent.
  std::optional<Checkpoint> newest() const;

 private:
  void remove_leftovers() const;
  void remove_those_not_kept(std::int64_t saved) const;

  std::filesystem::path directory_;
  std::int64_t keep_last_;
  std::int64_t keep_every_;
  mutable std::set<std::int64_t> damaged_;  // the steps that `newest` passed over, and that were not saved again since
};

}  // namespace dpldm::train
