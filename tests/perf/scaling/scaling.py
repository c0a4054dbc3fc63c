#!/usr/bin/env python3
"""How private fine-tuning scales over ranks: measurements on this machine, and a model of the cost on many GPUs fitted to them.

    scaling.py --build BUILD --place machine|namespaces --save F.json     measures, prints tables, keeps the numbers
    scaling.py --model F.json...                                          fits the model to kept numbers, tries it on what was held out, extrapolates

Fixed work per rank: the expected batch grows with the ranks. Fixed total work: it does not. One thread per rank. In "namespaces" (root) the ranks are
placed in two network namespaces joined by a bridge, so that their traffic goes through TCP.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = (1, 2, 4)
WIDTH = 96  # of the network
BATCH_PER_RANK = 12
DRAWS = 8
STEPS = 10
ROUNDS = 3  # of all training runs, one after the other, so that a slow minute of the machine meets different ones; the fastest of each counts
TRIES = 2
QUIET = 0.1  # of one core: what other processes may use while something is measured
# Not used for the fit: the collectives of this number of ranks, and this training run.
HELD_OUT_RANKS = 3
HELD_OUT_RUN = (2, 60)  # ranks, expected batch

# What the model assumes of a GPU and its network; each is a round figure below what vendors state.
GPU_FLOPS = 200e12  # bf16, in a U-Net's convolutions and attention
NVLINK_BYTES = 200e9  # per GPU and second, of a ring inside a node of 8
NETWORK_BYTES = 20e9  # per GPU and second, between nodes
GPUS_PER_NODE = 8
HOP_SECONDS = 10e-6  # latency of one step of a ring or tree between devices
# Work that rank 0 does alone.
NOISE_PER_SECOND = 48e6  # Gaussian numbers on one core: `perf_noise_speed` (docs/benchmarks/accounting.md)
NOISE_THREADS = 16  # of rank 0: its share of a node of 128 cores and 8 GPUs
DEVICE_NOISE_PER_SECOND = 10e9  # on the device, a tenth of what its memory could take
CHARGE_SECONDS = 0.005  # one fsync of the ledger, on a shared file system

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


def busy_seconds():
    """Of all cores and processes, since the machine was started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Of this process and of what it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class Place:
    """Where the ranks run: the options that mpirun needs for it."""

    def __init__(self, name, options):
        self.name = name
        self.options = options

    def run(self, ranks, command):
        hosts = [word.replace("SLOTS", str((ranks + 1) // 2)) for word in self.options]
        full = ["mpirun", "--bind-to", "none", "-np", str(ranks), *hosts, *map(str, command)]
        began, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        out = subprocess.run(full, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
        if out.returncode != 0:
            raise SystemExit(f"{' '.join(full)}\nended with {out.returncode}:\n{out.stderr}")
        others = (busy_seconds() - busy - (own_seconds() - own)) / (time.monotonic() - began)
        return [dict(json.loads(line), others=round(max(0.0, others), 3)) for line in out.stdout.splitlines() if line.startswith("{")]

    def run_quietly(self, ranks, command):
        """Again, until other processes left the machine alone; the quietest if they never do."""
        tries = []
        for _ in range(TRIES):
            tries.append(self.run(ranks, command))
            if tries[-1][0]["others"] <= QUIET:
                break
        return min(tries, key=lambda lines: lines[0]["others"])


class Machine:
    def __enter__(self):
        return Place("one machine, shared memory", [])

    def __exit__(self, *_):
        pass


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
        return Place("two network namespaces, TCP", ["--host", "n1:SLOTS,n2:SLOTS", "--mca", "plm", "rsh", "--mca", "plm_rsh_agent", str(agent),
                                                     "--mca", "plm_rsh_no_tree_spawn", "1", "--mca", "oob_tcp_if_include", "10.78.0.0/24", "--mca",
                                                     "btl_tcp_if_include", "10.78.0.0/24", "--mca", "btl", "tcp,self"])

    def __exit__(self, *_):
        for node in (1, 2):
            subprocess.run(["ip", "netns", "del", f"dpldm-p{node}"], check=False)
        subprocess.run(["ip", "link", "del", "dpldm-pb"], check=False)


# Measuring.


def finetune(build, folder, place, ranks, batch):
    # As many records as the batch expects: then all of them are in every step, and their number does not vary.
    data = folder / f"records{batch}"
    if not data.exists():
        data.mkdir()
        subprocess.run([build / "tests/scaling_run", "toy", data, str(WIDTH), str(batch)], check=True, env=environment())
    settings = {"data.latents": data / "latents.h5", "data.sharding": "balanced", "model.base": data / "tiny", "training.steps": STEPS,
                "training.expected_batch_size": batch, "training.noise_multiplicity": DRAWS, "privacy.epsilon": 1000, "privacy.delta": 1e-3,
                "privacy.noise_multiplier": 1, "privacy.accountant": "rdp", "runtime.threads": 1,
                "runtime.micro_batch_size": 4, "checkpoint.every_steps": 0, "runtime.check_every_steps": 0}
    run_dir = folder / "run"
    # A new run needs a directory of its own.
    command = ["sh", "-c", f"[ \"$OMPI_COMM_WORLD_RANK\" != 0 ] || rm -rf {run_dir}; exec \"$@\"", "sh", build / "tests/scaling_run", "finetune",
               "--run-dir", run_dir]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    result = place.run_quietly(ranks, command)[0]
    per_step = {key[:-2]: value / result["steps"] for key, value in result.items() if key.endswith("_s")}
    return {"ranks": ranks, "batch": batch, "draws": DRAWS, "elements": result["elements"], "calls": result["calls"],
            "others": result["others"], "step": result["seconds"] / result["steps"], **per_step}


def measure(build, place_of):
    with tempfile.TemporaryDirectory(prefix="dpldm-scaling-") as name:
        folder = Path(name)
        with place_of(folder) as place:
            collectives = [line for ranks in (2, HELD_OUT_RANKS, 4) for line in place.run_quietly(ranks, [build / "tests/collective_speed"])]
            overlap = place.run_quietly(2, [build / "tests/overlap"])
            work = sorted({(n, BATCH_PER_RANK * n) for n in RANKS} | {(n, BATCH_PER_RANK * 4) for n in RANKS} | {HELD_OUT_RUN})
            rounds = [[finetune(build, folder, place, ranks, batch) for ranks, batch in work] for _ in range(ROUNDS)]
            runs = [min(of_one, key=lambda run: run["step"]) for of_one in zip(*rounds)]
    return {"place": place.name, "cores": os.cpu_count(), "collectives": collectives, "overlap": overlap, "runs": runs}


def print_measurements(measured):
    cores = measured["cores"]
    run_of = {(run["ranks"], run["batch"]): run for run in measured["runs"]}
    for title, batch_of in (("fixed work per rank", lambda n: BATCH_PER_RANK * n), ("fixed total work", lambda n: BATCH_PER_RANK * 4)):
        print(f"\n{measured['place']}, {title} ({cores} cores):\n")
        print("| ranks | expected batch | ms per step | efficiency | waiting for others | moving data | noise, ledger (rank 0) | efficiency by processor time |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        one = run_of[1, batch_of(1)]
        for ranks in RANKS:
            run = run_of[ranks, batch_of(ranks)]
            share = batch_of(ranks) / ranks / batch_of(1)  # of one rank's work
            step = run["step"]
            print(f"| {ranks} | {run['batch']} | {1000 * step:.1f} | {100 * one['step'] * share / step:.0f} % | {100 * run['waiting'] / step:.1f} % | "
                  f"{100 * run['moving'] / step:.1f} % | {1000 * run['noise']:.1f}, {1000 * run['ledger']:.1f} ms | "
                  f"{100 * one['busiest_cpu'] * share / (run['busiest_cpu'] + run['moving']):.0f} % |")
    disturbed = max(line["others"] for line in measured["runs"] + measured["collectives"] + measured["overlap"])
    print(f"\nOther processes used at most {100 * disturbed:.0f} % of one core.")
    print(f"\n{measured['place']}, one collective (median):\n")
    print("| ranks | bytes | all-reduce, us | broadcast, us |")
    print("| --- | --- | --- | --- |")
    for line in measured["collectives"]:
        print(f"| {line['ranks']} | {line['bytes']} | {1e6 * line['all_reduce_s']:.0f} | {1e6 * line['broadcast_s']:.0f} |")
    print(f"\n{measured['place']}, the sum in buckets while the last micro-batch is added to it, 2 ranks:\n")
    print("| trained parameters | adding alone, ms | then one reduction, ms | in buckets, ms | gain |")
    print("| --- | --- | --- | --- | --- |")
    for line in measured["overlap"]:
        adding, apart, overlapped = (1000 * line[key] for key in ("adding_s", "apart_s", "overlapped_s"))
        print(f"| {line['elements'] / 1e6:.2f} M | {adding:.1f} | {apart:.1f} | {overlapped:.1f} | {100 * (1 - overlapped / apart):.0f} % |")


# Fitting.


def least_squares(rows, values):
    """x >= 0 of smallest sum of ((row . x - value) / value)^2: what is fitted spans orders of magnitude."""
    used = list(range(len(rows[0])))
    while True:
        scaled = [[row[i] / value for i in used] for row, value in zip(rows, values)]
        x = solve([[sum(r[i] * r[j] for r in scaled) for j in range(len(used))] for i in range(len(used))],
                  [sum(r[i] for r in scaled) for i in range(len(used))])
        negative = [i for i, value in zip(used, x) if value < 0]
        if not negative:
            return [x[used.index(i)] if i in used else 0.0 for i in range(len(rows[0]))]
        used.remove(negative[0])


def solve(matrix, right):
    """Gauss's elimination with pivots."""
    n = len(right)
    rows = [list(row) + [value] for row, value in zip(matrix, right)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def all_reduce_terms(ranks, num_bytes):
    """Steps of latency, and bytes through each rank's link, of a ring or a halving."""
    return [2 * math.log2(ranks), 2 * (ranks - 1) / ranks * num_bytes]


def broadcast_terms(ranks, num_bytes):
    return [math.log2(ranks), num_bytes]


def crowding(ranks, cores):
    """Ranks that share a core take turns."""
    return max(1.0, ranks / cores)


class Fit:
    """seconds of a step = crowding * (a * passes of the busiest rank + b) + collectives + noise + ledger, with

    collectives = sum + broadcast + small ones, each of them latency * hops + seconds per byte * bytes, times crowding."""

    def __init__(self, measured):
        self.cores = measured["cores"]
        lines = [line for line in measured["collectives"] if line["ranks"] != HELD_OUT_RANKS]

        def fitted(key, terms):
            rows = [[crowding(line["ranks"], self.cores) * term for term in terms(line["ranks"], line["bytes"])] for line in lines]
            return least_squares(rows, [line[key] for line in lines])

        self.all_reduce = fitted("all_reduce_s", all_reduce_terms)
        self.broadcast = fitted("broadcast_s", broadcast_terms)
        runs = [run for run in measured["runs"] if (run["ranks"], run["batch"]) != HELD_OUT_RUN]
        self.calls = max(run["calls"] for run in runs)
        self.noise = sum(run["noise"] for run in runs) / len(runs)
        self.ledger = sum(run["ledger"] for run in runs) / len(runs)
        rows = [[crowding(run["ranks"], self.cores) * run["batch"] * run["draws"] / run["ranks"], crowding(run["ranks"], self.cores)] for run in runs]
        rest = [run["step"] - self.moving(run["ranks"], run["elements"]) - self.noise - self.ledger for run in runs]
        self.per_pass, self.per_step = least_squares(rows, rest)

    def seconds_of(self, collective, terms, ranks, num_bytes):
        return crowding(ranks, self.cores) * sum(x * term for x, term in zip(collective, terms(ranks, num_bytes)))

    def moving(self, ranks, elements):
        if ranks == 1:
            return 0.0
        small = self.seconds_of(self.broadcast, broadcast_terms, ranks, 4)
        # In scaling_run the ranks meet before each collective, which is one more small one.
        return (self.seconds_of(self.all_reduce, all_reduce_terms, ranks, 4 * elements) +
                self.seconds_of(self.broadcast, broadcast_terms, ranks, 4 * elements) + (2 * self.calls - 2) * small)

    def step(self, run):
        passes = run["batch"] * run["draws"] / run["ranks"]
        return (crowding(run["ranks"], self.cores) * (self.per_pass * passes + self.per_step) + self.moving(run["ranks"], run["elements"]) + self.noise +
                self.ledger)


def print_fit(measured):
    fit = Fit(measured)
    print(f"\n{measured['place']}:\n")
    print("| fitted | value |")
    print("| --- | --- |")
    for name, (latency, per_byte) in (("all-reduce", fit.all_reduce), ("broadcast", fit.broadcast)):
        print(f"| {name} | {1e6 * latency:.0f} us a hop, {1e9 * per_byte:.2f} ns a byte ({1e-9 / per_byte:.2f} GB/s) |")
    print(f"| one pass of one record through the network and back | {1000 * fit.per_pass:.2f} ms |")
    print(f"| what each step costs every rank besides | {1000 * fit.per_step:.1f} ms |")
    print(f"| noise, ledger (measured) | {1000 * fit.noise:.1f}, {1000 * fit.ledger:.1f} ms |")
    print(f"| collectives in a step (counted) | {fit.calls:.0f} |")
    print("\n| | measured, ms | model, ms | model / measured |")
    print("| --- | --- | --- | --- |")
    for line in measured["collectives"]:
        if line["ranks"] == HELD_OUT_RANKS and line["bytes"] > 4:
            for what, key, collective, terms in (("all-reduce", "all_reduce_s", fit.all_reduce, all_reduce_terms),
                                                 ("broadcast", "broadcast_s", fit.broadcast, broadcast_terms)):
                model = fit.seconds_of(collective, terms, line["ranks"], line["bytes"])
                print(f"| held out: {what} of {line['bytes']} bytes, {line['ranks']} ranks | {1000 * line[key]:.2f} | {1000 * model:.2f} | "
                      f"{model / line[key]:.2f} |")
    for run in measured["runs"]:
        held_out = "held out: " if (run["ranks"], run["batch"]) == HELD_OUT_RUN else ""
        model = fit.step(run)
        print(f"| {held_out}a step, {run['ranks']} ranks, batch {run['batch']} | {1000 * run['step']:.1f} | {1000 * model:.1f} | {model / run['step']:.2f} |")
    return fit


# Extrapolating.


def most_of_poisson(mean, ranks):
    """The expected number of records of the busiest rank, each having Poisson(mean): Gaussian tail, good to a record or so."""
    if ranks == 1:
        return mean
    return mean + math.sqrt(mean) * math.sqrt(2 * math.log(ranks))


def step_on_gpus(setting, gpus, sharding, calls):
    """Seconds of computing, of moving data, and of what rank 0 does alone with noise from its cores and from its device."""
    parameters, batch, draws, multiply_adds = setting
    # Forward, the gradient of activations, and norms and weighted sums: three times a forward pass, two operations each.
    per_record = draws * 3 * 2 * multiply_adds / GPU_FLOPS
    records = math.ceil(batch / gpus) if sharding == "balanced" else most_of_poisson(batch / gpus, gpus)
    compute = records * per_record
    moving = 0.0
    if gpus > 1:
        bandwidth = NVLINK_BYTES if gpus <= GPUS_PER_NODE else NETWORK_BYTES
        seconds = [HOP_SECONDS, 1 / bandwidth]
        small = sum(x * term for x, term in zip(seconds, broadcast_terms(gpus, 4)))
        moving = (sum(x * term for x, term in zip(seconds, all_reduce_terms(gpus, 4 * parameters))) +
                  sum(x * term for x, term in zip(seconds, broadcast_terms(gpus, 4 * parameters))) + (calls - 2) * small)
    on_cores = parameters / (NOISE_PER_SECOND * NOISE_THREADS) + CHARGE_SECONDS
    on_device = parameters / DEVICE_NOISE_PER_SECOND + CHARGE_SECONDS
    return compute, moving, on_cores, on_device


def print_model(calls):
    print("\n| setting | GPUs | sharding | computing, ms | moving, ms | rank 0 alone, ms: noise on 16 cores, on its GPU | efficiency |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, setting in SETTINGS.items():
        compute, _, *alone_of_one = step_on_gpus(setting, 1, "balanced", calls)
        for gpus in (1, 8, 64, 512):
            for sharding in ("static", "balanced"):
                if gpus == 1 and sharding == "static":
                    continue
                busy, moving, *alone = step_on_gpus(setting, gpus, sharding, calls)
                efficiency = [100 * (compute + of_one) / gpus / (busy + moving + mine) for of_one, mine in zip(alone_of_one, alone)]
                print(f"| {name} | {gpus} | {sharding} | {1000 * busy:.1f} | {1000 * moving:.1f} | {1000 * alone[0]:.0f}, {1000 * alone[1]:.0f} | "
                      f"{efficiency[0]:.0f} %, {efficiency[1]:.0f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path)
    parser.add_argument("--place", choices=("machine", "namespaces"), default="machine")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--model", type=Path, nargs="+")
    options = parser.parse_args()
    if options.model:
        every = [json.loads(path.read_text()) for path in options.model]
        fits = [print_fit(measured) for measured in every]
        print_model(fits[-1].calls)
        return 0
    if options.build is None:
        parser.error("--build or --model is missing")
    measured = measure(options.build.resolve(), Namespaces if options.place == "namespaces" else lambda _: Machine())
    if options.save:
        options.save.write_text(json.dumps(measured, indent=1) + "\n")
    print_measurements(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
