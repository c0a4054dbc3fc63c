#!/usr/bin/env python3
"""The private step of dpldm against Opacus' two modes, in one run on one machine.

Network, weights, batch, trained set and precision are the same (losses and numbers of trained elements are compared); each side's ordinary step is measured
too. Each side is a process of its own, and its time the median of the rounds; with --clock cpu they are the process's own seconds, which a busy machine disturbs
less. A machine changes its speed within a minute, so the sides take turns --repeats times, every second turn in the opposite order. What counts is the median over
the turns of each turn's ratio; the least and the most stand beside it.

  python tests/perf/compare_opacus.py [--network quickstart|cifar10] [--batch 32] [--threads 1] [--precision fp32|bf16]
                                      [--rounds 7] [--repeats 5] [--clock wall|cpu] [--binary build/tests/perf_dp_step]

Needs torch 2.11, diffusers 0.42, opacus 1.6. Prints one JSON object.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file

NETWORKS = {
    "quickstart": {
        "sample_size": 7,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "cross_attention_dim": 64,
    },
    "cifar10": {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (128, 256, 256, 512),
        "cross_attention_dim": 512,
    },
}
DEAD = ("attn2.to_q", "attn2.to_k", ".norm2")  # without effect under a context of one token


def load_network(folder, dtype):
    network = UNet2DConditionModel.from_pretrained(folder / "unet").train()  # Opacus looks at training passes alone
    # Python gets the faster of its two: torch's fused attention has a slow backward pass in bf16 on the CPU, so there it is product,
    # softmax, product.
    if dtype == torch.bfloat16:
        network.set_attn_processor(AttnProcessor())
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(".attentions." in key and not any(dead in key for dead in DEAD))
    return network.to(dtype)


def load_batch(folder, dtype):
    inputs = load_file(folder / "batch.safetensors")
    return {name: tensor if name == "timestep" else tensor.to(dtype) for name, tensor in inputs.items()}


def write_workload(folder, name, batch):
    """One network and one batch for both sides."""
    torch.manual_seed(1)
    network = UNet2DConditionModel(**NETWORKS[name])
    # What starts at zero would keep gradients from what is before it.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network.save_pretrained(folder / "unet")
    config = NETWORKS[name]
    size, channels = config["sample_size"], config.get("in_channels", 4)
    inputs = {
        "sample": torch.randn(batch, channels, size, size),
        "timestep": torch.randint(0, 1000, (batch,)),
        "encoder_hidden_states": torch.randn(batch, 1, config["cross_attention_dim"]),
    }
    save_file(inputs, folder / "batch.safetensors")


def losses(network, inputs):
    return network(**inputs).sample.float().square().flatten(1).mean(1)


def ordinary_step(network, inputs):
    losses(network, inputs).sum().backward()
    for parameter in network.parameters():
        parameter.grad = None


def hooks_step(wrapped, inputs):
    losses(wrapped, inputs).sum().backward()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    norms = torch.stack([p.grad_sample.float().flatten(1).norm(2, 1) for p in trained]).norm(2, 0)
    factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
    for parameter in trained:
        parameter.summed_grad = torch.einsum("r,r...->...", factors.to(parameter.dtype), parameter.grad_sample)
        parameter.grad_sample = None
        parameter.grad = None


def ghost_step(wrapped, inputs):
    per_record = losses(wrapped, inputs)
    per_record.sum().backward(retain_graph=True)
    for parameter in wrapped.parameters():
        parameter.grad = None
    coefficients = wrapped.get_clipping_coef()
    wrapped.disable_hooks()
    (coefficients * per_record).sum().backward()
    wrapped.enable_hooks()
    for parameter in wrapped.parameters():
        parameter.grad = None


def rate(step, batch, rounds, clock):
    for _ in range(2):
        step()
    times = []
    for _ in range(rounds):
        start = clock()
        step()
        times.append(clock() - start)
    return batch / statistics.median(times)


def peak_megabytes():
    # getrusage would count what the process was before it became this program.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def measure(mode, args):
    """In a process of its own, so that peak memory is its own."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    warnings.simplefilter("ignore")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    network = load_network(args.given, dtype)
    inputs = load_batch(args.given, dtype)
    with torch.no_grad():
        loss = losses(network, inputs).sum().item()
    if mode == "ordinary":
        step = lambda: ordinary_step(network, inputs)
    elif mode == "hooks":
        from opacus import GradSampleModule

        wrapped = GradSampleModule(network, loss_reduction="sum")
        step = lambda: hooks_step(wrapped, inputs)
    else:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        wrapped = GradSampleModuleFastGradientClipping(network, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True)
        step = lambda: ghost_step(wrapped, inputs)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    return {
        "records_per_second": rate(step, args.batch, args.rounds, clock),
        "peak_megabytes": peak_megabytes(),
        "loss": loss,
        "trained_elements": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="quickstart")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--binary", default="build/tests/perf_dp_step")
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=("ordinary", "hooks", "ghost"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(measure(args.mode, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_workload(Path(folder), args.network, args.batch)
        compare(args, folder)


SIDES = ("python ordinary", "dpldm ordinary", "python hooks", "dpldm private", "python ghost")


def run_side(side, args, settings, environment):
    program, mode = side.split()
    command = [sys.executable, __file__, f"--mode={mode}"] if program == "python" else [args.binary, f"--only={mode}", "--json"]
    run = subprocess.run(command + settings, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{side} ended with {run.returncode}:\n{run.stderr}")
    result = json.loads(run.stdout if program == "dpldm" else run.stdout.splitlines()[-1])
    if program == "python":
        return result
    return {
        "records_per_second": result[f"{mode}_records_per_second"],
        "peak_megabytes": result["peak_megabytes"],
        "loss": result["loss_of_micro_batch"],
        "trained_elements": result["trained_elements"],
    }


def check_alike(turn, precision):
    losses_seen = [side["loss"] for side in turn.values()]
    if max(losses_seen) - min(losses_seen) > (1e-4 if precision == "fp32" else 3e-2) * abs(losses_seen[0]):
        sys.exit(f"the sides do not compute the same: losses {losses_seen}")
    trained = {side["trained_elements"] for side in turn.values()}
    if len(trained) > 1:
        sys.exit(f"the sides do not train the same: {trained} elements")


def ratios(turn):
    rate_of = {side: turn[side]["records_per_second"] for side in SIDES}
    return {
        "private over the better Opacus mode": rate_of["dpldm private"] / max(rate_of["python hooks"], rate_of["python ghost"]),
        "ordinary over Python's ordinary": rate_of["dpldm ordinary"] / rate_of["python ordinary"],
        "time of a private step over an ordinary one": rate_of["dpldm ordinary"] / rate_of["dpldm private"],
        "peak of private steps over ordinary ones": turn["dpldm private"]["peak_megabytes"] / turn["dpldm ordinary"]["peak_megabytes"],
    }


def over_turns(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "each": [round(value, 3) for value in values]}


def compare(args, folder):
    passed_on = ("network", "batch", "threads", "precision", "rounds", "clock")
    settings = [f"--{key}={getattr(args, key)}" for key in passed_on] + [f"--given={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    turns = []
    for repeat in range(args.repeats):
        order = SIDES if repeat % 2 == 0 else SIDES[::-1]
        turns.append({side: run_side(side, args, settings, environment) for side in order})
        check_alike(turns[-1], args.precision)
    result = {"settings": {key: getattr(args, key) for key in (*passed_on, "repeats")}}
    for side in SIDES:
        result[side] = {key: statistics.median(turn[side][key] for turn in turns) for key in turns[0][side]}
    for name in ratios(turns[0]):
        result[name] = over_turns([ratios(turn)[name] for turn in turns])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
