"""Passes networks between this program and Python's diffusers, both ways, and compares what they compute.

    python tests/parity/diffusers_roundtrip.py --build build [--model RUN_DIR/model ...]

Run by hand, in an environment with torch, diffusers and safetensors (last run with diffusers 0.42, torch 2.11).

  - small random networks: diffusers save_pretrained -> `dpldm probe` gives diffusers' output, norms and clipped sum;
  - the same, rewritten by us -> diffusers loads them with no missing and no unexpected keys, bit-identical weights and
    the same output;
  - with --model: the U-Net (and the autoencoder) of a model that this program trained -> the same.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent.parent / "golden"))
from make_network_goldens import AUTOENCODERS, UNETS, autoencoder_of, unet_of  # noqa: E402

OUTPUT_TOLERANCE = 1e-5
# Against gradients in float64. Measured: norms 1.5e-7; the worst tensor of a clipped sum 1e-5 in random networks, and 1.3e-4
# in a trained one, where terms of the first layers cancel.
NORM_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 5e-4
# What the labels of a class-conditional network turn into in diffusers is kept under a key that diffusers ignores.
OUR_KEYS = {"_class_name", "_diffusers_version", "_num_class_labels", "_name_or_path", "_use_default_values"}

failures = 0


def check(what, good, detail=""):
    global failures
    failures += not good
    print(f"{'ok    ' if good else 'FAILED'} {what} {detail}")


def relative_error(value, reference):
    return ((value - reference).norm() / reference.norm().clamp_min(1e-12)).item()


def load_strictly(cls, folder):
    network, info = cls.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    clean = not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    check(f"{folder.parent.name}/{folder.name}: diffusers finds exactly its keys", clean, "" if clean else str(info))
    return network


def same_config(name, ours, theirs):
    different = {k: (ours.get(k), v) for k, v in theirs.items()
                 if k not in OUR_KEYS and _plain(ours.get(k)) != _plain(v)}
    check(f"{name}: configuration is unchanged", not different, str(different) if different else "")


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def inputs_for(network, records=3):
    config = network.config
    inputs = {
        "sample": torch.randn(records, config.in_channels, 7, 10),
        "timestep": torch.tensor([3, 441, 998])[:records],
        "target": torch.randn(records, config.out_channels, 7, 10),
    }
    width = config.encoder_hid_dim or config.cross_attention_dim
    if config.encoder_hid_dim and not network.encoder_hid_proj.bias.any():
        inputs["class_labels"] = torch.randint(0, width, (records,))
        context = torch.nn.functional.one_hot(inputs["class_labels"], width).float().unsqueeze(1)
    else:
        context = inputs["encoder_hidden_states"] = torch.randn(records, 5, width)
    return inputs, context


def per_record_gradients(network, inputs, context, names):
    """Each record's gradient on its own, by ordinary backward passes in float64."""
    network = copy.deepcopy(network).double()
    inputs = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
    context = context.double()
    parameters = dict(network.named_parameters())
    rows = []
    for b in range(inputs["sample"].shape[0]):
        output = network(inputs["sample"][b:b + 1], inputs["timestep"][b:b + 1], context[b:b + 1]).sample
        loss = (output - inputs["target"][b:b + 1]).square().mean()
        gradients = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        rows.append([torch.zeros_like(parameters[n]) if g is None else g for n, g in zip(names, gradients)])
    return rows


def check_probe(dpldm, name, network, folder, scratch):
    inputs, context = inputs_for(network)
    save_file(inputs, scratch / "inputs.safetensors", {"format": "pt"})

    def probe(trainable, clip_norm):
        subprocess.run([dpldm, "probe", "--model", folder, "--inputs", scratch / "inputs.safetensors", "--trainable",
                        trainable, "--clip-norm", str(clip_norm), "-o", scratch / "outputs.safetensors"], check=True)
        return load_file(scratch / "outputs.safetensors")

    for trainable in ("attention", "all"):
        # Some records are clipped and others are not.
        clip_norm = probe(trainable, 1.0)["norms"].mean().item()
        ours = probe(trainable, clip_norm)
        names = [n.removeprefix("sum.") for n in ours if n.startswith("sum.")]
        output = network(inputs["sample"], inputs["timestep"], context).sample.detach()
        error = relative_error(ours["output"], output)
        check(f"{name}, {trainable}: output of dpldm probe", error < OUTPUT_TOLERANCE, f"{error:.1e}")
        rows = per_record_gradients(network, inputs, context, names)
        norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in rows])
        error = ((ours["norms"] - norms).abs() / norms).max().item()
        check(f"{name}, {trainable}: norms", error < NORM_TOLERANCE, f"{error:.1e}")
        factors = (clip_norm / norms).clamp_max(1)
        total = [sum(f * row[i] for f, row in zip(factors, rows)) for i in range(len(names))]
        largest = max(t.norm() for t in total)
        error = max(relative_error(ours["sum." + n], t) for n, t in zip(names, total) if t.norm() > 1e-6 * largest)
        check(f"{name}, {trainable}: clipped sum, clipped {int((factors < 1).sum())} of {len(factors)}",
              error < GRADIENT_TOLERANCE, f"{error:.1e}")


def check_rewritten(rewrite, name, cls, network, folder, scratch, run):
    rewritten = scratch / "rewritten" / name
    rewritten.parent.mkdir(exist_ok=True)
    subprocess.run([rewrite, folder, rewritten], check=True)
    again = load_strictly(cls, rewritten)
    theirs, ours = network.state_dict(), again.state_dict()
    check(f"{name}: weights are bit-identical", all(torch.equal(theirs[k], ours[k]) for k in theirs))
    same_config(name, again.config, network.config)
    check(f"{name}: output is unchanged", torch.equal(run(network), run(again)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", type=Path, default=Path("build"))
    arguments.add_argument("--model", type=Path, action="append", default=[])
    arguments = arguments.parse_args()
    dpldm = arguments.build / "bin" / "dpldm"
    rewrite = arguments.build / "tests" / "rewrite_model"
    torch.manual_seed(3)

    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, case in UNETS.items():
            network = unet_of(name, case).eval()
            network.save_pretrained(scratch / name)
            check_probe(dpldm, name, network, scratch / name, scratch)
            inputs, context = inputs_for(network)
            run = lambda n: n(inputs["sample"], inputs["timestep"], context).sample  # noqa: E731
            check_rewritten(rewrite, name, UNet2DConditionModel, network, scratch / name, scratch, run)
        for name, case in AUTOENCODERS.items():
            network = autoencoder_of(name, case).eval()
            network.save_pretrained(scratch / name)
            images = torch.randn(2, *case["size"])
            run = lambda n: n.decode(n.encode(images).latent_dist.mean).sample  # noqa: E731
            check_rewritten(rewrite, name, AutoencoderKL, network, scratch / name, scratch, run)
        for model in arguments.model:
            network = load_strictly(UNet2DConditionModel, model / "unet").eval()
            check_probe(dpldm, str(model), network, model, scratch)
            if (model / "vae").exists():
                load_strictly(AutoencoderKL, model / "vae")

    print("all is equal" if failures == 0 else f"{failures} comparisons failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
