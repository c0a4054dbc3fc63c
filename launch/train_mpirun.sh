#!/usr/bin/env bash
# Starts a command of dpldm on several ranks through mpirun.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/train_mpirun.sh [OPTION...] COMMAND [ARGUMENT...]

  launch/train_mpirun.sh --ranks 4 finetune --config F.yaml --run-dir runs/a

  --ranks N       number of ranks (default: the Slurm allocation's tasks, or 1)
  --hosts LIST    for example node1:4,node2:4 (default: this machine, or the Slurm allocation)
  --program P     what to start (default: build/bin/dpldm, or the installed one)
  --bind WHERE    none (default), core or numa: where mpirun pins a rank. NCCL prefers none.
  --dry-run       print the command and stop
  --help          this text

Everything from COMMAND on goes to the program. Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP (a terminal that is closed) ask the run for a checkpoint
and a stop (exit code 75); a second Ctrl-C or SIGTERM ends it at once.

Environment
  DPLDM_SITE      a file of site settings (configs/cluster/example.env)
  DPLDM_BUILD     another build folder than build/, as build-cuda
  DPLDM_MPIRUN    another mpirun; given with its whole path, Open MPI is taken from there on the other hosts too
  OMP_NUM_THREADS threads in each rank (default: this machine's cores divided by the ranks; with --hosts, each host's by its own;
                  in an allocation, its --cpus-per-task)
  OMPI_ALLOW_RUN_AS_ROOT=1, OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1   needed as root, as in a container
  OMPI_MCA_rmaps_base_oversubscribe=1                          needed for more ranks than cores
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ranks=""
hosts=""
program=""
bind=none
dry_run=no
fail() { echo "train_mpirun.sh: $1" >&2; exit 64; }
value_of() { [ $# -ge 2 ] || fail "$1 needs a value"; printf '%s' "$2"; }

while [ $# -gt 0 ]; do
  case "$1" in
    --ranks) ranks=$(value_of "$@"); shift 2 ;;
    --hosts) hosts=$(value_of "$@"); shift 2 ;;
    --program) program=$(value_of "$@"); shift 2 ;;
    --bind) bind=$(value_of "$@"); shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option '$1' before the command; see --help" ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || fail "there is no command; see --help"
[[ -z $ranks || $ranks =~ ^[1-9][0-9]*$ ]] || fail "--ranks is '$ranks'; it must be a positive number"
case "$bind" in none | core | numa) ;; *) fail "--bind is '$bind'; it must be none, core or numa" ;; esac

# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
program=${program:-$(dpldm_program "$root" dpldm)}
mpirun=${DPLDM_MPIRUN:-mpirun}

# Inside an allocation mpirun knows hosts and tasks by itself.
in_allocation=${SLURM_JOB_ID:+yes}
if [ -z "$ranks" ] && [ -z "$in_allocation" ]; then ranks=1; fi
if [ -z "${OMP_NUM_THREADS:-}" ] && [ -z "$in_allocation" ] && [ -z "$hosts" ]; then
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi

command=("$mpirun")
[ -n "$ranks" ] && command+=(-np "$ranks")
[ -n "$hosts" ] && command+=(--host "$hosts")
if "$mpirun" --version 2>/dev/null | grep -q 'Open MPI'; then
  command+=(--bind-to "$bind")
  # Open MPI hands only its own variables to other hosts. What modules load is found by these two paths.
  while IFS='=' read -r name _; do
    case "$name" in OMPI_MCA_* | DPLDM_*) ;; *) command+=(-x "$name") ;; esac
  done < <(dpldm_variables; env | grep -E '^(PATH|LD_LIBRARY_PATH)=.')
else
  command+=(-bind-to "$bind")
fi
command+=("$program" "$@")

if [ "$dry_run" = yes ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi
[ -x "$program" ] || fail "there is no program $program; launch/bootstrap.sh builds it"
dpldm_print_provenance "$root" "$program" || true # a log that takes nothing stops no run

# mpirun answers SIGTERM and Ctrl-C by killing the ranks after a second, but passes SIGUSR1 on. So it runs in a process group of its own,
# where the terminal's Ctrl-C and SIGHUP do not reach it, and the first request is translated.
launcher=""
asked=no
told=no # to end, by SIGTERM or Ctrl-C: a warning by SIGUSR1 may have come before
# shellcheck disable=SC2317 # the traps call it
ask_to_stop() {
  if [ "$asked" = no ]; then
    asked=yes
    pass_on USR1
    echo "train_mpirun.sh: asking for a checkpoint and a stop" >&2 || true # the terminal may be gone
  elif [ "$1" = TERM ] && [ "$told" = yes ]; then
    pass_on TERM
  fi
  if [ "$1" = TERM ]; then told=yes; fi
}
# shellcheck disable=SC2317
pass_on() { [ -z "$launcher" ] || kill "-$1" "$launcher" 2>/dev/null || true; }
trap 'ask_to_stop USR1' USR1 HUP
trap 'ask_to_stop TERM' TERM INT
trap 'pass_on USR2' USR2
# Ctrl-C ends the other end of `| tee log` at once. (Not ignored: the ranks would inherit that.)
trap : PIPE

set -m
"${command[@]}" </dev/null &
launcher=$!
set +m
dpldm_wait "$launcher"
