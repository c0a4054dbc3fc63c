#include "data_tools/image_import.h"

#include <algorithm>
#include <optional>
#include <span>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "base/error.h"
#include "base/progress.h"
#include "data_tools/options.h"

namespace dpldm::tools {
namespace {

constexpr std::int64_t kBatch = 256;
constexpr std::int64_t kMaxClasses = 4000;  // as many as a data file takes

// Fits a batch of images and stacks them. `size` is the size of the file's images, set by the first.
at::Tensor fit_all(const ImageSource& source, const ImageGeometry& geometry, const std::vector<at::Tensor>& images,
                   std::int64_t first, at::Tensor& example) {
  std::vector<at::Tensor> fitted(images.size());
  at::parallel_for(0, static_cast<std::int64_t>(images.size()), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      fitted[static_cast<std::size_t>(i)] = fit(geometry, images[static_cast<std::size_t>(i)], source.name(first + i));
    }
  });
  if (!example.defined()) example = fitted.front();
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    const at::Tensor& image = fitted[i];
    const std::string name = source.name(first + static_cast<std::int64_t>(i));
    if (image.size(0) != example.size(0)) {
      throw ConfigError(fmt::format("{} has {} channel(s) and {} has {}; add --channels 1 or 3", name, image.size(0),
                                    source.name(0), example.size(0)));
    }
    if (image.sizes() != example.sizes()) {
      throw ConfigError(fmt::format("{} is {}x{} and {} is {}x{}; add --size", name, image.size(1), image.size(2),
                                    source.name(0), example.size(1), example.size(2)));
    }
  }
  return at::stack(fitted);
}

}  // namespace

void add_import_options(cxxopts::Options& options) {
  options.add_options()  //
      ("visibility", "public (may be looked at) or private (leaves only through the mechanism); no default",
       cxxopts::value<std::string>())                                                    //
      ("o,output", "the image file to write", cxxopts::value<std::string>())             //
      ("size", "resize to S or HxW pixels, antialiased", cxxopts::value<std::string>())  //
      ("crop", "'center': cut to the shape of --size (a square without it) before the resize",
       cxxopts::value<std::string>())                                                                               //
      ("pad", "black pixels to add on each side", cxxopts::value<std::string>()->default_value("0"))                //
      ("channels", "1 (grey) or 3 (RGB); default: as the images are", cxxopts::value<std::string>())                //
      ("class-names", "names of the classes, a,b,c, in the order of their numbers", cxxopts::value<std::string>())  //
      ("limit", "import the first N images only", cxxopts::value<std::string>());
  add_force_option(options);
}

void add_num_classes_option(cxxopts::Options& options) {
  options.add_options()("num-classes", "number of classes, where --class-names does not say it",
                        cxxopts::value<std::string>());
}

ImportOptions import_options_from(const cxxopts::ParseResult& parsed,
                                  const std::vector<std::filesystem::path>& inputs) {
  ImportOptions options;
  options.visibility = data::visibility_from(required_text(parsed, "visibility", "say public or private"));
  options.output = required_text(parsed, "output", "the image file to write");
  require_free_output(parsed, options.output, inputs);
  if (parsed.count("size") > 0) options.geometry.size = image_size_from(parsed["size"].as<std::string>());
  if (parsed.count("crop") > 0) {
    const auto crop = parsed["crop"].as<std::string>();
    if (crop != "center") throw ConfigError("--crop is '" + crop + "'; center is allowed");
    options.geometry.crop_center = true;
  }
  options.geometry.pad = integer_between(parsed, "pad", 0, 1024);
  if (parsed.count("channels") > 0) {
    const std::int64_t channels = integer_between(parsed, "channels", 1, 3);
    if (channels == 2) throw ConfigError("--channels is 2; 1 and 3 are allowed");
    options.geometry.channels = channels;
  }
  if (parsed.count("class-names") > 0) options.class_names = texts_between_commas(parsed, "class-names");
  if (parsed.count("num-classes") > 0) options.num_classes = integer_between(parsed, "num-classes", 1, kMaxClasses);
  if (options.num_classes > 0 && !options.class_names.empty()) {
    throw ConfigError("--class-names says how many classes there are; leave out --num-classes");
  }
  if (parsed.count("limit") > 0) options.limit = integer_between(parsed, "limit", 1, std::int64_t{1} << 40);
  return options;
}

std::vector<std::string> names_for_numbers(const at::Tensor& labels, const ImportOptions& options) {
  const bool is_private = options.visibility == data::Visibility::kPrivate;
  if (is_private && options.class_names.empty() && options.num_classes == 0) {
    throw ConfigError(
        "--num-classes is missing (or --class-names): the highest label of private records is itself private");
  }
  const auto highest = labels.max().item<std::int64_t>();
  if (!options.class_names.empty()) {
    if (highest >= static_cast<std::int64_t>(options.class_names.size())) {
      throw ConfigError(
          fmt::format("--class-names has {} names, but the label {} occurs", options.class_names.size(), highest));
    }
    return options.class_names;
  }
  const std::int64_t num_classes = options.num_classes > 0 ? options.num_classes : highest + 1;
  if (highest >= num_classes) {
    throw ConfigError(fmt::format("--num-classes is {}, but the label {} occurs", num_classes, highest));
  }
  std::vector<std::string> names;
  for (std::int64_t label = 0; label < num_classes; ++label) names.push_back(std::to_string(label));
  return names;
}

void import_images(const ImageSource& source, const ImportOptions& options) {
  const std::int64_t count = options.limit > 0 ? std::min(options.limit, source.num_records) : source.num_records;
  if (count < 1) throw ConfigError(source.description + " holds no images");
  if (!options.class_names.empty() && source.class_names.empty()) {
    throw ConfigError("--class-names is given, but the images have no labels");
  }
  if (options.num_classes > 0 && source.class_names.empty()) {
    throw ConfigError("--num-classes is given, but the images have no labels");
  }

  std::optional<data::ImageFileWriter> writer;
  at::Tensor example;
  Progress progress("import", count, "image", true);
  for (std::int64_t first = 0; first < count; first += kBatch) {
    const std::int64_t num = std::min(kBatch, count - first);
    const at::Tensor images = fit_all(source, options.geometry, source.read(first, num), first, example);
    if (!writer) {
      data::ImageFileInfo info;
      info.visibility = options.visibility;
      info.num_records = count;
      info.channels = images.size(1);
      info.height = images.size(2);
      info.width = images.size(3);
      info.class_names = source.class_names;
      info.has_captions = !source.captions.empty();
      info.source = source.description;
      writer.emplace(options.output, info);
    }
    const at::Tensor labels = source.labels.defined() ? source.labels.narrow(0, first, num) : at::Tensor();
    std::span<const std::string> captions = source.captions;
    if (!captions.empty()) captions = captions.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(num));
    writer->append(images, labels, captions);
    progress.update(first + num);
  }
  writer->commit();
  fmt::print("{}: {} {} images {}x{}x{}{}{}\n", options.output.string(), count, data::to_text(options.visibility),
             example.size(0), example.size(1), example.size(2),
             source.class_names.empty() ? ", no labels" : fmt::format(", {} classes", source.class_names.size()),
             source.captions.empty() ? "" : ", with captions");
}

}  // namespace dpldm::tools
