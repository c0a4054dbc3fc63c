#!/usr/bin/env bash
# The three batch scripts on a real Slurm cluster of two nodes (slurm_cluster.sh): encoding, fine-tuning, pre-emption and requeue, by srun and
# by mpirun, a rank that is stopped, a node that is killed, a link that is cut. One argument: the build directory. Ends with 77 and a reason
# where such a cluster cannot be set up.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${1:?the build directory}" && pwd)
# Not in /tmp, which is another one on each node.
cluster=$(mktemp -d /var/tmp/dpldm-slurm-XXXXXX)
export cluster
# shellcheck source=tests/launcher/slurm_cluster.sh
source "$root/tests/launcher/slurm_cluster.sh"
reason=$(why_no_cluster)
if [ -n "$reason" ]; then
  rm -rf "$cluster"
  echo "skipped: $reason"
  exit 77
fi
finish() {
  cluster_down
  if [ -n "${KEEP:-}" ]; then echo "kept: $cluster"; else rm -rf "$cluster"; fi
}
trap finish EXIT

export OMP_NUM_THREADS=1 OMPI_MCA_btl_vader_single_copy_mechanism=none DPLDM_REQUEUE_WAIT=60
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
log=$cluster/job.log
steps=30
fail() {
  echo "FAILED: $1" >&2
  { echo "-- job:"; tail -n 40 "$log"; echo "-- controller:"; tail -n 20 "$cluster/ctl.log"; } >&2
  exit 1
}
say() { printf '%-58s %s\n' "$1" "$2"; }

prepare() {
  tree=$cluster/tree
  mkdir -p "$tree/build"
  cp -r "$root/launch" "$root/slurm" "$tree"
  ln -s "$build/bin" "$tree/build/bin"
  "$build/tests/fault_run" toy "$cluster" 2>/dev/null
  "$build/bin/dpldm-data" render --kind glyphs --num 64 --seed 1 -o "$cluster/images.h5" >/dev/null 2>&1
  # Steps of a fraction of a second: long enough to be interrupted.
  cat >"$cluster/finetune.yaml" <<TEXT
training: {steps: $steps, expected_batch_size: 20, noise_multiplicity: 64}
privacy: {epsilon: 1000, delta: 1.0e-3, noise_multiplier: 1, accountant: rdp}
runtime: {threads: 1, micro_batch_size: 2, deadline_seconds: 5}
checkpoint: {every_steps: 5}
TEXT
  export DPLDM_CONFIG=$cluster/finetune.yaml
  local script
  for script in finetune.sbatch finetune_preemptible.sbatch; do
    edit_four_lines "$script" "latents=\"$cluster/latents.h5\"" "base=\"$cluster/tiny\""
  done
  edit_four_lines encode.sbatch "model=\"$cluster/tiny\"" "images=\"$cluster/images.h5\""
}

# edit_four_lines SCRIPT LINE LINE: account, partition, and the two that name files, as a person edits them.
edit_four_lines() {
  local line
  for line in "#SBATCH --account=test" "#SBATCH --partition=low" "${@:2}"; do
    sed -i "s|^${line%%=*}=[^#]*# EDIT\$|$line|" "$tree/slurm/$1"
    grep -qxF -- "$line" "$tree/slurm/$1" || { echo "FAILED: $1 has no line '${line%%=*}=' to edit" >&2; exit 1; }
  done
}

# submit SCRIPT [SBATCH-OPTION...] [-- ARGUMENT...]: sets `job`.
submit() {
  local script=$1 options=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  : >"$log"
  job=$(cd "$tree" && sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --time=10 --output="$log" "${options[@]}" \
    "slurm/$script" "$@")
}
state() { scontrol show job "$job" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
state_is() { [[ " $1 " == *" $(state) "* ]]; }
exit_code() { scontrol show job "$job" | sed -n 's/.* ExitCode=\([0-9]*\):.*/\1/p'; }
restarts() { scontrol show job "$job" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p'; }
ends_with() {
  wait_until "$2" state_is "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL PREEMPTED" || fail "$3: the job is $(state) after $2 s"
  [ "$(exit_code)" = "$1" ] || fail "$3: the job is $(state) with $(exit_code) instead of $1"
}
steps_done() { wc -l 2>/dev/null <"$DPLDM_RUN_DIR/metrics.jsonl" || echo 0; }
# What wait_until is given.
# shellcheck disable=SC2317
{
  has_steps() { [ "$(steps_done)" -ge "$1" ]; }
  has_restarted() { [ "$(restarts)" -ge 1 ]; }
  has_left() { ! state_is RUNNING || [ "$(restarts)" -ge 1 ]; }
  names_the_missing() { grep -Eq "missing: rank [01] on n[12]" "$log"; }
  nodes_usable() { ! sinfo -h -o '%t' -p low | grep -Eq 'down|drain|unk|\*'; }
}
epsilon() { "$build/bin/dpldm" privacy ledger "$DPLDM_RUN_DIR" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["epsilon"])'; }
not_less() { python3 -c 'import sys; sys.exit(float(sys.argv[2]) < float(sys.argv[1]))' "$1" "$2" || fail "epsilon fell from $1 to $2"; }
requeued_by_the_script() {
  grep -q "requeueing job $job: $1 " "$log" || fail "$2: the script did not requeue the job"
  if grep -q "requeue job JobId=$job due to failure of node" "$cluster/ctl.log"; then fail "$2: Slurm came before the script"; fi
}
new_run() { export DPLDM_RUN_DIR=$cluster/$1; }

encode_runs() {
  submit encode.sbatch
  ends_with 0 90 encode.sbatch
  "$build/bin/dpldm-data" verify "$cluster/images-latents.h5" >/dev/null || fail "encode.sbatch: the latents do not verify"
  say "encode.sbatch on two nodes" "done"
}

finetune_runs() {
  new_run whole
  submit finetune.sbatch -- --set data.local_copy=/tmp/latents
  ends_with 0 120 finetune.sbatch
  local node
  for node in 1 2; do
    [ "$(find "$cluster/tmp-n$node/latents" -type f | wc -l)" -eq 1 ] || fail "finetune.sbatch: n$node has no copy of the latents in its /tmp"
  done
  [ -e "$DPLDM_RUN_DIR/model/dp_metadata.json" ] || fail "finetune.sbatch: there is no model"
  grep -q "ranks  *2 x" "$log" || fail "finetune.sbatch: not two ranks"
  say "finetune.sbatch on two nodes" "done"
}

warning_signal_stops() {
  new_run warned
  submit finetune.sbatch
  wait_until 90 has_steps 6 || fail "signal: no steps"
  local begin=$SECONDS
  scancel --batch --signal=USR1 "$job"
  ends_with 75 60 "scancel --signal=USR1"
  local before
  before=$(epsilon)
  say "finetune.sbatch, SIGUSR1 before the end: code 75 after" "$((SECONDS - begin)) s"
  submit finetune.sbatch
  ends_with 0 120 "finetune.sbatch submitted again"
  not_less "$before" "$(epsilon)"
}

clock_stops() {
  new_run clocked
  # Slurm's own warning is turned into a signal that changes nothing, and the minute is what a first checkpoint is given.
  submit finetune.sbatch --time=1 --signal=B:CONT@5
  ends_with 75 90 "the end of the allocation"
  grep -q "stopped by the end of the Slurm allocation" "$log" || fail "the end of the allocation: something else stopped it"
  local before
  before=$(epsilon)
  say "finetune.sbatch, the end of the allocation by the clock" "code 75"
  submit finetune.sbatch
  ends_with 0 120 "finetune.sbatch submitted again"
  not_less "$before" "$(epsilon)"
}

preempted_job_comes_back() {
  new_run preempted
  submit finetune_preemptible.sbatch
  wait_until 90 has_steps 6 || fail "preemption: no steps"
  local begin=$SECONDS
  sbatch --partition=high --nodes=2 --ntasks-per-node=2 --time=5 --output=/dev/null --wrap "sleep 3" >/dev/null
  wait_until 90 has_restarted || fail "preemption: the job was not requeued"
  local before
  before=$(epsilon)
  say "finetune_preemptible.sbatch, pre-empted: requeued after" "$((SECONDS - begin)) s"
  requeued_by_the_script "it stopped to go on later" preemption
  grep -q "a checkpoint is in" "$log" || fail "preemption: there was no checkpoint"
  ends_with 0 180 "preempted job"
  not_less "$before" "$(epsilon)"
  [ "$(steps_done)" -eq "$steps" ] || fail "preemption: $(steps_done) steps, though nothing was lost"
  say "... went on without repeating a step" "done"
}

# rank_pids N: the processes of the run on a node.
rank_pids() {
  local pid
  for pid in $(ip netns pids "$prefix-n$1"); do
    if [ "$(readlink "/proc/$pid/exe")" = "$build/bin/dpldm" ]; then echo "$pid"; fi
  done
}

rank_that_is_stopped() {
  new_run stopped
  submit finetune_preemptible.sbatch
  wait_until 90 has_steps 12 || fail "rank stopped: no steps"
  local begin=$SECONDS before
  # shellcheck disable=SC2046 # one process or more
  kill -STOP $(rank_pids 2)
  wait_until 60 names_the_missing || fail "rank stopped: no rank noticed"
  wait_until 120 has_restarted || fail "rank stopped: the job was not requeued"
  before=$(epsilon)
  requeued_by_the_script "communication failed" "rank stopped"
  say "a rank is stopped: code 71, requeued by the script after" "$((SECONDS - begin)) s (deadline 5 s)"
  ends_with 0 240 "after a rank was stopped"
  not_less "$before" "$(epsilon)"
  say "... went on" "done"
}

mpirun_is_warned() {
  new_run warned_mpirun
  DPLDM_LAUNCHER=mpirun submit finetune_preemptible.sbatch
  wait_until 90 has_steps 6 || fail "mpirun: no steps"
  local begin=$SECONDS before
  scancel --batch --signal=USR1 "$job"
  wait_until 90 has_restarted || fail "mpirun: the job was not requeued"
  before=$(epsilon)
  requeued_by_the_script "it stopped to go on later" mpirun
  grep -q "a checkpoint is in" "$log" || fail "mpirun: there was no checkpoint"
  say "by mpirun, SIGUSR1: requeued after" "$((SECONDS - begin)) s"
  ends_with 0 180 "mpirun"
  not_less "$before" "$(epsilon)"
  [ "$(steps_done)" -eq "$steps" ] || fail "mpirun: $(steps_done) steps, though nothing was lost"
  say "... went on without repeating a step" "done"
}

node_that_is_killed() {
  new_run killed
  submit finetune_preemptible.sbatch
  wait_until 90 has_steps 12 || fail "node killed: no steps"
  local begin=$SECONDS before
  node_kill 2
  wait_until 120 has_left || fail "node killed: the job still runs"
  before=$(epsilon)
  requeued_by_the_script "communication failed" "node killed"
  say "a node is killed: code 71, requeued by the script after" "$((SECONDS - begin)) s"
  node_up 2
  wait_until 60 nodes_usable || fail "node killed: it did not come back"
  ends_with 0 240 "after the node came back"
  not_less "$before" "$(epsilon)"
  say "... went on when the node was back" "done"
}

link_that_is_cut() {
  new_run cut
  submit finetune_preemptible.sbatch
  wait_until 90 has_steps 12 || fail "link cut: no steps"
  local begin=$SECONDS before
  link_cut 2
  wait_until 60 names_the_missing || fail "link cut: no rank noticed"
  say "a link is cut: a rank names the missing one after" "$((SECONDS - begin)) s (deadline 5 s)"
  wait_until 120 has_left || fail "link cut: the job still runs"
  before=$(epsilon)
  requeued_by_the_script "communication failed" "link cut"
  say "... code 71, requeued by the script after" "$((SECONDS - begin)) s"
  link_mend 2
  wait_until 90 nodes_usable || fail "link cut: the node did not come back"
  ends_with 0 240 "after the link was mended"
  not_less "$before" "$(epsilon)"
  say "... went on when the link was back" "done"
}

cluster_up || fail "the cluster does not come up"
if ! srun --mpi=list 2>&1 | grep -q pmix; then echo "skipped: this Slurm has no PMIx"; exit 77; fi
prepare
if [ $# -gt 1 ]; then
  "$2"
else
  encode_runs
  finetune_runs
  warning_signal_stops
  clock_stops
  preempted_job_comes_back
  mpirun_is_warned
  rank_that_is_stopped
  node_that_is_killed
  link_that_is_cut
fi
