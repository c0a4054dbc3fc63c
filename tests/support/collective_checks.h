// What collectives give, as closed forms, for any number of ranks and whichever memory they move.
//
// A `Memory<T>` is made of a std::vector<T> and holds it where the communicator takes it from: `buffer()` is that
// place, `values()` what is there now.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.h"

namespace dpldm::test {

template <typename T>
class OnHost {
 public:
  explicit OnHost(std::vector<T> values) : values_(std::move(values)) {}
  comm::Buffer buffer() { return comm::host_buffer(std::span(values_)); }
  const std::vector<T>& values() const { return values_; }

 private:
  std::vector<T> values_;
};

// 1 + 2 + ... over ranks.
inline int sum_over_ranks(const comm::Communicator& comm) { return comm.size() * (comm.size() + 1) / 2; }

template <template <typename> class Memory>
void check_sum(comm::Communicator& comm, std::size_t count) {
  std::vector<float> mine(count);
  for (std::size_t i = 0; i < count; ++i) mine[i] = static_cast<float>(i % 1009) * static_cast<float>(comm.rank() + 1);
  Memory<float> memory(mine);
  comm.all_reduce_sum(memory.buffer());
  const std::vector<float> sums = memory.values();
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(sums[i], static_cast<float>(i % 1009) * static_cast<float>(sum_over_ranks(comm))) << i << " of " << count;
  }
}

template <template <typename> class Memory>
void check_every_type(comm::Communicator& comm) {
  constexpr std::int64_t kLarge = std::int64_t{1} << 40;
  Memory<double> f64(std::vector<double>(7, 0.5 * (comm.rank() + 1)));
  Memory<std::int32_t> i32(std::vector<std::int32_t>(7, comm.rank() + 1));
  Memory<std::int64_t> i64(std::vector<std::int64_t>(7, kLarge * (comm.rank() + 1)));
  Memory<std::uint8_t> u8(std::vector<std::uint8_t>(7, static_cast<std::uint8_t>(comm.rank() + 1)));
  comm.all_reduce_sum(f64.buffer());
  comm.all_reduce_sum(i32.buffer());
  comm.all_reduce_sum(i64.buffer());
  comm.all_reduce_sum(u8.buffer());
  const int sum = sum_over_ranks(comm);
  EXPECT_EQ(f64.values(), std::vector<double>(7, 0.5 * sum));
  EXPECT_EQ(i32.values(), std::vector<std::int32_t>(7, sum));
  EXPECT_EQ(i64.values(), std::vector<std::int64_t>(7, kLarge * sum));
  EXPECT_EQ(u8.values(), std::vector<std::uint8_t>(7, static_cast<std::uint8_t>(sum)));
}

template <template <typename> class Memory>
void check_extremes(comm::Communicator& comm) {
  const std::int64_t r = comm.rank();
  const std::int64_t last = comm.size() - 1;
  Memory<std::int64_t> high(std::vector<std::int64_t>{r, -r, 5, 0, r});
  Memory<std::int64_t> low(std::vector<std::int64_t>{r, -r, 5, 0, r});
  comm.all_reduce_max(high.buffer());
  comm.all_reduce_min(low.buffer());
  EXPECT_EQ(high.values(), (std::vector<std::int64_t>{last, 0, 5, 0, last}));
  EXPECT_EQ(low.values(), (std::vector<std::int64_t>{0, -last, 5, 0, 0}));
}

template <template <typename> class Memory>
void check_every_root(comm::Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    Memory<float> reduced(std::vector<float>(10, static_cast<float>(comm.rank() + 1)));
    comm.reduce_sum(reduced.buffer(), root);
    if (comm.rank() == root) {
      EXPECT_EQ(reduced.values(), std::vector<float>(10, static_cast<float>(sum_over_ranks(comm)))) << root;
    }
    Memory<std::int32_t> sent(std::vector<std::int32_t>(10, comm.rank() == root ? 100 + root : -1));
    comm.broadcast(sent.buffer(), root);
    EXPECT_EQ(sent.values(), std::vector<std::int32_t>(10, 100 + root)) << root;
  }
}

template <template <typename> class Memory>
void check_order_of_ranks(comm::Communicator& comm) {
  std::vector<std::int64_t> expected;
  for (int rank = 0; rank < comm.size(); ++rank) {
    for (int i = 0; i < 8; ++i) expected.push_back(100 * rank + i);
  }
  std::vector<std::int64_t> own(8);
  std::iota(own.begin(), own.end(), 100 * comm.rank());
  Memory<std::int64_t> mine(own);
  Memory<std::int64_t> all(std::vector<std::int64_t>(expected.size()));
  comm.all_gather(mine.buffer(), all.buffer());
  EXPECT_EQ(all.values(), expected);
}

template <template <typename> class Memory>
void check_empty_buffers(comm::Communicator& comm) {
  Memory<float> empty(std::vector<float>{});
  comm.all_reduce_sum(empty.buffer());
  comm.reduce_sum(empty.buffer(), comm.size() - 1);
  comm.broadcast(empty.buffer(), 0);
  comm.all_gather(empty.buffer(), empty.buffer());
  comm.barrier();
  Memory<std::int32_t> one(std::vector<std::int32_t>{1});
  comm.all_reduce_sum(one.buffer());
  EXPECT_EQ(one.values()[0], comm.size()) << "the communicator works afterwards";
}

}  // namespace dpldm::test
