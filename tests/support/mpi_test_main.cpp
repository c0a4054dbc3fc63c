// The main of tests that run on several ranks: a test passes when it passes on every rank.
//
// GoogleTest knows nothing of ranks: by itself it prints everything from all of them, or hides the failures of all but
// one. Here one listener collects each rank's failures, and at the end of each test another exchanges them, so that
// rank 0's report has every failure, and every rank agrees on what failed. The exchange uses MPI itself, on a
// communicator of its own, not the code under test.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <mpi.h>

#include "comm/mpi_world.h"
#include "support/mpi_test.h"

namespace dpldm::test {
namespace {

// Longer than any test's own deadlines, shorter than CTest's time limit, so that the hanging test is named.
constexpr std::chrono::seconds kTestTimeLimit{100};
constexpr std::chrono::seconds kTestDeadline{30};

comm::MpiWorld* the_world = nullptr;

// GoogleTest forbids a listener that handles part results to raise failures, hence two listeners.
class FailureCollector : public testing::EmptyTestEventListener {
 public:
  explicit FailureCollector(int rank) : rank_(rank) {}

  void OnTestStart(const testing::TestInfo&) override { text_.clear(); }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const char* file = result.file_name() == nullptr ? "unknown file" : result.file_name();
    text_ += "[rank " + std::to_string(rank_) + "] " + file + ":" + std::to_string(result.line_number()) + "\n" +
             result.message() + "\n";
  }
  const std::string& text() const { return text_; }

 private:
  int rank_;
  std::string text_;
};

class Consensus : public testing::EmptyTestEventListener {
 public:
  Consensus(MPI_Comm comm, const FailureCollector& collector) : comm_(comm), collector_(collector) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }

  void OnTestEnd(const testing::TestInfo& info) override {
    const bool failed_here = info.result()->Failed();
    int failed_anywhere = failed_here ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &failed_anywhere, 1, MPI_INT, MPI_MAX, comm_);
    if (failed_anywhere == 0) return;
    const std::string others = gather_texts_of_other_ranks();
    if (rank_ == 0 && !others.empty()) ADD_FAILURE() << "on other ranks:\n" << others;
    if (rank_ != 0 && !failed_here) ADD_FAILURE() << "failed on another rank";
  }

 private:
  // On rank 0; empty elsewhere.
  std::string gather_texts_of_other_ranks() {
    const std::string mine = rank_ == 0 ? "" : collector_.text();
    int length = static_cast<int>(mine.size());
    std::vector<int> lengths(static_cast<std::size_t>(size_));
    MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, comm_);
    std::vector<int> offsets(lengths.size(), 0);
    for (std::size_t i = 1; i < offsets.size(); ++i) offsets[i] = offsets[i - 1] + lengths[i - 1];
    std::string all(static_cast<std::size_t>(offsets.back() + lengths.back()), '\0');
    MPI_Gatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(), MPI_CHAR, 0, comm_);
    return all;
  }

  MPI_Comm comm_;
  const FailureCollector& collector_;
  int rank_ = 0;
  int size_ = 1;
};

// Ends the whole job when one test takes too long; a hang would otherwise hide which one it was.
class Watchdog : public testing::EmptyTestEventListener {
 public:
  explicit Watchdog(int rank) : rank_(rank), thread_([this](const std::stop_token& stop) { watch(stop); }) {}

  void OnTestStart(const testing::TestInfo& info) override {
    const std::lock_guard lock(mutex_);
    test_ = std::string(info.test_suite_name()) + "." + info.name();
    bark_at_ = std::chrono::steady_clock::now() + kTestTimeLimit;
    changed_.notify_all();
  }
  void OnTestEnd(const testing::TestInfo&) override {
    const std::lock_guard lock(mutex_);
    test_.clear();
    changed_.notify_all();
  }

 private:
  void watch(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      if (test_.empty()) {
        changed_.wait(lock, stop, [this] { return !test_.empty(); });
        continue;
      }
      const auto bark_at = bark_at_;
      changed_.wait_until(lock, stop, bark_at, [&] { return test_.empty() || bark_at_ != bark_at; });
      if (!test_.empty() && std::chrono::steady_clock::now() >= bark_at_) {
        std::fprintf(stderr, "[rank %d] %s did not end within its time limit\n", rank_, test_.c_str());
        std::_Exit(EXIT_FAILURE);
      }
    }
  }

  int rank_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::string test_;
  std::chrono::steady_clock::time_point bark_at_;
  std::jthread thread_;  // last: it uses the others
};

int run_all_tests_in_consensus(int rank) {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm);

  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
  }
  auto* collector = new FailureCollector(rank);  // GoogleTest takes ownership of listeners
  listeners.Append(collector);
  listeners.Append(new Consensus(comm, *collector));
  listeners.Append(new Watchdog(rank));

  int code = RUN_ALL_TESTS();
  MPI_Allreduce(MPI_IN_PLACE, &code, 1, MPI_INT, MPI_MAX, comm);
  MPI_Comm_free(&comm);
  return code;
}

}  // namespace

std::unique_ptr<comm::Communicator> make_world_communicator() {
  auto communicator = the_world->make_communicator();
  communicator->set_deadline(kTestDeadline);
  return communicator;
}

}  // namespace dpldm::test

int main(int argc, char** argv) {
  dpldm::comm::MpiWorld world(&argc, &argv);
  dpldm::test::the_world = &world;
  testing::InitGoogleTest(&argc, argv);
  const int code = dpldm::test::run_all_tests_in_consensus(world.rank());
  std::fflush(nullptr);
  return code;
}
