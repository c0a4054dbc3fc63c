# shellcheck shell=bash
# What the batch scripts share. They set `root` and source this and launch/env.sh.
: "${root:?}"

slurm_fail() { echo "$(basename "$0"): $1" >&2; exit 64; }

# The launch script that the site prefers: DPLDM_LAUNCHER is srun (default) or mpirun.
slurm_launcher() {
  case "${DPLDM_LAUNCHER:-srun}" in
    srun) echo "$root/launch/train_srun.sh" ;;
    mpirun) echo "$root/launch/train_mpirun.sh" ;;
    *) slurm_fail "DPLDM_LAUNCHER is '$DPLDM_LAUNCHER'; it must be srun or mpirun" ;;
  esac
}

# slurm_inputs LATENTS BASE: sets `inputs`, the arguments that name them, and the nodes' own disk where there is one. What is empty, the
# configuration names.
slurm_inputs() {
  # shellcheck disable=SC2034 # the batch scripts read it
  inputs=()
  [ -z "$1" ] || inputs+=(--set "data.latents=$1")
  [ -z "$2" ] || inputs+=(--set "model.base=$2")
  [ -z "${DPLDM_LOCAL_COPY:-}" ] || inputs+=(--set "data.local_copy=$DPLDM_LOCAL_COPY")
}

# slurm_supervise COMMAND...: runs it and returns its exit code. Slurm's warning before the end of the allocation (SIGUSR1) and preemption
# (SIGTERM) reach this shell; both are passed on as the request for a checkpoint. Bash runs a trap only between commands, so the command
# runs in the background.
slurm_supervise() {
  launcher="" # global: the trap reads it
  trap '[ -z "$launcher" ] || kill -USR1 "$launcher" 2>/dev/null || true' USR1 TERM
  "$@" &
  launcher=$!
  dpldm_wait "$launcher" # ignores further signals: what comes now must not interrupt the requeue
}

# slurm_steps RUN_DIR: how many steps were done there, by all starts together: metrics.jsonl gets a line for each.
slurm_steps() { wc -l 2>/dev/null <"$1/metrics.jsonl" || echo 0; }

# slurm_require_number NAME: that variable is not set, or a whole number.
slurm_require_number() { [[ ${!1:-0} =~ ^[0-9]{1,9}$ ]] || slurm_fail "$1 is '${!1}'; it must be a whole number"; }

# slurm_requeue WHY: puts the job back into the queue, at most DPLDM_MAX_RESTARTS times.
slurm_requeue() {
  local restarts=${SLURM_RESTART_COUNT:-0} limit=${DPLDM_MAX_RESTARTS:-50}
  if [ "$restarts" -ge "$limit" ]; then
    echo "not requeued: $1, but the job was restarted $restarts times already (DPLDM_MAX_RESTARTS=$limit)" >&2
    return
  fi
  echo "requeueing job $(dpldm_job_id): $1 (restart $((restarts + 1)) of at most $limit)" >&2
  scontrol requeue "$(dpldm_job_id)" || return 0
  # Slurm ends this shell now. To exit first could be taken for the end of the job.
  sleep "${DPLDM_REQUEUE_WAIT:-300}"
}

# slurm_leave MARK: an empty file in the run directory. Fails, and says why, where it cannot be written.
slurm_leave() { mkdir -p "$(dirname "$1")" && : >"$1"; }

# slurm_requeue_after CODE RUN_DIR STEPS: decides by the exit code whether to run again (docs/failures.md): 75 and 138 (SIGUSR1 came before
# the program could listen, so nothing was begun) unless two starts in a row ended without a step, 71 (a rank, a link, a file system or a
# collective failed) and 205 (mpirun lost a node, or its daemon there) once for each job, anything else never. STEPS is what slurm_steps said
# before the start.
slurm_requeue_after() {
  local code=$1 run_dir=$2 steps=$3 mark
  case "$code" in
    75 | 138)
      # One may have met a pre-emption. A time limit that is too short would end all others, too.
      mark=$run_dir/.no-step-in-job-$SLURM_JOB_ID
      if [ "$(slurm_steps "$run_dir")" -gt "$steps" ]; then
        rm -f "$mark" || true
      elif [ -e "$mark" ]; then
        echo "not requeued: two starts in a row ended without a step; unless both were pre-empted, --time is too short for the run's start and the notice of --signal" >&2
        return
      else
        slurm_leave "$mark" || true # without a mark, DPLDM_MAX_RESTARTS ends it
      fi
      slurm_requeue "it stopped to go on later"
      ;;
    71 | 205)
      mark=$run_dir/.requeued-after-71-job-$SLURM_JOB_ID
      if [ -e "$mark" ]; then
        echo "not requeued: communication failed a second time" >&2
      # The file system may be what failed. Without a mark, a failure is known to be the first in a job that never restarted.
      elif slurm_leave "$mark" || [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then
        slurm_requeue "communication failed"
      else
        echo "not requeued: communication failed, and whether it is the first time cannot be kept in $run_dir" >&2
      fi
      ;;
  esac
}
