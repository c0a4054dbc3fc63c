// The device's kernels for per-record gradients, compiled for the host (support/cuda_on_host).
#include "cuda/record_products.cu"
