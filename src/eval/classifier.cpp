#include "eval/classifier.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include "base/error.h"
#include "base/torch.h"
#include "eval/image_batches.h"

namespace dpldm::eval {
namespace {

constexpr std::array<std::int64_t, 3> kWidths = {32, 64, 128};
constexpr std::int64_t kPooledSide = 3;
constexpr std::int64_t kSmallestSide = 8;      // three poolings must leave a pixel
constexpr std::int64_t kInferenceBatch = 500;  // bounds memory
constexpr double kWarmUp = 0.2;                // fraction of the steps in which the rate rises
constexpr double kBatchNormMomentum = 0.1;
constexpr double kBatchNormEps = 1e-5;

// One-cycle: up along a cosine to the peak, then down to nothing.
double learning_rate(double peak, std::int64_t step, std::int64_t num_steps) {
  const double at = (static_cast<double>(step) + 0.5) / static_cast<double>(num_steps);
  const double phase = at < kWarmUp ? 1 - at / kWarmUp : (at - kWarmUp) / (1 - kWarmUp);
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * phase));
}

void check(const LabelledImages& data) {
  const at::Tensor& images = data.images_NCHW;
  if (images.dim() != 4 || images.scalar_type() != at::kByte || data.labels_N.dim() != 1 ||
      data.labels_N.size(0) != images.size(0)) {
    throw InternalError("labelled images must be uint8 [N, C, H, W] with int64 [N]");
  }
  if (images.size(0) < 2 || data.num_classes < 2) {
    throw ConfigError(
        fmt::format("a classifier needs at least two images of two classes; there are {} images and {} classes",
                    images.size(0), data.num_classes));
  }
  if (std::min(images.size(2), images.size(3)) < kSmallestSide) {
    throw ConfigError(fmt::format("images of {}x{} are too small for the classifier; each side needs {} pixels",
                                  images.size(2), images.size(3), kSmallestSide));
  }
}

}  // namespace

struct Classifier::Network {
  struct Block {
    at::Tensor kernel;  // [out, in, 3, 3]
    at::Tensor scale, shift;
    at::Tensor running_mean, running_variance;
  };

  std::vector<Block> blocks;
  at::Tensor head_weight, head_bias;
  PixelScale scale;

  Network(std::int64_t channels, std::int64_t num_classes, const PixelScale& pixel_scale, at::Generator& generator)
      : scale(pixel_scale) {
    std::int64_t in = channels;
    for (const std::int64_t out : kWidths) {
      Block block;
      const double deviation = std::sqrt(2.0 / static_cast<double>(in * 9));  // He et al. (2015), for ReLU
      block.kernel =
          torch::empty({out, in, 3, 3}).normal_(0, deviation, generator).contiguous(at::MemoryFormat::ChannelsLast);
      block.scale = torch::ones({out});
      block.shift = torch::zeros({out});
      block.running_mean = torch::zeros({out});
      block.running_variance = torch::ones({out});
      blocks.push_back(block);
      in = out;
    }
    const std::int64_t num_features = in * kPooledSide * kPooledSide;
    head_weight = torch::empty({num_classes, num_features})
                      .normal_(0, 1 / std::sqrt(static_cast<double>(num_features)), generator);
    head_bias = torch::zeros({num_classes});
    for (at::Tensor& parameter : parameters()) parameter.requires_grad_(true);
  }

  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all = {head_weight, head_bias};
    for (const Block& block : blocks) all.insert(all.end(), {block.kernel, block.scale, block.shift});
    return all;
  }

  // x fp32 [B, C, H, W], normalised -> the last block's activations, bf16 [B, 128, h, w].
  at::Tensor convolve(const at::Tensor& x, bool training) const {
    at::Tensor y = x.to(at::kBFloat16, /*non_blocking=*/false, /*copy=*/false, at::MemoryFormat::ChannelsLast);
    for (const Block& block : blocks) {
      y = at::conv2d(y, block.kernel.to(at::kBFloat16), {}, /*stride=*/1, /*padding=*/1);
      y = at::batch_norm(y, block.scale, block.shift, block.running_mean, block.running_variance, training,
                         kBatchNormMomentum, kBatchNormEps, /*cudnn_enabled=*/false);
      y = at::relu(at::max_pool2d(y, {2, 2}));  // the maximum and ReLU commute; this order is cheaper
    }
    return y;
  }

  // Scores, fp32 [B, classes]. `dropped` scales the pooled activations; undefined: no dropout.
  at::Tensor scores(const at::Tensor& activations, const at::Tensor& dropped) const {
    at::Tensor pooled = at::adaptive_avg_pool2d(activations.to(at::kFloat), {kPooledSide, kPooledSide}).flatten(1);
    if (dropped.defined()) pooled = pooled * dropped;
    return at::linear(pooled, head_weight, head_bias);
  }

  // `answer` of every batch of `images`, one below the other.
  template <typename Answer>
  at::Tensor for_each_batch(const at::Tensor& images, const Answer& answer) const {
    const torch::NoGradGuard no_grad;
    std::vector<at::Tensor> answers;
    for (const at::Tensor& part : images.split(kInferenceBatch)) {
      answers.push_back(answer(convolve(normalised(part, scale), /*training=*/false)));
    }
    return at::cat(answers);
  }
};

ClassifierRecipe ClassifierRecipe::for_num_images(std::int64_t num_images) {
  ClassifierRecipe recipe;
  recipe.images_shown = std::max<std::int64_t>(6 * num_images, 60'000);
  return recipe;
}

std::int64_t ClassifierRecipe::num_steps(std::int64_t num_images) const {
  return std::max<std::int64_t>(images_shown / std::min(batch_size, num_images), 1);
}

Classifier::Classifier(std::unique_ptr<Network> network) : network_(std::move(network)) {}
Classifier::Classifier(Classifier&&) noexcept = default;
Classifier::~Classifier() = default;

Classifier Classifier::train(const LabelledImages& data, const ClassifierRecipe& recipe, std::uint64_t seed,
                             const std::function<void()>& after_step) {
  check(data);
  const torch::AutoGradMode with_gradients(true);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const at::Tensor images = data.images_NCHW.contiguous();
  auto network = std::make_unique<Network>(images.size(1), data.num_classes, pixel_scale_of(images), generator);

  const std::int64_t batch_size = std::min(recipe.batch_size, images.size(0));
  const std::int64_t num_steps = recipe.num_steps(images.size(0));
  torch::optim::AdamW optimizer(network->parameters(), torch::optim::AdamWOptions().weight_decay(recipe.weight_decay));
  ShuffledIndices indices(images.size(0), generator);
  for (std::int64_t step = 0; step < num_steps; ++step) {
    const at::Tensor picked = indices.next(batch_size);
    const at::Tensor x = normalised_and_shifted(images, picked, network->scale, generator);
    const at::Tensor activations = network->convolve(x, /*training=*/true);
    const at::Tensor dropped =
        torch::empty({batch_size, network->head_weight.size(1)}).bernoulli_(1 - recipe.dropout, generator) /
        (1 - recipe.dropout);
    const at::Tensor loss =
        at::cross_entropy_loss(network->scores(activations, dropped), data.labels_N.index_select(0, picked),
                               /*weight=*/{}, at::Reduction::Mean, /*ignore_index=*/-100, recipe.label_smoothing);
    optimizer.zero_grad();
    loss.backward();
    for (auto& group : optimizer.param_groups()) {
      group.options().set_lr(learning_rate(recipe.peak_learning_rate, step, num_steps));
    }
    optimizer.step();
    if (after_step) after_step();
  }
  return Classifier(std::move(network));
}

at::Tensor Classifier::predict(const at::Tensor& images_NCHW) const {
  return network_->for_each_batch(
      images_NCHW, [&](const at::Tensor& activations) { return network_->scores(activations, {}).argmax(1); });
}

double Classifier::accuracy(const LabelledImages& data) const {
  return predict(data.images_NCHW).eq(data.labels_N).to(at::kDouble).mean().item<double>();
}

at::Tensor Classifier::features(const at::Tensor& images_NCHW) const {
  return network_->for_each_batch(images_NCHW, [](const at::Tensor& activations) {
    return activations.to(at::kFloat).mean({2, 3});
  });
}

}  // namespace dpldm::eval
