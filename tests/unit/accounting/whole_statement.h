// A statement as `finetune` writes it, with all that its page says.
#pragma once

#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/statement_page.h"
#include "base/build_facts.h"

namespace dpldm::accounting::test {

inline nlohmann::json whole_statement() {
  const GaussianEvent event{.01, 1.0, 1000};
  return {{"format", "dpldm-privacy"},
          {"version", 1},
          {"page_format", kPageFormat},
          {"private", true},
          {"epsilon", epsilon_of({&event, 1}, 1e-5, AccountantKind::kPld)},
          {"delta", 1e-5},
          {"neighbouring", "add-remove"},
          {"sampler", "poisson"},
          {"accountant", "pld"},
          {"training_records", "private"},
          {"num_records", 50000},
          {"expected_batch_size", 500},
          {"sampling_rate", .01},
          {"steps", 1000},
          {"other_releases", nlohmann::json::array()},
          {"noise_multiplier", 1.0},
          {"clip_norm", .1},
          {"clipping", "flat"},
          {"clipping_text", "flat: each record's whole gradient to C = 0.1"},
          {"noise_multiplicity", 4},
          {"mechanism", "float"},
          {"mechanism_text", "float: sums and noise in floating point"},
          {"program_version", program_version()},
          {"trained_elements", 7},
          {"trained_set_text", "attention"},
          {"public_inputs", {{"base_unet_sha256", "aa"}, {"autoencoder_sha256", "bb"}}},
          {"tensors_sha256", nlohmann::json::object()},
          {"key_commitment", "cc"}};
}

}  // namespace dpldm::accounting::test
