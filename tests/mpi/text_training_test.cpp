// A text-conditioned model from captions to samples, at toy size: tokens, pre-training, private fine-tuning with the
// text encoder frozen and trained, and reading the result.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "accounting/privacy_stamp.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/latent_file.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "support/ranks_in_one_directory.h"
#include "support/tiny_model.h"
#include "text/tokenizer.h"
#include "train/pretraining.h"
#include "train/private_training.h"

namespace dpldm::train {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::int64_t kTokens = 8;
constexpr std::int64_t kRecords = 12;

fs::path golden_tokenizer() { return fs::path(DPLDM_GOLDEN_DIR) / "tokenizers" / "bert"; }

// The tiny model's latents, with a caption for each.
void write_captioned(const fs::path& from, const fs::path& to, data::Visibility visibility) {
  const data::LatentFile records(from);
  const auto tokenizer = text::load_tokenizer(golden_tokenizer(), kTokens);
  data::LatentFileInfo info = records.info();
  info.visibility = visibility;
  info.class_names.clear();
  info.num_tokens = kTokens;
  info.vocabulary_size = tokenizer->vocabulary_size();
  info.tokenizer_sha256 = tokenizer->sha256();
  at::Tensor tokens = at::zeros({kRecords, kTokens}, at::kInt);
  std::vector<std::int64_t> ids;
  for (std::int64_t record = 0; record < kRecords; ++record) {
    const auto row = tokenizer->encode(record % 2 == 0 ? "a dark picture of a lung" : "a bright picture, of a cell");
    for (std::int64_t i = 0; i < kTokens; ++i) tokens[record][i] = row[static_cast<std::size_t>(i)];
    ids.push_back(record);
  }
  data::LatentFileWriter writer(to, info, /*has_labels=*/false, /*half_precision=*/false);
  writer.write_moments(0, records.read_moments(ids));
  writer.write_tokens(tokens);
  writer.commit();
}

Tensors tensors_in(const fs::path& model) {
  Tensors tensors;
  for (const char* component : {"unet", "bert"}) {
    for (const auto& entry : fs::directory_iterator(model / component)) {
      if (entry.path().extension() != ".safetensors") continue;
      for (auto& [name, tensor] : io::read_safetensors(entry.path()))
        tensors.emplace(std::string(component) + "." + name, tensor);
    }
  }
  return tensors;
}

// Of the tensors that are not bit-identical: how many are the text encoder's, and how many the U-Net's.
std::pair<int, int> changed(const fs::path& before, const fs::path& after) {
  const Tensors old = tensors_in(before);
  const Tensors renewed = tensors_in(after);
  EXPECT_EQ(old.size(), renewed.size());
  std::pair<int, int> counts{0, 0};
  for (const auto& [name, tensor] : old) {
    if (!at::equal(tensor, renewed.at(name))) ++(name.starts_with("bert.") ? counts.first : counts.second);
  }
  return counts;
}

class TextTraining : public test::RanksInOneDirectory {
 protected:
  TextTraining() {
    if (world_->is_root()) {
      test::make_tiny_model(root_, kRecords, data::Visibility::kPublic);
      write_captioned(root_ / "latents.h5", root_ / "public.h5", data::Visibility::kPublic);
      write_captioned(root_ / "latents.h5", root_ / "private.h5", data::Visibility::kPrivate);
    }
    world_->barrier();
  }

  config::PretrainConfig pretrain_config(bool train_encoder) const {
    config::PretrainConfig config;
    config.latents = (root_ / "public.h5").string();
    config.autoencoder = (root_ / "tiny").string();
    config.tokenizer = golden_tokenizer().string();
    config.train_text_encoder = train_encoder;
    config.network = {{"block_out_channels", {8, 16}},
                      {"down_block_types", {"CrossAttnDownBlock2D", "DownBlock2D"}},
                      {"up_block_types", {"UpBlock2D", "CrossAttnUpBlock2D"}},
                      {"layers_per_block", 1},
                      {"norm_num_groups", 4},
                      {"attention_head_dim", 2}};
    config.text_network = {{"_class_name", "LDMBertModel"},
                           {"vocab_size", 700},
                           {"max_position_embeddings", 77},
                           {"encoder_layers", 1},
                           {"encoder_ffn_dim", 16},
                           {"encoder_attention_heads", 2},
                           {"head_dim", 4},
                           {"d_model", 12}};
    config.steps = 4;
    config.batch_size = 6;
    config.runtime.threads = 1;
    config.runtime.micro_batch_size = 2;
    return config;
  }
  // Collective. The model's directory.
  fs::path pretrained(bool train_encoder, const std::string& name) {
    config::PretrainConfig config = pretrain_config(train_encoder);
    run_pretraining(config, {.run_dir = root_ / name}, *world_);
    return root_ / name / "model";
  }
  config::FinetuneConfig finetune_config(const fs::path& base, bool conditioner) const {
    config::FinetuneConfig config;
    config.model = base.string();
    config.latents = (root_ / "private.h5").string();
    config.train_conditioner = conditioner;
    config.steps = 3;
    config.expected_batch_size = 4;
    config.noise_multiplicity = 2;
    config.delta = 1e-3;
    config.noise_multiplier = 0.8;
    config.test_seed = 5;
    config.accountant = "rdp";
    config.runtime.threads = 1;
    config.runtime.micro_batch_size = 3;
    return config;
  }
  // Collective over `comm`.
  fs::path tuned(const config::FinetuneConfig& of, const std::string& name, comm::Communicator& comm) {
    config::FinetuneConfig config = of;
    run_private_training(config, {.run_dir = root_ / name}, comm);
    return root_ / name / "model";
  }
};

TEST_F(TextTraining, PretrainingRefusesATextEncoderThatSawPrivateRecords) {
  const fs::path model = pretrained(true, "public");
  config::PretrainConfig config = pretrain_config(false);
  config.text_network = nlohmann::json::object();
  config.text_encoder = model.string();
  run_pretraining(config, {.run_dir = root_ / "own"}, *world_);
  if (world_->is_root()) {
    model::save_text_encoder(*model::load_text_encoder(model), model / "bert", accounting::stamp_for_checkpoint());
  }
  world_->barrier();
  EXPECT_THROW(run_pretraining(config, {.run_dir = root_ / "refused"}, *world_), ConfigError);
}

TEST_F(TextTraining, FrozenAndTrainedEncodersFromCaptionsToAModelThatReadsPrompts) {
  const fs::path base = pretrained(true, "pretrain");
  EXPECT_EQ(io::read_json_file(base / "model_index.json")["_class_name"], "LDMTextToImagePipeline");
  EXPECT_TRUE(fs::exists(base / "tokenizer" / "vocab.txt"));
  EXPECT_EQ(text::text_length(base / "tokenizer", 77), kTokens) << "what prompts will be padded to";

  const fs::path frozen = tuned(finetune_config(base, false), "frozen", *world_);
  const auto [frozen_encoder, frozen_unet] = changed(base, frozen);
  EXPECT_EQ(frozen_encoder, 0);
  EXPECT_GT(frozen_unet, 20);
  EXPECT_EQ(accounting::read_privacy_stamps(frozen).size(), 1U) << "the U-Net alone";

  const fs::path trained = tuned(finetune_config(base, true), "trained", *world_);
  const auto [trained_encoder, trained_unet] = changed(base, trained);
  EXPECT_EQ(trained_unet, frozen_unet);
  const auto encoder = model::load_text_encoder(trained);
  EXPECT_EQ(trained_encoder, static_cast<int>(encoder->parameters().size()) - 2) << "all but to_logits";
  EXPECT_EQ(accounting::read_privacy_stamps(trained).size(), 2U);
  const auto metadata = model::read_dp_metadata(trained);
  EXPECT_TRUE(metadata["public_inputs"].contains("base_text_encoder_sha256"));
  const std::string tokenizer_sha256 = text::load_tokenizer(golden_tokenizer(), kTokens)->sha256();
  EXPECT_EQ(metadata["public_inputs"]["tokenizer_sha256"], tokenizer_sha256);
  EXPECT_NE(read_file(trained.parent_path() / "privacy_statement.md", 1 << 20).find(tokenizer_sha256),
            std::string::npos);
  const auto names = metadata["trained_parameters"].get<std::vector<std::string>>();
  EXPECT_NE(std::find(names.begin(), names.end(), "bert.model.layers.0.fc1.weight"), names.end());

  const torch::NoGradGuard no_grad;
  const auto unet = model::load_conditioned_unet(trained);
  EXPECT_EQ(text::text_length(model::tokenizer_directory(trained), 77), kTokens);
  const auto ids = text::load_tokenizer(model::tokenizer_directory(trained), kTokens)->encode("a dark picture");
  const at::Tensor tokens = torch::tensor(ids, torch::kInt).to(torch::kLong).unsqueeze(0);
  const at::Tensor output = unet->forward(torch::randn({1, 4, 4, 4}), torch::tensor({500}), {.token_ids = tokens});
  EXPECT_TRUE(at::isfinite(output).all().item<bool>());
}

TEST_F(TextTraining, AFrozenEncoderIsNotTouchedByPreTraining) {
  const fs::path first = pretrained(false, "first");
  config::PretrainConfig config = pretrain_config(false);
  config.steps = 1;
  run_pretraining(config, {.run_dir = root_ / "second"}, *world_);
  EXPECT_EQ(changed(first, root_ / "second" / "model").first, 0);
  EXPECT_EQ(accounting::noted_sources(first / "bert"), "");
  const fs::path third = pretrained(true, "third");
  EXPECT_GT(changed(first, third).first, 0);
  EXPECT_EQ(accounting::noted_sources(third / "bert"), "made up") << "what it was trained on, as the U-Net";
}

TEST_F(TextTraining, AnyNumberOfRanksTrainsTheEncoderOfOneRank) {
  const fs::path base = pretrained(false, "pretrain");
  if (world_->is_root()) tuned(finetune_config(base, true), "alone", *comm::make_self_communicator());
  world_->barrier();
  const Tensors alone = tensors_in(root_ / "alone" / "model");
  const Tensors together = tensors_in(tuned(finetune_config(base, true), "together", *world_));
  for (const auto& [name, tensor] : alone) {
    EXPECT_TRUE(at::allclose(tensor, together.at(name), 1e-4, 1e-5)) << name;
  }
}

TEST_F(TextTraining, CaptionsOfAnotherTokenizerAreRefused) {
  const fs::path base = pretrained(false, "pretrain");
  world_->barrier();
  if (world_->is_root()) {
    fs::remove_all(base / "tokenizer");
    fs::copy(fs::path(DPLDM_GOLDEN_DIR) / "tokenizers" / "bert_json", base / "tokenizer");
  }
  world_->barrier();
  EXPECT_THROW(tuned(finetune_config(base, true), "other", *world_), ConfigError);
}

TEST_F(TextTraining, LatentsWithoutCaptionsAreRefused) {
  const fs::path base = pretrained(false, "pretrain");
  config::FinetuneConfig config = finetune_config(base, true);
  config.latents = (root_ / "latents.h5").string();
  EXPECT_THROW(tuned(config, "labels", *world_), ConfigError);
}

}  // namespace
}  // namespace dpldm::train
