#include "train/privacy_ledger.h"

#include <array>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <sodium.h>
#include <sys/stat.h>

#include "base/atomic_file.h"
#include "base/build_facts.h"
#include "base/error.h"
#include "base/log.h"
#include "base/watchdog.h"
#include "dp/lattice_sum.h"

namespace dpldm::train {
namespace {

constexpr std::size_t kOpeningBytes = 32;

std::filesystem::path head_of(const std::filesystem::path& ledger) { return ledger.string() + ".head"; }

std::string hexadecimal(const std::array<std::uint8_t, kOpeningBytes>& bytes) {
  std::string text(2 * bytes.size() + 1, '\0');
  sodium_bin2hex(text.data(), text.size(), bytes.data(), bytes.size());
  text.pop_back();
  return text;
}

// Keyed BLAKE2b of the latents' hash under the opening.
std::string commitment_to(const std::string& latents_sha256, const std::string& opening) {
  std::array<std::uint8_t, kOpeningBytes> key{};
  std::size_t length = 0;
  if (sodium_hex2bin(key.data(), key.size(), opening.data(), opening.size(), nullptr, &length, nullptr) != 0 ||
      length != key.size()) {
    throw IoError("latents.opening does not hold 64 hexadecimal digits");
  }
  std::array<std::uint8_t, kOpeningBytes> digest{};
  crypto_generichash(digest.data(), digest.size(), reinterpret_cast<const std::uint8_t*>(latents_sha256.data()),
                     latents_sha256.size(), key.data(), key.size());
  return hexadecimal(digest);
}

std::string write_new_opening(const std::filesystem::path& path) {
  std::array<std::uint8_t, kOpeningBytes> bytes{};
  if (sodium_init() < 0) throw InternalError("libsodium could not be initialised");
  randombytes_buf(bytes.data(), bytes.size());
  std::string opening = hexadecimal(bytes);
  const mode_t mask = ::umask(S_IRWXG | S_IRWXO);  // for its owner alone, from the first moment
  try {
    write_file_atomically(path, opening);
  } catch (...) {
    ::umask(mask);
    throw;
  }
  ::umask(mask);
  return opening;
}

// A run that claims nothing has no budget either, whatever the configuration says.
double target_of(const config::FinetuneConfig& config, const PrivacyPlan& plan) {
  return plan.is_private ? config.epsilon : std::numeric_limits<double>::infinity();
}

// Something that a run leaves in its directory only once its ledger is made, beside the ledger itself; empty where
// there is nothing of the kind.
std::string trace_of_a_ledger(const std::filesystem::path& run_dir) {
  const WatchedFileCall watched("listing", run_dir);
  std::string trace;
  std::error_code error;
  std::filesystem::directory_iterator entry(run_dir, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool tells = name == "checkpoints" || name == "model" || name == "metrics.jsonl" ||
                       name == "privacy_statement.md" || name == "report.html" ||
                       name.starts_with("events.out.tfevents.");
    if (tells) trace = name;
  }
  if (error) throw IoError(fmt::format("cannot list {}: {}", run_dir.string(), error.message()));
  return trace;
}

accounting::PrivacyLedger create(const config::FinetuneConfig& config, const PrivacyPlan& plan,
                                 const LedgerIdentity& identity, const LedgerOptions& options) {
  const std::filesystem::path path = options.run_dir / "ledger.jsonl";
  if (path_exists(path)) throw IoError(path.string() + " exists already; a new run needs a new ledger");
  // Steps were spent here whose ledger is gone; a new one beside them would not count them.
  std::string leftover = trace_of_a_ledger(options.run_dir);
  if (leftover.empty() && path_exists(head_of(path))) leftover = "ledger.jsonl.head";
  if (!leftover.empty()) {
    throw IoError(
        fmt::format("{} holds the {} of a run whose ledger is missing; a new run needs a directory of its own",
                    options.run_dir.string(), leftover));
  }
  const std::string opening = write_new_opening(options.run_dir / "latents.opening");
  const bool lattice = config.mechanism == "lattice";
  return accounting::PrivacyLedger::create(path,
                                           {.run_id = options.key_commitment.substr(0, 16),
                                            .num_records = plan.num_records,
                                            .sampling_rate = plan.sampling_rate,
                                            .expected_batch_size = static_cast<double>(config.expected_batch_size),
                                            .clip_norm = config.clip_norm,
                                            .noise_multiplier = plan.noise_multiplier,
                                            .planned_steps = config.steps,
                                            .target_epsilon = target_of(config, plan),
                                            .delta = plan.delta,
                                            .neighbouring = plan.neighbouring,
                                            .sampler = "poisson",
                                            .accountant = plan.accountant,
                                            .mechanism = config.mechanism,
                                            .grid_steps = lattice ? dp::LatticeSum::kGridSteps : 0,
                                            .key_commitment = options.key_commitment,
                                            .config_sha256 = identity.config_sha256,
                                            .base_model_sha256 = identity.base_unet_sha256,
                                            .autoencoder_sha256 = identity.encoder_sha256,
                                            .latents_commitment = commitment_to(identity.latents_sha256, opening),
                                            .program_version = program_version(),
                                            .is_private = plan.is_private,
                                            .not_private_because = plan.not_private_because});
}

// The first privacy setting in which the run of a ledger differs from this one; empty where none does.
std::string difference_in_privacy(const accounting::LedgerHeader& header, const config::FinetuneConfig& config,
                                  const PrivacyPlan& plan) {
  std::string difference;
  const auto compare = [&difference](const char* setting, const auto& before, const auto& now) {
    if (difference.empty() && before != now) difference = fmt::format("{} was {}, and is {}", setting, before, now);
  };
  compare("the number of records", header.num_records, plan.num_records);
  compare("the sampling rate", header.sampling_rate, plan.sampling_rate);
  compare("training.steps", header.planned_steps, config.steps);
  compare("privacy.delta", header.delta, plan.delta);
  compare("privacy.clip_norm", header.clip_norm, config.clip_norm);
  compare("privacy.neighbouring", to_text(header.neighbouring), to_text(plan.neighbouring));
  compare("privacy.accountant", to_text(header.accountant), to_text(plan.accountant));
  compare("privacy.mechanism", header.mechanism, config.mechanism);
  compare("whether it is private", header.is_private, plan.is_private);
  compare("privacy.epsilon", header.target_epsilon, target_of(config, plan));
  compare("the noise multiplier", header.noise_multiplier, plan.noise_multiplier);
  return difference;
}

accounting::PrivacyLedger reopen(const config::FinetuneConfig& config, const PrivacyPlan& plan,
                                 const LedgerIdentity& identity, const LedgerOptions& options) {
  const std::filesystem::path path = options.run_dir / "ledger.jsonl";
  accounting::PrivacyLedger ledger = accounting::PrivacyLedger::open(path);
  const accounting::LedgerHeader& header = ledger.header();
  if (const std::string difference = difference_in_privacy(header, config, plan); !difference.empty()) {
    throw ConfigError(path.string() + " is of a run with other privacy settings: " + difference +
                      "; resume with the configuration that started it");
  }
  // Compared here too, because a run that was stopped before its first checkpoint has nothing else that remembers it.
  if (header.config_sha256 != identity.config_sha256) {
    throw ConfigError(path.string() +
                      " is of another configuration; resume with the one in config.yaml of the run directory, "
                      "unchanged");
  }
  if (header.base_model_sha256 != identity.base_unet_sha256 || header.autoencoder_sha256 != identity.encoder_sha256) {
    throw ConfigError(path.string() + " is of a run from another model than " + config.model);
  }
  const std::string opening = read_file(options.run_dir / "latents.opening", 2 * kOpeningBytes);
  if (header.latents_commitment != commitment_to(identity.latents_sha256, opening)) {
    throw ConfigError(path.string() + " is of a run on other latents than " + config.latents +
                      "; a resumed run must go on with the records that it began with");
  }
  return ledger;
}

// A run that was ended before it had a ledger has spent nothing, and whoever resumes it cannot know. But where anything
// tells of a ledger, one that is gone or empty was lost.
accounting::PrivacyLedger resume(const config::FinetuneConfig& config, const PrivacyPlan& plan,
                                 const LedgerIdentity& identity, const LedgerOptions& options) {
  const std::filesystem::path path = options.run_dir / "ledger.jsonl";
  if (!trace_of_a_ledger(options.run_dir).empty() || !accounting::PrivacyLedger::was_never_made(path)) {
    return reopen(config, plan, identity, options);
  }
  spdlog::warn("{} is of a run that was ended before it had a ledger; nothing was spent, and it begins anew",
               options.run_dir.string());
  for (const std::filesystem::path& unfinished : {path, head_of(path)}) {
    std::error_code error;
    std::filesystem::remove(unfinished, error);
    if (error) throw IoError("cannot remove " + unfinished.string() + ": " + error.message());
  }
  write_file_atomically(options.run_dir / "config.yaml", config::FinetuneConfig(config).schema().dump());
  return create(config, plan, identity, options);
}

}  // namespace

std::optional<accounting::PrivacyLedger> open_run_ledger(const config::FinetuneConfig& config, const PrivacyPlan& plan,
                                                         const LedgerIdentity& identity, const LedgerOptions& options,
                                                         comm::Communicator& comm) {
  std::optional<accounting::PrivacyLedger> ledger;
  comm::run_on_root(comm, [&] {
    ledger = options.resume ? resume(config, plan, identity, options) : create(config, plan, identity, options);
  });
  return ledger;
}

}  // namespace dpldm::train
