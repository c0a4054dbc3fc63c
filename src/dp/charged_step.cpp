#include "dp/charged_step.h"

#include "base/error.h"

namespace dpldm::dp {

ChargedStep::ChargedStep(ChargedStep&& other) noexcept
    : step_(other.step_), noise_multiplier_(other.noise_multiplier_), usable_(other.usable_) {
  other.usable_ = false;
}

ChargedStep charge_step(comm::Communicator& comm, accounting::PrivacyLedger* ledger,
                        const accounting::LedgerEntry& entry) {
  comm::run_on_root(comm, [&] {
    if (ledger == nullptr) throw InternalError("rank 0 has no privacy ledger to charge");
    ledger->charge(entry);
  });
  return {entry.step, entry.event.noise_multiplier};
}

}  // namespace dpldm::dp
