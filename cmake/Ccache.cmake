# Compiles through ccache where there is one. A precompiled header needs the two PCH settings: without them every file that uses it is a miss.
find_program(DPLDM_CCACHE ccache)
if(DPLDM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${DPLDM_CCACHE})
endif()
