// The proof that a step's cost is in the ledger, on the disk.
//
// The mechanism releases nothing without one, and takes it away; the only way to get one is to charge the ledger. So
// the order "charge, then release" and "one release for one charge" hold by construction.
#pragma once

#include <cstdint>

#include "accounting/ledger.h"
#include "comm/communicator.h"

namespace dpldm::dp {

class ChargedStep {
 public:
  ChargedStep(ChargedStep&& other) noexcept;
  ChargedStep& operator=(ChargedStep&&) = delete;
  ChargedStep(const ChargedStep&) = delete;
  ChargedStep& operator=(const ChargedStep&) = delete;

  std::int64_t step() const { return step_; }
  // Of the event that was charged.
  double noise_multiplier() const { return noise_multiplier_; }
  // False for one that was moved away, that is, used.
  bool is_usable() const { return usable_; }

 private:
  friend ChargedStep charge_step(comm::Communicator& comm, accounting::PrivacyLedger* ledger,
                                 const accounting::LedgerEntry& entry);
  ChargedStep(std::int64_t step, double noise_multiplier) : step_(step), noise_multiplier_(noise_multiplier) {}

  std::int64_t step_;
  double noise_multiplier_;
  bool usable_ = true;
};

// Collective. Rank 0, which alone has the ledger (the others pass null), appends `entry` and syncs it. When that fails,
// every rank throws what rank 0's ledger threw, and nobody holds a charge. `entry` must be the same on all ranks.
ChargedStep charge_step(comm::Communicator& comm, accounting::PrivacyLedger* ledger,
                        const accounting::LedgerEntry& entry);

}  // namespace dpldm::dp
