"""Makes tests/golden/{unet,autoencoder,text_encoder,sampling}/<case>: tiny random networks of diffusers and transformers,
with inputs, outputs and gradients.

    python tests/golden/make_network_goldens.py [CASE ...]

Needs torch, diffusers, transformers and safetensors (made with torch 2.11, diffusers 0.42, transformers 5.23). Each case is
what `save_pretrained` writes, plus golden.safetensors: the inputs, `output`, and `grad.<parameter>` of the loss that the C++
test computes too.
Norms have fewer groups than channels, their weights are random, heights differ from widths, and timesteps differ between
records: otherwise whole classes of mistakes leave no trace.
"""

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

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
    # Labels on the time embedding, the first attention to the context as well, layers that differ between levels.
    "labels_and_tokens": dict(
        config=dict(
            block_out_channels=(4, 8), down_block_types=("CrossAttnDownBlock2D",) * 2, layers_per_block=(1, 2),
            up_block_types=("CrossAttnUpBlock2D",) * 2, cross_attention_dim=6, attention_head_dim=(1, 2),
            norm_num_groups=2, num_class_embeds=5, only_cross_attention=(True, False), time_embedding_dim=12,
            center_input_sample=True, conv_in_kernel=5, conv_out_kernel=1, mid_block_scale_factor=1.5),
        size=(6, 9), context=(3, 6), labels=5),
    "projected_labels": dict(
        config=dict(
            block_out_channels=(4,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1, cross_attention_dim=6, attention_head_dim=2, norm_num_groups=2,
            class_embed_type="projection", projection_class_embeddings_input_dim=6, class_embeddings_concat=True),
        size=(6, 5), context=(2, 6), label_width=6),
    # UNet2DModel: heads of 4 channels, a level without attention, sizes that differ.
    "unconditional": dict(
        config=dict(
            block_out_channels=(4, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=2, attention_head_dim=4, norm_num_groups=2),
        size=(8, 12)),
    # Samplers that are resnet blocks, scale and shift by the time, one head, labels, another norm in the middle.
    "unconditional_resnet": dict(
        config=dict(
            block_out_channels=(4, 8), down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2,
            layers_per_block=1, attention_head_dim=None, norm_num_groups=2, attn_norm_num_groups=4,
            resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
            num_class_embeds=5, mid_block_scale_factor=1.25),
        size=(8, 12), labels=5),
    # "resnet" stops at levels without attention; a middle whose attention has no norm; the first DDPM's conventions.
    "unconditional_mixed": dict(
        config=dict(
            block_out_channels=(4, 8), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, attention_head_dim=4, norm_num_groups=2,
            resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
            downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, class_embed_type="timestep"),
        size=(8, 4), label_times=True),
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

VQ_MODELS = {
    # A codebook of another width than the encoder's latent, attention in a level.
    "vector_quantised": dict(
        config=dict(in_channels=3, out_channels=3, block_out_channels=(4, 8), latent_channels=3, vq_embed_dim=5,
                    num_vq_embeddings=12, norm_num_groups=2, scaling_factor=1.0,
                    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
                    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), layers_per_block=1),
        size=(3, 8, 6)),
}

TEXT_ENCODERS = {
    "clip_quick_gelu": dict(
        cls=CLIPTextModel, config=dict(hidden_act="quick_gelu", hidden_size=12, intermediate_size=20, num_hidden_layers=2,
                                       num_attention_heads=3, max_position_embeddings=9, vocab_size=50)),
    "clip_gelu": dict(
        cls=CLIPTextModel, config=dict(hidden_act="gelu", hidden_size=12, intermediate_size=20, num_hidden_layers=2,
                                       num_attention_heads=2, max_position_embeddings=9, vocab_size=50)),
    # Attention that is narrower than the stream.
    "ldm_bert": dict(
        cls=LDMBertModel, config=dict(d_model=12, encoder_ffn_dim=20, encoder_layers=2, encoder_attention_heads=2,
                                      head_dim=4, max_position_embeddings=9, vocab_size=50)),
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
    cls = UNet2DModel if name.startswith("unconditional") else UNet2DConditionModel
    network = cls(sample_size=8, **case["config"])
    randomise_norms(network)
    if "num_classes" in case:
        torch.nn.init.zeros_(network.encoder_hid_proj.bias)
    return network


def autoencoder_of(name, case):
    torch.manual_seed(sum(map(ord, name)))
    network = (VQModel if name in VQ_MODELS else AutoencoderKL)(**case["config"])
    randomise_norms(network)
    if name in VQ_MODELS:  # initialised within 1 / n, which is far below the latents
        torch.nn.init.normal_(network.quantize.embedding.weight)
    return network


def text_encoder_of(name, case):
    torch.manual_seed(sum(map(ord, name)))
    cls = case["cls"]
    network = cls(({CLIPTextModel: CLIPTextConfig, LDMBertModel: LDMBertConfig}[cls])(**case["config"])).eval()
    for parameter in network.parameters():  # the usual 0.02 would leave attention uniform
        torch.nn.init.normal_(parameter, 0, 0.3)
    randomise_norms(network)
    return network


def unet_inputs(network, case, records=3):
    """Tensors under the names of golden.safetensors, and what diffusers' forward takes besides sample and timestep."""
    tensors, keywords = {}, {}
    if "num_classes" in case:
        tensors["class_labels"] = torch.tensor([4, 0, 5])
        keywords["encoder_hidden_states"] = (
            torch.nn.functional.one_hot(tensors["class_labels"], case["num_classes"]).float().unsqueeze(1))
    if "context" in case:
        keywords["encoder_hidden_states"] = tensors["encoder_hidden_states"] = torch.randn(records, *case["context"])
    if "labels" in case:
        keywords["class_labels"] = tensors["class_labels"] = torch.tensor([4, 0, 3])
    if "label_width" in case:
        keywords["class_labels"] = tensors["class_labels"] = torch.randn(records, case["label_width"])
    if "label_times" in case:
        keywords["class_labels"] = tensors["class_labels"] = torch.tensor([17, 0, 800])
    return tensors, keywords


def make_unet(name, case):
    network = unet_of(name, case)
    records = 3
    height, width = case["size"]
    tensors = {
        "sample": torch.randn(records, network.config.in_channels, height, width),
        "timestep": torch.tensor([3, 441, 998]),
        "target": torch.randn(records, network.config.out_channels, height, width),
    }
    more, keywords = unet_inputs(network, case, records)
    output = network(tensors["sample"], tensors["timestep"], **keywords).sample
    (output - tensors["target"]).square().mean(dim=(1, 2, 3)).sum().backward()
    save(network, HERE / "unet" / name, {**tensors, **more, "output": output, **gradients(network)})


def make_autoencoder(name, case):
    network = autoencoder_of(name, case)
    images = torch.randn(2, *case["size"])
    posterior = network.encode(images).latent_dist
    decoded = network.decode(posterior.mean).sample
    (decoded - images).square().mean().add(posterior.logvar.mean()).backward()
    save(network, HERE / "autoencoder" / name, {
        "images": images, "moments": torch.cat([posterior.mean, posterior.logvar], 1), "decoded": decoded,
        **gradients(network)})


def make_vq_model(name, case):
    network = autoencoder_of(name, case)
    images = torch.randn(2, *case["size"])
    latents = network.encode(images).latents
    decoded = network.decode(latents).sample
    (decoded - images).square().mean().backward()
    save(network, HERE / "autoencoder" / name, {
        "images": images, "moments": torch.cat([latents, torch.full_like(latents, -30)], 1), "decoded": decoded,
        **gradients(network)})


def make_text_encoder(name, case):
    network = text_encoder_of(name, case)
    ids = torch.randint(0, network.config.vocab_size, (2, 7))
    output = network(ids)[0]
    target = torch.randn_like(output)
    (output - target).square().mean().backward()
    prefix = "text_model." if case["cls"] is CLIPTextModel else ""
    named = {f"grad.{prefix}{n.removeprefix(prefix)}": g.clone()
             for n, g in ((n.removeprefix("grad."), g) for n, g in gradients(network).items())}
    save(network, HERE / "text_encoder" / name, {"ids": ids, "output": output, "target": target, **named})


def make_sampling(name, eta):
    """Fifty steps of DDIM with the U-Net of another case, and the noise of every step."""
    network = unet_of("tokens", UNETS["tokens"]).eval()
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(50)
    torch.manual_seed(7)
    noise = torch.randn(2, 4, 7, 6)
    context = torch.randn(2, *UNETS["tokens"]["context"])
    steps = torch.randn(50, 2, 4, 7, 6)
    x = noise
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(network(x, t, context).sample, t, x, eta=eta, variance_noise=steps[i]).prev_sample
    folder = HERE / "sampling"
    folder.mkdir(exist_ok=True)
    tensors = {"noise": noise, "context": context, "output": x}
    if eta:
        tensors["step_noise"] = steps
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / f"{name}.safetensors", {"format": "pt"})


if __name__ == "__main__":
    makers = [(UNETS, make_unet), (AUTOENCODERS, make_autoencoder), (VQ_MODELS, make_vq_model),
              (TEXT_ENCODERS, make_text_encoder), ({"ddim": 0.0, "ddim_eta": 1.0}, make_sampling)]
    for cases, make in makers:
        for case_name, parts in cases.items():
            if len(sys.argv) == 1 or case_name in sys.argv[1:]:
                make(case_name, parts)
