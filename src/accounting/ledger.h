// The privacy ledger: an append-only, durable, hash-chained list of what was released at which cost.
//
// ledger.jsonl: the first line is the header, then one line per event. Every line carries the SHA-256 of the line
// before it, so an edit, a cut or a swap in the middle is detected. A step is charged, and the charge is on the disk,
// before its noise is drawn; a step that was charged and then lost to a crash stays spent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accounting/accountant.h"
#include "base/atomic_file.h"

namespace dpldm::accounting {

struct LedgerHeader {
  std::string run_id;  // random, hexadecimal
  std::int64_t num_records = 0;
  double sampling_rate = 0;
  double expected_batch_size = 0;
  double clip_norm = 0;
  double noise_multiplier = 0;
  std::int64_t planned_steps = 0;
  double target_epsilon = 0;  // infinity in a run that claims nothing
  double delta = 0;
  Neighbouring neighbouring = Neighbouring::kAddRemove;
  std::string sampler = "poisson";
  AccountantKind accountant = AccountantKind::kPld;
  std::string key_commitment;  // BLAKE2b of the master key
  std::string program_version;
  bool is_private = true;  // false: test seed, sigma 0, or another reason
  std::string not_private_because;
};

struct LedgerEntry {
  std::int64_t step = 0;      // logical step, 0-based
  std::int64_t attempt = 0;   // 0 for the first start, +1 for each resume
  std::string kind = "step";  // "step", or a named one-off release
  GaussianEvent event;        // what it cost
};

class PrivacyLedger {
 public:
  // A new ledger; throws IoError when the file exists.
  static PrivacyLedger create(const std::filesystem::path& path, const LedgerHeader& header);
  // Reads and verifies an existing one for appending. A last line that a crash left half-written is not an entry; it is
  // cut off only here. Throws IoError when the chain does not hold.
  static PrivacyLedger open(const std::filesystem::path& path);
  // Reads and verifies without changing anything.
  static PrivacyLedger read(const std::filesystem::path& path);

  const LedgerHeader& header() const { return header_; }
  const std::vector<LedgerEntry>& entries() const { return entries_; }
  // SHA-256 of the last line: what a checkpoint records.
  const std::string& head() const { return head_; }
  // True when `head` is the hash of some line: the ledger continues from the one that a checkpoint saw.
  bool contains_head(const std::string& head) const;

  // Appends and syncs. Only then may the release happen.
  void charge(const LedgerEntry& entry);

  // Entries merged into events, for an accountant.
  std::vector<GaussianEvent> events() const;
  // With the header's delta, accountant and relation; infinity for a run that is not private.
  double epsilon() const;
  // Epsilon if `next` were charged too.
  double epsilon_after(const GaussianEvent& next) const;

 private:
  PrivacyLedger() = default;
  LedgerHeader header_;
  std::vector<LedgerEntry> entries_;
  std::vector<std::string> heads_;
  std::string head_;
  std::unique_ptr<DurableLog> log_;
};

}  // namespace dpldm::accounting
