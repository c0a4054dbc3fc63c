// The configurations of the three training commands. configs/README.md is generated from the same lists of keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "config/schema.h"

namespace dpldm::config {

// The largest privacy.delta: with one in ten to be laid bare nothing is private.
constexpr double kMostDelta = 0.1;

// How the work is carried out. None of this changes the result beyond rounding.
struct RuntimeConfig {
  std::string backend = "auto";
  std::string device = "cpu";
  std::string precision = "fp32";
  std::int64_t threads = 0;
  std::int64_t micro_batch_size = 128;
  double start_deadline_seconds = 300;
  double deadline_seconds = 120;
  std::int64_t check_every_steps = 50;
};

struct CheckpointConfig {
  std::int64_t every_steps = 100;
  bool in_background = true;
  std::int64_t keep_last = 2;
  std::int64_t keep_every = 0;
  double max_minutes = 0;
  std::int64_t max_steps = 0;
};

struct OptimizerConfig {
  double learning_rate = 1e-3;
  double weight_decay = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  std::string schedule = "cosine";
  std::int64_t warmup_steps = 0;
  double ema_decay = 0.999;
};

// Throws ConfigError unless the warm-up ends before the run of `steps` steps does: its learning rate was never reached.
void require_warmup_within(const OptimizerConfig& optimizer, std::int64_t steps);
// For a start-up table.
std::string learning_rate_text(const OptimizerConfig& optimizer);

struct AutoencoderTrainingConfig {
  std::string images;
  nlohmann::json network;
  std::int64_t steps = 1000;
  std::int64_t batch_size = 64;
  std::int64_t seed = 1;
  double l1_weight = 1;
  double l2_weight = 0;
  double kl_weight = 1e-6;
  double edge_weight = 0;
  OptimizerConfig optimizer;
  RuntimeConfig runtime;
  CheckpointConfig checkpoint;

  Schema schema();
};

struct ScheduleSettings {
  std::int64_t num_train_timesteps = 1000;
  std::string beta_schedule = "scaled_linear";
  double beta_start = 0.0015;
  double beta_end = 0.0155;
  std::string prediction_type = "epsilon";
};

struct PretrainConfig {
  std::string latents;
  std::string local_copy;
  std::string autoencoder;
  std::string text_encoder;
  std::string tokenizer;
  nlohmann::json network;
  nlohmann::json text_network;
  ScheduleSettings schedule;
  std::int64_t steps = 1000;
  std::int64_t batch_size = 256;
  std::int64_t seed = 1;
  double label_dropout = 0.1;
  bool train_text_encoder = false;
  OptimizerConfig optimizer;
  RuntimeConfig runtime;
  CheckpointConfig checkpoint;

  Schema schema();
};

struct FinetuneConfig {
  std::string latents;
  std::string local_copy;
  std::string model;
  std::int64_t steps = 100;
  std::int64_t expected_batch_size = 1024;
  std::int64_t noise_multiplicity = 1;
  std::int64_t timestep_low = 0;
  std::int64_t timestep_high = 0;

  double epsilon = 10;
  std::optional<double> delta;
  double clip_norm = 1;
  std::string clipping = "flat";
  double automatic_gamma = 0.01;
  std::optional<double> noise_multiplier;
  std::string accountant = "pld";
  std::string neighbouring = "add-remove";
  std::string mechanism = "float";
  std::optional<std::int64_t> test_seed;

  std::string trained_set = "attention";
  std::string trained_include;
  std::string trained_exclude;
  bool train_conditioner = true;
  bool freeze_dead_cross_attention = true;
  std::int64_t lora_rank = 8;
  std::optional<double> lora_alpha;
  std::string lora_layers = "attention-core";
  std::string lora_frozen = "none";
  std::string class_embeddings = "keep";
  double class_embedding_scale = 1;
  std::int64_t public_seed = 1;

  std::string sharding = "static";
  std::string release_mode = "allreduce";
  std::string engine_rule = "auto";
  double memory_limit = 0;
  OptimizerConfig optimizer;
  RuntimeConfig runtime{.micro_batch_size = 0};
  CheckpointConfig checkpoint;

  Schema schema();
};

}  // namespace dpldm::config
