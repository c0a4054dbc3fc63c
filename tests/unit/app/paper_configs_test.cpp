// Every setting of configs/dp_ldm_paper passes a dry run without data, with the published numbers of parameters; and
// what a training command refuses before it looks at any data.
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/process.h"
#include "support/temporary_directory.h"

namespace dpldm {
namespace {

struct Setting {
  std::string name;
  std::string records;
  std::string classes;  // empty: none
  std::string unet;     // its parameters
  std::string trained;
  // The noise multiplier of docs/benchmarks' independent accountant for the original's rounded sampling rate; within 2
  // %.
  double sigma = 0;  // 0: no anchor
};

class PaperConfig : public testing::TestWithParam<Setting> {};

TEST_P(PaperConfig, DryRunWithoutData_PrintsTheOutline) {
  const Setting& setting = GetParam();
  const std::string folder = std::string(DPLDM_CONFIGS_DIR "/dp_ldm_paper/") + setting.name;
  std::vector<std::string> command{
      DPLDM_BIN_DIR "/dpldm",    "finetune",  "--dry-run",    "--config", folder + "/finetune.yaml", "--network",
      folder + "/pretrain.yaml", "--records", setting.records};
  if (!setting.classes.empty()) command.insert(command.end(), {"--classes", setting.classes});
  const std::string text_encoder = folder + "/text_encoder.json";
  if (std::filesystem::exists(text_encoder)) command.insert(command.end(), {"--text-encoder", text_encoder});
  const test::ProcessResult result = test::run_process(command);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr("U-Net                  " + setting.unet + " parameters"));
  EXPECT_THAT(result.err, testing::HasSubstr("trained parameters     " + setting.trained + " of"));
  EXPECT_THAT(result.err, testing::ContainsRegex("time +about .* for a step, .* for [0-9]+ steps"));
  EXPECT_THAT(result.err,
              testing::ContainsRegex("memory +about [0-9.]+ GiB for each rank, of which [0-9.]+ for a micro-"));
  EXPECT_THAT(result.err, testing::HasSubstr("both counted from shapes, not measured: "));
  std::smatch sigma;
  ASSERT_TRUE(std::regex_search(result.err, sigma, std::regex("noise multiplier sigma *([0-9.]+)"))) << result.err;
  if (setting.sigma > 0) {
    EXPECT_NEAR(std::stod(sigma[1]) / setting.sigma, 1, 0.02) << result.err;
  }
}

// Class tables have one row for each class and the null class's; attention to one token has no queries and keys to
// train. Without both, the attention modules have 9,275,520 (blocks 9 to 16), 1,578,304 and 169,550,400 elements.
INSTANTIATE_TEST_SUITE_P(All, PaperConfig,
                         testing::Values(Setting{"celeba32", "162770", "", "162314115", "17887104"},
                                         Setting{"celeba64", "162770", "", "72172803", "7959808", 8.02},
                                         Setting{"cifar10", "50000", "10", "90296195", "8049024", 0.858},
                                         Setting{"mnist", "60000", "10", "4606522", "1495607", 1.473},
                                         Setting{"celebahq_class", "24000", "2", "400922115", "156198336"},
                                         Setting{"celebahq_text", "24000", "", "872300484", "822914240", 0.552}),
                         [](const auto& test) { return test.param.name; });

// Neither data nor a model are there, so that only what comes before them can be told.
test::ProcessResult train(const std::string& command, std::vector<std::string> options) {
  options.insert(options.begin(), {DPLDM_BIN_DIR "/dpldm", command});
  if (command == "autoencoder") {
    options.insert(options.end(), {"--set", "data.images=/nonexistent.h5"});
  } else {
    options.insert(options.end(), {"--set", "data.latents=/nonexistent.h5"});
  }
  if (command == "finetune") options.insert(options.end(), {"--set", "model.base=/nonexistent"});
  if (command == "pretrain") options.insert(options.end(), {"--set", "model.autoencoder=/nonexistent"});
  return test::run_process(options);
}

constexpr const char* kCommands[] = {"autoencoder", "pretrain", "finetune"};

void expect_refusal(const test::ProcessResult& result, const std::string& sentence) {
  EXPECT_EQ(result.exit_code, 64) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr(sentence));
}

TEST(TrainingCommand, WarmUpThatOutlastsTheRun_IsRefused) {
  for (const char* command : kCommands) {
    expect_refusal(train(command, {"--dry-run", "--set", "training.steps=7", "--set", "optimizer.warmup_steps=7"}),
                   "optimizer.warmup_steps is 7 and training.steps is 7");
  }
}

TEST(TrainingCommand, RunDirectoryThatDoesNotFit_IsToldBeforeDataAreRead) {
  const test::TemporaryDirectory folder;
  std::ofstream(folder.path() / "config.yaml") << "{}\n";
  for (const char* command : kCommands) {
    expect_refusal(train(command, {"--run-dir", folder.path().string()}), "holds a run already");
    const std::string empty = (folder.path() / "empty").string();
    expect_refusal(train(command, {"--run-dir", empty, "--resume"}), "holds no run to resume");
    EXPECT_FALSE(std::filesystem::exists(empty));
  }
}

TEST(TrainingCommand, PathsThatAreNotUtf8_AreRefused) {
  for (const char* command : kCommands) {
    expect_refusal(train(command, {"--run-dir", "/tmp/\xff"}), "--run-dir holds bytes that are not UTF-8");
    expect_refusal(train(command, {"--dry-run", "--set", "data.local_copy=\xff\xfe"}), "not UTF-8");
  }
}

TEST(TrainingCommand, LocalCopyInAPlaceThatIsNotThere_IsRefusedInADryRunToo) {
  const test::TemporaryDirectory folder;
  const std::string typo = (folder.path() / "scrath/latents").string();
  for (const char* command : {"pretrain", "finetune"}) {
    expect_refusal(train(command, {"--dry-run", "--set", "data.local_copy=" + typo}), "data.local_copy is " + typo);
    // The next thing to be looked at is the data.
    const test::ProcessResult fits =
        train(command, {"--dry-run", "--set", "data.local_copy=" + (folder.path() / "latents/").string()});
    EXPECT_THAT(fits.err, testing::HasSubstr("/nonexistent.h5"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace dpldm
