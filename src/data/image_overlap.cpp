#include "data/image_overlap.h"

#include <algorithm>
#include <functional>
#include <string>
#include <unordered_map>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "base/digest.h"
#include "base/error.h"

namespace dpldm::data {
namespace {

constexpr std::int64_t kImagesPerRead = 1000;

void for_each_digest(const ImageFile& file, const std::function<void(const std::string&)>& use) {
  const std::int64_t num_records = file.info().num_records;
  for (std::int64_t first = 0; first < num_records; first += kImagesPerRead) {
    const at::Tensor images = file.read_images(first, std::min(kImagesPerRead, num_records - first));
    for (const at::Tensor& image : images.unbind(0)) {
      Sha256 digest;
      digest.add(image.data_ptr(), image.nbytes());
      use(digest.finish());
    }
  }
}

}  // namespace

std::int64_t num_images_in_both(const ImageFile& a, const ImageFile& b) {
  const ImageFileInfo& left = a.info();
  const ImageFileInfo& right = b.info();
  if (left.channels != right.channels || left.height != right.height || left.width != right.width) {
    throw ConfigError(fmt::format("images of {}x{}x{} and of {}x{}x{} cannot be compared; import them alike",
                                  left.channels, left.height, left.width, right.channels, right.height, right.width));
  }
  std::unordered_map<std::string, std::int64_t> in_a;
  for_each_digest(a, [&](const std::string& digest) { ++in_a[digest]; });
  std::int64_t count = 0;
  for_each_digest(b, [&](const std::string& digest) {
    const auto found = in_a.find(digest);
    if (found == in_a.end()) return;
    count += found->second;
    in_a.erase(found);  // counted, however often it occurs in `b`
  });
  return count;
}

}  // namespace dpldm::data
