// The privacy ledger: an append-only, durable, hash-chained list of what was released at which cost.
//
// ledger.jsonl: the first line is the header, then one line per event. Every line carries the SHA-256 of the line
// before it, so an edit, a cut or a swap in the middle is detected. Beside it lies ledger.jsonl.head, the number of
// lines and the SHA-256 of the last one: it detects that the tail was cut off. A step is charged, and the charge is on
// the disk, before its noise is drawn; a step that was charged and then lost to a crash stays spent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_set>
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
  std::string mechanism = "float";  // or "lattice": sums and noise on a grid of integers
  std::int64_t grid_steps = 0;      // lattice: grid steps in one clip norm
  std::string key_commitment;       // BLAKE2b of the first attempt's master key
  // What the run is of, so that a resumed one can be held against it. The commitment hides the latents' hash: a bare
  // hash in a file that may be published would let anyone test a guess of the private data.
  std::string config_sha256;
  std::string base_model_sha256;
  std::string autoencoder_sha256;
  std::string latents_commitment;
  std::string program_version;
  bool is_private = true;  // false: test seed, sigma 0, or another reason
  std::string not_private_because;
};

struct LedgerEntry {
  std::int64_t step = 0;      // logical step, 0-based
  std::int64_t attempt = 0;   // 0 for the first start, +1 for each resume
  std::string kind = "step";  // "step", or a named one-off release
  GaussianEvent event;        // what it cost
  // Of the attempt's master key, in the first entry of each attempt; empty in the others.
  std::string key_commitment{};
};

class PrivacyLedger {
 public:
  // A new ledger; throws IoError when the file exists.
  static PrivacyLedger create(const std::filesystem::path& path, const LedgerHeader& header);
  // Reads and verifies an existing one for appending. A last line that a crash left half-written is not an entry; it is
  // cut off only here. Throws IoError when the chain does not hold, and when another process has it open for appending.
  static PrivacyLedger open(const std::filesystem::path& path);
  // Reads and verifies without changing anything.
  static PrivacyLedger read(const std::filesystem::path& path);
  // True where `create` was never called, or was ended before it was done, so that nothing can have been charged: the
  // head, which comes last, is missing or empty, and the ledger has at most its first line. Throws IoError.
  static bool was_never_made(const std::filesystem::path& path);

  PrivacyLedger(PrivacyLedger&&) noexcept;
  PrivacyLedger& operator=(PrivacyLedger&&) noexcept;
  ~PrivacyLedger();

  const LedgerHeader& header() const { return header_; }
  const std::vector<LedgerEntry>& entries() const { return entries_; }
  // SHA-256 of the last line: what a checkpoint records.
  const std::string& head() const { return head_; }
  // True when `head` is the hash of some line: the ledger continues from the one that a checkpoint saw.
  bool contains_head(const std::string& head) const;
  // How many steps with the header's rate and noise were charged.
  std::int64_t num_steps() const;
  // The attempt number that a run which appends to this ledger now must use: one above the highest; 0 in an empty one.
  std::int64_t next_attempt() const;

  // Appends and syncs. Only then may the release happen. Throws IoError when it cannot; the ledger then takes no more
  // charges. Throws InternalError for a step that does not come after the last one (a later attempt may repeat steps).
  void charge(const LedgerEntry& entry);

  // Entries merged into events, for an accountant.
  std::vector<GaussianEvent> events() const;
  // The releases that are not steps with the header's rate and noise: merged, by kind.
  struct OtherRelease {
    std::string kind;
    GaussianEvent event;
  };
  std::vector<OtherRelease> other_releases() const;
  // With the header's delta, accountant and relation; infinity for a run that is not private. Answers are kept, so that
  // asking again costs nothing; a new one takes some 20 ms.
  double epsilon() const;
  // The next two are upper bounds that are cheap enough for every step: within the plan the number of steps is rounded
  // up, by at most a tenth and never beyond the plan, so that one evaluation serves many steps. Whenever that bound
  // would exceed the target epsilon the answer is exact.
  double epsilon_bound() const;                           // of epsilon(): for progress lines and metrics
  double epsilon_after(const GaussianEvent& next) const;  // of epsilon() if `next` were charged too: for the decision

 private:
  class Appender;
  using EventKey = std::tuple<double, double, Sampler, std::int64_t>;

  PrivacyLedger() = default;
  static PrivacyLedger parse(const std::filesystem::path& path, std::uint64_t* num_whole_bytes);
  void add(const LedgerEntry& entry, const std::string& line);
  bool is_planned_step(const LedgerEntry& entry) const;
  double epsilon_of_events(const std::vector<GaussianEvent>& events) const;
  double bound_of_events(const std::vector<GaussianEvent>& events) const;

  LedgerHeader header_;
  std::vector<LedgerEntry> entries_;
  std::vector<GaussianEvent> events_;  // merged
  std::unordered_set<std::string> heads_;
  std::string head_;
  std::unique_ptr<Appender> appender_;  // only in a ledger that takes charges
  mutable std::map<std::vector<EventKey>, double> known_epsilons_;
};

}  // namespace dpldm::accounting
