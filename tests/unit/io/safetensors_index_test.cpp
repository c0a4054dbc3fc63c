#include "io/safetensors_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/torch.h"
#include "io/json_file.h"

namespace dpldm::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class SafetensorsIndex : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("safetensors_index_" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
    write_safetensors(root_ / "m-1.safetensors", {{"a", torch::arange(3.0)}, {"b", torch::ones({2, 2})}});
    write_safetensors(root_ / "m-2.safetensors", {{"c", torch::zeros({1})}});
    map_ = {{"a", "m-1.safetensors"}, {"b", "m-1.safetensors"}, {"c", "m-2.safetensors"}};
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path index(const json& content) {
    write_json_file(root_ / "m.safetensors.index.json", content);
    return root_ / "m.safetensors.index.json";
  }
  std::string refusal(const json& content) {
    try {
      read_safetensors_index(index(content));
    } catch (const IoError& error) {
      return error.what();
    }
    return "accepted";
  }
  std::string refusal_of_map() { return refusal({{"metadata", {{"total_size", 32}}}, {"weight_map", map_}}); }

  fs::path root_;
  json map_;
};

TEST_F(SafetensorsIndex, TensorsOfAllFilesAreRead) {
  std::map<std::string, at::Tensor> tensors;
  for (auto& [name, tensor] : read_safetensors_index(index({{"weight_map", map_}}))) tensors[name] = tensor;
  EXPECT_EQ(tensors.size(), 3U);
  EXPECT_TRUE(at::equal(tensors["a"], torch::arange(3.0)));
  EXPECT_TRUE(at::equal(tensors["c"], torch::zeros({1})));
}

TEST_F(SafetensorsIndex, FilesOutsideTheDirectoryAreRefused) {
  for (const char* name :
       {"../m-1.safetensors", "/tmp/m-1.safetensors", "sub\\m.safetensors", ".hidden.safetensors", "m-1.bin", ""}) {
    map_["a"] = name;
    EXPECT_THAT(refusal_of_map(), HasSubstr("tensor 'a' must be the name of a .safetensors file")) << name;
  }
  map_["a"] = 7;
  EXPECT_THAT(refusal_of_map(), HasSubstr("tensor 'a'"));
}

TEST_F(SafetensorsIndex, IndexAndFilesMustAgree) {
  map_["c"] = "m-1.safetensors";
  EXPECT_THAT(refusal_of_map(), HasSubstr("lacks the tensor 'c'"));
  map_.erase("c");
  map_.erase("b");
  EXPECT_THAT(refusal_of_map(), HasSubstr("has the tensor 'b'"));
  map_ = {{"a", "m-9.safetensors"}};
  EXPECT_THAT(refusal_of_map(), HasSubstr("m-9.safetensors, which is missing"));
}

TEST_F(SafetensorsIndex, AnIndexWithoutMapIsRefused) {
  EXPECT_THAT(refusal({{"metadata", json::object()}}), HasSubstr("weight_map"));
  EXPECT_THAT(refusal({{"weight_map", json::array()}}), HasSubstr("weight_map"));
  EXPECT_THAT(refusal({{"weight_map", json::object()}}), HasSubstr("weight_map"));
}

}  // namespace
}  // namespace dpldm::io
