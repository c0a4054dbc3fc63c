# dpldm::torch from a Python wheel's `torch` folder or an unpacked LibTorch archive.
#
# LibTorch's own package file is not used: it insists on a CUDA toolkit as soon as the library was built with CUDA, though the CPU half
# links and runs without one. Where to look: -DDPLDM_LIBTORCH, then the environment, then .deps/ (what launch/bootstrap.sh fills).
set(candidates ${DPLDM_LIBTORCH} $ENV{DPLDM_LIBTORCH} ${CMAKE_SOURCE_DIR}/.deps/python/torch)
foreach(candidate IN LISTS candidates)
  if(EXISTS ${candidate}/lib/libtorch_cpu.so)
    get_filename_component(DPLDM_TORCH_ROOT ${candidate} ABSOLUTE)
    break()
  endif()
endforeach()
if(NOT DPLDM_TORCH_ROOT)
  message(FATAL_ERROR "LibTorch was not found. Run launch/bootstrap.sh, or set DPLDM_LIBTORCH to a folder with lib/libtorch_cpu.so "
                      "(looked in: ${candidates}).")
endif()
message(STATUS "LibTorch: ${DPLDM_TORCH_ROOT}")
# Remembered, so that a later configure of this build needs no environment.
set(DPLDM_LIBTORCH ${DPLDM_TORCH_ROOT} CACHE PATH "LibTorch in use" FORCE)

# LibTorch carries headers of another fmt than the one that this program and spdlog are linked with. A folder that holds nothing but
# a link to ours goes first.
find_package(fmt REQUIRED)
find_path(DPLDM_FMT_INCLUDE fmt/format.h REQUIRED)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fmt_first)
file(CREATE_LINK ${DPLDM_FMT_INCLUDE}/fmt ${CMAKE_BINARY_DIR}/fmt_first/fmt SYMBOLIC)

add_library(dpldm_torch INTERFACE)
add_library(dpldm::torch ALIAS dpldm_torch)
target_include_directories(dpldm_torch SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/fmt_first
                                                        ${DPLDM_TORCH_ROOT}/include
                                                        ${DPLDM_TORCH_ROOT}/include/torch/csrc/api/include)
target_link_directories(dpldm_torch INTERFACE ${DPLDM_TORCH_ROOT}/lib)
# A wheel built with CUDA refers to driver-side libraries that the CPU half never calls; they need not be here at link time.
target_link_options(dpldm_torch INTERFACE -Wl,--allow-shlib-undefined -Wl,-rpath,${DPLDM_TORCH_ROOT}/lib)
target_link_libraries(dpldm_torch INTERFACE torch_cpu c10)
if(DPLDM_CUDA)
  # libtorch_cuda registers its kernels when it is loaded, so it must be linked even though no symbol of it is named.
  target_link_options(dpldm_torch INTERFACE -Wl,--no-as-needed)
  target_link_libraries(dpldm_torch INTERFACE torch_cuda c10_cuda)
endif()
