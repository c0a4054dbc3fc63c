#!/usr/bin/env bash
# clang-tidy on the given files, as build/ compiles them, but each on its own. GCC's precompiled header means nothing to clang, so LibTorch's headers get one of
# clang's own first; without it a file takes a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
database=.cache/tidy
mkdir -p "$database"
cmake --preset cpu-release -B "$database/build" -DDPLDM_UNITY=OFF "-DDPLDM_LIBTORCH=$(sed -n 's/^DPLDM_LIBTORCH:[A-Z]*=//p' build/CMakeCache.txt)" >/dev/null
python3 - "$database" <<'PY'
import json, pathlib, re, shlex, subprocess, sys
database = pathlib.Path(sys.argv[1]).resolve()
entries = json.load(open(database / "build/compile_commands.json"))
drop = re.compile(r"^(-fpch-preprocess|-Winvalid-pch|-Wno-restrict|-Wno-stringop-.*)$")
pch = None
for entry in entries:
    words = shlex.split(entry["command"])
    while words and not words[0].endswith(("c++", "g++")):  # ccache and its environment
        words.pop(0)
    kept, torch, i = [], False, 0
    while i < len(words):
        if words[i] == "-include" and "cmake_pch" in words[i + 1]:
            torch, i = "torch" in words[i + 1], i + 2
            continue
        if not drop.match(words[i]):
            kept.append(words[i])
        i += 1
    if torch:
        if pch is None:
            pch = database / "base_torch.pch"
            header = pathlib.Path("src/base/torch.h").resolve()
            if not pch.exists() or pch.stat().st_mtime < header.stat().st_mtime:
                flags = [w for w in kept[1:] if w.startswith(("-D", "-std", "-O"))]
                systems = [x for a, b in zip(kept, kept[1:]) if a == "-isystem" for x in (a, b)]
                subprocess.run(["clang++", "-x", "c++-header", "-w", *flags, *systems, str(header), "-o", str(pch)], check=True)
        kept[1:1] = ["-include-pch", str(pch)]
    kept[0] = "clang++"
    entry["command"] = shlex.join(kept)
json.dump(entries, open(database / "compile_commands.json", "w"))
PY
status=0
printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet -p "$database" >"$database/log" 2>&1 || status=1
grep -Ev '^[0-9]+ warnings? (generated|treated)|^Suppressed|^Use -header-filter' "$database/log" || true
exit "$status"
