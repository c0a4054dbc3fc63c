#include "app/privacy_command.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "accounting/ledger.h"
#include "accounting/ledger_witnesses.h"
#include "accounting/statement_page.h"
#include "base/error.h"
#include "base/log.h"
#include "unit/accounting/whole_statement.h"

namespace dpldm::app {
namespace {

using Json = nlohmann::json;

class Words : public Invocation {
 public:
  explicit Words(const std::vector<std::string>& words) : words_(words) {
    words_.insert(words_.begin(), "dpldm privacy");
    for (std::string& word : words_) pointers_.push_back(word.data());
    pointers_.push_back(nullptr);
  }
  int argc() const override { return static_cast<int>(words_.size()); }
  char** argv() override { return pointers_.data(); }
  comm::Communicator& communicator() override { throw InternalError("accounting needs no ranks"); }

 private:
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

class PrivacyCommand : public testing::Test {
 protected:
  void SetUp() override {
    setup_log(0, 1);  // warnings to stderr, as in the program
    folder_ = std::filesystem::temp_directory_path() / ("privacy-command-test-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_ / "checkpoints");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // What the command prints. What it throws is passed on, with the output in `printed_`.
  std::string answer(const std::vector<std::string>& words) {
    Words invocation(words);
    testing::internal::CaptureStdout();
    try {
      run_privacy(invocation);
    } catch (...) {
      printed_ = testing::internal::GetCapturedStdout();
      throw;
    }
    return testing::internal::GetCapturedStdout();
  }
  Json json(std::vector<std::string> words) {
    words.push_back("--json");
    return Json::parse(answer(words));
  }
  std::string refusal(const std::vector<std::string>& words) {
    try {
      answer(words);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  }

  accounting::LedgerHeader header() const {
    accounting::LedgerHeader header;
    header.num_records = 50000;
    header.sampling_rate = 0.01;
    header.expected_batch_size = 500;
    header.noise_multiplier = 1;
    header.planned_steps = 1000;
    header.target_epsilon = 2;
    header.delta = 1e-5;
    return header;
  }
  std::string write_ledger(const accounting::LedgerHeader& header, std::int64_t num_steps) {
    auto ledger = accounting::PrivacyLedger::create(folder_ / "ledger.jsonl", header);
    ledger.charge({0, 0, "step", {0.01, 1.0, num_steps, accounting::Sampler::kPoisson}});
    return ledger.head();
  }
  void write(const std::string& name, const Json& content) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << content;
  }

  static Json manifest_of(Json content) {
    content["sha256"] = accounting::manifest_digest(content);
    return content;
  }
  void write_manifest(const std::string& checkpoint, const Json& content) const {
    write("checkpoints/" + checkpoint + "/manifest.json", manifest_of(content));
  }

  std::filesystem::path folder_;
  std::string printed_;
};

const std::vector<std::string> kSetting = {"epsilon", "--sampling-rate", "0.01", "--noise-multiplier", "1", "--steps",
                                           "1000",    "--delta",         "1e-5"};

TEST_F(PrivacyCommand, Epsilon_AnswersInJson) {
  const Json answer = json(kSetting);
  EXPECT_NEAR(answer["epsilon"].get<double>(), 1.828244, 1e-5);
  EXPECT_EQ(answer["accountant"], "pld");
  EXPECT_EQ(answer["neighbouring"], "add-remove");
  EXPECT_EQ(answer["delta"], 1e-5);
  EXPECT_EQ(answer["steps"], 1000);
}

TEST_F(PrivacyCommand, Epsilon_TakesAccountantRelationAndSampler) {
  const auto with = [](std::vector<std::string> more) {
    more.insert(more.begin(), kSetting.begin(), kSetting.end());
    return more;
  };
  EXPECT_NEAR(json(with({"--accountant", "rdp"}))["epsilon"].get<double>(), 2.101365, 1e-5);
  const Json prv = json(with({"--accountant", "prv"}));
  EXPECT_NEAR(prv["epsilon"].get<double>(), 1.838372, 1e-5);
  EXPECT_NEAR(prv["estimate"].get<double>(), 1.828240, 1e-5);
  EXPECT_NEAR(json(with({"--neighbouring", "replace-one"}))["epsilon"].get<double>(), 2.843446, 1e-5);
  EXPECT_NEAR(
      json({"epsilon", "--sampler", "none", "--noise-multiplier", "1", "--steps", "10", "--delta", "1e-5"})["epsilon"]
          .get<double>(),
      17.86, 0.005);
}

// Removing a record from shuffled data moves others to other batches, which this number does not cover.
TEST_F(PrivacyCommand, Epsilon_WithoutAmplification_IsUnderZeroOutUnlessAskedOtherwise) {
  const std::vector<std::string> none = {"epsilon", "--sampler", "none", "--noise-multiplier", "1", "--steps",
                                         "10",      "--delta",   "1e-5"};
  const auto under = [&](const std::string& relation) {
    std::vector<std::string> words = none;
    words.insert(words.end(), {"--neighbouring", relation});
    return json(words);
  };
  EXPECT_EQ(json(none)["neighbouring"], "zero-out");
  EXPECT_THAT(answer(none), testing::HasSubstr("no amplification, sigma 1, 10 steps, delta 1e-05, zero-out, pld"));
  EXPECT_EQ(under("add-remove")["neighbouring"], "add-remove");
  EXPECT_EQ(under("add-remove")["epsilon"], json(none)["epsilon"]);
  // The sensitivity is 2 C: as with half the noise.
  std::vector<std::string> half = none;
  half[4] = "0.5";
  EXPECT_DOUBLE_EQ(under("replace-one")["epsilon"].get<double>(), json(half)["epsilon"].get<double>());
}

TEST_F(PrivacyCommand, Epsilon_WithoutAmplification_WarnsThatARateDoesNotCount) {
  std::vector<std::string> words = kSetting;
  words.insert(words.end(), {"--sampler", "none"});
  testing::internal::CaptureStderr();
  const std::string with_rate = answer(words);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("does not count with --sampler none"));
  words[2] = "1";
  EXPECT_EQ(answer(words), with_rate);
}

TEST_F(PrivacyCommand, Epsilon_TakesBatchAndRecordsForRateAndDelta) {
  const Json answer = json(
      {"epsilon", "--expected-batch", "500", "--num-records", "50000", "--noise-multiplier", "1", "--steps", "10"});
  EXPECT_DOUBLE_EQ(answer["sampling_rate"].get<double>(), 0.01);
  EXPECT_DOUBLE_EQ(answer["delta"].get<double>(), accounting::default_delta(50000));
}

// 1.8282437 with six digits after the point.
TEST_F(PrivacyCommand, Epsilon_IsNotRoundedDown) {
  const std::string text = answer(kSetting);
  EXPECT_GE(std::stod(text.substr(text.find(' '))), json(kSetting)["epsilon"].get<double>()) << text;
  EXPECT_THAT(answer({"epsilon", "--expected-batch", "64", "--num-records", "60000", "--noise-multiplier", "1",
                      "--steps", "10"}),
              testing::HasSubstr("delta 1.52e-06"));
}

TEST_F(PrivacyCommand, Epsilon_WithoutNoise_SaysNotPrivate) {
  std::vector<std::string> words = kSetting;
  words[4] = "0";
  EXPECT_THAT(answer(words), testing::HasSubstr("NOT PRIVATE"));
  EXPECT_TRUE(json(words)["epsilon"].is_null());
}

// One step that sees a record once in 10^9 costs nothing at this delta, whatever the noise: that the grid of losses is
// too coarse for it is no reason to call it NOT PRIVATE.
TEST_F(PrivacyCommand, WhatTheAccountantCannotRepresent_IsRefusedAndNotCalledNotPrivate) {
  using Arguments = std::vector<std::string>;
  const Arguments rate{"--sampling-rate", "1e-9"};
  const Arguments noise{"--noise-multiplier", "1e-5"};
  const Arguments steps{"--steps", "1"};
  const auto refused = [&](const std::string& word, const std::vector<Arguments>& given) {
    Arguments words{word, "--delta", "1e-5"};
    for (const Arguments& option : given) words.insert(words.end(), option.begin(), option.end());
    return refusal(words);
  };
  const Arguments budget{"--epsilon", "1"};
  for (const std::string& sentence :
       {refused("epsilon", {rate, noise, steps}), refused("calibrate", {rate, noise, budget})}) {
    EXPECT_THAT(sentence, testing::HasSubstr("the pld accountant cannot tell the cost of 1 step at rate 1e-09 with "
                                             "noise multiplier 1e-05"));
    EXPECT_THAT(sentence, testing::HasSubstr("take the rdp accountant, more noise or a larger rate"));
  }
  EXPECT_THAT(refused("calibrate", {noise, steps, budget}), testing::HasSubstr("the pld accountant cannot tell"));
}

TEST_F(PrivacyCommand, Calibrate_AtTinyRates_AnswersWithAFiniteEpsilonOrRefuses) {
  for (const char* target : {"1e-9", "1e-3", "1"}) {
    try {
      const Json found =
          json({"calibrate", "--sampling-rate", "1e-9", "--steps", "1000", "--epsilon", target, "--delta", "1e-12"});
      ASSERT_TRUE(found["epsilon"].is_number()) << target;
      EXPECT_LE(found["epsilon"].get<double>(), std::stod(target));
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("at rate 1e-09")) << target;
    }
  }
}

TEST_F(PrivacyCommand, Calibrate_SolvesForWhatIsMissing) {
  const Json sigma =
      json({"calibrate", "--sampling-rate", "0.04", "--steps", "2250", "--epsilon", "8", "--delta", "1e-5"});
  EXPECT_NEAR(sigma["noise_multiplier"].get<double>(), 1.34590, 1e-4);
  EXPECT_LE(sigma["epsilon"].get<double>(), 8);
  EXPECT_EQ(json({"calibrate", "--sampling-rate", "0.1", "--noise-multiplier", "3", "--epsilon", "2", "--delta",
                  "1e-6"})["steps"],
            155);
  EXPECT_NEAR(json({"calibrate", "--noise-multiplier", "1", "--steps", "1000", "--epsilon", "1.828244", "--delta",
                    "1e-5"})["sampling_rate"]
                  .get<double>(),
              0.01, 1e-6);
}

TEST_F(PrivacyCommand, Calibrate_DoesNotShowATinyEpsilonAsAnotherNumber) {
  const std::string text =
      answer({"calibrate", "--sampling-rate", "0.01", "--steps", "1000", "--epsilon", "1e-9", "--delta", "1e-5"});
  const std::string word = "(epsilon ";
  ASSERT_THAT(text, testing::HasSubstr(word));
  EXPECT_LE(std::stod(text.substr(text.find(word) + word.size())), 1.01e-9) << text;
}

// Rounded, it would be another budget than the run's.
TEST_F(PrivacyCommand, Budgets_AreShownWithAllTheirDigits) {
  accounting::LedgerHeader exact = header();
  exact.target_epsilon = 2.3456781;
  write_ledger(exact, 1000);
  EXPECT_THAT(answer({"ledger", folder_.string()}), testing::HasSubstr(" of 2.3456781 at delta"));
  EXPECT_THAT(answer({"plan", "--num-records", "5000", "--expected-batch", "50", "--steps", "10", "--epsilon",
                      "2.3456781", "--accountant", "rdp"}),
              testing::HasSubstr("epsilon 2.3456781,"));
}

TEST_F(PrivacyCommand, Plan_ListsChoicesAndDrawsThem) {
  const std::string picture = (folder_ / "plan.png").string();
  const Json plan = json({"plan", "--num-records", "5000", "--expected-batch", "50,500,5000", "--steps", "100,1000",
                          "--epsilon", "4", "--accountant", "rdp", "--plot", picture});
  ASSERT_EQ(plan["choices"].size(), 6U);
  EXPECT_GT(plan["choices"][0]["relative_noise"].get<double>(), plan["choices"][1]["relative_noise"].get<double>());
  EXPECT_NEAR(plan["choices"][2]["relative_noise"].get<double>(), 1, 1e-4);
  EXPECT_EQ(plan["choices"][1]["records_processed"], 50000);
  std::ifstream stream(picture, std::ios::binary);
  std::string start(8, '\0');
  stream.read(start.data(), 8);
  EXPECT_EQ(start, "\x89PNG\r\n\x1a\n");
  EXPECT_THAT(answer({"plan", "--num-records", "5000", "--epochs", "2", "--epsilon", "4", "--accountant", "rdp"}),
              testing::HasSubstr("noise/best"));
}

TEST_F(PrivacyCommand, Ledger_ReportsWhatWasSpent) {
  write_ledger(header(), 1000);
  const Json answer = json({"ledger", folder_.string()});
  EXPECT_NEAR(answer["epsilon"].get<double>(), 1.828244, 1e-5);
  EXPECT_EQ(answer["steps"], 1000);
  EXPECT_EQ(answer["verified"], true);
  EXPECT_EQ(answer["private"], true);
}

TEST_F(PrivacyCommand, OneOfSomething_IsNotCalledSeveral) {
  write_ledger(header(), 1);
  EXPECT_THAT(answer({"ledger", folder_.string()}), testing::HasSubstr("; 1 step charged in 1 attempt; the ledger"));
  EXPECT_THAT(
      answer({"epsilon", "--sampling-rate", "0.01", "--noise-multiplier", "1", "--steps", "1", "--delta", "1e-5"}),
      testing::HasSubstr("sigma 1, 1 step, delta"));
}

TEST_F(PrivacyCommand, Ledger_OfARunThatIsNotPrivate_PrintsNoEpsilon) {
  accounting::LedgerHeader not_private = header();
  not_private.is_private = false;
  not_private.not_private_because = "privacy.test_seed is set";
  write_ledger(not_private, 10);
  const Json json_answer = json({"ledger", folder_.string()});
  EXPECT_TRUE(json_answer["epsilon"].is_null());
  EXPECT_EQ(json_answer["private"], false);
  const std::string text = answer({"ledger", folder_.string()});
  EXPECT_THAT(text, testing::HasSubstr("NOT PRIVATE: privacy.test_seed is set"));
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("epsilon")));
}

TEST_F(PrivacyCommand, Ledger_ThatWasChanged_Fails) {
  write_ledger(header(), 1000);
  std::string text;
  std::getline(std::ifstream(folder_ / "ledger.jsonl"), text, '\0');
  text.replace(text.find("\"count\":1000"), 12, "\"count\":10");
  std::ofstream(folder_ / "ledger.jsonl") << text;
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
  EXPECT_EQ(Json::parse(printed_)["verified"], false);
}

TEST_F(PrivacyCommand, Ledger_ShorterThanWhatACheckpointSaw_Fails) {
  const std::string head = write_ledger(header(), 1000);
  write_manifest("step-1", {{"ledger_head", head}});
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  write_manifest("step-2", {{"ledger_head", ""}, {"extra", {{"ledger_head", std::string(64, 'a')}}}});
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

// What is in it cannot be read, or was never finished; its name says enough.
TEST_F(PrivacyCommand, Ledger_WithFewerStepsThanACheckpointsName_Fails) {
  write_ledger(header(), 1000);
  std::filesystem::create_directories(folder_ / "checkpoints/step-00001000");
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  std::filesystem::create_directories(folder_ / "checkpoints/step-00001001.tmp");
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

TEST_F(PrivacyCommand, Ledger_WithFewerStepsThanTheMetricsSay_Fails) {
  write_ledger(header(), 1000);
  std::ofstream metrics(folder_ / "metrics.jsonl", std::ios::app);
  for (int step = 1; step <= 1000; ++step) {
    metrics << Json{{"step", step}, {"learning_rate", 1e-3}, {"epsilon", 1.0}} << "\n";
  }
  metrics << "not JSON\n[1]\n{\"step\": \"many\"}\n{\"step\": 70" << std::flush;  // the last line was cut short
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  metrics << "\n" << Json{{"step", 1001}} << "\n" << std::flush;
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

TEST_F(PrivacyCommand, Ledger_BesideAFinishedCheckpointWithoutItsManifest_WarnsByName) {
  write_ledger(header(), 1000);
  std::filesystem::create_directories(folder_ / "checkpoints/step-00000007");
  std::filesystem::create_directories(folder_ / "checkpoints/step-00000008.tmp");  // never finished
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, testing::HasSubstr("step-00000007 has no manifest.json"));
  EXPECT_THAT(said, testing::Not(testing::HasSubstr("step-00000008")));
}

// What it says is not what the run wrote: a bit that flipped must not look like a line that was cut off.
TEST_F(PrivacyCommand, Ledger_BesideADamagedManifest_IsStillWhole) {
  const std::string head = write_ledger(header(), 1000);
  write_manifest("step-1", {{"ledger_head", head}});
  Json flipped = manifest_of({{"ledger_head", std::string(64, 'a')}});
  flipped["ledger_head"] = std::string(64, 'b');
  write("checkpoints/step-2/manifest.json", flipped);
  write("checkpoints/step-3/manifest.json", {{"ledger_head", std::string(64, 'a')}});
  write("checkpoints/step-4/manifest.json", "a text");
  write("checkpoints/step-5/manifest.json", flipped);
  std::filesystem::resize_file(folder_ / "checkpoints/step-5/manifest.json", std::uintmax_t{1} << 30);  // sparse
  std::filesystem::create_directories(folder_ / "checkpoints/step-6/manifest.json");
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, testing::Not(testing::HasSubstr("step-1")));
  for (const char* damaged : {"step-2", "step-3", "step-4", "step-5", "step-6"}) {
    EXPECT_THAT(said, testing::HasSubstr(damaged + std::string("/manifest.json is damaged")));
  }
}

TEST_F(PrivacyCommand, Ledger_ShorterThanWhatTheStatementSaw_Fails) {
  const std::string head = write_ledger(header(), 1000);
  write("model/dp_metadata.json", {{"ledger_head", head}});
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  write("model/dp_metadata.json", {{"ledger_head", std::string(64, 'a')}});
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

// All else that knew of the steps was removed.
TEST_F(PrivacyCommand, Ledger_WithFewerStepsThanThePageSays_Fails) {
  write_ledger(header(), 1000);
  Json statement = accounting::test::whole_statement();
  std::ofstream(folder_ / "privacy_statement.md") << accounting::statement_page(statement);
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  statement["steps"] = 1001;
  std::ofstream(folder_ / "privacy_statement.md") << accounting::statement_page(statement);
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
  EXPECT_THAT(printed_, testing::HasSubstr("but privacy_statement.md says that 1001 steps were charged"));
}

TEST_F(PrivacyCommand, Ledger_BesideAPageWithoutSteps_WarnsByName) {
  write_ledger(header(), 1000);
  std::ofstream(folder_ / "privacy_statement.md") << "# Privacy statement\n";
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::HasSubstr("privacy_statement.md does not say how many steps were charged"));
}

// Whoever shows the statement may mean the other of two values.
TEST_F(PrivacyCommand, Ledger_BesideAStatementThatReadersUnderstandDifferently_Fails) {
  const std::string head = write_ledger(header(), 1000);
  std::filesystem::create_directories(folder_ / "model");
  for (const std::string& text : {R"({"epsilon": 0.1, "ledger_head": ")" + head + R"(", "epsilon": 2})",
                                  "[\"" + head + "\"]", std::string("{")}) {
    std::ofstream(folder_ / "model/dp_metadata.json") << text;
    EXPECT_THROW(json({"ledger", folder_.string()}), IoError) << text;
  }
}

TEST_F(PrivacyCommand, Ledger_BesideAStatementThatClaimsLess_Fails) {
  const std::string head = write_ledger(header(), 1000);
  write("model/dp_metadata.json", {{"ledger_head", head}, {"private", true}, {"epsilon", 1.82825}});
  EXPECT_EQ(json({"ledger", folder_.string()})["verified"], true);
  write("model/dp_metadata.json", {{"ledger_head", head}, {"private", true}, {"epsilon", 1.5}});
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

TEST_F(PrivacyCommand, Ledger_OfARunThatIsNotPrivateBesideAClaim_Fails) {
  accounting::LedgerHeader not_private = header();
  not_private.is_private = false;
  write_ledger(not_private, 10);
  write("model/dp_metadata.json", {{"private", true}, {"epsilon", 1.0}});
  EXPECT_THROW(json({"ledger", folder_.string()}), IoError);
}

TEST_F(PrivacyCommand, Verify_RecomputesTheClaim) {
  Json claim{{"format", "dpldm-privacy"}, {"version", 1},        {"private", true},
             {"epsilon", 1.82824365},     {"delta", 1e-5},       {"neighbouring", "add-remove"},
             {"sampler", "poisson"},      {"accountant", "pld"}, {"sampling_rate", .01},
             {"noise_multiplier", 1.0},   {"steps", 1000},       {"num_records", 50000},
             {"expected_batch_size", 500}};
  write("model/dp_metadata.json", claim);
  EXPECT_EQ(json({"verify", (folder_ / "model").string()})["verified"], true);
  EXPECT_EQ(json({"verify", (folder_ / "model").string()})["weights_compared"], false) << "the claim names none";
  Json of_nothing = claim;
  of_nothing["tensors_sha256"] = Json::object();
  write("model/dp_metadata.json", of_nothing);
  EXPECT_EQ(json({"verify", (folder_ / "model").string()})["weights_compared"], false) << "there are none";
  EXPECT_THAT(answer({"verify", (folder_ / "model").string()}), testing::HasSubstr("no weights were compared"));
  Json steps = claim;
  steps["steps"] = 2000;
  Json weights = claim;
  weights["tensors_sha256"] = {{"unet/diffusion_pytorch_model.safetensors", std::string(64, '0')}};
  for (const Json& wrong : {steps, weights}) {
    write("model/dp_metadata.json", wrong);
    EXPECT_THROW(json({"verify", (folder_ / "model").string()}), ConfigError);
    EXPECT_EQ(Json::parse(printed_)["verified"], false);
  }
}

// As `convert --trained-on private` writes it.
TEST_F(PrivacyCommand, Verify_OfAModelThatAnotherProgramTrained_SaysThatNothingIsClaimed) {
  write("model/dp_metadata.json", {{"format", "dpldm-privacy"},
                                   {"version", 1},
                                   {"private", false},
                                   {"epsilon", nullptr},
                                   {"training_records", "private"},
                                   {"not_private_because", "by another program"}});
  EXPECT_THAT(answer({"verify", folder_.string()}), testing::HasSubstr("NOT PRIVATE: the model claims nothing"));
  const Json found = json({"verify", folder_.string()});
  EXPECT_EQ(found["private"], false);
  for (const char* key : {"epsilon", "delta", "accountant", "neighbouring"}) EXPECT_TRUE(found[key].is_null()) << key;
}

TEST_F(PrivacyCommand, Verify_ComparesThePageOfTheRunAndThatOfTheModel) {
  const Json statement = accounting::test::whole_statement();
  const std::string page = accounting::statement_page(statement);
  Json of_another = statement;
  of_another["key_commitment"] = "dd";
  const std::string other_page = accounting::statement_page(of_another);
  write("model/dp_metadata.json", statement);
  const std::vector<std::string> named = {folder_.string(), (folder_ / "model").string(),
                                          (folder_ / "model").string() + "/"};
  for (const std::string& path : named) EXPECT_EQ(json({"verify", path})["page_compared"], false) << "there is none";
  for (const char* place : {"privacy_statement.md", "model/privacy_statement.md"}) {
    std::ofstream(folder_ / place) << page;
    for (const std::string& path : named) EXPECT_EQ(json({"verify", path})["page_compared"], true) << path;
    EXPECT_THAT(answer({"verify", folder_.string()}), testing::HasSubstr("; privacy_statement.md says the same"));
    std::ofstream(folder_ / place) << other_page;
    for (const std::string& path : named) {
      EXPECT_THAT(refusal({"verify", path}), testing::HasSubstr("it: '| commitment to the key | cc |'")) << path;
    }
    std::filesystem::remove(folder_ / place);
  }
  EXPECT_EQ(json({"verify", (folder_ / "model/dp_metadata.json").string()})["page_compared"], false);
}

// The last file of a run: without it the run has not ended, or somebody took it away.
TEST_F(PrivacyCommand, Verify_OfARunWithoutItsPage_Fails) {
  const Json statement = accounting::test::whole_statement();
  write("model/dp_metadata.json", statement);
  const std::string model = (folder_ / "model").string();
  EXPECT_THAT(answer({"verify", model}), testing::HasSubstr("; there is no privacy_statement.md to compare"));
  write_ledger(header(), 1000);
  for (const std::string& path : {folder_.string(), model}) {
    EXPECT_THROW(json({"verify", path}), IoError) << path;
    EXPECT_THAT(printed_, testing::HasSubstr((folder_ / "privacy_statement.md").string() + " is missing")) << path;
  }
  EXPECT_EQ(json({"verify", model + "/dp_metadata.json"})["verified"], true) << "a statement by itself";
  std::filesystem::rename(folder_ / "model", folder_ / "published");
  EXPECT_EQ(json({"verify", (folder_ / "published").string()})["verified"], true) << "no longer the run's own";
  std::filesystem::rename(folder_ / "published", folder_ / "model");
  std::ofstream(folder_ / "privacy_statement.md") << accounting::statement_page(statement);
  EXPECT_EQ(json({"verify", folder_.string()})["page_compared"], true);
}

TEST_F(PrivacyCommand, Verify_OfAModelWhoseRunReleasedMore_WarnsOfIt) {
  const Json statement = accounting::test::whole_statement();
  write("model/dp_metadata.json", statement);
  std::ofstream(folder_ / "privacy_statement.md") << accounting::statement_page(statement);
  write_ledger(header(), 1000);
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"verify", folder_.string()})["verified"], true);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  accounting::PrivacyLedger::open(folder_ / "ledger.jsonl").charge({0, 1, "mean image", {1, 5.0, 1}, "ee"});
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"verify", folder_.string()})["verified"], true);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("more was released after its statement"));
  std::ofstream(folder_ / "ledger.jsonl", std::ios::app) << "{}\n";
  EXPECT_THROW(json({"verify", folder_.string()}), IoError) << "a ledger that is not whole";
}

TEST_F(PrivacyCommand, Verify_OfAStatementWithATextForANumber_SaysSoInPlainWords) {
  Json statement = accounting::test::whole_statement();
  statement["delta"] = "small";
  write("model/dp_metadata.json", statement);
  EXPECT_THAT(refusal({"verify", folder_.string()}),
              testing::EndsWith("is not a privacy statement: type must be number, but is string"));
}

TEST_F(PrivacyCommand, Verify_LooksAtWhatTheEndsOfTheNoiseAddToDelta) {
  Json statement = accounting::test::whole_statement();
  statement["sampling_rate"] = .1;
  statement["expected_batch_size"] = 5000;
  statement["noise_multiplier"] = .5;
  statement["trained_elements"] = 24'000'000;
  const accounting::GaussianEvent event{.1, .5, 1000};
  const auto state = [&](double delta) {
    statement["delta"] = delta;
    statement["epsilon"] = accounting::epsilon_of({&event, 1}, delta, accounting::AccountantKind::kPld);
    write("model/dp_metadata.json", statement);
  };
  const auto found_at = [&](double delta) {
    state(delta);
    testing::internal::CaptureStderr();
    const Json found = json({"verify", folder_.string()});
    EXPECT_NEAR(found["delta_of_noise_tails"].get<double>(), 6.4e-11, .1e-11);
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_THAT(found_at(1e-5), testing::Not(testing::HasSubstr("ends of the noise")));
  EXPECT_THAT(accounting::statement_page(statement), testing::HasSubstr("| ends of the noise | at most 6.4"));
  EXPECT_THAT(found_at(1e-10), testing::HasSubstr("ends of the noise"));
  state(1e-12);
  EXPECT_THAT(refusal({"verify", folder_.string()}), testing::HasSubstr("may add 6.4"));
}

// A directory of many models may hold the page of any of them.
TEST_F(PrivacyCommand, Verify_LeavesAPageAloneThatNeedNotBeAboutTheModel) {
  write("one/dp_metadata.json", accounting::test::whole_statement());
  std::ofstream(folder_ / "privacy_statement.md") << "# Privacy statement of another model\n";
  testing::internal::CaptureStderr();
  EXPECT_EQ(json({"verify", (folder_ / "one").string()})["page_compared"], false);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("privacy_statement.md was not compared"));
  std::filesystem::rename(folder_ / "one", folder_ / "model");
  std::filesystem::create_directory_symlink("model", folder_ / "link");
  for (const char* name : {"model", "link"}) {
    EXPECT_THROW(answer({"verify", (folder_ / name).string()}), ConfigError) << name;
  }
}

TEST_F(PrivacyCommand, Verify_ComparesOfPagesInOtherWordsTheClaimAlone) {
  for (const Json& format : {Json(1), Json("2"), Json()}) {
    Json statement = accounting::test::whole_statement();
    statement["page_format"] = format;
    write("model/dp_metadata.json", statement);
    const std::string model = (folder_ / "model").string();
    std::ofstream(folder_ / "privacy_statement.md") << "Other words, **(1.8283, 1e-05)-differentially private**.\n";
    testing::internal::CaptureStderr();
    EXPECT_EQ(json({"verify", model})["page_compared"], false);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("md the claim alone was compared"));
    for (const char* other : {"Other words\n", "**(0.1000, 1e-05)-differentially private**\n",
                              "**(0.1, 1e-05)** **(1.8283, 1e-05)-differentially private**\n"}) {
      std::ofstream(folder_ / "privacy_statement.md") << other;
      EXPECT_THAT(refusal({"verify", model}), testing::HasSubstr("does not begin with what the model's statement"));
    }
  }
}

TEST_F(PrivacyCommand, Verify_TakesNoStatementFromTheDirectoryAbove) {
  write("dp_metadata.json", accounting::test::whole_statement());
  std::filesystem::create_directories(folder_ / "other/unet");
  EXPECT_THROW(answer({"verify", (folder_ / "other").string()}), IoError);
  EXPECT_EQ(json({"verify", folder_.string()})["verified"], true);
}

TEST_F(PrivacyCommand, WrongWords_AreRefusedWithASentence) {
  EXPECT_THAT(refusal({}), testing::HasSubstr("epsilon, calibrate, plan, ledger, verify"));
  EXPECT_THAT(refusal({"spend"}), testing::HasSubstr("'spend'"));
  EXPECT_THAT(refusal({"epsilon", "--steps", "3"}), testing::HasSubstr("give --delta"));
  EXPECT_THAT(refusal({"epsilon", "--steps", "3", "--delta", "1e-5"}),
              testing::HasSubstr("--sampling-rate is missing"));
  EXPECT_THAT(
      refusal({"epsilon", "--sampling-rate", "2", "--noise-multiplier", "1", "--steps", "3", "--delta", "1e-5"}),
      testing::HasSubstr("sampling rate is 2"));
  EXPECT_THAT(refusal({"calibrate", "--steps", "3", "--epsilon", "1", "--delta", "1e-5"}),
              testing::HasSubstr("give two of"));
  EXPECT_THAT(refusal({"plan", "--num-records", "100", "--epsilon", "1"}), testing::HasSubstr("--steps or --epochs"));
  EXPECT_THAT(refusal({"plan", "--num-records", "100", "--epsilon", "1", "--steps", "3", "--expected-batch", "101"}),
              testing::HasSubstr("between 1 and the number of records"));
  EXPECT_THAT(refusal({"plan", "--num-records", "100", "--epsilon", "1", "--steps", "3", "--plot", "x.pdf"}),
              testing::HasSubstr("--plot is 'x.pdf'; the plot is a PNG file, so its name must end in .png"));
  EXPECT_FALSE(std::filesystem::exists("x.pdf"));
  EXPECT_THAT(refusal({"ledger"}), testing::HasSubstr("the path is missing"));
}

// Each of these would otherwise be answered, for another setting than the one that was meant.
TEST_F(PrivacyCommand, NumbersWithSomethingBehindThemAndStrayArguments_AreRefused) {
  const auto with = [](const std::string& option, const std::string& value) {
    std::vector<std::string> words = kSetting;
    *std::next(std::find(words.begin(), words.end(), option)) = value;
    return words;
  };
  for (const char* value : {"0.1x", "0.01.5", "0,01", "", "0.1 "}) {
    EXPECT_ANY_THROW(answer(with("--sampling-rate", value))) << value;
  }
  EXPECT_ANY_THROW(answer(with("--steps", "1000x")));
  std::vector<std::string> stray = with("--steps", "1");
  stray.emplace_back("000");
  EXPECT_THAT(refusal(stray), testing::HasSubstr("unexpected argument '000'"));
  std::vector<std::string> twice = kSetting;
  twice.insert(twice.end(), {"--steps", "1"});
  EXPECT_THAT(refusal(twice), testing::HasSubstr("--steps is given twice"));
  EXPECT_ANY_THROW(answer({"plan", "--num-records", "100", "--epsilon", "1", "--epochs", "1,2x"}));
}

TEST_F(PrivacyCommand, Help_PrintsUsage) {
  for (const char* word : {"epsilon", "calibrate", "plan", "ledger", "verify"}) {
    EXPECT_THAT(answer({word, "--help"}), testing::HasSubstr("Usage")) << word;
    EXPECT_THAT(answer({"--help"}), testing::HasSubstr(word));
  }
}

}  // namespace
}  // namespace dpldm::app
