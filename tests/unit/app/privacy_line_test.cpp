#include "app/privacy_line.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace dpldm::app {
namespace {

TEST(PrivacyLine, PrivateModel_SaysEpsilonDeltaAndRelation) {
  EXPECT_EQ(privacy_line({{"private", true}, {"epsilon", 9.87654}, {"delta", 1e-5}, {"neighbouring", "add-remove"}}),
            "epsilon 9.877, delta 1e-05, add-remove, one record");
}

TEST(PrivacyLine, ModelOfATestSeed_SaysNotPrivate) {
  EXPECT_EQ(privacy_line({{"private", false}, {"not_private_because", "a test seed was used"}}),
            "NOT PRIVATE: a test seed was used");
}

TEST(PrivacyLine, NoStatement_IsNotTakenForPrivacy) {
  EXPECT_NE(privacy_line(nullptr).find("no statement"), std::string::npos);
}

TEST(PrivacyLine, OtherMetadata_IsRefused) {
  EXPECT_THROW(privacy_line({{"epsilon", 1.0}}), ConfigError);
  EXPECT_THROW(privacy_line({{"private", true}, {"epsilon", nullptr}, {"delta", 1e-5}, {"neighbouring", "add-remove"}}),
               ConfigError);
}

TEST(VisibilityOfSamples, OfAModelThatProtectsNobody_IsPrivate) {
  EXPECT_EQ(visibility_of_samples(nullptr), data::Visibility::kPublic);  // a public model
  EXPECT_EQ(visibility_of_samples({{"private", true}, {"training_records", "private"}}), data::Visibility::kPublic);
  EXPECT_EQ(visibility_of_samples({{"private", false}, {"training_records", "private"}}), data::Visibility::kPrivate);
  EXPECT_EQ(visibility_of_samples({{"private", false}, {"training_records", "public"}}), data::Visibility::kPublic);
}

}  // namespace
}  // namespace dpldm::app
