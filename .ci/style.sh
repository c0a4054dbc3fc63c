#!/usr/bin/env bash
# Formatting, shellcheck and clang-tidy. Warnings as errors are part of every build.
# clang-tidy reads the C++ files that differ from DPLDM_TIDY_BASE (default: the commit before HEAD); `all` reads every one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
for tool in clang-format clang-tidy clang++ shellcheck; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clang clang-format clang-tidy shellcheck >/dev/null
fi

git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -r clang-format --dry-run -Werror
{ git ls-files '*.sh' '*.sbatch'; git ls-files '.ci/run'; } | sort -u | xargs -r shellcheck -x

base=${DPLDM_TIDY_BASE:-HEAD~1}
if [ "$base" = all ] || ! git rev-parse -q --verify "$base^{commit}" >/dev/null; then
  mapfile -t changed < <(git ls-files 'src/*.cpp' 'data_tools/*.cpp')
else
  mapfile -t changed < <(git diff --name-only --diff-filter=d "$base" -- 'src/*.cpp' 'data_tools/*.cpp')
fi
[ ${#changed[@]} -eq 0 ] || .ci/tidy.sh "${changed[@]}"
