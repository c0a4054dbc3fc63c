#include <fmt/format.h>

#include "base/error.h"
#include "comm/device_communicator.h"

namespace dpldm::comm {

int choose_device(int num_visible_devices, int local_rank, int local_size) {
  if (num_visible_devices < 1) throw ConfigError("runtime.backend is nccl, but this rank sees no GPU");
  if (num_visible_devices == 1) return 0;
  if (local_rank >= num_visible_devices) {
    throw ConfigError(fmt::format("there are {} ranks on this node, but only {} GPUs; start one rank for each GPU",
                                  local_size, num_visible_devices));
  }
  return local_rank;
}

}  // namespace dpldm::comm
