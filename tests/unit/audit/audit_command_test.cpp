// `dpldm audit` as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "support/process.h"
#include "support/temporary_directory.h"
#include "support/tiny_model.h"

namespace dpldm::test {
namespace {

using Json = nlohmann::json;

ProcessResult audit(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {DPLDM_BIN_DIR "/dpldm", "audit"});
  return run_process(arguments);
}

// An audit of level 1 or 2 of a whole run on the tiny model, with these settings, answered in JSON.
std::vector<std::string> of_a_run(const char* level, const TinyModel& tiny, const std::filesystem::path& run_dir,
                                  std::vector<std::string> settings) {
  settings.insert(settings.end(),
                  {"model.base=" + tiny.model.string(), "data.latents=" + tiny.latents.string(), "runtime.threads=1"});
  std::vector<std::string> arguments{"--level", level, "--json", "--run-dir", run_dir.string()};
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
  return arguments;
}

TEST(AuditCommand, Level0_StatesWhatWasClaimedAndWhatWasFound) {
  for (const char* mechanism : {"float", "lattice"}) {
    const ProcessResult result = audit({"--mechanism", mechanism, "--noise-multiplier", "2", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const Json answer = Json::parse(result.out);
    EXPECT_EQ(answer["passed"], true);
    EXPECT_NEAR(answer["claimed_mu"].get<double>(), 0.5, 1e-12);
    EXPECT_LE(answer["audited_epsilon"].get<double>(), answer["claimed_epsilon"].get<double>());
    EXPECT_GT(answer["canaries"].get<int>(), 100);
    EXPECT_EQ(answer["confidence"], 0.9999);
  }
}

// The coins are new each time. By chance alone 18 of 20 guesses, which would refute epsilon 0.5, are right in one run
// of 5,000.
TEST(AuditCommand, AuditAboveTheClaim_FailsAndStillAnswers) {
  const TemporaryDirectory directory;
  const TinyModel tiny = make_tiny_model(directory.path(), 24, data::Visibility::kPublic);
  for (const char* level : {"1", "2"}) {
    const auto with_confidence = [&](const std::string& confidence, const std::string& run) {
      std::vector<std::string> arguments{"--canaries", "100", "--guesses", "20", "--confidence", confidence};
      const auto run_itself = of_a_run(
          level, tiny, directory.path() / (run + level),
          {"training.steps=2", "training.expected_batch_size=2", "privacy.epsilon=0.5", "privacy.delta=0.001"});
      arguments.insert(arguments.end(), run_itself.begin(), run_itself.end());
      return audit(arguments);
    };
    const ProcessResult right = with_confidence("0.95", "right");
    EXPECT_EQ(right.exit_code, 0) << right.err;
    EXPECT_EQ(Json::parse(right.out)["passed"], true);
    EXPECT_NEAR(Json::parse(right.out)["provable_epsilon"].get<double>(), 1.4763, 1e-4) << "with 20 of 20 right";
    // With next to no confidence asked for, any guesses refute any claim.
    const ProcessResult wrong = with_confidence("1e-9", "wrong");
    EXPECT_EQ(wrong.exit_code, 70);
    EXPECT_THAT(wrong.err, testing::HasSubstr("the audit refutes the claim"));
    const Json answer = Json::parse(wrong.out);
    EXPECT_EQ(answer["level"], std::stoi(level));
    EXPECT_EQ(answer["passed"], false);
    EXPECT_EQ(answer["guesses"], 20);
    EXPECT_GT(answer["audited_epsilon"].get<double>(), answer["claimed_epsilon"].get<double>());
  }
}

// A program whose mechanism is right on one rank and loses its noise on two.
TEST(AuditCommand, Level0OfAMechanismThatLosesItsNoise_EndsWith70) {
  const auto audit_on = [](const char* num_ranks) {
    return run_process({"mpirun", "-np", num_ranks, "--oversubscribe", "--bind-to", "none", DPLDM_QUIET_AUDIT, "audit",
                        "--level", "0", "--json"});
  };
  const ProcessResult right = audit_on("1");
  EXPECT_EQ(right.exit_code, 0) << right.err;
  const ProcessResult wrong = audit_on("2");
  EXPECT_EQ(wrong.exit_code, 70) << wrong.err;
  EXPECT_THAT(wrong.err, testing::HasSubstr("the audit refutes the claim"));
  EXPECT_EQ(Json::parse(right.out)["passed"], true);
  EXPECT_EQ(Json::parse(wrong.out)["passed"], false);
}

// Four right guesses of four are chance once in sixteen times.
TEST(AuditCommand, AuditThatCouldNotFail_SaysSo) {
  const TemporaryDirectory directory;
  const TinyModel tiny = make_tiny_model(directory.path(), 24, data::Visibility::kPublic);
  std::vector<std::string> arguments =
      of_a_run("1", tiny, directory.path() / "run",
               {"training.steps=2", "training.expected_batch_size=2", "privacy.epsilon=4", "privacy.delta=0.001"});
  std::erase(arguments, "--json");
  arguments.insert(arguments.end(), {"--canaries", "20", "--guesses", "4"});
  const ProcessResult result = audit(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, testing::HasSubstr("passed, as any run would: so many guesses can show 0.0000 at most"));
}

// A claim that does not hold, found at the confidence that is usual: the same audit of the same run, by a program whose
// mechanism is right on one rank and loses its noise on two.
TEST(AuditCommand, NoiseThatGetsLost_IsFoundInAWholeRunAndEndsWith70) {
  const TemporaryDirectory directory;
  const TinyModel tiny = make_tiny_model(directory.path(), 24, data::Visibility::kPublic);
  const auto audit_by = [&](const std::string& program, const std::string& num_ranks, const std::string& run) {
    std::vector<std::string> command{"mpirun", "-np",        num_ranks, "--oversubscribe", "--bind-to", "none", program,
                                     "audit",  "--canaries", "200",     "--guesses",       "60"};
    const auto run_itself =
        of_a_run("1", tiny, directory.path() / run,
                 {"training.steps=8", "training.expected_batch_size=12", "privacy.epsilon=1", "privacy.delta=1e-5"});
    command.insert(command.end(), run_itself.begin(), run_itself.end());
    return run_process(command);
  };
  EXPECT_EQ(audit_by(DPLDM_BIN_DIR "/dpldm", "2", "right").exit_code, 0);
  EXPECT_EQ(audit_by(DPLDM_QUIET_AUDIT, "1", "quiet-on-one").exit_code, 0);
  const ProcessResult wrong = audit_by(DPLDM_QUIET_AUDIT, "2", "quiet-on-two");
  EXPECT_EQ(wrong.exit_code, 70) << wrong.err;
  EXPECT_THAT(wrong.err, testing::HasSubstr("the audit refutes the claim"));
  const Json answer = Json::parse(wrong.out);
  EXPECT_EQ(answer["passed"], false);
  EXPECT_EQ(answer["confidence"], 0.95);
  EXPECT_LE(answer["claimed_epsilon"].get<double>(), 1);
  EXPECT_GT(answer["audited_epsilon"].get<double>(), 1.5);
}

TEST(AuditCommand, WrongArguments_AreRefusedWithASentence) {
  EXPECT_EQ(audit({"--level", "3"}).exit_code, 64);
  EXPECT_THAT(audit({"--level", "3"}).err, testing::HasSubstr("0, 1 or 2"));
  EXPECT_EQ(audit({"--level", "0", "--run-dir", "x"}).exit_code, 64);
  EXPECT_EQ(audit({"--noise-multiplier", "0"}).exit_code, 64);
  EXPECT_EQ(audit({"--mechanism", "exact"}).exit_code, 64);
  EXPECT_EQ(audit({"--level", "1", "--guesses", "3", "--run-dir", "x"}).exit_code, 64);
  // What another level would have looked at.
  for (const char* option : {"--canaries", "--guesses", "--confidence"}) {
    EXPECT_THAT(audit({option, "4"}).err, testing::HasSubstr(std::string(option) + " is not an option of this level"));
  }
  for (const char* option : {"--noise-multiplier", "--delta"}) {
    const ProcessResult result = audit({"--level", "1", "--run-dir", "x", option, "1"});
    EXPECT_EQ(result.exit_code, 64);
    EXPECT_THAT(result.err, testing::HasSubstr(std::string(option) + " is not an option of this level, whose run has"));
  }
  EXPECT_THAT(audit({"--level", "2", "--run-dir", "x", "--mechanism=lattice"}).err,
              testing::HasSubstr("--set privacy.mechanism=..."));
  EXPECT_THAT(audit({"--level", "2", "--run-dir", "x", "--release-mode", "root"}).err,
              testing::HasSubstr("--set privacy.release_mode=..."));
  EXPECT_EQ(audit({"--help"}).exit_code, 0);
}

}  // namespace
}  // namespace dpldm::test
