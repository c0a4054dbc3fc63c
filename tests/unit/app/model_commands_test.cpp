// Models from a checkpoint to pictures by the commands that a user types: convert, inspect, sample.
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "accounting/privacy_stamp.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "diffusion/noise_schedule.h"
#include "io/safetensors.h"
#include "model/ldm_bert.h"
#include "model/model_directory.h"
#include "support/file_bytes.h"
#include "support/gzip_file.h"
#include "support/process.h"
#include "support/small_networks.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"
#include "text/tokenizer_files.h"

namespace dpldm {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class ModelCommands : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  static test::ProcessResult run(std::vector<std::string> arguments, int num_ranks = 1) {
    std::vector<std::string> command{DPLDM_BIN_DIR "/dpldm"};
    if (num_ranks > 1) {
      command = {"mpirun", "-np", std::to_string(num_ranks), "--oversubscribe", "--bind-to", "none", command[0]};
    }
    command.insert(command.end(), arguments.begin(), arguments.end());
    return test::run_process(command);
  }

  // One sentence on stderr that contains `what`, and the code of a wrong input.
  static void expect_refusal(const std::vector<std::string>& arguments, const std::string& what, int code = 64) {
    const test::ProcessResult result = run(arguments);
    EXPECT_EQ(result.exit_code, code) << testing::PrintToString(arguments) << result.err;
    EXPECT_THAT(result.err, HasSubstr(what)) << testing::PrintToString(arguments);
    EXPECT_EQ(result.out, "");
  }

  // A checkpoint of tests/golden/compvis and its yaml, in a folder of their own.
  void place(const std::string& name) const {
    const std::string golden = DPLDM_GOLDEN_DIR "/compvis/" + name;
    fs::create_directories(path(name));
    test::write_bytes(path(name + "/model.ckpt"), test::unpacked(golden + ".ckpt.gz"));
    test::write_bytes(path(name + "/config.yaml"), test::bytes_of(golden + ".yaml"));
  }
  // config.yaml of that checkpoint with one text replaced, as another file of the same folder.
  void place_other_yaml(const std::string& name, const std::string& from, const std::string& to) const {
    std::string text = test::bytes_of(path(name + "/config.yaml"));
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    test::write_bytes(path(name + "/other.yaml"), text.replace(at, from.size(), to));
  }
  std::vector<std::string> convert(const std::string& name, const std::string& yaml = "config.yaml",
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"convert",
                                       "--from",
                                       "compvis",
                                       "--config",
                                       path(name + "/" + yaml),
                                       "--checkpoint",
                                       path(name + "/model.ckpt"),
                                       "-o",
                                       path(name + "_model")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> sample(const std::string& model, const std::string& output,
                                  const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"sample",      "--model", path(model), "--steps",   "3",
                                       "--precision", "fp32",    "-o",        path(output)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  at::Tensor images_in(const std::string& name) const {
    const data::ImageFile file(path(name));
    return file.read_images(0, file.info().num_records);
  }

  // A model that takes prompts: what the encoder says must show in the pictures.
  void write_text_model(const std::string& name) const {
    torch::manual_seed(3);
    const torch::NoGradGuard no_grad;
    const auto filled = [](auto network) {
      for (auto& p : network->parameters()) p.add_(0.2 * torch::randn_like(p));
      return network;
    };
    model::UNetConfig unet = test::small_text_unet_config();
    unet.sample_height = unet.sample_width = 4;
    model::save_pipeline({.unet = filled(std::make_shared<model::UNet>(unet)),
                          .autoencoder = std::make_shared<model::AutoencoderKL>(test::small_autoencoder_config()),
                          .text_encoder = filled(std::make_shared<model::LdmBert>(test::small_bert_config())),
                          .tokenizer = DPLDM_GOLDEN_DIR "/tokenizers/bert"},
                         diffusion::ScheduleConfig().to_json(), path(name));
  }

 private:
  test::TemporaryDirectory folder_;
};

TEST_F(ModelCommands, ConvertedCheckpoint_IsWholeDescribedAndSampledByClass) {
  place("class_table");
  const test::ProcessResult converted = run(convert("class_table"));
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_THAT(converted.out, HasSubstr("heads: level 0: 1 head(s) of 32 channels"));
  EXPECT_THAT(converted.out, HasSubstr("scale factor 1 (of the yaml)"));
  EXPECT_THAT(converted.out, HasSubstr("a null class was added"));
  EXPECT_THAT(converted.err, Not(HasSubstr("disagree")));
  expect_refusal(convert("class_table"), "is there already");

  const test::ProcessResult original = run({"inspect", path("class_table/model.ckpt"), "--json"});
  ASSERT_EQ(original.exit_code, 0) << original.err;
  const auto parts = nlohmann::json::parse(original.out);
  EXPECT_EQ(parts["format"], "torch-archive");
  EXPECT_EQ(parts["elements_of"]["cond_stage_model"], 5 * 16);
  EXPECT_GT(parts["elements_of"]["model"], 0);
  EXPECT_GT(parts["elements_of"]["first_stage_model"], 0);
  EXPECT_THAT(parts["never_executed"].get<std::vector<std::string>>(),
              testing::Contains("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"));
  EXPECT_THAT(run({"inspect", path("class_table/model.ckpt")}).out, HasSubstr("dpldm convert --config M.yaml"));
  expect_refusal({"inspect", path("class_table/config.yaml")}, "is a configuration");
  expect_refusal({"inspect", path("class_table_model/model_index.json")}, "is a part of a model");
  expect_refusal({"inspect", path("class_table_model/unet/diffusion_pytorch_model.safetensors")},
                 "inspect their folder");

  const test::ProcessResult checked = run({"convert", "--check", path("class_table_model")});
  EXPECT_THAT(checked.out, HasSubstr("is whole: U-Net (UNet2DConditionModel), autoencoder, scheduler")) << checked.err;
  const test::ProcessResult inspected = run({"inspect", path("class_table_model"), "--json"});
  ASSERT_EQ(inspected.exit_code, 0) << inspected.err;
  EXPECT_TRUE(nlohmann::json::accept(inspected.out)) << inspected.out;

  ASSERT_EQ(run(sample("class_table_model", "pictures", {"--num", "2", "--per-class", "--classes", "0,3"})).exit_code,
            0);
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path("pictures"))) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), path("pictures")).string());
  }
  EXPECT_THAT(files, testing::UnorderedElementsAre("000-class_0/000000.png", "000-class_0/000002.png",
                                                   "003-class_3/000001.png", "003-class_3/000003.png"));
  EXPECT_TRUE(fs::exists(path("pictures.png"))) << "the grid is beside the folder";
  const test::ProcessResult grid = run(sample("class_table_model", "grid.png", {"--num", "5"}));
  EXPECT_EQ(grid.exit_code, 0) << grid.err;
  EXPECT_EQ(grid.out, "5 synthetic images; " + path("grid.png") + " shows the first of them\n");
  EXPECT_TRUE(fs::exists(path("grid.png")));
}

TEST_F(ModelCommands, WhatACheckpointWasTrainedOn_IsAssumedAloudUnlessItWasSaid) {
  place("class_table");
  const std::string assumption = "taken for a public model; --trained-on private says otherwise";
  const test::ProcessResult unsaid = run(convert("class_table"));
  ASSERT_EQ(unsaid.exit_code, 0) << unsaid.err;
  EXPECT_THAT(unsaid.out, HasSubstr(assumption));
  fs::remove_all(path("class_table_model"));
  const test::ProcessResult said = run(convert("class_table", "config.yaml", {"--trained-on", "public"}));
  ASSERT_EQ(said.exit_code, 0) << said.err;
  EXPECT_THAT(said.out, HasSubstr("class_table_model is written"));
  EXPECT_THAT(said.out + said.err, Not(HasSubstr("--trained-on")));
  EXPECT_THAT(said.out + said.err, Not(HasSubstr("taken for")));
}

TEST_F(ModelCommands, YamlsThatDisagreeOnHeads_AreWarnedOf) {
  place("attention_blocks");
  place_other_yaml("attention_blocks", "num_heads: 2", "num_heads: 4");
  const test::ProcessResult converted = run(convert("attention_blocks"));
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_THAT(converted.err, HasSubstr("disagree on heads: level 1: 2 head(s) of 32 channels against level 1: 4"));
  EXPECT_THAT(converted.err, HasSubstr("no class of diffusers has this U-Net"));
  EXPECT_TRUE(fs::exists(path("attention_blocks_model/unet/dpldm_unet.py")));
  EXPECT_EQ(run(sample("attention_blocks_model", "a.h5", {"--num", "3", "--sampler", "dpmpp"})).exit_code, 0);
}

TEST_F(ModelCommands, YamlOfAPrivateFineTuning_NeedsToSayWhichCheckpointItIs) {
  place("class_table");
  place_other_yaml("class_table", "timesteps: 1000", "timesteps: 1000\n    dp_config: {enabled: true, epsilon: 10}");
  expect_refusal(convert("class_table", "other.yaml"), "say by --trained-on");
  const test::ProcessResult converted = run(convert("class_table", "other.yaml", {"--trained-on", "private"}));
  ASSERT_EQ(converted.exit_code, 0) << converted.err;
  EXPECT_THAT(converted.err, HasSubstr("finetune will not start from it"));
  EXPECT_TRUE(fs::exists(path("class_table_model/dp_metadata.json")));
  // Every part is marked: none may become part of a public model.
  std::size_t num_networks = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path("class_table_model"))) {
    num_networks += entry.path().extension() == ".safetensors" ? 1 : 0;
  }
  EXPECT_GT(num_networks, 1U);
  EXPECT_EQ(accounting::read_privacy_stamps(path("class_table_model")).size(), num_networks);
  const test::ProcessResult verified = run({"privacy", "verify", path("class_table_model")});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
  EXPECT_THAT(verified.out, HasSubstr("NOT PRIVATE: the model claims nothing"));
}

// Batches of one have one shape whatever the number of ranks.
TEST_F(ModelCommands, Samples_AreFunctionsOfTheSeedOnAnyNumberOfRanks) {
  test::make_tiny_model(path(""), 1, data::Visibility::kPublic);
  nlohmann::json config = nlohmann::json::parse(test::bytes_of(path("tiny/unet/config.json")));
  config["sample_size"] = 4;
  test::write_bytes(path("tiny/unet/config.json"), config.dump());
  const std::vector<std::string> options{"--num", "5", "--batch", "1", "--eta", "1", "--guidance", "2", "--seed", "9"};
  ASSERT_EQ(run(sample("tiny", "one.h5", options)).exit_code, 0);
  const test::ProcessResult on_three = run(sample("tiny", "three.h5", options), 3);
  ASSERT_EQ(on_three.exit_code, 0) << on_three.err;
  EXPECT_TRUE(at::equal(images_in("one.h5"), images_in("three.h5")));
  EXPECT_EQ(test::bytes_of(path("one.h5")), test::bytes_of(path("three.h5")));

  std::vector<std::string> other = options;
  other.back() = "10";
  ASSERT_EQ(run(sample("tiny", "other.h5", other)).exit_code, 0);
  EXPECT_FALSE(at::equal(images_in("one.h5"), images_in("other.h5")));
  for (const char* sampler : {"ddpm", "dpmpp", "euler"}) {
    const std::string file = std::string(sampler) + ".h5";
    ASSERT_EQ(run(sample("tiny", file, {"--num", "2", "--sampler", sampler, "--spacing", "trailing"})).exit_code, 0);
    EXPECT_EQ(images_in(file).size(0), 2);
  }

  expect_refusal(sample("tiny", "x.h5", {"--num", "1", "--classes", "3"}),
                 "--classes has 3; the model's classes are 0 to 2");
  expect_refusal(sample("tiny", "x.h5", {"--num", "1", "--eta", "2"}), "eta is 2; it must be between 0 and 1");
  expect_refusal(sample("tiny", "x.h5", {"--num", "1", "--sampler", "heun"}), "heun");
  expect_refusal(sample("tiny", "x.h5", {"--num", "1", "--guidance", "7.5x"}), "--guidance: ");
  expect_refusal(sample("tiny", "x.h5", {"--batch=1x", "--num", "1"}), "--batch: ");
  expect_refusal(sample("tiny", "x.h5", {"--num", "1", "--prompts", path("one.h5")}),
                 "--prompts needs a model with a text");
  expect_refusal(sample("tiny", "x.h5", {}), "--num is missing");
}

TEST_F(ModelCommands, ModelThatDoesNotFitOrIsDamaged_IsRefusedWithASentence) {
  test::make_tiny_model(path(""), 1, data::Visibility::kPublic);
  nlohmann::json config = nlohmann::json::parse(test::bytes_of(path("tiny/unet/config.json")));
  config["sample_size"] = 4;
  test::write_bytes(path("tiny/unet/config.json"), config.dump());
  const std::string most = std::to_string(std::numeric_limits<std::int64_t>::max());
  expect_refusal(sample("tiny", "x.h5", {"--num", most}), "--num is " + most + "; it must be between 1 and 100000000");
  expect_refusal(sample("tiny", "x.h5", {"--num", "100000000", "--per-class"}),
                 "--num is 100000000 for each of 3 classes; 100000000 images are the most");

  const auto saved = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    fs::copy(path("tiny"), path(name), fs::copy_options::recursive);
    model::UNetConfig shape = model::load_unet(path("tiny"))->config();
    shape.in_channels = in;
    shape.out_channels = out;
    model::save_unet(model::UNet(shape), path(name + "/unet"));
  };
  saved("answers_more", 4, 8);
  expect_refusal(sample("answers_more", "x.h5", {"--num", "1"}), "takes 4 channels and answers 8; the autoencoder's");
  saved("other_latents", 3, 3);
  expect_refusal(sample("other_latents", "x.h5", {"--num", "1"}), "the autoencoder's latents have 4");

  // The shape `name` has, changed by `change`.
  const auto reshaped = [&](const std::string& name, const auto& change) {
    model::UNetConfig shape = model::load_unet(path(name))->config();
    change(shape);
    model::save_unet(model::UNet(shape), path(name + "/unet"));
  };
  fs::copy(path("tiny"), path("without_context"), fs::copy_options::recursive);
  reshaped("without_context", [](model::UNetConfig& shape) { shape.num_classes = 0; });
  expect_refusal(sample("without_context", "x.h5", {"--num", "1"}), "neither a text encoder nor class embeddings");
  reshaped("without_context", [](model::UNetConfig& shape) { shape.class_embed_type = "timestep"; });
  expect_refusal(sample("without_context", "x.h5", {"--num", "1"}), "(class_embed_type timestep); sample has none");
  write_text_model("text_and_class");
  reshaped("text_and_class", [](model::UNetConfig& shape) { shape.num_class_embeds = 3; });
  expect_refusal(sample("text_and_class", "x.h5", {"--num", "1"}), "sample gives one of the two");
  reshaped("text_and_class", [](model::UNetConfig& shape) {
    shape.num_class_embeds = 0;
    shape.cross_attention_dim = 16;
  });
  expect_refusal({"convert", "--check", path("text_and_class")}, "context is 12 wide; the U-Net attends to one of 16");

  fs::copy(path("tiny"), path("poisoned"), fs::copy_options::recursive);
  const auto unet = model::load_unet(path("tiny"));
  {
    const torch::NoGradGuard no_grad;
    unet->named_parameters()["conv_in.bias"][0] = std::numeric_limits<float>::quiet_NaN();
  }
  model::save_unet(*unet, path("poisoned/unet"));
  expect_refusal(sample("poisoned", "x.h5", {"--num", "1"}), "the weight 'conv_in.bias'", 74);
  expect_refusal({"convert", "--check", path("poisoned")}, "the weight 'conv_in.bias'", 74);

  for (const char* part : {"config.json", "diffusion_pytorch_model.safetensors"}) {
    const std::string piped = std::string("piped_") + part;
    fs::copy(path("tiny"), path(piped), fs::copy_options::recursive);
    fs::remove(path(piped + "/unet/" + part));
    ASSERT_EQ(::mkfifo(path(piped + "/unet/" + part).c_str(), 0600), 0);
    expect_refusal(sample(piped, "x.h5", {"--num", "1"}), std::string(part) + ": it is a pipe", 74);
  }

  fs::create_directories(path("nameless"));
  test::write_bytes(path("nameless/config.json"), R"({"_class_name": 3})");
  expect_refusal({"inspect", path("nameless")}, "is neither a model, nor a checkpoint");
  fs::create_symlink(path("loop"), path("loop"));
  expect_refusal({"inspect", path("loop")}, "Too many levels of symbolic links", 74);
}

TEST_F(ModelCommands, SchedulerThatClips_IsFollowedAndWarnedOf) {
  test::make_tiny_model(path(""), 1, data::Visibility::kPublic);
  nlohmann::json config = nlohmann::json::parse(test::bytes_of(path("tiny/unet/config.json")));
  config["sample_size"] = 4;
  test::write_bytes(path("tiny/unet/config.json"), config.dump());
  const test::ProcessResult plain = run(sample("tiny", "plain.h5", {"--num", "2"}));
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_THAT(plain.err, Not(HasSubstr("clip_sample")));
  nlohmann::json scheduler = nlohmann::json::parse(test::bytes_of(path("tiny/scheduler/scheduler_config.json")));
  scheduler["clip_sample"] = true;
  scheduler["clip_sample_range"] = 0.25;
  test::write_bytes(path("tiny/scheduler/scheduler_config.json"), scheduler.dump());
  const test::ProcessResult clipped = run(sample("tiny", "clipped.h5", {"--num", "2"}));
  ASSERT_EQ(clipped.exit_code, 0) << clipped.err;
  EXPECT_THAT(clipped.err, HasSubstr("clean latents are clipped to 0.25 around 0"));
  EXPECT_FALSE(at::equal(images_in("plain.h5"), images_in("clipped.h5")));
}

// They may have been trained further on private records, in Python for instance, which drops the stamp.
TEST_F(ModelCommands, SamplesOfWeightsThatTheStatementIsNotAbout_ArePrivateAndClaimNothing) {
  test::make_tiny_model(path(""), 1, data::Visibility::kPublic);
  nlohmann::json config = nlohmann::json::parse(test::bytes_of(path("tiny/unet/config.json")));
  config["sample_size"] = 4;
  test::write_bytes(path("tiny/unet/config.json"), config.dump());
  nlohmann::json statement = nlohmann::json::parse(
      R"({"format": "dpldm-privacy", "version": 1, "private": true, "epsilon": 2.1013652, "delta": 1e-05, "neighbouring": "add-remove", "sampler": "poisson",
          "accountant": "rdp", "sampling_rate": 0.01, "noise_multiplier": 1.0, "steps": 1000, "num_records": 50000,
          "expected_batch_size": 500})");
  test::write_bytes(path("tiny/dp_metadata.json"), statement.dump());
  const test::ProcessResult unnamed = run(sample("tiny", "unnamed.h5", {"--num", "1"}));
  ASSERT_EQ(unnamed.exit_code, 0) << unnamed.err;
  EXPECT_THAT(unnamed.err, HasSubstr("does not say which weights its claim is about"));
  EXPECT_EQ(data::ImageFile(path("unnamed.h5")).info().visibility, data::Visibility::kPrivate);
  for (const char* name : {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"}) {
    statement["tensors_sha256"][name] = io::tensors_sha256(io::read_safetensors(path("tiny/") + name));
  }
  test::write_bytes(path("tiny/dp_metadata.json"), statement.dump());
  ASSERT_EQ(run(sample("tiny", "own.h5", {"--num", "1"})).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("own.h5")).info().visibility, data::Visibility::kPublic);
  statement["tensors_sha256"] = {{"unet/diffusion_pytorch_model.safetensors", std::string(64, '0')},
                                 {"vae/diffusion_pytorch_model.safetensors", std::string(64, '0')}};
  test::write_bytes(path("tiny/dp_metadata.json"), statement.dump());
  const test::ProcessResult sampled = run(sample("tiny", "others.h5", {"--num", "1"}));
  ASSERT_EQ(sampled.exit_code, 0) << sampled.err;
  EXPECT_THAT(sampled.err, HasSubstr("NO CLAIM"));
  EXPECT_EQ(data::ImageFile(path("others.h5")).info().visibility, data::Visibility::kPrivate);
  EXPECT_THAT(run({"inspect", path("tiny")}).err, HasSubstr("its claim is not about them"));
  expect_refusal({"privacy", "verify", path("tiny")}, "its claim is not about them");
  // PNG files say the same, and so do not become public by way of a folder.
  ASSERT_EQ(run(sample("tiny", "pictures", {"--num", "1", "--classes", "0"})).exit_code, 0);
  const test::ProcessResult imported =
      test::run_process({DPLDM_BIN_DIR "/dpldm-data", "import", "folder", "--dir", path("pictures"), "--visibility",
                         "public", "-o", path("laundered.h5")});
  EXPECT_EQ(imported.exit_code, 64);
  EXPECT_THAT(imported.err, HasSubstr("is marked private; nothing turns private into public"));
  EXPECT_FALSE(fs::exists(path("laundered.h5")));
}

TEST_F(ModelCommands, OutputOfSample_ReplacesNothingButSamples) {
  test::make_tiny_model(path(""), 1, data::Visibility::kPublic);
  test::write_bytes(path("mine.h5"), "precious");
  expect_refusal(sample("tiny", "mine.h5", {"--num", "1"}), "is not a file of samples");
  EXPECT_EQ(test::bytes_of(path("mine.h5")), "precious");
}

TEST_F(ModelCommands, ReferenceThatTheModelSaw_DoesNotScoreIt) {
  const auto write = [&](const std::string& name, std::int64_t first, std::int64_t count) {
    data::ImageFileInfo info;
    info.num_records = count;
    info.channels = 1;
    info.height = info.width = 8;
    info.class_names = {"a", "b"};
    info.source = name;
    const at::Tensor images = torch::arange(first * 64, (first + count) * 64).remainder(251).to(torch::kByte);
    data::ImageFileWriter writer(path(name), info);
    writer.append(images.view({count, 1, 8, 8}), torch::arange(count).remainder(2));
    writer.commit();
  };
  write("training.h5", 0, 40);
  write("some_of_it.h5", 38, 10);
  write("heldout.h5", 60, 10);
  write("samples.h5", 100, 20);
  const auto evaluate = [&](const std::string& reference, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"evaluate", "--samples", path("samples.h5"), "--reference", path(reference)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  expect_refusal(evaluate("some_of_it.h5", {"--training", path("training.h5")}),
                 "2 of the 10 images of --reference " + path("some_of_it.h5") + " are in the private training set");
  expect_refusal(evaluate("absent.h5", {"--seeds", "0"}), "--seeds is 0; it must be at least 1");
  const test::ProcessResult compared =
      run(evaluate("heldout.h5", {"--training", path("training.h5"), "--seeds", "1", "--json"}));
  ASSERT_EQ(compared.exit_code, 0) << compared.err;
  EXPECT_EQ(nlohmann::json::parse(compared.out)["reference"]["compared_with_training"], true);
  const test::ProcessResult believed = run(evaluate("heldout.h5", {"--seeds", "1"}));
  ASSERT_EQ(believed.exit_code, 0) << believed.err;
  EXPECT_THAT(believed.out, HasSubstr("The reference was not compared with a training set"));
}

TEST_F(ModelCommands, Prompts_MakeAsManyTokensAsTheModelWasTrainedWith) {
  write_text_model("text");
  test::write_bytes(path("prompts.txt"), "a dark picture of a lung\na bright heart\r\n");
  ASSERT_EQ(run(sample("text", "long", {"--prompts", path("prompts.txt")})).exit_code, 0);
  EXPECT_TRUE(fs::exists(path("long/000001.png"))) << "one for each prompt";
  EXPECT_THAT(test::bytes_of(path("long/captions.csv")), HasSubstr("a bright heart"));
  ASSERT_EQ(run(sample("text", "long.h5", {"--prompts", path("prompts.txt"), "--guidance", "10"})).exit_code, 0);
  test::write_bytes(path("marked.txt"), "\xef\xbb\xbf" + test::bytes_of(path("prompts.txt")));
  ASSERT_EQ(run(sample("text", "marked", {"--prompts", path("marked.txt")})).exit_code, 0);
  EXPECT_EQ(test::bytes_of(path("marked/captions.csv")), test::bytes_of(path("long/captions.csv")))
      << "the mark of UTF-8 is no word of the first prompt";
  text::set_text_length(path("text/tokenizer"), 8, 77);
  ASSERT_EQ(run(sample("text", "short.h5", {"--prompts", path("prompts.txt"), "--guidance", "10"})).exit_code, 0);
  EXPECT_FALSE(at::equal(images_in("long.h5"), images_in("short.h5")));
  expect_refusal(sample("text", "x.h5", {"--num", "1"}), "the model has a text encoder; give it texts by --prompts");
  test::write_bytes(path("latin1.txt"), "caf\xe9\n");
  expect_refusal(sample("text", "x.h5", {"--prompts", path("latin1.txt")}), "UTF-8");
}

TEST_F(ModelCommands, EmptyLineAmongPrompts_IsRefusedWhereverItIs) {
  write_text_model("text");
  const auto refused = [&](const std::string& text, const std::string& what) {
    test::write_bytes(path("prompts.txt"), text);
    expect_refusal(sample("text", "x.h5", {"--prompts", path("prompts.txt")}), what);
  };
  const std::string says = " of " + path("prompts.txt") + " is empty; every line is a prompt";
  refused("\na lung\n", "line 1" + says);
  refused("a lung\n\na heart\n", "line 2" + says);
  refused("a lung\n\n", "line 2" + says);
  refused("a lung\r\n\r\n", "line 2" + says);
  refused("\n", "line 1" + says);
  refused("", "holds no prompt");
  // The newline that ends a text file begins no line.
  for (const char* text : {"a lung\na heart", "a lung\na heart\n", "a lung\r\na heart\r\n"}) {
    test::write_bytes(path("prompts.txt"), text);
    const test::ProcessResult result = run(sample("text", "two.h5", {"--prompts", path("prompts.txt")}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(images_in("two.h5").size(0), 2);
  }
}

}  // namespace
}  // namespace dpldm
