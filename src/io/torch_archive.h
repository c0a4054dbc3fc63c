// The tensors of a checkpoint that PyTorch's `torch.save` wrote (.ckpt, .pt, .bin), in both of its formats: a ZIP
// archive, and the concatenated pickles of PyTorch before 1.6. Nothing in the file is executed (pickle.h).
//
// Opening reads the names and descriptions alone; tensors are read one at a time, so that a caller can compare shapes
// before memory is taken.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "io/pickle.h"

namespace dpldm::io {

class TorchArchive {
 public:
  // Throws IoError for what is not such a file, is damaged, or holds no dictionary of tensors; where the file asks for
  // functions or classes of others, the message names these first.
  explicit TorchArchive(const std::filesystem::path& path);

  // The state dict: the tensors under the key "state_dict" when the file has one (Lightning's checkpoints), else those
  // of the file's own dictionary. What is not a tensor is left out.
  const std::map<std::string, PickledTensor>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.count(name) > 0; }

  // What the file asks for and does not get.
  const ForeignNames& foreign_names() const { return foreign_names_; }
  // "asks for posix.system, and nothing that it asks for is executed"; empty when it asks for nothing.
  std::string what_it_asks_for() const;

  // Contiguous, in memory of its own, in the type of the file. Throws IoError for a name that is not there.
  at::Tensor read(const std::string& name) const;

 private:
  struct Place {
    std::uint64_t offset = 0;  // in the file
    std::uint64_t num_bytes = 0;
  };

  void read_either_format();
  void read_zip(std::uint64_t file_bytes);
  void read_legacy(std::uint64_t file_bytes);
  void take_state_dict(const Pickle& pickle);
  std::string read_bytes(std::uint64_t offset, std::uint64_t num_bytes) const;

  std::filesystem::path path_;
  ForeignNames foreign_names_;
  std::map<std::string, PickledTensor> tensors_;
  std::map<std::string, Place> storages_;  // by key
};

}  // namespace dpldm::io
