// The device's kernels against those of the CPU, on the same inputs.
#include "cuda/record_products.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
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
    if (!cuda::device_available(&reason)) GTEST_SKIP() << "no usable CUDA device: " << reason;
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
}

}  // namespace
}  // namespace dpldm
