// Kernels on the host in different orders of a block's threads: a missing barrier shows as a difference. And the
// stand-in itself: that it sees what it is there to see.
#include <random>
#include <stdexcept>
#include <vector>

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "cuda/launch.h"
#include "cuda/record_products.h"

namespace dpldm::cuda {
namespace {

constexpr test::ThreadOrder kOrders[] = {test::ThreadOrder::kForward, test::ThreadOrder::kBackward,
                                         test::ThreadOrder::kShuffled};

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// What all functions of record_products.h answer, one after the other.
std::vector<double> all_results(test::ThreadOrder order) {
  test::set_thread_order(order);
  constexpr std::int64_t kRecords = 3;
  constexpr std::int64_t kTokens = 70;
  constexpr std::int64_t kInputs = 37;
  constexpr std::int64_t kOutputs = 130;
  const std::vector<float> a_values = random_values(kRecords * kTokens * kInputs, 1);
  const std::vector<float> g_values = random_values(kRecords * kTokens * kOutputs, 2);
  const Sequences a{a_values.data(), false, kRecords, kTokens, kInputs, kTokens * kInputs, kInputs, 1};
  const Sequences g{g_values.data(), false, kRecords, kTokens, kOutputs, kTokens * kOutputs, 1, kTokens};
  const std::vector<float> factors = random_values(kRecords, 3);
  std::vector<double> results;
  std::vector<double> squared(kRecords, 0.0);
  add_product_norms(a, g, squared.data(), nullptr);
  add_gram_norms(a, g, squared.data(), nullptr);
  add_energies(g, squared.data(), nullptr);
  add_squared_rows(a_values.data(), kRecords, kTokens * kInputs, squared.data(), nullptr);
  results.insert(results.end(), squared.begin(), squared.end());
  const auto append = [&](const std::vector<float>& values) {
    results.insert(results.end(), values.begin(), values.end());
  };
  std::vector<float> sum(kInputs * kOutputs, 0.25F);
  add_weighted_products(a, g, factors.data(), sum.data(), nullptr);
  append(sum);
  std::vector<float> products(kRecords * kInputs * kOutputs);
  form_products(a, g, products.data(), nullptr);
  append(products);
  std::vector<float> tokens(kRecords * kOutputs);
  sum_tokens(g, tokens.data(), nullptr);
  append(tokens);
  std::vector<float> rows(kTokens * kInputs, 0.5F);
  add_weighted_rows(a_values.data(), kRecords, kTokens * kInputs, factors.data(), rows.data(), nullptr);
  append(rows);
  test::set_thread_order(test::ThreadOrder::kForward);
  return results;
}

TEST(ThreadOrder, ChangesNoBitOfARecordsProducts) {
  const std::vector<double> expected = all_results(kOrders[0]);
  for (const test::ThreadOrder order : kOrders) EXPECT_EQ(all_results(order), expected);
}

// Each thread hands a value to the next one.
template <bool kWithBarrier>
void pass_on(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x) + static_cast<int>(blockIdx.x);
  if (kWithBarrier) __syncthreads();
  out[64 * blockIdx.x + threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

template <bool kWithBarrier>
std::vector<int> passed_on(test::ThreadOrder order) {
  test::set_thread_order(order);
  std::vector<int> out(128);
  launch(pass_on<kWithBarrier>, dim3(2), 64, nullptr, out.data());
  test::set_thread_order(test::ThreadOrder::kForward);
  return out;
}

TEST(ThreadOrder, ShowsAMissingBarrier) {
  EXPECT_EQ(passed_on<true>(test::ThreadOrder::kForward), passed_on<true>(test::ThreadOrder::kBackward));
  EXPECT_NE(passed_on<false>(test::ThreadOrder::kForward), passed_on<false>(test::ThreadOrder::kBackward));
}

void half_at_the_barrier(int /*unused*/) {
  if (threadIdx.x < 32) __syncthreads();
}

TEST(ThreadOrder, BarrierThatNotAllThreadsReachIsAnError) {
  EXPECT_THROW(launch(half_at_the_barrier, dim3(1), 64, nullptr, 0), std::logic_error);
  EXPECT_THROW(launch(half_at_the_barrier, dim3(1, 1, 65536), 64, nullptr, 0), std::logic_error);
}

}  // namespace
}  // namespace dpldm::cuda
