// Level 2: input canaries in a small real run (Carlini et al. 2019; Steinke et al. 2023).
//
// Canary records, latents of noise under random labels, are added to the private latents or left out by fair coins. The
// attacker sees only the final model: a canary's score is how much lower its loss is than under the public model, at
// fixed draws of timestep and noise. This shows what leaks to someone who has nothing but the release; it proves less
// than level 1.
#pragma once

#include <filesystem>

#include "audit/canary_guesses.h"
#include "comm/communicator.h"
#include "config/training_config.h"

namespace dpldm::audit {

// Collective. Fine-tunes into `run_dir` on the records of the configured latents and the included canaries, and judges
// the model; the answer is rank 0's. While it runs, a copy of the latents lies in `run_dir`. The run costs privacy like
// any other. Throws ConfigError for latents with captions.
CanaryAudit audit_with_input_canaries(config::FinetuneConfig& config, const std::filesystem::path& run_dir,
                                      const CanaryOptions& options, comm::Communicator& comm);

}  // namespace dpldm::audit
