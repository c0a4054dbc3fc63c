#include "train/compute_device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <torch/cuda.h>

#include "base/error.h"
#include "base/log.h"
#include "comm/device_communicator.h"
#include "train/rank_agreement.h"

namespace dpldm::train {
namespace {

// Empty when this rank can compute on a GPU.
std::string why_not(const comm::Communicator& comm, const std::string& not_on_a_gpu) {
  if (!not_on_a_gpu.empty()) return not_on_a_gpu;
  const std::string why = comm::why_no_device_communicator(comm.local_size());
  if (why.empty() || comm.size() == 1) return why;
  return fmt::format("{} (rank {} of {})", why, comm.rank(), comm.size());
}

void settle_products(bool tf32) {
  at::Context& context = at::globalContext();
  context.setFloat32MatmulPrecision(tf32 ? "high" : "highest");
  context.setAllowTF32CuDNN(tf32);
  context.setBenchmarkCuDNN(false);
  context.setDeterministicCuDNN(true);
}

}  // namespace

c10::Device choose_compute_device(const config::RuntimeConfig& runtime, comm::Communicator& comm,
                                  bool has_device_memory, const std::string& not_on_a_gpu) {
  std::string because =
      first_said(comm, why_not(comm, runtime.device == "cpu" ? "runtime.device is cpu" : not_on_a_gpu));
  if (because.empty() && !has_device_memory) because = "ranks exchange host memory (runtime.backend)";
  if (!because.empty()) {
    if (runtime.device == "cuda") throw ConfigError("runtime.device is cuda, but " + because);
    if (runtime.precision == "tf32") throw ConfigError("runtime.precision is tf32, which only a GPU has: " + because);
    const bool lies_idle = runtime.device == "auto" && comm::num_visible_devices() > 0;
    if (comm::any_rank(comm, lies_idle) && comm.is_root()) {
      spdlog::warn("all ranks compute on the CPU, although there is a GPU: {}", because);
    }
    return c10::kCPU;
  }
  settle_products(runtime.precision == "tf32");
  const int device =
      comm::choose_device(static_cast<int>(torch::cuda::device_count()), comm.local_rank(), comm.local_size());
  // LibTorch's current stream, on which per-record kernels are queued, is that of the current device.
  at::accelerator::setDeviceIndex(static_cast<c10::DeviceIndex>(device));
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(device)};
}

}  // namespace dpldm::train
