#include "app/report_page.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "accounting/ledger.h"
#include "app/html.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "unit/accounting/whole_statement.h"

namespace dpldm::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ReportPage : public ::testing::Test {
 protected:
  void SetUp() override {
    run_ = std::filesystem::path(::testing::TempDir()) /
           (std::string("report_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(run_);
    std::filesystem::create_directories(run_ / "model");
    std::filesystem::create_directories(run_ / "samples");
    write_file_atomically(run_ / "config.yaml", "training:\n  steps: 8 # <most>\n");
  }
  void TearDown() override { std::filesystem::remove_all(run_); }

  void add_ledger(bool is_private) {
    accounting::LedgerHeader header;
    header.run_id = "abc";
    header.num_records = 60'000;
    header.sampling_rate = 0.03;
    header.expected_batch_size = 1800;
    header.clip_norm = 1;
    header.noise_multiplier = 1.1;
    header.planned_steps = 10;
    header.target_epsilon = 8;
    header.delta = 1e-5;
    header.accountant = accounting::AccountantKind::kRdp;
    header.key_commitment = "00";
    header.program_version = "0.1.0";
    header.is_private = is_private;
    header.not_private_because = is_private ? "" : "a <test> seed was used";
    accounting::PrivacyLedger ledger = accounting::PrivacyLedger::create(run_ / "ledger.jsonl", header);
    for (std::int64_t step = 0; step < 8; ++step) ledger.charge({step, 0, "step", {0.03, 1.1, 1}});
    epsilon_ = ledger.epsilon();
  }
  void add_json(const std::string& name, const nlohmann::json& json) {
    write_file_atomically(run_ / name, json.dump());
  }

  std::filesystem::path run_;
  double epsilon_ = 0;
};

TEST_F(ReportPage, PrivateRun_StatesWhatWasSpentFirst) {
  add_ledger(true);
  const std::string page = report_page(run_);
  const std::string spent = "&epsilon; = " + accounting::up_to_decimals(epsilon_, 3);
  EXPECT_THAT(page, HasSubstr(spent));
  EXPECT_THAT(page, HasSubstr("8 of 10 planned releases"));
  EXPECT_THAT(page, HasSubstr("class=\"curve\""));
  EXPECT_THAT(page, Not(HasSubstr("NOT PRIVATE")));
  EXPECT_LT(page.find(spent), page.find("<h2>"));
}

TEST_F(ReportPage, RunWithATestSeed_IsMarkedAndHasNoEpsilon) {
  add_ledger(false);
  const std::string page = report_page(run_);
  EXPECT_THAT(page, HasSubstr("NOT PRIVATE"));
  EXPECT_THAT(page, HasSubstr("a &lt;test&gt; seed was used"));
  EXPECT_THAT(page, Not(HasSubstr("&epsilon; =")));
  EXPECT_THAT(page, HasSubstr("is not what this run does"));
}

TEST_F(ReportPage, BrokenLedger_IsNoStatement) {
  add_ledger(true);
  std::string text = read_file(run_ / "ledger.jsonl", 1 << 20);
  text.replace(text.find("1.1", text.find('\n')), 3, "9.1");
  std::ofstream(run_ / "ledger.jsonl") << text;
  EXPECT_THROW(report_page(run_), IoError);
}

TEST_F(ReportPage, LedgerThatLacksWhatTheStatementSaw_IsNoStatement) {
  add_ledger(true);
  add_json("model/dp_metadata.json", {{"private", true}, {"ledger_head", std::string(64, 'e')}});
  EXPECT_THAT([&] { report_page(run_); },
              testing::ThrowsMessage<IoError>(HasSubstr("lacks a line that the statement in model/ had seen")));
}

TEST_F(ReportPage, ModelWithOtherWeightsThanItsStatementNames_IsNotReported) {
  add_ledger(true);
  add_json("model/dp_metadata.json", {{"private", true}, {"tensors_sha256", {{"unet/x.safetensors", "00"}}}});
  EXPECT_THAT([&] { report_page(run_); },
              testing::ThrowsMessage<IoError>(HasSubstr("what was spent is not about them")));
}

TEST_F(ReportPage, StatementThatItsOwnNumbersDoNotBearOut_IsNotReported) {
  add_ledger(true);
  nlohmann::json statement = accounting::test::whole_statement();
  const double epsilon = statement["epsilon"].get<double>();
  statement["trained_set"] = "attention";
  add_json("model/dp_metadata.json", statement);
  EXPECT_THAT(report_page(run_), HasSubstr("trained"));
  statement["epsilon"] = epsilon / 2;
  add_json("model/dp_metadata.json", statement);
  EXPECT_THAT([&] { report_page(run_); }, testing::ThrowsMessage<ConfigError>(HasSubstr("does not hold")));
}

TEST_F(ReportPage, PublicRun_SaysSoAndShowsItsLoss) {
  std::ofstream(run_ / "metrics.jsonl") << R"({"step":1,"loss":0.5})"
                                        << "\n"
                                        << R"({"step":2,"loss":0.25})"
                                        << "\n{\"st";
  const std::string page = report_page(run_);
  EXPECT_THAT(page, HasSubstr("Public data only"));
  EXPECT_THAT(page, HasSubstr("Loss over the steps"));
}

TEST_F(ReportPage, PrivateRunWithoutItsLedger_IsNotCalledPublic) {
  write_file_atomically(run_ / "config.yaml", "training:\n  steps: 8\nprivacy:\n  epsilon: 8\n");
  EXPECT_THROW(report_page(run_), IoError);
  write_file_atomically(run_ / "config.yaml", "training:\n  steps: 8\n");
  add_json("model/dp_metadata.json", {{"private", true}});
  EXPECT_THROW(report_page(run_), IoError);
}

TEST_F(ReportPage, ScoresAndPicture_AreShownInThePageItself) {
  add_json("evaluation.json", {{"accuracy", {{"mean", 0.7312}, {"sd", 0.004}, {"seeds", {0.73, 0.7324}}}},
                               {"samples", {{"num", 10000}}},
                               {"reference", {{"num", 9999}}},
                               {"frechet", {{"distance", 3.25}, {"features", "public-cnn"}}},
                               {"statement", "outside epsilon"}});
  std::ofstream(run_ / "samples" / "grid.png") << "PNG";
  const std::string page = report_page(run_);
  EXPECT_THAT(page, HasSubstr("73.1 %"));
  EXPECT_THAT(page, HasSubstr("public-cnn"));
  EXPECT_THAT(page, HasSubstr("outside epsilon"));
  EXPECT_THAT(page, HasSubstr("data:image/png;base64,UE5H\""));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("http")));
}

TEST_F(ReportPage, TextOfFiles_IsEscaped) { EXPECT_THAT(report_page(run_), HasSubstr("# &lt;most&gt;")); }

TEST_F(ReportPage, FolderWithoutARunOrDamagedScores_IsRefused) {
  EXPECT_THROW(report_page(run_ / "samples"), IoError);
  add_json("evaluation.json", {{"accuracy", 3}});
  EXPECT_THROW(report_page(run_), IoError);
}

TEST(SvgChart, ConstantAndSinglePoint_AreDrawnWithFiniteCoordinates) {
  const std::string svg = svg_chart({.title = "t", .x_label = "x", .y_label = "y", .points = {{0, 0}}});
  EXPECT_THAT(svg, HasSubstr("<circle"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

}  // namespace
}  // namespace dpldm::app
