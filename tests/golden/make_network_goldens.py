"""Makes tests/golden/{unet,autoencoder}/<case>: tiny random networks of diffusers, with inputs, outputs and gradients.

    python tests/golden/make_network_goldens.py

Needs torch, diffusers and safetensors (made with torch 2.11, diffusers 0.42). Each case is what `save_pretrained` writes,
plus golden.safetensors: the inputs, `output`, and `grad.<parameter>` of the loss that the C++ test computes too.
Norms have fewer groups than channels, their weights are random, heights differ from widths, and timesteps differ between
records: otherwise whole classes of mistakes leave no trace.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

HERE = Path(__file__).parent

UNETS = {
    # Two depths of transformer, two head counts, sizes that do not divide (9x6 -> 5x3), text tokens.
    "tokens": dict(
        config=dict(
            block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, cross_attention_dim=12,
            attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), norm_num_groups=4),
        size=(9, 6), context=(5, 12)),
    # Linear projections, a level without attention, one token, two layers per block.
    "one_token": dict(
        config=dict(
            block_out_channels=(8, 8, 16), down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=2,
            cross_attention_dim=12, attention_head_dim=2, use_linear_projection=True, norm_num_groups=4),
        size=(7, 10), context=(1, 12)),
    # Class labels as one-hot tokens through encoder_hid_proj, whose bias is zero.
    "class_labels": dict(
        config=dict(
            block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, cross_attention_dim=12,
            attention_head_dim=2, norm_num_groups=4, encoder_hid_dim=6, encoder_hid_dim_type="text_proj"),
        size=(7, 5), num_classes=6),
    # The other conventions of time and resampling, and a projection of text tokens.
    "conventions": dict(
        config=dict(
            block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=12,
            attention_head_dim=(2, 4), norm_num_groups=4, norm_eps=1e-4, resnet_time_scale_shift="scale_shift",
            downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, in_channels=3, out_channels=5,
            mid_block_type="UNetMidBlock2D", encoder_hid_dim=10, encoder_hid_dim_type="text_proj"),
        size=(8, 6), context=(3, 10)),
}

AUTOENCODERS = {
    "mid_attention": dict(
        config=dict(in_channels=1, out_channels=1, block_out_channels=(8, 16), latent_channels=3, norm_num_groups=4,
                    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                    layers_per_block=1, scaling_factor=0.5),
        size=(1, 12, 8)),
    "level_attention": dict(
        config=dict(in_channels=3, out_channels=3, block_out_channels=(8, 8, 16), latent_channels=4, norm_num_groups=4,
                    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
                    up_block_types=("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
                    layers_per_block=2, mid_block_add_attention=False),
        size=(3, 16, 8)),
}


def randomise_norms(network):
    for name, parameter in network.named_parameters():
        if "norm" in name:
            mean = 1.0 if name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.3)


def gradients(network):
    # A parameter without a gradient is one that the output does not depend on.
    return {f"grad.{n}": (p.grad if p.grad is not None else torch.zeros_like(p)) for n, p in network.named_parameters()}


def save(network, folder, tensors):
    network.save_pretrained(folder, safe_serialization=True)
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, folder / "golden.safetensors", {"format": "pt"})


def unet_of(name, case):
    torch.manual_seed(sum(map(ord, name)))
    network = UNet2DConditionModel(sample_size=8, **case["config"])
    randomise_norms(network)
    if "num_classes" in case:
        torch.nn.init.zeros_(network.encoder_hid_proj.bias)
    return network


def autoencoder_of(name, case):
    torch.manual_seed(sum(map(ord, name)))
    network = AutoencoderKL(**case["config"])
    randomise_norms(network)
    return network


def make_unet(name, case):
    network = unet_of(name, case)
    records = 3
    height, width = case["size"]
    tensors = {
        "sample": torch.randn(records, network.config.in_channels, height, width),
        "timestep": torch.tensor([3, 441, 998]),
        "target": torch.randn(records, network.config.out_channels, height, width),
    }
    if "num_classes" in case:
        tensors["class_labels"] = torch.tensor([4, 0, 5])
        context = torch.nn.functional.one_hot(tensors["class_labels"], case["num_classes"]).float().unsqueeze(1)
    else:
        context = tensors["encoder_hidden_states"] = torch.randn(records, *case["context"])
    output = network(tensors["sample"], tensors["timestep"], context).sample
    (output - tensors["target"]).square().mean(dim=(1, 2, 3)).sum().backward()
    save(network, HERE / "unet" / name, {**tensors, "output": output, **gradients(network)})


def make_autoencoder(name, case):
    network = autoencoder_of(name, case)
    images = torch.randn(2, *case["size"])
    posterior = network.encode(images).latent_dist
    decoded = network.decode(posterior.mean).sample
    (decoded - images).square().mean().add(posterior.logvar.mean()).backward()
    save(network, HERE / "autoencoder" / name, {
        "images": images, "moments": torch.cat([posterior.mean, posterior.logvar], 1), "decoded": decoded,
        **gradients(network)})


if __name__ == "__main__":
    for case_name, parts in UNETS.items():
        make_unet(case_name, parts)
    for case_name, parts in AUTOENCODERS.items():
        make_autoencoder(case_name, parts)
