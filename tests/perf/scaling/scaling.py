#!/usr/bin/env python3
"""How private fine-tuning scales over ranks: measurements on this machine, and a model of the cost on many GPUs fitted to them.

    scaling.py --build BUILD [--namespaces]     prints the tables of docs/benchmarks/scaling.md
    scaling.py --model                          the model alone, with the constants in this file

Fixed work per rank: the expected batch grows with the ranks. Fixed total work: it does not. One thread per rank. With --namespaces (root) the
ranks are also placed in two network namespaces joined by a bridge, so that their traffic goes through TCP.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RANKS = (1, 2, 4)
BATCH_PER_RANK = 96
STEPS = 12
REPEATS = 3

# What the model assumes of a GPU and its network; each is a round figure below what vendors state.
GPU_FLOPS = 200e12  # bf16, in a U-Net's convolutions and attention
NVLINK_BYTES = 200e9  # per GPU and second, of a ring inside a node of 8
NETWORK_BYTES = 20e9  # per GPU and second, between nodes
GPUS_PER_NODE = 8
HOP_SECONDS = 10e-6  # latency of one step of a ring or tree between devices
# Work that rank 0 does alone.
NOISE_PER_SECOND = 48e6  # Gaussian numbers on one core: `perf_noise_speed` (docs/benchmarks/accounting.md)
NOISE_THREADS = 16  # of rank 0: its share of a node of 128 cores and 8 GPUs
CHARGE_SECONDS = 0.005  # one fsync of the ledger

# parameters trained, expected batch, draws per record, multiply-adds of one forward pass of one record
SETTINGS = {
    "CIFAR-10, blocks 9-16, K = 1": (9.79e6, 2000, 1, 5e9),
    "CIFAR-10, blocks 9-16, K = 32": (9.79e6, 2000, 32, 5e9),
    "text-to-image 256, blocks 9-16, K = 1": (110.3e6, 256, 1, 75e9),
    "text-to-image 256, blocks 9-16, B = 4096, K = 4": (110.3e6, 4096, 4, 75e9),
}


def environment(extra=()):
    return dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_vader_single_copy_mechanism="none", **dict(extra))


class Place:
    """Where the ranks run: the options that mpirun needs for it."""

    def __init__(self, name, options, extra=()):
        self.name = name
        self.options = options
        self.extra = extra

    def run(self, ranks, command):
        hosts = [word.replace("SLOTS", str((ranks + 1) // 2)) for word in self.options]
        full = ["mpirun", "--bind-to", "none", "-np", str(ranks), *hosts, *map(str, command)]
        out = subprocess.run(full, env=environment(self.extra), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
        if out.returncode != 0:
            raise SystemExit(f"{' '.join(full)}\nended with {out.returncode}:\n{out.stderr}")
        return [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]


class Namespaces:
    """Two network namespaces on a bridge, and an agent by which mpirun starts its daemons in them."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        def do(text):
            subprocess.run(text.split(), check=True)

        do("ip link add dpldm-pb type bridge")
        do("ip addr add 10.78.0.1/24 dev dpldm-pb")
        do("ip link set dpldm-pb up")
        for node in (1, 2):
            do(f"ip netns add dpldm-p{node}")
            do(f"ip link add dpldm-pv{node} type veth peer name eth0 netns dpldm-p{node}")
            do(f"ip link set dpldm-pv{node} master dpldm-pb up")
            do(f"ip -n dpldm-p{node} addr add 10.78.0.1{node}/24 dev eth0")
            do(f"ip -n dpldm-p{node} link set eth0 up")
            do(f"ip -n dpldm-p{node} link set lo up")
        agent = self.folder / "agent"
        agent.write_text('#!/bin/sh\n# As ssh: a host, then a command.\nhost=$1\nshift\n'
                         'exec nsenter --net=/run/netns/dpldm-p${host#n} unshare --uts sh -c "hostname $host; $*"\n')
        agent.chmod(0o755)
        return Place("two namespaces, TCP", ["--host", "n1:SLOTS,n2:SLOTS", "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", str(agent), "--mca",
                                             "plm_rsh_no_tree_spawn", "1", "--mca", "oob_tcp_if_include", "10.78.0.0/24", "--mca",
                                             "btl_tcp_if_include", "10.78.0.0/24", "--mca", "btl", "tcp,self"])

    def __exit__(self, *_):
        for node in (1, 2):
            subprocess.run(["ip", "netns", "del", f"dpldm-p{node}"], check=False)
        subprocess.run(["ip", "link", "del", "dpldm-pb"], check=False)


def finetune(build, folder, place, ranks, batch, number):
    settings = {"data.latents": folder / "latents.h5", "data.sharding": "balanced", "model.base": folder / "tiny", "training.steps": STEPS,
                "training.expected_batch_size": batch, "training.noise_multiplicity": 8, "privacy.epsilon": 1000, "privacy.delta": 1e-4,
                "privacy.noise_multiplier": 1, "privacy.accountant": "rdp", "runtime.threads": 1, "runtime.micro_batch_size": 16,
                "checkpoint.every_steps": 0}
    command = [build / "tests/scaling_run", "finetune", "--run-dir", folder / f"run{number}"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return place.run(ranks, command)[0]


def measure_training(build, folder, place):
    number = 0
    for title, batch_of in (("fixed work per rank", lambda n: BATCH_PER_RANK * n), ("fixed total work", lambda n: BATCH_PER_RANK * 4)):
        print(f"\n{place.name}, {title}:\n")
        print("| ranks | expected batch | ms per step | efficiency | waiting for other ranks | moving data |")
        print("| --- | --- | --- | --- | --- | --- |")
        base = None
        for ranks in RANKS:
            best = None
            for _ in range(REPEATS):
                number += 1
                result = finetune(build, folder, place, ranks, batch_of(ranks), f"{place.name[:3]}{number}")
                best = result if best is None or result["seconds"] < best["seconds"] else best
            step = best["seconds"] / best["steps"]
            base = base or step
            ideal = base if batch_of(1) != batch_of(2) else base / ranks
            print(f"| {ranks} | {batch_of(ranks)} | {1000 * step:.1f} | {100 * ideal / step:.0f} % | "
                  f"{100 * best['waiting_s'] / best['seconds']:.1f} % | {100 * best['moving_s'] / best['seconds']:.1f} % |", flush=True)


def measure_collectives(build, place):
    """Prints times by size; returns seconds per call and per byte of an all-reduce, by number of ranks."""
    print(f"\n{place.name}, one collective:\n")
    print("| ranks | bytes | all-reduce, us | broadcast, us |")
    print("| --- | --- | --- | --- |")
    fitted = {}
    for ranks in RANKS[1:]:
        lines = place.run(ranks, [build / "tests/collective_speed"])
        for line in lines:
            print(f"| {ranks} | {line['bytes']} | {1e6 * line['all_reduce_s']:.0f} | {1e6 * line['broadcast_s']:.0f} |", flush=True)
        small, large = lines[0], lines[-1]
        per_byte = (large["all_reduce_s"] - small["all_reduce_s"]) / (large["bytes"] - small["bytes"])
        fitted[ranks] = (small["all_reduce_s"], per_byte)
    for ranks, (call, per_byte) in fitted.items():
        print(f"\n{ranks} ranks: {1e6 * call:.0f} us + {1e9 * per_byte:.2f} ns per byte ({1 / per_byte / 1e9:.2f} GB/s)")
    return fitted


def most_of_poisson(mean, ranks):
    """The expected number of records of the busiest rank, each having Poisson(mean): Gaussian tail, good to a record or so."""
    if ranks == 1:
        return mean
    return mean + math.sqrt(mean) * math.sqrt(2 * math.log(ranks))


def step_seconds(setting, gpus, sharding):
    parameters, batch, draws, multiply_adds = setting
    # Forward, the gradient of activations, and norms and weighted sums: three times a forward pass, two operations each.
    per_record = draws * 3 * 2 * multiply_adds / GPU_FLOPS
    records = math.ceil(batch / gpus) if sharding == "balanced" else most_of_poisson(batch / gpus, gpus)
    compute = records * per_record
    volume = 4 * parameters
    bandwidth = NVLINK_BYTES if gpus <= GPUS_PER_NODE else NETWORK_BYTES
    hops = math.log2(gpus) if gpus > 1 else 0
    # The sum, and the noise: a ring each way, and about six small collectives.
    moving = 0 if gpus == 1 else 3 * (gpus - 1) / gpus * volume / bandwidth + 8 * 2 * hops * HOP_SECONDS
    alone = parameters / (NOISE_PER_SECOND * NOISE_THREADS) + CHARGE_SECONDS
    return compute, moving, alone


def print_model():
    print("| setting | GPUs | sharding | computing, ms | moving, ms | rank 0 alone, ms | efficiency |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, setting in SETTINGS.items():
        one = sum(step_seconds(setting, 1, "balanced"))
        for gpus in (1, 8, 64, 512):
            for sharding in ("static", "balanced"):
                if gpus == 1 and sharding == "static":
                    continue
                parts = step_seconds(setting, gpus, sharding)
                compute, moving, alone = (1000 * part for part in parts)
                efficiency = 100 * one / gpus / sum(parts)
                print(f"| {name} | {gpus} | {sharding} | {compute:.1f} | {moving:.1f} | {alone:.0f} | {efficiency:.0f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path)
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--model", action="store_true")
    options = parser.parse_args()
    if options.model:
        print_model()
        return 0
    build = options.build.resolve()
    with tempfile.TemporaryDirectory(prefix="dpldm-scaling-") as name:
        folder = Path(name)
        subprocess.run([build / "tests/scaling_run", "toy", folder], check=True, env=environment())
        loopback = Place("one machine, shared memory", [])
        measure_collectives(build, loopback)
        measure_training(build, folder, loopback)
        if options.namespaces:
            with Namespaces(folder) as place:
                measure_collectives(build, place)
                measure_training(build, folder, place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
