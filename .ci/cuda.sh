#!/usr/bin/env bash
# Compiles the CUDA kernels for sm_80 and sm_90 and links what uses them: `dpldm` itself and all tests that need a GPU. Runs nothing: that
# needs a GPU. Prints nothing when all is well; without a CUDA toolkit it says so and does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v nvcc >/dev/null; then
  echo "cuda: there is no nvcc here; the CUDA build is not checked" >&2
  exit 0
fi
# LibTorch is the one that the CPU build installed: its wheel has the CUDA half too, and the libraries that this half needs are only
# looked for when a program starts.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build() {
  cmake --preset cuda-release -DDPLDM_UNITY=ON && cmake --build build-cuda --parallel "$(nproc)" --target \
    dpldm gpu_noise_kernel_test test_nccl test_cuda_record_products test_clipped_sum_on_device test_finetune_on_device
}
build >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
