#include <ATen/ATen.h>
#include <zlib.h>

#include "data/image_file.h"
#include "unit/data_tools/tool_test.h"

namespace dpldm::tools {
namespace {

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string idx(const std::vector<std::uint32_t>& shape, const std::string& content) {
  std::string bytes{'\0', '\0', '\x08', static_cast<char>(shape.size())};
  for (const std::uint32_t size : shape) bytes += big_endian(size);
  return bytes + content;
}

std::string counting(std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += static_cast<char>(i);
  return bytes;
}

class ImportIdx : public ToolTest {
 protected:
  ImportIdx() {
    write("images", idx({5, 3, 4}, counting(60)));
    write("labels", idx({5}, std::string("\x01\x00\x02\x01\x00", 5)));
  }

  std::vector<std::string> arguments(const std::string& images, const std::string& labels) const {
    return {"import",     "idx",          "--images", text(images), "--labels",
            text(labels), "--visibility", "public",   "-o",         text("out.h5")};
  }
};

TEST_F(ImportIdx, PlainFiles_BecomeOneImageFile) {
  const test::ProcessResult result = run(arguments("images", "labels"));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const data::ImageFile file(path("out.h5"));
  EXPECT_EQ(file.info().visibility, data::Visibility::kPublic);
  EXPECT_EQ(file.info().class_names, (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_TRUE(at::equal(file.read_images(0, 5), at::arange(60).to(at::kByte).reshape({5, 1, 3, 4})));
  EXPECT_TRUE(at::equal(file.read_labels(), at::tensor({1, 0, 2, 1, 0}, at::kLong)));
  EXPECT_NO_THROW(file.verify_content());
}

TEST_F(ImportIdx, GzippedFiles_GiveTheSameRecords) {
  for (const std::string name : {"images", "labels"}) {
    const std::string bytes = test::bytes_of(path(name));
    gzFile file = gzopen(text(name + ".gz").c_str(), "wb");
    gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    gzclose(file);
  }
  ASSERT_EQ(run(arguments("images.gz", "labels.gz")).exit_code, 0);
  EXPECT_TRUE(
      at::equal(data::ImageFile(path("out.h5")).read_images(0, 5), at::arange(60).to(at::kByte).reshape({5, 1, 3, 4})));

  const std::string bytes = test::bytes_of(path("images.gz"));
  std::filesystem::remove(path("out.h5"));
  write("cut.gz", bytes.substr(0, bytes.size() - 9));
  expect_refusal(arguments("cut.gz", "labels"), 74, "truncated or damaged");
}

TEST_F(ImportIdx, LimitPaddingAndNames_AreObeyed) {
  std::vector<std::string> command = arguments("images", "labels");
  command.insert(command.end(), {"--limit", "3", "--pad", "1", "--class-names", "hat,scarf,glove"});
  ASSERT_EQ(run(command).exit_code, 0);
  const data::ImageFile file(path("out.h5"));
  EXPECT_EQ(file.info().num_records, 3);
  EXPECT_EQ(file.info().height, 5);
  EXPECT_EQ(file.info().width, 6);
  EXPECT_EQ(file.info().class_names, (std::vector<std::string>{"hat", "scarf", "glove"}));
}

TEST_F(ImportIdx, DamagedFiles_AreRefused) {
  write("magic", "\x89PNG and so on");
  expect_refusal(arguments("magic", "labels"), 74, "starts with 89504e47");
  expect_refusal(arguments("labels", "images"), 74, "starts with 00000801");
  write("cut", test::bytes_of(path("images")).substr(0, 60));
  expect_refusal(arguments("cut", "labels"), 74, "truncated or damaged");
  write("long", test::bytes_of(path("images")) + "x");
  expect_refusal(arguments("long", "labels"), 74, "goes on after");
  write("bomb", idx({4'000'000'000, 60'000, 60'000}, "x"));
  expect_refusal(arguments("bomb", "labels"), 74, "more than a file of 17 bytes can hold");
  write("none", idx({0, 28, 28}, ""));
  expect_refusal(arguments("none", "labels"), 74, "is empty");
  expect_refusal(arguments("absent", "labels"), 74, "cannot read");
}

TEST_F(ImportIdx, GzipInPieces_IsReadAndBytesBehindItAreRefused) {
  const std::string bytes = test::bytes_of(path("images"));
  const auto gzipped = [&](const std::string& content) {
    gzFile file = gzopen(text("piece").c_str(), "wb");
    gzwrite(file, content.data(), static_cast<unsigned>(content.size()));
    gzclose(file);
    return test::bytes_of(path("piece"));
  };
  write("pieces.gz", gzipped(bytes.substr(0, 30)) + gzipped(bytes.substr(30)));
  ASSERT_EQ(run(arguments("pieces.gz", "labels")).exit_code, 0);
  EXPECT_TRUE(
      at::equal(data::ImageFile(path("out.h5")).read_images(0, 5), at::arange(60).to(at::kByte).reshape({5, 1, 3, 4})));
  std::filesystem::remove(path("out.h5"));
  write("behind.gz", gzipped(bytes) + "something else");
  expect_refusal(arguments("behind.gz", "labels"), 74, "has other bytes behind its compressed content");
  write("zeros.gz", gzipped(bytes) + std::string(512, '\0'));
  expect_refusal(arguments("zeros.gz", "labels"), 74, "has other bytes behind its compressed content");
  write("more.gz", gzipped(bytes) + gzipped("x"));
  expect_refusal(arguments("more.gz", "labels"), 74, "goes on after");
  std::string damaged = gzipped(bytes);
  damaged[damaged.size() - 6] = static_cast<char>(damaged[damaged.size() - 6] ^ 1);  // of the checksum
  write("checksum.gz", damaged);
  expect_refusal(arguments("checksum.gz", "labels"), 74, "truncated or damaged");
}

TEST_F(ImportIdx, OutputThatIsThere_NeedsForceAndAnInputIsNeverReplaced) {
  write("out.h5", "precious");
  std::vector<std::string> command = arguments("images", "labels");
  expect_refusal(command, 64, "out.h5 is there already; --force replaces it");
  EXPECT_EQ(test::bytes_of(path("out.h5")), "precious");
  command.push_back("--force");
  EXPECT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().num_records, 5);
  const std::string images = test::bytes_of(path("images"));
  std::filesystem::create_hard_link(path("labels"), path("other_name"));
  for (const char* input : {"images", "labels", "other_name"}) {
    command[9] = text(input);
    expect_refusal(command, 64, "is read here and would be overwritten");
  }
  EXPECT_EQ(test::bytes_of(path("images")), images);
}

TEST_F(ImportIdx, NumberOfPrivateClasses_IsSaidAndNotCounted) {
  std::vector<std::string> command = arguments("images", "labels");
  command[7] = "private";
  expect_refusal(command, 64, "--num-classes is missing (or --class-names)");
  command.insert(command.end(), {"--num-classes", "10"});
  ASSERT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(data::ImageFile(path("out.h5")).info().class_names.size(), 10U);
  std::filesystem::remove(path("out.h5"));
  command.back() = "2";
  expect_refusal(command, 64, "--num-classes is 2, but the label 2 occurs");
  command.back() = "0";
  expect_refusal(command, 64, "--num-classes is 0; whole numbers from 1 to 4000 are allowed");
  command.insert(command.end(), {"--class-names", "hat,scarf,glove"});
  command[command.size() - 3] = "3";
  expect_refusal(command, 64, "leave out --num-classes");
  expect_refusal({"import", "idx", "--images", text("images"), "--visibility", "private", "--num-classes", "3", "-o",
                  text("out.h5")},
                 64, "the images have no labels");
}

TEST_F(ImportIdx, EmptyClassNames_AreRefused) {
  std::vector<std::string> command = arguments("images", "labels");
  command.insert(command.end(), {"--class-names", ""});
  for (const char* names : {"hat,scarf,glove,", ",hat,scarf", "hat,,scarf"}) {
    command.back() = names;
    expect_refusal(command, 64, std::string("--class-names is '") + names + "'; a part of it is empty");
  }
}

TEST_F(ImportIdx, SizesThatDisagree_AreRefused) {
  write("four", idx({4}, std::string(4, '\0')));
  expect_refusal(arguments("images", "four"), 64, "has 4 labels");
  std::vector<std::string> command = arguments("images", "labels");
  command.insert(command.end(), {"--class-names", "hat,scarf"});
  expect_refusal(command, 64, "the label 2 occurs");
}

TEST_F(ImportIdx, WhatMustBeSaid_HasNoDefault) {
  expect_refusal({"import", "idx", "--images", text("images"), "-o", text("out.h5")}, 64, "--visibility is missing");
  expect_refusal({"import", "idx", "--images", text("images"), "--visibility", "secret", "-o", text("out.h5")}, 64,
                 "public and private are allowed");
  expect_refusal({"import", "idx", "--labels", text("labels"), "--visibility", "public", "-o", text("out.h5")}, 64,
                 "--images is missing");
  expect_refusal({"import", "idx", "--images", text("images"), "--visibility", "public"}, 64, "--output is missing");
  expect_refusal({"import", "idz"}, 64, "did you mean 'idx'?");
  expect_refusal({"import"}, 64, "say what to import");
  std::vector<std::string> command = arguments("images", "labels");
  command.push_back("extra");
  expect_refusal(command, 64, "unexpected argument 'extra'");
  command.back() = "--pad=1.5";
  expect_refusal(command, 64, "--pad is 1.5");
}

}  // namespace
}  // namespace dpldm::tools
