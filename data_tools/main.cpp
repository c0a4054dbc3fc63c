// dpldm-data: prepares data files. `dpldm-data --help` lists what it can do.
#include <array>

#include "app/cli.h"
#include "data/temporary_file.h"
#include "data_tools/commands.h"

int main(int argc, char** argv) {
  using dpldm::app::Command;
  dpldm::data::remove_temporary_files_on_signals();
  const std::array commands{
      Command{"import", "images from IDX, folder, CIFAR or HDF5 files -> one image file", dpldm::tools::run_import},
      Command{"render", "the public image set: glyphs and shapes, the same from the same seed",
              dpldm::tools::run_render},
      Command{"encode", "images -> latents, through an autoencoder, on any number of ranks", dpldm::tools::run_encode},
      Command{"inspect", "what a data file holds, as a table, JSON or a picture", dpldm::tools::run_inspect},
      Command{"verify", "read a data file once and check everything in it", dpldm::tools::run_verify},
  };
  return dpldm::app::run_program("dpldm-data", "Prepares image and latent files for dpldm.", commands, argc, argv);
}
