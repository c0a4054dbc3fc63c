#include "app/sample_output.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/torch.h"
#include "io/image_codec.h"
#include "io/image_grid.h"
#include "io/image_tensor.h"

namespace dpldm::app {
namespace {

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

void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || !std::filesystem::is_directory(folder)) {
    throw IoError(
        fmt::format("cannot make the folder {}: {}", folder.string(), error ? error.message() : "it is a file"));
  }
  if (!std::filesystem::is_empty(folder)) {
    throw ConfigError(
        fmt::format("the folder {} is not empty; name a new one, or a file that ends in .h5", folder.string()));
  }
}

}  // namespace

SampleOutput::SampleOutput(const std::filesystem::path& path, const SampleOutputInfo& info) : path_(path), info_(info) {
  if (path.extension() == ".h5") {
    grid_path_ = path.parent_path() / "grid.png";
    std::error_code ignored;  // a failure shows when the file is created
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
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
  } else if (path.extension() == ".png") {
    grid_path_ = path;
    grid_alone_ = true;
  } else {
    grid_path_ = path / "grid.png";
    if (info.has_captions) captions_csv_ = "file,caption\n";
    prepare_folder(path);
  }
}

void SampleOutput::append(const at::Tensor& images, const std::vector<std::int64_t>& labels,
                          const std::vector<std::string>& captions) {
  if (file_) file_->append(images, labels.empty() ? at::Tensor() : torch::tensor(labels, torch::kLong), captions);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    const std::int64_t label = labels.empty() ? 0 : labels[static_cast<std::size_t>(i)];
    keep_for_grid(images[i], label);
    if (!file_ && !grid_alone_) {
      std::filesystem::path folder = path_;
      if (!labels.empty()) {
        folder /= fmt::format("{:03}-{}", label, file_name_part(info_.class_names[static_cast<std::size_t>(label)]));
        std::filesystem::create_directories(folder);
      }
      const std::string name = fmt::format("{:06}.png", num_written_);
      io::write_png(folder / name, io::image_from(images[i]));
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
  io::write_grid_png(grid_path_, at::stack(cells), static_cast<std::int64_t>(columns));
  if (!captions_csv_.empty()) write_file_atomically(path_ / "captions.csv", captions_csv_);
  if (file_) file_->commit();
}

}  // namespace dpldm::app
