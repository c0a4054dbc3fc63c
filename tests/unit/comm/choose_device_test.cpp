#include <memory>

#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/device_communicator.h"

namespace dpldm::comm {
namespace {

TEST(ChooseDevice, SeveralVisible_GiveEachLocalRankItsOwn) {
  EXPECT_EQ(choose_device(4, 0, 4), 0);
  EXPECT_EQ(choose_device(4, 3, 4), 3);
}

// A launcher that binds one device to each task shows each rank a single device 0.
TEST(ChooseDevice, OneVisible_IsEveryRanksDevice) { EXPECT_EQ(choose_device(1, 3, 4), 0); }

TEST(ChooseDevice, MoreRanksThanDevices_AreRefused) { EXPECT_THROW(choose_device(2, 2, 3), ConfigError); }

TEST(ChooseDevice, NoDevice_IsRefused) { EXPECT_THROW(choose_device(0, 0, 1), ConfigError); }

// Holds with and without CUDA in the build.
TEST(DeviceCommunicator, WithoutADevice_IsRefusedAsConfiguration) {
  if (why_no_device_communicator(1).empty()) GTEST_SKIP() << "this machine has a GPU";
  const std::unique_ptr<Communicator> host = make_self_communicator();
  EXPECT_THROW(make_device_communicator(*host), ConfigError);
}

}  // namespace
}  // namespace dpldm::comm
