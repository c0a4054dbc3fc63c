#include "train/privacy_statement.h"

#include <nlohmann/json.hpp>

#include "accounting/statement.h"
#include "accounting/statement_page.h"
#include "base/atomic_file.h"
#include "model/model_directory.h"

namespace dpldm::train {
namespace {

nlohmann::json other_releases(const accounting::PrivacyLedger& ledger) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [kind, event] : ledger.other_releases()) {
    list.push_back({{"kind", kind},
                    {"sampling_rate", event.sampling_rate},
                    {"noise_multiplier", event.noise_multiplier},
                    {"count", event.count},
                    {"sampler", to_text(event.sampler)}});
  }
  return list;
}

nlohmann::json metadata_of(const StatementFacts& facts) {
  const accounting::LedgerHeader& header = facts.ledger.header();
  nlohmann::json json{
      {"format", "dpldm-privacy"},
      {"version", 1},
      {"page_format", accounting::kPageFormat},
      {"private", header.is_private},
      {"unit_of_privacy", "record"},
      {"neighbouring", to_text(header.neighbouring)},
      {"sampler", header.sampler},
      {"accountant", to_text(header.accountant)},
      {"num_records", header.num_records},
      {"expected_batch_size", header.expected_batch_size},
      {"sampling_rate", header.sampling_rate},
      {"steps", facts.ledger.num_steps()},
      {"other_releases", other_releases(facts.ledger)},
      {"steps_in_model", facts.steps_done},
      {"noise_multiplier", header.noise_multiplier},
      {"clip_norm", header.clip_norm},
      {"clipping", facts.config.clipping},
      {"clipping_text", clipping_text(facts.config)},
      {"noise_multiplicity", facts.config.noise_multiplicity},
      {"mechanism", header.mechanism},
      {"mechanism_text", mechanism_text(facts.config, facts.num_trained)},
      {"training_records", facts.latents_are_private ? "private" : "public"},
      {"delta", header.delta},
      {"trained_set", facts.config.trained_set},
      {"trained_set_text", trained_set_text(facts.config)},
      {"trained_elements", facts.num_trained},
      {"trained_parameters", facts.trained_names},
      {"class_names", facts.class_names},
      {"tensors_sha256", facts.weights},
      {"public_inputs", {{"base_unet_sha256", facts.base_unet_sha256}, {"autoencoder_sha256", facts.encoder_sha256}}},
      {"key_commitment", header.key_commitment},
      {"run_id", header.run_id},
      {"attempts", facts.ledger.next_attempt()},
      {"ledger_head", facts.ledger.head()},
      {"program_version", header.program_version},
  };
  if (!facts.base_text_encoder_sha256.empty()) {
    json["public_inputs"]["base_text_encoder_sha256"] = facts.base_text_encoder_sha256;
    json["public_inputs"]["tokenizer_sha256"] = facts.tokenizer_sha256;
  }
  if (!facts.base_source.empty()) json["public_inputs"]["base_training_records_source"] = facts.base_source;
  if (!facts.latents_are_private && !facts.latents_source.empty()) {
    json["public_inputs"]["training_records_source"] = facts.latents_source;
  }
  if (header.is_private) {
    json["epsilon"] = facts.ledger.epsilon();
    json["target_epsilon"] = header.target_epsilon;
  } else {
    json["epsilon"] = nullptr;
    json["not_private_because"] = header.not_private_because;
  }
  return json;
}

}  // namespace

std::string write_model_statement(const StatementFacts& facts) {
  make_directories(facts.run_dir / "model");
  model::write_dp_metadata(facts.run_dir / "model", metadata_of(facts));
  return accounting::read_statement(facts.run_dir / "model" / accounting::kStatementFile).text;
}

void write_statement_page(const StatementFacts& facts) {
  write_file_atomically(facts.run_dir / accounting::kStatementPage, accounting::statement_page(metadata_of(facts)));
}

}  // namespace dpldm::train
