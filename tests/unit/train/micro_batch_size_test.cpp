#include "train/micro_batch_size.h"

#include <gtest/gtest.h>

#include "base/torch.h"

namespace dpldm::train {
namespace {

TEST(MicroBatchSize, IsTheLargestThatTheLimitAllows) {
  const MemoryUse use{.fixed_bytes = 1000, .bytes_per_record = 10};
  EXPECT_EQ(micro_batch_within(1009, use, 128), 0);
  EXPECT_EQ(micro_batch_within(1010, use, 128), 1);
  EXPECT_EQ(micro_batch_within(1099, use, 128), 9);
  EXPECT_EQ(micro_batch_within(1'000'000, use, 128), 128);
  EXPECT_EQ(micro_batch_within(1010, {1000, 0}, 128), 128);
}

TEST(MicroBatchSize, MemoryIsMeasuredPerRecordAndApart) {
  const MemoryUse use = measure_memory([](std::int64_t num_records) {
    const at::Tensor fixed = at::empty({1 << 20});
    const at::Tensor records = at::empty({num_records, 1 << 18});
  });
  EXPECT_EQ(use.bytes_per_record, 4 << 18);
  EXPECT_EQ(use.fixed_bytes, 4 << 20);
}

TEST(MicroBatchSize, WhatLastsIsWeightsStateAndCopies) {
  LastingMemory memory{.network_elements = 1000, .trained_elements = 100, .stored_elements = 10};
  const std::int64_t libraries = lasting_bytes({});
  EXPECT_EQ(lasting_bytes(memory) - libraries, 4 * 1000 + 5 * 4 * 100 + 4 * 10);
  memory.in_bf16 = true;
  memory.copies_state = true;
  EXPECT_EQ(lasting_bytes(memory) - libraries, 6 * 1000 + 9 * 4 * 100 + 4 * 10);
}

TEST(MicroBatchSize, NodeHasMemory) { EXPECT_GT(node_memory_bytes(), std::int64_t{64} << 20); }

}  // namespace
}  // namespace dpldm::train
