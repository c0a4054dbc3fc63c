#include "app/sample_output.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/visibility_mark.h"
#include "io/image_grid.h"
#include "io/image_tensor.h"

namespace dpldm::app {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSourceKeyword = "dpldm-source";
constexpr std::int64_t kGridMargin = 2;
constexpr std::size_t kGridColumns = 10;
constexpr std::size_t kGridRows = 20;  // more classes than this are not shown

// A class name as part of a file name: "T-shirt/top" -> "T-shirt_top".
std::string file_name_part(const std::string& class_name) {
  std::string name = class_name;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '_') c = '_';
  }
  return name;
}

// As spreadsheets and `dpldm-data import folder --csv` read it.
std::string csv_row(const std::string& file, const std::string& caption) {
  std::string quoted;
  for (const char c : caption) quoted.append(c == '"' ? 2 : 1, c);
  return fmt::format("{},\"{}\"\n", file, quoted);
}

enum class OutputKind { kImageFile, kGrid, kFolder };

OutputKind kind_of(const fs::path& path) {
  if (path.extension() == ".h5") return OutputKind::kImageFile;
  return path.extension() == ".png" ? OutputKind::kGrid : OutputKind::kFolder;
}

fs::path grid_of(const fs::path& path) {
  const OutputKind kind = kind_of(path);
  if (kind == OutputKind::kGrid) return path;
  if (kind == OutputKind::kImageFile) {
    return path.filename() == "images.h5" ? path.parent_path() / "grid.png" : fs::path(path).replace_extension(".png");
  }
  // "a/b/" and "." are folders with a name, too.
  const fs::path named = path.has_filename() ? path : path.parent_path();
  const bool is_relative_name = named.filename() == "." || named.filename() == "..";
  fs::path grid = is_relative_name ? fs::weakly_canonical(named) : named;
  return grid += ".png";
}

bool is_of_samples(const fs::path& path) {
  try {
    if (path.extension() == ".h5") return data::ImageFile(path).info().source.starts_with(SampleOutput::kSource);
    const std::string content = read_file(path, io::kMaxImageFileBytes);
    return io::png_text(content, kSourceKeyword).value_or("").starts_with(SampleOutput::kSource);
  } catch (const Error&) {
    return false;  // nothing that this program wrote
  }
}

void require_of_samples(const fs::path& path) {
  if (!path_exists(path) || is_of_samples(path)) return;
  throw ConfigError(path.string() + " is there already and is not a file of samples; name another output");
}

void require_empty_folder(const fs::path& folder) {
  if (!path_exists(folder)) return;
  if (!fs::is_directory(folder)) throw IoError(fmt::format("cannot make the folder {}: it is a file", folder.string()));
  if (!fs::is_empty(folder)) {
    throw ConfigError(
        fmt::format("the folder {} is not empty; name a new one, or a file that ends in .h5", folder.string()));
  }
}

}  // namespace

void SampleOutput::require_replaceable(const fs::path& path) {
  if (kind_of(path) == OutputKind::kFolder) require_empty_folder(path);
  if (kind_of(path) == OutputKind::kImageFile) require_of_samples(path);
  require_of_samples(grid_of(path));
}

SampleOutput::SampleOutput(const fs::path& path, const SampleOutputInfo& info)
    : path_(path),
      grid_path_(grid_of(path)),
      info_(info),
      grid_alone_(kind_of(path) == OutputKind::kGrid),
      texts_{{data::kVisibilityKeyword, data::to_text(info.visibility)}, {kSourceKeyword, info.source}} {
  require_replaceable(path);
  if (kind_of(path) == OutputKind::kImageFile) {
    std::error_code ignored;  // a failure shows when the file is created
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), ignored);
    data::ImageFileInfo file_info;
    file_info.visibility = info.visibility;
    file_info.num_records = info.num_images;
    file_info.channels = info.channels;
    file_info.height = info.height;
    file_info.width = info.width;
    file_info.class_names = info.class_names;
    file_info.has_captions = info.has_captions;
    file_info.source = info.source;
    file_ = std::make_unique<data::ImageFileWriter>(path, file_info);
  } else if (!grid_alone_) {
    if (info.has_captions) captions_csv_ = "file,caption\n";
    make_directories(path);
  }
}

void SampleOutput::append(const at::Tensor& images, const std::vector<std::int64_t>& labels,
                          const std::vector<std::string>& captions) {
  if (file_) file_->append(images, labels.empty() ? at::Tensor() : torch::tensor(labels, torch::kLong), captions);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    const std::int64_t label = labels.empty() ? 0 : labels[static_cast<std::size_t>(i)];
    keep_for_grid(images[i], label);
    if (!file_ && !grid_alone_) {
      fs::path folder = path_;
      if (!labels.empty()) {
        folder /= fmt::format("{:03}-{}", label, file_name_part(info_.class_names[static_cast<std::size_t>(label)]));
        fs::create_directories(folder);
      }
      const std::string name = fmt::format("{:06}.png", num_written_);
      io::write_png(folder / name, io::image_from(images[i]), texts_);
      if (info_.has_captions) captions_csv_ += csv_row(name, captions[static_cast<std::size_t>(i)]);
    }
    ++num_written_;
  }
}

void SampleOutput::keep_for_grid(const at::Tensor& image, std::int64_t label) {
  // Without classes there is one row per ten images.
  const std::int64_t row = info_.class_names.empty() ? num_written_ / static_cast<std::int64_t>(kGridColumns) : label;
  if (!grid_.contains(row) && grid_.size() >= kGridRows) return;
  std::vector<at::Tensor>& shown = grid_[row];
  if (shown.size() < kGridColumns) shown.push_back(image.clone());
}

void SampleOutput::commit() {
  std::size_t columns = 0;
  for (const auto& [row, shown] : grid_) columns = std::max(columns, shown.size());
  std::vector<at::Tensor> cells;
  for (const auto& [row, shown] : grid_) {
    cells.insert(cells.end(), shown.begin(), shown.end());
    cells.insert(cells.end(), columns - shown.size(), torch::zeros_like(shown.front()));
  }
  io::write_grid_png(grid_path_, at::stack(cells), static_cast<std::int64_t>(columns), kGridMargin, texts_);
  if (!captions_csv_.empty()) write_file_atomically(path_ / "captions.csv", captions_csv_);
  if (file_) file_->commit();
}

}  // namespace dpldm::app
