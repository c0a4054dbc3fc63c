#!/usr/bin/env python3
"""Times `dpldm privacy epsilon` beside Google's dp_accounting on the same twenty settings, process start included.

Both answer with the PLD accountant, one process per question, in turn, so that both see the same machine. Prints each
setting, the medians and their ratio, then what this program needs for the two long questions: PLD for 10,000 steps and a
calibration. Needs a Python with dp_accounting, and the built program:

    python tests/perf/accounting_compare.py --dpldm build/bin/dpldm
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

SETTINGS = [  # rate, noise multiplier, steps, delta
    (0.01, 1.0, 1000, 1e-5), (0.01, 1.0, 100, 1e-5), (0.01, 1.0, 10000, 1e-5), (0.01, 0.5, 1000, 1e-5),
    (0.04, 1.5, 2250, 1e-5), (0.04, 1.5, 2249, 1e-5), (0.001, 0.6, 10000, 1e-6), (0.001, 1.0, 10000, 1e-6),
    (256 / 50000, 0.8, 5000, 1e-5), (4096 / 50000, 2.0, 1000, 1e-5), (0.1, 3.0, 512, 1e-6), (0.02, 4.0, 2000, 1e-5),
    (0.5, 10.0, 200, 1e-6), (1.0, 10.0, 100, 1e-5), (150 / 60000, 1.3, 6000, 1e-5), (0.2, 2.0, 100, 1e-6),
    (0.005, 0.7, 20000, 1e-6), (8192 / 162770, 1.5, 1000, 1e-6), (0.002, 1.1, 50000, 1e-7), (0.3, 5.0, 300, 1e-5),
]

REFERENCE = """
import sys
import dp_accounting
from dp_accounting import pld
rate, noise, steps, delta = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
print(accountant.get_epsilon(delta))
"""


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(command):
    """(wall seconds, processor seconds), output. The latter mean something on a busy machine too."""
    start, cpu_start = time.perf_counter(), cpu_seconds()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return (time.perf_counter() - start, cpu_seconds() - cpu_start), output


def medians(times):
    return tuple(statistics.median(column) for column in zip(*times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dpldm", default="build/bin/dpldm", help="the built program")
    parser.add_argument("--python", default=sys.executable, help="a Python that has dp_accounting")
    options = parser.parse_args()

    ours, theirs, worst = [], [], 0.0
    print(f"{'rate':>9} {'sigma':>6} {'steps':>6} {'delta':>7} {'epsilon':>11} {'reference':>11} {'ours s':>8} {'theirs s':>9}   (wall)")
    for rate, noise, steps, delta in SETTINGS:
        seconds, output = timed([options.dpldm, "privacy", "epsilon", "--sampling-rate", repr(rate), "--noise-multiplier",
                                 repr(noise), "--steps", str(steps), "--delta", repr(delta), "--json"])
        reference_seconds, reference_output = timed([options.python, "-c", REFERENCE, repr(rate), repr(noise), str(steps),
                                                     repr(delta)])
        epsilon, reference = json.loads(output)["epsilon"], float(reference_output)
        ours.append(seconds)
        theirs.append(reference_seconds)
        worst = max(worst, abs(epsilon / reference - 1))
        print(f"{rate:9.6f} {noise:6.2f} {steps:6d} {delta:7.0e} {epsilon:11.6f} {reference:11.6f} {seconds[0]:8.3f} "
              f"{reference_seconds[0]:9.3f}")
    for name, mine, other in zip(("wall", "processor"), medians(ours), medians(theirs)):
        print(f"median {name} time: dpldm {mine:.3f} s, dp_accounting {other:.3f} s, {other / mine:.1f} times faster")
    print(f"largest relative difference in epsilon: {worst:.1e}")

    long_run, _ = timed([options.dpldm, "privacy", "epsilon", "--sampling-rate", "0.01", "--noise-multiplier", "1",
                         "--steps", "10000", "--delta", "1e-5"])
    calibration, _ = timed([options.dpldm, "privacy", "calibrate", "--sampling-rate", "0.01", "--steps", "10000",
                            "--epsilon", "5", "--delta", "1e-5"])
    for name, (wall, processor), limit in (("PLD for 10,000 steps", long_run, 1), ("calibration", calibration, 10)):
        print(f"{name}: {wall:.3f} s, {processor:.3f} s of them on the processor; the limit is {limit} s")


if __name__ == "__main__":
    main()
