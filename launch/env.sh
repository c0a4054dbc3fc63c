# shellcheck shell=bash
# The environment of a run on many ranks, in one place. Sourced by the launch scripts; sets nothing that is set already.
#
# Site settings (modules, network interfaces) come first, from the file that DPLDM_SITE names; configs/cluster/example.env is a start.

if [ -n "${DPLDM_SITE:-}" ]; then
  if [ ! -r "$DPLDM_SITE" ]; then
    echo "DPLDM_SITE is $DPLDM_SITE, which cannot be read" >&2
    exit 64
  fi
  # Other people's shell may read what is not set, as in LD_LIBRARY_PATH=/opt/lib:$LD_LIBRARY_PATH.
  site_options=$-
  set +u
  # Bash does not know `module` where the login shell is another one or the job was given no environment.
  if ! type module >/dev/null 2>&1; then
    for site_init in "${MODULESHOME:-}/init/bash" "${LMOD_PKG:-}/init/bash" /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
      # shellcheck source=/dev/null
      if [ -r "$site_init" ]; then source "$site_init" || true; break; fi
    done
  fi
  # shellcheck source=/dev/null
  source "$DPLDM_SITE"
  case $site_options in *u*) set -u ;; esac
fi

# Latent files are only read, and some network file systems fail the lock call.
export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-BEST_EFFORT}
# LibTorch would start one thread for each core in every rank.
if [ -z "${OMP_NUM_THREADS:-}" ] && [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK; fi
# Warnings say why a link failed; INFO is for looking into it, and then each process needs a file of its own.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
if [ "$NCCL_DEBUG" = INFO ]; then export NCCL_DEBUG_FILE=${NCCL_DEBUG_FILE:-nccl.%h.%p.log}; fi

# One task of a job array has the number of the whole array, by which Slurm would mean all of its tasks.
dpldm_job_id() {
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; else echo "$SLURM_JOB_ID"; fi
}

# When the allocation ends, in seconds since 1970: the program stops with a checkpoint before. Slurm 22.05 does not say so by itself.
if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${SLURM_JOB_END_TIME:-}" ]; then
  # In UTC, which has no hour twice, and not as the user likes times to be shown.
  end_time=$(TZ=UTC0 SLURM_TIME_FORMAT=standard squeue -h -j "$(dpldm_job_id)" -o %e 2>/dev/null || true)
  # "N/A" without a time limit.
  if [[ $end_time == *T* ]] && end_time=$(date -u -d "$end_time" +%s 2>/dev/null); then export SLURM_JOB_END_TIME=$end_time; fi
fi

# Network adapters pin memory, and keys are locked into it. Sites that forbid raising the limit have set it themselves.
ulimit -l unlimited 2>/dev/null || true
# Not "unlimited": then NCCL's threads would get stacks of 2 MiB.
ulimit -s 8192 2>/dev/null || true

# dpldm_program ROOT NAME: the program of the build in ROOT that DPLDM_BUILD names, or the one beside an installation's share/dpldm.
dpldm_program() {
  local build=${DPLDM_BUILD:-build} installed
  case $build in /*) ;; *) build=$1/$build ;; esac
  installed=$(dirname "$(dirname "$1")")/bin/$2
  if [ -z "${DPLDM_BUILD:-}" ] && [ ! -x "$build/bin/$2" ] && [ -x "$installed" ]; then build=${installed%/bin/*}; fi
  echo "$build/bin/$2"
}

# dpldm_wait PID: waits for a background command and returns its exit code. Traps run meanwhile, within a moment; once the command is gone,
# the signals are ignored. Not by `wait` alone: a trap that interrupts it makes it return 128 plus the signal, and where the command ends in
# that moment, bash has lost the code for good.
dpldm_wait() {
  # A Ctrl-C ends the sleep too.
  while kill -0 "$1" 2>/dev/null; do sleep 0.2 || true; done
  trap '' HUP INT TERM USR1 USR2
  wait "$1"
}

# The variables that a run depends on, as NAME=VALUE lines.
dpldm_variables() { env | grep -E '^(DPLDM_|OMP_NUM_THREADS=|NCCL_|OMPI_MCA_|UCX_|HDF5_USE_|SLURM_JOB_END_TIME=)' | sort || true; }

# dpldm_print_provenance ROOT PROGRAM: what runs where, to stderr.
dpldm_print_provenance() {
  {
    echo "source   $(git -C "$1" describe --always --dirty 2>/dev/null || echo 'not a git checkout')"
    echo "program  $2 ($("$2" --version 2>/dev/null || echo 'does not answer --version'))"
    echo "started  $(date -u +%Y-%m-%dT%H:%M:%SZ) on $(uname -n)${SLURM_JOB_ID:+, Slurm job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-?}}"
    dpldm_variables | sed 's/^/env      /'
  } >&2
}
