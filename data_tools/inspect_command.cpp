// dpldm-data inspect FILE: what a data file says it holds. Reads attributes and labels, not the content: `verify` does
// that.
#include <algorithm>
#include <optional>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/data_kind.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data/visibility_mark.h"
#include "data_tools/commands.h"
#include "data_tools/options.h"
#include "io/image_grid.h"

namespace dpldm::tools {
namespace {

using Json = nlohmann::ordered_json;

// How often each class occurs. For public files alone: the histogram of private labels is private.
Json class_counts(const at::Tensor& labels, const std::vector<std::string>& class_names) {
  const at::Tensor counts = at::bincount(labels, {}, static_cast<std::int64_t>(class_names.size()));
  return std::vector<std::int64_t>(counts.data_ptr<std::int64_t>(), counts.data_ptr<std::int64_t>() + counts.numel());
}

Json description_of(const data::ImageFile& file) {
  const data::ImageFileInfo& info = file.info();
  Json json{{"format", "dpldm-images"},        {"visibility", data::to_text(info.visibility)},
            {"num_records", info.num_records}, {"image_size", {info.channels, info.height, info.width}},
            {"source", info.source},           {"captions", info.has_captions},
            {"class_names", info.class_names}, {"content_sha256", info.content_sha256}};
  if (info.visibility == data::Visibility::kPublic && !info.class_names.empty()) {
    json["class_counts"] = class_counts(file.read_labels(), info.class_names);
  }
  return json;
}

Json description_of(const data::LatentFile& file) {
  const data::LatentFileInfo& info = file.info();
  Json json{{"format", "dpldm-latents"},
            {"visibility", data::to_text(info.visibility)},
            {"num_records", info.num_records},
            {"num_variants", info.num_variants},
            {"latent_shape", {info.channels, info.height, info.width}},
            {"precision", file.half_precision() ? "float16" : "float32"},
            {"image_size", {info.image_channels, info.image_height, info.image_width}},
            {"scaling_factor", info.scaling_factor},
            {"encoder_sha256", info.encoder_sha256},
            {"source", info.source},
            {"num_tokens", info.num_tokens},
            {"class_names", info.class_names},
            {"content_sha256", info.content_sha256}};
  if (info.num_tokens > 0) {
    json["vocabulary_size"] = info.vocabulary_size;
    json["tokenizer_sha256"] = info.tokenizer_sha256;
  }
  if (info.visibility == data::Visibility::kPublic && !info.class_names.empty()) {
    json["class_counts"] = class_counts(file.read_labels(), info.class_names);
  }
  return json;
}

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (!value.is_array()) return value.dump();
  std::vector<std::string> parts;
  for (const Json& part : value) parts.push_back(text_of(part));
  return fmt::format("{}", fmt::join(parts, ", "));
}

void print_table(const Json& description) {
  for (const auto& [key, value] : description.items()) {
    if (key == "class_names" && value.size() > 0) {
      fmt::print("{:<15} {}: {}\n", "classes", value.size(), text_of(value));
    } else if (key == "image_size" || key == "latent_shape") {
      fmt::print("{:<15} {}x{}x{}\n", key, value[0].dump(), value[1].dump(), value[2].dump());
    } else if (key != "class_names") {
      fmt::print("{:<15} {}\n", key, text_of(value));
    }
  }
}

// Images at equal distances through the file, so that sorted classes all show.
void write_picture(const data::ImageFile& file, const std::filesystem::path& path) {
  constexpr std::int64_t kMaxImages = 256;
  const std::int64_t total = file.info().num_records;
  const std::int64_t count = std::min(kMaxImages, total);
  std::vector<at::Tensor> images;
  for (std::int64_t i = 0; i < count; ++i) images.push_back(file.read_images(i * total / count, 1));
  const std::int64_t as_it_is = 0;
  const std::int64_t margin = 2;
  io::write_grid_png(path, at::cat(images), as_it_is, margin,
                     {{data::kVisibilityKeyword, data::to_text(file.info().visibility)}});
}

}  // namespace

void run_inspect(app::Invocation& invocation) {
  cxxopts::Options options("dpldm-data inspect", "Says what a data file holds.");
  options.add_options()                                                                            //
      ("file", "an image file or a latent file", cxxopts::value<std::string>())                    //
      ("json", "one JSON object instead of a table")                                               //
      ("png", "also write up to 256 of the images as one picture", cxxopts::value<std::string>())  //
      ("show-private", "allow --png for a private file");
  add_force_option(options);
  options.parse_positional({"file"});
  options.positional_help("FILE");
  const auto parsed = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!parsed) return;
  const std::filesystem::path path = required_path(*parsed);
  const bool wants_picture = parsed->count("png") > 0;

  if (wants_picture) {
    const std::filesystem::path picture = (*parsed)["png"].as<std::string>();
    if (picture.extension() != ".png")
      throw ConfigError("--png is " + picture.string() + "; its name must end in .png");
    require_free_output(*parsed, picture, {path});
  }

  Json description;
  if (data::kind_of(path) == data::DataKind::kImages) {
    const data::ImageFile file(path);
    description = description_of(file);
    if (wants_picture) {
      if (file.info().visibility == data::Visibility::kPrivate && parsed->count("show-private") == 0) {
        throw ConfigError(path.string() + " is private: its images are shown only with --show-private");
      }
      write_picture(file, (*parsed)["png"].as<std::string>());
    }
  } else {
    if (wants_picture) throw ConfigError(path.string() + " holds latents; --png shows images only");
    description = description_of(data::LatentFile(path));
  }
  if (parsed->count("json") > 0) {
    fmt::print("{}\n", description.dump());
  } else {
    print_table(description);
  }
}

}  // namespace dpldm::tools
