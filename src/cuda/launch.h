// Starts kernels. A header of its own, so that tests can put another in its place that runs them on the host.
#pragma once

#include <cuda_runtime.h>

namespace dpldm::cuda {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
            const Arguments&... arguments) {
  kernel<<<grid, threads, 0, stream>>>(arguments...);
}

}  // namespace dpldm::cuda
