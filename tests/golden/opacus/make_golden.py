#!/usr/bin/env python3
"""Per-record gradients of a U-Net with attention blocks by Opacus 1.6, clipped and added up.

The network, inputs and target are those of ../unet/tokens; a record's loss is its mean squared error. Written to
golden.safetensors, for the trained sets "attention" (everything under *.attentions.*) and "all":

  <set>.norms              [records]
  <set>.clip_norm          []
  <set>.sum_norm.<name>    []  norm of the parameter's part of the clipped sum, in units of the clip norm
  attention.sum.<name>     the part itself

  python make_golden.py     needs torch 2.11, diffusers 0.42, opacus 1.6, safetensors
"""
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from opacus import GradSampleModule
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
NETWORK = HERE.parent / "unet" / "tokens"


def per_record_gradients(selected):
    network = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(NETWORK))
    network.load_state_dict(load_file(NETWORK / "diffusion_pytorch_model.safetensors"))
    # Products one by one: the fused attention has no parameters, but its backward pass rounds differently.
    network.set_attn_processor(AttnProcessor())
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(selected(name))
    wrapped = GradSampleModule(network.double(), loss_reduction="sum")
    inputs = load_file(NETWORK / "golden.safetensors")
    output = wrapped(inputs["sample"].double(), inputs["timestep"], inputs["encoder_hidden_states"].double()).sample
    (output - inputs["target"].double()).square().mean((1, 2, 3)).sum().backward()
    return {n: p.grad_sample for n, p in network.named_parameters() if p.requires_grad}


def main():
    golden = {}
    for label, selected in (("attention", lambda n: ".attentions." in n), ("all", lambda n: True)):
        gradients = per_record_gradients(selected)
        squared = sum(g.flatten(1).square().sum(1) for g in gradients.values())
        norms = squared.sqrt()
        clip_norm = norms.median()  # some records are clipped, some are not
        factors = torch.minimum(1 / clip_norm, 1 / norms)
        golden[f"{label}.norms"] = norms.float()
        golden[f"{label}.clip_norm"] = clip_norm.float()
        for name, gradient in gradients.items():
            total = torch.einsum("r,r...->...", factors, gradient)
            golden[f"{label}.sum_norm.{name}"] = total.norm().float()
            if label == "attention":
                golden[f"attention.sum.{name}"] = total.float().contiguous()
        print(label, "norms", norms.tolist())
    save_file(golden, HERE / "golden.safetensors")


if __name__ == "__main__":
    main()
