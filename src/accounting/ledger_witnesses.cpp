#include "accounting/ledger_witnesses.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "accounting/checkpoint_name.h"
#include "accounting/statement.h"
#include "accounting/statement_page.h"
#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/log.h"
#include "base/unambiguous_json.h"
#include "base/watchdog.h"
#include "base/words.h"

namespace dpldm::accounting {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 26;

std::string text_at(const Json& place, const char* key) {
  const auto found = place.find(key);
  return found != place.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// What witnesses saw of a ledger.
struct Testimony {
  struct Line {
    std::string head;
    std::string witness;
  };
  struct Steps {
    std::int64_t count;
    std::string witness;
  };
  std::vector<Line> lines;
  std::vector<Steps> steps;
  Json statement;  // of the model; null where there is none
};

void require_line(const PrivacyLedger& ledger, const std::string& head, const std::string& witness) {
  if (!head.empty() && !ledger.contains_head(head)) {
    throw IoError(fmt::format("the ledger lacks a line that {} had seen: it was cut off or replaced", witness));
  }
}

void compare_with_statement(const PrivacyLedger& ledger, const Json& statement) {
  if (statement.is_null()) return;
  require_line(ledger, text_at(statement, "ledger_head"), "the statement in model/");
  const auto is_private = statement.find("private");
  if (is_private != statement.end() && *is_private == true && !ledger.header().is_private) {
    throw IoError("the statement in model/ claims privacy, but the ledger says NOT PRIVATE");
  }
  // An older statement may say less than a ledger that went on; one that knows the last line may not.
  const double spent = ledger.epsilon();
  if (ledger.header().is_private && text_at(statement, "ledger_head") == ledger.head() &&
      statement.contains("epsilon") &&
      !(statement["epsilon"].is_number() && statement["epsilon"].get<double>() >= spent * (1 - 1e-6))) {
    throw IoError(fmt::format("the statement in model/ claims epsilon {}, but the ledger makes {}",
                              statement["epsilon"].dump(), spent));
  }
}

void compare(const PrivacyLedger& ledger, const Testimony& testimony) {
  for (const Testimony::Line& line : testimony.lines) require_line(ledger, line.head, line.witness);
  compare_with_statement(ledger, testimony.statement);
  for (const Testimony::Steps& steps : testimony.steps) {
    if (steps.count > ledger.num_steps()) {
      throw IoError(fmt::format("the ledger has {}, but {}: its end was cut off or replaced",
                                counted(ledger.num_steps(), "step"), steps.witness));
    }
  }
}

void hear_statement(const fs::path& run_dir, Testimony& testimony) {
  const fs::path statement = run_dir / "model" / kStatementFile;
  if (!path_exists(statement)) return;
  try {
    testimony.statement = read_statement(statement).content;
  } catch (const ConfigError& error) {
    throw IoError(error.what());
  }
}

// The page has the number of the steps that were charged when its run ended.
void hear_page(const fs::path& run_dir, Testimony& testimony) {
  const fs::path page = run_dir / kStatementPage;
  if (!path_exists(page)) return;
  if (const auto steps = steps_on_page(page)) {
    testimony.steps.push_back(
        {*steps, fmt::format("{} says that {} were charged", kStatementPage, counted(*steps, "step"))});
  } else {
    spdlog::warn("{} does not say how many steps were charged, so what it had seen of the ledger cannot be compared",
                 page.string());
  }
}

// What the manifest says, if that is what was written; an empty object otherwise, with a warning.
Json whole_manifest(const fs::path& path) {
  std::string damage = "its own SHA-256 does not match";
  try {
    Json manifest = Json::parse(read_file(path, kMaxManifestBytes));
    if (manifest.at("sha256") == manifest_digest(manifest)) return manifest;
  } catch (const IoError& error) {
    damage = error.what();
  } catch (const Json::exception& error) {
    damage = reason_of(error);
  }
  spdlog::warn("{} is damaged, so what it had seen of the ledger cannot be compared: {}", path.string(), damage);
  return Json::object();
}

void hear_checkpoints(const fs::path& run_dir, Testimony& testimony) {
  const fs::path checkpoints = run_dir / "checkpoints";
  const WatchedFileCall watched("reading", checkpoints);
  if (!fs::is_directory(checkpoints)) return;
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    const fs::path path = entry.path() / "manifest.json";
    std::error_code unknown;
    if (!fs::exists(path, unknown) && !unknown) {
      // A checkpoint gets its manifest last, and its own name after that.
      const auto name = checkpoint_name_from(entry.path().filename().string());
      if (name && name->suffix.empty()) {
        spdlog::warn("the checkpoint {} has no manifest.json, so what it had seen of the ledger cannot be compared",
                     entry.path().string());
      }
      continue;
    }
    const Json manifest = whole_manifest(path);
    for (const Json& place : {manifest, manifest.value("extra", Json::object())}) {
      if (!place.is_object()) continue;
      testimony.lines.push_back({text_at(place, "ledger_head"), "checkpoint " + entry.path().filename().string()});
    }
  }
}

// The name says how many steps were charged, also where nothing in it can be read, or it was never finished.
void hear_names_of_checkpoints(const fs::path& run_dir, Testimony& testimony) {
  const fs::path checkpoints = run_dir / "checkpoints";
  const WatchedFileCall watched("listing", checkpoints);
  if (!fs::is_directory(checkpoints)) return;
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    const std::string name = entry.path().filename().string();
    const auto checkpoint = checkpoint_name_from(name);
    if (checkpoint) testimony.steps.push_back({checkpoint->step, "there is a checkpoint " + name});
  }
}

// metrics.jsonl gets a step's line when the step has been charged, released and taken, so the ledger has at least as
// many steps as any of its lines says. The last ones are enough, of which a crash may have cut one short.
void hear_metrics(const fs::path& run_dir, Testimony& testimony) {
  constexpr std::streamoff kTailBytes = 1 << 16;
  const fs::path path = run_dir / "metrics.jsonl";
  if (!path_exists(path)) return;
  require_regular_file(path);
  const WatchedFileCall watched("reading", path);
  std::ifstream stream(path, std::ios::binary);
  stream.seekg(0, std::ios::end);
  stream.seekg(std::max<std::streamoff>(0, static_cast<std::streamoff>(stream.tellg()) - kTailBytes));
  if (!stream) throw IoError("cannot read " + path.string());
  for (std::string line; std::getline(stream, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    const auto step = json["step"].get<std::int64_t>();
    testimony.steps.push_back({step, fmt::format("metrics.jsonl knows of step {}", step)});
  }
}

Testimony heard_in(const fs::path& run_dir) {
  Testimony testimony;
  hear_checkpoints(run_dir, testimony);
  hear_statement(run_dir, testimony);
  hear_page(run_dir, testimony);
  hear_names_of_checkpoints(run_dir, testimony);
  hear_metrics(run_dir, testimony);
  return testimony;
}

}  // namespace

std::string manifest_digest(Json manifest) {
  manifest.erase("sha256");
  return sha256_of(manifest.dump());  // json keeps keys sorted, so the text is canonical
}

void require_nothing_lost(const PrivacyLedger& ledger, const fs::path& run_dir) { compare(ledger, heard_in(run_dir)); }

PrivacyLedger read_with_nothing_lost(const fs::path& path, const fs::path& run_dir) {
  const Testimony testimony = heard_in(run_dir);
  PrivacyLedger ledger = PrivacyLedger::read(path);
  compare(ledger, testimony);
  return ledger;
}

}  // namespace dpldm::accounting
