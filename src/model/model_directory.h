// Models on disk: the diffusers directory layout (docs/checkpoint_format.md), read and written so that Python's
// diffusers agrees.
//
//   <model>/model_index.json, unet/, vae/ or vqvae/, text_encoder/ or bert/, tokenizer/, scheduler/, dp_metadata.json
//
// Wherever a model is named, `M` may be a pipeline directory or one network's own directory (with its config.json).
// Reading is strict: every tensor of the network must be in the file with its shape, and nothing else. Throws IoError
// or ConfigError.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "model/autoencoder_kl.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vq_model.h"

namespace dpldm::model {

// A class embedder beside the U-Net (class_embedder/) is folded into it.
std::shared_ptr<UNet> load_unet(const std::filesystem::path& model);
// The same, with the pipeline's text encoder where the U-Net attends to text and the pipeline has one.
std::shared_ptr<UNet> load_conditioned_unet(const std::filesystem::path& model);
// AutoencoderKL or VQModel.
std::shared_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& model);
// Where load_autoencoder finds it: `model` itself or its vae/ or vqvae/. Throws IoError where there is none.
std::filesystem::path autoencoder_directory(const std::filesystem::path& model);
// CLIPTextModel or LDMBertModel.
std::shared_ptr<TextEncoder> load_text_encoder(const std::filesystem::path& model);
// Whether `model` is a pipeline with a text encoder, or a text encoder's own directory.
bool has_text_encoder(const std::filesystem::path& model);

// Write config.json and the weights into `directory` (<model>/unet, ...), each atomically. `metadata` goes into the
// weights' header: the privacy stamp of what was trained on private records.
void save_unet(const UNet& unet, const std::filesystem::path& directory,
               const std::map<std::string, std::string>& metadata = {});
void save_autoencoder(const Autoencoder& autoencoder, const std::filesystem::path& directory,
                      const std::map<std::string, std::string>& metadata = {});
void save_text_encoder(const TextEncoder& encoder, const std::filesystem::path& directory,
                       const std::map<std::string, std::string>& metadata = {});

// The networks of a pipeline, or some of them.
struct Pipeline {
  std::shared_ptr<UNet> unet = nullptr;
  std::shared_ptr<Autoencoder> autoencoder = nullptr;
  std::shared_ptr<TextEncoder> text_encoder = nullptr;
  std::filesystem::path tokenizer = {};  // a directory whose files are copied; empty: none
  std::map<std::string, std::string> unet_metadata = {};
  std::map<std::string, std::string> text_encoder_metadata = {};
  std::map<std::string, std::string> autoencoder_metadata = {};
};

// Writes all of it, the scheduler's configuration and model_index.json, under the names that the pipeline of diffusers
// expects which fits the networks: StableDiffusionPipeline, LDMTextToImagePipeline, LDMPipeline, or none.
void save_pipeline(const Pipeline& pipeline, const nlohmann::json& scheduler, const std::filesystem::path& model);

// What save_pipeline will write: for each file of weights, by its path in the model, io::tensors_sha256.
std::map<std::string, std::string> weights_to_be_written(const Pipeline& pipeline);

// A network's parameters as files hold them: under diffusers' names and in its shapes. They are the parameters
// themselves but for the class embedder, whose table is stored transposed, with a bias of zeros.
io::NamedTensors stored_parameters(const torch::nn::Module& network);

// SHA-256 over names, shapes and values of a network's parameters: the identity that latent files and metadata record.
std::string weights_sha256(const torch::nn::Module& network);

// Throws IoError naming the first parameter that holds something else than finite numbers: a damaged model, or one
// whose training diverged. `where` is for the message.
void require_finite(const torch::nn::Module& network, const std::string& where);

// scheduler/scheduler_config.json as it is, and dp_metadata.json; null where there is none. `model` may be a network's
// own directory inside a pipeline.
nlohmann::json read_scheduler_config(const std::filesystem::path& model);
void write_scheduler_config(const std::filesystem::path& model, const nlohmann::json& config);
nlohmann::json read_dp_metadata(const std::filesystem::path& model);
void write_dp_metadata(const std::filesystem::path& model, const nlohmann::json& metadata);

// tokenizer/ of the pipeline that `model` is or belongs to; empty where there is none.
std::filesystem::path tokenizer_directory(const std::filesystem::path& model);

}  // namespace dpldm::model
