# The CUDA toolkit and NCCL. sm_80 (A100) and sm_90 (H100, H200) are compiled ahead; newer devices use sm_90's PTX.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
enable_language(CUDA)
# CMake 3.25 knows no C++20 dialect of nvcc 13. Kernels need none; headers that they include must do with C++17.
set(CMAKE_CUDA_STANDARD 17)
find_package(CUDAToolkit 13.0 REQUIRED)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
add_library(dpldm_nccl INTERFACE)
add_library(dpldm::nccl ALIAS dpldm_nccl)
target_include_directories(dpldm_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
target_link_libraries(dpldm_nccl INTERFACE ${NCCL_LIBRARY} CUDA::cudart)
