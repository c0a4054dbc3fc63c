#include "io/safetensors.h"

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/torch.h"
#include "io/torch_archive.h"
#include "support/hanging_file.h"

namespace dpldm::io {
namespace {

using testing::HasSubstr;

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / ("safetensors_" + std::to_string(::getpid()) + "_" + name);
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// A file with any header length and text, valid or not.
std::filesystem::path file_with(const std::string& header, const std::string& data, std::uint64_t stated_length) {
  const auto path = scratch("crafted.safetensors");
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&stated_length), sizeof(stated_length));
  stream << header << data;
  return path;
}

std::string refusal_of(const std::filesystem::path& path) {
  try {
    read_safetensors(path);
  } catch (const IoError& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal_of_header(const std::string& header, std::size_t num_data_bytes) {
  return refusal_of(file_with(header, std::string(num_data_bytes, '\0'), header.size()));
}

const std::string kOneFloat = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";

TEST(Safetensors, EveryTypeAndShapeComesBackBitIdentical) {
  torch::manual_seed(1);
  const NamedTensors written{{"half", torch::randn({3, 2}).to(at::kHalf)},
                             {"brain", torch::randn({5}).to(at::kBFloat16)},
                             {"float", torch::randn({2, 3, 4}).transpose(0, 2)},
                             {"double", torch::randn({1, 1}, at::kDouble)},
                             {"long", torch::arange(4)},
                             {"int", torch::arange(3, at::kInt)},
                             {"byte", torch::arange(7, at::kByte)},
                             {"bool", torch::tensor({true, false, true})},
                             {"scalar", torch::tensor(2.5F)},
                             {"empty", torch::empty({0, 4})}};
  const auto path = scratch("types.safetensors");
  write_safetensors(path, written, {{"note", "a \"quoted\" text"}});
  std::map<std::string, std::string> metadata;
  const NamedTensors read = read_safetensors(path, &metadata);
  EXPECT_EQ(metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"note", "a \"quoted\" text"}}));
  ASSERT_EQ(read.size(), written.size());
  for (const auto& [name, tensor] : written) {
    const auto found = std::find_if(read.begin(), read.end(), [&, &n = name](const auto& r) { return r.first == n; });
    ASSERT_NE(found, read.end()) << name;
    EXPECT_EQ(found->second.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(found->second, tensor)) << name;
  }
}

// Made by Python: safetensors.torch.save_file({"b": arange(3, int64), "a": ones(2), "h": half zeros(1)},
// metadata={"format": "pt"}).
TEST(Safetensors, BytesAreThoseOfTheReferenceWriter) {
  const auto path = scratch("reference.safetensors");
  write_safetensors(path, {{"a", torch::ones({2})}, {"h", torch::zeros({1}, at::kHalf)}, {"b", torch::arange(3)}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[24,32]},"h":{"dtype":"F16","shape":[1],"data_offsets":[32,34]}})";
  const std::string bytes = bytes_of(path);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_EQ(bytes.substr(8 + header.size(), length - header.size()), std::string(length - header.size(), ' '));
  EXPECT_EQ(bytes.size(), 8 + length + 34);
}

TEST(Safetensors, PaddedAndUnalignedHeadersAreRead) {
  EXPECT_EQ(refusal_of_header(kOneFloat, 4), "accepted");
  EXPECT_EQ(refusal_of_header(kOneFloat + "    ", 4), "accepted");
  EXPECT_EQ(refusal_of_header("{}", 0), "accepted");
}

TEST(Safetensors, DigestIsOfNamesTypesShapesPlacesAndBytes) {
  const std::vector<float> values = {1, 2};
  std::string bytes(sizeof(float) * values.size(), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  const at::Tensor tensor = torch::tensor(values);
  EXPECT_EQ(tensors_sha256({{"a", tensor}}),
            sha256_of(R"({"a":{"data_offsets":[0,8],"dtype":"F32","shape":[2]}})" + bytes));
  EXPECT_NE(tensors_sha256({{"a", tensor}}), tensors_sha256({{"b", tensor}}));
  EXPECT_NE(tensors_sha256({{"a", tensor}}), tensors_sha256({{"a", tensor.view({2, 1})}}));
  EXPECT_NE(tensors_sha256({{"a", tensor}}), tensors_sha256({{"a", tensor.view(at::kInt)}}));
}

TEST(Safetensors, TwoTensorsOfOneNameAreNotWritten) {
  const auto path = scratch("twice.safetensors");
  EXPECT_THROW(write_safetensors(path, {{"a", torch::ones({1})}, {"a", torch::ones({1})}}), InternalError);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Safetensors, ImpossibleHeaderLengthIsRefused) {
  EXPECT_THAT(refusal_of(file_with(kOneFloat, "1234", std::uint64_t{1} << 63)), HasSubstr("states a header of"));
  EXPECT_THAT(refusal_of(file_with(kOneFloat, "1234", ~std::uint64_t{0})), HasSubstr("states a header of"));
  EXPECT_THAT(refusal_of(file_with(kOneFloat, "", kOneFloat.size() + 1)), HasSubstr("states a header of"));
  const auto path = scratch("short.safetensors");
  std::ofstream(path) << "1234567";
  EXPECT_THAT(refusal_of(path), HasSubstr("too short"));
}

TEST(Safetensors, TextThatIsNotAHeaderIsRefused) {
  EXPECT_THAT(refusal_of_header("", 0), HasSubstr("'{'"));
  EXPECT_THAT(refusal_of_header("[]", 0), HasSubstr("'{'"));
  EXPECT_THAT(refusal_of_header(kOneFloat + std::string("\0 more", 6), 4), HasSubstr("a zero byte"));
  EXPECT_THAT(refusal_of_header(" " + kOneFloat, 4), HasSubstr("'{'"));
  EXPECT_THAT(refusal_of_header("{\"a\":", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_header(kOneFloat + "x", 4), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_header("{\"\xff\":{}}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":{"dtype":{}}}})", 0), HasSubstr("an object inside"));
  EXPECT_THAT(refusal_of_header(R"({"a":[1]})", 0), HasSubstr("an array"));
  EXPECT_THAT(refusal_of_header(R"({"a":null})", 0), HasSubstr("null"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4),
              HasSubstr("an array"));
  EXPECT_THAT(refusal_of_header(std::string(100'000, '{'), 0), HasSubstr("not valid JSON"));
  std::string deep = R"({"a":{"shape":)" + std::string(100'000, '[');
  EXPECT_THAT(refusal_of_header(deep, 0), HasSubstr("an array"));
}

TEST(Safetensors, DuplicateKeysAreRefused) {
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                8),
              HasSubstr("the name 'a' twice"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("the field 'dtype' twice"));
  EXPECT_THAT(refusal_of_header(R"({"__metadata__":{"x":"1","x":"2"}})", 0), HasSubstr("'x' twice"));
}

TEST(Safetensors, IncompleteOrUnknownFieldsAreRefused) {
  EXPECT_THAT(refusal_of_header(R"({"a":{}})", 0), HasSubstr("without dtype"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4),
              HasSubstr("unknown field 'x'"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("unknown dtype 'F33'"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4),
              HasSubstr("F8_E4M3, which is not supported"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4),
              HasSubstr("3 data_offsets"));
  EXPECT_THAT(refusal_of_header(R"({"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), HasSubstr("0 bytes"));
  EXPECT_THAT(refusal_of_header(R"({"__metadata__":{"x":1}})", 0), HasSubstr("a number in __metadata__"));
}

TEST(Safetensors, ShapesThatDoNotFitTheirDataAreRefused) {
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
              HasSubstr("its shape needs 8"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0),
              HasSubstr("overflows"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("overflows"));
  EXPECT_EQ(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0,4294967296],"data_offsets":[0,0]}})", 0), "accepted");
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4),
              HasSubstr("axis"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
              HasSubstr("number -1"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4),
              HasSubstr("number 1.5"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}})", 4),
              testing::Not("accepted"));
}

TEST(Safetensors, HolesOverlapAndSurplusAreRefused) {
  const auto two = [](int begin_a, int end_a, int begin_b, int end_b) {
    return R"({"a":{"dtype":"U8","shape":[)" + std::to_string(end_a - begin_a) + R"(],"data_offsets":[)" +
           std::to_string(begin_a) + "," + std::to_string(end_a) + R"(]},"b":{"dtype":"U8","shape":[)" +
           std::to_string(end_b - begin_b) + R"(],"data_offsets":[)" + std::to_string(begin_b) + "," +
           std::to_string(end_b) + "]}}";
  };
  EXPECT_EQ(refusal_of_header(two(4, 8, 0, 4), 8), "accepted");
  EXPECT_THAT(refusal_of_header(two(0, 4, 5, 9), 9), HasSubstr("a hole or an overlap"));
  EXPECT_THAT(refusal_of_header(two(0, 4, 3, 7), 7), HasSubstr("a hole or an overlap"));
  EXPECT_THAT(refusal_of_header(two(1, 4, 4, 8), 8), HasSubstr("a hole or an overlap"));
  EXPECT_THAT(refusal_of_header(two(0, 4, 4, 8), 9), HasSubstr("describes 8 bytes of data, but there are 9"));
  EXPECT_THAT(refusal_of_header(two(0, 4, 4, 8), 7), HasSubstr("describes 8 bytes of data, but there are 7"));
  EXPECT_THAT(refusal_of_header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}})", 0),
              HasSubstr("a hole or an overlap"));
}

TEST(Safetensors, MissingFileIsNamed) {
  EXPECT_THAT(refusal_of("/nowhere/x.safetensors"), HasSubstr("/nowhere/x.safetensors"));
  EXPECT_THROW(write_safetensors("/nowhere/x.safetensors", {}), IoError);
}

TEST(Safetensors, PipeInPlaceOfAFile_IsRefusedBeforeItIsOpened) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("piped_weights");
  EXPECT_EXIT(test::hang_in([&] { read_safetensors(folder.file("x.safetensors")); }), testing::ExitedWithCode(74),
              "/x.safetensors: it is a pipe");
  EXPECT_EXIT(test::hang_in([&] { TorchArchive(folder.file("x.ckpt")); }), testing::ExitedWithCode(74),
              "/x.ckpt: it is a pipe");
}

TEST(Safetensors, FileSystemThatHangsWhenTheFileIsOpened_EndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const test::HangingFolder folder("hanging_safetensors");
  EXPECT_EXIT(test::hang_in([&] {
                folder.file(temporary_name_for("w").string());
                write_safetensors(folder.path() / "w", {{"a", torch::zeros({2})}});
              }),
              testing::ExitedWithCode(71), "writing .*/w.tmp-[0-9]+ has not returned");
}

}  // namespace
}  // namespace dpldm::io
