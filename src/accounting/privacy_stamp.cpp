#include "accounting/privacy_stamp.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "accounting/claim.h"
#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/tensors_digest.h"
#include "base/unambiguous_json.h"
#include "base/watchdog.h"

namespace dpldm::accounting {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kPrivacy = "dpldm.privacy";
constexpr const char* kStatement = "dpldm.statement_sha256";
constexpr const char* kSource = "dpldm.training_records_source";
constexpr const char* kWeights = "tensors_sha256";
constexpr const char* kBytesOfWeights = "weights_sha256";  // in statements of earlier programs
constexpr const char* kNetworkConfig = "config.json";
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as in io/safetensors.cpp

// A safetensors file begins with the header's length, 8 bytes little-endian, and the header, a JSON object.
struct Header {
  std::uint64_t num_bytes = 0;
  json content;
};

Header read_header(const fs::path& file) {
  const WatchedFileCall watched("reading", file);
  const std::uint64_t file_bytes = require_regular_file(file);
  std::ifstream stream(file, std::ios::binary);
  std::uint64_t num_bytes = 0;
  stream.read(reinterpret_cast<char*>(&num_bytes), sizeof(num_bytes));
  if (!stream || num_bytes > kMaxHeaderBytes || num_bytes + sizeof(num_bytes) > file_bytes) {
    throw IoError(file.string() + " is not a safetensors file, or cannot be read");
  }
  std::string text(num_bytes, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(num_bytes));
  if (!stream) throw IoError("cannot read the header of " + file.string());
  Header header{num_bytes, {}};
  try {
    header.content = parse_unambiguous_json(text);
  } catch (const AmbiguousJson& error) {
    throw IoError(fmt::format("the header of {} {}", file.string(), error.what()));
  } catch (const json::exception&) {
    // Is no object, then. The exception's words repeat bytes of the file, which need not be text for JSON answers.
  }
  if (!header.content.is_object()) throw IoError(file.string() + " has no safetensors header");
  return header;
}

// What a file of weights says of itself; an empty object where that is nothing.
json metadata_of(const fs::path& file) {
  json metadata = read_header(file).content.value("__metadata__", json::object());
  return metadata.is_object() ? metadata : json::object();
}

std::string text_in(const json& metadata, const char* key) {
  const auto found = metadata.find(key);
  return found != metadata.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::optional<PrivacyStamp> stamp_of(const fs::path& file) {
  const json metadata = metadata_of(file);
  if (!metadata.contains(kPrivacy)) return std::nullopt;
  return PrivacyStamp{file, text_in(metadata, kPrivacy), text_in(metadata, kStatement)};
}

// The directory itself and those in it.
std::vector<fs::path> places(const fs::path& model) {
  const WatchedFileCall watched("listing", model);
  std::vector<fs::path> found{model};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(model, error)) {
    if (entry.is_directory()) found.push_back(entry.path());
  }
  return found;
}

// A claim of privacy must follow from its own numbers. What claims nothing is not looked at.
void require_true_claim(const Statement& statement) {
  const auto is_private = statement.content.find("private");
  if (is_private == statement.content.end() || *is_private != true) return;
  try {
    verified_epsilon(claim_of(statement));
  } catch (const Error& error) {
    throw ConfigError(fmt::format("{} does not hold: {}", statement.file.string(), error.what()));
  }
}

// Whether the part of a model at `named` (its own directory, or the model's for all of it) saw private records by the
// word of the model's statement. Of a model that was trained elsewhere nobody knows which part did; the statement of a
// fine-tuning names what was trained, those of a text encoder by its directory, and the rest stays as public as it was.
bool says_private(const Statement& statement, const fs::path& named) {
  const json& content = statement.content;
  const auto records = content.find("training_records");
  if (records == content.end() || *records != "private") return false;
  const auto trained = content.find("trained_parameters");
  if (trained == content.end() || !trained->is_array()) return true;
  std::error_code unknown;
  if (fs::equivalent(statement.file.parent_path(), named, unknown)) return !trained->empty();
  const auto belongs_to = [](const json& name, const std::string& component) {
    return name.is_string() && name.get<std::string>().starts_with(component + ".");
  };
  const std::string part = fs::weakly_canonical(named, unknown).filename().string();
  return std::any_of(trained->begin(), trained->end(), [&](const json& name) {
    const bool of_text_encoder = belongs_to(name, "text_encoder") || belongs_to(name, "bert");
    return part == "unet" ? !of_text_encoder : belongs_to(name, part);
  });
}

std::vector<fs::path> weights_in(const fs::path& model) {
  std::vector<fs::path> files;
  for (const fs::path& place : places(model)) {
    const WatchedFileCall watched("listing", place);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(place, error)) {
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    }
  }
  return files;
}

// As the first programs wrote bounds into headers.
std::string nearest_to_digits(double bound, int num_digits) { return fmt::format("{:.{}g}", bound, num_digits); }

// What weights are stamped with whose statement this is, with numbers as `to_digits` writes them.
std::string stamped_claim(const json& statement, std::string (*to_digits)(double, int) = up_to_digits) {
  try {
    if (!statement.at("private").get<bool>()) {
      return "NOT PRIVATE: " + statement.at("not_private_because").get<std::string>();
    }
    return fmt::format("epsilon {}, delta {}, {}", to_digits(statement.at("epsilon").get<double>(), 6),
                       to_digits(statement.at("delta").get<double>(), 3),
                       statement.at("neighbouring").get<std::string>());
  } catch (const json::exception& error) {
    throw ConfigError("this is not a privacy statement: " + reason_of(error));
  }
}

// As tensors_digest.h defines it.
std::string sha256_of_tensors(const fs::path& file) {
  const Header header = read_header(file);
  Sha256 digest = digest_of_tensors(header.content);
  add_file(digest, file, header.num_bytes + sizeof(std::uint64_t));
  return digest.finish();
}

}  // namespace

std::map<std::string, std::string> stamp_for_checkpoint() {
  return {{kPrivacy, "a checkpoint of a run on private records; its ledger.jsonl says what was spent"}};
}

std::map<std::string, std::string> stamp_for(const std::string& statement_text) {
  const json statement = json::parse(statement_text, nullptr, /*allow_exceptions=*/false);
  return {{kPrivacy, stamped_claim(statement)}, {kStatement, sha256_of(statement_text)}};
}

std::map<std::string, std::string> source_note(const std::string& source) {
  if (source.empty()) return {};
  return {{kSource, source}};
}

std::string noted_sources(const fs::path& model) {
  std::set<std::string> sources;
  for (const fs::path& file : weights_in(model)) sources.insert(text_in(metadata_of(file), kSource));
  sources.erase("");
  return fmt::format("{}", fmt::join(sources, "; and "));
}

std::vector<PrivacyStamp> read_privacy_stamps(const fs::path& model) {
  std::vector<PrivacyStamp> stamps;
  for (const fs::path& file : weights_in(model)) {
    if (auto stamp = stamp_of(file)) stamps.push_back(std::move(*stamp));
  }
  return stamps;
}

void require_unstamped(const fs::path& model, const std::string& purpose) {
  const std::vector<PrivacyStamp> stamps = read_privacy_stamps(model);
  const std::optional<Statement> statement = statement_of(model);
  if (statement && says_private(*statement, model)) {
    throw ConfigError(
        fmt::format("{} says that {} saw private records; {}", statement->file.string(), model.string(), purpose));
  }
  if (stamps.empty()) return;
  throw ConfigError(fmt::format("{} holds weights that were trained on private records ({}); {}",
                                stamps.front().file.string(), stamps.front().privacy, purpose));
}

std::optional<Statement> require_own_statement(const fs::path& model) {
  const std::vector<PrivacyStamp> stamps = read_privacy_stamps(model);
  std::optional<Statement> statement = statement_of(model);
  if (stamps.empty()) {
    // One that lies above is told with the model only where that is a network's own directory in a pipeline.
    const bool is_of_it =
        statement && (statement->file == model / kStatementFile || path_exists(model / kNetworkConfig));
    if (is_of_it) require_true_claim(*statement);
    return statement;
  }
  if (!statement) {
    throw ConfigError(fmt::format("{} says '{}', but the dp_metadata.json that belongs to it is missing in {}",
                                  stamps.front().file.string(), stamps.front().privacy, model.string()));
  }
  const std::string digest = sha256_of(statement->text);
  for (const PrivacyStamp& stamp : stamps) {
    if (stamp.statement_sha256 != digest) {
      throw ConfigError(
          fmt::format("the dp_metadata.json of {} is not the one that {} was written with, which said '{}'",
                      model.string(), stamp.file.string(), stamp.privacy));
    }
    const std::string claim = stamped_claim(statement->content);
    if (stamp.privacy != claim && stamp.privacy != stamped_claim(statement->content, nearest_to_digits)) {
      throw ConfigError(fmt::format("{} says '{}' of itself, but its statement {} says '{}'", stamp.file.string(),
                                    stamp.privacy, statement->file.string(), claim));
    }
  }
  require_true_claim(*statement);
  return statement;
}

bool names_weights(const Statement& statement) {
  const auto digests = statement.content.find(kWeights);
  return digests != statement.content.end() && !digests->empty();
}

std::string weights_beside_the_statement(const fs::path& named) {
  const std::optional<Statement> statement = statement_of(named);
  return statement ? weights_beside_the_statement(*statement) : "";
}

std::string weights_beside_the_statement(const Statement& statement) {
  if (!statement.content.contains(kWeights)) {
    if (!statement.content.contains(kBytesOfWeights)) {
      const auto is_private = statement.content.find("private");
      const bool claims = is_private != statement.content.end() && *is_private == true;
      if (!claims || weights_in(statement.file.parent_path()).empty()) return "";
      return statement.file.string() + " does not say which weights its claim is about";
    }
    return fmt::format(
        "{} was written by an earlier version of dpldm, whose {} does not tell which of these weights has which name "
        "(`dpldm finetune --resume` of the run writes both anew)",
        statement.file.string(), kBytesOfWeights);
  }
  const fs::path model = statement.file.parent_path();
  std::map<std::string, std::string> digests;
  try {
    digests = statement.content.at(kWeights).get<std::map<std::string, std::string>>();
  } catch (const json::exception& error) {
    throw ConfigError(
        fmt::format("{}: {} is not a digest for each file: {}", statement.file.string(), kWeights, reason_of(error)));
  }
  for (const fs::path& file : weights_in(model)) {
    const std::string name = fs::proximate(file, model).generic_string();
    const auto digest = digests.find(name);
    if (digest == digests.end()) {
      return fmt::format("{} is not among the weights that {} names", file.string(), statement.file.string());
    }
    if (digest->second != sha256_of_tensors(file)) {
      return fmt::format("{} does not hold the weights that {} was written for", file.string(),
                         statement.file.string());
    }
    digests.erase(digest);
  }
  if (digests.empty()) return "";
  return fmt::format("{} names weights that are not there: {}", statement.file.string(), digests.begin()->first);
}

}  // namespace dpldm::accounting
