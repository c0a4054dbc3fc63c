#include "config/schema.h"

#include <chrono>
#include <cmath>
#include <fstream>

#include <fmt/format.h>
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
  EXPECT_THAT(refusal_of([&] { schema.set("test.group.rate=1"); }), HasSubstr("are written without 'test.'"));
  EXPECT_THAT(refusal_of([&] { schema.set("group.rate"); }), HasSubstr("key=value"));
  EXPECT_THAT(refusal_of([&] { schema.load_file("/nonexistent.yaml"); }), HasSubstr("/nonexistent.yaml"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("flag: true\nflag: false\n")); }), HasSubstr("twice"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("- 1\n- 2\n")); }), HasSubstr("map of keys"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("{[[[[\n")); }), HasSubstr("config_schema_test.yaml"));
}

TEST(Schema, TextIsTakenAsItIsWritten) {
  Values values;
  Schema schema = values.schema();
  for (const char* text : {"/a/b #1.h5", "007", "1e3", "true", "null", "", "[a, b]", "'quoted'", "a: b", " x "}) {
    schema.set(std::string("path=") + text);
    EXPECT_EQ(values.path, text);
  }
  for (const char* text : {"007", "1e3", "0x10", "true", "1_000", "-0"}) {
    schema.load_file(write_file(std::string("path: ") + text + "\n"));
    EXPECT_EQ(values.path, text);
  }
  schema.load_file(write_file("path: \"\"\n"));
  EXPECT_EQ(values.path, "");
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("path: null\n")); }), HasSubstr("must be text"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("path: [a]\n")); }), HasSubstr("must be text"));
}

TEST(Schema, KeyStatedTwiceInAnyFormIsRefused) {
  Values values;
  Schema schema = values.schema();
  for (const char* text : {"group: {count: 5}\ngroup.count: 6\n", "group.count: 6\ngroup: {count: 5}\n",
                           "group: {count: 5}\ngroup: {rate: 1}\n", "tree: {a: 1, a: 2}\n"}) {
    EXPECT_THAT(refusal_of([&] { schema.load_file(write_file(text)); }), HasSubstr("stated twice")) << text;
  }
}

TEST(Schema, FileOfSeveralDocumentsIsRefused) {
  Values values;
  Schema schema = values.schema();
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("flag: true\n---\nword: two\n")); }),
              HasSubstr("2 YAML documents"));
  schema.load_file(write_file("---\nflag: true\n"));
  EXPECT_TRUE(values.flag);
}

TEST(Schema, MapOfKeysAndKeysThatAreNoTextAreToldInWords) {
  Values values;
  Schema schema = values.schema();
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("group: 5\n")); }),
              HasSubstr("test.group is a map of keys; it cannot be 5"));
  EXPECT_THAT(refusal_of([&] { schema.set("group=5"); }), HasSubstr("test.group is a map of keys"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("? [a, b]\n: 1\n")); }), HasSubstr("it must be text"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("tree:\n  ? {a: b}\n  : 1\n")); }),
              HasSubstr("it must be text"));
}

// Twelve levels of ten aliases each: a few hundred bytes that would be 10^12 values.
TEST(Schema, AliasesThatMultiplyAreRefusedAtOnce) {
  std::string text = "tree:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    text +=
        fmt::format("  a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  }
  Values values;
  const auto began = std::chrono::steady_clock::now();
  EXPECT_THAT(refusal_of([&] { values.schema().load_file(write_file(text)); }), HasSubstr("more than 100000 values"));
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
}

TEST(Schema, BytesThatAreNotUtf8AreRefused) {
  Values values;
  Schema schema = values.schema();
  EXPECT_THAT(refusal_of([&] { schema.set("path=\xff\xfe.h5"); }), HasSubstr("not UTF-8"));
  EXPECT_THAT(refusal_of([&] { schema.set("\xff=1"); }), HasSubstr("not UTF-8"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("path: \xff\xfe.h5\n")); }), HasSubstr("not UTF-8"));
  EXPECT_THAT(refusal_of([&] { schema.load_file(write_file("path: \"a\\0b\"\n")); }), HasSubstr("zero byte"));
  schema.set("path=\xC3\xA9.h5");
  Values again;
  again.schema().load_file(write_file(schema.dump()));
  EXPECT_EQ(again.path, "\xC3\xA9.h5");
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

// Each of these ends in weights that are no numbers, or in none that were trained.
TEST(TrainingConfig, SettingsThatOnlyASlipMakesAreRefused) {
  FinetuneConfig finetune;
  Schema schema = finetune.schema();
  for (const char* slip : {"optimizer.learning_rate=1e30", "optimizer.learning_rate=11", "optimizer.weight_decay=1e6",
                           "optimizer.eps=1e-300", "optimizer.eps=10", "trained.class_embedding_scale=1e30",
                           "lora.alpha=1e30", "privacy.delta=0.2", "runtime.deadline_seconds=1e300"}) {
    EXPECT_THAT(refusal_of([&] { schema.set(slip); }), HasSubstr("it must be")) << slip;
  }
  PretrainConfig pretrain;
  Schema public_schema = pretrain.schema();
  EXPECT_THAT(refusal_of([&] { public_schema.set("schedule.beta_end=2"); }), HasSubstr("above 0, at most 0.999"));
}

TEST(TrainingConfig, WarmUpThatOutlastsTheRunIsRefused) {
  OptimizerConfig optimizer;
  EXPECT_NO_THROW(require_warmup_within(optimizer, 1));
  optimizer.warmup_steps = 10;
  EXPECT_NO_THROW(require_warmup_within(optimizer, 11));
  EXPECT_THAT(refusal_of([&] { require_warmup_within(optimizer, 10); }),
              HasSubstr("optimizer.warmup_steps is 10 and training.steps is 10"));
  EXPECT_THAT(learning_rate_text(optimizer), HasSubstr("warm-up of 10 steps"));
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
