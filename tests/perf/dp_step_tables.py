#!/usr/bin/env python3
"""The tables of docs/benchmarks/dp_engine.md: runs perf_dp_step over networks, trained sets, threads and micro-batches.

  python tests/perf/dp_step_tables.py time    [--networks quickstart,cifar10,transformer320] [--threads 1,2]
                                              [--batches 8,32] [--precision bf16|fp32] [--clock wall|cpu]
  python tests/perf/dp_step_tables.py memory  ...   peak of the private step over that of the ordinary one
  python tests/perf/dp_step_tables.py records ...   cost and memory of logical steps of 1 to 256 records
  python tests/perf/dp_step_tables.py micro   ...   cost and memory of one micro-batch of 1 to 256 records

Times are medians of rounds in which the two steps take turns. Prints Markdown.
"""
import argparse
import itertools
import json
import subprocess
import sys

SETS = ("attention", "attention-core")
RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def run(args, network, batch, **options):
    settings = {"network": network, "batch": batch, "precision": args.precision, "clock": args.clock, **options}
    command = [args.binary, "--json", *(f"--{key}={value}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def rounds_for(network, batch):
    return 15 if network == "quickstart" else 5 if batch <= 8 else 3


def table(columns, rows):
    for row in itertools.chain((columns, ["---"] * len(columns)), rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def times(args):
    cases = [(threads, batch) for threads in args.threads for batch in args.batches]
    names = [f"{threads} thread{'s' * (threads > 1)}, {batch}" for threads, batch in cases]

    def row(network, trained):
        cells = [f"{network}, `{trained}`"]
        for threads, batch in cases:
            result = run(args, network, batch, set=trained, threads=threads, rounds=rounds_for(network, batch))
            cells.append(f"{result['ratio']:.2f} ({result['private_records_per_second']:.4g}/s)")
        return cells

    table(["private over ordinary (private records/s)", *names], (row(n, s) for n in args.networks for s in SETS))


def memory(args):
    # The allocator's memory grows over the first passes; rounds enough for it to have stopped.
    def row(network, trained):
        cells = [f"{network}, `{trained}`"]
        for batch in args.batches:
            peak = {
                only: run(args, network, batch, set=trained, only=only, rounds=6)["peak_megabytes"]
                for only in ("ordinary", "private")
            }
            cells.append(f"{peak['private'] / peak['ordinary']:.3f} ({peak['private']:.0f} MB)")
        return cells

    table(["peak of private over ordinary (private)", *map(str, args.batches)], (row(n, s) for n in args.networks for s in SETS))


def records(args):
    for network in args.networks:
        for batch in args.batches:
            results = [
                run(args, network, batch, records=count, only="private", threads=args.threads[0], rounds=rounds_for(network, count))
                for count in RECORDS
            ]
            print(f"\n{network}, micro-batches of {batch}\n")
            per_record = results[-1]["private_seconds"] / RECORDS[-1]
            table(
                ["records in the step", "ms", "over a straight line to 256", "peak MB"],
                (
                    [
                        count,
                        f"{1e3 * result['private_seconds']:.1f}",
                        # Micro-batches are padded, so the line is one of places.
                        f"{result['private_seconds'] / (per_record * -(-count // batch) * batch):.3f}",
                        f"{result['peak_megabytes']:.0f}",
                    ]
                    for count, result in zip(RECORDS, results)
                ),
            )


def micro_batches(args):
    for network in args.networks:
        print(f"\n{network}, a step of one micro-batch\n")
        rows = []
        for count in RECORDS:
            sides = {only: run(args, network, count, only=only, threads=args.threads[0], rounds=5) for only in ("ordinary", "private")}
            private, ordinary = sides["private"], sides["ordinary"]
            rows.append(
                [
                    count,
                    f"{1e3 * private['private_seconds']:.0f}",
                    f"{1e3 * private['private_seconds'] / count:.2f}",
                    f"{private['private_seconds'] / ordinary['ordinary_seconds']:.2f}",
                    f"{private['peak_megabytes']:.0f}",
                    f"{private['peak_megabytes'] / ordinary['peak_megabytes']:.2f}",
                ]
            )
        table(["records", "ms", "ms for each record", "over an ordinary step", "peak MB", "over an ordinary peak"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("time", "memory", "records", "micro"))
    parser.add_argument("--networks", default="quickstart,cifar10,transformer320", type=lambda text: text.split(","))
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--batches", default="8,32", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--binary", default="build/tests/perf_dp_step")
    args = parser.parse_args()
    {"time": times, "memory": memory, "records": records, "micro": micro_batches}[args.table](args)


if __name__ == "__main__":
    main()
