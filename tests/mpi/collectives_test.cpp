// Collectives against closed forms, at any number of ranks.
#include <chrono>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/mpi_communicator.h"
#include "support/faulty_communicator.h"
#include "support/mpi_test.h"

namespace dpldm::comm {
namespace {

using testing::HasSubstr;

// The message of the CommunicationError or ConfigError that `call` throws; empty when it throws none.
template <typename Call>
std::string message_of(Call call) {
  try {
    call();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// "One message" and "pieces of 3 elements": the second is how counts above INT_MAX travel.
class Collectives : public testing::TestWithParam<std::size_t> {
 protected:
  Collectives() : comm_(MPI_COMM_WORLD, GetParam()) {
    comm_.set_deadline(std::chrono::seconds(30));
    n_ = comm_.size();
    r_ = comm_.rank();
  }

  MpiCommunicator comm_;
  int n_ = 1;
  int r_ = 0;
};

TEST_P(Collectives, AllReduceSum_IsTheSumOverRanks) {
  std::vector<float> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1) * static_cast<float>(r_ + 1);
  comm_.all_reduce_sum(host_buffer(std::span(values)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(values[i], static_cast<float>(i + 1) * static_cast<float>(n_ * (n_ + 1) / 2)) << i;
  }
}

TEST_P(Collectives, AllReduce_WorksForEveryType) {
  std::vector<double> f64(7, 0.5 * (r_ + 1));
  std::vector<std::int32_t> i32(7, r_ + 1);
  std::vector<std::int64_t> i64(7, (std::int64_t{1} << 40) * (r_ + 1));
  std::vector<std::uint8_t> u8(7, static_cast<std::uint8_t>(r_ + 1));
  comm_.all_reduce_sum(host_buffer(std::span(f64)));
  comm_.all_reduce_sum(host_buffer(std::span(i32)));
  comm_.all_reduce_sum(host_buffer(std::span(i64)));
  comm_.all_reduce_sum(host_buffer(std::span(u8)));
  const int sum = n_ * (n_ + 1) / 2;
  EXPECT_EQ(f64, std::vector<double>(7, 0.5 * sum));
  EXPECT_EQ(i32, std::vector<std::int32_t>(7, sum));
  EXPECT_EQ(i64, std::vector<std::int64_t>(7, (std::int64_t{1} << 40) * sum));
  EXPECT_EQ(u8, std::vector<std::uint8_t>(7, static_cast<std::uint8_t>(sum)));
}

TEST_P(Collectives, MaxAndMin_AreTheExtremes) {
  std::vector<std::int64_t> high = {r_, -r_, 5, 0, r_};
  std::vector<std::int64_t> low = high;
  comm_.all_reduce_max(host_buffer(std::span(high)));
  comm_.all_reduce_min(host_buffer(std::span(low)));
  EXPECT_EQ(high, (std::vector<std::int64_t>{n_ - 1, 0, 5, 0, n_ - 1}));
  EXPECT_EQ(low, (std::vector<std::int64_t>{0, -(n_ - 1), 5, 0, 0}));
}

TEST_P(Collectives, ReduceAndBroadcast_WorkFromEveryRoot) {
  for (int root = 0; root < n_; ++root) {
    std::vector<float> values(10, static_cast<float>(r_ + 1));
    comm_.reduce_sum(host_buffer(std::span(values)), root);
    if (r_ == root) {
      EXPECT_EQ(values, std::vector<float>(10, static_cast<float>(n_ * (n_ + 1) / 2)));
    }
    std::vector<std::int32_t> text(10, r_ == root ? 100 + root : -1);
    comm_.broadcast(host_buffer(std::span(text)), root);
    EXPECT_EQ(text, std::vector<std::int32_t>(10, 100 + root));
  }
}

TEST_P(Collectives, AllGather_IsInRankOrder) {
  std::vector<std::int64_t> mine(8);
  std::iota(mine.begin(), mine.end(), 100 * r_);
  std::vector<std::int64_t> all(mine.size() * static_cast<std::size_t>(n_));
  comm_.all_gather(host_buffer(std::span(mine)), host_buffer(std::span(all)));
  for (int rank = 0; rank < n_; ++rank) {
    for (std::size_t i = 0; i < mine.size(); ++i) {
      EXPECT_EQ(all[static_cast<std::size_t>(rank) * mine.size() + i], 100 * rank + static_cast<int>(i));
    }
  }
}

TEST_P(Collectives, EmptyBuffers_AreAllowed) {
  const Buffer empty;
  comm_.all_reduce_sum(empty);
  comm_.reduce_sum(empty, 0);
  comm_.broadcast(empty, 0);
  comm_.all_gather(empty, empty);
  comm_.barrier();
  std::int32_t one = 1;
  comm_.all_reduce_sum(host_buffer(std::span(&one, 1)));
  EXPECT_EQ(one, n_) << "the communicator works afterwards";
}

INSTANTIATE_TEST_SUITE_P(, Collectives, testing::Values(MpiCommunicator::kMaxMessageElements, std::size_t{3}),
                         [](const auto& test) { return test.param == 3 ? "PiecesOfThree" : "OneMessage"; });

TEST(Helpers, AnyRank_IsTrueWhenTheLastOneSaysSo) {
  const auto comm = test::make_world_communicator();
  EXPECT_TRUE(any_rank(*comm, comm->rank() == comm->size() - 1));
  EXPECT_FALSE(any_rank(*comm, false));
}

TEST(Helpers, BroadcastText_CarriesRankZerosTextOfAnyLength) {
  const auto comm = test::make_world_communicator();
  const std::string mine = comm->is_root() ? std::string("from zero") : std::string(100, 'x');
  EXPECT_EQ(broadcast_text(*comm, mine), "from zero");
  EXPECT_EQ(broadcast_text(*comm, comm->is_root() ? "" : "not empty"), "");
}

TEST(Helpers, EqualTexts_Pass) {
  const auto comm = test::make_world_communicator();
  require_equal_on_all_ranks(*comm, "the config", "same");
}

TEST(Helpers, DifferentTexts_ThrowOnEveryRankAndNameIt) {
  const auto comm = test::make_world_communicator();
  const bool last = comm->rank() == comm->size() - 1;
  const std::string message =
      message_of([&] { require_equal_on_all_ranks(*comm, "finetune.clip_norm", last ? "another" : "this"); });
  if (comm->size() == 1) {
    EXPECT_EQ(message, "");
  } else {
    EXPECT_THAT(message, HasSubstr("finetune.clip_norm"));
    EXPECT_THAT(message, HasSubstr("rank " + std::to_string(comm->size() - 1)));
    EXPECT_THAT(message, HasSubstr("'another'"));
    EXPECT_THAT(message, HasSubstr("'this'"));
  }
}

TEST(Helpers, LongTexts_AreComparedAndTheFirstLineThatDiffersIsNamed) {
  const auto comm = test::make_world_communicator();
  if (comm->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  std::string text;
  for (int i = 0; i < 100; ++i) text += "key_" + std::to_string(i) + ": 1\n";
  if (comm->rank() == 1) text.replace(text.find("key_57: 1"), 9, "key_57: 2");
  const std::string message = message_of([&] { require_equal_on_all_ranks(*comm, "the configuration", text); });
  EXPECT_THAT(message, HasSubstr("rank 1 has 'key_57: 2' where rank 0 has 'key_57: 1'"));
}

TEST(World, LocalRanks_CoverTheNode) {
  const auto comm = test::make_world_communicator();
  // Tests run on one machine.
  EXPECT_EQ(comm->local_size(), comm->size());
  EXPECT_EQ(comm->local_rank(), comm->rank());
}

TEST(Mismatch, DifferentCounts_ThrowOnEveryRankAndNameBothCalls) {
  const auto comm = test::make_world_communicator();
  if (comm->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  std::vector<float> values(comm->rank() == comm->size() - 1 ? 4 : 3);
  comm->set_context("step 12");
  const std::string message = message_of([&] { comm->all_reduce_sum(host_buffer(std::span(values))); });
  EXPECT_THAT(message, HasSubstr("step 12"));
  EXPECT_THAT(message, HasSubstr("rank 0 calls all_reduce_sum of 3 float32"));
  EXPECT_THAT(message, HasSubstr("rank " + std::to_string(comm->size() - 1) + " calls all_reduce_sum of 4 float32"));
}

TEST(Mismatch, DifferentOperations_ThrowOnEveryRank) {
  const auto comm = test::make_world_communicator();
  if (comm->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  std::vector<float> values(3);
  const std::string message = message_of([&] {
    if (comm->rank() == 1) {
      comm->barrier();
    } else {
      comm->broadcast(host_buffer(std::span(values)), 0);
    }
  });
  EXPECT_THAT(message, HasSubstr("rank 0 calls broadcast of 3 float32 from rank 0"));
  EXPECT_THAT(message, HasSubstr("rank 1 calls barrier"));
}

TEST(Mismatch, DifferentTypes_ThrowOnEveryRank) {
  const auto comm = test::make_world_communicator();
  if (comm->size() == 1) GTEST_SKIP() << "one rank cannot disagree";
  std::vector<float> f32(2);
  std::vector<std::int32_t> i32(2);
  const std::string message = message_of(
      [&] { comm->all_reduce_max(comm->rank() == 0 ? host_buffer(std::span(f32)) : host_buffer(std::span(i32))); });
  EXPECT_THAT(message, HasSubstr("float32"));
  EXPECT_THAT(message, HasSubstr("int32"));
}

TEST(Refusal, DeviceMemory_IsRefusedBeforeAnyRankMoves) {
  const auto comm = test::make_world_communicator();
  EXPECT_THROW(comm->all_reduce_sum({nullptr, 1, DType::kFloat32, Place::kDevice}), InternalError);
  comm->barrier();
}

TEST(Deadline, MissingRank_EndsTheWaitOnTheOthers) {
  auto inner = test::make_world_communicator();
  const bool one_rank = inner->size() == 1;
  const bool absent = inner->rank() == inner->size() - 1;
  test::FaultyCommunicator comm(
      std::move(inner),
      absent ? test::FaultyCommunicator::Fault::kNeverCompletes : test::FaultyCommunicator::Fault::kNone, 1);
  comm.set_deadline(std::chrono::milliseconds(300));
  comm.set_context("step 7");
  comm.barrier();
  std::vector<float> values(3);
  const std::string message = message_of([&] { comm.all_reduce_sum(host_buffer(std::span(values))); });
  const std::string next = message_of([&] { comm.barrier(); });
  EXPECT_THAT(message, HasSubstr("step 7"));
  EXPECT_THAT(message, HasSubstr("all_reduce_sum"));
  EXPECT_THAT(message, HasSubstr("not complete after 300 ms"));
  if (!one_rank && !absent) {
    const std::string last = "missing: rank " + std::to_string(comm.size() - 1) + " on ";
    EXPECT_THAT(message, HasSubstr(last));
    // The others wait in the same call and say so.
    EXPECT_THAT(message, testing::Not(HasSubstr(", rank ")));
  }
  EXPECT_THAT(next, HasSubstr("after a failed collective"));
}

TEST(Deadline, RankInAnotherCollective_IsNamedWithIt) {
  const auto comm = test::make_world_communicator();
  if (comm->size() < 3) GTEST_SKIP() << "needs a rank to wait with, and one that is missing";
  comm->set_deadline(std::chrono::milliseconds(300));
  // Rank 1 is one collective behind; rank 2 is nowhere.
  std::string message;
  if (comm->rank() == 0) message = message_of([&] { comm->barrier(); });
  if (comm->rank() == 1) {
    comm->set_deadline(std::chrono::milliseconds(1500));
    std::int32_t value = 0;
    message = message_of([&] { comm->broadcast(host_buffer(std::span(&value, 1)), 1); });
  }
  if (comm->rank() == 0) {
    EXPECT_THAT(message, HasSubstr("missing: rank 2 on "));
    EXPECT_THAT(message, testing::Not(HasSubstr("rank 1")));
  }
}

TEST(Deadline, LateRank_IsWaitedFor) {
  auto inner = test::make_world_communicator();
  const bool late = inner->rank() == inner->size() - 1;
  const int size = inner->size();
  test::FaultyCommunicator comm(std::move(inner),
                                late ? test::FaultyCommunicator::Fault::kDelay : test::FaultyCommunicator::Fault::kNone,
                                0, std::chrono::milliseconds(50));
  std::int64_t one = 1;
  comm.all_reduce_sum(host_buffer(std::span(&one, 1)));
  EXPECT_EQ(one, size);
}

}  // namespace
}  // namespace dpldm::comm
