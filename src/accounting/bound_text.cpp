#include "accounting/bound_text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace dpldm::accounting {
namespace {

// A little more than half a unit of the last digit carries what was rounded down over to the next.
constexpr double kCarry = 0.6;
constexpr int kFewestDigits = 3;

}  // namespace

std::string up_to_decimals(double bound, int num_decimals) {
  if (bound > 0 && bound < std::pow(10, kFewestDigits - 1 - num_decimals)) return up_to_digits(bound, kFewestDigits);
  std::string text = fmt::format("{:.{}f}", bound, num_decimals);
  if (std::stod(text) < bound)
    text = fmt::format("{:.{}f}", bound + kCarry * std::pow(10, -num_decimals), num_decimals);
  return text;
}

std::string up_to_digits(double bound, int num_digits) {
  std::string text = fmt::format("{:.{}g}", bound, num_digits);
  if (std::stod(text) < bound) {
    const double unit = std::pow(10, std::floor(std::log10(bound)) - num_digits + 1);
    text = fmt::format("{:.{}g}", bound + kCarry * unit, num_digits);
  }
  return text;
}

std::string down_to_decimals(double bound, int num_decimals) {
  std::string text = fmt::format("{:.{}f}", bound, num_decimals);
  if (std::stod(text) > bound)
    text = fmt::format("{:.{}f}", std::max(0.0, bound - kCarry * std::pow(10, -num_decimals)), num_decimals);
  return text;
}

}  // namespace dpldm::accounting
