// Level 0: is a step the Gaussian mechanism that the accountant takes it for?
//
// Made-up records of far too large gradients go through the real clip, sum, noise and division, in steps that they take
// part in or not. Two quantities come out: how far one record moves the sum (at small noise, so that every single
// record is seen) and how large the noise is. Their ratio is mu, the distance of the two normal distributions that an
// adversary must tell apart; the accountant assumes 1 / sigma. Both directions are checked: a mu above that voids the
// claim, one below it means more noise than was asked for. The noise must also be normal, and independent between
// elements and steps.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "audit/mechanism_path.h"
#include "comm/communicator.h"

namespace dpldm::audit {

struct MechanismAuditOptions {
  double noise_multiplier = 1;
  double delta = 1e-5;
  double expected_batch_size = 0;
  std::int64_t num_steps = 8;
  double confidence = 0.9999;
};

struct MechanismAudit {
  double claimed_mu = 0;
  double mu = 0;  // estimate, and the ends of its confidence interval
  double mu_lower = 0;
  double mu_upper = 0;
  double claimed_epsilon = 0;  // of one release, at delta
  double audited_epsilon = 0;  // of mu_lower
  std::int64_t num_canaries = 0;
  std::int64_t num_measurements = 0;
  std::string defects;  // empty when all is as claimed
};

// Makes a path with the given noise multiplier; each is used for one series of steps. Collective.
using MakePath = std::function<std::unique_ptr<MechanismPath>(double noise_multiplier)>;

// Collective; the answer is the same on every rank. Throws ConfigError for a noise multiplier or a confidence outside
// its domain.
MechanismAudit audit_mechanism(const MadeUpRecords& records, const MakePath& make_path,
                               const MechanismAuditOptions& options);

}  // namespace dpldm::audit
