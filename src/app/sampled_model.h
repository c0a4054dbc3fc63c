// A model directory as `dpldm sample` uses it: its networks behind the functions that the generator knows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "diffusion/guidance.h"
#include "diffusion/image_generator.h"
#include "model/model_directory.h"
#include "text/tokenizer.h"

namespace dpldm::app {

class SampledModel {
 public:
  // Throws IoError, ConfigError.
  explicit SampledModel(const std::filesystem::path& path);

  const nlohmann::json& metadata() const { return metadata_; }
  const nlohmann::json& scheduler() const { return scheduler_; }
  // The names of the classes, in order; empty for a model without. The statement of a fine-tuned model has them; a
  // public model's classes have numbers only.
  std::vector<std::string> class_names() const;
  bool takes_prompts() const { return text_encoder_ != nullptr; }
  // SHA-256 of each part that images depend on, and of the statement that they are marked by, one line for each.
  std::string digests() const;

  // The conditions of the result are numbers of classes, or of `prompts` for a model with a text encoder. The functions
  // share the networks with this object and outlive it. Throws ConfigError for a prompt that is not UTF-8.
  diffusion::GenerativeModel functions(const std::vector<std::string>& prompts, at::ScalarType compute_type) const;
  // Away from the null class or the empty text; from nothing for models that have neither.
  diffusion::Guidance guidance(double scale, at::ScalarType compute_type) const;

 private:
  // int64 [prompts, L].
  at::Tensor tokens_of(const std::vector<std::string>& prompts) const;

  std::shared_ptr<model::UNet> unet_;
  std::shared_ptr<model::Autoencoder> autoencoder_;
  std::shared_ptr<model::TextEncoder> text_encoder_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  nlohmann::json metadata_;
  nlohmann::json scheduler_;
};

// One prompt per line, UTF-8; the last line may end with a newline or without one. Throws IoError, ConfigError for a
// file without prompts and for an empty line, wherever it is: sample i belongs to line i.
std::vector<std::string> read_prompts(const std::filesystem::path& path);

}  // namespace dpldm::app
