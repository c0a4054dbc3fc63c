// rewrite_model IN OUT: loads a network, or a pipeline, as this program does and saves it as this program does. For
// diffusers_roundtrip.py.
#include <cstdio>
#include <exception>
#include <string>

#include "io/json_file.h"
#include "model/model_directory.h"

namespace {

namespace fs = std::filesystem;
using namespace dpldm;  // NOLINT(google-build-using-namespace)

void rewrite_pipeline(const fs::path& from, const fs::path& to) {
  const auto unet = model::load_conditioned_unet(from);
  model::save_pipeline({.unet = unet,
                        .autoencoder = model::load_autoencoder(from),
                        .text_encoder = unet->text_encoder(),
                        .tokenizer = model::tokenizer_directory(from)},
                       model::read_scheduler_config(from), to);
}

void rewrite(const fs::path& from, const fs::path& to) {
  if (fs::exists(from / "model_index.json")) {
    rewrite_pipeline(from, to);
  } else if (model::has_text_encoder(from)) {
    model::save_text_encoder(*model::load_text_encoder(from), to);
  } else if (io::read_json_file(from / "config.json").value("_class_name", "").find("UNet") == std::string::npos) {
    model::save_autoencoder(*model::load_autoencoder(from), to);
  } else {
    model::save_unet(*model::load_unet(from), to);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: rewrite_model IN OUT\n", stderr);
    return 64;
  }
  try {
    rewrite(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rewrite_model: %s\n", error.what());
    return 70;
  }
}
