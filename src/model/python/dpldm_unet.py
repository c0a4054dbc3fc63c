"""DPLDMUNet2DModel: U-Nets of latent diffusion that no class of diffusers describes.

dpldm writes this file beside the weights of such a network. It builds the class of diffusers that comes closest, from the
same keys, and changes what that class cannot say: the heads of each level, and resnet blocks as samplers in levels where
diffusers only has convolutions.

    unet = DPLDMUNet2DModel.from_pretrained("MODEL/unet")
"""

import json
from pathlib import Path

import torch
from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file

BASES = {"UNet2DConditionModel": UNet2DConditionModel, "UNet2DModel": UNet2DModel}
OUR_KEYS = {"base_class", "num_heads", "downsample_type", "upsample_type"}


class TimedSampler(ResnetBlock2D):
    """A resnet block where a block of diffusers expects a sampler, which it does not tell the time."""

    time = None

    def forward(self, hidden_states, *_args, **_keywords):
        return super().forward(hidden_states, self.time)


def _resamples_by_resnet(kind, block):
    return kind == "resnet" or (kind == "resnet_with_attention" and hasattr(block, "attentions"))


def _replace_sampler(block, samplers, network, **direction):
    config = network.config
    channels = samplers[0].channels
    time_channels = network.time_embedding.linear_2.out_features
    if getattr(config, "class_embeddings_concat", False):
        time_channels *= 2
    samplers[0] = TimedSampler(
        in_channels=channels, out_channels=channels, temb_channels=time_channels, groups=config.norm_num_groups,
        eps=config.norm_eps, time_embedding_norm=config.resnet_time_scale_shift, **direction)

    def take_time(_block, arguments, keywords):
        # UNet2DModel hands it over as the third argument on the way up.
        samplers[0].time = keywords["temb"] if "temb" in keywords else arguments[-1]

    block.register_forward_pre_hook(take_time, with_kwargs=True)


def _set_heads(block, heads):
    for module in block.modules():
        if isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5


def _build(config):
    base = BASES[config["base_class"]]
    keys = {key: value for key, value in config.items() if key not in OUR_KEYS and not key.startswith("_")}
    heads = config["num_heads"] if isinstance(config["num_heads"], list) else [config["num_heads"]]
    if len(heads) == 1:
        heads = heads * len(config["block_out_channels"])
    # The key is the number of heads in one class and the width of a head, or null for one head, in the other.
    network = base(**keys, attention_head_dim=heads if base is UNet2DConditionModel else None)
    if base is UNet2DModel:
        for level, block in enumerate(network.down_blocks):
            _set_heads(block, heads[level])
        for level, block in enumerate(network.up_blocks):
            _set_heads(block, heads[-1 - level])
        if network.mid_block is not None:
            _set_heads(network.mid_block, heads[-1])
    for block in network.down_blocks:
        if block.downsamplers is not None and _resamples_by_resnet(config.get("downsample_type"), block):
            _replace_sampler(block, block.downsamplers, network, down=True)
    for block in network.up_blocks:
        if block.upsamplers is not None and _resamples_by_resnet(config.get("upsample_type"), block):
            _replace_sampler(block, block.upsamplers, network, up=True)
    return network


def _refuse_to_save(*_args, **_keywords):
    raise NotImplementedError("diffusers would store this U-Net as a class that it is not; keep the file that it came from")


class DPLDMUNet2DModel(ModelMixin):
    @classmethod
    def from_pretrained(cls, folder, torch_dtype=None, dtype=None, **_keywords):
        """The network of `folder`: an instance of the base class, changed. Every tensor must be there and have a place."""
        folder = Path(folder)
        network = _build(json.loads((folder / "config.json").read_text()))
        network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"), strict=True)
        network.save_pretrained = _refuse_to_save
        wanted = torch_dtype or dtype
        return (network.to(wanted) if isinstance(wanted, torch.dtype) else network).eval()
