// Runs kernels on the host, in place of src/cuda/launch.h.
#pragma once

#include <cuda_runtime.h>

namespace dpldm::cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t /*stream*/,
            const Arguments&... arguments) {
  test::run_blocks(grid, threads, [&] { kernel(arguments...); });
}

}  // namespace dpldm::cuda
