# shellcheck shell=bash
# A Slurm cluster of two nodes on this machine: each node is a network namespace (with an address of its own on a bridge), a host name and a
# /tmp of its own. Sourced; gives cluster_up, cluster_down, node_up, node_kill, link_cut, link_mend. Everything lives under $cluster, and
# nothing of the machine's own configuration is touched.
: "${cluster:?}"

prefix=dpldm
export SLURM_CONF=$cluster/slurm.conf
address() { echo "10.77.$((16#$(printf '%s' "$cluster" | sha256sum | cut -c1-2))).$1"; }

# Why it cannot be set up here; empty when it can.
why_no_cluster() {
  local tool
  [ "$(id -u)" -eq 0 ] || { echo "network namespaces need root"; return; }
  for tool in ip nsenter unshare munged slurmctld slurmd sbatch srun scontrol; do
    command -v "$tool" >/dev/null || { echo "there is no $tool"; return; }
  done
  if ! unshare --net --mount --uts true 2>/dev/null; then echo "namespaces are not allowed here"; return; fi
  if ! ip netns add "$prefix-try" 2>/dev/null; then echo "network namespaces are not allowed here"; return; fi
  ip netns del "$prefix-try"
  if ip link show "$prefix-br" >/dev/null 2>&1; then echo "another such cluster is up"; fi
}

write_configuration() {
  mkdir -p "$cluster"/{state,munge}
  chmod 755 "$cluster" "$cluster/munge"
  head -c 1024 /dev/urandom >"$cluster/munge/key"
  chmod 400 "$cluster/munge/key"
  printf '127.0.0.1 localhost\n%s ctl\n%s n1\n%s n2\n' "$(address 1)" "$(address 11)" "$(address 12)" >"$cluster/hosts"
  cat >"$SLURM_CONF" <<TEXT
ClusterName=dpldm
SlurmctldHost=ctl($(address 1))
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket,cred_expire=15
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool-%n
SlurmctldPidFile=$cluster/ctl.pid
SlurmdPidFile=$cluster/%n.pid
SlurmctldLogFile=$cluster/ctl.log
SlurmdLogFile=$cluster/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=pmix
ReturnToService=2
SlurmdTimeout=60
KillWait=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName=n1 NodeAddr=$(address 11) CPUs=2 RealMemory=2000
NodeName=n2 NodeAddr=$(address 12) CPUs=2 RealMemory=2000
PartitionName=low Nodes=n[1-2] PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 Default=YES
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF
TEXT
}

network_up() {
  ip link add "$prefix-br" type bridge
  ip addr add "$(address 1)/24" dev "$prefix-br"
  ip link set "$prefix-br" up
  local node
  for node in 1 2; do
    ip netns add "$prefix-n$node"
    ip link add "$prefix-v$node" type veth peer name eth0 netns "$prefix-n$node"
    ip link set "$prefix-v$node" master "$prefix-br" up
    ip -n "$prefix-n$node" addr add "$(address 1$node)/24" dev eth0
    ip -n "$prefix-n$node" link set eth0 up
    ip -n "$prefix-n$node" link set lo up
  done
}

# node_up N: boots it, with nothing left of an earlier life. Not `ip netns exec`, which mounts another /sys, without which slurmd does not start. Two nodes on one /tmp would share PMIx's
# files.
node_up() {
  rm -rf "${cluster:?}/tmp-n$1" "$cluster/spool-n$1"
  mkdir -p "$cluster/tmp-n$1" "$cluster/spool-n$1"
  local script="mount --bind '$cluster/tmp-n$1' /tmp && mount --bind '$cluster/hosts' /etc/hosts && hostname n$1 && exec slurmd -N n$1 -D"
  nsenter --net="/run/netns/$prefix-n$1" unshare --mount --uts bash -c "$script" >>"$cluster/n$1.out" 2>&1 &
}

# node_kill N: as if its power failed.
node_kill() {
  local pid
  for pid in $(ip netns pids "$prefix-n$1"); do kill -9 "$pid" 2>/dev/null || true; done
}

link_cut() { ip link set "$prefix-v$1" down; }
link_mend() { ip link set "$prefix-v$1" up; }

# wait_until SECONDS COMMAND...: false when it never was true.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

nodes_idle() { [ "$(sinfo -h -o '%t' -p low | sort -u)" = idle ] && [ "$(sinfo -h -o '%D' -p low)" = 2 ]; }

cluster_up() {
  write_configuration
  network_up
  munged --foreground --force --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" --pid-file="$cluster/munge/pid" \
    --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed" --num-threads=2 >"$cluster/munge/out" 2>&1 &
  munge_pid=$!
  wait_until 10 test -S "$cluster/munge/socket" || { cat "$cluster/munge/out" >&2; return 1; }
  unshare --mount --uts bash -c "mount --bind '$cluster/hosts' /etc/hosts && hostname ctl && exec slurmctld -D" >"$cluster/ctl.out" 2>&1 &
  ctl_pid=$!
  node_up 1
  node_up 2
  wait_until 30 nodes_idle 2>/dev/null || { tail -n 20 "$cluster"/*.log "$cluster"/*.out >&2; return 1; }
}

cluster_down() {
  local node
  for node in 1 2; do node_kill "$node"; done
  [ -z "${ctl_pid:-}" ] || kill "$ctl_pid" 2>/dev/null || true
  [ -z "${munge_pid:-}" ] || kill "$munge_pid" 2>/dev/null || true
  wait 2>/dev/null || true
  for node in 1 2; do ip netns del "$prefix-n$node" 2>/dev/null || true; done
  ip link del "$prefix-br" 2>/dev/null || true
}
