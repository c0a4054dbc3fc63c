get_filename_component(DPLDM_SOURCE_DIR ${CMAKE_CURRENT_LIST_DIR}/../src ABSOLUTE)

# dpldm_library(<folder> SOURCES ... [DEPENDS ...] [TORCH])
#
# One static library per folder of src/. DEPENDS names the folders and packages below it, so that the linker keeps the direction of
# dependencies. TORCH compiles it with the shared precompiled header of LibTorch (base/torch.h; half a minute once, then a file takes seconds).
function(dpldm_library folder)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(dpldm_${folder} STATIC ${ARG_SOURCES})
  target_include_directories(dpldm_${folder} PUBLIC ${DPLDM_SOURCE_DIR})
  target_link_libraries(dpldm_${folder} PUBLIC ${ARG_DEPENDS})
  if(ARG_TORCH)
    dpldm_use_torch(dpldm_${folder})
  endif()
endfunction()

# A file that uses LibTorch costs five seconds whatever it holds: GCC keeps what LibTorch's inline functions need of templates for the end of
# each file, precompiled or not. Eight files as one pay that once. Others gain where they share large headers; dpldm_comm must
# not, since tests put files of their own before some of its.
function(dpldm_compile_together target)
  if(DPLDM_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -Wno-stringop-overflow)  # wrong about strings of cxxopts (bug 105651 again)
    endif()
  endif()
endfunction()

function(dpldm_use_torch target)
  target_link_libraries(${target} PUBLIC dpldm::torch)
  target_precompile_headers(${target} REUSE_FROM dpldm_torch_pch)
  dpldm_compile_together(${target})
endfunction()
