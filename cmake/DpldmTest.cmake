# dpldm_test(<name> SOURCES ... LINKS ... [TORCH] [RANKS 1 2 3] [TIMEOUT seconds] [LABELS ...])
#
# One test program, one CTest entry (or one per rank count). With RANKS the program is linked to the consensus main of
# tests/support, which makes a failure on any rank a failure of the test, and is started through mpirun.
#
# CTest is told of half cores, two for each process, so that tests which mostly wait can count as one: `ctest --parallel` takes twice the cores.
#
# A test is compiled with little optimisation: it runs what the libraries do, which have all of it, and half the build is tests.
find_package(GTest REQUIRED)
set(DPLDM_TEST_OPTIONS $<$<CONFIG:Release>:-O1>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # At -O1 GCC 12 follows strings without seeing their length (bug 105651 again), and these warnings are about its own library.
  list(APPEND DPLDM_TEST_OPTIONS -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
endif()

function(dpldm_test_precompiled_header target header)
  add_library(${target} STATIC ${CMAKE_SOURCE_DIR}/tests/support/precompiled.cpp)
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${target} PRIVATE ${ARGN} GTest::gtest GTest::gmock nlohmann_json::nlohmann_json)
  target_compile_options(${target} PRIVATE ${DPLDM_TEST_OPTIONS})
  target_precompile_headers(${target} PRIVATE <${header}>)  # by name: a path in it would make ccache miss in every other tree
endfunction()
dpldm_test_precompiled_header(dpldm_test_pch support/precompiled.h)
dpldm_test_precompiled_header(dpldm_torch_test_pch support/torch_precompiled.h dpldm::torch)

function(dpldm_test name)
  cmake_parse_arguments(ARG "TORCH" "TIMEOUT" "SOURCES;LINKS;RANKS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE DPLDM_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden"
                                             DPLDM_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} GTest::gtest GTest::gmock)
  target_compile_options(${name} PRIVATE ${DPLDM_TEST_OPTIONS})
  if(ARG_TORCH)
    target_link_libraries(${name} PUBLIC dpldm::torch)
    target_precompile_headers(${name} REUSE_FROM dpldm_torch_test_pch)
    dpldm_compile_together(${name})
  else()
    target_precompile_headers(${name} REUSE_FROM dpldm_test_pch)
  endif()
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE dpldm_mpi_test_main)
    foreach(ranks IN LISTS ARG_RANKS)
      math(EXPR half_cores "2 * ${ranks}")
      add_test(NAME ${name}.np${ranks}
               COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} --bind-to none --oversubscribe
                       $<TARGET_FILE:${name}>)
      set_tests_properties(${name}.np${ranks} PROPERTIES PROCESSORS ${half_cores} LABELS "mpi;${ARG_LABELS}")
      list(APPEND entries ${name}.np${ranks})
    endforeach()
  else()
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES PROCESSORS 2 LABELS "${ARG_LABELS}")
    set(entries ${name})
  endif()
  # Ranks share two cores in CI, so every process gets one thread; root in a container must ask mpirun twice.
  set_tests_properties(${entries} PROPERTIES TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT
    "OMP_NUM_THREADS=1;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_btl_vader_single_copy_mechanism=none;HDF5_USE_FILE_LOCKING=BEST_EFFORT")
endfunction()
