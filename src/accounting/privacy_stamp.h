// The mark that privately trained weights carry inside their own file.
//
// dp_metadata.json lies beside the weights and is easily left behind; a copy without it would look like a public model,
// from which private fine-tuning may start and whose cost no ledger would know. So the weights' safetensors header says
// it too, in __metadata__:
//
//   dpldm.privacy            "epsilon 4, delta 1e-05, add-remove", or "NOT PRIVATE: ..."
//   dpldm.statement_sha256   of the dp_metadata.json that was written with them
//
// It guards against accidents: a program that reads tensors and writes them anew (diffusers' save_pretrained) drops it.
//
// Public weights are not stamped. They may note there what the records that they were trained on were made from, since
// samples of a private model are public and have cost something:
//
//   dpldm.training_records_source   "synthetic, drawn from M (seed 0); epsilon 4, delta 1e-05, add-remove, one record"
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accounting/statement.h"

namespace dpldm::accounting {

struct PrivacyStamp {
  std::filesystem::path file;
  std::string privacy;
  std::string statement_sha256;
};

// What to write into the header of weights whose statement is `statement_text`, the content of dp_metadata.json. Throws
// ConfigError when that is not a privacy statement.
std::map<std::string, std::string> stamp_for(const std::string& statement_text);

// The same for weights in a checkpoint of a run on private records, which have no statement of their own yet.
std::map<std::string, std::string> stamp_for_checkpoint();

// What to write into the header of weights that were trained on public records made from `source`; nothing where that
// is empty.
std::map<std::string, std::string> source_note(const std::string& source);

// What the weights in `model` note of that, each text once and in alphabetical order; empty where none does. Looks
// where read_privacy_stamps does, and throws as it does.
std::string noted_sources(const std::filesystem::path& model);

// Of all safetensors files in the directory `model` and in its immediate sub-directories; reads headers only. Throws
// IoError for a file that is not safetensors.
std::vector<PrivacyStamp> read_privacy_stamps(const std::filesystem::path& model);

// Throws ConfigError, with `purpose` ("finetune starts from a public model only"), when weights in `model` are stamped,
// or when a statement in it or beside it says that the part at `model`, or something unsaid, saw private records.
void require_unstamped(const std::filesystem::path& model, const std::string& purpose);

// Throws ConfigError when weights in `model` are stamped, and the dp_metadata.json beside them is missing or is not the
// one that they were written with, or says something else than the stamp; and when its own numbers do not make the
// epsilon that it claims (claim.h), whether or not weights are stamped, and also where `model` is the directory of one
// of the model's networks. Weights without stamp and statement pass. Returns the statement that was looked at.
std::optional<Statement> require_own_statement(const std::filesystem::path& model);

// What keeps the weights of the pipeline in whose directory `statement` lies from being those that it was written for,
// by the digests in it (tensors_digest.h): a sentence, or empty. A claim without digests is told from all weights
// beside it, and so is a statement of a program that did not digest the tensors' names; what claims nothing and has no
// digests is not compared. Reads all files of weights; throws IoError when that fails, ConfigError for digests that are
// none.
std::string weights_beside_the_statement(const Statement& statement);
// The same for the model at `named`, a pipeline's directory or a network's in it; empty where it has no statement.
std::string weights_beside_the_statement(const std::filesystem::path& named);

// Whether it has digests of weights: a statement from before there were any has none, nor has one of no weights.
bool names_weights(const Statement& statement);

}  // namespace dpldm::accounting
