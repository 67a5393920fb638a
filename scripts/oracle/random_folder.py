#!/usr/bin/env python3
"""Write a Hugging Face folder with a small model of random odd shape and random weights, for parity tests.

    python scripts/oracle/random_folder.py --arch qwen3 --seed 7 --out /tmp/q7
    python scripts/oracle/random_folder.py --arch llama --seed 1 --out /tmp/l1 --dtype bf16 --shards 3

The seed decides everything: layers, heads, key/value groups, head_dim (some no power of two), sizes, tied or not,
RoPE base, and for llama sometimes llama-3 or linear scaling and an attention bias. Gains and biases are random too. The
tokenizer has one token a character, so its vocabulary is odd as well. Prints the shape as JSON.

Then `check_folder.py OUT --tokens ...` says what transformers computes and lehr can be asked the same.
Needs torch, transformers, tokenizers.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config,
)

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
CHARACTERS = "\n !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyzäßéñπλжя中文字😀"


def character_tokenizer(r):
    """One token a character, a random subset of the rarer ones, ids shuffled after the special tokens."""
    always = set("\n !?.,ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    chars = [c for c in CHARACTERS if c in always or r.random() < 0.6]
    r.shuffle(chars)
    t = Tokenizer(models.WordLevel({c: i for i, c in enumerate(SPECIAL + chars)}, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    t.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=t, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False)


def keep_own_tokenizer(folder):
    """Makes AutoTokenizer read tokenizer.json although model_type is qwen2.

    transformers 5 holds every tokenizer class named beside a qwen2 model for a mistake and builds Qwen's byte-level BPE from
    the vocabulary instead, which loses spaces and newlines here. An auto_map, never followed, is what stops it.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoTokenizer": [None, "unused.Unused"]}
    path.write_text(json.dumps(config, indent=2) + "\n")


def rope(arch, r, head_dim):
    """The rope_parameters of the config; scaling only for llama."""
    base = dict(rope_theta=r.choice([10000.0, 500000.0, 1000000.0, 12345.0]))
    kind = r.choice(["default", "llama3", "linear"]) if arch == "llama" else "default"
    if kind == "llama3":
        base.update(factor=r.choice([2.0, 8.0, 32.0]), low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=r.choice([16, 64, 256]))
    if kind == "linear":
        base.update(factor=r.choice([2.0, 4.0]))
    return dict(rope_type=kind, **base)


def random_config(arch, r, vocab):
    kv_heads, group = r.randint(1, 4), r.choice([1, 1, 2, 3, 4])
    heads = kv_heads * group
    head_dim = r.choice([8, 12, 16, 20, 24, 32, 40, 48, 64])
    # qwen2 has no head_dim of its own, and llama's is often left out: hidden = heads * head_dim there. transformers refuses a
    # hidden size that heads does not divide for llama, although nothing in the model needs it.
    free = arch == "qwen3" or (arch == "llama" and r.random() < 0.5)
    sizes = [h for h in range(16, 161, 4) if arch == "qwen3" or h % heads == 0]
    hidden = r.choice(sizes) if free else heads * head_dim
    extra = {}
    if arch != "qwen2":
        extra["head_dim"] = head_dim
    if arch == "llama" and r.random() < 0.2:
        extra["attention_bias"] = True
    return CONFIGS[arch](
        num_hidden_layers=r.randint(1, 4), num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=hidden,
        intermediate_size=r.choice(range(20, 301, 4)), vocab_size=vocab, tie_word_embeddings=r.random() < 0.5,
        max_position_embeddings=r.choice([128, 256, 1024]), rms_norm_eps=r.choice([1e-5, 1e-6]),
        rope_parameters=rope(arch, r, head_dim), bos_token_id=1, eos_token_id=2, pad_token_id=0, **extra)


def random_weights(model, seed):
    """Large enough that attention is not flat, gains around one, biases not zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "norm" in key:
                p.copy_(1 + 0.2 * noise)
            elif key.endswith("bias"):
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise * (2.0 / p.shape[1] ** 0.5 if "embed" in key or "lm_head" in key else 1.0 / p.shape[1] ** 0.5))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", choices=CONFIGS, required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--dtype", choices=DTYPES, default="f32", help="of the saved weights")
    p.add_argument("--shards", type=int, default=1, metavar="K", help="about K files and an index, instead of one file")
    args = p.parse_args()

    r = random.Random(f"{args.arch} {args.seed}")
    tokenizer = character_tokenizer(r)
    model = AutoModelForCausalLM.from_config(random_config(args.arch, r, len(tokenizer) + r.choice([0, 0, 1, 5])))
    random_weights(model, args.seed)
    model = model.to(DTYPES[args.dtype])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(args.out, max_shard_size=size + 1 if args.shards == 1 else -(-size // args.shards))
    tokenizer.save_pretrained(args.out)
    if args.arch == "qwen2":
        keep_own_tokenizer(args.out)

    c = model.config
    print(json.dumps(dict(
        out=str(args.out), model=type(model).__name__, dtype=args.dtype, files=len(list(args.out.glob("*.safetensors"))),
        parameters=model.num_parameters(), layers=c.num_hidden_layers, hidden=c.hidden_size, heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads, head_dim=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        intermediate=c.intermediate_size, vocab=c.vocab_size, tokenizer_vocab=len(tokenizer),
        tied=c.tie_word_embeddings, rope=c.rope_parameters)))


if __name__ == "__main__":
    main()
