#!/usr/bin/env bash
# Sets up, builds, and runs every test that needs no GPU. Ends with CTest's line of totals.
# Usage: tests/run.sh [CTest options, e.g. -R dp_ or -L mpi]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
launch/bootstrap.sh cpu-release --tests
# Tests are counted in half cores (cmake/DpldmTest.cmake), and half as many again are started: tests of failures wait more than they compute.
ctest --test-dir build --output-on-failure --parallel "$((3 * $(nproc)))" "$@"
