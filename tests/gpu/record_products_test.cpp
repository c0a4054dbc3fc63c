// The device's kernels against those of the CPU, on the same inputs; and what the clip rests on: that they add what
// they measured, and that one record stays within C whatever its values are.
#include "cuda/record_products.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "dp/record_products.h"

namespace dpldm {
namespace {

// Device memory with the values of a vector, and back.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(size_);
    EXPECT_EQ(cudaMemcpy(result.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return result;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

struct Shape {
  std::int64_t records;
  std::int64_t tokens;
  std::int64_t d;
  std::int64_t p;
};

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// fp32 cut to bf16.
std::vector<std::uint16_t> as_bf16(const std::vector<float>& values) {
  std::vector<std::uint16_t> result;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    result.push_back(static_cast<std::uint16_t>(bits >> 16));
  }
  return result;
}

template <class Element>
dp::Sequences on_host(const std::vector<Element>& values, std::int64_t records, std::int64_t tokens, std::int64_t width,
                      bool channels_adjacent) {
  return {values.data(),
          sizeof(Element) == 2 ? dp::ElementType::kBFloat16 : dp::ElementType::kFloat,
          records,
          tokens,
          width,
          tokens * width,
          channels_adjacent ? width : 1,
          channels_adjacent ? 1 : tokens};
}

cuda::Sequences on_device(const void* data, const dp::Sequences& host) {
  return {data,
          host.type == dp::ElementType::kBFloat16,
          host.num_records,
          host.num_tokens,
          host.width,
          host.record_stride,
          host.token_stride,
          host.channel_stride};
}

template <class T>
void expect_near(const std::vector<T>& got, const std::vector<T>& want, const std::string& what) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference), 1e-5 * std::sqrt(size)) << what;
}

class CudaRecordProducts : public testing::Test {
 protected:
  void SetUp() override {
    const char* reason = "";
    if (!cuda::device_available(&reason)) GTEST_SKIP() << "there is no GPU: " << reason;
  }
};

template <class Element>
void compare(const std::vector<Element>& a_values, const std::vector<Element>& g_values, const Shape& s,
             bool channels_adjacent, const std::string& what) {
  const dp::Sequences a = on_host(a_values, s.records, s.tokens, s.d, channels_adjacent);
  const dp::Sequences g = on_host(g_values, s.records, s.tokens, s.p, channels_adjacent);
  const OnDevice<Element> a_memory(a_values);
  const OnDevice<Element> g_memory(g_values);
  const cuda::Sequences device_a = on_device(a_memory.get(), a);
  const cuda::Sequences device_g = on_device(g_memory.get(), g);
  const auto records = static_cast<std::size_t>(s.records);
  const auto size = static_cast<std::size_t>(s.d * s.p);

  std::vector<double> squared(records, 1.0);
  const OnDevice<double> device_squared(squared);
  const OnDevice<double> device_gram(squared);
  dp::add_product_norms(a, g, squared.data());
  cuda::add_product_norms(device_a, device_g, device_squared.get(), nullptr);
  expect_near(device_squared.values(), squared, "norms " + what);
  cuda::add_gram_norms(device_a, device_g, device_gram.get(), nullptr);
  expect_near(device_gram.values(), squared, "gram " + what);

  std::vector<float> factors = random_values(s.records, 5);
  const OnDevice<float> device_factors(factors);
  std::vector<float> sum(size, 0.5F);
  const OnDevice<float> device_sum(sum);
  dp::add_weighted_products(a, g, factors.data(), sum.data());
  cuda::add_weighted_products(device_a, device_g, device_factors.get(), device_sum.get(), nullptr);
  expect_near(device_sum.values(), sum, "sum " + what);

  std::vector<float> products(records * size);
  const OnDevice<float> device_products(products);
  dp::form_products(a, g, products.data());
  cuda::form_products(device_a, device_g, device_products.get(), nullptr);
  expect_near(device_products.values(), products, "products " + what);

  std::vector<double> kept_squared(records, 1.0);
  const OnDevice<double> device_kept_squared(kept_squared);
  dp::add_squared_rows(products.data(), s.records, s.d * s.p, kept_squared.data(), /*on_device=*/false);
  cuda::add_squared_rows(device_products.get(), s.records, s.d * s.p, device_kept_squared.get(), nullptr);
  expect_near(device_kept_squared.values(), kept_squared, "norms of kept gradients " + what);

  std::vector<float> kept_sum(size, 0.5F);
  const OnDevice<float> device_kept_sum(kept_sum);
  dp::add_weighted_rows(products.data(), s.records, s.d * s.p, factors.data(), kept_sum.data(), /*on_device=*/false);
  cuda::add_weighted_rows(device_products.get(), s.records, s.d * s.p, device_factors.get(), device_kept_sum.get(),
                          nullptr);
  expect_near(device_kept_sum.values(), kept_sum, "sum of kept gradients " + what);

  std::vector<float> tokens(records * static_cast<std::size_t>(s.p));
  const OnDevice<float> device_tokens(tokens);
  dp::sum_tokens(g, tokens.data());
  cuda::sum_tokens(device_g, device_tokens.get(), nullptr);
  expect_near(device_tokens.values(), tokens, "token sums " + what);

  std::vector<double> energies(records, 0.0);
  const OnDevice<double> device_energies(energies);
  dp::add_energies(a, energies.data());
  cuda::add_energies(device_a, device_energies.get(), nullptr);
  expect_near(device_energies.values(), energies, "energies " + what);
}

TEST_F(CudaRecordProducts, AgreeWithTheCpu) {
  for (const bool adjacent : {true, false}) {
    for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{3, 1, 32, 64}, Shape{2, 5, 7, 9}, Shape{3, 16, 64, 64},
                           Shape{2, 49, 32, 140}, Shape{2, 133, 48, 17}}) {
      const std::vector<float> a = random_values(s.records * s.tokens * s.d, 1);
      const std::vector<float> g = random_values(s.records * s.tokens * s.p, 2);
      const std::string what = std::to_string(s.tokens) + "x" + std::to_string(s.d) + "x" + std::to_string(s.p);
      compare(a, g, s, adjacent, "fp32 " + what);
      compare(as_bf16(a), as_bf16(g), s, adjacent, "bf16 " + what);
    }
  }
}

TEST_F(CudaRecordProducts, ARecordWithFactorZeroAddsNothingEvenIfNotFinite) {
  std::vector<float> a = random_values(std::int64_t{2} * 20 * 40, 1);
  const std::vector<float> g = random_values(std::int64_t{2} * 20 * 24, 2);
  std::fill(a.begin(), a.begin() + std::ptrdiff_t{20} * 40, std::numeric_limits<float>::infinity());
  const OnDevice<float> device_a(a);
  const OnDevice<float> device_g(g);
  const OnDevice<float> factors({0.0F, 1.0F});
  const OnDevice<float> sum(std::vector<float>(std::size_t{24} * 40, 0.0F));
  cuda::add_weighted_products(on_device(device_a.get(), on_host(a, 2, 20, 40, true)),
                              on_device(device_g.get(), on_host(g, 2, 20, 24, true)), factors.get(), sum.get(),
                              nullptr);
  for (const float value : sum.values()) EXPECT_TRUE(std::isfinite(value));
  const OnDevice<float> rows(std::vector<float>(std::size_t{20} * 40, 0.0F));
  cuda::add_weighted_rows(device_a.get(), 2, std::int64_t{20} * 40, factors.get(), rows.get(), nullptr);
  for (const float value : rows.values()) EXPECT_TRUE(std::isfinite(value));
}

double squared_length(const float* values, std::size_t size) {
  double total = 0;
  for (std::size_t i = 0; i < size; ++i) total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return total;
}

// The values of one channel are those of the first token, and the gradients of one channel sum to about zero.
void make_cancelling(std::vector<float>& a, std::vector<float>& g, const Shape& s) {
  for (std::int64_t r = 0; r < s.records; ++r) {
    for (std::int64_t i = 0; i < s.tokens * s.d; ++i) {
      a[static_cast<std::size_t>(r * s.tokens * s.d + i)] = a[static_cast<std::size_t>(r * s.tokens * s.d + i % s.d)];
    }
    for (std::int64_t c = 0; c < s.p; ++c) {
      float* channel = g.data() + r * s.tokens * s.p + c;
      float mean = 0;
      for (std::int64_t t = 0; t < s.tokens; ++t) mean += channel[t * s.p] / static_cast<float>(s.tokens);
      for (std::int64_t t = 0; t < s.tokens; ++t) channel[t * s.p] -= mean;
    }
  }
}

template <class Element>
void expect_the_sum_adds_what_was_measured(const std::vector<Element>& a_values, const std::vector<Element>& g_values,
                                           const Shape& s, const std::string& what) {
  const OnDevice<Element> a_memory(a_values);
  const OnDevice<Element> g_memory(g_values);
  const cuda::Sequences a = on_device(a_memory.get(), on_host(a_values, s.records, s.tokens, s.d, true));
  const cuda::Sequences g = on_device(g_memory.get(), on_host(g_values, s.records, s.tokens, s.p, true));
  const auto records = static_cast<std::size_t>(s.records);
  const auto size = static_cast<std::size_t>(s.d * s.p);
  const OnDevice<float> products(std::vector<float>(records * size));
  cuda::form_products(a, g, products.get(), nullptr);
  const OnDevice<double> norms(std::vector<double>(records, 0.0));
  cuda::add_product_norms(a, g, norms.get(), nullptr);
  const OnDevice<double> kept_norms(std::vector<double>(records, 0.0));
  cuda::add_squared_rows(products.get(), s.records, s.d * s.p, kept_norms.get(), nullptr);
  const std::vector<float> formed = products.values();
  const double slack = dp::summation_slack(dp::ElementType::kFloat);
  for (std::size_t r = 0; r < records; ++r) {
    for (const float factor : {1.0F, 0.37F}) {
      std::vector<float> only(records, 0.0F);
      only[r] = factor;
      const OnDevice<float> factors(only);
      const OnDevice<float> sum(std::vector<float>(size, 0.0F));
      cuda::add_weighted_products(a, g, factors.get(), sum.get(), nullptr);
      std::vector<float> expected(formed.begin() + static_cast<std::ptrdiff_t>(r * size),
                                  formed.begin() + static_cast<std::ptrdiff_t>((r + 1) * size));
      for (float& value : expected) value *= factor;
      EXPECT_EQ(sum.values(), expected) << what << ", record " << r << ", factor " << factor;
    }
    const double added = squared_length(formed.data() + r * size, size);
    EXPECT_LE(std::abs(norms.values()[r] - added), slack * added) << what << ", record " << r;
    EXPECT_LE(std::abs(kept_norms.values()[r] - added), slack * added) << what << ", record " << r;
  }
}

TEST_F(CudaRecordProducts, TheSumAddsExactlyTheProductThatWasMeasured) {
  for (const Shape& s : {Shape{3, 20, 1, 1}, Shape{3, 1, 17, 33}, Shape{2, 49, 33, 17}, Shape{2, 5, 1, 130},
                         Shape{2, 7, 130, 1}, Shape{5, 37, 65, 130}}) {
    std::vector<float> a = random_values(s.records * s.tokens * s.d, 1);
    std::vector<float> g = random_values(s.records * s.tokens * s.p, 2);
    const std::string what = std::to_string(s.tokens) + "x" + std::to_string(s.d) + "x" + std::to_string(s.p);
    expect_the_sum_adds_what_was_measured(a, g, s, "fp32 " + what);
    expect_the_sum_adds_what_was_measured(as_bf16(a), as_bf16(g), s, "bf16 " + what);
    if (s.tokens == 1) continue;
    make_cancelling(a, g, s);
    expect_the_sum_adds_what_was_measured(a, g, s, "cancelling fp32 " + what);
    expect_the_sum_adds_what_was_measured(as_bf16(a), as_bf16(g), s, "cancelling bf16 " + what);
  }
}

enum class Rule { kKept, kNormOnly, kGram };
constexpr Rule kRules[] = {Rule::kKept, Rule::kNormOnly, Rule::kGram};

// The norm of what one record's weight gradient adds, in units of `clip_norm`, when norm and sum come from the device's
// kernels, and slack and factor are those of dp/layer_gradient.cpp and dp/clipped_sum.cpp.
template <class Element>
double contribution(const std::vector<Element>& a_values, const std::vector<Element>& g_values, const Shape& s,
                    double clip_norm, Rule rule) {
  const OnDevice<Element> a_memory(a_values);
  const OnDevice<Element> g_memory(g_values);
  const dp::Sequences host_a = on_host(a_values, 1, s.tokens, s.d, true);
  const dp::Sequences host_g = on_host(g_values, 1, s.tokens, s.p, true);
  const cuda::Sequences a = on_device(a_memory.get(), host_a);
  const cuda::Sequences g = on_device(g_memory.get(), host_g);
  const auto size = static_cast<std::size_t>(s.d * s.p);
  const OnDevice<float> kept(std::vector<float>(size, 0.0F));
  const OnDevice<double> squared({0.0});
  double slack = 0;
  if (rule == Rule::kGram) {
    cuda::add_gram_norms(a, g, squared.get(), nullptr);
    const double part = dp::gram_slack(host_a, host_g);
    const double lost = 2 * static_cast<double>(s.tokens) * std::numeric_limits<float>::min() / part;
    const OnDevice<double> energies({lost * static_cast<double>(s.d), lost * static_cast<double>(s.p)});
    cuda::add_energies(a, energies.get(), nullptr);
    cuda::add_energies(g, energies.get() + 1, nullptr);
    slack = part * energies.values()[0] * energies.values()[1];
  } else {
    if (rule == Rule::kKept) {
      cuda::form_products(a, g, kept.get(), nullptr);
      cuda::add_squared_rows(kept.get(), 1, s.d * s.p, squared.get(), nullptr);
    } else {
      cuda::add_product_norms(a, g, squared.get(), nullptr);
    }
    slack = squared.values()[0] * dp::summation_slack(dp::ElementType::kFloat);
  }
  const double total = squared.values()[0] + slack;
  const double bound = std::sqrt(std::max(total, 0.0));
  const bool usable = std::isfinite(total) && bound <= 1e30;
  const double factor = usable ? std::min(1 / clip_norm, 1 / bound) * (1 - std::ldexp(1.0, -20)) : 0.0;
  const OnDevice<float> factors({static_cast<float>(factor)});
  const OnDevice<float> sum(std::vector<float>(size, 0.0F));
  if (rule == Rule::kKept) {
    cuda::add_weighted_rows(kept.get(), 1, s.d * s.p, factors.get(), sum.get(), nullptr);
  } else {
    cuda::add_weighted_products(a, g, factors.get(), sum.get(), nullptr);
  }
  return std::sqrt(squared_length(sum.values().data(), size));
}

void expect_within_the_clip(const std::vector<float>& a, const std::vector<float>& g, const Shape& s, double clip_norm,
                            const std::string& what) {
  for (const Rule rule : kRules) {
    const std::string where = what + ", rule " + std::to_string(static_cast<int>(rule));
    EXPECT_LE(contribution(a, g, s, clip_norm, rule), 1.0) << "fp32 " << where;
    EXPECT_LE(contribution(as_bf16(a), as_bf16(g), s, clip_norm, rule), 1.0) << "bf16 " << where;
  }
}

std::vector<float> scaled(std::vector<float> values, double size) {
  for (float& value : values) value = static_cast<float>(value * size);
  return values;
}

TEST_F(CudaRecordProducts, OneRecordStaysWithinTheClipForAllMagnitudes) {
  for (const std::int64_t tokens : {1, 17}) {
    const Shape s{1, tokens, 24, 40};
    const std::vector<float> a = random_values(s.tokens * s.d, 1);
    const std::vector<float> g = random_values(s.tokens * s.p, 2);
    for (const double a_size : {1e-44, 1e-38, 1e-24, 1e-10, 1.0, 1e18, 1e30}) {
      for (const double g_size : {1e-44, 1e-38, 1e-24, 1e-10, 1.0, 1e18, 1e30}) {
        expect_within_the_clip(scaled(a, a_size), scaled(g, g_size), s, 1e-9,
                               std::to_string(tokens) + " token(s), 10^" + std::to_string(std::log10(a_size)) +
                                   " x 10^" + std::to_string(std::log10(g_size)));
      }
    }
  }
}

TEST_F(CudaRecordProducts, OneRecordStaysWithinTheClipWhereSumsCancel) {
  for (const std::int64_t tokens : {2, 32, 150}) {
    const Shape s{1, tokens, 24, 40};
    std::vector<float> a = random_values(s.tokens * s.d, 1);
    std::vector<float> g = random_values(s.tokens * s.p, 2);
    make_cancelling(a, g, s);
    const std::vector<float> residue = random_values(s.p, 3);
    for (const float size : {0.5F, 1e-2F, 1e-4F, 1e-6F, 0.0F}) {
      std::vector<float> with_residue = g;
      for (std::size_t i = 0; i < g.size(); ++i) with_residue[i] += size * residue[i % residue.size()];
      expect_within_the_clip(a, with_residue, s, 1e-7,
                             std::to_string(tokens) + " tokens, residue " + std::to_string(size));
    }
  }
}

TEST_F(CudaRecordProducts, OneRecordStaysWithinTheClipAtTheEndsOfTheRange) {
  // Inner products of activations are lost to underflow, while those of gradients are enormous.
  for (const auto& [a_size, g_size] : {std::pair(1e-24F, 1e18F), std::pair(1e18F, 1e-24F), std::pair(1e-20F, 1e15F)}) {
    expect_within_the_clip(std::vector<float>(128, a_size), std::vector<float>(128, g_size), {1, 4, 32, 32}, 1e-9,
                           "underflow");
  }
  // Two tokens that almost cancel, so large that only their mixed product overflows.
  expect_within_the_clip({0x1.feaa34p+31F, 0x1.fea8e4p+31F}, {0x1.00ab58p+32F, -0x1.00ac00p+32F}, {1, 2, 1, 1}, 1.0,
                         "overflow of a mixed product");
  // Factors that are floats with few digits left.
  for (const float size : {1e10F, 3e25F, 1e33F, 3e37F, 2.7e38F, 3.3e38F}) {
    expect_within_the_clip(std::vector<float>(64, 1.0F), std::vector<float>(64, size), {1, 1, 64, 64}, 1.0, "enormous");
  }
  // Every addition rounds up, by almost half of the last bit.
  std::vector<float> a(3000, 0x1.02p-12F);
  std::vector<float> g(3000, 0x1p-12F);
  a[0] = g[0] = 1;
  expect_within_the_clip(a, g, {1, 3000, 1, 1}, 1e-3, "rounding up");
  // 0 * NaN is NaN.
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> poisoned = random_values(5 * 24, 1);
    poisoned[7] = poison;
    for (const Rule rule : kRules) {
      EXPECT_EQ(contribution(poisoned, random_values(5 * 40, 2), {1, 5, 24, 40}, 1.0, rule), 0.0);
      EXPECT_EQ(contribution(poisoned, std::vector<float>(5 * 40, 0.0F), {1, 5, 24, 40}, 1.0, rule), 0.0);
    }
  }
}

}  // namespace
}  // namespace dpldm
