#include "data/latent_file.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <unistd.h>

#include "base/error.h"
#include "data/hdf5_file.h"
#include "fuzz_targets.h"

namespace dpldm::fuzz {
namespace {

// Hands out the input piece by piece; zeros when it is used up.
class Recipe {
 public:
  explicit Recipe(std::string_view bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }

  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return value;
  }
  // Mostly small, now and then of any size.
  std::int64_t integer() {
    const std::uint8_t first = byte();
    if (first < 0xf0) return first;
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = (value << 8) | byte();
    return static_cast<std::int64_t>(value);
  }
  std::string text() {
    std::string value;
    for (int i = byte() % 16; i > 0; --i) value += static_cast<char>(1 + byte() % 126);
    return value;
  }

 private:
  std::string_view bytes_;
};

constexpr std::array kAttributes{"format",           "version",        "visibility", "num_records",
                                 "num_variants",     "latent_shape",   "image_size", "scaling_factor",
                                 "encoder_sha256",   "class_names",    "num_tokens", "vocabulary_size",
                                 "tokenizer_sha256", "content_sha256", "source"};

// A whole file of one record, of which the recipe replaces attributes.
void write_usual(data::hdf5::File& file, std::uint32_t left_out) {
  const auto wanted = [&](std::size_t i) { return ((left_out >> i) & 1U) == 0; };
  const std::vector<std::int64_t> latent{1, 2, 2};
  if (wanted(0)) file.write_attribute("format", std::string("dpldm-latents"));
  if (wanted(1)) file.write_attribute("version", std::int64_t{1});
  if (wanted(2)) file.write_attribute("visibility", std::string("public"));
  if (wanted(3)) file.write_attribute("num_records", std::int64_t{2});
  if (wanted(4)) file.write_attribute("num_variants", std::int64_t{1});
  if (wanted(5)) file.write_attribute("latent_shape", std::span<const std::int64_t>(latent));
  if (wanted(6)) file.write_attribute("image_size", std::span<const std::int64_t>(latent));
  if (wanted(7)) file.write_attribute("scaling_factor", 1.0);
  if (wanted(8)) file.write_attribute("encoder_sha256", std::string("e"));
  if (wanted(9)) file.write_attribute("class_names", std::span<const std::string>());
  if (wanted(10)) file.write_attribute("num_tokens", std::int64_t{3});
  if (wanted(11)) file.write_attribute("vocabulary_size", std::int64_t{9});
  if (wanted(12)) file.write_attribute("tokenizer_sha256", std::string("t"));
  if (wanted(13)) file.write_attribute("content_sha256", std::string("c"));
  if (wanted(14)) file.write_attribute("source", std::string("s"));
}

void write_attribute(data::hdf5::File& file, const std::string& name, Recipe& recipe) {
  switch (recipe.byte() % 5) {
    case 0:
      return file.write_attribute(name, recipe.integer());
    case 1:
      return file.write_attribute(name, recipe.text());
    case 2:
      return file.write_attribute(name, static_cast<double>(recipe.integer()) / 16 - 2);
    case 3: {
      std::vector<std::int64_t> values;
      for (int i = recipe.byte() % 5; i > 0; --i) values.push_back(recipe.integer());
      return file.write_attribute(name, std::span<const std::int64_t>(values));
    }
    default: {
      std::vector<std::string> values;
      for (int i = recipe.byte() % 5; i > 0; --i) values.push_back(recipe.text());
      return file.write_attribute(name, std::span<const std::string>(values));
    }
  }
}

void write_dataset(data::hdf5::File& file, const std::string& name, std::vector<std::int64_t> shape,
                   data::hdf5::ElementType type, Recipe& recipe) {
  const std::uint8_t change = recipe.byte();
  if (change == 1) return;
  if (change == 2) type = data::hdf5::ElementType::kUInt8;
  if (change == 3) shape.pop_back();
  if (change > 3) shape[change % shape.size()] = 1 + recipe.byte() % 4;
  file.create_dataset(name, type, shape);
}

void write_file(const std::string& path, Recipe& recipe) {
  data::hdf5::File file = data::hdf5::File::create(path);
  const std::uint32_t replaced = static_cast<std::uint32_t>(recipe.byte()) | (recipe.byte() << 8);
  write_usual(file, replaced);
  for (std::size_t i = 0; i < kAttributes.size(); ++i) {
    if (((replaced >> i) & 1U) != 0 && recipe.byte() % 4 != 0) write_attribute(file, kAttributes.at(i), recipe);
  }
  write_dataset(file, "moments", {2, 1, 2, 2, 2}, data::hdf5::ElementType::kFloat32, recipe);
  write_dataset(file, "tokens", {2, 3}, data::hdf5::ElementType::kInt32, recipe);
  if (recipe.byte() % 2 == 1) write_dataset(file, "labels", {2}, data::hdf5::ElementType::kInt32, recipe);
  file.close();
}

}  // namespace

void latent_file(std::string_view input) {
  Recipe recipe(input);
  const std::string path = "/dev/shm/dpldm-fuzz-" + std::to_string(::getpid()) + ".h5";
  try {
    write_file(path, recipe);
    const data::LatentFile file(path);
    const std::vector<std::int64_t> ids{0, recipe.byte()};
    file.read_moments(ids);
    file.read_tokens(ids);
    file.read_labels();
    file.verify_content();
  } catch (const Error&) {
    // Refused.
  }
  ::unlink(path.c_str());
}

}  // namespace dpldm::fuzz
