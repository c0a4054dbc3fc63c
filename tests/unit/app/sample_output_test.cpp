#include "app/sample_output.h"

#include <fstream>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/torch.h"
#include "data/image_file.h"
#include "data/visibility_mark.h"
#include "io/image_codec.h"
#include "io/image_tensor.h"

namespace dpldm::app {
namespace {

class SampleOutputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("sample_output_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Image i is uniformly 10 i.
  static at::Tensor images(std::int64_t first, std::int64_t count) {
    return (torch::arange(first, first + count) * 10)
        .to(torch::kByte)
        .view({-1, 1, 1, 1})
        .expand({count, 1, 4, 4})
        .contiguous();
  }
  static SampleOutputInfo info(std::int64_t num, std::vector<std::string> names) {
    return {num, 1, 4, 4, std::move(names), false, "synthetic"};
  }
  std::filesystem::path folder_;
};

TEST_F(SampleOutputTest, ImageFile_HoldsEverythingInOrderAndIsPublic) {
  SampleOutput output(folder_ / "new" / "x.h5", info(5, {"a", "b"}));
  output.append(images(0, 3), {0, 1, 0});
  output.append(images(3, 2), {1, 0});
  output.commit();
  const data::ImageFile file(folder_ / "new" / "x.h5");
  EXPECT_EQ(file.info().visibility, data::Visibility::kPublic);
  EXPECT_EQ(file.info().class_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(file.info().source, "synthetic");
  EXPECT_TRUE(torch::equal(file.read_images(0, 5), images(0, 5)));
  EXPECT_TRUE(torch::equal(file.read_labels(), torch::tensor({0, 1, 0, 1, 0})));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "new" / "x.png"));
}

TEST_F(SampleOutputTest, GridOfImages_IsCalledGrid) {
  SampleOutput output(folder_ / "images.h5", info(1, {}));
  output.append(images(0, 1), {});
  output.commit();
  EXPECT_TRUE(std::filesystem::exists(folder_ / "grid.png"));
}

TEST_F(SampleOutputTest, EveryPng_SaysVisibilityAndSource) {
  for (const data::Visibility visibility : {data::Visibility::kPrivate, data::Visibility::kPublic}) {
    const std::filesystem::path out = folder_ / data::to_text(visibility);
    SampleOutputInfo marked = info(2, {});
    marked.visibility = visibility;
    marked.source = "synthetic; NOT PRIVATE: a test";
    SampleOutput output(out, marked);
    output.append(images(0, 2), {});
    output.commit();
    for (const std::filesystem::path& png : {out / "000000.png", out / "000001.png", output.grid_path()}) {
      const std::string content = read_file(png, 1 << 20);
      EXPECT_EQ(io::png_text(content, data::kVisibilityKeyword), data::to_text(visibility)) << png;
      EXPECT_EQ(io::png_text(content, "dpldm-source"), marked.source) << png;
    }
  }
}

TEST_F(SampleOutputTest, EarlierSamples_AreReplacedAndNothingElse) {
  const auto write = [&](const std::string& name) {
    SampleOutput output(folder_ / name, info(1, {}));
    output.append(images(0, 1), {});
    output.commit();
  };
  for (const char* name : {"x.h5", "x.png", "y.png"}) {
    write(name);
    EXPECT_NO_THROW(write(name)) << name;
  }
  data::ImageFileInfo real;
  real.num_records = real.channels = 1;
  real.height = real.width = 4;
  real.source = "folder of photographs";
  data::ImageFileWriter writer(folder_ / "real.h5", real);
  writer.append(images(0, 1), {});
  writer.commit();
  io::write_png(folder_ / "photograph.png", io::image_from(images(0, 1)[0]));
  std::ofstream(folder_ / "table.h5") << "somebody else's";
  for (const char* name : {"real.h5", "photograph.png", "photograph.h5", "photograph", "table.h5"}) {
    const auto num_entries = std::distance(std::filesystem::directory_iterator(folder_), {});
    EXPECT_THROW(SampleOutput::require_replaceable(folder_ / name), ConfigError) << name;
    EXPECT_THROW(write(name), ConfigError) << name;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), num_entries) << name;
  }
  EXPECT_EQ(data::ImageFile(folder_ / "real.h5").info().source, real.source);
}

TEST_F(SampleOutputTest, NeighbouringOutputs_HaveGridsOfTheirOwn) {
  for (const char* name : {"images.h5", "b.h5", "c"}) {
    SampleOutput output(folder_ / name, info(1, {}));
    output.append(images(0, 1), {});
    output.commit();
  }
  for (const char* name : {"grid.png", "b.png", "c.png"}) EXPECT_TRUE(std::filesystem::exists(folder_ / name)) << name;
}

// One row per class: with a margin of 2 around 4x4 images, class 1's first image starts at row 2 + 4 + 2.
TEST_F(SampleOutputTest, Grid_HasOneRowPerClass) {
  SampleOutput output(folder_ / "x.h5", info(5, {"a", "b"}));
  output.append(images(0, 5), {0, 1, 0, 1, 0});
  output.commit();
  const at::Tensor grid = io::tensor_from(io::read_image(output.grid_path()));
  EXPECT_EQ(grid[0][2][2].item<int>(), 0);
  EXPECT_EQ(grid[0][2][8].item<int>(), 20);
  EXPECT_EQ(grid[0][2][14].item<int>(), 40);
  EXPECT_EQ(grid[0][8][2].item<int>(), 10);
  EXPECT_EQ(grid[0][8][8].item<int>(), 30);
}

TEST_F(SampleOutputTest, Folder_HasOnePngPerImageUnderSafeNames) {
  SampleOutput output(folder_ / "out", info(3, {"T-shirt/top", "../x"}));
  output.append(images(0, 3), {0, 1, 0});
  output.commit();
  const std::filesystem::path out = folder_ / "out";
  EXPECT_TRUE(std::filesystem::exists(out / "000-T-shirt_top" / "000000.png"));
  EXPECT_TRUE(std::filesystem::exists(out / "000-T-shirt_top" / "000002.png"));
  EXPECT_TRUE(torch::equal(io::tensor_from(io::read_image(out / "001-___x" / "000001.png")), images(1, 1)[0]));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out.png")) << "the grid is beside the folder, not one of the images";
}

TEST_F(SampleOutputTest, Captions_StayWithTheirImages) {
  const std::vector<std::string> captions{"a \"red\" cat, sitting", "a dog"};
  SampleOutputInfo captioned = info(2, {});
  captioned.has_captions = true;
  SampleOutput file(folder_ / "x.h5", captioned);
  file.append(images(0, 2), {}, captions);
  file.commit();
  EXPECT_EQ(data::ImageFile(folder_ / "x.h5").read_captions(), captions);
  SampleOutput folder(folder_ / "out", captioned);
  folder.append(images(0, 2), {}, captions);
  folder.commit();
  std::ifstream csv(folder_ / "out" / "captions.csv");
  const std::string text((std::istreambuf_iterator<char>(csv)), {});
  EXPECT_EQ(text, "file,caption\n000000.png,\"a \"\"red\"\" cat, sitting\"\n000001.png,\"a dog\"\n");
}

TEST_F(SampleOutputTest, NameOfAPicture_GivesTheGridAlone) {
  SampleOutput output(folder_ / "x.png", info(2, {}));
  output.append(images(0, 2), {});
  output.commit();
  EXPECT_TRUE(std::filesystem::exists(folder_ / "x.png"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(SampleOutputTest, WithoutClasses_ImagesLieInTheFolderItself) {
  SampleOutput output(folder_ / "out", info(2, {}));
  output.append(images(0, 2), {});
  output.commit();
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out" / "000001.png"));
}

TEST_F(SampleOutputTest, FolderWithSomethingInIt_IsRefused) {
  std::ofstream(folder_ / "mine.txt") << "keep";
  EXPECT_THROW(SampleOutput(folder_, info(2, {})), ConfigError);
}

TEST_F(SampleOutputTest, UnfinishedFile_DoesNotAppear) {
  {
    SampleOutput output(folder_ / "x.h5", info(5, {"a"}));
    output.append(images(0, 3), {0, 0, 0});
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.h5"));
}

}  // namespace
}  // namespace dpldm::app
