// What a private run states, leaves and prints: its statement, its metrics and checkpoints, "NOT PRIVATE" wherever it
// is not, and no key anywhere.
#include <cctype>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "accounting/claim.h"
#include "accounting/ledger.h"
#include "accounting/privacy_stamp.h"
#include "accounting/statement.h"
#include "accounting/statement_page.h"
#include "base/atomic_file.h"
#include "base/log.h"
#include "dp/keys.h"
#include "io/safetensors.h"
#include "model/model_directory.h"
#include "mpi/private_training_on_ranks.h"
#include "support/tiny_model.h"

namespace dpldm::train {
namespace {

// Every file below `directory`, by name.
std::map<std::string, std::string> texts_in(const std::filesystem::path& directory) {
  std::map<std::string, std::string> texts;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    texts[std::filesystem::relative(entry.path(), directory).string()] = read_file(entry.path(), 1 << 26);
  }
  return texts;
}

std::string hexadecimal(const std::string& bytes) {
  std::string digits;
  for (const char byte : bytes) digits += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return digits;
}

// All keys of a run whose test seed is 5, as bytes. The master key is Python's
// hashlib.blake2b((5).to_bytes(8, "little"), person=b"dpldm test seed", digest_size=32).
std::map<std::string, std::string> keys_of_seed_5() {
  const std::string digits = "48bac145b96bf4e2633d6e14fcccb3b6cabd3bce03b72e13fd1edf8ae2112392";
  std::map<std::string, std::string> keys;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    keys["master"] += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  const dp::MasterKey master = dp::MasterKey::from_test_seed(5);
  for (const char* purpose : {"selection", "draws", "noise"}) {
    const dp::SecretKey key = master.derive({}, purpose);
    keys[purpose].assign(key.bytes().begin(), key.bytes().end());
  }
  return keys;
}

// The name of a key that `text` holds, as bytes or as hexadecimal digits; empty where it holds none.
std::string key_in(const std::string& text, const std::map<std::string, std::string>& keys) {
  for (const auto& [name, bytes] : keys) {
    for (const std::string& form : {bytes, hexadecimal(bytes)}) {
      if (text.find(form) != std::string::npos) return name;
    }
  }
  return "";
}

// Whether `text` has the word with a number behind it, as JSON, a table or a sentence would.
bool names_an_epsilon(const std::string& text) {
  const std::string word = "epsilon";
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t next = text.find_first_not_of("\":=| ", at + word.size());
    if (next != std::string::npos && std::isdigit(static_cast<unsigned char>(text[next])) != 0) return true;
  }
  return false;
}

TEST_F(PrivateTrainingOnRanks, StatementIsVerifiedFromItsOwnNumbers) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.steps = 2;
  const std::filesystem::path directory = run(real, "real", *world_);
  const accounting::PrivacyClaim claim = accounting::read_claim(directory / "model/dp_metadata.json");
  EXPECT_EQ(accounting::verified_epsilon(claim), accounting::PrivacyLedger::read(directory / "ledger.jsonl").epsilon());
  const accounting::Statement statement = accounting::read_statement(directory / "model/dp_metadata.json");
  EXPECT_FALSE(statement.content["public_inputs"].contains("training_records_source")) << "it is theirs to keep";
  EXPECT_FALSE(statement.content["public_inputs"].contains("base_training_records_source")) << "the model notes none";
  EXPECT_EQ(accounting::difference_from_page(directory / "privacy_statement.md", statement.content), "");
}

TEST_F(PrivateTrainingOnRanks, StatementNamesTheKindOfClipping) {
  for (const char* kind : {"flat", "automatic", "per-group"}) {
    config::FinetuneConfig clipping = config();
    clipping.clipping = kind;
    clipping.steps = 1;
    const std::filesystem::path directory = run(clipping, kind, *world_);
    const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
    EXPECT_NE(page.find(std::string("| clipping | ") + kind), std::string::npos) << page;
    EXPECT_EQ(model::read_dp_metadata(directory / "model")["clipping"], kind);
  }
}

// Samples of another private model, for instance, whose epsilon comes on top.
TEST_F(PrivateTrainingOnRanks, StatementSaysWhatTheBaseModelWasTrainedOn) {
  config::FinetuneConfig settings = config();
  settings.steps = 2;
  const std::string source = "synthetic, drawn from M; epsilon 2";
  if (world_->is_root()) {
    model::save_unet(*model::load_unet(settings.model), std::filesystem::path(settings.model) / "unet",
                     accounting::source_note(source));
  }
  world_->barrier();
  const std::filesystem::path directory = run(settings, "noted", *world_);
  EXPECT_EQ(model::read_dp_metadata(directory / "model")["public_inputs"]["base_training_records_source"], source);
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_NE(page.find("| records that the public base model was trained on, made from | " + source + " |"),
            std::string::npos)
      << page;
}

TEST_F(PrivateTrainingOnRanks, StatementNamesTheWeightsThatItIsAbout) {
  config::FinetuneConfig settings = config();
  settings.steps = 2;
  const std::filesystem::path model = run(settings, "named", *world_) / "model";
  EXPECT_EQ(accounting::weights_beside_the_statement(model), "");
  EXPECT_EQ(model::read_dp_metadata(model)["tensors_sha256"].size(), 2U) << "of the U-Net and of the autoencoder";
  if (!world_->is_root()) return;
  model::save_unet(*model::load_unet(config().model), model / "unet");  // the public one, in the private one's place
  EXPECT_NE(accounting::weights_beside_the_statement(model), "");
}

TEST_F(PrivateTrainingOnRanks, PublicLatentsAreNotCalledPrivate) {
  if (world_->is_root()) test::make_tiny_model(root_, 24, data::Visibility::kPublic);
  world_->barrier();
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier = 3;
  const std::filesystem::path directory = run(real, "public", *world_);
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_EQ(page.find("private training set"), std::string::npos);
  EXPECT_NE(page.find("differentially private"), std::string::npos);
  EXPECT_NE(page.find("| public training records, made from | made up |"), std::string::npos) << page;
  EXPECT_EQ(model::read_dp_metadata(directory / "model")["public_inputs"]["training_records_source"], "made up");
}

// Whoever reads along learns nothing of how many records a step had.
TEST_F(PrivateTrainingOnRanks, MetricsHoldTheStepItsLearningRateAndItsPrivacyAlone) {
  config::FinetuneConfig real = config();
  real.test_seed.reset();
  real.noise_multiplier.reset();
  real.steps = 3;
  config::FinetuneConfig seeded = config();
  seeded.steps = 3;
  using Keys = std::set<std::string>;
  for (const auto& [settings, name, keys] : {std::tuple(real, "real", Keys{"step", "learning_rate", "epsilon"}),
                                             std::tuple(seeded, "seeded", Keys{"step", "learning_rate", "private"})}) {
    std::ifstream metrics(run(settings, name, *world_) / "metrics.jsonl");
    int num_lines = 0;
    for (std::string text; std::getline(metrics, text); ++num_lines) {
      const auto line = nlohmann::json::parse(text);
      Keys found;
      for (const auto& [key, value] : line.items()) found.insert(key);
      EXPECT_EQ(found, keys) << text;
    }
    EXPECT_EQ(num_lines, 3);
  }
}

TEST_F(PrivateTrainingOnRanks, WhatIsPrintedDoesNotDependOnTheSelection) {
  setup_log(world_->rank(), world_->size());
  const auto printed_with = [&](std::int64_t seed, const std::string& name) {
    config::FinetuneConfig settings = config();
    settings.expected_batch_size = 16;
    settings.steps = 3;
    settings.test_seed = seed;
    testing::internal::CaptureStderr();
    run(settings, name, *world_);
    // Without what a clock tells.
    const std::pair<const char*, const char*> by_clock[] = {
        {"finetune [0-9]+/[0-9]+ steps [^\n]* steps/s, [0-9hms]+( left)?, NOT PRIVATE\n", ""},
        {"(^|\n)[0-9]{2}:[0-9]{2}:[0-9]{2} ", "\n"},
        {" +[0-9.]+ ms\n", "\n"},  // of made-up records
        {"[0-9.]+ % of the time", ""}};
    std::string text = testing::internal::GetCapturedStderr();
    for (const auto& [pattern, shorter] : by_clock) text = std::regex_replace(text, std::regex(pattern), shorter);
    return text;
  };
  const std::string some = printed_with(5, "some");
  EXPECT_EQ(some.empty(), !world_->is_root());
  EXPECT_EQ(printed_with(6, "more"), std::regex_replace(some, std::regex("/some/"), "/more/"));
}

TEST_F(PrivateTrainingOnRanks, TestSeedStampsEverythingThatLeaves) {
  const std::filesystem::path directory = run(config(), "stamped", *world_);
  const auto metadata = model::read_dp_metadata(directory / "model");
  EXPECT_FALSE(metadata["private"].get<bool>());
  EXPECT_TRUE(metadata["epsilon"].is_null());
  const accounting::LedgerHeader header = accounting::PrivacyLedger::read(directory / "ledger.jsonl").header();
  EXPECT_FALSE(header.is_private);
  EXPECT_FALSE(std::isfinite(header.target_epsilon));
  std::map<std::string, std::string> weights_header;
  io::read_safetensors(directory / "model/unet/diffusion_pytorch_model.safetensors", &weights_header);
  EXPECT_TRUE(weights_header["dpldm.privacy"].starts_with("NOT PRIVATE"));
  const std::string page = read_file(directory / "privacy_statement.md", 1 << 20);
  EXPECT_NE(page.find("NOT PRIVATE"), std::string::npos);
  const std::string metrics = read_file(directory / "metrics.jsonl", 1 << 20);
  EXPECT_NE(metrics.find("\"private\":false"), std::string::npos);
  EXPECT_EQ(metrics.find("epsilon"), std::string::npos);
  EXPECT_EQ(metrics.find("loss"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, RunThatIsNotPrivateSaysSoEverywhereAndNamesNoEpsilon) {
  setup_log(world_->rank(), world_->size());
  config::FinetuneConfig seeded = stopping_after_one_step();
  seeded.steps = 2;
  config::FinetuneConfig noiseless = seeded;
  noiseless.test_seed.reset();
  noiseless.noise_multiplier = 0;
  // The files of a run from its beginning to its end, and what it prints on this rank.
  const auto texts_of = [&](const config::FinetuneConfig& settings, const std::string& name) {
    testing::internal::CaptureStderr();
    EXPECT_THROW(run(settings, name, *world_), Checkpointed);
    resume_to_the_end(settings, name);
    std::map<std::string, std::string> texts = texts_in(root_ / name);
    texts.erase("config.yaml");  // what was asked for
    texts["what is printed"] = testing::internal::GetCapturedStderr();
    return texts;
  };
  for (const auto& [settings, name] : {std::pair(seeded, "seeded"), std::pair(noiseless, "noiseless")}) {
    std::map<std::string, std::string> texts = texts_of(settings, name);
    for (const auto& [place, text] : texts) EXPECT_FALSE(names_an_epsilon(text)) << name << ": " << place;
    EXPECT_EQ(texts["what is printed"].find("NOT PRIVATE: ") != std::string::npos, world_->is_root()) << name;
    EXPECT_NE(texts["privacy_statement.md"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["model/unet/diffusion_pytorch_model.safetensors"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["checkpoints/step-00000001/manifest.json"].find("NOT PRIVATE"), std::string::npos) << name;
    EXPECT_NE(texts["metrics.jsonl"].find("\"private\":false"), std::string::npos) << name;
    EXPECT_FALSE(accounting::PrivacyLedger::read(root_ / name / "ledger.jsonl").header().is_private) << name;
    EXPECT_FALSE(model::read_dp_metadata(root_ / name / "model")["private"].get<bool>()) << name;
  }
  // One that is private names it.
  config::FinetuneConfig real = claiming_privacy(seeded);
  std::map<std::string, std::string> texts = texts_of(real, "real");
  for (const char* place : {"ledger.jsonl", "metrics.jsonl", "model/dp_metadata.json"}) {
    EXPECT_TRUE(names_an_epsilon(texts[place])) << place << "\n" << texts[place];
  }
  EXPECT_EQ(names_an_epsilon(texts["what is printed"]), world_->is_root()) << texts["what is printed"];
}

// A checkpoint's weights are those of a model without a statement; nothing may take them for a public model's.
TEST_F(PrivateTrainingOnRanks, WeightsInCheckpointsAreStamped) {
  EXPECT_THROW(run(stopping_after_one_step(), "stamped", *world_), Checkpointed);
  if (!world_->is_root()) return;
  EXPECT_EQ(accounting::read_privacy_stamps(root_ / "stamped/checkpoints").size(), 1U);
}

TEST_F(PrivateTrainingOnRanks, CheckpointsOfARunThatIsNotPrivateSaySo) {
  EXPECT_THROW(run(stopping_after_one_step(), "stamp", *world_), Checkpointed);
  const std::string manifest = read_file(root_ / "stamp/checkpoints/step-00000001/manifest.json", 1 << 20);
  EXPECT_NE(manifest.find("NOT PRIVATE"), std::string::npos);
}

TEST_F(PrivateTrainingOnRanks, CheckpointHoldsWhatItSaysAndNoKey) {
  EXPECT_THROW(run(stopping_after_one_step(), "keyless", *world_), Checkpointed);
  const std::filesystem::path checkpoint = root_ / "keyless/checkpoints/step-00000001";
  const auto keys_of = [](const nlohmann::json& json) {
    std::set<std::string> keys;
    for (const auto& [key, value] : json.items()) keys.insert(key);
    return keys;
  };
  const auto manifest = nlohmann::json::parse(read_file(checkpoint / "manifest.json", 1 << 20));
  using Keys = std::set<std::string>;
  EXPECT_EQ(keys_of(manifest), (Keys{"config_hash", "extra", "files", "format", "ledger_head", "num_ranks",
                                     "program_version", "sha256", "step", "version"}));
  EXPECT_EQ(keys_of(manifest["extra"]), (Keys{"inputs", "ledger_head", "not_private_because", "private"}));
  EXPECT_EQ(keys_of(manifest["extra"]["inputs"]), (Keys{"base model"}));
  Keys files;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint))
    files.insert(entry.path().filename().string());
  EXPECT_EQ(files, (Keys{"manifest.json", "optimizer.safetensors", "weights.safetensors"}));
}

// A test seed's keys are known, so that they can be looked for: in all that a run leaves, and in all that it says.
TEST_F(PrivateTrainingOnRanks, NothingThatARunLeavesOrSaysHoldsAKey) {
  setup_log(world_->rank(), world_->size());
  config::FinetuneConfig settings = stopping_after_one_step();
  settings.steps = 2;
  testing::internal::CaptureStderr();
  EXPECT_THROW(run(settings, "keyless", *world_), Checkpointed);
  resume_to_the_end(settings, "keyless");
  std::map<std::string, std::string> texts = texts_in(root_ / "keyless");
  texts["what is printed"] = testing::internal::GetCapturedStderr();
  const auto keys = keys_of_seed_5();
  EXPECT_EQ(key_in("x" + hexadecimal(keys.at("noise")), keys), "noise");
  EXPECT_EQ(key_in("x" + keys.at("master"), keys), "master");
  for (const char* place : {"ledger.jsonl", "config.yaml", "metrics.jsonl", "model/dp_metadata.json"}) {
    EXPECT_TRUE(texts.contains(place)) << place;
  }
  for (const auto& [place, text] : texts) EXPECT_EQ(key_in(text, keys), "") << place;
}

}  // namespace
}  // namespace dpldm::train
