#include "accounting/statement_page.h"

#include <algorithm>
#include <charconv>
#include <sstream>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/bound_text.h"
#include "accounting/noise_tails.h"
#include "base/atomic_file.h"
#include "base/error.h"
#include "base/unambiguous_json.h"
#include "base/words.h"

namespace dpldm::accounting {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxPageBytes = std::size_t{1} << 24;
constexpr const char* kSteps = "steps charged T";  // in every format of the page

constexpr const char* kScope =
    R"(
## What the number covers, and against whom

Everything that is computed from the released weights: the model itself, its samples, and any later training on them.
An adversary may know all other records, all public inputs, this page, and every intermediate model. He is not one of
those who ran the job: the machines, their network and the private files are trusted (central differential privacy).

## What it does not cover

- Choices made by looking at the private records or at a held-out real set: learning rate, number of steps, clip norm,
  what to release.
- Other runs on the same records. Each has its own statement, and their costs add up.
- What the public inputs cost: where the base model was trained on samples of a model that had seen the same records,
  that model's epsilon comes on top. Nothing here knows of it but what the table repeats of the inputs' own words.
- The number of records N, the names of the classes and the image size, which are treated as public.
)";

// Of the default mechanism; the lattice has no such gap.
constexpr const char* kFloatingPoint =
    R"(- Rounding. The bound is that of real numbers; sums and noise were made in floating point, whose sums are a little
  off (one part in 10^7 an addition) and whose low bits can in principle tell about what was summed.
  `privacy.mechanism: lattice` closes this.
)";

constexpr const char* kMachines =
    R"(- The machines that ran the job: whoever can read their memory, their network or the private files has the records.
  Step times depend on how many records were selected; do not publish logs with time stamps of single steps.
- The times at which files of this directory were written, and those in metrics, for the same reason: copy files without
  their time stamps (`cp`, not `cp -p`).
- `checkpoints/`, `metrics.jsonl` and `ledger.jsonl` hold nothing beyond what the released models reveal, unless a time
  limit stopped the run: the ledger, TensorBoard's files and the names of checkpoints tell after how many steps it did,
  and that depends on how many records were selected. Publish none of these then.
- The latent file is private data, and `latents.opening` would let a reader of the ledger test guesses of it: keep both.

`dpldm privacy verify model` recomputes epsilon from these numbers and compares the weights and this page with them;
`dpldm privacy ledger .` recomputes it from the ledger.
)";

// Of a run that is NOT PRIVATE.
constexpr const char* kNoNumber =
    R"(
## What follows from that

No number bounds what this run tells about a record: the table says what was done, not how well it protects. Whoever has
the model, its samples, `checkpoints/`, `metrics.jsonl`, TensorBoard's files or the ledger may learn what is in the
records, or that one is among them. Show them to nobody who may not see the records themselves.

`dpldm privacy verify model` compares the weights and this page with the statement; `dpldm privacy ledger .` checks that
the ledger is whole. Neither makes an epsilon of this run.
)";

std::string text_at(const Json& place, const char* key) { return place.at(key).get<std::string>(); }

// Numbers as they are in the file, with all their digits.
std::string number_at(const Json& place, const char* key) { return place.at(key).dump(); }

// What is claimed, in the words that every format of the page has.
std::string bold_claim(const Json& statement) {
  if (!statement.at("private").get<bool>()) return "**NOT PRIVATE**";
  return fmt::format("**({}, {})-differentially private**", up_to_decimals(statement.at("epsilon").get<double>(), 4),
                     up_to_digits(statement.at("delta").get<double>(), 3));
}

std::string claim_text(const Json& statement) {
  if (!statement.at("private").get<bool>()) {
    return fmt::format("{}: {}. Nothing of this run may be released as protected.\n", bold_claim(statement),
                       text_at(statement, "not_private_because"));
  }
  const bool saw_private = statement.at("training_records") == "private";
  return fmt::format(
      "The model in `model/`, and every model of the steps before it, is the output of a mechanism that is {}\n"
      "for each record of the {}, under the {} relation.\n",
      bold_claim(statement),
      saw_private ? "private training set"
                  : "training set (a file that is marked public; the bound holds for it all the same)",
      text_at(statement, "neighbouring"));
}

// What the two data sets are between which an adversary cannot tell.
std::string relation_text(const std::string& neighbouring) {
  if (neighbouring == "add-remove") return "add-remove: with one record more, or one less";
  if (neighbouring == "zero-out") return "zero-out: with one record replaced by one that has no effect";
  return "replace-one: with one record replaced by any other";
}

std::string sampling_text(const Json& statement) {
  if (statement.at("sampler") != "poisson") return "no amplification";
  return "Poisson, rate q = " + number_at(statement, "sampling_rate");
}

// Of a statement that claims privacy.
std::string tails_text(const Json& statement) {
  const GaussianEvent all{statement.at("sampling_rate").get<double>(), statement.at("noise_multiplier").get<double>(),
                          statement.at("steps").get<std::int64_t>(), sampler_from(text_at(statement, "sampler"))};
  const double delta = statement.at("delta").get<double>();
  const double of_tails = delta_of_tails(delta, all, neighbouring_from(text_at(statement, "neighbouring")),
                                         statement.at("trained_elements").get<std::int64_t>());
  return fmt::format("at most {} is to be added to delta: values stop at 9.49 deviations", up_to_digits(of_tails, 3));
}

// Texts from elsewhere must not end the cell that they are in.
std::string cell(std::string text) {
  const auto ends_a_cell = [](unsigned char c) { return c < ' ' || c == '|' || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), ends_a_cell, ' ');
  return text;
}

std::string row(const std::string& what, const std::string& value) {
  return fmt::format("| {} | {} |\n", cell(what), cell(value));
}

std::string public_inputs_rows(const Json& inputs) {
  std::string rows = row("public U-Net (SHA-256)", text_at(inputs, "base_unet_sha256"));
  for (const auto& [key, what] : {std::pair{"base_text_encoder_sha256", "public text encoder (SHA-256)"},
                                  std::pair{"tokenizer_sha256", "public tokenizer (SHA-256)"}}) {
    if (inputs.contains(key)) rows += row(what, text_at(inputs, key));
  }
  rows += row("public autoencoder (SHA-256)", text_at(inputs, "autoencoder_sha256"));
  for (const auto& [key, what] :
       {std::pair{"base_training_records_source", "records that the public base model was trained on, made from"},
        std::pair{"training_records_source", "public training records, made from"}}) {
    if (inputs.contains(key)) rows += row(what, text_at(inputs, key));
  }
  return rows;
}

std::string table(const Json& statement) {
  std::string rows = "| what | value |\n| --- | --- |\n";
  rows += row("unit of privacy",
              "one record (an image with its label or caption); a person with several records has less protection");
  rows += row("neighbouring relation", relation_text(text_at(statement, "neighbouring")));
  rows += row("records N", number_at(statement, "num_records"));
  rows += row("expected batch q N", number_at(statement, "expected_batch_size"));
  rows += row("sampling", sampling_text(statement));
  rows += row(kSteps, number_at(statement, "steps"));
  for (const Json& release : statement.at("other_releases")) {
    rows += row("further release", fmt::format("{}: {}, sigma {}, sampler {}, q = {}", text_at(release, "kind"),
                                               counted(release.at("count").get<std::int64_t>(), "time"),
                                               number_at(release, "noise_multiplier"), text_at(release, "sampler"),
                                               number_at(release, "sampling_rate")));
  }
  rows += row("noise multiplier sigma", number_at(statement, "noise_multiplier"));
  if (statement.at("private").get<bool>()) rows += row("ends of the noise", tails_text(statement));
  rows += row("clip norm C", number_at(statement, "clip_norm"));
  rows += row("clipping", text_at(statement, "clipping_text"));
  rows += row("draws per record K", number_at(statement, "noise_multiplicity") + " (averaged before the clip)");
  rows += row("mechanism", text_at(statement, "mechanism_text"));
  rows += row("accountant",
              fmt::format("{}, dpldm {}", text_at(statement, "accountant"), text_at(statement, "program_version")));
  rows += row("trained", fmt::format("{} elements, set {}", number_at(statement, "trained_elements"),
                                     text_at(statement, "trained_set_text")));
  rows += public_inputs_rows(statement.at("public_inputs"));
  for (const auto& [file, digest] : statement.at("tensors_sha256").items()) {
    rows += row(fmt::format("this model's `{}`, names and bytes of its tensors (SHA-256)", file),
                digest.get<std::string>());
  }
  rows += row("commitment to the key", text_at(statement, "key_commitment"));
  return rows;
}

// The first claim of a page is its own; what follows may be texts from elsewhere.
std::string difference_from_claim(const std::filesystem::path& page, const std::string& text, const Json& statement) {
  const std::string claim = bold_claim(statement);
  if (text.find("**") != std::string::npos && text.find("**") == text.find(claim)) return "";
  return fmt::format("{} does not begin with what the model's statement claims: '{}'", page.string(), claim);
}

}  // namespace

std::string statement_page(const Json& statement) {
  try {
    const std::string begin = "# Privacy statement\n\n" + claim_text(statement) + "\n" + table(statement);
    if (!statement.at("private").get<bool>()) return begin + kNoNumber;
    const bool rounds = statement.at("mechanism") == "float";
    return begin + kScope + (rounds ? kFloatingPoint : "") + kMachines;
  } catch (const Json::exception& error) {
    throw ConfigError(std::string("no page can be made of this privacy statement: ") + reason_of(error));
  }
}

bool has_known_page(const Json& statement) {
  const auto format = statement.find("page_format");
  return format != statement.end() && *format == kPageFormat;
}

std::string difference_from_page(const std::filesystem::path& page, const Json& statement) {
  const std::string text = read_file(page, kMaxPageBytes);
  if (!has_known_page(statement)) return difference_from_claim(page, text, statement);
  std::istringstream found(text);
  std::istringstream expected(statement_page(statement));
  std::string found_line;
  std::string expected_line;
  for (int number = 1;; ++number) {
    const bool goes_on = static_cast<bool>(std::getline(found, found_line));
    const bool should_go_on = static_cast<bool>(std::getline(expected, expected_line));
    if (!goes_on && !should_go_on) return "";
    if (!should_go_on) return fmt::format("line {} of {} is one too many", number, page.string());
    if (!goes_on || found_line != expected_line) {
      return fmt::format("line {} of {} is not what the model's statement makes of it: '{}'", number, page.string(),
                         expected_line);
    }
  }
}

std::optional<std::int64_t> steps_on_page(const std::filesystem::path& page) {
  std::istringstream text(read_file(page, kMaxPageBytes));
  const std::string begin = fmt::format("| {} | ", kSteps);
  constexpr std::string_view kEnd = " |";
  std::optional<std::int64_t> most;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with(begin) || !line.ends_with(kEnd) || line.size() <= begin.size() + kEnd.size()) continue;
    const char* const first = line.data() + begin.size();
    const char* const last = line.data() + line.size() - kEnd.size();
    std::int64_t steps = 0;
    const auto [stop, error] = std::from_chars(first, last, steps);
    if (error == std::errc() && stop == last) most = std::max(steps, most.value_or(steps));
  }
  return most;
}

}  // namespace dpldm::accounting
