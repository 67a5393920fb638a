#!/usr/bin/env python3
"""Compare lehr with transformers on model folders of random odd shape, and on folders that lehr saved.

    python scripts/oracle/parity.py --lehr target/release/lehr --count 3 --seed 0            # 3 folders of each architecture
    python scripts/oracle/parity.py --lehr target/release/lehr --count 0 --ours RUN/checkpoints/step-00000500 --data TEXT
    python scripts/oracle/parity.py --lehr target/release/lehr --count 0 --train /tmp/p --data TEXT   # train tiny ones, then as --ours

Random folders: `lehr score --grads` (lines of 1 to 200 tokens), `lehr generate --temperature 0` and `lehr eval` against
transformers in float64. Errors are max |got - want| / (|want| + rms(want)). The column `f32` is the same error of transformers
itself in float32: what the arithmetic, not the program, is good for. A greedy continuation may leave the reference's only where
the two likeliest logits are closer than --tie.

Folders of lehr's: opened with AutoModelForCausalLM and AutoTokenizer; tokens, text, loss and greedy continuation must agree.

Exit status 1 if anything failed. Needs torch, transformers, tokenizers, safetensors; downloads nothing.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from random_folder import CONFIGS, DTYPES, SPECIAL, keep_own_tokenizer, random_weights

ASCII = [chr(c) for c in range(32, 127)]
POOL = ASCII + ["\n", "\t"] + [chr(c) for c in (*range(0xA1, 0x180), *range(0x391, 0x3CA), *range(0x4E00, 0x5000), 0x1F600, 0x1F9E0)]
HEAD_DIMS = [8, 12, 16, 20, 24, 28, 32, 40, 44, 64, 80, 96, 100, 128]


# ---- random folders

def odd_four(r, low, high):
    """A multiple of 4, mostly not of 8."""
    return r.choice([n for n in range(low, high, 4) if n % 8 == 4 or r.random() < 0.2])


def shape(arch, r):
    """The arguments of the config class, and head_dim, which it may leave out."""
    kv_heads = r.randint(1, 4)
    heads = kv_heads * r.randint(1, 9 // kv_heads)
    head_dim = r.choice(HEAD_DIMS)
    hidden, free = odd_four(r, 12, 180), r.random() < 0.7
    if arch == "llama" and free:  # transformers requires heads to divide it
        hidden = heads * r.choice([n for n in range(3, 60) if heads * n % 4 == 0 and 12 <= heads * n <= 240])
    if arch == "llama" and not free or arch == "qwen2" and not free:
        hidden = heads * head_dim
    else:
        free = True
    rope = dict(rope_type="default", rope_theta=r.choice([100.0, 10000.0, 12345.678, 500000.0, 1e6]))
    if r.random() < (0.6 if arch == "llama" else 0.3):
        rope.update(rope_type="llama3", factor=r.choice([2.0, 8.0, 32.0]), low_freq_factor=r.choice([1.0, 0.5]),
                    high_freq_factor=r.choice([4.0, 2.5]), original_max_position_embeddings=r.choice([16, 64, 256, 8192]))
    return head_dim, dict(
        num_hidden_layers=r.randint(1, 4), num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=hidden,
        intermediate_size=odd_four(r, 12, 300), vocab_size=r.randint(30, 700), tie_word_embeddings=r.random() < 0.5,
        max_position_embeddings=r.choice([201, 256, 333, 2048]), rms_norm_eps=r.choice([1e-3, 1e-5, 1e-6]),
        rope_parameters=rope, bos_token_id=1, eos_token_id=r.choice([2, 2, [2, 5]]), pad_token_id=0,
        **(dict(head_dim=head_dim) if free else {}))


def tokenizer_of(r, size):
    """One token a character, ids shuffled behind the special ones."""
    chars = r.sample(POOL, size - len(SPECIAL)) if size > 120 else r.sample(ASCII, min(size - len(SPECIAL), len(ASCII)))
    t = Tokenizer(models.WordLevel({c: i for i, c in enumerate(SPECIAL + chars)}, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    t.decoder = decoders.Fuse()
    return chars, PreTrainedTokenizerFast(
        tokenizer_object=t, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False)


def old_dialect(folder):
    """config.json as transformers 4 wrote it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2))


def make_folder(arch, r, seed, out):
    head_dim, config = shape(arch, r)
    vocab = config["vocab_size"]
    chars, tokenizer = tokenizer_of(r, max(30, vocab - r.choice([0, 0, 0, 3, 150])))
    model = AutoModelForCausalLM.from_config(CONFIGS[arch](**config))
    random_weights(model, seed)
    dtype, shards, old = r.choice(list(DTYPES)), r.choice([1, 1, 2, 3]), r.random() < 0.3
    model = model.to(DTYPES[dtype])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(out, max_shard_size=size + 1 if shards == 1 else -(-size // shards))
    tokenizer.save_pretrained(out)
    if arch == "qwen2":
        keep_own_tokenizer(out)
    if old:
        old_dialect(out)
    c, rope = config, config["rope_parameters"]
    words = [f"L{c['num_hidden_layers']} H{c['num_attention_heads']}/{c['num_key_value_heads']} D{head_dim}"
             + ("" if "head_dim" in c else "*"), f"C{c['hidden_size']} F{c['intermediate_size']} V{vocab}",
             "tied" if c["tie_word_embeddings"] else "untied", f"{rope['rope_type']} {rope['rope_theta']:g}",
             f"eps {c['rms_norm_eps']:g}", dtype, f"{len(list(out.glob('*.safetensors')))} file(s)", "config of 4" if old else ""]
    return chars, " ".join(words)


# ---- asking lehr, asking transformers

class Lehr:
    def __init__(self, binary, adapter):
        self.binary, self.more = binary, ["--adapter", adapter] if adapter else []

    def __call__(self, *args):
        """The JSON lines it prints."""
        done = subprocess.run([self.binary, *map(str, args), "--json", *self.more], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "XDG_RUNTIME_DIR" not in line]
            raise RuntimeError(f"lehr {args[0]}: status {done.returncode}: " + " | ".join(lines)[-600:])
        return [json.loads(line) for line in done.stdout.splitlines()]


def relative(got, want):
    """max |got - want| / (|want| + rms(want)); a number that is not finite is infinitely wrong."""
    got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = want.abs() + want.square().mean().sqrt()
    return ((got - want).abs() / scale.clamp_min(1e-300)).max().item() if want.numel() else 0.0


def log_softmax(model, ids):
    return torch.log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], dim=-1)


def score(model, rows):
    """Log-probabilities and entropies of every line, their losses, and the gradient of the mean over all of them."""
    model.zero_grad()
    # torch leaves out the gradient of the padding token's row, wherever that token stands.
    model.get_input_embeddings().padding_idx = None
    count = sum(len(row) - 1 for row in rows)
    out = []
    for row in rows:
        logp = log_softmax(model, row)[:-1]
        chosen = logp.gather(-1, torch.tensor(row[1:])[:, None])[:, 0]
        if len(row) > 1:
            (-chosen.sum() / count).backward()
        entropy = -(logp.exp() * logp).sum(-1)
        out.append((chosen.detach(), entropy.detach()))
    return out, {name: p.grad.clone() for name, p in model.named_parameters()}


def mean_loss(model, documents, seq_len):
    """`lehr eval`: windows without overlap over the documents one after another; none sees or predicts across a boundary."""
    stream = [(d, t) for d, document in enumerate(documents) for t in document]
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(stream) - 1, seq_len):
            window = stream[start:start + seq_len + 1]
            for d in sorted({d for d, _ in window}):
                ids = [t for e, t in window if e == d]
                if len(ids) > 1:
                    logp = log_softmax(model, ids[:-1])
                    total -= logp.gather(-1, torch.tensor(ids[1:])[:, None]).sum().item()
                    count += len(ids) - 1
    return total / count, count


def greedy(model, prompt, count, eos):
    """transformers' own generate, end token left out, and the gap between the two likeliest logits at every step."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=count, output_logits=True, return_dict_in_generate=True)
    ids = out.sequences[0, len(prompt):].tolist()
    gaps = [(t := step[0].topk(2).values)[0].item() - t[1].item() for step in out.logits]
    return (ids[:-1] if ids and ids[-1] in eos else ids), gaps


def compare_greedy(got, want, gaps, tie):
    """A complaint, or an empty text."""
    for i in range(max(len(got), len(want))):
        pair = [ids[i] if i < len(ids) else None for ids in (got, want)]
        if pair[0] != pair[1]:
            return "" if gaps[min(i, len(gaps) - 1)] < tie else f"token {i} is {pair[0]}, not {pair[1]} (gap {gaps[i]:.2g})"
    return ""


def lines_of(r, vocab):
    """Token lines; some tokens often, so that gradients of one row of the embedding are summed from many places."""
    often = [r.randrange(vocab) for _ in range(3)]
    draw = lambda: r.choice(often) if r.random() < 0.3 else r.randrange(vocab)
    return [[draw() for _ in range(n)] for n in [r.randint(2, 63), 1, 2, r.randint(65, 127), 200, 64, r.randint(128, 199)]]


def check_random(lehr, folder, chars, r, tie):
    """(errors by kind, the worst gradient's name, complaints)"""
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).eval()
    single, model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval(), stored.double()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config, errors, bad = json.loads((folder / "config.json").read_text()), {}, []

    rows = lines_of(r, config["vocab_size"])
    (folder / "lines.jsonl").write_text("".join(json.dumps(dict(tokens=row)) + "\n" for row in rows))
    found = lehr("score", "--model", folder, "--tokens", folder / "lines.jsonl", "--grads", folder / "grads.out")
    (want, grads), (rough, rough_grads) = score(model, rows), score(single, rows)
    if [f["tokens"] for f in found] != rows or any(f["logprobs"][0] is not None for f in found):
        bad.append("score: other lines than asked for")
    for k, kind in enumerate(["logprobs", "entropy"]):
        # Together, so that the scale is not that of a line of two tokens.
        whole = torch.cat([w[k] for w in want])
        errors[kind] = relative([x for f in found for x in f[kind][1:]], whole)
        errors[kind + " f32"] = relative(torch.cat([w[k] for w in rough]), whole)
    losses = [(f["loss"], -w[0].mean().item()) for f, w in zip(found, want) if len(w[0])]
    errors["loss"] = max(abs(got - expected) / expected for got, expected in losses)
    got = load_file(folder / "grads.out")
    if got.keys() != grads.keys():
        bad.append(f"gradients: names differ: {sorted(got.keys() ^ grads.keys())}")
    by_name = {name: relative(got[name], want) for name, want in grads.items() if name in got}
    worst = max(by_name, key=by_name.get)
    errors["grads"] = by_name[worst]
    errors["grads f32"] = max(relative(rough_grads[name], want) for name, want in grads.items())

    prompt = "".join(r.choice(chars) for _ in range(r.randint(1, 40)))
    eos = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    new = lehr("generate", "--model", folder, "--prompt", prompt, "--max-new-tokens", 32, "--temperature", 0)[0]
    expected, gaps = greedy(model, ids, 32, eos)
    if new["prompt_tokens"] != ids:
        bad.append("generate: the prompt is encoded otherwise")
    elif complaint := compare_greedy(new["tokens"], expected, gaps, tie):
        bad.append("generate: " + complaint)
    elif new["text"] != tokenizer.decode(new["tokens"]):
        bad.append(f"generate: text {new['text']!r}, not {tokenizer.decode(new['tokens'])!r}")

    several = r.random() < 0.5
    texts = ["".join(r.choice(chars) for _ in range(r.randint(1, 150))) for _ in range(7 if several else 1)]
    if not several:
        texts[0] *= 4
    documents = [tokenizer.encode(t, add_special_tokens=False).ids + ([2] if several else []) for t in texts]
    data = folder / ("data.jsonl" if several else "data.txt")
    data.write_text("".join(json.dumps(dict(text=t)) + "\n" for t in texts) if several else texts[0], newline="")
    seq_len = r.choice([7, 16, 33, 64])
    if sum(map(len, documents)) > 1:
        loss, count = mean_loss(model, documents, seq_len)
        out = lehr("eval", "--model", folder, "--data", data, "--seq-len", seq_len, "--batch-size", r.randint(1, 5))[0]
        errors["eval"] = abs(out["eval_loss"] - loss) / loss
        if out["eval_tokens"] != count:
            bad.append(f"eval: scored {out['eval_tokens']} tokens, not {count}")
    return errors, worst, len(set(expected)), bad


# ---- folders that lehr saved

TEXTS = ["First Citizen:\nBefore we proceed", "  two  spaces \n\n and lines\n", "To be, or not to be: that's the question!", "a", "\n"]
WIDE = ["ünï — 中文 😀\t1234567 don't I'LL x\r\n", "<|endoftext|>after"]


def check_ours(lehr, folder, data, scratch, tie):
    """Figures to print, and complaints."""
    bad, out = [], {}
    kept = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    model, info = kept[0].double().eval(), kept[1]
    bad += [f"from_pretrained: {k}: {v}" for k, v in info.items() if v]
    auto = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wide = plain.get_vocab_size() > 255
    for text in TEXTS + (WIDE if wide else []):
        line = scratch / "line.jsonl"
        line.write_text(json.dumps(dict(text=text)))
        ours = lehr("score", "--model", folder, "--tokens", line)[0]["tokens"]
        theirs, raw = auto.encode(text, add_special_tokens=False), plain.encode(text, add_special_tokens=False).ids
        if not ours == raw:
            bad.append(f"{text!r}: lehr encodes {ours[:8]}, tokenizer.json {raw[:8]}")
        if not ours == theirs:
            bad.append(f"{text!r}: lehr encodes {ours[:8]}, AutoTokenizer ({type(auto).__name__}) {theirs[:8]}")
        elif auto.decode(theirs) != text and "<|" not in text:
            bad.append(f"{text!r}: AutoTokenizer decodes {auto.decode(theirs)!r}")
        if auto.encode(text) != theirs:
            bad.append(f"{text!r}: AutoTokenizer adds special tokens by default")
    text = data.read_text()[-1500:]
    part = scratch / "part.txt"
    part.write_text(text)
    seq_len = min(64, model.config.max_position_embeddings)
    got = lehr("eval", "--model", folder, "--data", part, "--seq-len", seq_len)[0]
    want, count = mean_loss(model, [plain.encode(text, add_special_tokens=False).ids], seq_len)
    out.update(loss=want, eval=abs(got["eval_loss"] - want) / want)
    if got["eval_tokens"] != count:
        bad.append(f"eval: scored {got['eval_tokens']} tokens, not {count}")
    for prompt in TEXTS[:2]:
        room = model.config.max_position_embeddings - len(auto.encode(prompt))
        new = lehr("generate", "--model", folder, "--prompt", prompt, "--max-new-tokens", 32, "--temperature", 0)[0]
        ids = new["prompt_tokens"]
        eos = model.generation_config.eos_token_id
        expected, gaps = greedy(model, ids, min(32, room), [] if eos is None else eos if isinstance(eos, list) else [eos])
        if complaint := compare_greedy(new["tokens"], expected, gaps, tie):
            bad.append("generate: " + complaint)
        elif new["tokens"] == expected and new["text"] != auto.decode(expected, skip_special_tokens=True):
            bad.append(f"generate: text {new['text']!r}, not {auto.decode(expected)!r}")
    return out, bad


TINY = [
    ("llama chars", ["--num-key-value-heads", "2"]),
    ("llama bytes", ["--tokenizer", "bytes", "--tie-word-embeddings", "false", "--head-dim", "20", "--num-attention-heads", "2"]),
    ("llama heads do not divide", ["--hidden-size", "100", "--head-dim", "24", "--num-attention-heads", "3"]),
    ("llama bpe:300", ["--tokenizer", "bpe:300", "--hidden-size", "60", "--num-attention-heads", "3"]),
    ("qwen2 chars", ["--architecture", "qwen2", "--num-key-value-heads", "1"]),
    ("qwen2 bytes", ["--architecture", "qwen2", "--tokenizer", "bytes", "--tie-word-embeddings", "false"]),
    ("qwen2 bpe:300", ["--architecture", "qwen2", "--tokenizer", "bpe:300", "--head-dim", "24"]),
    ("qwen3 chars", ["--architecture", "qwen3", "--num-key-value-heads", "2", "--head-dim", "40"]),
    ("qwen3 bpe:300", ["--architecture", "qwen3", "--tokenizer", "bpe:300", "--intermediate-size", "116"]),
    ("qwen3 bytes", ["--architecture", "qwen3", "--tokenizer", "bytes", "--hidden-size", "52", "--head-dim", "12"]),
]


def train_tiny(lehr, root, data):
    """(name, checkpoint folder or the error) of each."""
    for name, flags in TINY:
        run = root / name.replace(" ", "-").replace(":", "")
        try:
            if not run.exists():
                size = [] if "--hidden-size" in flags else ["--hidden-size", 64]
                lehr("pretrain", "--preset", "nano", "--num-hidden-layers", 2, *size, "--max-steps", 5, "--warmup-steps", 1,
                     "--eval-tokens", 256, "--data", data, "--val-data", data.parent / "val.txt", "--run", run, *flags)
            yield name, max((run / "checkpoints").glob("step-*"))
        except (RuntimeError, ValueError) as e:
            yield name, e


# ---- the table

LIMITS = {"logprobs": 1e-4, "entropy": 1e-4, "loss": 1e-4, "grads": 5e-4, "eval": 1e-4}
COLUMNS = ["logprobs", "logprobs f32", "entropy", "entropy f32", "loss", "grads", "grads f32", "eval"]


def row(name, errors, rest=""):
    print(f"{name:<13}" + "".join(f"{errors[c]:>13.1e}" if c in errors else f"{'-':>13}" for c in COLUMNS) + "  " + rest, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lehr", required=True, metavar="BINARY")
    p.add_argument("--count", type=int, default=3, metavar="N", help="random folders of each architecture")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first of them; the next have S + 1, ...")
    p.add_argument("--arch", choices=CONFIGS, action="append", help="only this one; may be repeated")
    p.add_argument("--ours", type=Path, action="append", default=[], metavar="DIR", help="a folder that lehr saved; may be repeated")
    p.add_argument("--train", type=Path, metavar="DIR", help="train ten tiny models here for five steps, and check them as --ours")
    p.add_argument("--data", type=Path, metavar="TEXT", help="text for --ours and --train")
    p.add_argument("--tie", type=float, default=1e-4, help="gap in logits below which a greedy choice may differ (default 1e-4)")
    p.add_argument("--adapter", help="handed on to lehr")
    p.add_argument("--keep", type=Path, metavar="DIR", help="write the random folders here and leave them")
    args = p.parse_args()
    if (args.ours or args.train) and not args.data:
        p.error("--ours and --train need --data")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    lehr, failures, worst_by_arch = Lehr(args.lehr, args.adapter), [], {}

    scratch = tempfile.TemporaryDirectory(prefix="lehr-parity-")
    root = args.keep or Path(scratch.name)
    if args.count:
        print(f"{'':<13}" + "".join(f"{c:>13}" for c in COLUMNS))
    for arch in args.arch or CONFIGS:
        for seed in range(args.seed, args.seed + args.count):
            name, r, begin = f"{arch} {seed}", random.Random(f"parity {arch} {seed}"), time.time()
            folder = root / f"{arch}-{seed}"
            chars, words = make_folder(arch, r, seed, folder)
            try:
                errors, worst, distinct, bad = check_random(lehr, folder, chars, r, args.tie)
            except RuntimeError as e:
                errors, worst, distinct, bad = {}, "", 0, [str(e)]
            bad += [f"{c} {errors[c]:.2e} is above {limit:g}" + (f" ({worst})" if c == "grads" else "")
                    for c, limit in LIMITS.items() if errors.get(c, 0) > limit]
            row(name, errors, f"{words}; worst {worst}; {distinct} different tokens; {time.time() - begin:.0f} s")
            failures += [f"{name} ({words}): {b}" for b in bad]
            for b in bad:
                print(f"    FAILED {b}", flush=True)
            total = worst_by_arch.setdefault(arch, {})
            for c, e in errors.items():
                total[c] = max(total.get(c, 0.0), e)
    for arch, errors in worst_by_arch.items():
        row(f"{arch} max", errors)

    ours = [(str(folder), folder) for folder in args.ours]
    if args.train:
        args.train.mkdir(parents=True, exist_ok=True)
        text = args.data.read_text()
        data = args.train / "train.txt"
        data.write_text(text[:60000])
        (args.train / "val.txt").write_text(text[-3000:])
        ours += train_tiny(lehr, args.train, data)
    for name, folder in ours:
        try:
            if isinstance(folder, Exception):
                raise folder
            out, bad = check_ours(lehr, folder, args.data, Path(scratch.name), args.tie)
            bad += [f"eval {out['eval']:.2e} is above {LIMITS['eval']:g}"] if out["eval"] > LIMITS["eval"] else []
            print(f"{name:<28} loss {out['loss']:.4f}, eval differs by {out['eval']:.1e}: {'FAILED' if bad else 'ok'}", flush=True)
        except Exception as e:
            bad = [f"{type(e).__name__}: {' '.join(str(e).split())[:500]}"]
            print(f"{name:<28} FAILED", flush=True)
        for b in bad:
            print(f"    {b}", flush=True)
        failures += [f"{name}: {b}" for b in bad]

    print(f"{len(failures)} failure(s)" if failures else "all agree")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
