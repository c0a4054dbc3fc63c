// Collectives against closed forms, at any number of ranks.
#include <chrono>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/mpi_communicator.h"
#include "support/collective_checks.h"
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
  Collectives() : comm_(MPI_COMM_WORLD, GetParam()) { comm_.set_deadline(std::chrono::seconds(30)); }

  MpiCommunicator comm_;
};

TEST_P(Collectives, AllReduceSum_IsTheSumOverRanks) { test::check_sum<test::OnHost>(comm_, 1000); }

TEST_P(Collectives, AllReduce_WorksForEveryType) { test::check_every_type<test::OnHost>(comm_); }

TEST_P(Collectives, MaxAndMin_AreTheExtremes) { test::check_extremes<test::OnHost>(comm_); }

TEST_P(Collectives, ReduceAndBroadcast_WorkFromEveryRoot) { test::check_every_root<test::OnHost>(comm_); }

TEST_P(Collectives, AllGather_IsInRankOrder) { test::check_order_of_ranks<test::OnHost>(comm_); }

TEST_P(Collectives, EmptyBuffers_AreAllowed) { test::check_empty_buffers<test::OnHost>(comm_); }

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
    EXPECT_THAT(message, testing::StartsWith("step 7: all_reduce_sum of 3 float32, collective 2, on rank " +
                                             std::to_string(comm.rank()) + " of " + std::to_string(comm.size())));
    const std::string last = "missing: rank " + std::to_string(comm.size() - 1) + " on ";
    EXPECT_THAT(message, HasSubstr(last));
    EXPECT_THAT(message, HasSubstr(", last known in step 7: barrier, collective 1 (dead, stopped"));
    // The others wait in the same call and say so.
    EXPECT_THAT(message, testing::Not(HasSubstr(", rank ")));
    EXPECT_EQ(message.find(" in all_reduce_sum of 3 float32, collective 2") != std::string::npos, comm.size() > 2);
  }
  EXPECT_THAT(next, HasSubstr("after a failed collective"));
}

TEST(Deadline, RankInAnotherCollective_IsNamedWithIt) {
  const auto comm = test::make_world_communicator();
  if (comm->size() < 3) GTEST_SKIP() << "needs a rank to wait with, and one that is missing";
  comm->set_deadline(std::chrono::milliseconds(300));
  // Rank 1 is in another collective; rank 2 is nowhere.
  std::string message;
  if (comm->rank() == 0) message = message_of([&] { comm->barrier(); });
  if (comm->rank() == 1) {
    comm->set_deadline(std::chrono::milliseconds(1500));
    std::int32_t value = 0;
    message = message_of([&] { comm->broadcast(host_buffer(std::span(&value, 1)), 1); });
  }
  if (comm->rank() == 0) {
    EXPECT_THAT(message, testing::StartsWith("barrier, collective 1, on rank 0 of "));
    EXPECT_THAT(message, HasSubstr("missing: rank 2 on "));
    EXPECT_THAT(message, HasSubstr(", last known in no collective yet (dead"));
    EXPECT_THAT(message, testing::EndsWith("; rank 1 waits in broadcast of 1 int32 from rank 1, collective 1"));
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
