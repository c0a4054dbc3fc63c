// What a model's yaml file of latent-diffusion (CompVis), stable-diffusion or DP-LDM says, in this program's terms.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/noise_schedule.h"
#include "model/autoencoder_kl.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/unet.h"
#include "model/vq_model.h"

namespace dpldm::compvis {

enum class Conditioner {
  kNone,
  kClassTable,  // ClassEmbedder: one row of a table is the context
  kBert,        // BERTEmbedder
  kClip,        // FrozenCLIPEmbedder (Stable Diffusion 1)
  kOpenClip,    // FrozenOpenCLIPEmbedder (Stable Diffusion 2)
};

struct CompVisConfig {
  // Absent when the file describes a first stage alone.
  std::optional<model::UNetConfig> unet;
  bool new_attention_order = false;  // thirds of qkv are q, k, v; else each head's thirds
  diffusion::ScheduleConfig schedule;
  double scale_factor = 1;
  bool scale_by_std = false;  // then the checkpoint may hold the factor

  // At most one.
  std::optional<model::AutoencoderConfig> kl;
  std::optional<model::VQConfig> vq;

  Conditioner conditioner = Conditioner::kNone;
  std::int64_t num_classes = 0;  // rows of the class table
  model::LdmBertConfig bert;
  bool drop_last_clip_layer = false;  // OpenCLIP's "penultimate"

  bool dp_training = false;  // the yaml is of a private fine-tuning (DP-LDM's dp_config.enabled)

  // What was read and has no effect on the networks, but that the user should know of.
  std::vector<std::string> notes;
};

// Throws IoError for a file that is no yaml, ConfigError naming the key for what is not supported.
CompVisConfig read_compvis_config(const std::filesystem::path& path);

// Whether the U-Nets of two files have the same tensors, so that a checkpoint loads with either.
bool same_tensors(const CompVisConfig& a, const CompVisConfig& b);

// What else differs, and changes what the network computes, one line each.
std::vector<std::string> differences(const CompVisConfig& a, const CompVisConfig& b);

// The heads at each level with attention, finest first: "level 0: 2 heads of 64 channels".
std::vector<std::string> heads_per_level(const model::UNetConfig& config);

}  // namespace dpldm::compvis
