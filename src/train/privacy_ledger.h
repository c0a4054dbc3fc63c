// The ledger of a private run: made at its start, and held against the run that wants to resume it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "config/training_config.h"
#include "train/privacy_plan.h"

namespace dpldm::train {

// What a run is of, beside its plan. A resumed run must be of the same.
struct LedgerIdentity {
  std::string config_sha256;
  std::string base_unet_sha256;
  std::string encoder_sha256;
  std::string latents_sha256;  // of the private latents' content: goes into the ledger as a hiding commitment only
};

struct LedgerOptions {
  std::filesystem::path run_dir;
  bool resume = false;
  std::string key_commitment;  // of this attempt
};

// Collective. Rank 0's ledger, <run_dir>/ledger.jsonl; nothing elsewhere. A failure to make or open it is every rank's.
// Throws ConfigError when the run to be resumed is of another configuration, model or data, and IoError for a ledger
// that is damaged, lost, in use, or there already. A run to be resumed that was ended before it had a ledger gets one,
// and this configuration as its config.yaml.
//
// The random opening of the commitment to the latents lies beside it in latents.opening (readable by its owner alone,
// never to be published): with it, and only with it, the ledger shows which data the run was of.
std::optional<accounting::PrivacyLedger> open_run_ledger(const config::FinetuneConfig& config, const PrivacyPlan& plan,
                                                         const LedgerIdentity& identity, const LedgerOptions& options,
                                                         comm::Communicator& comm);

}  // namespace dpldm::train
