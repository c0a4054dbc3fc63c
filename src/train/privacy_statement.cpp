#include "train/privacy_statement.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/bound_text.h"
#include "base/atomic_file.h"
#include "base/build_facts.h"
#include "model/model_directory.h"

namespace dpldm::train {
namespace {

constexpr std::size_t kMaxStatementBytes = std::size_t{1} << 24;

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
      {"weights_sha256", facts.weights},
      {"public_inputs", {{"base_unet_sha256", facts.base_unet_sha256}, {"autoencoder_sha256", facts.encoder_sha256}}},
      {"key_commitment", header.key_commitment},
      {"run_id", header.run_id},
      {"attempts", facts.ledger.next_attempt()},
      {"ledger_head", facts.ledger.head()},
      {"program_version", header.program_version},
  };
  if (!facts.base_text_encoder_sha256.empty()) {
    json["public_inputs"]["base_text_encoder_sha256"] = facts.base_text_encoder_sha256;
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

// Of the default mechanism; the lattice has no such gap.
constexpr const char* kFloatingPoint =
    "- Rounding. The bound is that of real numbers; sums and noise were made in floating point, whose sums are a "
    "little "
    "off (one part in 10^7 an\n"
    "  addition) and whose low bits can in principle tell about what was summed. `privacy.mechanism: lattice` closes "
    "this.\n";

// What the two data sets are between which an adversary cannot tell.
std::string relation_text(const std::string& neighbouring) {
  if (neighbouring == "add-remove") return "add-remove: with one record more, or one less";
  if (neighbouring == "zero-out") return "zero-out: with one record replaced by one that has no effect";
  return "replace-one: with one record replaced by any other";
}

std::string page_of(const nlohmann::json& json) {
  std::string page = "# Privacy statement\n\n";
  if (json["private"].get<bool>()) {
    page += fmt::format(
        "The model in `model/`, and every model of the steps before it, is the output of a mechanism that is "
        "**({}, {})-differentially private**\n"
        "for each record of the {}, under the {} relation.\n\n",
        accounting::up_to_decimals(json["epsilon"].get<double>(), 4),
        accounting::up_to_digits(json["delta"].get<double>(), 3),
        json["training_records"] == "private" ? "private training set"
                                              : "training set (a file that is marked public; the bound holds for it "
                                                "all the same)",
        json["neighbouring"].get<std::string>());
  } else {
    page += fmt::format("**NOT PRIVATE**: {}. Nothing of this run may be released as protected.\n\n",
                        json["not_private_because"].get<std::string>());
  }
  page += "| what | value |\n| --- | --- |\n";
  const auto row = [&](const std::string& what, const std::string& value) {
    page += fmt::format("| {} | {} |\n", what, value);
  };
  row("unit of privacy",
      "one record (an image with its label or caption); a person with several records has less protection");
  row("neighbouring relation", relation_text(json["neighbouring"]));
  row("records N", json["num_records"].dump());
  row("expected batch q N", json["expected_batch_size"].dump());
  row("sampling", fmt::format("Poisson, rate q = {}", json["sampling_rate"].dump()));
  row("steps charged T", json["steps"].dump());
  for (const nlohmann::json& release : json["other_releases"]) {
    row("further release", fmt::format("{}: {} times, sigma {}, sampler {}, q = {}", release["kind"].get<std::string>(),
                                       release["count"].dump(), release["noise_multiplier"].dump(),
                                       release["sampler"].get<std::string>(), release["sampling_rate"].dump()));
  }
  row("noise multiplier sigma", json["noise_multiplier"].dump());
  row("clipping", json["clipping_text"].get<std::string>());
  row("draws per record K", json["noise_multiplicity"].dump() + " (averaged before the clip)");
  row("mechanism", json["mechanism_text"].get<std::string>());
  row("accountant",
      fmt::format("{}, dpldm {}", json["accountant"].get<std::string>(), json["program_version"].get<std::string>()));
  row("trained",
      fmt::format("{} elements, set {}", json["trained_elements"].dump(), json["trained_set_text"].get<std::string>()));
  row("public U-Net (SHA-256)", json["public_inputs"]["base_unet_sha256"].get<std::string>());
  if (json["public_inputs"].contains("base_text_encoder_sha256")) {
    row("public text encoder (SHA-256)", json["public_inputs"]["base_text_encoder_sha256"].get<std::string>());
  }
  row("public autoencoder (SHA-256)", json["public_inputs"]["autoencoder_sha256"].get<std::string>());
  for (const auto& [file, digest] : json["weights_sha256"].items()) {
    row(fmt::format("this model's `{}`, after its header (SHA-256)", file), digest.get<std::string>());
  }
  row("commitment to the key", json["key_commitment"].get<std::string>());
  page +=
      "\n## What the number covers, and against whom\n\n"
      "Everything that is computed from the released weights: the model itself, its samples, and any later training on "
      "them. An adversary may\n"
      "know all other records, all public inputs, this page, and every intermediate model. He is not one of those who "
      "ran "
      "the job: the machines,\n"
      "their network and the private files are trusted (central differential privacy).\n\n"
      "## What it does not cover\n\n"
      "- Choices made by looking at the private records or at a held-out real set: learning rate, number of steps, "
      "clip norm, what to release.\n"
      "- Other runs on the same records. Each has its own statement, and their costs add up.\n"
      "- What the public inputs cost: where the base model was trained on samples of a model that had seen the same "
      "records, that\n"
      "  model's epsilon comes on top, and nothing here knows of it.\n"
      "- The number of records N, the names of the classes and the image size, which are treated as public.\n";
  if (json["mechanism"] == "float") page += kFloatingPoint;
  page +=
      "- The machines that ran the job: whoever can read their memory, their network or the private files has the "
      "records. Step times depend on\n"
      "  how many records were selected; do not publish logs with time stamps of single steps.\n"
      "- The times at which files of this directory were written, and those in metrics, for the same reason: copy "
      "files without their time\n"
      "  stamps (`cp`, not `cp -p`).\n"
      "- `checkpoints/`, `metrics.jsonl` and `ledger.jsonl` hold nothing beyond what the released models reveal. The "
      "latent file is private data,\n"
      "  and `latents.opening` would let a reader of the ledger test guesses of it: keep both.\n\n"
      "`dpldm privacy verify model` recomputes epsilon from these numbers; `dpldm privacy ledger .` from the ledger.\n";
  return page;
}

}  // namespace

std::string write_model_statement(const StatementFacts& facts) {
  make_directories(facts.run_dir / "model");
  model::write_dp_metadata(facts.run_dir / "model", metadata_of(facts));
  return read_file(facts.run_dir / "model" / "dp_metadata.json", kMaxStatementBytes);
}

void write_statement_page(const StatementFacts& facts) {
  write_file_atomically(facts.run_dir / "privacy_statement.md", page_of(metadata_of(facts)));
}

}  // namespace dpldm::train
