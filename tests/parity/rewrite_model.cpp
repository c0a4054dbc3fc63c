// rewrite_model IN OUT: loads a network as this program does and saves it as this program does. For
// diffusers_roundtrip.py.
#include <cstdio>
#include <exception>

#include "io/json_file.h"
#include "model/model_directory.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: rewrite_model IN OUT\n", stderr);
    return 64;
  }
  try {
    const std::filesystem::path from = argv[1];
    if (dpldm::io::read_json_file(from / "config.json").value("_class_name", "") == "AutoencoderKL") {
      dpldm::model::save_autoencoder(*dpldm::model::load_autoencoder(from), argv[2]);
    } else {
      dpldm::model::save_unet(*dpldm::model::load_unet(from), argv[2]);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rewrite_model: %s\n", error.what());
    return 70;
  }
}
