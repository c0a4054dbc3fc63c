#include <ATen/ATen.h>

#include "data/image_file.h"
#include "data/visibility_mark.h"
#include "io/image_codec.h"
#include "support/image_fixtures.h"
#include "unit/data_tools/tool_test.h"

namespace dpldm::tools {
namespace {

using ::testing::ElementsAre;

// A PNG of one grey level.
std::string grey_png(int level, std::int64_t height = 4, std::int64_t width = 4) {
  return io::encode_png(
      {height, width, 1,
       std::vector<std::uint8_t>(static_cast<std::size_t>(height * width), static_cast<std::uint8_t>(level))});
}

class ImportFolder : public ToolTest {
 protected:
  std::vector<std::string> arguments(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all{"import",       "folder",  "--dir", text("in"),
                                 "--visibility", "private", "-o",    text("out.h5")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // The first pixel of every record, in order.
  std::vector<int> levels() const {
    const data::ImageFile file(path("out.h5"));
    std::vector<int> result;
    for (std::int64_t i = 0; i < file.info().num_records; ++i) {
      result.push_back(file.read_images(i, 1).flatten()[0].item<int>());
    }
    return result;
  }
};

TEST_F(ImportFolder, ClassFolders_GiveLabelsInSortedOrder) {
  write("in/dog/2.png", grey_png(40));
  write("in/cat/b.PNG", grey_png(20));
  write("in/cat/a.png", grey_png(10));
  write("in/dog/deeper/1.png", grey_png(50));
  write("in/.hidden/x.png", grey_png(99));
  write("in/dog/readme.txt", "not an image");
  const test::ProcessResult result = run(arguments());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr("1 file(s) that are neither"));
  const data::ImageFile file(path("out.h5"));
  EXPECT_THAT(file.info().class_names, ElementsAre("cat", "dog"));
  EXPECT_THAT(levels(), ElementsAre(10, 20, 40, 50));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({0, 0, 1, 1}, at::kLong)));
  EXPECT_EQ(file.info().visibility, data::Visibility::kPrivate);
}

TEST_F(ImportFolder, LooseImages_HaveNoLabels) {
  write("in/b.png", grey_png(2));
  write("in/a.jpg", test::jpeg_file(4, 4, 1));
  ASSERT_EQ(run(arguments()).exit_code, 0);
  EXPECT_TRUE(data::ImageFile(path("out.h5")).info().class_names.empty());
}

TEST_F(ImportFolder, Csv_GivesOrderLabelsAndCaptions) {
  write("in/x/1.png", grey_png(1));
  write("in/2.png", grey_png(2));
  write("in/unlisted.png", grey_png(3));
  write("list.csv", "caption,file,label\n\"a, b\",2.png,10\nsecond,x/1.png,9\n");
  ASSERT_EQ(run(arguments({"--csv", text("list.csv")})).exit_code, 0);
  const data::ImageFile file(path("out.h5"));
  EXPECT_THAT(levels(), ElementsAre(2, 1));
  EXPECT_THAT(file.info().class_names, ElementsAre("9", "10"));
  EXPECT_THAT(file.read_captions(), ElementsAre("a, b", "second"));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({1, 0}, at::kLong)));
}

TEST_F(ImportFolder, CsvThatLies_IsRefused) {
  write("in/1.png", grey_png(1));
  const auto refused = [&](const std::string& csv, int code, const std::string& what) {
    write("list.csv", csv);
    expect_refusal(arguments({"--csv", text("list.csv")}), code, what);
  };
  refused("file,label\n../1.png,a\n", 64, "must stay inside");
  refused("file,label\n1.png,a\n./1.png,b\n", 64, "twice");
  refused("file,label\n2.png,a\n", 74, "2.png");
  refused("file,label,label\n1.png,a,b\n", 64, "two columns of one name");
  refused("file,label\n", 64, "list.csv lists no image");
  refused("file,label\n\n1.png,\n", 64, "list.csv, line 3: the label is empty");
  refused("file,label\n1.png,ch\xe9\n", 64, "list.csv, line 2: the label is not UTF-8");
  refused("file\n1.png\n", 64, "'file' and one or both of 'label' and 'caption' are expected");
  refused("label,caption\na,b\n", 64, "'file' and one or both");
}

TEST_F(ImportFolder, FolderWithoutImages_IsRefused) {
  std::filesystem::create_directories(path("in"));
  expect_refusal(arguments(), 64, "holds no PNG or JPEG file");
  std::filesystem::create_directories(path("in/cat"));
  expect_refusal(arguments(), 64, "holds no PNG or JPEG file");
  expect_refusal({"import", "folder", "--dir", text("absent"), "--visibility", "public", "-o", text("out.h5")}, 74,
                 "is not a folder");
}

TEST_F(ImportFolder, ImagesBesideClasses_AreRefused) {
  write("in/cat/1.png", grey_png(1));
  write("in/2.png", grey_png(2));
  expect_refusal(arguments(), 64, "either all have a class or none");
}

TEST_F(ImportFolder, ImagesThatAreNoTrainingData_AreRefused) {
  write("in/1.png", grey_png(1));
  const std::vector<std::pair<std::string, std::string>> cases{
      {test::jpeg_file(8, 8, 4), "CMYK"},
      {test::png_file_16_bit(4, 4), "16 bits"},
      {test::png_bomb(60'000, 60'000), "60000x60000 pixels"},
      {test::jpeg_file(16, 16, 1).substr(0, 200), "2.png"},
      {grey_png(1).substr(0, 50), "2.png"},
      {"not an image", "neither a PNG nor a JPEG"},
  };
  for (const auto& [content, complaint] : cases) {
    write("in/2.png", content);
    expect_refusal(arguments(), 74, complaint);
  }
}

TEST_F(ImportFolder, ImagesOfSeveralSizes_NeedSize) {
  write("in/1.png", grey_png(100, 4, 4));
  write("in/2.png", grey_png(200, 8, 6));
  expect_refusal(arguments(), 64, "add --size");
  expect_refusal(arguments({"--size", "4"}), 64, "add --crop center");
  ASSERT_EQ(run(arguments({"--size", "4", "--crop", "center"})).exit_code, 0);
  EXPECT_THAT(levels(), ElementsAre(100, 200));
}

TEST_F(ImportFolder, GreyAndColour_NeedChannels) {
  write("in/1.png", grey_png(100));
  write("in/2.png", test::png_file_with_palette(4, 4));
  expect_refusal(arguments(), 64, "add --channels 1 or 3");
  ASSERT_EQ(run(arguments({"--channels", "3"})).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().channels, 3);
}

TEST_F(ImportFolder, OnePictureUnderTwoNames_IsRefused) {
  write("in/a/x.png", grey_png(1));
  std::filesystem::create_directories(path("in/b"));
  std::filesystem::create_symlink("../a/x.png", path("in/b/y.png"));
  expect_refusal(arguments(), 64, "are the same file, which would be two records");
  std::filesystem::remove(path("in/b/y.png"));
  std::filesystem::create_hard_link(path("in/a/x.png"), path("in/b/y.png"));
  expect_refusal(arguments(), 64, "are the same file");
  write("list.csv", "file,label\na/x.png,a\nb/y.png,b\n");
  expect_refusal(arguments({"--csv", text("list.csv")}), 64, "are the same file");
}

TEST_F(ImportFolder, Links_AreFollowedOrRefusedAndNeverLeftOut) {
  write("elsewhere/cats/1.png", grey_png(10));
  write("elsewhere/2.png", grey_png(20));
  write("in/dog/3.png", grey_png(30));
  std::filesystem::create_directory_symlink(path("elsewhere/cats"), path("in/cat"));
  std::filesystem::create_symlink(path("elsewhere/2.png"), path("in/dog/2.png"));
  ASSERT_EQ(run(arguments()).exit_code, 0);
  EXPECT_THAT(levels(), ElementsAre(10, 20, 30));
  std::filesystem::remove(path("out.h5"));
  std::filesystem::create_directory_symlink(path("elsewhere"), path("in/dog/more"));
  expect_refusal(arguments(), 64, "in/dog/more is a link to a folder inside a class folder, which is not followed");
  std::filesystem::remove(path("in/dog/more"));
  std::filesystem::create_symlink(path("absent.png"), path("in/dog/4.png"));
  expect_refusal(arguments(), 64, "in/dog/4.png is a link that leads nowhere");
  std::filesystem::rename(path("in/dog/4.png"), path("in/absent"));
  expect_refusal(arguments(), 64, "in/absent is a link that leads nowhere");
}

TEST_F(ImportFolder, PngThatIsMarkedPrivate_DoesNotBecomePublic) {
  const io::Image image{4, 4, 1, std::vector<std::uint8_t>(16, 7)};
  const auto marked = [&](const char* visibility) {
    return io::encode_png(image, {{data::kVisibilityKeyword, visibility}});
  };
  write("in/1.png", marked("public"));
  write("in/2.png", marked("private"));
  std::vector<std::string> command = arguments();
  command[5] = "public";
  expect_refusal(command, 64, "2.png is marked private; nothing turns private into public");
  EXPECT_EQ(run(arguments()).exit_code, 0) << "private it may stay";
  std::filesystem::remove(path("out.h5"));
  write("in/2.png", marked("public"));
  EXPECT_EQ(run(command).exit_code, 0);
}

TEST_F(ImportFolder, OutputThatIsRead_IsRefused) {
  write("in/a/1.png", grey_png(1));
  write("list.csv", "file,label\na/1.png,a\n");
  std::vector<std::string> command = arguments({"--csv", text("list.csv"), "--force"});
  for (const char* input : {"list.csv", "in/a/1.png"}) {
    const std::string before = test::bytes_of(path(input));
    command[7] = text(input);
    expect_refusal(command, 64, "is read here and would be overwritten");
    EXPECT_EQ(test::bytes_of(path(input)), before);
  }
}

TEST_F(ImportFolder, PhotographOnItsSide_IsImportedTheRightWayUp) {
  write("in/1.jpg", test::with_app1(test::jpeg_file(8, 16, 3), test::exif_of_orientation(6, true)));
  ASSERT_EQ(run(arguments()).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().height, 16);
}

TEST_F(ImportFolder, FailureInALaterBatch_LeavesNothing) {
  for (int i = 0; i < 300; ++i) write("in/" + std::to_string(1000 + i) + ".png", grey_png(i % 256));
  write("in/2000.png", grey_png(1).substr(0, 50));
  expect_refusal(arguments(), 74, "2000.png");
}

}  // namespace
}  // namespace dpldm::tools
