// The audit of the mechanism on the real path, over the real ranks, and on paths that are broken in the known ways: the
// first must pass, each of the others must be caught. Test seeds: the same every time.
#include "audit/mechanism_audit.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "audit/selection_statistics.h"
#include "support/broken_path.h"
#include "support/mpi_test.h"
#include "support/temporary_directory.h"

namespace dpldm::audit {
namespace {

using test::Fault;

class MechanismOnRanks : public testing::Test {
 protected:
  MechanismOnRanks() {
    options_.noise_multiplier = 1.5;
    options_.expected_batch_size = 200;
    if (comm_->is_root()) ledger_.emplace(accounting::PrivacyLedger::create(directory_.path() / "ledger.jsonl", {}));
  }

  PathOptions path_options(double noise_multiplier) {
    PathOptions path;
    path.noise_multiplier = noise_multiplier;
    path.expected_batch_size = options_.expected_batch_size;
    path.test_seed = next_seed_++;
    return path;
  }
  accounting::PrivacyLedger* ledger() { return ledger_ ? &*ledger_ : nullptr; }

  // What the audit says about the path with this fault.
  MechanismAudit audit_of(Fault fault) {
    return audit_mechanism(
        records_,
        [&](double noise_multiplier) {
          return test::make_broken_path(fault, *comm_, records_, ledger(), path_options(noise_multiplier));
        },
        options_);
  }
  MechanismAudit audit_of_real_path(const PathOptions& like) {
    return audit_mechanism(
        records_,
        [&](double noise_multiplier) {
          PathOptions path = path_options(noise_multiplier);
          path.lattice = like.lattice;
          path.mode = like.mode;
          path.rule = like.rule;
          path.sharding = like.sharding;
          return make_real_path(*comm_, records_, ledger(), path);
        },
        options_);
  }
  bool alone() const { return comm_->size() == 1; }

  test::TemporaryDirectory directory_;
  std::unique_ptr<comm::Communicator> comm_ = test::make_world_communicator();
  std::optional<accounting::PrivacyLedger> ledger_;
  MadeUpRecords records_{400};
  MechanismAuditOptions options_;
  std::uint64_t next_seed_ = 77;
};

TEST_F(MechanismOnRanks, RealPath_IsTheMechanismThatIsClaimed) {
  for (const dp::Rule rule : {dp::Rule::kKept, dp::Rule::kNormOnly, dp::Rule::kGram}) {
    for (const dp::ReleaseMode mode : {dp::ReleaseMode::kAllReduce, dp::ReleaseMode::kRoot}) {
      PathOptions path;
      path.rule = rule;
      path.mode = mode;
      const MechanismAudit audit = audit_of_real_path(path);
      EXPECT_EQ(audit.defects, "") << to_text(rule);
      EXPECT_NEAR(audit.mu, audit.claimed_mu, 0.03 * audit.claimed_mu);
      EXPECT_LE(audit.audited_epsilon, audit.claimed_epsilon);
      EXPECT_GE(audit.audited_epsilon, 0.9 * audit.claimed_epsilon);  // tight, or it would catch nothing
    }
  }
}

TEST_F(MechanismOnRanks, RealPathOnALattice_IsTheMechanismThatIsClaimed) {
  PathOptions path;
  path.lattice = true;
  path.sharding = dp::Sharding::kBalanced;
  const MechanismAudit audit = audit_of_real_path(path);
  EXPECT_EQ(audit.defects, "");
  EXPECT_NEAR(audit.mu, audit.claimed_mu, 0.03 * audit.claimed_mu);
}

TEST_F(MechanismOnRanks, NegativeControls_WithoutAFault_Pass) { EXPECT_EQ(audit_of(Fault::kNone).defects, ""); }

TEST_F(MechanismOnRanks, NoClipping_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kNoClip);
  EXPECT_GT(audit.mu_lower, audit.claimed_mu);
  EXPECT_GT(audit.audited_epsilon, audit.claimed_epsilon);
}

TEST_F(MechanismOnRanks, BiasNormLeftOut_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kBiasNormLeftOut);
  EXPECT_GT(audit.mu_lower, audit.claimed_mu);
}

TEST_F(MechanismOnRanks, DrawsClippedApart_AreCaught) {
  const MechanismAudit audit = audit_of(Fault::kDrawsClippedApart);
  EXPECT_GT(audit.mu_lower, 1.5 * audit.claimed_mu);
}

TEST_F(MechanismOnRanks, ActualBatchSize_IsCaught) { EXPECT_NE(audit_of(Fault::kActualBatchSize).defects, ""); }

TEST_F(MechanismOnRanks, NoiseOnEachRank_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kNoiseOnEachRank);
  EXPECT_EQ(audit.defects.empty(), alone());
  EXPECT_EQ(audit.mu_upper < audit.claimed_mu, !alone());
}

TEST_F(MechanismOnRanks, NoiseDividedByTheRanks_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kNoiseOverRanks);
  EXPECT_EQ(audit.defects.empty(), alone());
  EXPECT_EQ(audit.mu_lower > audit.claimed_mu, !alone());
}

TEST_F(MechanismOnRanks, NoiseFivePercentTooSmall_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kLessNoise);
  EXPECT_GT(audit.mu_lower, audit.claimed_mu);
}

TEST_F(MechanismOnRanks, ReplayedNoise_IsCaught) {
  EXPECT_NE(audit_of(Fault::kReplayedNoise).defects.find("not independent"), std::string::npos);
}

TEST_F(MechanismOnRanks, RecordOnTwoRanks_IsCaught) {
  const MechanismAudit audit = audit_of(Fault::kRecordOnTwoRanks);
  EXPECT_EQ(audit.defects.empty(), alone());
  EXPECT_EQ(audit.mu_lower > audit.claimed_mu, !alone());
}

class SelectionOnRanks : public testing::Test {
 protected:
  static constexpr std::int64_t kRecords = 4000;
  static constexpr double kRate = 0.05;
  static constexpr std::int64_t kSteps = 60;

  std::string defects(const Selector& selector) {
    return defects_of_selection(*comm_, selector, kRecords, kRate, kSteps);
  }
  std::vector<std::int64_t> my_share(const std::vector<std::int64_t>& selected) const {
    return dp::share_of_rank(selected, kRecords, comm_->rank(), comm_->size(), dp::Sharding::kStatic);
  }

  std::unique_ptr<comm::Communicator> comm_ = test::make_world_communicator();
  dp::RunKeys keys_ = dp::RunKeys::create(*comm_, 5);
};

TEST_F(SelectionOnRanks, RealSelection_IsPoisson) {
  EXPECT_EQ(defects([&](std::int64_t step) {
              return my_share(dp::selected_records(keys_.selection(), step, kRecords, kRate));
            }),
            "");
}

TEST_F(SelectionOnRanks, OneKeyForAllRanksWithLocalNumbers_IsCaught) {
  const std::int64_t shard = kRecords / comm_->size();
  const std::string found = defects([&](std::int64_t step) {
    std::vector<std::int64_t> local = dp::selected_records(keys_.selection(), step, shard, kRate);
    for (std::int64_t& record : local) record += comm_->rank() * shard;
    return local;
  });
  EXPECT_EQ(found.find("together on different ranks") != std::string::npos, comm_->size() > 1) << found;
}

// Batches of a shuffled list, which an accountant must not take for Poisson samples.
TEST_F(SelectionOnRanks, ShuffledBatches_AreCaught) {
  const std::string found = defects([&](std::int64_t step) {
    const auto batch = static_cast<std::int64_t>(kRecords * kRate);
    const std::int64_t batches_in_epoch = kRecords / batch;
    std::mt19937_64 generator(static_cast<std::uint64_t>(step / batches_in_epoch));
    std::vector<std::int64_t> order(kRecords);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), generator);
    const auto first = order.begin() + step % batches_in_epoch * batch;
    std::vector<std::int64_t> selected(first, first + batch);
    std::sort(selected.begin(), selected.end());
    return my_share(selected);
  });
  EXPECT_NE(found.find("sizes of steps"), std::string::npos) << found;
  EXPECT_NE(found.find("how often a record takes part"), std::string::npos) << found;
}

TEST_F(SelectionOnRanks, RecordOnTwoRanks_IsCaught) {
  const std::string found = defects([&](std::int64_t step) {
    std::vector<std::int64_t> mine = my_share(dp::selected_records(keys_.selection(), step, kRecords, kRate));
    const bool has_it = std::find(mine.begin(), mine.end(), 17) != mine.end();
    if (!comm_->is_root() && !has_it) mine.push_back(17);  // which is in rank 0's shard
    return mine;
  });
  EXPECT_EQ(found.find("two ranks") != std::string::npos, comm_->size() > 1);
}

TEST_F(SelectionOnRanks, RateThatIsNotTheClaimedOne_IsCaught) {
  const std::string found = defects([&](std::int64_t step) {
    return my_share(dp::selected_records(keys_.selection(), step, kRecords, 1.1 * kRate));
  });
  EXPECT_NE(found, "");
}

}  // namespace
}  // namespace dpldm::audit
