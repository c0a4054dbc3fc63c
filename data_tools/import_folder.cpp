// A folder of PNG and JPEG files. Labels come from the sub-folder that a file lies in, or labels and captions from a
// CSV file.
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/log.h"
#include "data/visibility_mark.h"
#include "data_tools/csv_table.h"
#include "data_tools/image_import.h"
#include "data_tools/options.h"
#include "io/image_codec.h"
#include "io/image_tensor.h"
#include "text/unicode.h"

namespace dpldm::tools {
namespace {

namespace fs = std::filesystem;

struct Listing {
  std::vector<fs::path> files;
  std::vector<std::string> labels;    // one per file, or none
  std::vector<std::string> captions;  // one per file, or none
};

bool is_image_name(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

// Where a link leads is decided by whoever made it: one that leads nowhere, or to a folder inside of another, would be
// left out in silence.
void require_followed(const fs::directory_entry& entry) {
  if (!entry.is_symlink()) return;
  if (!entry.exists()) throw ConfigError(entry.path().string() + " is a link that leads nowhere");
  if (entry.is_directory()) {
    throw ConfigError(entry.path().string() + " is a link to a folder inside a class folder, which is not followed");
  }
}

// Images below `folder`, at any depth, sorted by path: the order of a directory differs between file systems.
std::vector<fs::path> images_below(const fs::path& folder, std::int64_t& num_ignored) {
  std::vector<fs::path> files;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
    if (is_hidden(entry->path())) {
      if (entry->is_directory()) entry.disable_recursion_pending();
      continue;
    }
    require_followed(*entry);
    if (entry->is_directory()) continue;
    if (entry->is_regular_file() && is_image_name(entry->path())) {
      files.push_back(entry->path());
    } else {
      ++num_ignored;
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// One picture under two names would be two records, and a record's protection would halve. Throws ConfigError, IoError.
void require_different_files(const std::vector<fs::path>& files) {
  std::map<std::pair<dev_t, ino_t>, const fs::path*> seen;
  for (const fs::path& file : files) {
    struct stat status {};
    if (::stat(file.c_str(), &status) != 0) {
      throw IoError("cannot read " + file.string() + ": " + std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
    }
    const auto [first, is_new] = seen.emplace(std::pair(status.st_dev, status.st_ino), &file);
    if (!is_new) {
      throw ConfigError(fmt::format("{} and {} are the same file, which would be two records", first->second->string(),
                                    file.string()));
    }
  }
}

Listing listing_of_folder(const fs::path& folder) {
  std::vector<fs::path> classes;
  bool has_loose_images = false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_hidden(entry.path())) continue;
    // A class folder may be a link.
    if (!entry.is_directory()) require_followed(entry);
    if (entry.is_directory()) classes.push_back(entry.path());
    if (entry.is_regular_file() && is_image_name(entry.path())) has_loose_images = true;
  }
  if (has_loose_images && !classes.empty()) {
    throw ConfigError(folder.string() +
                      " has images both beside and inside its sub-folders; either all have a class or none");
  }
  std::sort(classes.begin(), classes.end());
  Listing listing;
  std::int64_t num_ignored = 0;
  if (classes.empty()) listing.files = images_below(folder, num_ignored);
  for (const fs::path& subfolder : classes) {
    const std::vector<fs::path> files = images_below(subfolder, num_ignored);
    if (files.empty()) throw ConfigError("the class folder " + subfolder.string() + " holds no PNG or JPEG file");
    listing.files.insert(listing.files.end(), files.begin(), files.end());
    listing.labels.insert(listing.labels.end(), files.size(), subfolder.filename().string());
  }
  if (num_ignored > 0) spdlog::warn("{} file(s) that are neither .png, .jpg nor .jpeg were ignored", num_ignored);
  return listing;
}

Listing listing_of_csv(const fs::path& folder, const fs::path& csv) {
  constexpr std::size_t kMaxCsvBytes = std::size_t{1} << 30;
  const CsvTable table = parse_csv(read_file(csv, kMaxCsvBytes), csv.string());
  const auto file_column = table.column("file");
  const auto label_column = table.column("label");
  const auto caption_column = table.column("caption");
  if (!file_column || (!label_column && !caption_column)) {
    throw ConfigError(fmt::format("{} has the columns {}; 'file' and one or both of 'label' and 'caption' are expected",
                                  csv.string(), fmt::join(table.header, ", ")));
  }
  Listing listing;
  std::set<fs::path> seen;
  if (table.rows.empty()) throw ConfigError(csv.string() + " lists no image");
  for (std::size_t i = 0; i < table.rows.size(); ++i) {
    const std::vector<std::string>& row = table.rows[i];
    const fs::path relative = fs::path(row[*file_column]).lexically_normal();
    if (relative.empty() || relative.is_absolute() || *relative.begin() == "..") {
      throw ConfigError(fmt::format("{} names the file '{}'; names must stay inside {}", csv.string(),
                                    row[*file_column], folder.string()));
    }
    // One row more for the same image would be a second record, and a record's protection would halve.
    if (!seen.insert(relative).second)
      throw ConfigError(csv.string() + " names the file '" + relative.string() + "' twice");
    listing.files.push_back(folder / relative);
    const std::string line = fmt::format("{}, line {}", csv.string(), table.lines[i]);
    for (const auto& column : {label_column, caption_column}) {
      if (!column) continue;
      text::from_utf8(row[*column], line + ": the " + table.header[*column]);
      if (row[*column].find('\0') != std::string::npos) throw ConfigError(line + ": there is a zero byte");
    }
    if (label_column && row[*label_column].empty()) throw ConfigError(line + ": the label is empty");
    if (label_column) listing.labels.push_back(row[*label_column]);
    if (caption_column) listing.captions.push_back(row[*caption_column]);
  }
  return listing;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// The classes in a fixed order: as given, or numbers by value, or names by their bytes.
std::vector<std::string> class_names_of(const std::vector<std::string>& labels, const std::vector<std::string>& given) {
  const std::set<std::string> distinct(labels.begin(), labels.end());
  std::vector<std::string> names(distinct.begin(), distinct.end());
  if (!given.empty()) {
    for (const std::string& name : names) {
      if (std::find(given.begin(), given.end(), name) == given.end()) {
        throw ConfigError("the class '" + name + "' is not among --class-names");
      }
    }
    return given;
  }
  if (std::all_of(names.begin(), names.end(), is_number)) {
    std::sort(names.begin(), names.end(),
              [](const std::string& a, const std::string& b) { return std::stoi(a) < std::stoi(b); });
  }
  return names;
}

at::Tensor label_numbers(const std::vector<std::string>& labels, const std::vector<std::string>& class_names) {
  std::map<std::string, std::int64_t> number_of;
  for (const std::string& name : class_names) number_of.emplace(name, static_cast<std::int64_t>(number_of.size()));
  at::Tensor numbers = at::empty({static_cast<std::int64_t>(labels.size())}, at::kLong);
  auto* out = numbers.data_ptr<std::int64_t>();
  for (const std::string& label : labels) *out++ = number_of.at(label);
  return numbers;
}

// uint8 [C, H, W]. Throws ConfigError for a picture that is marked private, as `sample` marks those of a model that
// protects nobody, on its way into a public file.
at::Tensor read_image(const fs::path& path, data::Visibility visibility) {
  const std::string content = read_file(path, io::kMaxImageFileBytes);
  if (visibility == data::Visibility::kPublic &&
      io::png_text(content, data::kVisibilityKeyword) == data::to_text(data::Visibility::kPrivate)) {
    throw ConfigError(path.string() + " is marked private; nothing turns private into public");
  }
  return io::tensor_from(io::decode_image(content, path.string()));
}

}  // namespace

void import_folder(int argc, char** argv) {
  cxxopts::Options options("dpldm-data import folder", "Imports a folder of PNG and JPEG files.");
  options.add_options()                                                                                    //
      ("dir", "the folder: DIR/CLASS/*.png, or DIR/*.png without classes", cxxopts::value<std::string>())  //
      ("csv", "CSV file with the columns file and label or caption (or both), instead of class sub-folders",
       cxxopts::value<std::string>());
  add_import_options(options);
  const auto parsed = parse_or_help(options, argc, argv);
  if (!parsed) return;
  const fs::path folder = required_text(*parsed, "dir", "the folder of images");
  const fs::path csv = parsed->count("csv") > 0 ? required_text(*parsed, "csv", "the CSV file") : "";
  const ImportOptions import = import_options_from(*parsed, {folder, csv});
  if (!fs::is_directory(folder)) throw IoError(folder.string() + " is not a folder");

  Listing listing;
  try {
    listing = csv.empty() ? listing_of_folder(folder) : listing_of_csv(folder, csv);
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot list " + folder.string() + ": " + error.code().message());
  }
  if (listing.files.empty()) throw ConfigError(folder.string() + " holds no PNG or JPEG file");
  require_different_files(listing.files);

  ImageSource source;
  source.description = "folder " + fs::weakly_canonical(folder).filename().string();
  source.num_records = static_cast<std::int64_t>(listing.files.size());
  source.captions = listing.captions;
  if (!listing.labels.empty()) {
    source.class_names = class_names_of(listing.labels, import.class_names);
    source.labels = label_numbers(listing.labels, source.class_names);
  }
  const auto files = std::make_shared<const std::vector<fs::path>>(std::move(listing.files));
  source.name = [files](std::int64_t index) { return (*files)[static_cast<std::size_t>(index)].string(); };
  source.read = [files, visibility = import.visibility](std::int64_t first, std::int64_t count) {
    std::vector<at::Tensor> images(static_cast<std::size_t>(count));
    at::parallel_for(0, count, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        images[static_cast<std::size_t>(i)] = read_image((*files)[static_cast<std::size_t>(first + i)], visibility);
      }
    });
    return images;
  };
  import_images(source, import);
}

}  // namespace dpldm::tools
