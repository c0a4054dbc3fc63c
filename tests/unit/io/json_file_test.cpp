#include "io/json_file.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/error.h"

namespace dpldm::io {
namespace {

std::filesystem::path scratch() {
  return std::filesystem::path(testing::TempDir()) / ("json_file_" + std::to_string(::getpid()) + ".json");
}

std::string refusal_of_text(const std::string& text) {
  std::ofstream(scratch()) << text;
  try {
    read_json_file(scratch());
  } catch (const IoError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(JsonFile, KeysAreSortedAndTheLastLineEnds) {
  write_json_file(scratch(), {{"b", 1}, {"a", {1.5, true}}});
  EXPECT_EQ(read_file(scratch(), 1000), "{\n  \"a\": [\n    1.5,\n    true\n  ],\n  \"b\": 1\n}\n");
  EXPECT_EQ(read_json_file(scratch()).at("b"), 1);
}

TEST(JsonFile, WhatIsNotOneObjectIsRefused) {
  EXPECT_EQ(refusal_of_text(R"({"a": {"b": 1}, "c": {"b": 2}})"), "accepted");
  EXPECT_THAT(refusal_of_text("{\"a\": 1"), testing::HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_text("[1]"), testing::HasSubstr("does not hold a JSON object"));
  EXPECT_THAT(refusal_of_text(R"({"a": 1, "a": 2})"), testing::HasSubstr("'a' twice"));
  EXPECT_THAT(refusal_of_text(std::string("{}\0 more", 8)), testing::HasSubstr("a zero byte"));
  EXPECT_THAT(refusal_of_text(R"({"x": {"a": 1, "a": 2}})"), testing::HasSubstr("'a' twice"));
  EXPECT_THAT(refusal_of_text(std::string(100, '[')), testing::HasSubstr("too deeply"));
}

}  // namespace
}  // namespace dpldm::io
