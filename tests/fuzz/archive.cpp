#include "base/error.h"
#include "fuzz_targets.h"
#include "io/pickle.h"
#include "io/torch_archive.h"
#include "memory_file.h"

namespace dpldm::fuzz {

void archive(std::string_view input) {
  try {
    io::ForeignNames foreign_names;
    const io::Pickle pickle(input, "fuzz", foreign_names);
    pickle.value().find("state_dict");
  } catch (const Error&) {
    // Not a pickle.
  }
  try {
    const MemoryFile file(input);
    const io::TorchArchive archive(file.path());
    std::size_t num_read = 0;
    for (const auto& [name, tensor] : archive.tensors()) {
      if (++num_read > 16) break;
      archive.read(name);
    }
  } catch (const Error&) {
    // Not an archive.
  }
}

}  // namespace dpldm::fuzz
