// Level 1: gradient canaries in a real run (Andrew et al. 2023, Nasr et al. 2023, Steinke et al. 2023).
//
// Canary i is a random direction among the trained elements, with a vector of norm C along it: the most that a record
// can do. Fair coins decide which canaries are records of the run; those are then drawn by Poisson sampling like any
// other. The attacker sees every release, and scores a canary by their sum along its direction.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "audit/canary_guesses.h"
#include "comm/communicator.h"
#include "config/training_config.h"
#include "dp/keys.h"
#include "train/private_training.h"

namespace dpldm::audit {

class GradientCanaries : public train::StepCompanion {
 public:
  // Collective. A test seed makes coins and directions reproducible.
  GradientCanaries(comm::Communicator& comm, std::int64_t num_canaries, std::optional<std::uint64_t> test_seed);

  // Canaries are numbered after the records; canary i is worked on by rank i mod size.
  std::vector<std::int64_t> taking_part(std::int64_t step, const dp::SecretKey& selection,
                                        const train::PrivacyPlan& plan) override;
  void write(std::int64_t canary, std::span<float> vector) override;
  void observe(std::span<const float> released) override;

  const std::vector<bool>& included() const { return included_; }
  // Of each canary; to be asked when the run has ended.
  std::vector<double> scores();

 private:
  comm::Communicator& comm_;
  dp::RunKeys keys_;
  std::vector<bool> included_;
  std::vector<double> total_;  // of all releases
};

// Collective. Fine-tunes into `run_dir` with canaries and judges what came out; the answer is rank 0's. The run is a
// run on the records like any other: its cost adds to that of others on the same records.
CanaryAudit audit_with_gradient_canaries(config::FinetuneConfig& config, const std::filesystem::path& run_dir,
                                         const CanaryOptions& options, comm::Communicator& comm);

// What a finished run claims, from its ledger; for a run that is stamped not private, what its numbers would make.
struct RunClaim {
  double epsilon = 0;
  double delta = 0;
  std::string not_private_because;
};
RunClaim claim_of(const std::filesystem::path& run_dir);

}  // namespace dpldm::audit
