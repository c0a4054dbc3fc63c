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

function(dpldm_use_torch target)
  target_link_libraries(${target} PUBLIC dpldm::torch)
  target_precompile_headers(${target} REUSE_FROM dpldm_torch_pch)
endfunction()
