#!/usr/bin/env python3
"""Writes the seeds of the fuzzers' corpus beside itself: one small valid input of each kind. Needs torch and Pillow.

Inputs that fuzzing found worth keeping are added by hand under names that say what they are.
"""

import io
import json
import pathlib
import struct
from collections import OrderedDict

import torch
from PIL import Image

HERE = pathlib.Path(__file__).parent
CORPUS = HERE / "corpus"
GOLDEN = HERE.parent / "golden"


def write(target, name, content):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(content)


def archives():
    base = torch.arange(12, dtype=torch.float32)
    state = OrderedDict(weight=base.view(3, 4).t(), view=base[2:5], half=base[:2].half(), whole=torch.tensor(7))
    lightning = {"state_dict": state, "epoch": 3, "callbacks": {slice: {"best": 0.5}}, "big": 1 << 80, "flag": True, "none": None, "set": {1}}
    for name, value in (("dict", dict(state)), ("lightning", lightning)):
        for kind, zip_archive in (("zip", True), ("legacy", False)):
            raw = io.BytesIO()
            torch.save(value, raw, _use_new_zipfile_serialization=zip_archive)
            write("archive", f"{name}_{kind}", raw.getvalue())


def headers():
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                         "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}).encode()
    write("safetensors_header", "two_tensors", struct.pack("<Q", 26) + header)
    write("safetensors_header", "hole", struct.pack("<Q", 27) + header.replace(b"[24, 26]", b"[25, 27]"))


def configs():
    for name in ("unet/tokens", "unet/class_labels", "unet/unconditional_resnet", "autoencoder/level_attention",
                 "autoencoder/vector_quantised", "text_encoder/clip_gelu", "text_encoder/ldm_bert"):
        write("config_json", name.replace("/", "_"), (GOLDEN / name / "config.json").read_bytes())
    specials = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    clip = {"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {**specials, "a": 2, "t</w>": 3, "at</w>": 4, "c": 5},
                      "merges": [["a", "t</w>"]]}, "added_tokens": [{"id": 1, "content": "<|endoftext|>", "normalized": True}]}
    bert = {"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cat": 4, "##s": 5}},
            "normalizer": {"type": "BertNormalizer", "lowercase": True}}
    write("config_json", "clip_tokenizer", json.dumps(clip).encode())
    write("config_json", "bert_tokenizer", json.dumps(bert).encode())
    write("config_json", "scheduler", json.dumps({"num_train_timesteps": 1000, "timestep_spacing": "leading", "steps_offset": 1}).encode())


def latents():
    write("latent_file", "usual", bytes(8))
    write("latent_file", "other_counts", bytes([0b00011000, 0b00000100, 1, 0, 200, 1, 0, 3, 1, 0, 255, 1, 2, 3, 4, 5, 6, 7, 8]))
    write("latent_file", "other_types", bytes([0xFF, 0x3F] + [1, 1, 3, 65, 66, 67] * 14))
    write("latent_file", "other_datasets", bytes([0, 0, 5, 2, 3, 1, 4, 4]))


def images():
    for mode in ("L", "RGB", "P", "RGBA", "1"):
        picture = Image.new("RGB", (5, 4), (200, 30, 90)).convert(mode)
        raw = io.BytesIO()
        picture.save(raw, "PNG")
        write("image", f"png_{mode}", raw.getvalue())
        if mode in ("L", "RGB"):
            for progressive in (False, True):
                raw = io.BytesIO()
                picture.save(raw, "JPEG", progressive=progressive, quality=50)
                write("image", f"jpeg_{mode}_{'progressive' if progressive else 'baseline'}", raw.getvalue())


if __name__ == "__main__":
    archives()
    headers()
    configs()
    latents()
    images()
