#!/usr/bin/env python3
"""Writes synthetic checkpoints in the original form beside itself, with what the original formulas (original_layout.py) answer.

    NAME.yaml               as latent-diffusion's configs
    NAME.ckpt.gz            a Lightning checkpoint: state_dict, callbacks, optimiser states; gzipped, since the weights are mostly zeros
    NAME.safetensors        inputs and outputs

Needs torch, transformers, PyYAML, numpy and safetensors (made with torch 2.11 and transformers 5.23). The weights are sparse and of few
values, so that files are small; the widths are the least that the original's 32 groups allow.
"""

import gzip
import io
import pathlib
import sys
import types
from collections import OrderedDict

import numpy
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import original_layout as layout

HERE = pathlib.Path(__file__).parent
UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"


class FrozenCLIPEmbedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = CLIPTextModel(CLIPTextConfig(vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                                        num_attention_heads=1, max_position_embeddings=7, hidden_act="quick_gelu",
                                                        bos_token_id=38, eos_token_id=39))

    def forward(self, ids):
        return self.transformer(ids).last_hidden_state


class LatentDiffusion(nn.Module):
    """Holds the parts under the names that they have in a checkpoint."""

    def __init__(self, params):
        super().__init__()
        self.model = layout.Named()
        self.model.diffusion_model = layout.UNetModel(**params["unet_config"]["params"])
        if "first_stage_config" in params:
            self.first_stage_model = layout.FirstStage(params["first_stage_config"]["params"]["ddconfig"],
                                                       params["first_stage_config"]["params"]["embed_dim"],
                                                       params["first_stage_config"]["params"].get("n_embed"))
        condition = params["cond_stage_config"]
        if condition != "__is_unconditional__":
            kind = condition["target"].rsplit(".", 1)[1]
            classes = {"ClassEmbedder": layout.ClassEmbedder, "BERTEmbedder": layout.BERTEmbedder, "FrozenCLIPEmbedder": FrozenCLIPEmbedder,
                       "FrozenOpenCLIPEmbedder": layout.FrozenOpenCLIPEmbedder}
            self.cond_stage_model = classes[kind](**condition.get("params", {}))


def fill(module, generator):
    """Mostly zeros, else plus or minus one constant per tensor; scales of norms stay near one."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            rarity = 90 if p.numel() > 6000 else 20 if p.numel() > 2500 else 5
            signs = torch.randint(0, rarity if p.dim() > 1 else 14, p.shape, generator=generator)
            sparse = (signs == 0).float() - (signs == 1).float()
            if p.dim() < 2:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.25 * sparse)
            else:
                spread = (2 * max(1, p[0].numel()) / rarity) ** -0.5
                p.copy_(sparse * 2.0 ** torch.tensor(spread).log2().round().clamp(-6, 0))


def schedule_buffers(params):
    n = params.get("timesteps", 1000)
    betas = numpy.linspace(params["linear_start"] ** 0.5, params["linear_end"] ** 0.5, n, dtype=numpy.float64) ** 2
    alphas = numpy.cumprod(1 - betas)
    as_float = lambda a: torch.tensor(a, dtype=torch.float32)
    return {"betas": as_float(betas), "alphas_cumprod": as_float(alphas), "alphas_cumprod_prev": as_float(numpy.append(1.0, alphas[:-1])),
            "sqrt_alphas_cumprod": as_float(alphas**0.5), "logvar": torch.zeros(n)}


def lightning_module():
    """Classes that the reader does not have and must not look for."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    class ModelCheckpoint:
        def __init__(self):
            self.best_model_path = "logs/best.ckpt"
            self.score = numpy.float64(0.5)
    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[module.__name__] = module
    return ModelCheckpoint


MODEL_CHECKPOINT = lightning_module()


def lightning(state):
    first = next(iter(state.values()))
    return {"epoch": 3, "global_step": 1234, "pytorch-lightning_version": "1.4.2", "state_dict": OrderedDict(state),
            "callbacks": {MODEL_CHECKPOINT: {"monitor": "val/loss", "best_model_score": torch.tensor(0.25), "object": MODEL_CHECKPOINT()}},
            "optimizer_states": [{"state": {0: {"step": 1234, "exp_avg": first * 0.5}}, "param_groups": [{"lr": 1e-6, "params": [0]}]}],
            "lr_schedulers": [], "hyper": {"slice": slice(0, 3), "set": {1, 2}, "path": pathlib.PurePosixPath("a/b"), "big": 1 << 80}}


def write_checkpoint(name, state, zip_archive):
    raw = io.BytesIO()
    torch.save(lightning(state), raw, _use_new_zipfile_serialization=zip_archive)
    with open(HERE / f"{name}.ckpt.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9, mtime=0, filename="") as out:
        out.write(raw.getvalue())


def ema_of(model):
    """LitEma's buffers for the attention modules alone: the others were frozen when it was built."""
    averaged = {}
    for name, p in model.model.named_parameters():
        if ".qkv." in name or ".proj_out." in name:
            averaged["model_ema." + name.replace(".", "")] = p.detach() * 0.5
    return averaged


def make(name, params, zip_archive=True, scale_buffer=None, ema=False):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    model = LatentDiffusion(params).eval()
    fill(model, generator)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if scale_buffer:
        state["scale_factor"] = torch.tensor(scale_buffer)
    state.update(schedule_buffers(params))
    if ema:
        averages = ema_of(model)
        state.update(averages)
        state["model_ema.decay"], state["model_ema.num_updates"] = torch.tensor(0.9999), torch.tensor(100, dtype=torch.int32)
        with torch.no_grad():
            for key, p in model.model.named_parameters():
                p.copy_(averages.get("model_ema." + key.replace(".", ""), p))
    if isinstance(getattr(model, "cond_stage_model", None), FrozenCLIPEmbedder):
        # As transformers of that time had it: the inner module's name in front, and the positions as a buffer.
        state = {key.replace("transformer.", "transformer.text_model.", 1) if key.startswith("cond_stage_model.transformer.") and
                 "text_model" not in key else key: value for key, value in state.items()}
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(7)[None]
    write_checkpoint(name, state, zip_archive)
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    (HERE / f"{name}.yaml").write_text(yaml.dump({"model": {"base_learning_rate": 5e-7, "target": target, "params": params}}, sort_keys=False))
    save_file({key: value.contiguous() for key, value in answers(model, params, generator).items()}, HERE / f"{name}.safetensors",
              metadata={"format": "pt"})


@torch.no_grad()
def answers(model, params, generator):
    result = {}
    unet = params["unet_config"]["params"]
    sample = torch.randn((2, unet["in_channels"], 8, 4), generator=generator)
    timestep = torch.tensor([7, 801])
    context = None
    if hasattr(model, "cond_stage_model"):
        if isinstance(model.cond_stage_model, layout.ClassEmbedder):
            condition = torch.tensor([0, 3])
            result["labels"] = condition
        else:
            condition = torch.tensor([[38, 3, 5, 8, 39, 39, 39], [38, 11, 39, 39, 39, 39, 39]]) % 30
            result["ids"] = condition
        context = model.cond_stage_model(condition)
        result["context"] = context
    result.update({"sample": sample, "timestep": timestep, "output": model.model.diffusion_model(sample, timestep, context)})
    if hasattr(model, "first_stage_model"):
        size = params["first_stage_config"]["params"]["ddconfig"]["resolution"]
        image = torch.rand((1, 3, size, size), generator=generator) * 2 - 1
        moments = model.first_stage_model.encode(image)
        latent = moments[:, : params["first_stage_config"]["params"]["embed_dim"]].clone()
        result.update({"image": image, "moments": moments, "latent": latent, "decoded": model.first_stage_model.decode(latent)})
    return result


def store(name, state_dict):
    buffer = io.BytesIO()
    torch.save({"state_dict": state_dict}, buffer)
    (HERE / f"{name}.ckpt.gz").write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def unet(**params):
    return {"target": UNET, "params": {"image_size": 8, "in_channels": 3, "out_channels": 3, "model_channels": 32, "num_res_blocks": 1, **params}}


def first_stage(kind, **dd):
    ddconfig = {"double_z": kind == "AutoencoderKL", "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1],
                "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, **dd}
    params = {"embed_dim": 3, "ddconfig": ddconfig, "lossconfig": {"target": "torch.nn.Identity"}}
    if kind != "AutoencoderKL":
        params["n_embed"] = 16
    return {"target": f"ldm.models.autoencoder.{kind}", "params": params}


def condition(kind, **params):
    return {"target": f"ldm.modules.encoders.modules.{kind}", "params": params}


def main():
    wide = {"linear_start": 0.0015, "linear_end": 0.0195, "num_timesteps_cond": 1, "timesteps": 1000, "image_size": 8, "channels": 3}
    stable = {**wide, "linear_start": 0.00085, "linear_end": 0.012}
    # DP-LDM's CelebA: attention blocks, heads by number, resnets that resample, scale and shift; the factor measured in training; EMA.
    make("attention_blocks", {**wide, "scale_by_std": True, "cond_stage_config": "__is_unconditional__",
                              "unet_config": unet(channel_mult=[1, 2], attention_resolutions=[2], num_heads=2, use_scale_shift_norm=True,
                                                  resblock_updown=True),
                              "first_stage_config": first_stage("AutoencoderKL", attn_resolutions=[8])},
         scale_buffer=0.75, ema=True)
    # The same with qkv in the new order, and heads by width.
    make("new_order", {**wide, "cond_stage_config": "__is_unconditional__",
                       "unet_config": unet(channel_mult=[1], attention_resolutions=[1], num_head_channels=16, use_new_attention_order=True)},
         zip_archive=False)
    # cin256: transformers over a class embedding, VQ.
    make("class_table", {**wide, "conditioning_key": "crossattn", "cond_stage_config": condition("ClassEmbedder", n_classes=5, embed_dim=16, key="class_label"),
                         "unet_config": unet(channel_mult=[1, 1], attention_resolutions=[1], num_heads=1, use_spatial_transformer=True,
                                             context_dim=16, transformer_depth=1),
                         "first_stage_config": first_stage("VQModelInterface")}, zip_archive=False)
    # DP-LDM's EMNIST: transformers and resnets that resample, which diffusers cannot say.
    make("emnist", {**wide, "conditioning_key": "crossattn", "cond_stage_config": condition("ClassEmbedder", n_classes=4, embed_dim=5),
                    "unet_config": unet(channel_mult=[1, 1], attention_resolutions=[1, 2], num_heads=2, use_spatial_transformer=True,
                                        context_dim=5, use_scale_shift_norm=True, resblock_updown=True)})
    # text2img-large, Stable Diffusion 1 and 2: the text encoders.
    make("bert", {**stable, "scale_factor": 0.18215, "conditioning_key": "crossattn", "cond_stage_trainable": True,
                  "cond_stage_config": condition("BERTEmbedder", n_embed=24, n_layer=2, vocab_size=30, max_seq_len=7),
                  "unet_config": unet(channel_mult=[1], attention_resolutions=[1], num_heads=4, use_spatial_transformer=True, context_dim=24)})
    make("clip", {**stable, "scale_factor": 0.18215, "conditioning_key": "crossattn",
                  "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
                  "unet_config": unet(channel_mult=[1], attention_resolutions=[1], num_heads=8, use_spatial_transformer=True, context_dim=64, legacy=False)})
    make("open_clip", {**stable, "scale_factor": 0.18215, "conditioning_key": "crossattn", "parameterization": "v",
                       "cond_stage_config": condition("FrozenOpenCLIPEmbedder", freeze=True, layer="penultimate"),
                       "unet_config": unet(channel_mult=[1], attention_resolutions=[1], num_head_channels=16, use_spatial_transformer=True,
                                           use_linear_in_transformer=True, context_dim=64, legacy=False)})
    # Checkpoints that are refused before any network is read.
    store("three_factors", {"scale_factor": torch.tensor([1.0, 2.0, 3.0])})
    store("expanded", {"scale_factor": torch.ones(1).expand(3)})
    shared = torch.zeros(64)
    store("shared", {f"first_stage_model.{i}": shared for i in range(5)})


if __name__ == "__main__":
    main()
