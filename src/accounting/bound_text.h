// Bounds as text for people. A bound that is rounded down is no bound: the last digit is rounded up.
#pragma once

#include <string>

namespace dpldm::accounting {

// With so many digits after the point: 3.99993 with four is "4.0000". "inf" for infinity.
std::string up_to_decimals(double bound, int num_decimals);

// With so many significant digits, zeros at the end left out: 1.5148e-6 with three is "1.52e-06".
std::string up_to_digits(double bound, int num_digits);

}  // namespace dpldm::accounting
