// Checkpoints in the original form against what the original formulas answer: tests/golden/compvis/make_golden.py.
#include "compvis/import.h"

#include <map>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "io/safetensors.h"
#include "support/file_bytes.h"
#include "support/gzip_file.h"
#include "support/temporary_directory.h"

namespace dpldm::compvis {
namespace {

using ::testing::HasSubstr;

const std::string kFolder = DPLDM_GOLDEN_DIR "/compvis/";

class CompVisImport : public testing::Test {
 protected:
  ImportRequest request_for(const std::string& name) const {
    const std::filesystem::path checkpoint = folder_.path() / (name + ".ckpt");
    test::write_bytes(checkpoint, test::unpacked(kFolder + name + ".ckpt.gz"));
    ImportRequest request;
    request.config = kFolder + name + ".yaml";
    request.checkpoint = checkpoint;
    return request;
  }

  // The yaml of `name` with one text replaced.
  std::filesystem::path changed_yaml(const std::string& name, const std::string& from, const std::string& to) const {
    std::string text = test::bytes_of(kFolder + name + ".yaml");
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    test::write_bytes(folder_.path() / "changed.yaml", text);
    return folder_.path() / "changed.yaml";
  }

  static std::map<std::string, at::Tensor> golden(const std::string& name) {
    std::map<std::string, at::Tensor> tensors;
    for (auto& [key, tensor] : io::read_safetensors(kFolder + name + ".safetensors")) tensors[key] = tensor;
    return tensors;
  }

  test::TemporaryDirectory folder_;
};

void expect_near(const at::Tensor& result, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(result.sizes(), expected.sizes()) << what;
  EXPECT_LE((result - expected).norm().item<double>(), 1e-5 * expected.norm().item<double>()) << what;
}

// What the networks of `result` answer to the golden inputs.
void expect_golden(const ImportResult& result, const std::map<std::string, at::Tensor>& golden) {
  const torch::NoGradGuard no_grad;
  model::Conditioning conditioning;
  if (golden.contains("labels")) conditioning.class_labels = golden.at("labels");
  if (golden.contains("ids")) {
    conditioning.context = result.networks.text_encoder->forward(golden.at("ids"), at::kFloat);
    expect_near(conditioning.context, golden.at("context"), "text encoder");
  }
  expect_near(result.networks.unet->forward(golden.at("sample"), golden.at("timestep"), conditioning),
              golden.at("output"), "U-Net");
  if (!golden.contains("image")) return;
  model::Autoencoder& autoencoder = *result.networks.autoencoder;
  const at::Tensor moments = golden.at("moments");
  expect_near(autoencoder.encode(golden.at("image")).narrow(1, 0, moments.size(1)), moments, "encoder");
  expect_near(autoencoder.decode(golden.at("latent")), golden.at("decoded"), "decoder");
}

TEST_F(CompVisImport, EveryLayout_ComputesWhatTheOriginalFormulasDo) {
  for (const char* name : {"attention_blocks", "new_order", "class_table", "emnist", "bert", "clip", "open_clip"}) {
    SCOPED_TRACE(name);
    expect_golden(import_checkpoint(request_for(name)), golden(name));
  }
}

std::string length_and(const std::string& text) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>((text.size() >> shift) & 0xff));
  return bytes + text;
}

// As torch.save wrote before 1.6, with `object` in place of the state dict and no storages.
std::string legacy_archive_of(const std::string& object) {
  using namespace std::string_literals;
  const std::string magic = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."s;
  const std::string protocol = "\x80\x02M\xe9\x03."s;
  const std::string system = "\x80\x02}X"s + length_and("little_endian") + "\x88s.";
  const std::string storage_keys = "\x80\x02]."s;
  return magic + protocol + system + object + storage_keys;
}

TEST_F(CompVisImport, CallOfASystemsCommand_IsNamedFirstAndNotExecuted) {
  const std::filesystem::path victim = folder_.path() / "victim";
  const std::string command = "touch '" + victim.string() + "'";
  ImportRequest request = request_for("class_table");
  const auto expect_named = [&](const std::string& name, const std::string& then) {
    try {
      import_checkpoint(request);
      ADD_FAILURE() << name << " was accepted";
    } catch (const IoError& error) {
      EXPECT_EQ(error.what(), request.checkpoint.string() + " asks for " + name +
                                  ", and nothing that it asks for is executed; " + request.checkpoint.string() + then);
    }
    EXPECT_FALSE(std::filesystem::exists(victim));
  };
  // As Python writes what an object's __reduce__ answers, and as exploits are written by hand.
  test::write_bytes(request.checkpoint, legacy_archive_of("\x80\x02"
                                                          "cposix\nsystem\nX" +
                                                          length_and(command) + "\x85R."));
  expect_named("posix.system", " does not hold a dictionary of tensors");
  test::write_bytes(request.checkpoint, legacy_archive_of("cos\nsystem\n(S\"" + command + "\"\ntR."));
  expect_named("os.system", ": the pickle has the opcode 0x53, which is not read (byte 13)");
  test::write_bytes(request.checkpoint, legacy_archive_of("(X" + length_and(command) + "ios\nsystem\n."));
  expect_named("os.system", ": the pickle has the opcode 0x69, which is not read (byte " +
                                std::to_string(command.size() + 17) + ")");
  // What it does to a terminal.
  test::write_bytes(request.checkpoint, legacy_archive_of("cos\nsys\x1b[2Jtem\n."));
  expect_named("os.sys?[2Jtem", " does not hold a dictionary of tensors");
}

// In both formats, ZIP and the older one.
TEST_F(CompVisImport, CallInTheMiddleOfACheckpoint_IsNamedBeforeTheFileIsRefused) {
  for (const char* name : {"class_table", "emnist"}) {
    const ImportRequest request = request_for(name);
    std::string bytes = test::bytes_of(request.checkpoint);
    const std::string tensors = "ctorch._utils\n_rebuild_tensor_v2\n";
    std::string attack = "cos\nsystem\n";
    while (attack.size() < tensors.size()) attack += "N0";  // pushes a None, and drops it
    ASSERT_EQ(attack.size(), tensors.size());
    ASSERT_NE(bytes.find(tensors), std::string::npos);
    test::write_bytes(request.checkpoint, bytes.replace(bytes.find(tensors), tensors.size(), attack));
    try {
      import_checkpoint(request);
      ADD_FAILURE() << name << " was accepted";
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(),
                  testing::MatchesRegex(".* asks for .*, os\\.system, .*, and nothing that it asks for is "
                                        "executed; .* holds no tensors"));
    }
  }
}

TEST_F(CompVisImport, ClassesOfOthers_AreNamedAndNotMissed) {
  const ImportResult result = import_checkpoint(request_for("class_table"));
  ASSERT_FALSE(result.facts.empty());
  EXPECT_THAT(result.facts.front(), HasSubstr("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"));
  EXPECT_THAT(result.facts.front(), testing::EndsWith("and nothing that it asks for is executed"));
  EXPECT_THAT(result.facts.front(), testing::Not(HasSubstr("torch._utils")));
  EXPECT_THAT(result.facts.front(), testing::Not(HasSubstr("Storage")));
}

TEST_F(CompVisImport, WhatIsWritten_LoadsAndComputesTheSame) {
  for (const char* name : {"attention_blocks", "class_table", "bert"}) {
    SCOPED_TRACE(name);
    ImportResult result = import_checkpoint(request_for(name));
    const std::filesystem::path model = folder_.path() / name;
    model::save_pipeline(result.networks, result.scheduler, model);
    result.networks.unet = model::load_unet(model);
    result.networks.autoencoder = result.networks.autoencoder ? model::load_autoencoder(model) : nullptr;
    result.networks.text_encoder = result.networks.text_encoder ? model::load_text_encoder(model) : nullptr;
    expect_golden(result, golden(name));
  }
}

TEST_F(CompVisImport, RunningAverage_IsTakenWhereThereIsOneUnlessToldOtherwise) {
  ImportRequest request = request_for("attention_blocks");
  const ImportResult averaged = import_checkpoint(request);
  EXPECT_THAT(averaged.facts, testing::Contains(HasSubstr("tensors of the running average")));
  request.use_ema = false;
  const ImportResult raw = import_checkpoint(request);
  const auto weight = [](const ImportResult& result, const char* name) {
    return result.networks.unet->named_parameters()[name].detach();
  };
  const char* averaged_name = "mid_block.attentions.0.to_q.weight";
  EXPECT_TRUE(torch::equal(weight(averaged, averaged_name), weight(raw, averaged_name) * 0.5));
  EXPECT_TRUE(torch::equal(weight(averaged, "conv_in.weight"), weight(raw, "conv_in.weight")));
}

TEST_F(CompVisImport, RunningAverageOfNoParameter_IsWarnedOf) {
  ImportRequest request = request_for("attention_blocks");
  EXPECT_THAT(import_checkpoint(request).warnings, testing::Not(testing::Contains(HasSubstr("running average"))));
  std::string bytes = test::bytes_of(request.checkpoint);
  const std::string name = "model_ema.diffusion_modelmiddle_block1qkvweight";
  const std::size_t at = bytes.find(name);
  ASSERT_NE(at, std::string::npos);
  test::write_bytes(request.checkpoint, bytes.replace(at + name.size() - 1, 1, "_"));
  EXPECT_THAT(import_checkpoint(request).warnings, testing::Contains(testing::StartsWith("1 of 16 tensors")));
  request.use_ema = false;
  EXPECT_THAT(import_checkpoint(request).warnings, testing::Not(testing::Contains(HasSubstr("running average"))));
}

TEST_F(CompVisImport, ScaleFactor_IsTheBuffersBeforeTheYamls) {
  EXPECT_EQ(import_checkpoint(request_for("attention_blocks")).networks.autoencoder->config().scaling_factor, 0.75);
  EXPECT_EQ(import_checkpoint(request_for("class_table")).networks.autoencoder->config().scaling_factor, 1.0);
  ImportRequest request = request_for("class_table");
  request.config = changed_yaml("class_table", "timesteps: 1000", "timesteps: 1000\n    scale_by_std: true");
  EXPECT_THAT(import_checkpoint(request).warnings, testing::Contains(HasSubstr("holds no factor")));
}

// The model that is written then has no autoencoder.
TEST_F(CompVisImport, FirstStageThatTheYamlDoesNotDescribe_IsWarnedOf) {
  ImportRequest request = request_for("class_table");
  EXPECT_THAT(import_checkpoint(request).warnings, testing::Not(testing::Contains(HasSubstr("'first_stage_model."))));
  request.config = changed_yaml("class_table", "first_stage_config", "first_stage_confg");
  const ImportResult result = import_checkpoint(request);
  EXPECT_EQ(result.networks.autoencoder, nullptr);
  EXPECT_THAT(result.warnings, testing::Contains(HasSubstr("were left out, among them 'first_stage_model.")));
}

TEST_F(CompVisImport, ScaleFactorThatIsNotOneNumber_IsRefused) {
  for (const auto& [name, sentence] :
       {std::pair{"three_factors", "scale_factor has 3 elements"}, {"expanded", "an expanded tensor"}}) {
    ImportRequest request = request_for(name);
    request.config = kFolder + "class_table.yaml";
    try {
      import_checkpoint(request);
      ADD_FAILURE() << name << " was accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(sentence));
    }
  }
}

TEST_F(CompVisImport, ManyTensorsOnOneStorage_AreRefusedBeforeTheyTakeMemory) {
  ImportRequest request = request_for("shared");
  request.config = kFolder + "class_table.yaml";
  try {
    import_checkpoint(request);
    ADD_FAILURE() << "was accepted";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("they share memory"));
  }
}

TEST_F(CompVisImport, ClassTable_HasTheNullClassLast) {
  ImportRequest request = request_for("class_table");
  const ImportResult added = import_checkpoint(request);
  EXPECT_EQ(added.networks.unet->config().num_classes, 6) << "five rows and their mean";
  request.num_classes = 4;
  const ImportResult given = import_checkpoint(request);
  EXPECT_EQ(given.networks.unet->config().num_classes, 5);
  request.num_classes = 6;
  EXPECT_THROW(import_checkpoint(request), ConfigError);
}

TEST_F(CompVisImport, YamlOfAnotherModel_IsRefused) {
  const auto refused = [&](const std::string& name, const std::string& from, const std::string& to,
                           const std::string& what) {
    ImportRequest request = request_for(name);
    request.config = changed_yaml(name, from, to);
    try {
      import_checkpoint(request);
      FAIL() << "accepted: " << to;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(what));
    }
  };
  refused("class_table", "linear_end: 0.0195", "linear_end: 0.0155", "another model's yaml");
  refused("class_table", "model_channels: 32", "model_channels: 64", "the yaml's network needs");
  refused("class_table", "num_res_blocks: 1", "num_res_blocks: 2", "");
  refused("class_table", "n_classes: 5", "n_classes: 6", "the yaml's ClassEmbedder");
  refused("class_table", "n_embed: 16", "n_embed: 17", "the yaml's network needs");
  refused("bert", "n_layer: 2", "n_layer: 1", "no place for");
  refused("clip", "context_dim: 64", "context_dim: 32", "the yaml's network needs");
}

TEST_F(CompVisImport, EitherTableOfTheSchedule_TellsAYamlOfAnotherModel) {
  ImportRequest request = request_for("class_table");
  std::string bytes = test::bytes_of(request.checkpoint);
  const std::string table = "alphas_cumprod";
  const std::string other = "posterior_mean";
  for (std::size_t at = bytes.find(table); at != std::string::npos; at = bytes.find(table, at)) {
    bytes.replace(at, table.size(), other);
  }
  test::write_bytes(request.checkpoint, bytes);
  EXPECT_NO_THROW(import_checkpoint(request));
  request.config = changed_yaml("class_table", "linear_end: 0.0195", "linear_end: 0.0194");
  EXPECT_THROW(import_checkpoint(request), ConfigError) << "betas";
  test::write_bytes(request.checkpoint, bytes.replace(bytes.find("betas"), 5, "_____"));
  EXPECT_NO_THROW(import_checkpoint(request)) << "there is nothing to compare";
}

TEST_F(CompVisImport, TextEncoderWithoutWidth_IsRefused) {
  const ImportRequest request = request_for("clip");
  std::string bytes = test::bytes_of(request.checkpoint);
  const std::string size("K\x28K\x40\x86", 5);  // of the token embedding: (40, 64)
  const std::string without_width("K\x28K\x00\x86", 5);
  ASSERT_NE(bytes.find(size), std::string::npos);
  test::write_bytes(request.checkpoint, bytes.replace(bytes.find(size), size.size(), without_width));
  EXPECT_THROW(import_checkpoint(request), ConfigError);
}

// Whatever else lies there, and cannot be looked at.
TEST_F(CompVisImport, YamlsBesideACheckpoint_AreFoundAmongBrokenLinks) {
  const std::filesystem::path folder = folder_.path() / "run";
  std::filesystem::create_directories(folder);
  test::write_bytes(folder / "model.yaml", "model:");
  std::filesystem::create_symlink(folder / "loop.yaml", folder / "loop.yaml");
  EXPECT_THAT(yamls_near(folder / "model.ckpt"), testing::ElementsAre(folder / "model.yaml"));
}

TEST_F(CompVisImport, DamagedCheckpoint_IsRefusedAtEveryPlace) {
  for (const char* name : {"new_order", "emnist"}) {
    const ImportRequest request = request_for(name);
    const std::string bytes = test::bytes_of(request.checkpoint);
    for (std::size_t length = 0; length < bytes.size(); length += bytes.size() / 50 + 1) {
      test::write_bytes(request.checkpoint, bytes.substr(0, length));
      EXPECT_THROW(import_checkpoint(request), Error) << name << " cut at " << length;
    }
  }
}

}  // namespace
}  // namespace dpldm::compvis
