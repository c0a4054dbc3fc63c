// What a hostile or foreign HDF5 file may not do to a reader.
#include "data/hdf5_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "base/error.h"
#include "support/file_bytes.h"
#include "support/temporary_directory.h"

namespace dpldm::data::hdf5 {
namespace {

using test::TemporaryDirectory;
using ::testing::HasSubstr;

TEST(Hdf5File, LinksToOtherFiles_AreRefused) {
  const TemporaryDirectory folder;
  const hid_t file = H5Fcreate((folder.path() / "a.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("elsewhere.h5", "/secret", file, "images", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  try {
    File::open_read_only(folder.path() / "a.h5").open_dataset("images");
    FAIL() << "an external link was followed";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("link to somewhere else"));
  }
}

TEST(Hdf5File, ExternalStorageAndChunks_AreRefusedWhereContiguousIsExpected) {
  const TemporaryDirectory folder;
  test::write_bytes(folder.path() / "secret", "0123456789");
  const hid_t file = H5Fcreate((folder.path() / "a.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t size = 10;
  const hsize_t chunk = 5;
  const hid_t space = H5Screate_simple(1, &size, nullptr);
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, (folder.path() / "secret").c_str(), 0, size);
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(chunked, 1, &chunk);
  H5Dclose(H5Dcreate2(file, "external", H5T_STD_U8LE, space, H5P_DEFAULT, external, H5P_DEFAULT));
  const hid_t dataset = H5Dcreate2(file, "chunked", H5T_STD_U8LE, space, H5P_DEFAULT, chunked, H5P_DEFAULT);
  H5Dwrite(dataset, H5T_NATIVE_CHAR, H5S_ALL, H5S_ALL, H5P_DEFAULT, "0123456789");  // all ten bytes are there
  H5Dclose(dataset);
  H5Pclose(chunked);
  H5Pclose(external);
  H5Sclose(space);
  H5Fclose(file);

  const File opened = File::open_read_only(folder.path() / "a.h5");
  EXPECT_THROW(opened.open_dataset("external").require(ElementType::kUInt8, {10}), IoError);
  EXPECT_THROW(opened.open_dataset("chunked").require(ElementType::kUInt8, {10}), IoError);
}

TEST(Hdf5File, Datasets_DoNotRecordWhenTheyWereWritten) {
  const TemporaryDirectory folder;
  File file = File::create(folder.path() / "a.h5");
  file.create_dataset("numbers", ElementType::kInt32, {3});
  file.write_texts("texts", std::vector<std::string>{"a"});
  file.close();
  const hid_t opened = H5Fopen((folder.path() / "a.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  for (const char* name : {"numbers", "texts"}) {
    H5O_info_t info;
    H5Oget_info_by_name2(opened, name, &info, H5O_INFO_TIME, H5P_DEFAULT);
    EXPECT_EQ(info.ctime, 0) << name;
  }
  H5Fclose(opened);
}

TEST(Hdf5File, AttributeOfAnotherKind_IsRefused) {
  const TemporaryDirectory folder;
  {
    File file = File::create(folder.path() / "a.h5");
    file.write_attribute("text", std::string("x"));
    file.write_attribute("number", std::int64_t{7});
    file.close();
  }
  const File file = File::open_read_only(folder.path() / "a.h5");
  EXPECT_EQ(file.read_integer_attribute("number"), 7);
  EXPECT_THROW(file.read_integer_attribute("text"), IoError);
  EXPECT_THROW(file.read_text_attribute("number"), IoError);
  EXPECT_THROW(file.read_real_attribute("number"), IoError);
  EXPECT_THROW(file.read_integers_attribute("number", 2), IoError);
  EXPECT_THROW(file.read_texts_attribute("absent"), IoError);
}

TEST(Hdf5File, RowsOutsideADataset_AreRefused) {
  const TemporaryDirectory folder;
  File file = File::create(folder.path() / "a.h5");
  const Dataset dataset = file.create_dataset("x", ElementType::kInt32, {3, 2});
  const std::vector<std::int32_t> rows{1, 2, 3, 4, 5, 6};
  dataset.write_rows(0, 3, rows.data());
  std::vector<std::int32_t> out(4);
  dataset.read_rows(1, 2, out.data());
  EXPECT_EQ(out, (std::vector<std::int32_t>{3, 4, 5, 6}));
  EXPECT_THROW(dataset.read_rows(2, 2, out.data()), IoError);
  EXPECT_THROW(dataset.read_rows(-1, 1, out.data()), IoError);
}

}  // namespace
}  // namespace dpldm::data::hdf5
