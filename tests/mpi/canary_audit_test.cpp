// Audits by canaries: whole small runs over the real ranks. What they find must stay below the claim of a right run,
// and rise above that of a run with less noise than it says.
#include <filesystem>

#include <gtest/gtest.h>

#include "audit/gradient_canaries.h"
#include "audit/input_canaries.h"
#include "base/error.h"
#include "support/ranks_in_one_directory.h"
#include "support/tiny_model.h"

namespace dpldm::audit {
namespace {

class CanariesOnRanks : public test::RanksInOneDirectory {
 protected:
  CanariesOnRanks() {
    if (world_->is_root()) test::make_tiny_model(root_, 24, data::Visibility::kPublic);
    world_->barrier();
  }

  config::FinetuneConfig config() const {
    config::FinetuneConfig config;
    config.model = (root_ / "tiny").string();
    config.latents = (root_ / "latents.h5").string();
    config.steps = 8;
    config.expected_batch_size = 12;  // q = 1/2
    config.clip_norm = 0.05;
    config.delta = 1e-3;
    config.noise_multiplier = 1.2;
    config.test_seed = 5;
    config.accountant = "rdp";
    config.runtime.threads = 1;
    return config;
  }
};

TEST_F(CanariesOnRanks, GradientCanaries_AuditBelowTheClaimAndAboveNothing) {
  config::FinetuneConfig run = config();
  const CanaryAudit audit = audit_with_gradient_canaries(run, root_ / "level1", {500, 100, 0.95}, *world_);
  if (!world_->is_root()) return;
  EXPECT_EQ(audit.guesses.num_canaries, 500);
  EXPECT_EQ(audit.guesses.num_guesses, 100);
  EXPECT_TRUE(audit.within_claim()) << audit.audited_epsilon << " above " << audit.claimed_epsilon;
  EXPECT_GT(audit.audited_epsilon, 1) << "an attack that sees nothing would not see a fault either";
}

TEST_F(CanariesOnRanks, GradientCanariesOnALattice_AuditBelowTheClaim) {
  config::FinetuneConfig run = config();
  run.mechanism = "lattice";
  const CanaryAudit audit = audit_with_gradient_canaries(run, root_ / "level1", {500, 100, 0.95}, *world_);
  if (!world_->is_root()) return;
  EXPECT_TRUE(audit.within_claim());
  EXPECT_GT(audit.audited_epsilon, 1);
}

// The steps that a right run takes, held against the claim of one with five times the noise.
TEST_F(CanariesOnRanks, GradientCanaries_RefuteAClaimOfMoreNoiseThanThereIs) {
  config::FinetuneConfig quiet = config();
  quiet.noise_multiplier = 6.0;
  const CanaryAudit honest = audit_with_gradient_canaries(quiet, root_ / "quiet", {500, 100, 0.95}, *world_);
  config::FinetuneConfig loud = config();
  const CanaryAudit found = audit_with_gradient_canaries(loud, root_ / "loud", {500, 100, 0.95}, *world_);
  if (!world_->is_root()) return;
  EXPECT_TRUE(honest.within_claim());
  EXPECT_GT(found.audited_epsilon, honest.claimed_epsilon);
}

TEST_F(CanariesOnRanks, InputCanaries_AuditBelowTheClaimAndLeaveNoCopyOfTheRecords) {
  config::FinetuneConfig run = config();
  const CanaryAudit audit = audit_with_input_canaries(run, root_ / "level2", {40, 10, 0.95}, *world_);
  if (!world_->is_root()) return;
  EXPECT_TRUE(audit.within_claim());
  EXPECT_EQ(audit.guesses.num_canaries, 40);
  EXPECT_TRUE(std::filesystem::exists(root_ / "level2/model/dp_metadata.json"));
  for (const auto& entry : std::filesystem::directory_iterator(root_ / "level2")) {
    EXPECT_NE(entry.path().extension(), ".h5");
  }
}

// Hardly any noise, few records, all parameters: who was in is seen in the loss. Guessing alone is right in 15 of 20 or
// more once in 48 times.
TEST_F(CanariesOnRanks, InputCanaries_AreToldApartWhereThereIsHardlyAnyNoise) {
  config::FinetuneConfig run = config();
  run.noise_multiplier = 1e-3;
  run.clip_norm = 1;
  run.steps = 40;
  run.expected_batch_size = 20;
  run.trained_set = "all";
  run.optimizer.learning_rate = 1e-2;
  const CanaryAudit audit = audit_with_input_canaries(run, root_ / "level2", {40, 20, 0.95}, *world_);
  if (!world_->is_root()) return;
  EXPECT_GE(audit.guesses.num_right, 15) << "an attack that sees nothing would not see a fault either";
}

TEST_F(CanariesOnRanks, InputCanaries_NeedADirectoryOfTheirOwn) {
  config::FinetuneConfig run = config();
  audit_with_input_canaries(run, root_ / "level2", {4, 2, 0.95}, *world_);
  config::FinetuneConfig again = config();
  EXPECT_THROW(audit_with_input_canaries(again, root_ / "level2", {4, 2, 0.95}, *world_), Error);
}

}  // namespace
}  // namespace dpldm::audit
