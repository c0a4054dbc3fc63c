// dpldm-data render: the public image set, drawn rather than downloaded.
#include <algorithm>
#include <limits>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "base/progress.h"
#include "data/image_file.h"
#include "data_tools/commands.h"
#include "data_tools/options.h"
#include "data_tools/render/public_image.h"

namespace dpldm::tools {

void run_render(app::Invocation& invocation) {
  cxxopts::Options options(
      "dpldm-data render",
      "Draws the public image set: glyphs and shapes, with labels. The same seed gives the same images.");
  options.add_options()  //
      ("kind", "glyphs (36 classes), shapes (18) or mixed (54)",
       cxxopts::value<std::string>()->default_value("mixed"))                                                     //
      ("num", "how many images", cxxopts::value<std::string>()->default_value("40000"))                           //
      ("seed", "what they are drawn from", cxxopts::value<std::string>()->default_value("1"))                     //
      ("size", "height and width in pixels", cxxopts::value<std::string>()->default_value("28"))                  //
      ("fonts", "folder to look for fonts in", cxxopts::value<std::string>()->default_value("/usr/share/fonts"))  //
      ("o,output", "the image file to write", cxxopts::value<std::string>());
  add_force_option(options);
  const auto parsed = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!parsed) return;
  const std::filesystem::path output = required_text(*parsed, "output", "the image file to write");
  require_free_output(*parsed, output, {});
  const auto kind_text = (*parsed)["kind"].as<std::string>();
  const render::Kind kind = render::kind_from(kind_text);
  const std::int64_t num = integer_between(*parsed, "num", 1, 1'000'000'000);
  const std::int64_t seed = integer_between(*parsed, "seed", 0, std::numeric_limits<std::int64_t>::max());
  const std::int64_t size = integer_between(*parsed, "size", 8, 512);
  std::optional<render::Glyphs> glyphs;
  if (kind != render::Kind::kShapes) glyphs.emplace((*parsed)["fonts"].as<std::string>());

  data::ImageFileInfo info;
  info.visibility = data::Visibility::kPublic;
  info.num_records = num;
  info.channels = 1;
  info.height = size;
  info.width = size;
  info.class_names = render::class_names_of(kind);
  info.source = fmt::format("render {} seed {}, {} fonts", kind_text, seed, glyphs ? glyphs->num_fonts() : 0);
  data::ImageFileWriter writer(output, info);

  constexpr std::int64_t kBatch = 2048;
  Progress progress("render", num, "image", true);
  for (std::int64_t first = 0; first < num; first += kBatch) {
    const std::int64_t count = std::min(kBatch, num - first);
    const at::Tensor images = at::empty({count, 1, size, size}, at::kByte);
    const at::Tensor labels = at::empty({count}, at::kLong);
    auto* pixels = images.data_ptr<std::uint8_t>();
    auto* label = labels.data_ptr<std::int64_t>();
    at::parallel_for(0, count, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        label[i] = render::render_record(static_cast<std::uint64_t>(seed), first + i, kind, static_cast<int>(size),
                                         glyphs ? &*glyphs : nullptr, pixels + i * size * size);
      }
    });
    writer.append(images, labels);
    progress.update(first + count);
  }
  writer.commit();
  fmt::print("{}: {} public images 1x{}x{}, {} classes\n", output.string(), num, size, size, info.class_names.size());
}

}  // namespace dpldm::tools
