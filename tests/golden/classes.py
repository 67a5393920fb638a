#!/usr/bin/env python3
"""Which rules AutoTokenizer uses for a folder's tokenizer_class: tests/golden/classes.json, which tests/parity/tokenizer_classes.rs compares with.

    pip install transformers tokenizers
    tests/golden/classes.py

transformers 5 builds some classes by rules of their own and takes only vocabulary, merges, added tokens and post-processor from tokenizer.json.
Each case is a folder of tests/golden/vocabularies with other parts of tokenizer.json and other files beside it, and what transformers makes
of it: ids of texts, and the text of ids.
"""

import json
import random
import tempfile
from pathlib import Path

import tokenizers
import transformers

HERE = Path(__file__).parent
TEXTS = [
    "", "a", " a", "Once  there ", "<s>x</s>\ny z", "the </s> cat", "<|endoftext|>the cat", "the cat\n\n sat 1234 56",
    "Kühlofen 🔥 é e\u0301", "don't DON'T", "▁the", "x<think> y</think>z",
]  # fmt: skip
LEGACY = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
    },
    "pre_tokenizer": None,
}
PLAIN = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
}
LLAMA, QWEN2, QWEN3, MISTRAL = ({"model_type": t} for t in ["llama", "qwen2", "qwen3", "mistral"])
FAST = "PreTrainedTokenizerFast"
AUTO = {"auto_map": {"AutoTokenizer": [None, "unused.Unused"]}}
# base, parts of tokenizer.json, config.json, tokenizer_config.json
CASES = [
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "LlamaTokenizer"}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "LlamaTokenizer", "legacy": True}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "LlamaTokenizer", "legacy": None}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": FAST}),
    ("llama", LEGACY, LLAMA, {}),
    ("llama", LEGACY, {**LLAMA, "tokenizer_class": "LlamaTokenizer"}, {}),
    ("llama", LEGACY, MISTRAL, {"tokenizer_class": "LlamaTokenizer"}),
    ("llama", LEGACY, QWEN3, {"tokenizer_class": "LlamaTokenizerFast"}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "GemmaTokenizer"}),
    ("llama", LEGACY, LLAMA, {"tokenizer_class": "NoSuchTokenizer"}),
    ("llama", {}, LLAMA, {"tokenizer_class": "LlamaTokenizer", "split_special_tokens": True}),
    ("llama", {}, LLAMA, {"tokenizer_class": FAST, "split_special_tokens": True}),
    ("listed", {}, LLAMA, {"tokenizer_class": "LlamaTokenizer"}),
    ("listed", {}, LLAMA, {"tokenizer_class": FAST, "split_special_tokens": True}),
    ("listed", PLAIN, QWEN2, {"tokenizer_class": FAST}),
    ("listed", PLAIN, QWEN2, {"tokenizer_class": FAST, **AUTO}),
    ("listed", PLAIN, QWEN2, {"tokenizer_class": "Qwen2Tokenizer"}),
    ("listed", PLAIN, QWEN3, {"tokenizer_class": "Qwen2Tokenizer"}),
    ("listed", PLAIN, QWEN3, {"tokenizer_class": FAST}),
    ("listed", PLAIN, QWEN3, {}),
    ("listed", PLAIN, LLAMA, {"tokenizer_class": "Qwen2TokenizerFast"}),
    ("listed", PLAIN, LLAMA, {"tokenizer_class": "CohereTokenizerFast"}),
    ("listed", {**PLAIN, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
        PLAIN["pre_tokenizer"]]}}, LLAMA, {"tokenizer_class": "GPT2Tokenizer"}),
]  # fmt: skip


def golden(base, parts, config, changes):
    source = HERE / "vocabularies" / base
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = {"tokenizer.json": parts, "tokenizer_config.json": changes}
        for file, change in files.items():
            content = json.loads((source / file).read_text())
            if file == "tokenizer_config.json":
                content.pop("tokenizer_class")
            (folder / file).write_text(json.dumps({**content, **change}))
        (folder / "config.json").write_text(json.dumps(config))
        fast = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [{"text": text, "ids": fast(text)["input_ids"]} for text in TEXTS]
    draw, size = random.Random(0), len(fast)
    hidden = {fast.bos_token_id, fast.eos_token_id, fast.pad_token_id}
    decoded = []
    for _ in range(6):
        ids = [id for id in (draw.randrange(size) for _ in range(24)) if id not in hidden]
        decoded.append({"ids": ids, "text": fast.decode(ids, clean_up_tokenization_spaces=False)})
    out = {"base": base, "parts": parts, "config": config, "tokenizer_config": changes}
    return {**out, "class": type(fast).__name__, "texts": texts, "decoded": decoded}


def main():
    cases = [golden(*case) for case in CASES]
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "classes.json").write_text(f'{{"versions": {json.dumps(versions)},\n"cases": [\n{lines}\n]}}\n')


main()
