// The privacy claim of a released model, as its dp_metadata.json states it, and whether its own numbers bear it out.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "accounting/accountant.h"
#include "accounting/statement.h"

namespace dpldm::accounting {

struct PrivacyClaim {
  bool is_private = false;
  std::optional<double> epsilon;  // none in a model that claims nothing
  bool has_numbers = true;        // false where the file states none of what follows either
  double delta = 0;
  Neighbouring neighbouring = Neighbouring::kAddRemove;
  Sampler sampler = Sampler::kPoisson;
  AccountantKind accountant = AccountantKind::kPld;
  double noise_multiplier = 0;
  double sampling_rate = 0;
  std::int64_t steps = 0;
  std::int64_t steps_in_model = 0;  // optional in the file
  std::string clipping;             // "flat", "automatic", "per-group"; empty when the file does not say
  std::int64_t num_records = 0;
  std::int64_t trained_elements = 0;  // 0 when the file does not say
  double expected_batch_size = 0;
  // Further releases from the same records. In the file: `other_releases`, a list of objects with sampling_rate,
  // noise_multiplier, count and sampler; absent where there are none.
  std::vector<GaussianEvent> other_releases;
};

// Reads the keys above. Others only describe; of these, the ones that the page for people repeats (statement_page.h)
// must be what a run of this program can have, and must not contradict each other. Throws ConfigError when a key is
// missing or is not what it should be.
PrivacyClaim claim_of(const Statement& statement);
// The same of the statement in a file; throws as read_statement does, too.
PrivacyClaim read_claim(const std::filesystem::path& dp_metadata);

// Epsilon from the claim's own numbers; none when it claims nothing. Throws ConfigError with what disagrees: an epsilon
// other than the one that follows, an expected batch that is not rate times records, more steps in the model than were
// charged, a kind of clipping that is not known to bound a record, no records, an epsilon claimed by a run that is not
// private, privacy claimed without a finite epsilon, a delta below what the ends of the noise add to it.
std::optional<double> verified_epsilon(const PrivacyClaim& claim);

// What the ends of the noise add to the claim's delta (noise_tails.h): for as many elements as were trained, at least
// two; 0 for a claim that claims nothing.
double delta_of_tails(const PrivacyClaim& claim);

}  // namespace dpldm::accounting
