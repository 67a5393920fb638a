#!/usr/bin/env python3
"""Compare lehr with transformers on tiny models of random shape: every architecture with every kind of rotation.

    python scripts/oracle/shapes.py --lehr target/release/lehr --count 40 --seed 0
    python scripts/oracle/shapes.py --lehr target/release/lehr --count 20 --adapter vulkan --saved 0

Of N models `lehr score --grads` is compared with transformers in float64 (tests/golden/make.py says how): log-probabilities of every
token and the gradient of every parameter, as max |got - want| / (|want| + rms(want)). config.json is written as transformers 5
writes it, as transformers 4 did, or in both dialects. A text longer than a sliding window, and one longer than max_position_embeddings
under dynamic scaling, must be refused with the field's name.

Every --saved'th model is also trained by lehr for one step at a rate that changes nothing, and the checkpoint opened by transformers: its
log-probabilities must be those of the model it began from.

Exit status 1 if anything differs. Needs torch, transformers, tokenizers, safetensors; downloads nothing.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from random_folder import character_tokenizer, keep_own_tokenizer, random_weights

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "golden"))
from make import NoFloat32, in_double  # noqa: E402

CONFIGS = dict(llama=LlamaConfig, mistral=MistralConfig, qwen2=Qwen2Config, qwen3=Qwen3Config)
ROPES = ["default", "linear", "dynamic", "yarn", "llama3"]
DIALECTS = ["5", "4", "both"]
TOLERANCE = 2e-4


# ---- random models

def rope(kind, r):
    out = dict(rope_type=kind, rope_theta=r.choice([100.0, 10000.0, 12345.678, 500000.0, 1e6]))
    if kind != "default":
        out["factor"] = r.choice([1.0, 1.5, 2.0, 4.0, 32.0])
    if kind in ["yarn", "llama3"] and r.random() < 0.9:
        out["original_max_position_embeddings"] = r.choice([8, 16, 64, 256, 8192])
    if kind == "llama3":
        out.update(low_freq_factor=r.choice([0.5, 1.0]), high_freq_factor=r.choice([2.5, 4.0]))
    if kind == "yarn":
        options = dict(beta_fast=r.uniform(2, 40), beta_slow=r.uniform(0.2, 2), truncate=r.random() < 0.5,
                       attention_factor=r.uniform(0.5, 1.5), mscale=r.uniform(0.5, 1.5), mscale_all_dim=r.uniform(0.5, 1.5))
        out.update({k: v for k, v in options.items() if r.random() < 0.4})
    return out


def random_config(arch, kind, r, vocab):
    kv_heads = r.randint(1, 4)
    heads = kv_heads * r.choice([1, 1, 2, 3])
    head_dim = r.choice([8, 12, 16, 20, 24, 32, 48, 64, 100, 128])
    layers, context = r.randint(1, 3), r.choice([70, 96, 128, 333])
    sizes = [h for h in range(12, 121, 4) if arch in ["mistral", "qwen3"] or h % heads == 0]
    # Qwen2 has no head_dim of its own, and others may leave theirs out.
    free = arch == "qwen3" or (arch in ["llama", "mistral"] and r.random() < 0.6)
    more = dict(head_dim=head_dim) if free else {}
    if arch == "mistral":
        more["sliding_window"] = r.choice([None, 70, 96, 4096])
    if arch in ["llama", "qwen3"]:
        more["attention_bias"] = r.random() < 0.4
    if arch in ["qwen2", "qwen3"] and r.random() < 0.5:
        # A window that no layer has.
        more.update(use_sliding_window=True, sliding_window=r.choice([None, 4]), max_window_layers=layers)
        if more["sliding_window"] is None:
            more["max_window_layers"] = 0
    return CONFIGS[arch](
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        hidden_size=r.choice(sizes) if free and sizes else heads * head_dim, intermediate_size=4 * r.randint(4, 40), vocab_size=vocab,
        tie_word_embeddings=r.random() < 0.5, max_position_embeddings=context, rms_norm_eps=r.choice([1e-3, 1e-5, 1e-6]),
        rope_parameters=rope(kind, r), bos_token_id=None, eos_token_id=2, pad_token_id=None, **more)


def write_dialect(folder, dialect):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if dialect != "5":
        parameters = config["rope_parameters"] if dialect == "both" else config.pop("rope_parameters")
        old = copy.deepcopy(parameters)
        config["rope_theta"] = old.pop("rope_theta")
        config["rope_scaling"] = None if old["rope_type"] == "default" else old
    path.write_text(json.dumps(config, indent=2))


def make(arch, kind, r, seed, folder):
    tokenizer = character_tokenizer(r)
    config = random_config(arch, kind, r, len(tokenizer))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    random_weights(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if arch == "qwen2":
        keep_own_tokenizer(folder)
    dialect = r.choice(DIALECTS)
    write_dialect(folder, dialect)
    c = config
    words = [f"{arch} L{c.num_hidden_layers} H{c.num_attention_heads}/{c.num_key_value_heads}",
             f"D{getattr(c, 'head_dim', None) or c.hidden_size // c.num_attention_heads} C{c.hidden_size} F{c.intermediate_size}",
             "tied" if c.tie_word_embeddings else "untied", "bias" if getattr(c, "attention_bias", False) else "",
             f"window {c.sliding_window}" if arch == "mistral" else "", f"context {c.max_position_embeddings}", f"dialect {dialect}",
             " ".join(f"{k}={v}" for k, v in c.rope_parameters.items())]
    return model, " ".join(word for word in words if word)


# ---- the two sides

class Lehr:
    def __init__(self, binary, adapter):
        self.binary, self.more = binary, ["--adapter", adapter] if adapter else []

    def run(self, *words):
        command = [str(self.binary), *map(str, words), *self.more]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def lines(self, *words):
        done = self.run(*words, "--json")
        if done.returncode:
            raise RuntimeError(f"lehr {words[0]}: status {done.returncode}: {done.stderr.strip()[-600:]}")
        return [json.loads(line) for line in done.stdout.splitlines()]


def relative(got, want):
    """max |got - want| / (|want| + rms(want)); a number that is not finite is infinitely wrong."""
    got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
    if got.shape != want.shape or not got.isfinite().all():
        return float("inf")
    scale = want.abs() + want.square().mean().sqrt()
    return ((got - want).abs() / scale.clamp_min(1e-300)).max().item()


def logprobs(model, row):
    """log p(row[i + 1] | row[..=i])"""
    logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1]
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(row[1:])[:, None])[:, 0]


def reference(model, rows):
    """In f64: all log-probabilities, and the gradient of minus their mean."""
    with NoFloat32():
        double = in_double(model)
        logp = torch.cat([logprobs(double, row) for row in rows])
        (-logp.mean()).backward()
    return logp.detach(), {name: p.grad for name, p in double.named_parameters()}


def write_rows(file, rows):
    file.write_text("".join(json.dumps(dict(tokens=row)) + "\n" for row in rows))


def compare(lehr, model, folder, rows):
    """(largest error of log-probabilities, of gradients, its parameter)"""
    write_rows(folder / "rows.jsonl", rows)
    found = lehr.lines("score", "--model", folder, "--tokens", folder / "rows.jsonl", "--grads", folder / "grads.out")
    want, grads = reference(model, rows)
    got = load_file(folder / "grads.out")
    if got.keys() != grads.keys():
        raise RuntimeError(f"other names of gradients: {sorted(got.keys() ^ grads.keys())[:5]}")
    errors = {name: relative(got[name], grads[name]) for name in grads}
    worst = max(errors, key=errors.get)
    return relative([x for line in found for x in line["logprobs"][1:]], want), errors[worst], worst


def refused(lehr, folder, row, field):
    """A complaint unless lehr refuses to score this row and names the field."""
    write_rows(folder / "long.jsonl", [row])
    done = lehr.run("score", "--model", folder, "--tokens", folder / "long.jsonl", "--json")
    output = [line for line in done.stderr.splitlines() if "XDG_RUNTIME_DIR" not in line]
    if done.returncode == 0 or not any(field in line for line in output):
        return f"{len(row)} tokens are not refused with {field}: {' | '.join(output)[-300:]}"
    return ""


def saved(lehr, model, folder, rows):
    """The error of transformers on a checkpoint that lehr saved, against the model it began from."""
    text = folder / "text.txt"
    text.write_text("The lehr cools the glass slowly.\n" * 200)
    done = lehr.run("pretrain", "--init", folder, "--data", text, "--run", folder / "run", "--max-steps", 1, "--batch-size", 1, "--seq-len", 16,
                    "--learning-rate", 1e-12, "--min-learning-rate", 0, "--lr-scheduler", "constant", "--warmup-steps", 0, "--weight-decay", 0, "--eval-every", 0)
    if done.returncode:
        raise RuntimeError(f"lehr pretrain: status {done.returncode}: {done.stderr.strip()[-600:]}")
    newest = max((folder / "run" / "checkpoints").glob("step-*"))
    again = AutoModelForCausalLM.from_pretrained(newest, dtype=torch.float32, local_files_only=True, attn_implementation="eager").eval()
    if type(again) is not type(model):
        raise RuntimeError(f"saved as {type(again).__name__}")
    with torch.no_grad():
        got, want = (torch.cat([logprobs(m, row) for row in rows]) for m in (again, model))
    return relative(got, want)


def check(lehr, arch, kind, seed, folder, also_saved):
    """(what the model is, what was measured, complaints)"""
    r = random.Random(f"{arch} {kind} {seed}")
    model, words = make(arch, kind, r, seed, folder)
    c, bad = model.config, []
    window = c.sliding_window if arch == "mistral" else None
    most = min(c.max_position_embeddings, window or c.max_position_embeddings)
    often = [r.randrange(c.vocab_size) for _ in range(3)]
    draw = lambda n: [r.choice(often) if r.random() < 0.3 else r.randrange(c.vocab_size) for _ in range(n)]
    rows = [draw(n) for n in [2, r.randint(3, 30), most]]
    logp, grad, worst = compare(lehr, model, folder, rows)
    measured = f"logprobs {logp:.1e} gradients {grad:.1e} ({worst})"
    if not max(logp, grad) <= TOLERANCE:
        bad.append("differs")
    if window and window < c.max_position_embeddings:
        bad.append(refused(lehr, folder, draw(window + 1), "sliding_window"))
    if kind == "dynamic":
        bad.append(refused(lehr, folder, draw(c.max_position_embeddings + 1), "context is"))
    if also_saved:
        error = saved(lehr, model, folder, rows)
        measured += f" saved {error:.1e}"
        if not error <= TOLERANCE:
            bad.append("the saved checkpoint differs")
    return words, measured, [complaint for complaint in bad if complaint]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lehr", type=Path, required=True, help="the binary")
    p.add_argument("--count", type=int, default=20, help="models; twenty are every architecture with every kind of rotation")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--adapter", help="for lehr")
    p.add_argument("--saved", type=int, default=3, metavar="N", help="also save every N'th model; 0: none")
    args = p.parse_args()
    pairs = [(arch, kind) for kind in ROPES for arch in CONFIGS]
    lehr, failures = Lehr(args.lehr.resolve(), args.adapter), 0
    for i in range(args.count):
        arch, kind = pairs[i % len(pairs)]
        with tempfile.TemporaryDirectory(prefix="shapes-") as scratch:
            words = f"{arch} {kind}"
            try:
                also = args.saved > 0 and i % args.saved == 0
                words, measured, bad = check(lehr, arch, kind, args.seed + i, Path(scratch), also)
            except (RuntimeError, OSError, KeyError, ValueError) as error:
                measured, bad = "", [f"{type(error).__name__}: {error}"]
        failures += bool(bad)
        print(f"{i:3} {'ok  ' if not bad else 'BAD '}{words}: {measured}", *bad, sep="\n      " if bad else "", flush=True)
    print(f"{args.count} models, {failures} with differences")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
