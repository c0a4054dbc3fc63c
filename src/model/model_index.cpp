#include "model/model_index.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/json_file.h"
#include "model/python_modules.h"

namespace dpldm::model {
namespace {

namespace fs = std::filesystem;

// Null where there is none.
nlohmann::json config_of(const fs::path& directory) {
  return fs::exists(directory / kConfigName) ? io::read_json_file(directory / kConfigName) : nlohmann::json();
}

bool latents_are_unscaled(const fs::path& model) {
  const nlohmann::json autoencoder = config_of(model / "vqvae");
  const auto factor = autoencoder.find("scaling_factor");
  return factor != autoencoder.end() && *factor == 1.0;
}

// The pipeline of diffusers that fits the components of `index`; else ours, whose code goes into the directory.
void name_pipeline(const fs::path& model, nlohmann::json& index) {
  const nlohmann::json null;
  const auto has = [&](const char* component) { return index.contains(component); };
  const nlohmann::json unet = config_of(model / "unet");
  const std::string name = network_class(model / "unet");
  const auto is_set = [&](const char* key) { return unet.contains(key) && !unet[key].is_null(); };
  const bool unlabelled =
      name == "UNet2DModel" && has("vqvae") && !is_set("num_class_embeds") && !is_set("class_embed_type");
  const auto channels = [&](const char* key) { return unet.is_object() ? unet.value(key, 3) : 0; };
  const bool latent_alone = channels("in_channels") == channels("out_channels");
  const bool with_mask_and_picture = channels("in_channels") == 2 * channels("out_channels") + 1;
  if (name == "UNet2DConditionModel" && has("vae") && has("text_encoder") && has("tokenizer") &&
      (latent_alone || with_mask_and_picture)) {
    index["_class_name"] = latent_alone ? "StableDiffusionPipeline" : "StableDiffusionInpaintPipeline";
    index["safety_checker"] = {null, null};
    index["feature_extractor"] = {null, null};
    index["image_encoder"] = {null, null};
    index["requires_safety_checker"] = false;
  } else if (name == "UNet2DConditionModel" && has("vqvae") && has("bert") && has("tokenizer") && latent_alone) {
    index["_class_name"] = "LDMTextToImagePipeline";
  } else if (unlabelled && channels("in_channels") == 6 && channels("out_channels") == 3 &&
             latents_are_unscaled(model)) {
    // A small picture of three channels goes beside the latent, which that pipeline decodes as it is.
    index["_class_name"] = "LDMSuperResolutionPipeline";
  } else if (unlabelled && latent_alone) {
    index["_class_name"] = "LDMPipeline";
  } else {
    index["_class_name"] = {"dpldm_pipeline", "DPLDMPipeline"};
    write_file_atomically(model / "dpldm_pipeline.py", kPipelineModule);
  }
}

}  // namespace

std::string network_class(const fs::path& directory) {
  const nlohmann::json config = config_of(directory);
  if (!config.is_object()) return "";
  nlohmann::json name = config.value("_class_name", nlohmann::json());
  const auto architectures = config.find("architectures");
  if (architectures != config.end() && architectures->is_array() && !architectures->empty()) {
    name = architectures->front();
  }
  return name.is_string() ? name.get<std::string>() : "";
}

void require_index_agrees(const fs::path& model, const std::string& component) {
  const fs::path file = model / kIndexName;
  if (!fs::exists(file)) return;
  const nlohmann::json index = io::read_json_file(file);
  const auto entry = index.find(component);
  const bool named = entry != index.end() && entry->is_array() && entry->size() == 2 && (*entry)[1].is_string();
  if (!named) throw ConfigError(fmt::format("{} does not name '{}', which is there", file.string(), component));
  const std::string name = network_class(model / component);
  const bool is_text_encoder = component == "text_encoder" || component == "bert";  // CLIPModel is one too
  if (is_text_encoder || name.empty() || name == (*entry)[1]) return;
  throw ConfigError(fmt::format("{} calls '{}' a {}, its {} a {}", file.string(), component,
                                (*entry)[1].get<std::string>(), kConfigName, name));
}

void write_model_index(const fs::path& model) {
  nlohmann::json index{{"_diffusers_version", "0.30.0"}};
  for (const char* component : {"unet", "vae", "vqvae"}) {
    const std::string name = network_class(model / component);
    if (!name.empty()) index[component] = {"diffusers", name};
  }
  const bool bert = fs::exists(model / "bert" / kConfigName);
  if (fs::exists(model / "text_encoder" / kConfigName)) index["text_encoder"] = {"transformers", "CLIPTextModel"};
  if (bert) index["bert"] = {"latent_diffusion", "LDMBertModel"};
  if (fs::is_directory(model / "tokenizer")) {
    index["tokenizer"] = {"transformers", bert ? "BertTokenizer" : "CLIPTokenizer"};
  }
  if (fs::is_directory(model / "scheduler")) index["scheduler"] = {"diffusers", "DDIMScheduler"};
  if (network_class(model / "unet") == "DPLDMUNet2DModel") {
    index["unet"] = {"dpldm_unet", "DPLDMUNet2DModel"};
    write_file_atomically(model / "unet" / "dpldm_unet.py", kUNetModule);
  }
  name_pipeline(model, index);
  io::write_json_file(model / kIndexName, index);
}

}  // namespace dpldm::model
