// Where ranks compute, and what is said when a GPU is not used, with a fake CUDA that sees as many as the test says.
#include "train/compute_device.h"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include "base/error.h"
#include "base/log.h"
#include "fake_nccl.h"
#include "support/mpi_test.h"
#include "train/rank_agreement.h"

namespace dpldm::train {
namespace {

using testing::HasSubstr;

class ComputeDevice : public testing::Test {
 protected:
  ComputeDevice() {
    test::reset_fake_nccl();
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_st>(said_)));
    runtime_.device = "auto";
  }
  ~ComputeDevice() override { setup_log(host_->rank(), host_->size()); }

  // What is chosen, and what rank 0 says, on every rank.
  c10::Device choose(bool has_device_memory = false, const std::string& not_on_a_gpu = "") {
    const c10::Device device = choose_compute_device(runtime_, *host_, has_device_memory, not_on_a_gpu);
    warning_ = comm::broadcast_text(*host_, said_.str());
    return device;
  }
  std::string refusal() {
    try {
      choose();
      return "";
    } catch (const ConfigError& error) {
      return error.what();
    }
  }
  int last() const { return host_->size() - 1; }
  void break_driver_of_last_rank() const {
    if (host_->rank() == last()) test::nccl_plan().num_devices = 0;
  }

  std::unique_ptr<comm::Communicator> host_ = test::make_world_communicator();
  config::RuntimeConfig runtime_;
  std::string warning_;

 private:
  std::ostringstream said_;
};

TEST_F(ComputeDevice, RanksThatWouldUseOneDevice_ExchangeHostMemory) {
  if (host_->size() == 1) GTEST_SKIP() << "one rank shares with nobody";
  test::nccl_plan().num_devices = 1;
  EXPECT_EQ(connect_devices(runtime_, *host_), nullptr);
  test::nccl_plan().first_bus = host_->rank();  // as a launcher binds them
  EXPECT_NE(connect_devices(runtime_, *host_), nullptr);
}

TEST_F(ComputeDevice, DriverThatIsBrokenForOneRank_IsWarnedOfWithTheRank) {
  if (host_->size() == 1) GTEST_SKIP() << "then no rank sees a GPU";
  break_driver_of_last_rank();
  EXPECT_TRUE(choose().is_cpu());
  EXPECT_THAT(warning_, HasSubstr("this rank sees no GPU that its driver can use (another device error) (rank " +
                                  std::to_string(last()) + " of " + std::to_string(host_->size()) + ")"));
  EXPECT_THAT(warning_, testing::Not(HasSubstr("runtime.backend")));
}

TEST_F(ComputeDevice, DriverThatIsBrokenForOneRank_IsNamedOnAllRanksWhereAGpuIsAskedFor) {
  if (host_->size() == 1) GTEST_SKIP() << "no other rank";
  break_driver_of_last_rank();
  runtime_.device = "cuda";
  EXPECT_THAT(refusal(), HasSubstr("runtime.device is cuda, but this rank sees no GPU that its driver can use"));
  EXPECT_THAT(refusal(), HasSubstr("(rank " + std::to_string(last()) + " of "));
}

TEST_F(ComputeDevice, FewerGpusThanRanks_AreWarnedOf) {
  if (host_->size() < 3) GTEST_SKIP() << "one GPU would be the rank's own";
  test::nccl_plan().num_devices = 2;
  EXPECT_TRUE(choose().is_cpu());
  EXPECT_THAT(warning_, HasSubstr("there are 3 ranks on this node, but only 2 GPUs"));
}

TEST_F(ComputeDevice, GpuThatTheBackendOrTheRunForbids_IsWarnedOf) {
  EXPECT_TRUE(choose().is_cpu());
  EXPECT_THAT(warning_, HasSubstr("although there is a GPU: ranks exchange host memory (runtime.backend)"));
  EXPECT_TRUE(choose(true, "an audit looks at sums on the CPU").is_cpu());
  EXPECT_THAT(warning_, HasSubstr("although there is a GPU: an audit looks at sums on the CPU"));
}

TEST_F(ComputeDevice, WhereNoRankSeesAGpuOrNoneIsAskedFor_NothingIsSaid) {
  runtime_.device = "cpu";
  EXPECT_TRUE(choose().is_cpu());
  EXPECT_EQ(warning_, "");
  runtime_.device = "auto";
  test::nccl_plan().num_devices = 0;
  EXPECT_TRUE(choose().is_cpu());
  EXPECT_EQ(warning_, "");
}

}  // namespace
}  // namespace dpldm::train
