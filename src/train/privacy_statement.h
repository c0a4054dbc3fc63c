// What is released about privacy: dp_metadata.json in the model, privacy_statement.md in the run directory.
//
// Both are made from the ledger, so they say what was spent, not what was planned. Nothing in them depends on the
// private records: not even a hash of the data, which would let anyone test a guess of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "accounting/ledger.h"
#include "config/training_config.h"
#include "train/privacy_plan.h"

namespace dpldm::train {

struct StatementFacts {
  const std::filesystem::path& run_dir;
  const accounting::PrivacyLedger& ledger;
  const PrivacyPlan& plan;
  const config::FinetuneConfig& config;
  std::int64_t steps_done;
  std::vector<std::string> trained_names;
  std::int64_t num_trained;
  const std::string& base_unet_sha256;
  const std::string& base_text_encoder_sha256;  // empty without one
  const std::string& tokenizer_sha256;          // of the captions; what it says without a text encoder is left out
  const std::string& base_source;               // accounting::noted_sources
  const std::string& encoder_sha256;
  const std::vector<std::string>& class_names;
  bool latents_are_private;           // as the file says; a run on public ones is accounted for all the same
  const std::string& latents_source;  // of public ones; that of private ones is as private as they are
  const std::map<std::string, std::string>& weights;  // model::weights_to_be_written
};

// <run_dir>/model/dp_metadata.json, to be written before the model's weights. Returns its text. Throws IoError.
std::string write_model_statement(const StatementFacts& facts);
// <run_dir>/privacy_statement.md, the last file of a finished run. Throws IoError.
void write_statement_page(const StatementFacts& facts);

}  // namespace dpldm::train
