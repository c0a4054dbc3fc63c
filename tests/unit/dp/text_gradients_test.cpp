// Per-record gradients through a U-Net and the text encoder that makes its context, against one record at a time.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/torch.h"
#include "dp/clipped_sum.h"
#include "model/clip_text_model.h"
#include "model/ldm_bert.h"
#include "model/trainable_set.h"
#include "model/unet.h"
#include "support/small_networks.h"

namespace dpldm::dp {
namespace {

constexpr std::int64_t kRecords = 3;
constexpr std::int64_t kDraws = 2;

std::shared_ptr<model::TextEncoder> make_encoder(const std::string& kind) {
  if (kind == "bert") {
    model::LdmBertConfig config;
    config.vocab_size = 11;
    config.max_position_embeddings = 6;
    config.encoder_layers = 2;
    config.encoder_ffn_dim = 20;
    config.encoder_attention_heads = 2;
    config.head_dim = 3;
    config.d_model = 12;
    return std::make_shared<model::LdmBert>(config);
  }
  model::ClipTextConfig config;
  config.vocab_size = 11;
  config.max_position_embeddings = 6;
  config.num_hidden_layers = 2;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.num_attention_heads = 2;
  return std::make_shared<model::ClipTextModel>(config);
}

std::shared_ptr<model::UNet> make_network(const std::string& encoder) {
  auto network = std::make_shared<model::UNet>(test::small_text_unet_config());
  network->set_text_encoder(make_encoder(encoder));
  const torch::NoGradGuard no_grad;
  for (auto& parameter : network->parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
  for (auto& parameter : network->text_encoder()->parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
  return network;
}

struct TextRows {
  at::Tensor x;       // [records * draws, C, H, W]
  at::Tensor t;       // [records * draws]
  at::Tensor tokens;  // [records, L]
};

at::Tensor loss_of(model::UNet& network, const TextRows& rows) {
  const at::Tensor y = network.forward(rows.x, rows.t, {.token_ids = rows.tokens});
  return (y - 1).pow(2).flatten(1).mean(1).sum() / static_cast<double>(kDraws);
}

// Each record's gradient by itself, through ordinary layers: [records, elements].
at::Tensor one_at_a_time(model::UNet& network, const model::TrainableSet& trained, const TextRows& rows) {
  std::vector<at::Tensor> gradients;
  for (std::int64_t record = 0; record < kRecords; ++record) {
    for (const auto& parameter : trained.parameters()) at::Tensor(parameter.tensor).mutable_grad() = at::Tensor();
    loss_of(network, {rows.x.narrow(0, record * kDraws, kDraws), rows.t.narrow(0, record * kDraws, kDraws),
                      rows.tokens.narrow(0, record, 1)})
        .backward();
    std::vector<at::Tensor> parts;
    for (const auto& parameter : trained.parameters()) parts.push_back(parameter.tensor.grad().flatten());
    gradients.push_back(at::cat(parts));
  }
  return at::stack(gradients);
}

class TextGradients : public testing::TestWithParam<std::string> {};

TEST_P(TextGradients, SpanTheUnetAndTheEncoder) {
  torch::manual_seed(8);
  const auto network = make_network(GetParam());
  model::TrainableSet trained(*network, {});
  const TextRows rows{torch::randn({kRecords * kDraws, 4, 6, 5}), torch::tensor({1, 400, 30, 900, 77, 500}),
                      torch::tensor({{1, 2, 3, 0}, {4, 4, 10, 9}, {0, 0, 0, 1}})};
  const at::Tensor gradients = one_at_a_time(*network, trained, rows);
  const at::Tensor norms = gradients.norm(2, 1);
  const double clip_norm = norms.median().item<double>();
  const at::Tensor factors = (clip_norm / norms).clamp_max(1);

  std::vector<at::Tensor> parameters;
  for (const auto& parameter : trained.parameters()) parameters.push_back(parameter.tensor);
  ClippedSum sum(std::move(parameters), clip_norm);
  trained.attach(&sum);
  sum.begin_step();
  sum.begin_micro_batch(kRecords, kDraws);
  loss_of(*network, rows).backward();
  sum.finish_micro_batch();
  EXPECT_TRUE(at::allclose(sum.last_norms().to(at::kFloat), norms, 1e-5, 0)) << sum.last_norms() << norms;
  const at::Tensor expected = factors.matmul(gradients);
  const at::Tensor difference = sum.values() * clip_norm - expected;
  EXPECT_LT((difference.norm() / expected.norm()).item<double>(), 1e-4);
  // A tenth of it at least is the encoder's, or this test sees the U-Net alone.
  double encoder = 0;
  for (const auto& parameter : trained.parameters()) {
    const bool in_encoder = parameter.name.starts_with("bert.") || parameter.name.starts_with("text_encoder.");
    const at::Tensor part = expected.narrow(0, parameter.offset, parameter.tensor.numel());
    if (in_encoder) encoder += part.pow(2).sum().item<double>();
  }
  EXPECT_GT(std::sqrt(encoder), 0.1 * expected.norm().item<double>());
}

INSTANTIATE_TEST_SUITE_P(Encoders, TextGradients, testing::Values("bert", "clip"),
                         [](const auto& parameter) { return parameter.param; });

TEST(TextTrainableSet, TheConditionerIsTheEncoderAndNothingUnusedIsTrained) {
  const auto network = make_network("bert");
  model::TrainableOptions options;
  const model::TrainableSet with(*network, options);
  options.conditioner = false;
  const model::TrainableSet without(*network, options);
  std::int64_t used = 0;
  for (const auto& parameter : network->text_encoder()->named_parameters()) {
    if (network->text_encoder()->uses(parameter.key())) used += parameter.value().numel();
  }
  EXPECT_EQ(with.num_elements() - without.num_elements(), used);
  for (const auto& parameter : with.parameters()) EXPECT_FALSE(parameter.name.starts_with("bert.to_logits"));
  for (const auto& parameter : without.parameters()) EXPECT_FALSE(parameter.name.starts_with("bert."));
}

// A frozen encoder is run once for each text; a trained one for each row. The answer is the same.
TEST(TextConditioning, DrawsOfARecordShareItsText) {
  torch::manual_seed(9);
  const auto network = make_network("clip");
  const TextRows rows{torch::randn({4, 4, 6, 5}), torch::tensor({1, 400, 30, 900}),
                      torch::tensor({{1, 2, 3}, {4, 4, 10}})};
  const at::Tensor trained = network->forward(rows.x, rows.t, {.token_ids = rows.tokens});
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(at::allclose(network->forward(rows.x, rows.t, {.token_ids = rows.tokens}), trained, 1e-5, 1e-6));
  const at::Tensor context = network->text_encoder()->forward(rows.tokens, at::kFloat).repeat_interleave(2, 0);
  EXPECT_TRUE(at::allclose(network->forward(rows.x, rows.t, {.context = context}), trained, 1e-5, 1e-6));
}

}  // namespace
}  // namespace dpldm::dp
