#include <limits>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "data/hdf5_file.h"
#include "data/image_file.h"
#include "data/latent_file.h"
#include "data/visibility_mark.h"
#include "io/image_codec.h"
#include "unit/data_tools/tool_test.h"

namespace dpldm::tools {
namespace {

class InspectAndVerify : public ToolTest {
 protected:
  void write_images(const std::string& name, data::Visibility visibility) const {
    data::ImageFileInfo info;
    info.visibility = visibility;
    info.num_records = 3;
    info.channels = 1;
    info.height = 4;
    info.width = 6;
    info.class_names = {"cat", "dog"};
    info.source = "a test";
    data::ImageFileWriter writer(path(name), info);
    writer.append(at::full({3, 1, 4, 6}, 200, at::kByte), at::tensor({1, 0, 1}, at::kLong));
    writer.commit();
  }

  void write_latents(const std::string& name) const {
    data::LatentFileInfo info;
    info.visibility = data::Visibility::kPrivate;
    info.num_records = 2;
    info.num_variants = 1;
    info.channels = 4;
    info.height = info.width = 7;
    info.image_channels = 1;
    info.image_height = info.image_width = 28;
    info.encoder_sha256 = "abc";
    data::LatentFileWriter writer(path(name), info, false, false);
    writer.write_moments(0, at::ones({2, 1, 8, 7, 7}));
    writer.commit();
  }

  void overwrite(const std::string& name, const std::string& dataset, const std::string& bytes) const {
    const std::uint64_t offset = data::hdf5::File::open_read_only(path(name)).open_dataset(dataset).file_offset();
    std::string content = test::bytes_of(path(name));
    content.replace(offset, bytes.size(), bytes);
    test::write_bytes(path(name), content);
  }
};

TEST_F(InspectAndVerify, PublicImages_AreDescribedAndShown) {
  write_images("x.h5", data::Visibility::kPublic);
  const test::ProcessResult result = run({"inspect", text("x.h5"), "--json", "--png", text("grid.png")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json["format"], "dpldm-images");
  EXPECT_EQ(json["visibility"], "public");
  EXPECT_EQ(json["num_records"], 3);
  EXPECT_EQ(json["image_size"], (nlohmann::json{1, 4, 6}));
  EXPECT_EQ(json["class_counts"], (nlohmann::json{1, 2}));
  const io::Image grid = io::read_image(path("grid.png"));
  EXPECT_EQ(grid.width, 2 * (6 + 2) + 2);
  EXPECT_EQ(grid.bytes.at(static_cast<std::size_t>(2 * grid.width + 2)), 200);
  expect_refusal({"inspect", text("x.h5"), "--png", text("x.h5")}, 64, "its name must end in .png");
}

TEST_F(InspectAndVerify, PrivateImages_AreShownOnlyWhenAskedForTwice) {
  write_images("x.h5", data::Visibility::kPrivate);
  expect_refusal({"inspect", text("x.h5"), "--png", text("grid.png")}, 64, "only with --show-private");
  const test::ProcessResult described = run({"inspect", text("x.h5"), "--json"});
  EXPECT_FALSE(nlohmann::json::parse(described.out).contains("class_counts")) << "a private histogram was printed";
  ASSERT_EQ(run({"inspect", text("x.h5"), "--png", text("grid.png"), "--show-private"}).exit_code, 0);
  EXPECT_EQ(io::png_text(test::bytes_of(path("grid.png")), data::kVisibilityKeyword), "private");
  expect_refusal({"inspect", text("x.h5"), "--png", text("grid.png"), "--show-private"}, 64, "--force replaces it");
  EXPECT_EQ(run({"inspect", text("x.h5"), "--png", text("grid.png"), "--show-private", "--force"}).exit_code, 0);
}

TEST_F(InspectAndVerify, Picture_NeverReplacesTheFileItShows) {
  write_images("x.png", data::Visibility::kPublic);
  expect_refusal({"inspect", text("x.png"), "--png", text("x.png"), "--force"}, 64, "would be overwritten");
}

TEST_F(InspectAndVerify, Latents_AreDescribed) {
  write_latents("l.h5");
  const auto json = nlohmann::json::parse(run({"inspect", text("l.h5"), "--json"}).out);
  EXPECT_EQ(json["latent_shape"], (nlohmann::json{4, 7, 7}));
  EXPECT_EQ(json["precision"], "float32");
  EXPECT_THAT(run({"inspect", text("l.h5")}).out, testing::HasSubstr("latent_shape    4x7x7"));
  expect_refusal({"inspect", text("l.h5"), "--png", text("grid.png")}, 64, "shows images only");
}

TEST_F(InspectAndVerify, WholeFiles_Pass) {
  write_images("x.h5", data::Visibility::kPrivate);
  write_latents("l.h5");
  const test::ProcessResult images = run({"verify", text("x.h5")});
  EXPECT_EQ(images.exit_code, 0);
  EXPECT_THAT(images.out, testing::HasSubstr("checksum; it does not cover the attributes")) << "no more is claimed";
  const test::ProcessResult result = run({"verify", text("l.h5"), "--json"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(nlohmann::json::parse(result.out)["verified"], true);
}

TEST_F(InspectAndVerify, DamagedFiles_Fail) {
  write_images("x.h5", data::Visibility::kPublic);
  overwrite("x.h5", "images", "\x01");
  expect_refusal({"verify", text("x.h5")}, 74, "is damaged");
  write_images("x.h5", data::Visibility::kPublic);
  overwrite("x.h5", "labels", "\x07");
  expect_refusal({"verify", text("x.h5")}, 74, "labels run from");
  write_latents("l.h5");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  overwrite("l.h5", "moments", std::string(reinterpret_cast<const char*>(&nan), sizeof(nan)));
  expect_refusal({"verify", text("l.h5")}, 74, "not finite");
  write("cut.h5", test::bytes_of(path("l.h5")).substr(0, 3000));
  expect_refusal({"verify", text("cut.h5")}, 74, "cut.h5");
  write("other.h5", "not HDF5");
  expect_refusal({"inspect", text("other.h5")}, 74, "is not an HDF5 file");
  expect_refusal({"verify", text("absent.h5")}, 74, "No such file");
  expect_refusal({"verify"}, 64, "FILE is missing");
}

TEST_F(InspectAndVerify, Render_IsPublicAndTheSameTwice) {
  for (const std::string name : {"a.h5", "b.h5"}) {
    ASSERT_EQ(run({"render", "--kind", "mixed", "--num", "40", "--seed", "7", "-o", text(name)}).exit_code, 0);
  }
  EXPECT_EQ(test::bytes_of(path("a.h5")), test::bytes_of(path("b.h5")));
  const data::ImageFile file(path("a.h5"));
  EXPECT_EQ(file.info().visibility, data::Visibility::kPublic);
  EXPECT_EQ(file.info().class_names.size(), 54U);
  expect_refusal({"render", "--num", "5", "-o", text("b.h5")}, 64, "b.h5 is there already; --force replaces it");
  EXPECT_EQ(run({"render", "--num", "5", "-o", text("b.h5"), "--force"}).exit_code, 0);
  expect_refusal({"render", "--kind", "clothes", "-o", text("c.h5")}, 64, "glyphs, shapes and mixed");
  expect_refusal({"render", "--num", "5", "-o", text("no/c.h5")}, 74, "not an existing folder");
}

}  // namespace
}  // namespace dpldm::tools
