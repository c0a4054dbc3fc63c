#include "accounting/statement.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"

namespace dpldm::accounting {
namespace {

class Statement : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("statement-test-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  PrivacyStatement small_statement(bool is_private = true) {
    LedgerHeader header;
    header.run_id = "77";
    header.num_records = 50000;
    header.sampling_rate = 0.01;
    header.expected_batch_size = 500;
    header.clip_norm = 1e-3;
    header.noise_multiplier = 1.0;
    header.planned_steps = 10;
    header.target_epsilon = 2;
    header.delta = 1e-5;
    header.accountant = AccountantKind::kRdp;
    header.is_private = is_private;
    if (!is_private) header.not_private_because = "privacy.test_seed is set";
    PrivacyLedger ledger = PrivacyLedger::create(folder_ / "ledger.jsonl", header);
    for (int step = 0; step < 10; ++step) ledger.charge({step, 0, "step", {0.01, 1.0, 1, Sampler::kPoisson}});
    PrivacyStatement statement = statement_from(ledger);
    statement.noise_multiplicity = 4;
    statement.trained_set = "attention";
    statement.public_inputs = {{"autoencoder", "aa"}};
    return statement;
  }

  PrivacyStatement reread(const std::string& json) {
    std::ofstream(folder_ / "dp_metadata.json") << json;
    return read_statement(folder_ / "dp_metadata.json");
  }

  static std::string refusal(const PrivacyStatement& statement) {
    try {
      verified_epsilon(statement);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path folder_;
};

TEST_F(Statement, OfALedger_VerifiesAndSurvivesTheFile) {
  const PrivacyStatement statement = small_statement();
  const PrivacyStatement read = reread(statement_json(statement));
  EXPECT_EQ(statement_json(read), statement_json(statement));
  const GaussianEvent event{0.01, 1.0, 10};
  EXPECT_EQ(verified_epsilon(read), epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp));
}

TEST_F(Statement, WithoutEvents_IsVerifiedFromItsSteps) {
  const PrivacyStatement read = reread(R"({"private":true,"epsilon":1.82824365,"delta":1e-5,"neighbouring":"add-remove",
      "sampler":"poisson","accountant":"pld","noise_multiplier":1,"sampling_rate":0.01,"steps":1000,
      "num_records":50000,"expected_batch_size":500})");
  EXPECT_NEAR(verified_epsilon(read), 1.828244, 1e-5);
}

TEST_F(Statement, EveryNumberThatIsChanged_IsFound) {
  const PrivacyStatement good = small_statement();
  const std::pair<std::function<void(PrivacyStatement&)>, std::string> changes[] = {
      {[](auto& s) { s.epsilon *= 0.999; }, "the statement claims epsilon"},
      {[](auto& s) { s.epsilon *= 1.001; }, "the statement claims epsilon"},
      {[](auto& s) { s.delta *= 2; }, "the statement claims epsilon"},
      {[](auto& s) { s.neighbouring = Neighbouring::kReplaceOne; }, "the statement claims epsilon"},
      {[](auto& s) { s.accountant = AccountantKind::kPld; }, "the statement claims epsilon"},
      {[](auto& s) { s.events[0].count = 20; }, "the statement claims epsilon"},
      {[](auto& s) {
         s.events.push_back({1, 100, 1, Sampler::kNone});
       },
       "the statement claims epsilon"},
      {[](auto& s) { s.steps = 11; }, "its events of 10"},
      {[](auto& s) { s.noise_multiplier = 2; }, "its events of 0"},
      {[](auto& s) { s.sampling_rate = 0.02; }, "the expected batch size is 500"},
      {[](auto& s) { s.num_records = 60000; }, "the expected batch size is 500"},
      {[](auto& s) { s.events[0].noise_multiplier = s.noise_multiplier = 0; }, "no finite epsilon"},
      {[](auto& s) { s.is_private = false; }, "not private, and claims epsilon"},
  };
  EXPECT_EQ(refusal(good), "not refused");
  for (const auto& [change, expected] : changes) {
    PrivacyStatement changed = good;
    change(changed);
    EXPECT_THAT(refusal(changed), testing::HasSubstr(expected));
  }
}

TEST_F(Statement, NotPrivate_ClaimsNothing) {
  const PrivacyStatement statement = small_statement(false);
  EXPECT_THAT(statement_json(statement), testing::HasSubstr("\"epsilon\": null"));
  EXPECT_THAT(statement_page(statement), testing::HasSubstr("NOT PRIVATE"));
  EXPECT_THAT(statement_page(statement), testing::Not(testing::HasSubstr("epsilon |")));
  EXPECT_TRUE(std::isinf(verified_epsilon(reread(statement_json(statement)))));
}

TEST_F(Statement, PageNamesWhatIsPromised) {
  const std::string page = statement_page(small_statement());
  for (const char* text : {"differentially private", "add-remove", "0.01", "50000", "rdp", "autoencoder", "attention",
                           "Not accounted for", "Threat model"}) {
    EXPECT_THAT(page, testing::HasSubstr(text));
  }
}

TEST_F(Statement, DamagedFile_IsRefused) {
  EXPECT_THROW(reread("{"), ConfigError);
  EXPECT_THROW(reread("[]"), ConfigError);
  EXPECT_THROW(reread("{\"private\":true}"), ConfigError);
  EXPECT_THROW(reread(R"({"private":"yes"})"), ConfigError);
  EXPECT_THROW(read_statement(folder_ / "absent.json"), IoError);
}

}  // namespace
}  // namespace dpldm::accounting
