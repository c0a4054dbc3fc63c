// The binary CIFAR batches and other people's HDF5 files.
#include <ATen/ATen.h>
#include <hdf5.h>

#include "data/hdf5_file.h"
#include "data/image_file.h"
#include "unit/data_tools/tool_test.h"

namespace dpldm::tools {
namespace {

using ::testing::ElementsAre;

// A record with `label` bytes in front and every red, green and blue byte 10, 20, 30.
std::string cifar_record(const std::string& labels) {
  return labels + std::string(1024, '\x0a') + std::string(1024, '\x14') + std::string(1024, '\x1e');
}

class ImportCifar : public ToolTest {
 protected:
  std::vector<std::string> arguments(const std::string& batches, const std::string& classes) const {
    return {"import", "cifar",        "--batches", batches, "--classes",
            classes,  "--visibility", "public",    "-o",    text("out.h5")};
  }
};

TEST_F(ImportCifar, Batches_AreJoinedInTheirOrder) {
  write("1.bin", cifar_record("\x03") + cifar_record("\x09"));
  write("2.bin", cifar_record(std::string(1, '\0')));
  ASSERT_EQ(run(arguments(text("1.bin") + "," + text("2.bin"), "10")).exit_code, 0);
  const data::ImageFile file(path("out.h5"));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({3, 9, 0}, at::kLong)));
  EXPECT_EQ(file.info().class_names.at(3), "cat");
  const at::Tensor pixel = file.read_images(2, 1).slice(2, 31, 32).slice(3, 31, 32).flatten();
  EXPECT_TRUE(at::equal(pixel, at::tensor({10, 20, 30}, at::kByte)));
}

TEST_F(ImportCifar, HundredClasses_TakeTheFineLabel) {
  write("train.bin", cifar_record("\x01\x63"));
  ASSERT_EQ(run(arguments(text("train.bin"), "100")).exit_code, 0);
  const data::ImageFile file(path("out.h5"));
  EXPECT_EQ(file.read_labels().item<std::int64_t>(), 99);
  EXPECT_EQ(file.info().class_names.size(), 100U);
}

TEST_F(ImportCifar, PrivateRecords_HaveTheClassesOfTheFormat) {
  write("train.bin", cifar_record(std::string("\x01\x07", 2)));
  std::vector<std::string> command = arguments(text("train.bin"), "100");
  command[7] = "private";
  ASSERT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().class_names.size(), 100U);
}

TEST_F(ImportCifar, OutputThatIsABatch_IsRefused) {
  write("1.bin", cifar_record("\x03"));
  write("2.bin", cifar_record("\x04"));
  std::vector<std::string> command = arguments(text("1.bin") + "," + text("2.bin"), "10");
  command[9] = text("2.bin");
  command.push_back("--force");
  expect_refusal(command, 64, "is read here and would be overwritten");
  EXPECT_EQ(test::bytes_of(path("2.bin")), cifar_record("\x04"));
  command[3] += ",";
  expect_refusal(command, 64, "a part of it is empty");
}

TEST_F(ImportCifar, TruncatedOrOtherBatch_IsRefused) {
  write("cut.bin", cifar_record("\x03").substr(1));
  expect_refusal(arguments(text("cut.bin"), "10"), 74, "not a multiple of a record's 3073");
  write("empty.bin", "");
  expect_refusal(arguments(text("empty.bin"), "10"), 74, "has 0 bytes");
  write("label.bin", cifar_record("\x0a"));
  expect_refusal(arguments(text("label.bin"), "10"), 74, "CIFAR-10 has labels below 10");
  write("good.bin", cifar_record("\x03"));
  expect_refusal(arguments(text("good.bin") + "," + text("./good.bin"), "10"), 64, "twice");
}

class ImportHdf5 : public ToolTest {
 protected:
  std::vector<std::string> arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"import",       "hdf5",   "--file", text("in.h5"),
                                 "--visibility", "public", "-o",     text("out.h5")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // A chunked, compressed dataset x, as h5py users write it, and labels y of shape [N, 1].
  void write_input(const std::vector<hsize_t>& shape, std::vector<std::uint8_t> labels) const {
    hsize_t num_bytes = 1;
    for (const hsize_t size : shape) num_bytes *= size;
    std::vector<std::uint8_t> pixels;
    for (hsize_t i = 0; i < num_bytes; ++i) pixels.push_back(static_cast<std::uint8_t>(i));
    const hid_t file = H5Fcreate(text("in.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(chunked, static_cast<int>(shape.size()), shape.data());
    H5Pset_deflate(chunked, 1);
    const hid_t images = H5Dcreate2(file, "x", H5T_STD_U8LE, space, H5P_DEFAULT, chunked, H5P_DEFAULT);
    H5Dwrite(images, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, pixels.data());
    const hsize_t labels_shape[] = {labels.size(), 1};
    const hid_t labels_space = H5Screate_simple(2, labels_shape, nullptr);
    const hid_t y = H5Dcreate2(file, "y", H5T_STD_U8LE, labels_space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(y, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, labels.data());
    H5Dclose(y);
    H5Sclose(labels_space);
    H5Dclose(images);
    H5Pclose(chunked);
    H5Sclose(space);
    H5Fclose(file);
  }
};

TEST_F(ImportHdf5, ChannelsLast_AreBroughtToTheFront) {
  write_input({2, 4, 5, 3}, {1, 0});
  ASSERT_EQ(run(arguments({"--images", "x", "--labels", "y"})).exit_code, 0);
  const data::ImageFile file(path("out.h5"));
  EXPECT_TRUE(
      at::equal(file.read_images(0, 2), at::arange(120).to(at::kByte).reshape({2, 4, 5, 3}).permute({0, 3, 1, 2})));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({1, 0}, at::kLong)));
}

TEST_F(ImportHdf5, GreyWithoutAnAxisForIt_IsRead) {
  write_input({2, 4, 5}, {1, 0});
  ASSERT_EQ(run(arguments({"--images", "x"})).exit_code, 0);
  EXPECT_TRUE(
      at::equal(data::ImageFile(path("out.h5")).read_images(0, 2), at::arange(40).to(at::kByte).reshape({2, 1, 4, 5})));
}

TEST_F(ImportHdf5, DatasetsThatDoNotFit_AreRefused) {
  write_input({2, 4, 5, 3}, {1, 0, 1});
  expect_refusal(arguments({"--images", "x", "--labels", "y"}), 64, "2 images need as many labels");
  expect_refusal(arguments({"--images", "z"}), 74, "dataset 'z' is missing");
  expect_refusal(arguments({"--images", "y"}), 64, "uint8 [N, H, W]");
  write_input({2, 3, 5, 3}, {1, 0});
  expect_refusal(arguments({"--images", "x"}), 64, "is not clear");
  write("in.h5", "something else");
  expect_refusal(arguments({"--images", "x"}), 74, "is not an HDF5 file");
}

TEST_F(ImportHdf5, FileOfOursThatIsPrivate_DoesNotBecomePublic) {
  data::ImageFileInfo info;
  info.num_records = 2;
  info.channels = 1;
  info.height = info.width = 4;
  info.class_names = {"a", "b"};
  for (const data::Visibility visibility : {data::Visibility::kPrivate, data::Visibility::kPublic}) {
    info.visibility = visibility;
    data::ImageFileWriter writer(path("in.h5"), info);
    writer.append(at::ones({2, 1, 4, 4}, at::kByte), at::tensor({0, 1}, at::kLong));
    writer.commit();
    if (visibility == data::Visibility::kPrivate) {
      expect_refusal(arguments({"--images", "images", "--labels", "labels"}), 64,
                     "in.h5 is marked private; nothing turns private into public");
    }
  }
  EXPECT_EQ(run(arguments({"--images", "images", "--labels", "labels"})).exit_code, 0);
}

TEST_F(ImportHdf5, SomebodyElsesAttributes_AreNotOurs) {
  write_input({2, 4, 5}, {1, 0});
  data::hdf5::File file = data::hdf5::File::open_for_writing(path("in.h5"));
  file.write_attribute("format", std::int64_t{3});
  file.write_attribute("visibility", std::string("private"));
  file.close();
  EXPECT_EQ(run(arguments({"--images", "x"})).exit_code, 0);
}

TEST_F(ImportHdf5, NumberOfPrivateClasses_IsSaidAndNotCounted) {
  write_input({2, 4, 5}, {1, 0});
  std::vector<std::string> command = arguments({"--images", "x", "--labels", "y"});
  command[5] = "private";
  expect_refusal(command, 64, "--num-classes is missing");
  command.insert(command.end(), {"--num-classes", "4"});
  ASSERT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().class_names.size(), 4U);
}

TEST_F(ImportHdf5, OutputThatIsTheInput_IsRefused) {
  write_input({2, 4, 5}, {1, 0});
  std::vector<std::string> command = arguments({"--images", "x", "--force"});
  command[7] = text("in.h5");
  expect_refusal(command, 64, "is read here and would be overwritten");
}

TEST_F(ImportHdf5, ShapeOfTerabytesInASmallFile_IsRefused) {
  write_input({2, 4, 5}, {1, 0});
  const hid_t file = H5Fopen(text("in.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hsize_t shape[] = {hsize_t{1} << 35, 28, 28};
  const hsize_t chunk[] = {1024, 28, 28};
  const hid_t space = H5Screate_simple(3, shape, nullptr);
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(chunked, 3, chunk);
  H5Dclose(H5Dcreate2(file, "sparse", H5T_STD_U8LE, space, H5P_DEFAULT, chunked, H5P_DEFAULT));
  H5Pclose(chunked);
  H5Sclose(space);
  H5Fclose(file);
  expect_refusal(arguments({"--images", "sparse"}), 74, "more than its 0 stored bytes can hold");
}

TEST_F(ImportHdf5, ValuesInAnotherFile_AreRefused) {
  write("secret", std::string(40, 's'));
  write_input({2, 4, 5}, {1, 0});
  const hid_t file = H5Fopen(text("in.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hsize_t shape[] = {2, 4, 5};
  const hid_t space = H5Screate_simple(3, shape, nullptr);
  const hid_t outside = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(outside, text("secret").c_str(), 0, 40);
  H5Dclose(H5Dcreate2(file, "elsewhere", H5T_STD_U8LE, space, H5P_DEFAULT, outside, H5P_DEFAULT));
  H5Pclose(outside);
  H5Sclose(space);
  H5Fclose(file);
  expect_refusal(arguments({"--images", "elsewhere"}), 74, "is not stored inside the file");
}

}  // namespace
}  // namespace dpldm::tools
