// `dpldm sample` and `dpldm evaluate` on ranks that do not agree: on options, or on what lies under one name where each
// rank runs, as on nodes with disks of their own. And what all ranks of `dpldm finetune` end with.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/torch.h"
#include "data/image_file.h"
#include "diffusion/noise_schedule.h"
#include "model/ldm_bert.h"
#include "model/model_directory.h"
#include "support/file_bytes.h"
#include "support/process.h"
#include "support/small_networks.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"

namespace dpldm {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Arguments = std::vector<std::string>;

constexpr const char* kProgram = DPLDM_BIN_DIR "/dpldm";

// Rank 0 runs in first/, rank 1 in second/.
class CommandsOnRanks : public testing::Test {
 protected:
  CommandsOnRanks() {
    for (const char* folder : {"first", "second"}) fs::create_directories(path(folder));
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  test::ProcessResult run_apart(const Arguments& first, const Arguments& second) const {
    Arguments command{"mpirun", "--oversubscribe", "--bind-to", "none"};
    const auto add_rank = [&](const std::string& folder, const Arguments& arguments) {
      command.insert(command.end(), {"-np", "1", "--wdir", path(folder), kProgram});
      command.insert(command.end(), arguments.begin(), arguments.end());
    };
    add_rank("first", first);
    command.emplace_back(":");
    add_rank("second", second);
    return test::run_process(command);
  }

  // By both ranks, before the output is begun.
  void expect_refused_apart(const Arguments& first, const Arguments& second, const std::string& what) const {
    const test::ProcessResult result = run_apart(first, second);
    EXPECT_EQ(result.exit_code, 64) << what << result.err;
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(fs::exists(path("x.h5"))) << what;
  }

  // <first>/model, and a copy of it.
  void write_models() const {
    test::make_tiny_model(path("first"), 1, data::Visibility::kPublic);
    fs::rename(path("first/tiny"), path("first/model"));
    write_json("first/model/unet/config.json", "sample_size", 4);
    copy_model();
  }
  // What rank 0 has, for rank 1 too.
  void copy_model() const {
    fs::remove_all(path("second/model"));
    fs::copy(path("first/model"), path("second/model"), fs::copy_options::recursive);
  }
  void write_json(const std::string& file, const std::string& key, const nlohmann::json& value) const {
    nlohmann::json json = nlohmann::json::parse(test::bytes_of(path(file)));
    json[key] = value;
    test::write_bytes(path(file), json.dump());
  }

  Arguments sample(const Arguments& more) const {
    Arguments arguments{"sample", "--model", "model", "--num", "2", "--precision", "fp32", "-o", path("x.h5")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  // Labelled images that are the numbers from `first` on.
  void write_images(const std::string& name, std::int64_t first) const {
    constexpr std::int64_t kImages = 10;
    data::ImageFileInfo info;
    info.num_records = kImages;
    info.channels = 1;
    info.height = info.width = 8;
    info.class_names = {"a", "b"};
    info.source = "a test";
    const at::Tensor images = torch::arange(first, first + kImages * 64).remainder(251).to(torch::kByte);
    data::ImageFileWriter writer(path(name), info);
    writer.append(images.view({kImages, 1, 8, 8}), torch::arange(kImages).remainder(2));
    writer.commit();
  }

 private:
  test::TemporaryDirectory folder_;
};

TEST_F(CommandsOnRanks, WithOtherOptions_DoNotSampleTogether) {
  write_models();
  for (const Arguments& other : std::vector<Arguments>{{"--seed", "1"},
                                                       {"--steps", "3"},
                                                       {"--eta", "1"},
                                                       {"--guidance", "2"},
                                                       {"--classes", "0"},
                                                       {"--sampler", "dpmpp"},
                                                       {"--spacing", "trailing"},
                                                       {"--batch", "1"}}) {
    expect_refused_apart(
        sample({}), sample(other),
        "the configuration must be the same on all ranks, but rank 1 has '" + other[0] + " " + other[1] + "' where");
  }
}

TEST_F(CommandsOnRanks, ThatSeeAnotherModelOrNoise_DoNotSampleTogether) {
  write_models();
  test::write_bytes(path("first/noise"), "some");
  test::write_bytes(path("second/noise"), "more");
  const Arguments with_noise = sample({"--initial-noise", "noise"});
  expect_refused_apart(with_noise, with_noise, "but rank 1 has '--initial-noise SHA-256 ");

  const auto expect_part_is_compared = [&](const std::string& part) {
    expect_refused_apart(sample({}), sample({}),
                         "the SHA-256 of the model must be the same on all ranks, but rank 1 has '" + part + " ");
    copy_model();
  };
  const torch::NoGradGuard no_grad;
  const auto unet = model::load_unet(path("first/model"));
  unet->named_parameters()["conv_in.bias"].add_(1);
  model::save_unet(*unet, path("second/model/unet"));
  expect_part_is_compared("U-Net");
  const auto autoencoder = model::load_autoencoder(path("first/model"));
  autoencoder->named_parameters()["decoder.conv_in.bias"].add_(1);
  model::save_autoencoder(*autoencoder, path("second/model/vae"));
  expect_part_is_compared("autoencoder");
  write_json("second/model/vae/config.json", "scaling_factor", 0.25);
  expect_part_is_compared("autoencoder");
  write_json("second/model/scheduler/scheduler_config.json", "beta_end", 0.02);
  expect_part_is_compared("scheduler");
  // By which the samples are marked.
  test::write_bytes(path("second/model/dp_metadata.json"),
                    R"({"private": false, "not_private_because": "a test", "training_records": "private"})");
  expect_part_is_compared("statement");
}

TEST_F(CommandsOnRanks, ThatSeeOtherPromptsOrAnotherTextEncoder_DoNotSampleTogether) {
  torch::manual_seed(3);
  model::UNetConfig unet = test::small_text_unet_config();
  unet.sample_height = unet.sample_width = 4;
  const auto encoder = std::make_shared<model::LdmBert>(test::small_bert_config());
  model::save_pipeline({.unet = std::make_shared<model::UNet>(unet),
                        .autoencoder = std::make_shared<model::AutoencoderKL>(test::small_autoencoder_config()),
                        .text_encoder = encoder,
                        .tokenizer = DPLDM_GOLDEN_DIR "/tokenizers/bert"},
                       diffusion::ScheduleConfig().to_json(), path("first/model"));
  copy_model();
  test::write_bytes(path("first/p.txt"), "a lung\n");
  test::write_bytes(path("second/p.txt"), "a heart\n");
  const Arguments prompts = sample({"--prompts", "p.txt"});
  expect_refused_apart(prompts, prompts, "but rank 1 has '--prompts SHA-256 ");

  test::write_bytes(path("second/p.txt"), "a lung\n");
  const torch::NoGradGuard no_grad;
  encoder->parameters().front().add_(1);
  model::save_text_encoder(*encoder, path("second/model/bert"));
  expect_refused_apart(prompts, prompts, "but rank 1 has 'text encoder ");
}

// Every rank looks at what it has itself: here at a file that nothing is drawn from, or the ranks would not start.
TEST_F(CommandsOnRanks, WeightsBesideTheStatementOnOneRank_TakeTheClaimFromAllSamples) {
  write_models();
  nlohmann::json statement = nlohmann::json::parse(
      R"({"format": "dpldm-privacy", "version": 1, "private": true, "epsilon": 2.1013652, "delta": 1e-05, "neighbouring": "add-remove", "sampler": "poisson",
          "accountant": "rdp", "sampling_rate": 0.01, "noise_multiplier": 1.0, "steps": 1000, "num_records": 50000,
          "expected_batch_size": 500})");
  const std::string model = path("first/model");
  statement["tensors_sha256"] =
      model::weights_to_be_written({.unet = model::load_unet(model), .autoencoder = model::load_autoencoder(model)});
  test::write_bytes(path("first/model/dp_metadata.json"), statement.dump());
  copy_model();
  const test::ProcessResult own = run_apart(sample({}), sample({}));
  ASSERT_EQ(own.exit_code, 0) << own.err;
  EXPECT_EQ(data::ImageFile(path("x.h5")).info().visibility, data::Visibility::kPublic);

  const std::string unet = path("second/model/unet/");
  fs::copy_file(unet + "diffusion_pytorch_model.safetensors", unet + "another.safetensors");
  const test::ProcessResult others = run_apart(sample({}), sample({}));
  ASSERT_EQ(others.exit_code, 0) << others.err;
  EXPECT_THAT(others.err, HasSubstr("NO CLAIM"));
  EXPECT_THAT(others.err, HasSubstr("(as rank 1 sees it)"));
  EXPECT_EQ(data::ImageFile(path("x.h5")).info().visibility, data::Visibility::kPrivate);
}

TEST_F(CommandsOnRanks, ThatSeeOtherImagesOrOptions_DoNotEvaluateTogether) {
  const auto evaluate = [](const Arguments& more) {
    Arguments arguments{"evaluate", "--samples", "samples.h5", "--reference", "heldout.h5", "--seeds", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const auto write_for_both = [&](const std::string& name, std::int64_t first) {
    write_images("first/" + name, first);
    write_images("second/" + name, first);
  };
  write_for_both("samples.h5", 0);
  write_for_both("heldout.h5", 77);
  write_for_both("public.h5", 111);
  write_for_both("training.h5", 200);
  for (const Arguments& other :
       std::vector<Arguments>{{"--public", "public.h5"}, {"--training", "training.h5"}, {"--json"}}) {
    expect_refused_apart(evaluate({}), evaluate(other),
                         "the configuration must be the same on all ranks, but rank 1 has '" + other[0] + " true'");
  }
  const Arguments all = evaluate({"--public", "public.h5", "--training", "training.h5"});
  for (const auto& [option, name] : {std::pair("--samples", "/samples.h5"), std::pair("--reference", "/heldout.h5"),
                                     std::pair("--public", "/public.h5"), std::pair("--training", "/training.h5")}) {
    write_images(std::string("second") + name, 150);
    expect_refused_apart(
        all, all,
        "the SHA-256 of the data must be the same on all ranks, but rank 1 has '" + std::string(option) + " ");
    fs::copy_file(path(std::string("first") + name), path(std::string("second") + name),
                  fs::copy_options::overwrite_existing);
  }
}

TEST_F(CommandsOnRanks, DamageThatOneRankAloneSees_EndsAnEvaluation) {
  for (const char* name : {"first/samples.h5", "second/samples.h5"}) write_images(name, 0);
  for (const char* name : {"first/heldout.h5", "second/heldout.h5"}) write_images(name, 77);
  std::string bytes = test::bytes_of(path("second/samples.h5"));
  const std::size_t at = bytes.find("\x01\x02\x03\x04\x05\x06\x07");
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  test::write_bytes(path("second/samples.h5"), bytes);
  const Arguments evaluate{"evaluate", "--samples", "samples.h5", "--reference", "heldout.h5", "--seeds", "1"};
  const test::ProcessResult result = run_apart(evaluate, evaluate);
  EXPECT_EQ(result.exit_code, 74) << result.err;
  EXPECT_THAT(result.err, HasSubstr("as rank 1 sees it"));
  EXPECT_EQ(result.out, "");
}

TEST_F(CommandsOnRanks, RunThatWouldExceedItsBudget_EndsWith76AndChargesNothing) {
  const test::TinyModel tiny = test::make_tiny_model(path(""), 24, data::Visibility::kPublic);
  Arguments finetune{"finetune", "--run-dir", path("run")};
  for (const std::string& setting :
       {"model.base=" + tiny.model.string(), "data.latents=" + tiny.latents.string(), std::string("runtime.threads=1"),
        std::string("training.steps=5"), std::string("training.expected_batch_size=4"),
        std::string("privacy.epsilon=1"), std::string("privacy.noise_multiplier=0.4")}) {
    finetune.insert(finetune.end(), {"--set", setting});
  }
  const test::ProcessResult result = run_apart(finetune, finetune);
  EXPECT_EQ(result.exit_code, 76) << result.err;
  EXPECT_THAT(result.err, HasSubstr("5 steps with noise multiplier 0.4 would cost epsilon"));
  EXPECT_EQ(result.out, "");
  EXPECT_FALSE(fs::exists(path("run/ledger.jsonl")));
}

}  // namespace
}  // namespace dpldm
