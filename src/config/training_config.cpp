#include "config/training_config.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/words.h"

namespace dpldm::config {
namespace {

// Beyond these a setting is a slip of the keyboard, and would end in weights that are no numbers.
constexpr Range kSeconds{0, 1e9, true};
constexpr Range kLossWeight{0, 1e6};
constexpr Range kBeta{0, 0.999, true};

constexpr const char* kLocalCopyMeaning =
    "Directory on each node's own disk: the file is copied there, once per node, and read from there. It, or the one "
    "that it is in, must exist. Empty reads the file where it is.";

// `least_micro_batch` is 0 where that means: as memory allows.
// `precisions`: those of the command.
void add_runtime(Schema& schema, RuntimeConfig& runtime, double least_micro_batch = 1,
                 std::vector<std::string> precisions = {"fp32", "bf16"}) {
  schema.add("runtime.backend", runtime.backend, {"auto", "mpi", "nccl"},
             "What ranks exchange device memory through. Auto takes NCCL where every rank has a GPU of its own.");
  schema.add("runtime.precision", runtime.precision, std::move(precisions),
             "What the network computes in. Weights, per-record norms, sums, noise and the optimiser are fp32 always.");
  schema.add("runtime.threads", runtime.threads, {0, 1024},
             "CPU threads of each rank; 0 takes OMP_NUM_THREADS, or, where that is not set, shares the node's cores "
             "among its ranks.");
  std::string micro_batch =
      "Records that pass through the network at once on one rank. Costs memory; does not change the result.";
  if (least_micro_batch == 0) {
    micro_batch +=
        " 0 takes as many as engine.memory_limit allows, up to 128; a size that is given here is not compared with "
        "that limit. Never more than a quarter of a rank's expected records, and 1 with privacy.mechanism lattice.";
  }
  schema.add("runtime.micro_batch_size", runtime.micro_batch_size, {least_micro_batch, 1e9}, micro_batch);
  schema.add("runtime.start_deadline_seconds", runtime.start_deadline_seconds, kSeconds,
             "How long a rank waits for the others, or for one use of a file, at start, in seconds.");
  schema.add("runtime.deadline_seconds", runtime.deadline_seconds, kSeconds,
             "How long a rank waits for the others in any later collective, or for one use of a file, in seconds; then "
             "the job ends with code 71.");
  schema.add("runtime.check_every_steps", runtime.check_every_steps, {0, 1e9},
             "Steps between comparisons of the parameters over ranks, which also come before each checkpoint; 0 leaves "
             "only those.");
}

void add_checkpoint(Schema& schema, CheckpointConfig& checkpoint) {
  schema.add("checkpoint.every_steps", checkpoint.every_steps, {0, 1e9},
             "Steps between checkpoints; 0 writes none but on a stop.");
  schema.add("checkpoint.in_background", checkpoint.in_background,
             "Write them from a copy while training goes on. Those of a stop and of the last step are waited for.");
  schema.add("checkpoint.keep_last", checkpoint.keep_last, {1, 1e6}, "How many of the newest checkpoints are kept.");
  schema.add("checkpoint.keep_every", checkpoint.keep_every, {0, 1e9},
             "Checkpoints at multiples of this many steps are kept for good; 0 keeps none.");
  schema.add("checkpoint.max_minutes", checkpoint.max_minutes, {0, 1e7},
             "Write a checkpoint and stop with code 75 after this many minutes; 0 sets no limit.");
  schema.add("checkpoint.max_steps", checkpoint.max_steps, {0, 1e9},
             "Write a checkpoint and stop with code 75 after this many steps of one start; 0 sets no limit.");
}

void add_optimizer(Schema& schema, OptimizerConfig& optimizer) {
  schema.add("optimizer.learning_rate", optimizer.learning_rate, {0, 10, true}, "Peak learning rate of AdamW.");
  schema.add("optimizer.weight_decay", optimizer.weight_decay, {0, 100}, "Decoupled weight decay of AdamW.");
  schema.add("optimizer.beta1", optimizer.beta1, {0, 0.999999}, "Decay of AdamW's first moment.");
  schema.add("optimizer.beta2", optimizer.beta2, {0, 0.9999999}, "Decay of AdamW's second moment.");
  schema.add("optimizer.eps", optimizer.eps, {1e-30, 1}, "Added to the root of AdamW's second moment.");
  schema.add("optimizer.schedule", optimizer.schedule, {"constant", "cosine", "linear"},
             "What the learning rate does after the warm-up: stay, or fall to zero along a half cosine or a line.");
  schema.add("optimizer.warmup_steps", optimizer.warmup_steps, {0, 1e9},
             "Steps over which the learning rate rises from zero: fewer than there are.");
  schema.add("optimizer.ema_decay", optimizer.ema_decay, {0, 0.9999999},
             "Decay of the running average of the weights that the final model holds; 0 keeps the last weights.");
}

}  // namespace

void require_warmup_within(const OptimizerConfig& optimizer, std::int64_t steps) {
  if (optimizer.warmup_steps < steps) return;
  throw ConfigError(
      fmt::format("optimizer.warmup_steps is {} and training.steps is {}; the warm-up must end before the run does",
                  optimizer.warmup_steps, steps));
}

std::string learning_rate_text(const OptimizerConfig& optimizer) {
  const std::string warmup =
      optimizer.warmup_steps > 0 ? ", after a warm-up of " + counted(optimizer.warmup_steps, "step") : "";
  return fmt::format("{} ({}{})", optimizer.learning_rate, optimizer.schedule, warmup);
}

Schema AutoencoderTrainingConfig::schema() {
  Schema schema("autoencoder");
  schema.add("data.images", images, "Public images (.h5 of dpldm-data import or render). A private file is refused.");
  schema.add_tree("network", network,
                  "The autoencoder in diffusers' AutoencoderKL keys; channels follow the images when not stated.");
  schema.add("training.steps", steps, {1, 1e9}, "Optimiser steps.");
  schema.add("training.batch_size", batch_size, {1, 1e9}, "Images in a step, over all ranks.");
  schema.add("training.seed", seed, {0, 9e15},
             "Of the initial weights, the order of the images and the posterior's draws. Public.");
  schema.add("loss.l1_weight", l1_weight, kLossWeight, "Weight of the mean absolute error.");
  schema.add("loss.l2_weight", l2_weight, kLossWeight, "Weight of the mean squared error.");
  schema.add("loss.kl_weight", kl_weight, kLossWeight,
             "Weight of the posterior's KL divergence from a unit Gaussian, per latent element.");
  schema.add("loss.edge_weight", edge_weight, kLossWeight,
             "Weight of the mean absolute error of neighbouring pixels' differences.");
  add_optimizer(schema, optimizer);
  add_runtime(schema, runtime);
  add_checkpoint(schema, checkpoint);
  return schema;
}

Schema PretrainConfig::schema() {
  Schema schema("pretrain");
  schema.add("data.latents", latents, "Public latents (.h5 of dpldm-data encode). A private file is refused.");
  schema.add("data.local_copy", local_copy, kLocalCopyMeaning);
  schema.add("model.autoencoder", autoencoder, "The autoencoder that made the latents; it becomes part of the model.");
  schema.add("model.text_encoder", text_encoder,
             "A text encoder, or a model that has one: the U-Net is trained with its context of the captions.");
  schema.add(
      "model.tokenizer", tokenizer,
      "The tokenizer's directory; when empty, tokenizer/ beside the text encoder. It becomes part of the model.");
  schema.add_tree(
      "network", network,
      "The U-Net in diffusers' UNet2DConditionModel or UNet2DModel keys; channels, size, classes and the width "
      "of the context follow the latents and the text encoder when not stated.");
  schema.add_tree("text_network", text_network,
                  "A fresh text encoder, in place of model.text_encoder, in diffusers' LDMBertModel or transformers' "
                  "CLIPTextModel keys; `_class_name` says which.");
  schema.add("schedule.num_train_timesteps", schedule.num_train_timesteps, {2, 100000},
             "Number of diffusion timesteps.");
  schema.add("schedule.beta_schedule", schedule.beta_schedule, {"linear", "scaled_linear", "squaredcos_cap_v2"},
             "How beta grows, in diffusers' words.");
  schema.add("schedule.beta_start", schedule.beta_start, kBeta, "First beta; not used by squaredcos_cap_v2.");
  schema.add("schedule.beta_end", schedule.beta_end, kBeta, "Last beta; not used by squaredcos_cap_v2.");
  schema.add("schedule.prediction_type", schedule.prediction_type, {"epsilon", "v_prediction", "sample"},
             "What the network predicts.");
  schema.add("training.steps", steps, {1, 1e9}, "Optimiser steps.");
  schema.add("training.batch_size", batch_size, {1, 1e9}, "Latents in a step, over all ranks.");
  schema.add("training.seed", seed, {0, 9e15},
             "Of the initial weights, the order of the records and all draws. Public.");
  schema.add(
      "training.label_dropout", label_dropout, kFraction,
      "Probability that a record is trained with the null class or the empty caption, which guidance needs; must "
      "be 0 for a table of num_class_embeds, which has no null class.");
  schema.add("training.train_text_encoder", train_text_encoder, "Whether the text encoder is trained with the U-Net.");
  add_optimizer(schema, optimizer);
  add_runtime(schema, runtime);
  add_checkpoint(schema, checkpoint);
  return schema;
}

Schema FinetuneConfig::schema() {
  Schema schema("finetune");
  schema.add("data.latents", latents, "Private latents (.h5 of dpldm-data encode).");
  schema.add("data.local_copy", local_copy, kLocalCopyMeaning);
  schema.add("data.sharding", sharding, {"static", "balanced"},
             "Which rank works on a selected record: the one whose shard it is in, or equal parts of the selection.");
  schema.add("model.base", model, "The public model (of `dpldm pretrain` or in diffusers' layout) that is fine-tuned.");
  schema.add("training.steps", steps, {1, 1e9}, "Logical steps. Each costs privacy.");
  schema.add("training.expected_batch_size", expected_batch_size, {1, 1e12},
             "Expected number of records in a step: sampling rate times the number of records, and the divisor of the "
             "noised sum.");
  schema.add("training.noise_multiplicity", noise_multiplicity, {1, 4096},
             "Draws of timestep, noise and flip that are averaged inside a record before its clip (K).");
  schema.add("training.timestep_low", timestep_low, {0, 100000}, "First timestep that is trained.");
  schema.add("training.timestep_high", timestep_high, {0, 100000},
             "End of the trained timesteps, exclusive; 0 means all.");
  schema.add("training.public_seed", public_seed, {0, 9e15},
             "Of the fresh class embeddings. Public: it does not touch selection or noise.");
  schema.add("trained.set", trained_set,
             "Which parameters are trained: attention, attention-core, cross-attention, cross-kv, attention@>=N, "
             "resnets, all, none (but for the next keys); or lora, which trains low-rank pairs beside frozen weights. "
             "A set that finds nothing in the network is refused.");
  schema.add("trained.include", trained_include, "Regular expression: parameters whose name it finds are trained too.");
  schema.add("trained.exclude", trained_exclude,
             "Regular expression: parameters whose name it finds are never trained.");
  schema.add("trained.conditioner", train_conditioner,
             "Whether what makes the condition is trained too: the class embeddings, or the text encoder.");
  schema.add("trained.freeze_dead_cross_attention", freeze_dead_cross_attention,
             "Leave out the cross-attention queries and keys, which have no effect under a one-token context.");
  schema.add("trained.class_embeddings", class_embeddings, {"keep", "fresh"},
             "Start from the model's class embeddings, or from fresh ones with the mean and spread of the model's.");
  schema.add("trained.class_embedding_scale", class_embedding_scale, {0, 1000, true},
             "Spread of fresh embeddings, in units of the model's.");
  schema.add("lora.rank", lora_rank, {1, 65536}, "Of each low-rank pair. All of lora.* counts with trained.set: lora.");
  schema.add("lora.alpha", lora_alpha, {0, 1e6, true},
             "A pair's product is scaled by alpha / rank; null takes the rank, which is a scale of 1.");
  schema.add("lora.layers", lora_layers,
             "The set (in the words of trained.set) whose Linear layers and 1x1 convolutions get a pair.");
  schema.add("lora.frozen", lora_frozen, {"none", "A", "B"},
             "A factor that keeps its random start while the other is trained from zero. With A frozen, noise in one "
             "factor is not multiplied by noise in the other.");
  schema.add("privacy.epsilon", epsilon, kPositive, "Target; the run can never exceed it.");
  schema.add("privacy.delta", delta, {0, kMostDelta, true},
             "Null means min(1e-5, 1/(N ln N)), which is below the 1/N that a delta should not exceed.");
  schema.add("privacy.clip_norm", clip_norm, {1e-9, 1e9},
             "C: bound of one record's gradient, L2 over all trained parameters, of the mean squared error.");
  schema.add(
      "privacy.clipping", clipping, {"flat", "automatic", "per-group"},
      "One factor min(1, C / norm) for the whole gradient; or C / (norm + gamma), which needs no C; or a factor for "
      "each attention module (and layer outside of them), each with an equal part of C.");
  schema.add("privacy.automatic_gamma", automatic_gamma, {1e-9, 1e9}, "Gamma of automatic clipping.");
  schema.add("privacy.noise_multiplier", noise_multiplier, {0, 1e7},
             "Null calibrates it from epsilon. 0 makes a run that is NOT PRIVATE.");
  schema.add("privacy.accountant", accountant, {"pld", "rdp", "prv"}, "What epsilon is computed with.");
  schema.add("privacy.neighbouring", neighbouring, {"add-remove", "zero-out", "replace-one"},
             "The relation between neighbouring data sets.");
  schema.add("privacy.mechanism", mechanism, {"float", "lattice"},
             "Sums and noise in floating point, or exactly on a grid of integers: slower (records one at a time), and "
             "bit-identical for any number of ranks and micro-batch size.");
  schema.add("privacy.test_seed", test_seed, {0, 9e15},
             "Keys from this seed instead of the operating system: reproducible, and NOT PRIVATE.");
  schema.add("privacy.release_mode", release_mode, {"allreduce", "root"},
             "Who holds the sum before the noise is added: every rank, or rank 0 alone. On GPUs always rank 0 alone.");
  schema.add("engine.rule", engine_rule, {"auto", "kept", "norm-only", "gram"},
             "How per-record gradients of linear layers are formed.");
  schema.add("engine.memory_limit", memory_limit, {0, 1e6},
             "GiB that a rank may use, for runtime.micro_batch_size: 0. With 0 it is three quarters of a GPU's "
             "memory, or of the node's shared among its ranks.");
  add_optimizer(schema, optimizer);
  add_runtime(schema, runtime, 0, {"fp32", "tf32", "bf16"});
  schema.add("runtime.device", runtime.device, {"auto", "cpu", "cuda"},
             "Where each rank computes. Auto takes a GPU where there is one for every rank of this node, in a build "
             "with CUDA.");
  add_checkpoint(schema, checkpoint);
  return schema;
}

}  // namespace dpldm::config
