#include "accounting/fourier.h"

#include <cmath>
#include <limits>
#include <mutex>
#include <new>

#include <fftw3.h>

namespace dpldm::accounting {
namespace {

// FFTW plans may be made and destroyed by one thread at a time.
std::mutex& planner_mutex() {
  static std::mutex mutex;
  return mutex;
}

bool is_fast(std::size_t n) {
  for (std::size_t prime : {2, 3, 5, 7}) {
    while (n % prime == 0) n /= prime;
  }
  return n == 1;
}

}  // namespace

std::size_t fast_length(std::size_t size) {
  std::size_t length = size + size % 2;
  while (length < 2 || !is_fast(length)) length += 2;
  return length;
}

double transform_error(std::size_t length) {
  constexpr double kUnitRoundoff = std::numeric_limits<double>::epsilon() / 2;
  return 8 * kUnitRoundoff * (std::log2(static_cast<double>(length)) + 1);
}

struct RealTransform::Plans {
  std::size_t length;
  double* values;
  fftw_complex* spectrum;
  fftw_plan forward;
  fftw_plan backward;
};

RealTransform::RealTransform(std::size_t length) : plans_(std::make_unique<Plans>()) {
  plans_->length = length;
  plans_->values = fftw_alloc_real(length);
  plans_->spectrum = fftw_alloc_complex(length / 2 + 1);
  if (plans_->values == nullptr || plans_->spectrum == nullptr) {
    fftw_free(plans_->values);
    fftw_free(plans_->spectrum);
    throw std::bad_alloc();
  }
  const std::lock_guard lock(planner_mutex());
  const int n = static_cast<int>(length);
  plans_->forward = fftw_plan_dft_r2c_1d(n, plans_->values, plans_->spectrum, FFTW_ESTIMATE | FFTW_DESTROY_INPUT);
  plans_->backward = fftw_plan_dft_c2r_1d(n, plans_->spectrum, plans_->values, FFTW_ESTIMATE | FFTW_DESTROY_INPUT);
}

RealTransform::~RealTransform() {
  const std::lock_guard lock(planner_mutex());
  fftw_destroy_plan(plans_->forward);
  fftw_destroy_plan(plans_->backward);
  fftw_free(plans_->values);
  fftw_free(plans_->spectrum);
}

std::span<double> RealTransform::values() { return {plans_->values, plans_->length}; }

std::span<std::complex<double>> RealTransform::spectrum() {
  // The standard lets a complex number be read as an array of two reals, and FFTW's type is that array.
  return {reinterpret_cast<std::complex<double>*>(plans_->spectrum), plans_->length / 2 + 1};
}

void RealTransform::forward() { fftw_execute(plans_->forward); }

void RealTransform::backward() {
  fftw_execute(plans_->backward);
  const double scale = 1 / static_cast<double>(plans_->length);
  for (double& value : values()) value *= scale;
}

}  // namespace dpldm::accounting
