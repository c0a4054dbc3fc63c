// dpldm-data verify FILE: reads everything once. Exit code 0 means that training can rely on the content; who changes
// an attribute (visibility, say) to another allowed value is not found out, because the checksum covers the content
// alone.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "data/data_kind.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data_tools/commands.h"
#include "data_tools/options.h"

namespace dpldm::tools {

void run_verify(app::Invocation& invocation) {
  cxxopts::Options options(
      "dpldm-data verify",
      "Checks a data file: attributes and sizes for what is allowed, labels, finite values, and the "
      "checksum over the content (not over the attributes).");
  options.add_options()                                                          //
      ("file", "an image file or a latent file", cxxopts::value<std::string>())  //
      ("json", "one JSON object instead of a sentence");
  options.parse_positional({"file"});
  options.positional_help("FILE");
  const auto parsed = parse_or_help(options, invocation.argc(), invocation.argv());
  if (!parsed) return;
  const std::filesystem::path path = required_path(*parsed);

  std::int64_t num_records = 0;
  std::string content_sha256;
  const auto check = [&](const auto& file) {
    file.verify_content();
    num_records = file.info().num_records;
    content_sha256 = file.info().content_sha256;
  };
  const bool holds_images = data::kind_of(path) == data::DataKind::kImages;
  if (holds_images) {
    check(data::ImageFile(path));
  } else {
    check(data::LatentFile(path));
  }
  if (parsed->count("json") > 0) {
    const nlohmann::ordered_json answer{{"verified", true},
                                        {"format", holds_images ? "dpldm-images" : "dpldm-latents"},
                                        {"num_records", num_records},
                                        {"content_sha256", content_sha256}};
    fmt::print("{}\n", answer.dump());
  } else {
    fmt::print("{}: {} of {} records are in range and have the recorded checksum; it does not cover the attributes\n",
               path.string(), holds_images ? "images, labels and captions" : "moments, labels and tokens", num_records);
  }
}

}  // namespace dpldm::tools
