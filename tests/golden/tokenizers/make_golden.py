#!/usr/bin/env python3
"""Writes the tokenizers' golden files beside itself: small vocabularies, texts, and the ids that transformers gives.

Needs transformers, tokenizers, torch and safetensors (made with 5.23, 0.23, 2.11 and 0.8). The vocabularies are trained here, on made-up
captions, since the published ones are large; what a tokenizer does with a text does not depend on where its vocabulary is from.

    clip/       vocab.json + merges.txt, special tokens as Stable Diffusion 1 has them
    clip_json/  tokenizer.json alone, padding with "!" as Stable Diffusion 2 does
    bert/       vocab.txt
    bert_json/  tokenizer.json alone, case kept
    texts.json  the texts; the *_json tokenizers are given the first 500
    golden.safetensors   for each tokenizer: lengths U8 [n], and the ids without padding end to end as low and high bytes
"""

import json
import pathlib
import random
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer

HERE = pathlib.Path(__file__).parent
NUM_TEXTS = 2000
NUM_SHORT = 500
LENGTH = 77

WORDS = """the a an of in on with and her his their its this person woman man child boy girl has is are was wears wearing hair eyes nose
lips eyebrows smiling young old attractive blond brown black gray wavy straight bald beard mustache goatee pale oval face high cheekbones big
small pointy arched bushy narrow rosy cheeks heavy makeup lipstick earrings necklace necktie hat glasses photograph painting portrait image
picture drawing chest x-ray scan lung cell tissue bright dark red green blue yellow white background street mountain river bird flower dog cat
car train looking left right up down standing sitting near under over between two three several no mouth slightly open receding hairline
don't isn't can't won't they're we've i'm you'll he'd it's""".split()
ACCENTS = ["café", "naïve", "Ångström", "cafe\u0301", "über", "señor", "Łódź", "crème brûlée", "ﬁne", "Ⅷ", "ǅ", "İstanbul", "ẞ", "ΑΣ", "Ὀδυσσεύς",
           "ё", "й", "한국어", "हिन्दी", "ไทย", "עִבְרִית", "العَرَبِيَّة", "Việt Nam", "ñ", "n\u0303", "a\u0328\u0301"]
CJK = ["女性の写真", "一只猫", "猫と犬", "漢字", "東京2024", "㐀", "𠀀𪜀", "ｶﾀｶﾅ", "ひらがな", "金髪。", "「笑顔」", "你好，世界！", "豈"]
EMOJI = ["😀", "👩‍🦰", "👍🏽", "🏳️‍🌈", "❤️", "🇩🇪", "©", "™", "🧑‍⚕️", "½", "²", "→", "€5", "$", "+=", "^_^", "`", "~", "‰"]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2009", "\r\n", "\u200b", "\u2028", "\x85", "\x0b", "\x1f", "\u00ad", "\ufeff"]
DIGITS = ["0", "42", "1999", "3.14", "1,000,000", "007", "٣", "१२", "x2", "2nd", "4k", "50%", "#1", "①"]
PUNCTUATION = ["!", "!!!", "...", "?!", "'s", "'S", "'LL", "''", "\"", "(", ")", "[", "]", "--", "—", "’s", "l’été", "rock'n'roll", "@user", "a_b", "a/b", "\\", "|",
               "<", ">", "<|", "|>", "&amp;", "¿", "«", "'", "'re", "'d", "o'clock"]
SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|StartOfText|>", "[MASK]", "[CLS]", "[sep]", "[UNK]", "[PAD]", "!<|endoftext|>!", "<<|ENDOFTEXT|>"]
EXACT = ["", " ", "\n", "a", "A", "!", "'", "''s", "'s", "\u0301", "\x00", "\ufffd", "\u0378", "\ue000", "word" * 40, "x" * 100, "x" * 101, "x" * 300,
         "a " * 200, "ab" * 500, "!" * 200, "é" * 120, "猫" * 90, "👩‍🦰" * 30, "the " * 100 + "end", "\t\n \u3000", "don't DON'T dOn'T", "ÀÉÎÕÜ àéîõü"]


def texts():
    generator = random.Random(17)
    pools = [WORDS] * 6 + [ACCENTS, CJK, EMOJI, DIGITS, PUNCTUATION, SPECIALS]
    result = list(EXACT)
    result += [word for pool in (ACCENTS, CJK, EMOJI, DIGITS, PUNCTUATION, SPECIALS) for word in pool]
    while len(result) < NUM_TEXTS:
        parts = []
        for _ in range(generator.choice([1, 2, 3, 4, 5, 6, 9])):
            word = generator.choice(generator.choice(pools))
            parts.append(generator.choice([word, word, word, word.upper(), word.capitalize()]))
            parts.append(generator.choice([" ", " ", " ", " ", "", generator.choice(SPACES)]))
        if generator.random() < 0.05:  # any code points, but for surrogates and those newer than Unicode 15
            for _ in range(generator.randint(1, 8)):
                parts.append(chr(generator.choice([generator.randint(1, 0x24F), generator.randint(0x250, 0x5FF), generator.randint(0x1E00, 0x2BFF),
                                                   generator.randint(0x3000, 0x9FFF), generator.randint(0x1F300, 0x1F5FF)])))
        result.append("".join(parts))
    return result


def captions():
    generator = random.Random(5)
    everything = WORDS * 4 + ACCENTS + CJK + DIGITS
    return [" ".join(generator.choice(everything) for _ in range(9)) for _ in range(3000)]


def train_clip(num_merges):
    """CLIP's order: byte symbols, the same ending a word, merges, the two special tokens."""
    source = CLIPTokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda c: (ord(c) > 255, ord(c)))
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = source.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = source.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=512 + num_merges, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(captions(), trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(merge) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def train_bert(size):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)
    tokenizer.train_from_iterator(captions(), trainer)
    return dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")


def make_clip():
    folder = fresh("clip")
    vocabulary, merges = train_clip(500)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n", encoding="utf-8")
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start, end = {"content": "<|startoftext|>", **token}, {"content": "<|endoftext|>", **token}
    write_json(folder / "special_tokens_map.json", {"bos_token": start, "eos_token": end, "pad_token": "<|endoftext|>", "unk_token": end})
    as_token = {"__type": "AddedToken"}
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, "add_prefix_space": False, "errors": "replace",
        "bos_token": {**as_token, **start}, "eos_token": {**as_token, **end}, "unk_token": {**as_token, **end}, "pad_token": "<|endoftext|>"})
    return CLIPTokenizer.from_pretrained(folder)


def make_clip_json():
    folder = fresh("clip_json")
    vocabulary, merges = train_clip(40)
    CLIPTokenizer(vocabulary, merges, pad_token="!").save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def make_bert():
    folder = fresh("bert")
    (folder / "vocab.txt").write_text("\n".join(train_bert(600)) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    return BertTokenizer.from_pretrained(folder)


def make_bert_json():
    folder = fresh("bert_json")
    BertTokenizer(train_bert(150), do_lower_case=False).save_pretrained(folder)
    return BertTokenizer.from_pretrained(folder)


def main():
    all_texts = texts()
    write_json(HERE / "texts.json", {"texts": all_texts})
    tensors = {}
    for name, make, count in (("clip", make_clip, NUM_TEXTS), ("clip_json", make_clip_json, NUM_SHORT),
                              ("bert", make_bert, NUM_TEXTS), ("bert_json", make_bert_json, NUM_SHORT)):
        tokenizer = make()
        rows = [tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True) for text in all_texts[:count]]
        lengths = [sum(row.attention_mask) for row in rows]
        for row, length in zip(rows, lengths):
            assert row.input_ids[length:] == [tokenizer.pad_token_id] * (LENGTH - length)
        ids = torch.tensor([i for row, length in zip(rows, lengths) for i in row.input_ids[:length]])
        tensors[f"{name}.lengths"] = torch.tensor(lengths, dtype=torch.uint8)
        tensors[f"{name}.low"] = (ids % 256).to(torch.uint8)
        tensors[f"{name}.high"] = (ids // 256).to(torch.uint8)
        print(name, len(tokenizer), "tokens,", len(ids), "ids")
    save_file(tensors, HERE / "golden.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
