// The noise that a GPU makes is the CPU's.
#include "cuda/noise_kernel.h"

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "audit/noise_statistics.h"
#include "dp/keystream.h"

namespace dpldm::cuda {
namespace {

// An array in device memory, zeros at first.
template <class Value>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(Value)), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0, size * sizeof(Value)), cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  Value* data() { return data_; }
  std::vector<Value> on_host() const {
    std::vector<Value> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(Value), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  std::size_t size_;
  Value* data_ = nullptr;
};

class NoiseKernel : public testing::Test {
 protected:
  void SetUp() override {
    int num_devices = 0;
    if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) GTEST_SKIP() << "there is no GPU";
    key_.fill(7);
    std::memcpy(stream_.key, key_.data(), key_.size());
    stream_.nonce[0] = 3;
    stream_.nonce[1] = 0;
  }
  dp::Keystream on_cpu() const { return {std::span<const std::uint8_t, 32>(key_), 3}; }

  std::array<std::uint8_t, 32> key_{};
  StreamKey stream_{};
};

TEST_F(NoiseKernel, Words_AreLibsodiums) {
  constexpr std::size_t kBlocks = 100'003;
  DeviceArray<std::uint64_t> words(8 * kBlocks);
  write_keystream(words.data(), kBlocks, stream_, nullptr);
  std::vector<std::uint64_t> expected(8 * kBlocks);
  on_cpu().words(0, expected);
  EXPECT_EQ(words.on_host(), expected);
}

TEST_F(NoiseKernel, Values_AreTheCpusToTheLastBitOrTwo) {
  for (const std::uint64_t first : {0, 1, 7, 8, 1'000'003}) {
    constexpr std::size_t kCount = 300'001;
    DeviceArray<float> sum(kCount);
    add_normal_noise(sum.data(), kCount, stream_, first, 1.5, nullptr);
    std::vector<float> expected(kCount);
    on_cpu().gaussians(first, expected, 1.5);
    const std::vector<float> found = sum.on_host();
    std::size_t different = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      // Sine and cosine near their zeros lose digits relative to the result, not to the radius.
      different += std::abs(found[i] - expected[i]) > 3e-7F * std::max(1.0F, std::abs(expected[i])) ? 1 : 0;
    }
    EXPECT_EQ(different, 0U) << first;
  }
}

TEST_F(NoiseKernel, RoundedValues_AreTheCpusUpToAStep) {
  constexpr std::size_t kCount = 100'000;
  constexpr double kGrid = 1 << 24;
  DeviceArray<std::int64_t> sum(kCount);
  add_rounded_normal_noise(sum.data(), kCount, stream_, 5, kGrid, nullptr);
  std::vector<std::int64_t> expected(kCount);
  on_cpu().rounded_gaussians(5, expected, kGrid);
  const std::vector<std::int64_t> found = sum.on_host();
  std::size_t far = 0;
  for (std::size_t i = 0; i < kCount; ++i) far += std::abs(found[i] - expected[i]) > 1 ? 1 : 0;
  EXPECT_EQ(far, 0U);
}

TEST_F(NoiseKernel, Noise_IsAddedAndNormal) {
  constexpr std::size_t kCount = 1'000'000;
  DeviceArray<float> sum(kCount);
  add_normal_noise(sum.data(), kCount, stream_, 0, 2.0, nullptr);
  EXPECT_EQ(audit::defects_of_noise(sum.on_host(), 2.0), "");
  add_normal_noise(sum.data(), kCount, stream_, kCount, 2.0, nullptr);
  EXPECT_EQ(audit::defects_of_noise(sum.on_host(), 2.0 * std::sqrt(2.0)), "");
}

TEST_F(NoiseKernel, NothingToAdd_IsNoError) { add_normal_noise(nullptr, 0, stream_, 0, 1.0, nullptr); }

}  // namespace
}  // namespace dpldm::cuda
