#!/usr/bin/env bash
# Starts a command of dpldm on the tasks of a Slurm allocation through srun.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/train_srun.sh [OPTION...] COMMAND [ARGUMENT...]

  salloc -N 2 --ntasks-per-node=4 launch/train_srun.sh finetune --config F.yaml --run-dir runs/a

  --program P     what to start (default: build/bin/dpldm, or the installed one)
  --dry-run       print the command and stop
  --help          this text

Everything from COMMAND on goes to the program. Nodes, tasks and GPUs are the allocation's (salloc or #SBATCH lines). `scancel --signal=USR1
JOB.STEP` asks the run for a checkpoint and a stop (exit code 75).

Environment
  DPLDM_SITE       a file of site settings (configs/cluster/example.env)
  DPLDM_BUILD      another build folder than build/, as build-cuda
  DPLDM_SRUN_MPI   srun's --mpi (default: pmix; `srun --mpi=list` shows what the site has)
  DPLDM_CPU_BIND   srun's --cpu-bind (default: none, as NCCL prefers)
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=""
dry_run=no
fail() { echo "train_srun.sh: $1" >&2; exit 64; }

while [ $# -gt 0 ]; do
  case "$1" in
    --program) [ $# -ge 2 ] || fail "--program needs a value"; program=$2; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option '$1' before the command; see --help" ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || fail "there is no command; see --help"

# shellcheck source=launch/env.sh
source "$root/launch/env.sh"
program=${program:-$(dpldm_program "$root" dpldm)}

# --kill-on-bad-exit: by default the survivors of a dead rank would wait for it until the time limit.
# --export=ALL: with `sbatch --export=NONE`, as some sites have it, the ranks would get nothing of what launch/env.sh and modules set.
# --gpu-bind=none: every rank sees its node's GPUs and takes the one of its local rank; binding one to each task breaks peer-to-peer copies.
command=(srun "--mpi=${DPLDM_SRUN_MPI:-pmix}" --export=ALL --kill-on-bad-exit=1 "--cpu-bind=${DPLDM_CPU_BIND:-none}")
[ -n "${SLURM_GPUS_ON_NODE:-}" ] && command+=(--gpu-bind=none)
# Since 22.05 srun no longer inherits this from the allocation by itself.
[ -n "${SLURM_CPUS_PER_TASK:-}" ] && command+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
command+=("$program" "$@")

if [ "$dry_run" = yes ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi
[ -n "${SLURM_JOB_ID:-}" ] || fail "this is not a Slurm allocation; use salloc, a batch script of slurm/, or launch/train_mpirun.sh"
[ -x "$program" ] || fail "there is no program $program; launch/bootstrap.sh builds it"
dpldm_print_provenance "$root" "$program" || true # a log that takes nothing stops no run
exec "${command[@]}"
