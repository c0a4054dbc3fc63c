#include "train/compute_device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <torch/cuda.h>

#include "base/error.h"
#include "comm/device_communicator.h"

namespace dpldm::train {
namespace {

// Empty when this rank can compute on a GPU.
std::string why_not(const comm::Communicator& comm, bool has_device_memory, const std::string& not_on_a_gpu) {
  if (!not_on_a_gpu.empty()) return not_on_a_gpu;
  if (std::string reason = comm::why_no_device_communicator(comm.local_size()); !reason.empty()) return reason;
  if (!has_device_memory) return "ranks exchange host memory (runtime.backend)";
  return "";
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
  const std::string reason =
      runtime.device == "cpu" ? "runtime.device is cpu" : why_not(comm, has_device_memory, not_on_a_gpu);
  if (comm::any_rank(comm, !reason.empty())) {
    const std::string because = reason.empty() ? "another rank has no GPU" : reason;
    if (runtime.device == "cuda") throw ConfigError("runtime.device is cuda, but " + because);
    if (runtime.precision == "tf32") throw ConfigError("runtime.precision is tf32, which only a GPU has: " + because);
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
