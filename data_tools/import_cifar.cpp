// The binary version of CIFAR: per record one label byte (CIFAR-100: coarse, then fine), then 32x32 red, green and blue
// bytes.
#include <algorithm>
#include <fstream>
#include <memory>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "data_tools/image_import.h"
#include "data_tools/options.h"

namespace dpldm::tools {
namespace {

constexpr std::int64_t kSide = 32;
constexpr std::int64_t kImageBytes = 3 * kSide * kSide;

const std::vector<std::string> kCifar10Names{"airplane", "automobile", "bird",  "cat",  "deer",
                                             "dog",      "frog",       "horse", "ship", "truck"};

// Several batch files as one list of records of `record_bytes`.
class Batches {
 public:
  Batches(std::vector<std::filesystem::path> paths, std::int64_t record_bytes)
      : paths_(std::move(paths)), record_bytes_(record_bytes) {
    for (const auto& path : paths_) {
      const auto bytes = static_cast<std::int64_t>(require_regular_file(path));
      if (bytes == 0 || bytes % record_bytes != 0) {
        throw IoError(
            fmt::format("{} has {} bytes, not a multiple of a record's {}: it is truncated, or of the other CIFAR",
                        path.string(), bytes, record_bytes));
      }
      counts_.push_back(bytes / record_bytes);
      num_records_ += counts_.back();
    }
  }

  std::int64_t num_records() const { return num_records_; }

  // Record `index` counted over all files: its file and its number there.
  std::pair<std::size_t, std::int64_t> locate(std::int64_t index) const {
    std::size_t file = 0;
    while (index >= counts_[file]) index -= counts_[file++];
    return {file, index};
  }

  const std::filesystem::path& path(std::size_t file) const { return paths_[file]; }

  // Records first .. first + count - 1: uint8 [count, record_bytes].
  at::Tensor read(std::int64_t first, std::int64_t count) const {
    at::Tensor records = at::empty({count, record_bytes_}, at::kByte);
    auto* out = reinterpret_cast<char*>(records.data_ptr<std::uint8_t>());
    while (count > 0) {
      const auto [file, index] = locate(first);
      const std::int64_t here = std::min(count, counts_[file] - index);
      std::ifstream stream(paths_[file], std::ios::binary);
      stream.seekg(index * record_bytes_);
      stream.read(out, here * record_bytes_);
      if (!stream) throw IoError("cannot read " + paths_[file].string() + " to its end");
      out += here * record_bytes_;
      first += here;
      count -= here;
    }
    return records;
  }

 private:
  std::vector<std::filesystem::path> paths_;
  std::int64_t record_bytes_;
  std::vector<std::int64_t> counts_;
  std::int64_t num_records_ = 0;
};

// The label byte of every record, read in pieces.
at::Tensor all_labels(const Batches& batches, std::int64_t label_byte, std::int64_t num_classes) {
  constexpr std::int64_t kPiece = 1000;
  std::vector<at::Tensor> pieces;
  for (std::int64_t first = 0; first < batches.num_records(); first += kPiece) {
    const std::int64_t count = std::min(kPiece, batches.num_records() - first);
    pieces.push_back(batches.read(first, count).select(1, label_byte).to(at::kLong));
  }
  at::Tensor labels = at::cat(pieces);
  const auto highest = labels.max().item<std::int64_t>();
  if (highest >= num_classes) {
    throw IoError(fmt::format("a label in {} is {}; CIFAR-{} has labels below {}", batches.path(0).string(), highest,
                              num_classes, num_classes));
  }
  return labels;
}

}  // namespace

void import_cifar(int argc, char** argv) {
  cxxopts::Options options("dpldm-data import cifar", "Imports the binary version of CIFAR-10 or CIFAR-100.");
  options.add_options()  //
      ("batches", "the batch files in order: data_batch_1.bin,data_batch_2.bin,...",
       cxxopts::value<std::string>())  //
      ("classes", "10 (CIFAR-10) or 100 (CIFAR-100, fine labels)", cxxopts::value<std::string>()->default_value("10"));
  add_import_options(options);
  const auto parsed = parse_or_help(options, argc, argv);
  if (!parsed) return;
  required_text(*parsed, "batches", "the batch files, separated by commas");
  const std::vector<std::string> batch_names = texts_between_commas(*parsed, "batches");
  ImportOptions import = import_options_from(*parsed, {batch_names.begin(), batch_names.end()});
  const std::int64_t num_classes = integer_between(*parsed, "classes", 10, 100);
  if (num_classes != 10 && num_classes != 100)
    throw ConfigError(fmt::format("--classes is {}; 10 and 100 are allowed", num_classes));

  const std::int64_t num_label_bytes = num_classes == 10 ? 1 : 2;
  std::vector<std::filesystem::path> paths;
  std::vector<std::string> file_names;
  for (const std::string& path : batch_names) {
    // One file twice would be every record twice, and a record's protection would halve.
    const auto is_same = [&](const std::filesystem::path& other) {
      std::error_code error;
      return std::filesystem::equivalent(path, other, error);
    };
    if (std::any_of(paths.begin(), paths.end(), is_same)) throw ConfigError("--batches names " + path + " twice");
    paths.emplace_back(path);
    file_names.push_back(paths.back().filename().string());
  }
  const auto batches = std::make_shared<const Batches>(std::move(paths), num_label_bytes + kImageBytes);

  ImageSource source;
  source.description = fmt::format("cifar{} {}", num_classes, fmt::join(file_names, " "));
  source.num_records = batches->num_records();
  source.labels = all_labels(*batches, num_label_bytes - 1, num_classes);
  if (import.class_names.empty() && num_classes == 10) import.class_names = kCifar10Names;
  if (import.class_names.empty()) import.num_classes = num_classes;
  source.class_names = names_for_numbers(source.labels, import);
  source.name = [batches](std::int64_t index) {
    const auto [file, record] = batches->locate(index);
    return fmt::format("{}, record {}", batches->path(file).string(), record);
  };
  source.read = [batches, num_label_bytes](std::int64_t first, std::int64_t count) {
    return batches->read(first, count).slice(1, num_label_bytes).reshape({count, 3, kSide, kSide}).unbind(0);
  };
  import_images(source, import);
}

}  // namespace dpldm::tools
