#!/usr/bin/env bash
# Sets the machine up and builds: missing Debian packages, LibTorch, configure, compile. Leaves build/bin/dpldm and build/bin/dpldm-data.
# A second call finds everything in place and takes seconds.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/bootstrap.sh [PRESET] [--tests | --no-build]

PRESET   cpu-release (default), cpu-debug, asan-ubsan or cuda-release
--tests  build the tests and benchmarks too

Environment
  DPLDM_LIBTORCH   use this LibTorch (a wheel's `torch` folder or an unpacked archive) instead of installing one into .deps/
  DPLDM_JOBS       parallel compile jobs (default: the number of cores)
TEXT
}

preset=cpu-release
build=programs
for argument in "$@"; do
  case "$argument" in
    -h | --help) usage; exit 0 ;;
    --no-build) build=no ;;
    --tests) build=all ;;
    cpu-release | cpu-debug | asan-ubsan | cuda-release) preset=$argument ;;
    *) echo "bootstrap.sh: unknown argument '$argument'; see --help" >&2; exit 64 ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
say() { printf 'bootstrap: %s\n' "$*" >&2; }

# What is needed, by Debian's names.
packages=(
  build-essential cmake ninja-build ccache git ca-certificates pkg-config python3 python3-venv
  openmpi-bin libopenmpi-dev libhdf5-dev libcxxopts-dev libspdlog-dev libfmt-dev libgtest-dev libgmock-dev
  libyaml-cpp-dev nlohmann-json3-dev libsodium-dev libboost-dev libfftw3-dev zlib1g-dev libpng-dev libjpeg62-turbo-dev
  libfreetype-dev libicu-dev libtcmalloc-minimal4 fonts-dejavu-core fonts-liberation fonts-freefont-ttf dataset-fashion-mnist
)

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || echo "$package"
  done
}

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    # Not Debian: modules, Spack or conda provide these. CMake names what it does not find.
    say "this is not a Debian system; needed are the equivalents of: ${packages[*]} (docs/build.md)"
    return
  fi
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "these packages are missing, and there is no sudo to install them: ${missing[*]}"; exit 64; }
    sudo=(sudo)
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -q >&2
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

# The CPU half of the official wheel needs two small CUDA libraries to load; a CUDA build needs them all.
install_libtorch() {
  local torch=${DPLDM_LIBTORCH:-}
  if [ -n "$torch" ]; then
    [ -e "$torch/lib/libtorch_cpu.so" ] || { say "DPLDM_LIBTORCH is $torch, which has no lib/libtorch_cpu.so"; exit 64; }
    return
  fi
  local wanted=2.11.0 kind=cpu
  [ "$preset" = cuda-release ] && kind=cuda
  local stamp=.deps/python/.dpldm-torch-$wanted-$kind
  if [ -e "$stamp" ] || { [ "$kind" = cpu ] && [ -e ".deps/python/.dpldm-torch-$wanted-cuda" ]; }; then return; fi
  say "installing LibTorch $wanted ($kind) into .deps/ (1.2 GB for cpu, 4.7 GB for cuda)"
  rm -rf .deps/python .deps/venv
  mkdir -p .deps
  python3 -m venv .deps/venv
  local requirements=("torch==$wanted")
  [ "$kind" = cpu ] && requirements=(--no-deps "torch==$wanted" 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*')
  .deps/venv/bin/pip install --disable-pip-version-check --no-compile --target .deps/python "${requirements[@]}" >&2
  rm -rf .deps/venv
  touch "$stamp"
}

build_dir() {
  case "$preset" in
    cpu-release) echo build ;;
    cpu-debug) echo build-debug ;;
    asan-ubsan) echo build-asan ;;
    cuda-release) echo build-cuda ;;
  esac
}

install_packages
install_libtorch
if [ "$build" != no ]; then
  directory=$(build_dir)
  # What an earlier configure remembered counts for CMake, not the environment: another LibTorch is stated.
  configure=()
  if [ -n "${DPLDM_LIBTORCH:-}" ]; then
    wanted=$(cd "$DPLDM_LIBTORCH" && pwd)
    in_use=$(sed -n 's/^DPLDM_LIBTORCH:[A-Z]*=//p' "$directory/CMakeCache.txt" 2>/dev/null || true)
    [ "$wanted" = "$in_use" ] || configure=("-DDPLDM_LIBTORCH=$wanted")
  fi
  # From nothing, files that use LibTorch compile together in half the time. Who changes one file at a time turns it off, and it stays off.
  [ -e "$directory/CMakeCache.txt" ] || configure+=(-DDPLDM_UNITY=ON)
  if [ ! -e "$directory/build.ninja" ] || [ ${#configure[@]} -gt 0 ]; then cmake --preset "$preset" "${configure[@]}" >&2; fi
  say "building preset $preset in $directory/"
  targets=(all)
  [ "$build" = programs ] && targets=(dpldm dpldm-data)
  cmake --build "$directory" --parallel "${DPLDM_JOBS:-$(nproc)}" --target "${targets[@]}" >&2
  say "done: $directory/bin/dpldm and $directory/bin/dpldm-data"
fi
