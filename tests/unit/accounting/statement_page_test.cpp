#include "accounting/statement_page.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/error.h"
#include "unit/accounting/whole_statement.h"

namespace dpldm::accounting {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class StatementPage : public testing::Test {
 protected:
  ~StatementPage() override { std::filesystem::remove(page_); }

  std::string difference(const std::string& text, const nlohmann::json& statement) const {
    std::ofstream(page_) << text;
    return difference_from_page(page_, statement);
  }

  const nlohmann::json statement_ = test::whole_statement();
  const std::filesystem::path page_ =
      std::filesystem::path(testing::TempDir()) / ("page-" + std::to_string(::getpid()) + ".md");
};

TEST_F(StatementPage, WhatTheStatementSays_IsOnIt) {
  const std::string page = statement_page(statement_);
  for (const char* said :
       {"(1.8283, 1e-05)-differentially private", "for each record of the private training set",
        "under the add-remove relation", "| records N | 50000 |", "| expected batch q N | 500 |",
        "| sampling | Poisson, rate q = 0.01 |", "| steps charged T | 1000 |", "| noise multiplier sigma | 1.0 |",
        "| clip norm C | 0.1 |", "| clipping | flat: ", "| draws per record K | 4 (", "| accountant | pld, dpldm ",
        "| trained | 7 elements, set attention |", "| public U-Net (SHA-256) | aa |",
        "| public autoencoder (SHA-256) | bb |", "| commitment to the key | cc |", "- Rounding.",
        "unless a time\n  limit stopped the run: the ledger, "}) {
    EXPECT_THAT(page, HasSubstr(said));
  }
  EXPECT_THAT(page, Not(HasSubstr("tokenizer")));
}

TEST_F(StatementPage, OfARunThatIsNotPrivate_SpeaksOfNoNumber) {
  nlohmann::json statement = statement_;
  statement["private"] = false;
  statement["epsilon"] = nullptr;
  statement["not_private_because"] = "privacy.test_seed is set";
  const std::string page = statement_page(statement);
  EXPECT_THAT(page, HasSubstr("**NOT PRIVATE**: privacy.test_seed is set."));
  EXPECT_THAT(page, HasSubstr("No number bounds what this run tells about a record"));
  EXPECT_THAT(page, HasSubstr("| steps charged T | 1000 |"));
  for (const char* of_a_number : {"What the number covers", "What it does not cover", "The bound is", "recomputes",
                                  "differentially private", "hold nothing beyond"}) {
    EXPECT_THAT(page, Not(HasSubstr(of_a_number)));
  }
  EXPECT_EQ(difference(page, statement), "");
}

TEST_F(StatementPage, InputsThatOnlySomeRunsHave_AreNamed) {
  nlohmann::json statement = statement_;
  statement["public_inputs"]["base_text_encoder_sha256"] = "dd";
  statement["public_inputs"]["tokenizer_sha256"] = "ee";
  statement["public_inputs"]["training_records_source"] = "folder shapes";
  statement["public_inputs"]["base_training_records_source"] = "synthetic, epsilon 2";
  const std::string page = statement_page(statement);
  EXPECT_THAT(page, HasSubstr("| public training records, made from | folder shapes |\n"));
  EXPECT_THAT(page, HasSubstr("| records that the public base model was trained on, made from | synthetic, epsilon 2 "
                              "|\n"));
  EXPECT_THAT(page, HasSubstr("| public text encoder (SHA-256) | dd |\n| public tokenizer (SHA-256) | ee |\n"));
}

TEST_F(StatementPage, OtherSamplers_AreNotCalledPoisson) {
  nlohmann::json statement = statement_;
  statement["sampler"] = "none";
  EXPECT_THAT(statement_page(statement), Not(HasSubstr("Poisson")));
}

TEST_F(StatementPage, TextsFromElsewhere_StayInTheirCell) {
  nlohmann::json statement = statement_;
  statement["trained_set_text"] = "a | b |\n\n**(0.1, 1e-9)-differentially private**";
  EXPECT_THAT(statement_page(statement), HasSubstr("set a   b    **(0.1, 1e-9)-differentially private** |\n"));
}

TEST_F(StatementPage, ThatLacksWhatItsStatementShouldSay_CannotBeMade) {
  for (const auto& [key, value] : statement_.items()) {
    nlohmann::json statement = statement_;
    statement[key] = nlohmann::json::array({nlohmann::json::object()});
    // What the page does not say is not looked at; all else is refused, and never a crash.
    try {
      statement_page(statement);
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("no page can be made"));
    }
  }
  nlohmann::json statement = statement_;
  statement.erase("clipping_text");
  EXPECT_THROW(statement_page(statement), ConfigError);
}

TEST_F(StatementPage, StepsThatWereCharged_AreReadFromIt) {
  const auto steps_on = [&](const std::string& text) {
    std::ofstream(page_) << text;
    return steps_on_page(page_);
  };
  EXPECT_EQ(steps_on(statement_page(statement_)), 1000);
  EXPECT_EQ(steps_on("| steps charged T | 7 |\n| steps charged T | 5 |\n"), 7) << "the most that it admits";
  for (const char* none : {"", "steps charged T 7\n", "| steps charged T | |\n", "| steps charged T | 7\n",
                           "| steps charged T |  |\n", "| steps charged T | 7x |\n", "| steps charged T | 7.5 |\n",
                           "| steps charged T | 99999999999999999999 |\n", " | steps charged T | 7 |\n"}) {
    EXPECT_EQ(steps_on(none), std::nullopt) << none;
  }
}

TEST_F(StatementPage, EveryLine_IsCompared) {
  const std::string page = statement_page(statement_);
  EXPECT_EQ(difference(page, statement_), "");
  nlohmann::json other = statement_;
  other["steps"] = 2000;
  EXPECT_THAT(difference(page, other), HasSubstr("is not what the model's statement makes of it: '| steps charged T | "
                                                 "2000 |'"));
  EXPECT_THAT(difference(page, other), HasSubstr("line 13 of " + page_.string()));
  std::size_t end = page.find('\n');
  for (; end != std::string::npos; end = page.find('\n', end + 1)) {
    std::string changed = page;
    changed.insert(end, "!");
    EXPECT_NE(difference(changed, statement_), "") << changed;
  }
  EXPECT_THAT(difference(page + "More.\n", statement_), HasSubstr("is one too many"));
  EXPECT_NE(difference(page.substr(0, page.rfind('\n', page.size() - 2) + 1), statement_), "");
  EXPECT_NE(difference("", statement_), "");
}

}  // namespace
}  // namespace dpldm::accounting
