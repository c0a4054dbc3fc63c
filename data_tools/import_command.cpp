// dpldm-data import KIND: images from wherever they are, into one image file.
#include <array>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/words.h"
#include "data_tools/commands.h"
#include "data_tools/image_import.h"

namespace dpldm::tools {
namespace {

struct Kind {
  std::string name;
  std::string summary;
  void (*run)(int argc, char** argv);
};

const std::array kKinds{
    Kind{"idx", "IDX files as of MNIST and Fashion-MNIST, plain or gzipped", import_idx},
    Kind{"folder", "PNG and JPEG files in class sub-folders, or listed in a CSV file", import_folder},
    Kind{"cifar", "the binary batches of CIFAR-10 and CIFAR-100", import_cifar},
    Kind{"hdf5", "uint8 datasets of an HDF5 file, by their names", import_hdf5},
};

void print_help() {
  fmt::print("Imports images into one image file.\n\nUsage: dpldm-data import KIND [OPTION...]\n\nKinds:\n");
  for (const Kind& kind : kKinds) fmt::print("  {:<8} {}\n", kind.name, kind.summary);
  fmt::print("\n`dpldm-data import KIND --help` lists the options.\n");
}

}  // namespace

void run_import(app::Invocation& invocation) {
  const std::string name = invocation.argc() > 1 ? invocation.argv()[1] : "";
  if (name == "--help" || name == "-h") return print_help();
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) {
    // The kind takes the place of argv[0].
    if (kind.name == name) return kind.run(invocation.argc() - 1, invocation.argv() + 1);
    names.push_back(kind.name);
  }
  if (name.empty() || name.front() == '-') throw ConfigError("say what to import: idx, folder, cifar or hdf5");
  const std::string near = nearest_word(name, names);
  throw ConfigError(fmt::format("'{}' cannot be imported; idx, folder, cifar and hdf5 can{}", name,
                                near.empty() ? "" : " (did you mean '" + near + "'?)"));
}

}  // namespace dpldm::tools
