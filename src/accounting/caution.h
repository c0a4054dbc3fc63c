// What a person should be told of a claim that may well be true and yet protects little.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace dpldm::accounting {

// A delta above 1 / N: publishing one record in full would satisfy the claim. An epsilon above 10: an adversary's odds
// about one record may change by more than e^10 = 22,000. An infinite epsilon is no claim, and nothing is said of it.
// One sentence, without a full stop; none for a claim that protects.
std::optional<std::string> caution_about_delta(double delta, std::int64_t num_records);
std::optional<std::string> caution_about_epsilon(double epsilon);

// What the ends of the noise add (delta_of_tails) is above a hundredth of delta.
std::optional<std::string> caution_about_tails(double delta, double of_tails);

}  // namespace dpldm::accounting
