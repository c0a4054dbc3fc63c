// Models on disk: the diffusers directory layout (docs/checkpoint_format.md), read and written so that Python's
// diffusers agrees.
//
//   <model>/model_index.json, unet/, vae/, scheduler/, dp_metadata.json
//
// Wherever a model is named, `M` may be a pipeline directory or one network's own directory (with its config.json).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "model/autoencoder_kl.h"
#include "model/unet.h"

namespace dpldm::model {

// Strict: every tensor of the network must be in the file with its shape, and nothing else. Throws IoError or
// ConfigError.
std::shared_ptr<UNet> load_unet(const std::filesystem::path& model);
std::shared_ptr<AutoencoderKL> load_autoencoder(const std::filesystem::path& model);

// Writes config.json and diffusion_pytorch_model.safetensors into `directory` (<model>/unet or <model>/vae), each
// atomically.
void save_unet(UNet& unet, const std::filesystem::path& directory);
void save_autoencoder(AutoencoderKL& autoencoder, const std::filesystem::path& directory);

// A network's parameters as files hold them: under diffusers' names and in its shapes. They are the parameters
// themselves but for the class embedder, whose table is stored transposed, with a bias of zeros.
io::NamedTensors stored_parameters(const torch::nn::Module& network);

// SHA-256 over names, shapes and values of a network's parameters: the identity that latent files and metadata record.
std::string weights_sha256(const torch::nn::Module& network);

// model_index.json for the components that are present.
void write_model_index(const std::filesystem::path& model);

// scheduler/scheduler_config.json as it is, and dp_metadata.json; null where there is none. `model` may be a network's
// own directory inside a pipeline.
nlohmann::json read_scheduler_config(const std::filesystem::path& model);
void write_scheduler_config(const std::filesystem::path& model, const nlohmann::json& config);
nlohmann::json read_dp_metadata(const std::filesystem::path& model);
void write_dp_metadata(const std::filesystem::path& model, const nlohmann::json& metadata);

}  // namespace dpldm::model
