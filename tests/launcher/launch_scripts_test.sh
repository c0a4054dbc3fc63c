#!/usr/bin/env bash
# The launch and batch scripts with stand-ins for mpirun, srun and scontrol. One argument: the name of a case below.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp tests/launcher/stand_ins/* "$work"
ln -s launcher "$work/mpirun"
ln -s launcher "$work/srun"
printf '#!/bin/sh\necho a stand-in\n' >"$work/program"
chmod +x "$work"/*
export PATH=$work:$PATH STAND_IN_RECORD=$work/record DPLDM_REQUEUE_WAIT=0
: >"$STAND_IN_RECORD"
# The machine that runs the tests may be a Slurm node itself.
while IFS='=' read -r name _; do unset "$name"; done < <(env | grep -E '^(SLURM_|DPLDM_SITE|DPLDM_LAUNCHER|DPLDM_RUN_DIR|DPLDM_CONFIG|DPLDM_LATENTS|DPLDM_BASE|DPLDM_LOCAL_COPY|DPLDM_BUILD|OMP_NUM)' || true)
unset SLURM_JOB_ID DPLDM_SITE

fail() { echo "FAILED: $1" >&2; echo "-- record:" >&2; cat "$STAND_IN_RECORD" >&2; exit 1; }
recorded() { grep -qxF -- "$1" "$STAND_IN_RECORD" || fail "the line '$1' is missing"; }
not_recorded() { if grep -qF -- "$1" "$STAND_IN_RECORD"; then fail "'$1' should not be there"; fi; }
# code_is CODE COMMAND...
code_is() {
  local expected=$1 code=0
  shift
  "$@" >"$work/out" 2>"$work/err" || code=$?
  [ "$code" -eq "$expected" ] || { cat "$work/err" >&2; fail "'$*' ended with $code instead of $expected"; }
}
in_job() { export SLURM_JOB_ID=17 SLURM_SUBMIT_DIR=$root DPLDM_RUN_DIR=$work/run DPLDM_CONFIG=$work/a.yaml; }
batch() { bash "slurm/$1" "${@:2}"; }
# A copy of the scripts beside stand-ins for the programs, which need not be built.
fake_programs() {
  mkdir -p "$work/tree/build/bin"
  cp -r launch slurm "$work/tree"
  ln -s "$work/program" "$work/tree/build/bin/dpldm"
  ln -s "$work/program" "$work/tree/build/bin/dpldm-data"
  cd "$work/tree"
  export SLURM_SUBMIT_DIR=$work/tree
}

case_mpirun_passes_arguments_through() {
  code_is 0 launch/train_mpirun.sh --ranks 3 --program "$work/program" finetune --config 'a b.yaml' --dry-run --set 'x=[1, 2]'
  recorded "-np"
  recorded 3
  recorded "a b.yaml"
  recorded "x=[1, 2]"
  recorded "--dry-run"
  recorded "--bind-to"
  recorded "HDF5_USE_FILE_LOCKING"
}
case_mpirun_hands_the_paths_of_modules_to_other_hosts() {
  LD_LIBRARY_PATH=/opt/hdf5/lib code_is 0 launch/train_mpirun.sh --hosts a:1,b:1 --program "$work/program" finetune
  recorded PATH
  recorded LD_LIBRARY_PATH
  : >"$STAND_IN_RECORD"
  unset LD_LIBRARY_PATH
  code_is 0 launch/train_mpirun.sh --hosts a:1,b:1 --program "$work/program" finetune
  not_recorded LD_LIBRARY_PATH # Open MPI complains about a variable that is not set
}
case_mpirun_gives_no_rank_to_the_program_and_no_root_flag() {
  code_is 0 launch/train_mpirun.sh --ranks 2 --program "$work/program" finetune
  not_recorded "--rank"
  not_recorded "allow-run-as-root"
}
case_installed_scripts_start_the_installed_program() {
  mkdir -p "$work/prefix/bin" "$work/prefix/share/dpldm"
  cp -r launch slurm "$work/prefix/share/dpldm"
  ln -s "$work/program" "$work/prefix/bin/dpldm"
  ln -s "$work/program" "$work/prefix/bin/dpldm-data"
  cd "$work/prefix/share/dpldm"
  code_is 0 launch/train_mpirun.sh --ranks 2 finetune
  recorded "$work/prefix/bin/dpldm"
  code_is 0 launch/train_srun.sh --dry-run finetune
  grep -qF "$work/prefix/bin/dpldm finetune" "$work/out" || fail "srun is given another program"
  export SLURM_JOB_ID=17 SLURM_SUBMIT_DIR=$PWD DPLDM_MODEL=m DPLDM_IMAGES=i.h5 DPLDM_LATENTS=l.h5
  code_is 0 bash slurm/encode.sbatch
  recorded "$work/prefix/bin/dpldm-data"
}
case_scripts_start_the_build_that_is_named() {
  in_job
  fake_programs
  cp -r build build-cuda
  DPLDM_BUILD=build-cuda code_is 0 batch finetune.sbatch
  recorded "$work/tree/build-cuda/bin/dpldm"
  DPLDM_BUILD=build-cuda code_is 0 batch encode.sbatch
  recorded "$work/tree/build-cuda/bin/dpldm-data"
  DPLDM_BUILD=$work/tree/build-cuda code_is 0 launch/train_mpirun.sh --ranks 2 finetune
  not_recorded "$work/tree/build/bin"
  # Never another one in its place.
  DPLDM_BUILD=build-none code_is 64 launch/train_mpirun.sh --ranks 2 finetune
  grep -qF "there is no program $work/tree/build-none/bin/dpldm" "$work/err" || fail "the program is not named"
}
case_mpirun_divides_the_cores() {
  STAND_IN_EXIT=0 code_is 0 launch/train_mpirun.sh --ranks 1 --program "$work/program" finetune
  grep -q "OMP_NUM_THREADS=$(nproc)" "$work/err" || fail "one rank gets all cores"
}
case_mpirun_of_another_library_gets_no_open_mpi_options() {
  STAND_IN_VERSION="HYDRA build details: 4.0" code_is 0 launch/train_mpirun.sh --ranks 2 --program "$work/program" finetune
  recorded "-bind-to"
  not_recorded "--bind-to"
  not_recorded "-x"
}
case_mpirun_in_an_allocation_leaves_the_ranks_to_slurm() {
  in_job
  code_is 0 launch/train_mpirun.sh --program "$work/program" finetune
  not_recorded "-np"
}
case_mpirun_returns_the_programs_code() {
  STAND_IN_EXIT=76 code_is 76 launch/train_mpirun.sh --program "$work/program" finetune
}
case_mpirun_turns_sigterm_into_a_request_for_a_checkpoint() {
  STAND_IN_SIGNAL=TERM code_is 75 launch/train_mpirun.sh --program "$work/program" finetune
  recorded "received USR1"
}
case_mpirun_turns_ctrl_c_into_a_request_for_a_checkpoint() {
  STAND_IN_SIGNAL=INT code_is 75 launch/train_mpirun.sh --program "$work/program" finetune
  recorded "received USR1"
}
case_mpirun_asks_for_a_checkpoint_when_its_terminal_is_closed() {
  STAND_IN_SIGNAL=none code_is 75 python3 - "$STAND_IN_RECORD" launch/train_mpirun.sh --program "$work/program" finetune <<'PY'
import os, pty, select, sys
record, command = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0: os.execv(command[0], command)
while "listening" not in open(record).read():
    if select.select([terminal], [], [], 0.05)[0]: os.read(terminal, 1000)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
PY
  recorded "received USR1"
}
# Ctrl-C ends the other end of `| tee log` at once.
case_mpirun_waits_for_the_checkpoint_when_nobody_reads_its_messages() {
  STAND_IN_SIGNAL=none code_is 75 python3 - "$STAND_IN_RECORD" launch/train_mpirun.sh --program "$work/program" finetune <<'PY'
import os, signal, subprocess, sys, time
record, command = sys.argv[1], sys.argv[2:]
reader, writer = os.pipe()
script = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
os.close(writer)
while "listening" not in open(record).read(): time.sleep(0.05)
os.close(reader)
script.send_signal(signal.SIGINT)
sys.exit(script.wait())
PY
  recorded "received USR1"
}
case_mpirun_passes_sigusr1_on() {
  STAND_IN_SIGNAL=USR1 code_is 75 launch/train_mpirun.sh --program "$work/program" finetune
  recorded "received USR1"
}
case_wrong_arguments_are_refused() {
  code_is 64 launch/train_mpirun.sh
  code_is 64 launch/train_mpirun.sh --rank 2 finetune
  code_is 64 launch/train_mpirun.sh --ranks none finetune
  code_is 64 launch/train_mpirun.sh --ranks
  code_is 64 launch/train_mpirun.sh --bind socket finetune
  code_is 64 launch/train_mpirun.sh --program "$work/missing" finetune
  code_is 64 launch/train_srun.sh
  code_is 64 launch/train_srun.sh --ranks 2 finetune
  code_is 64 launch/train_srun.sh --program "$work/program" finetune # not in an allocation
  DPLDM_SITE=$work/missing code_is 64 launch/train_mpirun.sh --program "$work/program" finetune
  not_recorded "=="
}
case_quickstart_refuses_a_number_of_ranks_that_is_none_before_it_builds() {
  mkdir -p "$work/tree"
  cp -r launch "$work/tree"
  printf '#!/bin/sh\necho "== building" >>%q\nexit 1\n' "$STAND_IN_RECORD" >"$work/tree/launch/bootstrap.sh"
  for ranks in abc 0 -1 2x 1.5 ' ' 99999999999; do
    DPLDM_RANKS=$ranks code_is 64 "$work/tree/launch/quickstart.sh"
    grep -qF "DPLDM_RANKS is '$ranks'" "$work/err" || fail "'$ranks' is not named"
  done
  not_recorded "=="
  DPLDM_RANKS=3 code_is 1 "$work/tree/launch/quickstart.sh"
  recorded "== building"
}
# The cache of an earlier configure would win over the environment.
case_bootstrap_configures_again_for_another_libtorch() {
  mkdir -p "$work/tree/build" "$work/first/lib" "$work/second/lib"
  cp -r launch "$work/tree"
  touch "$work/first/lib/libtorch_cpu.so" "$work/second/lib/libtorch_cpu.so" "$work/tree/build/build.ninja"
  echo "DPLDM_LIBTORCH:PATH=$work/first" >"$work/tree/build/CMakeCache.txt"
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nprintf "%%s\\n" "$@" >>"$STAND_IN_RECORD"\n' >"$work/cmake"
  printf '#!/bin/sh\necho install ok installed\n' >"$work/dpkg-query"
  chmod +x "$work/cmake" "$work/dpkg-query"
  DPLDM_LIBTORCH=$work/first code_is 0 "$work/tree/launch/bootstrap.sh"
  not_recorded "--preset"
  DPLDM_LIBTORCH=$work/second code_is 0 "$work/tree/launch/bootstrap.sh"
  recorded "--preset"
  recorded "-DDPLDM_LIBTORCH=$work/second"
  not_recorded DPLDM_UNITY # there was a build folder, in which somebody may have turned it off
  rm -r "$work/tree/build"
  DPLDM_LIBTORCH=$work/second code_is 0 "$work/tree/launch/bootstrap.sh"
  recorded "-DDPLDM_UNITY=ON"
}
case_help_and_dry_run_start_nothing() {
  for script in launch/train_mpirun.sh launch/train_srun.sh; do
    code_is 0 "$script" --help
    grep -q Usage "$work/out" || fail "$script --help has no usage"
    code_is 0 "$script" --dry-run finetune --config 'a b.yaml'
    grep -qF 'a\ b.yaml' "$work/out" || fail "$script --dry-run does not quote"
  done
  for script in finetune.sbatch finetune_preemptible.sbatch encode.sbatch; do
    code_is 0 batch "$script" --help
    grep -q Usage "$work/out" || fail "$script --help has no usage"
    code_is 0 batch "$script" --dry-run
    grep -q "^srun " "$work/out" || fail "$script --dry-run prints no command"
  done
  not_recorded "=="
}
case_site_file_is_read_and_set_values_are_kept() {
  echo 'export NCCL_SOCKET_IFNAME=from_site' >"$work/site.env"
  DPLDM_SITE=$work/site.env OMP_NUM_THREADS=5 code_is 0 launch/train_mpirun.sh --ranks 2 --program "$work/program" finetune
  grep -q NCCL_SOCKET_IFNAME=from_site "$work/err" || fail "the site's value is missing"
  grep -q OMP_NUM_THREADS=5 "$work/err" || fail "the user's value was overwritten"
}
case_site_file_may_use_what_is_not_set() {
  # shellcheck disable=SC2016
  echo 'export LD_LIBRARY_PATH=/opt/hdf5/lib:$LD_LIBRARY_PATH' >"$work/site.env"
  unset LD_LIBRARY_PATH
  DPLDM_SITE=$work/site.env code_is 0 launch/train_mpirun.sh --ranks 2 --program "$work/program" finetune
  recorded LD_LIBRARY_PATH
}
# As for a job of somebody whose login shell is another one.
case_site_file_may_load_modules_that_bash_does_not_know_yet() {
  mkdir -p "$work/modules home/init"
  # shellcheck disable=SC2016
  echo 'module() { echo "module $*" >>"$STAND_IN_RECORD"; }; false' >"$work/modules home/init/bash"
  echo 'module load openmpi/4.1' >"$work/site.env"
  unset -f module
  MODULESHOME="$work/modules home" DPLDM_SITE=$work/site.env code_is 0 launch/train_mpirun.sh --ranks 2 --program "$work/program" finetune
  recorded "module load openmpi/4.1"
  recorded "== mpirun"
}
case_srun_kills_survivors_and_shows_all_gpus() {
  in_job
  SLURM_GPUS_ON_NODE=4 SLURM_CPUS_PER_TASK=6 code_is 0 launch/train_srun.sh --program "$work/program" finetune --resume
  recorded "--kill-on-bad-exit=1"
  recorded "--mpi=pmix"
  recorded "--export=ALL"
  recorded "--gpu-bind=none"
  recorded "--cpus-per-task=6"
  recorded "--resume"
}
case_batch_resumes_when_there_is_a_run() {
  in_job
  fake_programs
  code_is 0 batch finetune.sbatch --set a=1
  not_recorded "--resume"
  recorded "a=1"
  mkdir -p "$DPLDM_RUN_DIR" && : >"$DPLDM_RUN_DIR/config.yaml"
  code_is 0 batch finetune.sbatch
  recorded "--resume"
}
# As a person does who has just unpacked them: into folders with blanks in their names, too.
case_batch_needs_no_more_than_the_four_lines() {
  fake_programs
  export SLURM_JOB_ID=17
  local script
  for script in finetune.sbatch finetune_preemptible.sbatch; do
    : >"$STAND_IN_RECORD"
    sed -i -e 's|CHANGE_ME|mine|' -e 's|^latents=""|latents="my data/faces.h5"|' -e 's|^base=""|base="my models/public"|' "slurm/$script"
    [ "$(grep -c '# EDIT$' "slurm/$script")" -eq 4 ] || fail "$script was not edited in its four lines"
    code_is 0 batch "$script" --set data.latents=other.h5
    recorded "data.latents=my data/faces.h5"
    recorded "model.base=my models/public"
    recorded configs/quickstart/finetune.yaml
    recorded runs/finetune
    # What is given comes later, and so wins.
    [ "$(grep -xF -e 'data.latents=my data/faces.h5' -e data.latents=other.h5 "$STAND_IN_RECORD" | tail -n 1)" = data.latents=other.h5 ] ||
      fail "$script: the lines win over the arguments"
    : >"$STAND_IN_RECORD"
    DPLDM_LATENTS=/else/where.h5 code_is 0 batch "$script"
    recorded "data.latents=/else/where.h5"
    not_recorded faces.h5
  done
}
case_batch_leaves_to_the_configuration_what_is_empty() {
  in_job
  fake_programs
  code_is 0 batch finetune.sbatch
  not_recorded data.latents
  not_recorded model.base
  not_recorded data.local_copy
}
# A TMPDIR that the job was given, which the shell that submits does not have.
case_batch_copies_to_the_nodes_disk_that_the_site_names() {
  in_job
  fake_programs
  # shellcheck disable=SC2016
  echo 'export DPLDM_LOCAL_COPY=$TMPDIR/latents' >"$work/site.env"
  mkdir "$work/node local"
  TMPDIR="$work/node local" DPLDM_SITE=$work/site.env code_is 0 batch finetune.sbatch
  recorded "data.local_copy=$work/node local/latents"
}
case_batch_finds_the_root_where_the_allocation_began_elsewhere() {
  in_job
  fake_programs
  local script
  for script in finetune.sbatch finetune_preemptible.sbatch encode.sbatch; do
    SLURM_SUBMIT_DIR=/ code_is 0 batch "$script" --dry-run
  done
  code_is 64 env -C / SLURM_SUBMIT_DIR=/ bash "$work/tree/slurm/finetune.sbatch"
  grep -q "submit from the repository's root; / is not it" "$work/err" || fail "nothing says where to submit from"
}
case_batch_speaks_of_its_task_alone_in_a_job_array() {
  in_job
  fake_programs
  SLURM_ARRAY_JOB_ID=17 SLURM_ARRAY_TASK_ID=3 STAND_IN_EXIT=75 code_is 75 batch finetune_preemptible.sbatch
  recorded "squeue -h -j 17_3 -o %e"
  recorded "scontrol requeue 17_3"
}
case_batch_passes_the_warning_signal_on() {
  in_job
  fake_programs
  STAND_IN_SIGNAL=USR1 code_is 75 batch finetune.sbatch
  recorded "received USR1"
  not_recorded "scontrol"
}
# The signal and the end of the launcher come together, in either order; often enough that a lost code shows.
case_mpirun_returns_the_code_when_a_signal_comes_as_it_ends() {
  local signal
  for _ in $(seq 10); do
    for signal in USR1 TERM; do
      STAND_IN_LAST_SIGNAL=$signal STAND_IN_EXIT=76 code_is 76 launch/train_mpirun.sh --program "$work/program" finetune
    done
  done
}
case_batch_returns_the_code_when_a_signal_comes_as_the_launcher_ends() {
  in_job
  fake_programs
  local signal
  for _ in $(seq 10); do
    for signal in USR1 TERM; do
      STAND_IN_LAST_SIGNAL=$signal STAND_IN_EXIT=64 code_is 64 batch finetune_preemptible.sbatch
    done
  done
  not_recorded "scontrol"
  STAND_IN_LAST_SIGNAL=TERM STAND_IN_EXIT=75 code_is 75 batch finetune_preemptible.sbatch
  recorded "scontrol requeue 17"
}
case_preemptible_requeues_after_a_checkpoint() {
  in_job
  fake_programs
  STAND_IN_SIGNAL=TERM code_is 75 batch finetune_preemptible.sbatch
  recorded "received USR1"
  recorded "scontrol requeue 17"
}
case_preemptible_requeues_no_more_than_the_cap() {
  in_job
  fake_programs
  mkdir -p "$DPLDM_RUN_DIR"
  export STAND_IN_STEPS=1
  STAND_IN_EXIT=75 SLURM_RESTART_COUNT=2 DPLDM_MAX_RESTARTS=2 code_is 75 batch finetune_preemptible.sbatch
  not_recorded "scontrol"
  STAND_IN_EXIT=75 SLURM_RESTART_COUNT=1 DPLDM_MAX_RESTARTS=2 code_is 75 batch finetune_preemptible.sbatch
  recorded "scontrol requeue 17"
}
case_preemptible_refuses_a_cap_that_is_no_number() {
  in_job
  fake_programs
  local limit
  for limit in ten -1 1.5 ' ' 5x; do
    DPLDM_MAX_RESTARTS=$limit STAND_IN_EXIT=75 code_is 64 batch finetune_preemptible.sbatch
    grep -qF "DPLDM_MAX_RESTARTS is '$limit'" "$work/err" || fail "'$limit' is not named"
  done
  not_recorded "=="
}
# As into a file on a disk that is full.
case_a_log_that_takes_nothing_changes_nothing() {
  in_job
  fake_programs
  local script code
  for script in finetune.sbatch finetune_preemptible.sbatch; do
    code=0
    STAND_IN_EXIT=75 batch "$script" >/dev/full 2>&1 || code=$?
    [ "$code" -eq 75 ] || fail "$script ended with $code"
  done
  recorded "scontrol requeue 17"
  code=0
  STAND_IN_EXIT=75 launch/train_mpirun.sh --program "$work/program" finetune >/dev/full 2>&1 || code=$?
  [ "$code" -eq 75 ] || fail "train_mpirun.sh ended with $code"
}
case_preemptible_requeues_once_after_a_communication_failure() {
  in_job
  fake_programs
  local code
  for code in 71 205; do
    : >"$STAND_IN_RECORD"
    STAND_IN_EXIT=$code code_is "$code" batch finetune_preemptible.sbatch
    recorded "scontrol requeue $SLURM_JOB_ID"
    : >"$STAND_IN_RECORD"
    STAND_IN_EXIT=$code code_is "$code" batch finetune_preemptible.sbatch
    not_recorded "scontrol"
    export SLURM_JOB_ID=18
  done
}
case_preemptible_requeues_once_where_no_mark_can_be_left() {
  in_job
  fake_programs
  # Links to nowhere stand in for a full or read-only file system; a directory without permissions would not stop root.
  mkdir -p "$DPLDM_RUN_DIR"
  ln -s "$work/nowhere/mark" "$DPLDM_RUN_DIR/.requeued-after-71-job-17"
  ln -s "$work/nowhere/mark" "$DPLDM_RUN_DIR/.no-step-in-job-17"
  STAND_IN_EXIT=71 code_is 71 batch finetune_preemptible.sbatch
  recorded "scontrol requeue 17"
  : >"$STAND_IN_RECORD"
  SLURM_RESTART_COUNT=1 STAND_IN_EXIT=71 code_is 71 batch finetune_preemptible.sbatch
  not_recorded "scontrol"
  grep -q "not requeued: communication failed" "$work/err" || fail "nothing says why it is not requeued"
  SLURM_RESTART_COUNT=1 STAND_IN_EXIT=75 code_is 75 batch finetune_preemptible.sbatch
  recorded "scontrol requeue 17"
}
case_preemptible_does_not_requeue_after_two_starts_without_a_step() {
  in_job
  fake_programs
  mkdir -p "$DPLDM_RUN_DIR"
  local code steps
  for code in 75 138; do
    # One start without a step may have met a pre-emption, wherever it comes.
    for steps in 0 3 0 1 0; do
      : >"$STAND_IN_RECORD"
      STAND_IN_STEPS=$steps STAND_IN_EXIT=$code code_is "$code" batch finetune_preemptible.sbatch
      recorded "scontrol requeue $SLURM_JOB_ID"
    done
    : >"$STAND_IN_RECORD"
    STAND_IN_EXIT=$code code_is "$code" batch finetune_preemptible.sbatch
    not_recorded "scontrol"
    grep -q "not requeued: two starts in a row ended without a step" "$work/err" || fail "nothing says why it is not requeued"
    export SLURM_JOB_ID=18 # a job that is submitted anew starts afresh
  done
}
case_preemptible_requeues_when_it_was_asked_to_stop_before_it_could_listen() {
  in_job
  fake_programs
  STAND_IN_EXIT=138 code_is 138 batch finetune_preemptible.sbatch
  recorded "scontrol requeue 17"
}
case_preemptible_does_not_requeue_other_ends() {
  in_job
  fake_programs
  for code in 0 64 70 74 76 137; do
    STAND_IN_EXIT=$code code_is "$code" batch finetune_preemptible.sbatch
  done
  not_recorded "scontrol"
}
case_encode_starts_the_data_program() {
  in_job
  fake_programs
  DPLDM_MODEL=m DPLDM_IMAGES=i.h5 DPLDM_LATENTS=l.h5 code_is 0 batch encode.sbatch --flips
  recorded "$work/tree/build/bin/dpldm-data"
  recorded encode
  recorded i.h5
  recorded --flips
}
case_encode_writes_beside_the_images() {
  in_job
  fake_programs
  DPLDM_IMAGES=data/faces.h5 code_is 0 batch encode.sbatch
  recorded data/faces-latents.h5
}
case_batch_scripts_have_four_lines_to_edit() {
  local script
  for script in slurm/*.sbatch; do
    [ "$(grep -c '# EDIT$' "$script")" -eq 4 ] || fail "$script has another number of lines to edit"
    # Quoted, for folders with blanks in their names.
    if grep '# EDIT$' "$script" | grep -v '^#SBATCH' | grep -vqE '^[a-z]+="[^"]*"  # EDIT$'; then fail "$script has a line without quotes"; fi
  done
}
case_batch_tells_the_program_when_the_allocation_ends() {
  in_job
  fake_programs
  code_is 0 batch finetune.sbatch
  grep -q "SLURM_JOB_END_TIME=1893553445" "$work/err" || fail "the end of the allocation is missing"
  # Half past two in the night when it is that twice.
  TZ=CET-1CEST,M3.5.0,M10.5.0/3 STAND_IN_END=1887841800 SLURM_TIME_FORMAT=relative code_is 0 batch finetune.sbatch
  grep -q "SLURM_JOB_END_TIME=1887841800" "$work/err" || fail "another end is told to who shows times otherwise"
  SLURM_JOB_END_TIME=1900000000 code_is 0 batch finetune.sbatch
  grep -q "SLURM_JOB_END_TIME=1900000000" "$work/err" || fail "what Slurm said was overwritten"
  STAND_IN_END=N/A code_is 0 batch finetune.sbatch
  if grep -q SLURM_JOB_END_TIME "$work/err"; then fail "an allocation without an end has one"; fi
}
case_batch_can_use_mpirun() {
  in_job
  fake_programs
  DPLDM_LAUNCHER=mpirun code_is 0 batch finetune.sbatch
  recorded "== mpirun"
  DPLDM_LAUNCHER=other code_is 64 batch finetune.sbatch
}
# sbatch reads its lines only up to the first command.
case_sbatch_lines_come_before_any_command() {
  local script
  for script in slurm/*.sbatch; do
    awk '/^#SBATCH/ { if (begun) exit 1 } !/^#/ && NF { begun = 1 }' "$script" || fail "$script has an #SBATCH line after a command"
  done
}
case_scripts_are_shellcheck_clean() {
  command -v shellcheck >/dev/null || { echo "skipped: there is no shellcheck"; exit 77; }
  shellcheck -x launch/*.sh slurm/*.sh slurm/*.sbatch configs/cluster/*.env tests/*.sh tests/launcher/*.sh tests/launcher/stand_ins/*
}

"case_$1"
