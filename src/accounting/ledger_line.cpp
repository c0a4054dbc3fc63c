#include "accounting/ledger_line.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "accounting/events.h"
#include "base/error.h"
#include "base/unambiguous_json.h"

namespace dpldm::accounting {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char* kFormat = "dpldm-ledger";
constexpr int kVersion = 2;

OrderedJson parse_line(const std::string& line) {
  OrderedJson json = OrderedJson::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw IoError("it is not a JSON object");
  return json;
}

// nlohmann's messages speak of types and keys, which is what the reader of a damaged ledger needs.
template <class Read>
auto reading(const Read& read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& error) {
    throw IoError(reason_of(error));
  } catch (const ConfigError& error) {
    throw IoError(error.what());
  }
}

// JSON has no infinity: null stands for it.
OrderedJson number_or_null(double value) { return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr); }
double number_or_infinity(const OrderedJson& json) {
  return json.is_null() ? std::numeric_limits<double>::infinity() : json.get<double>();
}

}  // namespace

std::string header_line(const LedgerHeader& header) {
  return OrderedJson{{"format", kFormat},
                     {"version", kVersion},
                     {"run_id", header.run_id},
                     {"num_records", header.num_records},
                     {"sampling_rate", header.sampling_rate},
                     {"expected_batch_size", header.expected_batch_size},
                     {"clip_norm", header.clip_norm},
                     {"noise_multiplier", header.noise_multiplier},
                     {"planned_steps", header.planned_steps},
                     {"target_epsilon", number_or_null(header.target_epsilon)},
                     {"delta", header.delta},
                     {"neighbouring", to_text(header.neighbouring)},
                     {"sampler", header.sampler},
                     {"accountant", to_text(header.accountant)},
                     {"mechanism", header.mechanism},
                     {"grid_steps", header.grid_steps},
                     {"key_commitment", header.key_commitment},
                     {"config_sha256", header.config_sha256},
                     {"base_model_sha256", header.base_model_sha256},
                     {"autoencoder_sha256", header.autoencoder_sha256},
                     {"latents_commitment", header.latents_commitment},
                     {"program_version", header.program_version},
                     {"private", header.is_private},
                     {"not_private_because", header.not_private_because}}
      .dump();
}

std::string entry_line(const LedgerEntry& entry, const std::string& previous_sha256) {
  OrderedJson json{{"previous", previous_sha256},
                   {"kind", entry.kind},
                   {"attempt", entry.attempt},
                   {"step", entry.step},
                   {"sampling_rate", entry.event.sampling_rate},
                   {"noise_multiplier", entry.event.noise_multiplier},
                   {"count", entry.event.count},
                   {"sampler", to_text(entry.event.sampler)}};
  if (!entry.key_commitment.empty()) json["key_commitment"] = entry.key_commitment;
  return json.dump();
}

LedgerHeader parse_header_line(const std::string& line) {
  LedgerHeader header = reading([&] {
    const OrderedJson json = parse_line(line);
    if (json.at("format") != kFormat) throw IoError("it is not a ledger's header");
    if (json.at("version") != kVersion) {
      throw IoError("it has version " + json.at("version").dump() + "; this program reads version " +
                    std::to_string(kVersion));
    }
    LedgerHeader read;
    read.run_id = json.at("run_id");
    read.num_records = json.at("num_records");
    read.sampling_rate = json.at("sampling_rate");
    read.expected_batch_size = json.at("expected_batch_size");
    read.clip_norm = json.at("clip_norm");
    read.noise_multiplier = json.at("noise_multiplier");
    read.planned_steps = json.at("planned_steps");
    read.target_epsilon = number_or_infinity(json.at("target_epsilon"));
    read.delta = json.at("delta");
    read.neighbouring = neighbouring_from(json.at("neighbouring"));
    read.sampler = json.at("sampler");
    read.accountant = accountant_from(json.at("accountant"));
    read.mechanism = json.at("mechanism");
    read.grid_steps = json.at("grid_steps");
    read.key_commitment = json.at("key_commitment");
    read.config_sha256 = json.at("config_sha256");
    read.base_model_sha256 = json.at("base_model_sha256");
    read.autoencoder_sha256 = json.at("autoencoder_sha256");
    read.latents_commitment = json.at("latents_commitment");
    read.program_version = json.at("program_version");
    read.is_private = json.at("private");
    read.not_private_because = json.at("not_private_because");
    return read;
  });
  if (header_line(header) != line) throw IoError("it is not what this program writes");
  return header;
}

LedgerEntry parse_entry_line(const std::string& line, const std::string& previous_sha256) {
  LedgerEntry entry = reading([&] {
    const OrderedJson json = parse_line(line);
    if (json.at("previous") != previous_sha256) {
      throw IoError("it does not follow on the line before it: a line was changed, removed or moved");
    }
    LedgerEntry read;
    read.kind = json.at("kind");
    read.attempt = json.at("attempt");
    read.step = json.at("step");
    read.event.sampling_rate = json.at("sampling_rate");
    read.event.noise_multiplier = json.at("noise_multiplier");
    read.event.count = json.at("count");
    read.event.sampler = sampler_from(json.at("sampler"));
    read.key_commitment = json.value("key_commitment", "");
    check_events({&read.event, 1});
    return read;
  });
  if (entry_line(entry, previous_sha256) != line) throw IoError("it is not what this program writes");
  return entry;
}

}  // namespace dpldm::accounting
