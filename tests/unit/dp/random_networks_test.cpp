// Networks put together at random from every layer kind, with a random part of their parameters trained, against one
// record at a time through autograd.
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "model/layers.h"

namespace dpldm::dp {
namespace {

using model::Conv2d;
using model::Embedding;
using model::GroupNorm;
using model::Layer;
using model::LayerNorm;
using model::Linear;

class RandomNetwork {
 public:
  RandomNetwork(unsigned seed, at::ScalarType type) : random_(seed) {
    height = pick(1, 5);
    width = pick(1, 6);
    std::int64_t channels = 4;
    for (std::int64_t i = pick(1, 3); i > 0; --i) channels = add_image_layer(channels);
    steps_.emplace_back([](const at::Tensor& h) { return h.flatten(2).transpose(1, 2); });
    for (std::int64_t i = pick(1, 3); i > 0; --i) channels = add_token_layer(channels);
    auto table = std::make_shared<Embedding>(5, channels);
    embedding_ = table;
    layers_.push_back(table);
    const torch::NoGradGuard no_grad;
    for (const auto& layer : layers_) {
      layer->to(type);
      for (auto& p : layer->parameters(false)) p.normal_(0, 0.5);
    }
    choose_trained();
  }

  // x [B, 4, height, width], ids [B, 3] -> [B].
  at::Tensor losses(const at::Tensor& x, const at::Tensor& ids) const {
    at::Tensor h = x;
    for (const auto& step : steps_) h = step(h);
    h = h * embedding_->forward(ids, x.scalar_type()).sum(1, true);
    return h.tanh().pow(2).flatten(1).mean(1);
  }

  void attach(model::GradientTap* tap) {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (weight_[i] || bias_[i]) layers_[i]->attach(tap, "layer" + std::to_string(i), weight_[i], bias_[i]);
    }
  }
  std::vector<at::Tensor> trained() const {
    std::vector<at::Tensor> parameters;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (weight_[i]) parameters.push_back(layers_[i]->weight);
      if (bias_[i]) parameters.push_back(layers_[i]->bias);
    }
    return parameters;
  }
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }

  std::int64_t height = 1;
  std::int64_t width = 1;

 private:
  template <class L, class... Arguments>
  void add(Arguments... arguments) {
    auto layer = std::make_shared<L>(arguments...);
    layers_.push_back(layer);
    steps_.emplace_back([layer](const at::Tensor& h) { return layer->forward(h).sin(); });
  }
  std::int64_t add_image_layer(std::int64_t channels) {
    if (pick(0, 2) == 0) {
      add<GroupNorm>(pick(0, 1) == 0 ? channels / 2 : 1, channels, 1e-3);
      return channels;
    }
    const std::int64_t out = 2 * pick(1, 4);
    const std::int64_t kernel = 2 * pick(0, 1) + 1;
    add<Conv2d>(channels, out, kernel, pick(1, 2), kernel / 2, pick(1, 2), pick(0, 1) == 0);
    return out;
  }
  std::int64_t add_token_layer(std::int64_t channels) {
    if (channels > 2 && pick(0, 2) == 0) {
      add<LayerNorm>(channels, 1e-3);
      return channels;
    }
    const std::int64_t out = pick(1, 9);
    add<Linear>(channels, out, pick(0, 1) == 0);
    return out;
  }
  void choose_trained() {
    for (const auto& layer : layers_) {
      weight_.push_back(pick(0, 3) > 0);
      bias_.push_back(layer->bias.defined() && pick(0, 3) > 0);
    }
    weight_.back() = true;  // at least the embedding
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i]->weight.requires_grad_(weight_[i]);
      if (layers_[i]->bias.defined()) layers_[i]->bias.requires_grad_(bias_[i]);
    }
  }

  std::mt19937 random_;
  std::vector<std::shared_ptr<Layer>> layers_;
  std::shared_ptr<Embedding> embedding_;
  std::vector<std::function<at::Tensor(const at::Tensor&)>> steps_;
  std::vector<bool> weight_;
  std::vector<bool> bias_;
};

class RandomNetworks : public testing::TestWithParam<at::ScalarType> {};

TEST_P(RandomNetworks, AgreeWithOneRecordAtATime) {
  const at::ScalarType type = GetParam();
  const bool in_double = type == at::kDouble;
  constexpr Rule kRules[] = {Rule::kAutomatic, Rule::kKept, Rule::kNormOnly, Rule::kGram};
  constexpr std::int64_t kDraws[] = {1, 2, 8};
  for (unsigned seed = 0; seed < 60; ++seed) {
    torch::manual_seed(seed);
    RandomNetwork net(seed, type);
    const std::int64_t draws = kDraws[seed % 3];
    const std::int64_t records = net.pick(1, 4);
    const at::Tensor x = torch::randn({records * draws, 4, net.height, net.width}, type);
    const at::Tensor ids = torch::randint(0, 5, {records * draws, 3}, torch::kLong);
    std::vector<at::Tensor> parameters = net.trained();

    std::vector<at::Tensor> rows;
    for (std::int64_t r = 0; r < records; ++r) {
      const at::Tensor loss = net.losses(x.narrow(0, r * draws, draws), ids.narrow(0, r * draws, draws)).mean();
      std::vector<at::Tensor> parts;
      for (const at::Tensor& part : torch::autograd::grad({loss}, parameters)) parts.push_back(part.flatten());
      rows.push_back(torch::cat(parts));
    }
    const at::Tensor truth = torch::stack(rows);
    const at::Tensor norms = truth.norm(2, 1);
    const double clip = norms.mean().item<double>();

    ClippedSum sum(parameters, clip, kRules[seed % 4]);
    net.attach(&sum);
    sum.begin_step();
    sum.begin_micro_batch(records, draws);
    (net.losses(x, ids).sum() / static_cast<double>(draws)).backward();
    sum.finish_micro_batch();
    const at::Tensor want =
        (truth * torch::minimum(norms.reciprocal(), torch::full_like(norms, 1 / clip)).unsqueeze(1)).sum(0);
    EXPECT_LE(((sum.last_norms() - norms) / norms).abs().max().item<double>(), in_double ? 1e-10 : 1e-5)
        << "seed " << seed;
    EXPECT_LE((sum.values() - want).norm().item<double>(), (in_double ? 1e-10 : 1e-4) * want.norm().item<double>())
        << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RandomNetworks, testing::Values(at::kDouble, at::kFloat),
                         [](const auto& parameter) { return std::string(c10::toString(parameter.param)); });

}  // namespace
}  // namespace dpldm::dp
