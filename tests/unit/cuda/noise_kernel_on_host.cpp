// The device's noise kernels, compiled for the host (support/cuda_on_host).
#include "cuda/noise_kernel.cu"
