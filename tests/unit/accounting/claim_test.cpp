#include "accounting/claim.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/error.h"

namespace dpldm::accounting {
namespace {

using Json = nlohmann::json;

class Claim : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / ("claim-test-" + std::to_string(::getpid()) + ".json");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  static Json good() {
    return {{"format", "dpldm-privacy"},
            {"version", 1},
            {"private", true},
            {"epsilon", 2.1013652},
            {"delta", 1e-5},
            {"neighbouring", "add-remove"},
            {"sampler", "poisson"},
            {"accountant", "rdp"},
            {"sampling_rate", .01},
            {"noise_multiplier", 1.0},
            {"steps", 1000},
            {"num_records", 50000},
            {"expected_batch_size", 500},
            {"trained_set", "attention"}};
  }

  PrivacyClaim claim_of(const std::string& text) {
    std::ofstream(path_) << text;
    return read_claim(path_);
  }

  // What is wrong with `json`, from reading or from checking.
  std::string refusal(const Json& json) {
    try {
      verified_epsilon(claim_of(json.dump()));
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  }

  std::filesystem::path path_;
};

TEST_F(Claim, ThatItsNumbersBearOut_IsVerified) {
  const GaussianEvent event{.01, 1.0, 1000};
  const double epsilon = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  Json json = good();
  json["epsilon"] = epsilon;
  EXPECT_EQ(verified_epsilon(claim_of(json.dump())), epsilon);
}

TEST_F(Claim, OtherReleases_Count) {
  const GaussianEvent events[] = {{1.0, 50.0, 2, Sampler::kNone}, {.01, 1.0, 1000}};
  Json json = good();
  json["other_releases"] = {{{"sampling_rate", 1.0}, {"noise_multiplier", 50.0}, {"count", 2}, {"sampler", "none"}}};
  EXPECT_THAT(refusal(json), testing::HasSubstr("the model claims epsilon"));
  json["epsilon"] = epsilon_of(events, 1e-5, AccountantKind::kRdp);
  EXPECT_EQ(refusal(json), "not refused");
}

TEST_F(Claim, CountsThatAreNotWholeOrDoNotFit_AreRefused) {
  const GaussianEvent event{.01, 1.0, 1000};
  Json json = good();
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  for (const char* key : {"steps", "steps_in_model", "num_records"}) {
    for (const Json& value : {Json(1000.9), Json(18446744073709551615U), Json(1e30), Json("1000"), Json(true)}) {
      Json changed = json;
      changed[key] = value;
      EXPECT_THAT(refusal(changed), testing::HasSubstr("is not a privacy statement")) << key << " " << value;
    }
  }
  json["other_releases"] = {{{"sampling_rate", 1.0}, {"noise_multiplier", 50.0}, {"count", 0.5}, {"sampler", "none"}}};
  EXPECT_THAT(refusal(json), testing::HasSubstr("is not a privacy statement"));
}

// 2^63 - 1 twice and 3 make 1 in 64 bits.
TEST_F(Claim, CountsWhoseSumWouldOverflow_AreRefused) {
  const GaussianEvent event{.01, 1.0, 1};
  Json json = good();
  json["steps"] = 3;
  const Json most{
      {"sampling_rate", .01}, {"noise_multiplier", 1.0}, {"count", 9223372036854775807}, {"sampler", "poisson"}};
  json["other_releases"] = {most, most};
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  EXPECT_THAT(refusal(json), testing::HasSubstr("number of steps is more than"));
}

TEST_F(Claim, MoreStepsThanWereChargedOrAnUnknownClipping_IsRefused) {
  const GaussianEvent event{.01, 1.0, 1000};
  Json json = good();
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  json["steps_in_model"] = 1000;
  for (const char* clipping : {"flat", "automatic", "per-group"}) {
    json["clipping"] = clipping;
    EXPECT_EQ(refusal(json), "not refused");
  }
  json["clipping"] = "none";
  EXPECT_THAT(refusal(json), testing::HasSubstr("not known to bound a record"));
  json["clipping"] = "flat";
  for (const std::int64_t steps : {1001, -1}) {
    json["steps_in_model"] = steps;
    EXPECT_THAT(refusal(json), testing::HasSubstr("the model holds " + std::to_string(steps) + " steps"));
  }
}

// No epsilon follows from it, but it is what people read.
TEST_F(Claim, WordsThatSayAnotherThingThanTheirNumbers_AreRefused) {
  const GaussianEvent event{.01, 1.0, 1000};
  Json json = good();
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  const Json right{{"unit_of_privacy", "record"},
                   {"mechanism", "float"},
                   {"mechanism_text", "float: sums and noise in floating point"},
                   {"clipping", "per-group"},
                   {"clipping_text", "per-group: each of the m groups"},
                   {"clip_norm", 0.5},
                   {"noise_multiplicity", 4}};
  json.update(right);
  ASSERT_EQ(refusal(json), "not refused");
  const std::tuple<const char*, Json, const char*> changes[] = {
      {"unit_of_privacy", "person", "unit_of_privacy is \"person\"; it must be \"record\""},
      {"mechanism", "exact", "it must be \"float\" or \"lattice\""},
      {"mechanism", "lattice", "mechanism is 'lattice', but mechanism_text is \"float: "},
      {"mechanism_text", "lattice: 16777216 grid steps", "mechanism is 'float', but mechanism_text is \"lattice: "},
      {"mechanism_text", 7, "mechanism is 'float', but mechanism_text is 7"},
      {"clipping", "flat", "clipping is 'flat', but clipping_text is \"per-group: "},
      {"clipping_text", "flat: each record's", "clipping is 'per-group', but clipping_text is \"flat: "},
      {"clip_norm", 0, "clip_norm is 0; it must be positive"},
      {"clip_norm", "1", "clip_norm is \"1\"; it must be positive"},
      {"noise_multiplicity", 0, "noise_multiplicity is 0"},
      {"noise_multiplicity", 0.5, "a count is 0.5"},
      {"not_private_because", "a test seed", "also says why it is not private: \"a test seed\""},
  };
  for (const auto& [key, value, expected] : changes) {
    Json changed = json;
    changed[key] = value;
    EXPECT_THAT(refusal(changed), testing::HasSubstr(expected)) << key;
  }
  json.erase("mechanism");
  EXPECT_THAT(refusal(json), testing::HasSubstr("mechanism is '', but mechanism_text is"));
}

TEST_F(Claim, EveryNumberThatIsChanged_IsFound) {
  Json json = good();
  const GaussianEvent event{.01, 1.0, 1000};
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  ASSERT_EQ(refusal(json), "not refused");
  const std::tuple<const char*, Json, const char*> changes[] = {
      {"epsilon", 2.0, "the model claims epsilon 2"},
      {"epsilon", 2.2, "the model claims epsilon 2.2"},
      {"epsilon", nullptr, "states no epsilon"},
      {"delta", 2e-5, "the model claims epsilon"},
      {"delta", 0, "delta is 0"},
      {"neighbouring", "replace-one", "the model claims epsilon"},
      {"accountant", "pld", "the model claims epsilon"},
      {"sampler", "none", "the model claims epsilon"},
      {"sampler", "shuffle", "the sampler is 'shuffle'"},
      {"steps", 999, "the model claims epsilon"},
      {"steps", -1, "the number of steps is -1"},
      {"noise_multiplier", 1.01, "the model claims epsilon"},
      {"noise_multiplier", 0, "no finite epsilon"},
      {"sampling_rate", .02, "the expected batch size is 500"},
      {"num_records", 60000, "the expected batch size is 500"},
      {"num_records", 0, "the number of records is 0"},
      {"private", false, "not private, and yet claims epsilon"},
      {"private", "yes", "is not a privacy statement"},
      {"format", "x", "this program reads"},
      {"version", 2, "this program reads"},
  };
  for (const auto& [key, value, expected] : changes) {
    Json changed = json;
    changed[key] = value;
    EXPECT_THAT(refusal(changed), testing::HasSubstr(expected)) << key;
    changed.erase(key);
    EXPECT_THAT(refusal(changed), testing::HasSubstr("is not a privacy statement")) << key;
  }
}

TEST_F(Claim, NotPrivate_ClaimsNothing) {
  Json json = good();
  json["private"] = false;
  json["epsilon"] = nullptr;
  EXPECT_EQ(verified_epsilon(claim_of(json.dump())), std::nullopt);
}

// Less than no records at a negative rate of them would fit together.
TEST_F(Claim, OfNoRecords_IsRefused) {
  const GaussianEvent event{.01, 1.0, 1000};
  Json json = good();
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  for (const auto& [records, batch] : {std::pair{0, 0}, std::pair{-50000, -500}}) {
    json["num_records"] = records;
    json["expected_batch_size"] = batch;
    EXPECT_THAT(refusal(json), testing::HasSubstr("the number of records is"));
  }
}

TEST_F(Claim, OfAModelThatAnotherProgramTrained_HasNoNumbers) {
  const Json json{{"format", "dpldm-privacy"}, {"version", 1}, {"private", false}, {"epsilon", nullptr}};
  const PrivacyClaim claim = claim_of(json.dump());
  EXPECT_FALSE(claim.has_numbers);
  EXPECT_EQ(verified_epsilon(claim), std::nullopt);
  EXPECT_TRUE(claim_of(good().dump()).has_numbers);
}

// Some readers take the first of two values, and some the last; some stop at a zero byte.
TEST_F(Claim, TextThatReadersUnderstandDifferently_IsRefused) {
  const GaussianEvent event{.01, 1.0, 1000};
  Json json = good();
  json["epsilon"] = epsilon_of({&event, 1}, 1e-5, AccountantKind::kRdp);
  json["public_inputs"] = {{"base_unet_sha256", "aa"}};
  const std::string text = json.dump();
  ASSERT_NO_THROW(claim_of(text));
  const auto with = [&](const std::string& where, const std::string& more) {
    std::string changed = text;
    return changed.insert(changed.find(where) + where.size(), more);
  };
  const std::pair<std::string, const char*> changes[] = {
      {with("{", R"("epsilon":0.1,)"), "has the key 'epsilon' twice"},
      {with("{", R"("\u0065psilon":0.1,)"), "has the key 'epsilon' twice"},
      {with(R"("public_inputs":{)", R"("base_unet_sha256":"bb",)"), "has the key 'base_unet_sha256' twice"},
      {text + std::string("\0{}", 3), "holds a zero byte"},
      {with("{", R"("x":)" + std::string(100, '[') + std::string(100, ']') + ","), "is nested too deeply"}};
  for (const auto& [changed, expected] : changes) {
    try {
      claim_of(changed);
      ADD_FAILURE() << "not refused: " << changed;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(expected));
    }
  }
}

TEST_F(Claim, DamagedFile_IsRefused) {
  EXPECT_THROW(claim_of("{"), ConfigError);
  EXPECT_THROW(claim_of("[]"), ConfigError);
  EXPECT_THROW(read_claim("/nonexistent/dp_metadata.json"), IoError);
}

}  // namespace
}  // namespace dpldm::accounting
