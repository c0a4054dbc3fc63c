// A number on the command line, with nothing behind it.
//
// cxxopts reads "1000x", "0.01.5" or "1,5" as the number that they begin with. Where a number decides what is claimed,
// that would answer another question than the one that was asked.
#pragma once

#include <istream>

namespace dpldm::app {

struct Number {
  double value = 0;
};

inline std::istream& operator>>(std::istream& text, Number& number) {
  text >> number.value;
  if (text && !text.eof()) text.setstate(std::ios::failbit);
  return text;
}

}  // namespace dpldm::app
