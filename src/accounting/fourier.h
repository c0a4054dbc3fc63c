// Fast Fourier transforms of real vectors, in double precision.
#pragma once

#include <complex>
#include <cstddef>
#include <memory>
#include <span>

namespace dpldm::accounting {

// The smallest even product of 2, 3, 5 and 7 that is at least `size`: lengths whose transforms are fast, and whose
// rounding error obeys the bound below.
std::size_t fast_length(std::size_t size);

// Bound on |computed - exact| for each entry of a transform of that length, relative to the sum of the input's
// magnitudes: every input reaches an output through log2(length) butterflies, each of them a complex product and sum.
double transform_error(std::size_t length);

class RealTransform {
 public:
  // Throws std::bad_alloc.
  explicit RealTransform(std::size_t length);
  ~RealTransform();
  RealTransform(const RealTransform&) = delete;
  RealTransform& operator=(const RealTransform&) = delete;

  // `length` values in time and length / 2 + 1 in frequency, owned by this object.
  std::span<double> values();
  std::span<std::complex<double>> spectrum();

  // values -> spectrum; the values are lost.
  void forward();
  // spectrum -> values, divided by the length; the spectrum is lost.
  void backward();

 private:
  struct Plans;
  std::unique_ptr<Plans> plans_;
};

}  // namespace dpldm::accounting
