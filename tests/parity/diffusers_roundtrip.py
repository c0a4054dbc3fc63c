"""Passes networks and pipelines between this program and Python's diffusers, both ways, and compares what they compute.

    python tests/parity/diffusers_roundtrip.py --build build [--model RUN_DIR/model ...]

Run by hand (docs/testing.md), in an environment with torch, diffusers, transformers and safetensors; last run with diffusers
0.42, transformers 5.23, torch 2.11. Builds `dpldm`, `dpldm-data` and `rewrite_model` first: ninja -C build dpldm dpldm-data
rewrite_model.

  - small random networks of every class: diffusers save_pretrained -> `dpldm probe` gives diffusers' output, norms and
    clipped sum;
  - the same, rewritten by us -> diffusers and transformers load them with no missing and no unexpected keys, bit-identical
    weights and the same output;
  - StableDiffusionPipeline, LDMTextToImagePipeline and LDMPipeline: save_pretrained -> rewritten by us -> the same picture;
    images -> `dpldm-data encode` with captions -> `dpldm finetune` -> the same pipeline loads the result and makes a
    picture, and exactly the trained tensors have changed;
  - models that no class or no pipeline of diffusers fits (checkpoints of tests/golden/compvis by `dpldm convert`, and a
    class-conditional one fine-tuned): DiffusionPipeline loads them with the code that lies in their directories, their U-Nets
    compute what the original formulas do, and the pictures are those of `dpldm sample`;
  - text from nothing: captions -> tokens -> `dpldm pretrain` of U-Net and encoder -> `finetune` with the encoder frozen and
    trained -> `dpldm sample` from prompts makes the pictures of StableDiffusionPipeline;
  - with --model: the U-Net (and the autoencoder) of a model that this program trained -> loads strictly, same output.
"""

import argparse
import copy
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DiffusionPipeline, LDMPipeline, LDMTextToImagePipeline,
                       StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel, VQModel)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.append(str(GOLDEN))
from make_network_goldens import (AUTOENCODERS, TEXT_ENCODERS, UNETS, VQ_MODELS, autoencoder_of,  # noqa: E402
                                  randomise_norms, text_encoder_of, unet_inputs, unet_of)

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
    keywords = {"low_cpu_mem_usage": False} if hasattr(cls, "load_config") else {}
    network, info = cls.from_pretrained(folder, output_loading_info=True, **keywords)
    clean = not any(info.get(k) for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    check(f"{folder.parent.name}/{folder.name}: {cls.__name__} finds exactly its keys", clean, "" if clean else str(info))
    return network.eval()


def same_config(name, ours, theirs):
    different = {k: (ours.get(k), v) for k, v in theirs.items()
                 if k not in OUR_KEYS and _plain(ours.get(k)) != _plain(v)}
    check(f"{name}: configuration is unchanged", not different, str(different) if different else "")


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def inputs_for(network, case=None, records=3):
    """What `dpldm probe` reads, and the keywords that diffusers takes for the same."""
    config = network.config
    inputs = {
        "sample": torch.randn(records, config.in_channels, *(case["size"] if case else (7, 10))),
        "timestep": torch.tensor([3, 441, 998])[:records],
    }
    inputs["target"] = torch.randn(records, config.out_channels, *inputs["sample"].shape[2:])
    if case:
        more, keywords = unet_inputs(network, case, records)
    elif config.encoder_hid_dim and not network.encoder_hid_proj.bias.any():
        more = {"class_labels": torch.randint(0, config.encoder_hid_dim, (records,))}
        one_hot = torch.nn.functional.one_hot(more["class_labels"], config.encoder_hid_dim).float()
        keywords = {"encoder_hidden_states": one_hot.unsqueeze(1)}
    else:
        more = keywords = {"encoder_hidden_states": torch.randn(records, 5, config.cross_attention_dim)}
    return {**inputs, **more}, keywords


def per_record_gradients(network, inputs, keywords, names):
    """Each record's gradient on its own, by ordinary backward passes in float64."""
    network = copy.deepcopy(network).double()
    # diffusers makes sinusoids in float32, and casts those of timesteps alone.
    network.time_proj.register_forward_hook(lambda module, inputs, waves: waves.double())
    double = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    inputs = {n: double(t) for n, t in inputs.items()}
    parameters = dict(network.named_parameters())
    rows = []
    for b in range(inputs["sample"].shape[0]):
        alone = slice(b, b + 1)
        output = network(inputs["sample"][alone], inputs["timestep"][alone],
                         **{n: double(t)[alone] for n, t in keywords.items()}).sample
        loss = (output - inputs["target"][alone]).square().mean()
        gradients = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        rows.append([torch.zeros_like(parameters[n]) if g is None else g for n, g in zip(names, gradients)])
    return rows


def check_probe(dpldm, name, network, folder, scratch, case=None):
    inputs, keywords = inputs_for(network, case)
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
        output = network(inputs["sample"], inputs["timestep"], **keywords).sample.detach()
        error = relative_error(ours["output"], output)
        check(f"{name}, {trainable}: output of dpldm probe", error < OUTPUT_TOLERANCE, f"{error:.1e}")
        rows = per_record_gradients(network, inputs, keywords, names)
        norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in rows])
        error = ((ours["norms"] - norms).abs() / norms).max().item()
        check(f"{name}, {trainable}: norms", error < NORM_TOLERANCE, f"{error:.1e}")
        factors = (clip_norm / norms).clamp_max(1)
        total = [sum(f * row[i] for f, row in zip(factors, rows)) for i in range(len(names))]
        largest = max(t.norm() for t in total)
        error = max(relative_error(ours["sum." + n], t) for n, t in zip(names, total) if t.norm() > 1e-6 * largest)
        check(f"{name}, {trainable}: clipped sum, clipped {int((factors < 1).sum())} of {len(factors)}",
              error < GRADIENT_TOLERANCE, f"{error:.1e}")


def check_rewritten(rewrite, name, network, folder, scratch, run):
    rewritten = scratch / "rewritten" / name
    rewritten.parent.mkdir(exist_ok=True)
    subprocess.run([rewrite, folder, rewritten], check=True)
    again = load_strictly(type(network), rewritten)
    theirs, ours = network.state_dict(), again.state_dict()
    check(f"{name}: weights are bit-identical", all(torch.equal(theirs[k], ours[k]) for k in theirs))
    if hasattr(network, "load_config"):
        same_config(name, again.config, network.config)
    check(f"{name}: output is unchanged", torch.equal(run(network), run(again)))


def check_half_precision(rewrite, scratch):
    """A network in float16, also under a variant's name, in one file and in several: it comes back as it was."""
    network = unet_of("tokens", UNETS["tokens"]).half()
    ways = {"half": {}, "variant": {"variant": "fp16"}, "variant_in_files": {"variant": "fp16", "max_shard_size": "20KB"}}
    name = "diffusion_pytorch_model.safetensors"
    for way, keywords in ways.items():
        network.save_pretrained(scratch / way, **keywords)
        subprocess.run([rewrite, scratch / way, scratch / f"{way}_again"], check=True)
        before, after = load_file(scratch / "half" / name), load_file(scratch / f"{way}_again" / name)
        check(f"float16 weights come back as they were: {way}",
              before.keys() == after.keys() and all(before[n].dtype == after[n].dtype and torch.equal(before[n], after[n])
                                                    for n in before))


def check_networks(dpldm, rewrite, scratch):
    for name, case in UNETS.items():
        network = unet_of(name, case).eval()
        network.save_pretrained(scratch / name)
        check_probe(dpldm, name, network, scratch / name, scratch, case)
        inputs, keywords = inputs_for(network, case)
        check_rewritten(rewrite, name, network, scratch / name, scratch,
                        lambda n: n(inputs["sample"], inputs["timestep"], **keywords).sample)
    for name, case in {**AUTOENCODERS, **VQ_MODELS}.items():
        network = autoencoder_of(name, case).eval()
        network.save_pretrained(scratch / name)
        images = torch.randn(2, *case["size"])

        def through(n):
            encoded = n.encode(images)
            return n.decode(encoded.latents if isinstance(n, VQModel) else encoded.latent_dist.mean).sample

        check_rewritten(rewrite, name, network, scratch / name, scratch, through)
    for name, case in TEXT_ENCODERS.items():
        network = text_encoder_of(name, case)
        network.save_pretrained(scratch / name)
        ids = torch.randint(0, network.config.vocab_size, (2, 7))
        check_rewritten(rewrite, name, network, scratch / name, scratch, lambda n: n(ids)[0])
    check_half_precision(rewrite, scratch)


def small_unet(cls, **more):
    attention = "CrossAttn" if cls is UNet2DConditionModel else "Attn"
    network = cls(sample_size=2, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
                  down_block_types=(f"{attention}DownBlock2D",) * 2, up_block_types=(f"{attention}UpBlock2D",) * 2,
                  attention_head_dim=2, norm_num_groups=4, **more)
    randomise_norms(network)
    return network.eval()


def small_autoencoder(cls, **more):
    network = cls(in_channels=3, out_channels=3, block_out_channels=(4, 4, 4, 4), latent_channels=4, norm_num_groups=2,
                  down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                  layers_per_block=1, scaling_factor=0.5, **more)
    return network.eval()


def small_pipelines():
    torch.manual_seed(5)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1)
    clip = CLIPTokenizer.from_pretrained(GOLDEN / "tokenizers" / "clip")
    clip_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(clip), hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id))
    yield StableDiffusionPipeline(
        vae=small_autoencoder(AutoencoderKL), text_encoder=clip_encoder, tokenizer=clip,
        unet=small_unet(UNet2DConditionModel, cross_attention_dim=12), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    bert = BertTokenizer.from_pretrained(GOLDEN / "tokenizers" / "bert")
    bert_encoder = LDMBertModel(LDMBertConfig(vocab_size=len(bert), encoder_layers=1, encoder_ffn_dim=16,
                                              encoder_attention_heads=2, head_dim=4, d_model=12, dropout=0.0))
    yield LDMTextToImagePipeline(vqvae=small_autoencoder(AutoencoderKL), bert=bert_encoder, tokenizer=bert,
                                 unet=small_unet(UNet2DConditionModel, cross_attention_dim=12), scheduler=scheduler)
    yield LDMPipeline(vqvae=small_autoencoder(VQModel, num_vq_embeddings=16), unet=small_unet(UNet2DModel),
                      scheduler=scheduler)


def picture(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    prompt = [] if isinstance(pipeline, LDMPipeline) else ["a dark picture of a lung"]
    more = {} if isinstance(pipeline, LDMPipeline) else {"guidance_scale": 2.0}
    made = pipeline(*prompt, num_inference_steps=5, generator=torch.manual_seed(1), output_type="np", **more)
    return torch.from_numpy(numpy.asarray(made.images[0]))


def components(folder):
    index = json.loads((folder / "model_index.json").read_text())
    present = {n: v for n, v in index.items() if n[0] != "_" and v != [None, None] and n != "requires_safety_checker"}
    return index["_class_name"], present


def captioned_images(folder, count=16):
    """Pictures of 16x16, and captions.csv beside them."""
    folder.mkdir()
    lines = ["file,caption"]
    for i in range(count):
        Image.fromarray(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()).save(folder / f"{i:02}.png")
        lines.append(f"{i:02}.png,a {'dark' if i % 2 else 'bright'} picture of the {'lung' if i % 3 else 'heart'}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


def changed_tensors(before, after):
    """Names, with the component's directory, of tensors that are not bit-identical."""
    names = set()
    for file in before.glob("*/*.safetensors"):
        old, new = load_file(file), load_file(after / file.parent.name / file.name)
        check(f"{after.name}: {file.parent.name} has the same tensors",
              {n.removeprefix("text_model.") for n in old} == {n.removeprefix("text_model.") for n in new})
        new = {n.removeprefix("text_model."): t for n, t in new.items()}
        names |= {f"{file.parent.name}/{n}" for n, t in old.items() if not torch.equal(t, new[n.removeprefix("text_model.")])}
    return names


def check_pipelines(build, rewrite, scratch):
    run = lambda *words: subprocess.run([str(w) for w in words], check=True, capture_output=True)  # noqa: E731
    images = scratch / "images"
    captioned_images(images)
    run(build / "bin" / "dpldm-data", "import", "folder", "--dir", images, "--csv", images / "captions.csv", "--visibility",
        "private", "-o", scratch / "images.h5")
    for pipeline in small_pipelines():
        cls = type(pipeline)
        original, rewritten = scratch / cls.__name__, scratch / f"{cls.__name__}_rewritten"
        pipeline.save_pretrained(original)
        subprocess.run([rewrite, original, rewritten], check=True)
        check(f"{cls.__name__}: rewritten, with the same components", components(original) == components(rewritten),
              "" if components(original) == components(rewritten) else f"{components(original)} {components(rewritten)}")
        check(f"{cls.__name__}: rewritten, makes the same picture",
              torch.equal(picture(cls.from_pretrained(original)), picture(cls.from_pretrained(rewritten))))

        latents, runs = scratch / f"{cls.__name__}.h5", scratch / f"{cls.__name__}_run"
        run(build / "bin" / "dpldm-data", "encode", "--model", original, "--images", scratch / "images.h5", "-o", latents)
        (scratch / "finetune.yaml").write_text(FINETUNE)
        run(build / "bin" / "dpldm", "finetune", "--config", scratch / "finetune.yaml", "--set", f"data.latents={latents}",
            "--set", f"model.base={original}", "--run-dir", runs)
        tuned = picture(cls.from_pretrained(runs / "model"))
        check(f"{cls.__name__}: fine-tuned, makes a picture", bool(torch.isfinite(tuned).all()) and tuned.std() > 0)
        for name, network in cls.from_pretrained(runs / "model").components.items():
            if hasattr(network, "state_dict"):
                load_strictly(type(network), runs / "model" / name)
        changed = changed_tensors(original, runs / "model")
        conditioner = {"text_encoder", "bert"}
        wrong = [n for n in changed if ".attentions." not in n and n.split("/")[0] not in conditioner]
        check(f"{cls.__name__}: fine-tuned, attention and text encoder alone have changed", changed and not wrong,
              f"{len(changed)} tensors {wrong[:3]}")


def quietly(*words):
    subprocess.run([str(w) for w in words], check=True, capture_output=True)


def our_pipeline(model):
    pipeline = DiffusionPipeline.from_pretrained(model, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_same_pictures(dpldm, name, model, pipeline, scratch, **condition):
    """`dpldm sample` and the pipeline, from the same noise."""
    labels = condition.get("class_labels", [])
    words = ["--classes", ",".join(map(str, labels))] if labels else []
    if "prompt" in condition:
        (scratch / "prompts.txt").write_text("\n".join(condition["prompt"]))
        words = ["--prompts", scratch / "prompts.txt", "--guidance", condition["guidance_scale"]]
    config = pipeline.unet.config
    size = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    noise = torch.randn(3, config.in_channels, size, size)
    save_file({"noise": noise}, scratch / "noise.safetensors", {"format": "pt"})
    pictures = scratch / f"{name}_pictures"
    quietly(dpldm, "sample", "--model", model, "--num", 3, "--initial-noise", scratch / "noise.safetensors", "--steps", 10,
            "--precision", "fp32", "-o", pictures, *words)
    files = sorted(pictures.rglob("*.png"), key=lambda f: f.name)
    ours = numpy.stack([numpy.asarray(Image.open(f).convert("RGB")) for f in files]).astype(int)
    theirs = pipeline(latents=noise, num_inference_steps=10, output_type="np", **condition).images
    theirs = numpy.rint(255 * theirs).astype(int)
    # VQ takes the nearest of a codebook: a rounding can choose another vector, and change some pixels by much.
    differing = (abs(ours - theirs) > 1).mean()
    check(f"{name}: dpldm sample makes the pictures of the pipeline", ours.std() > 1 and differing < 0.01,
          f"{differing:.1e} of the values differ by more than 1 of 255")


PRETRAIN = """
training: {steps: 3, batch_size: 8, train_text_encoder: true}
network: {sample_size: 2, block_out_channels: [8, 16], layers_per_block: 1, attention_head_dim: 2, norm_num_groups: 4,
          down_block_types: [CrossAttnDownBlock2D, CrossAttnDownBlock2D], up_block_types: [CrossAttnUpBlock2D, CrossAttnUpBlock2D]}
text_network: {_class_name: CLIPTextModel, vocab_size: WORDS, hidden_size: 12, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
runtime: {micro_batch_size: 8}
"""


def check_text_from_nothing(build, scratch):
    dpldm, tool, folder = build / "bin" / "dpldm", build / "bin" / "dpldm-data", scratch / "text"
    folder.mkdir()
    captioned_images(folder / "images")
    small_autoencoder(AutoencoderKL).save_pretrained(folder / "ae" / "vae")
    tokenizer = GOLDEN / "tokenizers" / "clip"
    for visibility in ("public", "private"):
        quietly(tool, "import", "folder", "--dir", folder / "images", "--csv", folder / "images" / "captions.csv", "--visibility",
                visibility, "-o", folder / f"{visibility}.h5")
        quietly(tool, "encode", "--model", folder / "ae", "--images", folder / f"{visibility}.h5", "--tokenizer", tokenizer,
                "--num-tokens", 9, "-o", folder / f"{visibility}_latents.h5")
    (folder / "pretrain.yaml").write_text(PRETRAIN.replace("WORDS", str(len(CLIPTokenizer.from_pretrained(tokenizer)))))
    quietly(dpldm, "pretrain", "--config", folder / "pretrain.yaml", "--set",
            f"data.latents={folder / 'public_latents.h5'}", "--set", f"model.autoencoder={folder / 'ae'}", "--set",
            f"model.tokenizer={tokenizer}", "--run-dir", folder / "pretrained")
    (folder / "finetune.yaml").write_text(FINETUNE)
    base = folder / "pretrained" / "model"
    for conditioner in ("false", "true"):
        run_dir, name = folder / f"tuned_{conditioner}", f"text from nothing, encoder trained: {conditioner}"
        quietly(dpldm, "finetune", "--config", folder / "finetune.yaml", "--set", f"trained.conditioner={conditioner}", "--set",
                f"data.latents={folder / 'private_latents.h5'}", "--set", f"model.base={base}", "--run-dir", run_dir)
        changed = {n.split("/")[0] for n in changed_tensors(base, run_dir / "model")}
        check(f"{name}: what has changed", changed == ({"unet", "text_encoder"} if conditioner == "true" else {"unet"}), str(changed))
        pipeline = StableDiffusionPipeline.from_pretrained(run_dir / "model")
        pipeline.set_progress_bar_config(disable=True)
        check(f"{name}: prompts have as many tokens as captions", pipeline.tokenizer.model_max_length == 9)
        check_same_pictures(dpldm, name.replace(" ", "_"), run_dir / "model", pipeline, scratch, guidance_scale=3.0,
                            prompt=["a dark picture of a lung", "a bright heart", "two cells"])


def check_converted(dpldm, scratch):
    for name in ("attention_blocks", "class_table", "emnist", "new_order"):
        (scratch / f"{name}.ckpt").write_bytes(gzip.decompress((GOLDEN / "compvis" / f"{name}.ckpt.gz").read_bytes()))
        model = scratch / f"{name}_model"
        quietly(dpldm, "convert", "--config", GOLDEN / "compvis" / f"{name}.yaml", "--checkpoint", scratch / f"{name}.ckpt", "-o",
                model)
        pipeline = our_pipeline(model)
        golden = load_file(GOLDEN / "compvis" / f"{name}.safetensors")
        condition = pipeline._encode_classes(golden["labels"]) if "labels" in golden else {}
        output = pipeline.unet(golden["sample"], golden["timestep"], **condition).sample
        error = relative_error(output, golden["output"])
        kind = json.loads((model / "unet" / "config.json").read_text())["_class_name"]
        check(f"{name}: {kind} in Python computes the original formulas", error < OUTPUT_TOLERANCE, f"{error:.1e}")
        if pipeline.vae or pipeline.vqvae:
            more = {"class_labels": [0, 3, 4]} if condition else {}
            check_same_pictures(dpldm, name, model, pipeline, scratch, **more)


def check_class_conditional(build, scratch):
    """A private fine-tuning of a class-conditional model in float16, the quickstart's kind."""
    model, run_dir = scratch / "class_model", scratch / "class_run"
    unet = small_unet(UNet2DConditionModel, cross_attention_dim=12, encoder_hid_dim=3, encoder_hid_dim_type="text_proj")
    with torch.no_grad():
        unet.encoder_hid_proj.bias.zero_()
    unet.half().save_pretrained(model / "unet")
    small_autoencoder(AutoencoderKL).save_pretrained(model / "vae")
    DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(model / "scheduler")
    for label in ("dark", "bright"):
        (scratch / "labelled" / label).mkdir(parents=True)
        for i in range(8):
            pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(scratch / "labelled" / label / f"{i}.png")
    quietly(build / "bin" / "dpldm-data", "import", "folder", "--dir", scratch / "labelled", "--visibility", "private", "-o",
            scratch / "labelled.h5")
    quietly(build / "bin" / "dpldm-data", "encode", "--model", model, "--images", scratch / "labelled.h5", "-o",
            scratch / "class.h5")
    (scratch / "finetune.yaml").write_text(FINETUNE)
    quietly(build / "bin" / "dpldm", "finetune", "--config", scratch / "finetune.yaml", "--set",
            f"data.latents={scratch / 'class.h5'}", "--set", f"model.base={model}", "--run-dir", run_dir)
    load_strictly(UNet2DConditionModel, run_dir / "model" / "unet")
    pipeline = our_pipeline(run_dir / "model")
    check_same_pictures(build / "bin" / "dpldm", "fine-tuned classes", run_dir / "model", pipeline, scratch, class_labels=[0, 1, 0])
    guided = pipeline(class_labels=[0, 1], guidance_scale=2.0, num_inference_steps=3, output_type="np").images
    check("fine-tuned classes: guidance makes pictures", numpy.isfinite(guided).all() and guided.std() > 0)
    before = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(run_dir / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    frozen = [n for n in before if ".attentions." not in n and not n.startswith("encoder_hid_proj.")]
    check("fine-tuned classes: frozen float16 tensors are bit-identical",
          all(after[n].dtype == torch.float16 and torch.equal(before[n], after[n]) for n in frozen), f"{len(frozen)} tensors")


FINETUNE = """
training: {steps: 3, expected_batch_size: 8}
privacy: {epsilon: 8, delta: 1.0e-3, clip_norm: 1}
optimizer: {learning_rate: 1.0e-3, ema_decay: 0}
runtime: {micro_batch_size: 8}
"""


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
        check_networks(dpldm, rewrite, scratch)
        check_pipelines(arguments.build, rewrite, scratch)
        check_converted(dpldm, scratch)
        check_class_conditional(arguments.build, scratch)
        check_text_from_nothing(arguments.build, scratch)
        for model in arguments.model:
            network = load_strictly(UNet2DConditionModel, model / "unet")
            check_probe(dpldm, str(model), network, model, scratch)
            if (model / "vae").exists():
                load_strictly(AutoencoderKL, model / "vae")

    print("all is equal" if failures == 0 else f"{failures} comparisons failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
