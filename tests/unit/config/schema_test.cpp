#include "config/schema.h"

#include <cmath>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "config/training_config.h"

namespace dpldm::config {
namespace {

using testing::HasSubstr;

struct Values {
  double rate = 0.5;
  std::int64_t count = 3;
  bool flag = false;
  std::string word = "one";
  std::string path;
  std::optional<double> maybe;
  nlohmann::json tree;

  Schema schema() {
    Schema schema("test");
    schema.add("group.rate", rate, kPositive, "A rate.");
    schema.add("group.count", count, {1, 10}, "A count.");
    schema.add("flag", flag, "A flag.");
    schema.add("word", word, {"one", "two"}, "A word.");
    schema.add("path", path, "A path.");
    schema.add("maybe", maybe, kFraction, "Perhaps.");
    schema.add_tree("tree", tree, "A tree.");
    return schema;
  }
};

std::string write_file(const std::string& text) {
  const std::string path = testing::TempDir() + "config_schema_test.yaml";
  std::ofstream(path) << text;
  return path;
}

std::string refusal_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "not refused";
}

TEST(Schema, ReadsEveryTypeFromNestedYaml) {
  Values values;
  values.schema().load_file(write_file(
      "group:\n  rate: 5e-7\n  count: 1e1\nflag: true\nword: two\npath: 2024\nmaybe: 0.25\ntree: {a: [1, 2], b: x}\n"));
  EXPECT_EQ(values.rate, 5e-7);
  EXPECT_EQ(values.count, 10);
  EXPECT_TRUE(values.flag);
  EXPECT_EQ(values.word, "two");
  EXPECT_EQ(values.path, "2024");
  EXPECT_EQ(values.maybe, 0.25);
  EXPECT_EQ(values.tree.dump(), R"({"a":[1,2],"b":"x"})");
}

TEST(Schema, SetOverridesOneKeyAlsoInsideATree) {
  Values values;
  Schema schema = values.schema();
  schema.set("group.rate=2");
  schema.set("tree.width=[8, 16]");
  schema.set("tree.depth=2");
  EXPECT_EQ(values.rate, 2);
  EXPECT_EQ(values.tree.dump(), R"({"depth":2,"width":[8,16]})");
  schema.set("maybe=0.5");
  schema.set("maybe=null");
  EXPECT_FALSE(values.maybe.has_value());
}

TEST(Schema, RefusesWithTheKeyTheValueAndWhatIsAllowed) {
  Values values;
  Schema schema = values.schema();
  EXPECT_THAT(refusal_of([&] { schema.set("group.rate=-1"); }),
              HasSubstr("test.group.rate is -1; it must be positive"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.rate=.inf"); }), HasSubstr("must be positive"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.rate=fast"); }), HasSubstr("must be a number"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.count=2.5"); }), HasSubstr("must be a whole number"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.count=11"); }), HasSubstr("1 to 10"));
  EXPECT_THAT(refusal_of([&] { schema.set("flag=no"); }), HasSubstr("true or false"));
  EXPECT_THAT(refusal_of([&] { schema.set("word=three"); }), HasSubstr("one of one, two"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.rat=1"); }), HasSubstr("did you mean group.rate?"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.rate"); }), HasSubstr("key=value"));
  EXPECT_THAT(refusal_of([&] { schema.load_file("/nonexistent.yaml"); }), HasSubstr("/nonexistent.yaml"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("flag: true\nflag: false\n")); }), HasSubstr("twice"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("- 1\n- 2\n")); }), HasSubstr("map of keys"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("{[[[[\n")); }), HasSubstr("config_schema_test.yaml"));
}

TEST(Schema, DumpReadsBackToTheSameConfiguration) {
  Values values;
  Schema schema = values.schema();
  schema.set("group.rate=0.1");
  schema.set("tree.a=[1]");
  Values again;
  Schema other = again.schema();
  other.load_file(write_file(schema.dump()));
  EXPECT_EQ(other.dump(), schema.dump());
  EXPECT_EQ(other.hash(), schema.hash());
  EXPECT_NE(other.hash(), Values().schema().hash());
}

TEST(TrainingConfig, EveryKeyIsInTheDocumentation) {
  const std::string readme = std::string(DPLDM_GOLDEN_DIR) + "/../../configs/README.md";
  std::ifstream stream(readme);
  const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  EXPECT_THAT(text, HasSubstr(AutoencoderTrainingConfig().schema().markdown()));
  EXPECT_THAT(text, HasSubstr(PretrainConfig().schema().markdown()));
  EXPECT_THAT(text, HasSubstr(FinetuneConfig().schema().markdown()));
}

}  // namespace
}  // namespace dpldm::config
