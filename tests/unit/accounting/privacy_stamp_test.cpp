#include "accounting/privacy_stamp.h"

#include <fstream>
#include <string>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/digest.h"
#include "base/error.h"

namespace dpldm::accounting {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr const char* kStatement =
    R"({"format": "dpldm-privacy", "version": 1, "private": true, "epsilon": 2.1013652, "delta": 1e-05, "neighbouring": "add-remove", "sampler": "poisson",
        "accountant": "rdp", "sampling_rate": 0.01, "noise_multiplier": 1.0, "steps": 1000, "num_records": 50000,
        "expected_batch_size": 500})";
constexpr const char* kNotPrivate = R"({"private": false, "not_private_because": "a test seed", "epsilon": null})";

class Stamp : public testing::Test {
 protected:
  Stamp() {
    model_ =
        std::filesystem::path(testing::TempDir()) /
        ("stamp-" + std::to_string(::getpid()) + "-" + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(model_ / "unet");
    std::filesystem::create_directories(model_ / "vae");
    write_weights("vae", {{"format", "pt"}});
  }
  ~Stamp() override { std::filesystem::remove_all(model_); }

  // A safetensors file with `tensors` in its header; none, unless given.
  void write_weights(const std::string& network, const std::map<std::string, std::string>& metadata,
                     const std::string& data = "", nlohmann::json tensors = nlohmann::json::object()) const {
    tensors["__metadata__"] = metadata;
    write_file(network, tensors.dump(), data);
  }
  void write_file(const std::string& network, const std::string& header, const std::string& data) const {
    const std::uint64_t size = header.size();
    std::ofstream stream(model_ / network / "diffusion_pytorch_model.safetensors", std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&size), sizeof(size));
    stream << header << data;
  }
  void write_statement(const std::string& text) const { std::ofstream(model_ / "dp_metadata.json") << text; }

  std::filesystem::path model_;
};

TEST_F(Stamp, PublicWeights_HaveNone) {
  write_weights("unet", {{"format", "pt"}});
  EXPECT_THAT(read_privacy_stamps(model_), SizeIs(0));
  EXPECT_NO_THROW(require_unstamped(model_, ""));
  EXPECT_NO_THROW(require_own_statement(model_));
}

TEST_F(Stamp, SourcesOfPublicRecords_AreNotedAndMakeNothingPrivate) {
  EXPECT_THAT(source_note(""), SizeIs(0));
  EXPECT_EQ(noted_sources(model_), "") << "an older model says nothing";
  write_weights("unet", source_note("synthetic, epsilon 2"));
  EXPECT_EQ(noted_sources(model_), "synthetic, epsilon 2");
  write_weights("vae", source_note("folder pets"));
  EXPECT_EQ(noted_sources(model_), "folder pets; and synthetic, epsilon 2");
  write_weights("vae", source_note("synthetic, epsilon 2"));
  EXPECT_EQ(noted_sources(model_), "synthetic, epsilon 2");
  EXPECT_NO_THROW(require_unstamped(model_, ""));
}

TEST_F(Stamp, WeightsWithoutTheirStatement_StillSayWhatTheyAre) {
  write_weights("unet", stamp_for(kNotPrivate));
  EXPECT_THAT(read_privacy_stamps(model_), SizeIs(1));
  for (const auto& named : {model_, model_ / "unet"}) {
    try {
      require_unstamped(named, "a public model is needed");
      ADD_FAILURE() << "taken for public";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("NOT PRIVATE: a test seed"));
      EXPECT_THAT(error.what(), HasSubstr("a public model is needed"));
    }
    EXPECT_THROW(require_own_statement(named), ConfigError);
  }
}

// A program that writes weights anew drops the stamp; then the statement alone speaks, and must not be believed
// blindly.
TEST_F(Stamp, StatementWhoseNumbersMakeAnotherEpsilon_IsRefusedWithoutAStampToo) {
  write_weights("unet", {{"format", "pt"}});
  write_statement(kStatement);
  EXPECT_NO_THROW(require_own_statement(model_));
  std::string better = kStatement;
  better.replace(better.find("2.1013652"), 9, "0.01");
  write_statement(better);
  EXPECT_THROW(require_own_statement(model_), ConfigError);
  // A network's own directory is told from one that lies in a model's by chance.
  EXPECT_NO_THROW(require_own_statement(model_ / "unet"));
  std::ofstream(model_ / "unet/config.json") << "{}";
  EXPECT_THROW(require_own_statement(model_ / "unet"), ConfigError);
  write_weights("unet", stamp_for(better));
  EXPECT_THROW(require_own_statement(model_), ConfigError);
}

// diffusers' save_pretrained drops the stamp and leaves the statement.
TEST_F(Stamp, PartsOfAModelThatSawPrivateRecordsElsewhere_AreNotPublicWithoutAStampEither) {
  write_statement(R"({"private": false, "epsilon": null, "training_records": "private", "not_private_because": "x"})");
  for (const auto& named : {model_, model_ / "vae"}) EXPECT_THROW(require_unstamped(named, ""), ConfigError) << named;
  // A fine-tuning says what it trained; its autoencoder is as public as before.
  write_statement(R"({"private": false, "epsilon": null, "training_records": "private", "not_private_because": "x",
                      "trained_parameters": ["conv_in.weight"]})");
  EXPECT_NO_THROW(require_unstamped(model_ / "vae", ""));
  std::filesystem::create_directories(model_ / "bert");
  EXPECT_NO_THROW(require_unstamped(model_ / "bert", "")) << "it was not trained";
  for (const auto& named : {model_, model_ / "unet"}) EXPECT_THROW(require_unstamped(named, ""), ConfigError) << named;
  write_statement(R"({"private": false, "epsilon": null, "training_records": "private", "not_private_because": "x",
                      "trained_parameters": ["bert.model.embed_tokens.weight"]})");
  EXPECT_THROW(require_unstamped(model_ / "bert", ""), ConfigError);
  for (const char* part : {"unet", "vae"}) EXPECT_NO_THROW(require_unstamped(model_ / part, "")) << part;
}

TEST_F(Stamp, CheckpointsWeights_AreNotPublic) {
  write_weights("unet", stamp_for_checkpoint());
  EXPECT_THROW(require_unstamped(model_, ""), ConfigError);
  EXPECT_THROW(require_own_statement(model_), ConfigError);
}

TEST_F(Stamp, OwnStatement_IsTheOneOfTheSameWriting) {
  write_weights("unet", stamp_for(kStatement));
  write_statement(kStatement);
  EXPECT_NO_THROW(require_own_statement(model_));
  EXPECT_NO_THROW(require_own_statement(model_ / "unet"));
  write_statement(kStatement + std::string("\n"));  // as true as the one of the same writing, and another
  EXPECT_THROW(require_own_statement(model_), ConfigError);
  std::string better = kStatement;
  better.replace(better.find("2.1013652"), 9, "0.1");
  write_statement(better);
  EXPECT_THROW(require_own_statement(model_), ConfigError);
  EXPECT_THAT(read_privacy_stamps(model_)[0].privacy, "epsilon 2.10137, delta 1e-05, add-remove");
}

// People read the header's words, not the digest beside them.
TEST_F(Stamp, WhoseWordsAreNotThoseOfItsStatement_IsRefused) {
  const auto refusal = [&] {
    try {
      require_own_statement(model_);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("taken");
  };
  for (const auto& [statement, own, other] :
       {std::tuple(std::string(kStatement), "epsilon 2.10137, delta 1e-05, add-remove", "NOT PRIVATE: a test seed"),
        std::tuple(std::string(kStatement), "epsilon 2.10137, delta 1e-05, add-remove",
                   "epsilon 0.1, delta 1e-05, add-remove"),
        std::tuple(std::string(kNotPrivate), "NOT PRIVATE: a test seed", "epsilon 2, delta 1e-05, add-remove")}) {
    write_statement(statement);
    auto stamp = stamp_for(statement);
    write_weights("unet", stamp);
    EXPECT_EQ(refusal(), "taken");
    stamp["dpldm.privacy"] = other;
    write_weights("unet", stamp);
    EXPECT_THAT(refusal(), HasSubstr(std::string("says '") + other + "' of itself"));
    EXPECT_THAT(refusal(), HasSubstr((model_ / "dp_metadata.json").string() + " says '" + own + "'"));
  }
}

TEST_F(Stamp, WordsThatTheFirstProgramsRoundedToTheNearest_AreTaken) {
  std::string statement = kStatement;
  statement.replace(statement.find("2.1013652"), 9, "2.1013648");
  write_statement(statement);
  auto stamp = stamp_for(statement);
  EXPECT_EQ(stamp["dpldm.privacy"], "epsilon 2.10137, delta 1e-05, add-remove");
  stamp["dpldm.privacy"] = "epsilon 2.10136, delta 1e-05, add-remove";
  write_weights("unet", stamp);
  EXPECT_NO_THROW(require_own_statement(model_));
  stamp["dpldm.privacy"] = "epsilon 2.10135, delta 1e-05, add-remove";
  write_weights("unet", stamp);
  EXPECT_THROW(require_own_statement(model_), ConfigError);
}

// A statement speaks of weights, not of a directory: what was trained further elsewhere and saved there has no claim.
TEST_F(Stamp, WeightsOtherThanThoseOfTheStatement_AreFound) {
  const auto statement = [&](const nlohmann::json& digests) {
    nlohmann::json json = nlohmann::json::parse(kStatement);
    json["tensors_sha256"] = digests;
    write_statement(json.dump());
  };
  const std::string nothing = sha256_of("{}");
  const std::string abcd = sha256_of("{}abcd");
  const std::string unet = "unet/diffusion_pytorch_model.safetensors";
  const std::string vae = "vae/diffusion_pytorch_model.safetensors";
  write_weights("unet", {{"format", "pt"}}, "abcd");
  write_statement(kNotPrivate);
  EXPECT_EQ(weights_beside_the_statement(model_), "") << "what claims nothing need not name any";
  write_statement(kStatement);
  EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("does not say which weights its claim is about"));
  statement({{unet, abcd}, {vae, nothing}});
  EXPECT_EQ(weights_beside_the_statement(model_), "");
  write_weights("unet", {{"another", "header"}}, "abcd");
  EXPECT_EQ(weights_beside_the_statement(model_), "") << "the metadata may say what they like";
  write_weights("unet", {{"format", "pt"}}, "abce");
  EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("does not hold the weights"));
  EXPECT_THAT(weights_beside_the_statement(model_ / "unet"), HasSubstr("does not hold the weights"));
  write_weights("unet", {{"format", "pt"}}, "abcd");
  statement({{unet, abcd}});
  EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("is not among the weights"));
  statement({{unet, abcd}, {vae, nothing}, {"bert/model.safetensors", nothing}});
  EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("not there: bert/model.safetensors"));
  statement({{unet, 7}});
  EXPECT_THROW(weights_beside_the_statement(model_), ConfigError);
}

// Tensors of one shape whose names change places are another model of the same bytes.
TEST_F(Stamp, WeightsWhoseHeaderDescribesOtherTensors_AreNotTheStatements) {
  const auto tensor = [](const char* dtype, int size, int begin) {
    return nlohmann::json{{"dtype", dtype}, {"shape", {size}}, {"data_offsets", {begin, begin + 4}}};
  };
  const nlohmann::json own{{"a", tensor("F32", 1, 0)}, {"b", tensor("F32", 1, 4)}};
  nlohmann::json statement = nlohmann::json::parse(kStatement);
  statement["tensors_sha256"] = {{"unet/diffusion_pytorch_model.safetensors", sha256_of(own.dump() + "abcdefgh")},
                                 {"vae/diffusion_pytorch_model.safetensors", sha256_of("{}")}};
  write_statement(statement.dump());
  write_weights("unet", {{"format", "pt"}}, "abcdefgh", own);
  EXPECT_EQ(weights_beside_the_statement(model_), "");
  write_file("unet", R"( {"b": {"shape": [1], "dtype": "F32", "data_offsets": [4, 8]},
                          "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}  )",
             "abcdefgh");
  EXPECT_EQ(weights_beside_the_statement(model_), "") << "the same in another order";
  for (const nlohmann::json& other : {nlohmann::json{{"a", tensor("F32", 1, 4)}, {"b", tensor("F32", 1, 0)}},
                                      nlohmann::json{{"a", tensor("F32", 1, 0)}, {"c", tensor("F32", 1, 4)}},
                                      nlohmann::json{{"a", tensor("F16", 2, 0)}, {"b", tensor("F32", 1, 4)}},
                                      nlohmann::json{{"a", tensor("I32", 1, 0)}, {"b", tensor("F32", 1, 4)}}}) {
    write_weights("unet", {{"format", "pt"}}, "abcdefgh", other);
    EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("does not hold the weights")) << other;
  }
}

TEST_F(Stamp, StatementWhoseDigestsSayNothingOfNames_IsToldFromAllWeights) {
  nlohmann::json statement = nlohmann::json::parse(kStatement);
  statement["weights_sha256"] = {{"vae/diffusion_pytorch_model.safetensors", sha256_of("")}};
  write_statement(statement.dump());
  EXPECT_THAT(weights_beside_the_statement(model_), HasSubstr("was written by an earlier version of dpldm"));
}

// Readers would take one or the other of two tensors of one name.
TEST_F(Stamp, HeaderThatReadersUnderstandDifferently_IsRefused) {
  for (const char* header : {R"({"a": {}, "a": {}})", R"({"__metadata__": {"x": "1", "x": "2"}})", "{", "[]"}) {
    write_file("unet", header, "");
    EXPECT_THROW(read_privacy_stamps(model_), IoError) << header;
  }
}

TEST_F(Stamp, HeaderThatIsDamaged_IsRefusedInWordsThatFitAnAnswerInJson) {
  write_file("unet", "{\"conv_in.we\xffight\": {}}", "");
  try {
    read_privacy_stamps(model_);
    ADD_FAILURE() << "read";
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("has no safetensors header"));
    EXPECT_NO_THROW(nlohmann::json(error.what()).dump());
  }
}

TEST_F(Stamp, SomethingElseThanAStatementOrWeights_IsRefused) {
  EXPECT_THROW(stamp_for("{}"), ConfigError);
  EXPECT_THROW(stamp_for("not JSON"), ConfigError);
  std::ofstream(model_ / "unet" / "x.safetensors") << "\xff\xff\xff\xff\xff\xff\xff\x7f{}";
  EXPECT_THROW(read_privacy_stamps(model_), IoError);
}

}  // namespace
}  // namespace dpldm::accounting
