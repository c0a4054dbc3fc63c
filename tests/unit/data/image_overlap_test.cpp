#include "data/image_overlap.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/temporary_directory.h"

namespace dpldm::data {
namespace {

class ImageOverlap : public ::testing::Test {
 protected:
  // Images of 2 x 2 pixels of these grey levels.
  ImageFile file_of(const std::string& name, const std::vector<std::int64_t>& levels, std::int64_t side = 2) const {
    ImageFileInfo info;
    info.num_records = static_cast<std::int64_t>(levels.size());
    info.channels = 1;
    info.height = info.width = side;
    ImageFileWriter writer(folder_.path() / name, info);
    writer.append(at::tensor(levels, at::kLong).to(at::kByte).view({-1, 1, 1, 1}).expand({-1, 1, side, side}), {});
    writer.commit();
    return ImageFile(folder_.path() / name);
  }

 private:
  test::TemporaryDirectory folder_;
};

TEST_F(ImageOverlap, ImagesOfTheFirstFile_AreCountedOnceEach) {
  const ImageFile a = file_of("a.h5", {1, 2, 3, 3, 4});
  EXPECT_EQ(num_images_in_both(a, file_of("b.h5", {3, 9, 1, 1, 8})), 3);
  EXPECT_EQ(num_images_in_both(a, file_of("c.h5", {7, 8, 9})), 0);
  EXPECT_EQ(num_images_in_both(a, a), 5);
}

TEST_F(ImageOverlap, ImagesOfAnotherSize_CannotBeCompared) {
  EXPECT_THROW(num_images_in_both(file_of("a.h5", {1}), file_of("b.h5", {1}, 3)), ConfigError);
}

}  // namespace
}  // namespace dpldm::data
