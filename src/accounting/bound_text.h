// Bounds as text for people. An upper bound that is rounded down is no bound: the last digit is rounded up. A lower
// one's is rounded down.
#pragma once

#include <string>

namespace dpldm::accounting {

// With so many digits after the point: 3.99993 with four is "4.0000". What would keep less than three significant
// digits has three, wherever they stand: 1e-9 is "1e-09". "inf" for infinity.
std::string up_to_decimals(double bound, int num_decimals);

// With so many significant digits, zeros at the end left out: 1.5148e-6 with three is "1.52e-06".
std::string up_to_digits(double bound, int num_digits);

// A lower bound, 0 or more, with so many digits after the point: 0.38728 with four is "0.3872".
std::string down_to_decimals(double bound, int num_decimals);

}  // namespace dpldm::accounting
