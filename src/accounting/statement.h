// The privacy statement that goes with a released model: what is promised, and every number that is needed to check it.
//
// dp_metadata.json holds it for programs, privacy_statement.md for people. Anyone can recompute epsilon from the file
// alone.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/ledger.h"

namespace dpldm::accounting {

struct PublicInput {
  std::string name;  // "pre-trained model", "autoencoder"
  std::string sha256;
};

struct PrivacyStatement {
  bool is_private = false;
  std::string not_private_because;  // empty in a private one
  double epsilon = 0;               // meaningless when not private
  double delta = 0;
  Neighbouring neighbouring = Neighbouring::kAddRemove;
  std::string unit_of_privacy = "one record (one image with its label or caption)";
  std::string sampler = "poisson";
  AccountantKind accountant = AccountantKind::kPld;
  std::string accountant_version;
  double noise_multiplier = 0;
  double sampling_rate = 0;
  std::int64_t steps = 0;  // charged, also those that a crash lost
  std::int64_t num_records = 0;
  double expected_batch_size = 0;
  double clip_norm = 0;
  std::int64_t noise_multiplicity = 1;
  std::string trained_set;
  std::vector<PublicInput> public_inputs;
  std::vector<GaussianEvent> events;  // everything that was charged; epsilon follows from these
  std::string run_id;
  std::string ledger_head;
};

// All that a ledger knows. The caller adds noise_multiplicity, trained_set and public_inputs.
PrivacyStatement statement_from(const PrivacyLedger& ledger);

// dp_metadata.json. `epsilon` is null when the run is not private.
std::string statement_json(const PrivacyStatement& statement);
// privacy_statement.md.
std::string statement_page(const PrivacyStatement& statement);

// Reads dp_metadata.json; keys that only describe may be absent, keys that the claim rests on may not. Throws IoError
// when the file cannot be read and ConfigError when it is not a statement.
PrivacyStatement read_statement(const std::filesystem::path& path);

// Epsilon from the statement's own numbers. Throws ConfigError with what disagrees: an epsilon that is not the one that
// follows from the events, events that are not the stated steps, an expected batch that is not rate times records, an
// epsilon claimed by a run that is not private, noise 0 in one that is.
double verified_epsilon(const PrivacyStatement& statement);

}  // namespace dpldm::accounting
