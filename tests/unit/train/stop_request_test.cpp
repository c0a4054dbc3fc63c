#include "train/stop_request.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"

namespace dpldm::train {
namespace {

using std::chrono::system_clock;

class StopRequestTest : public testing::Test {
 protected:
  void TearDown() override { ::unsetenv("SLURM_JOB_END_TIME"); }

  static void set_allocation_end(std::chrono::seconds from_now) {
    const auto end =
        std::chrono::duration_cast<std::chrono::seconds>((system_clock::now() + from_now).time_since_epoch());
    ::setenv("SLURM_JOB_END_TIME", std::to_string(end.count()).c_str(), 1);
  }

  std::unique_ptr<comm::Communicator> comm_ = comm::make_self_communicator();
};

TEST_F(StopRequestTest, WithoutAnyRequest_GoesOn) {
  StopRequest request;
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
}

TEST_F(StopRequestTest, EachStopSignal_StopsAndIsNamed) {
  const struct {
    int signal;
    const char* name;
  } kCases[] = {{SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGUSR1, "SIGUSR1"}};
  for (const auto& [signal, name] : kCases) {
    StopRequest request;
    std::raise(signal);
    EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop) << name;
    EXPECT_EQ(request.reason(), name);
    EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop) << "a request is not forgotten";
  }
}

TEST_F(StopRequestTest, SecondSignal_ChangesNothing) {
  StopRequest request;
  std::raise(SIGUSR1);
  std::raise(SIGUSR1);
  std::raise(SIGTERM);
  EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop);
  EXPECT_EQ(request.reason(), "SIGUSR1");
}

TEST_F(StopRequestTest, Usr2_AsksForOneCheckpoint) {
  StopRequest request;
  std::raise(SIGUSR2);
  EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndGoOn);
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
}

TEST_F(StopRequestTest, TimeLimit_Stops) {
  StopRequest expired(std::chrono::nanoseconds(1));
  EXPECT_EQ(expired.agree(*comm_), StopDecision::kCheckpointAndStop);
  EXPECT_EQ(expired.reason(), "the time limit");
}

TEST_F(StopRequestTest, TimeLimitFarAway_GoesOn) {
  StopRequest request(std::chrono::hours(1));
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
}

TEST_F(StopRequestTest, EndOfTheAllocation_IsAnticipatedByThreeCheckpoints) {
  set_allocation_end(std::chrono::seconds(1000));
  StopRequest request;
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
  request.set_checkpoint_time(std::chrono::seconds(300));
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
  request.set_checkpoint_time(std::chrono::seconds(340));
  EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop);
  EXPECT_EQ(request.reason(), "the end of the Slurm allocation");
}

TEST_F(StopRequestTest, EndOfTheAllocationThatIsNoTime_IsIgnored) {
  ::setenv("SLURM_JOB_END_TIME", "soon", 1);
  StopRequest request;
  EXPECT_EQ(request.agree(*comm_), StopDecision::kGoOn);
}

TEST_F(StopRequestTest, SignalDuringTheSetUp_StopsBeforeTheFirstStep) {
  StopRequest request;
  EXPECT_NO_THROW(request.before_first_step(*comm_, "go on"));
  std::raise(SIGUSR1);
  try {
    request.before_first_step(*comm_, "start it again");
    FAIL() << "the signal was not looked at";
  } catch (const Checkpointed& why) {
    EXPECT_STREQ(why.what(), "stopped by SIGUSR1 before the first step of this start; start it again");
    EXPECT_EQ(why.code(), ExitCode::kCheckpointed);
  }
}

TEST_F(StopRequestTest, ClockDuringTheSetUp_LeavesAStepToEveryStart) {
  set_allocation_end(std::chrono::seconds(1));
  StopRequest request(std::chrono::nanoseconds(1));
  EXPECT_NO_THROW(request.before_first_step(*comm_, "go on"));
  EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop);
}

TEST_F(StopRequestTest, SignalBeforeThereIsAnObject_IsNotForgotten) {
  listen_for_stop_signals();
  std::raise(SIGUSR1);
  StopRequest request;
  EXPECT_EQ(request.agree(*comm_), StopDecision::kCheckpointAndStop);
  EXPECT_EQ(request.reason(), "SIGUSR1");
}

[[noreturn]] void speak_to_nobody() {
  listen_for_stop_signals();
  const StopRequest request;
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) std::_Exit(1);
  ::close(ends[0]);
  const bool is_refused = ::write(ends[1], "x", 1) < 0 && errno == EPIPE;
  std::_Exit(is_refused ? 0 : 1);
}

TEST_F(StopRequestTest, MessageThatNobodyReads_EndsNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(speak_to_nobody(), testing::ExitedWithCode(0), "");
}

TEST_F(StopRequestTest, Destructor_PutsEarlierHandlersBack) {
  static int caught = 0;
  std::signal(SIGUSR1, [](int) { ++caught; });
  { const StopRequest request; }
  std::raise(SIGUSR1);
  EXPECT_EQ(caught, 1);
  std::signal(SIGUSR1, SIG_DFL);
}

TEST_F(StopRequestTest, SecondCtrlC_EndsTheProgramAtOnce) {
  EXPECT_EXIT(
      {
        StopRequest request;
        std::raise(SIGINT);
        std::raise(SIGINT);
        std::exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST_F(StopRequestTest, TwoObjects_AreRefused) {
  const StopRequest request;
  EXPECT_THROW(StopRequest(), InternalError);
}

}  // namespace
}  // namespace dpldm::train
