// The readers of files that anyone may have made, each as a function of arbitrary bytes.
//
// A target returns for every input: what is refused, is refused by an Error. Crashes, leaks, other exceptions and
// memory beyond libFuzzer's limit are findings. The same functions run over the stored corpus in the ordinary tests.
#pragma once

#include <array>
#include <string_view>

namespace dpldm::fuzz {

// First 8 bytes: how much data follows the header. The rest: the header.
void safetensors_header(std::string_view input);
// A pickle; or a whole file of torch.save, in either format, of which every tensor is read.
void archive(std::string_view input);
// The text of a network's config.json, a scheduler_config.json or a tokenizer.json.
void config_json(std::string_view input);
// A recipe for the attributes and datasets of an HDF5 file, which is then opened as latents. HDF5's own parsing is not
// what is tested.
void latent_file(std::string_view input);
// A PNG or JPEG file.
void image(std::string_view input);

struct Target {
  std::string_view name;  // and the folder of its corpus
  void (*run)(std::string_view input);
};

inline constexpr std::array kTargets{Target{"safetensors_header", safetensors_header}, Target{"archive", archive},
                                     Target{"config_json", config_json}, Target{"latent_file", latent_file},
                                     Target{"image", image}};

}  // namespace dpldm::fuzz
