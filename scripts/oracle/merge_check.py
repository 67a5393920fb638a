#!/usr/bin/env python3
"""Merge folders that transformers wrote with lehr and with torch in float64, and compare every tensor.

    python scripts/oracle/merge_check.py --lehr target/release/lehr
    python scripts/oracle/merge_check.py --lehr target/release/lehr --seed 9 --arch qwen3 --count 5 --keep /tmp/kept

For llama, qwen2 and qwen3 in f32, bf16 and f16, single and sharded: a random model, `count` checkpoints of a random walk from it, saved by
save_pretrained; each merged by every method. torch forms the mean, the recursion and so on in float64 and converts once at the end.
Most numbers must be the same to the bit. A number may be the neighbour of torch's where the exact result lies between the two (within
1e-12 of a step of the middle): there the order of summing decides. Then transformers opens lehr's folder and the logits must be those
of torch's merge. Prints a line a case and exits 1 on any difference.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from random_folder import DTYPES, character_tokenizer, random_config, random_weights  # noqa: E402

METHODS = {"sma": [], "wma": [], "ema": ["--alpha=0.1"], "ema-normalized": ["--alpha=0.2"], "wsm": ["--decay=linear"], "weights": []}


def merged(xs, method, given):
    """A list of float64 tensors, oldest first, as one."""
    n = len(xs)
    if method == "sma":
        return torch.stack(xs).mean(0)
    if method == "ema":
        acc = xs[0]
        for x in xs[1:]:
            acc = 0.1 * x + (1 - 0.1) * acc
        return acc
    if method == "wsm":
        acc = xs[0]
        for j, (a, b) in enumerate(zip(xs, xs[1:])):
            acc = acc + (1 - (j + 0.5) / (n - 1)) * (b - a)
        return acc
    weights = {"wma": list(range(1, n + 1)), "ema-normalized": [0.8 ** (n - 1 - i) for i in range(n)], "weights": given}[method]
    return sum(w * x for w, x in zip(weights, xs)) / sum(weights)


def tensors_of(folder):
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out.update(load_file(file))
    return out


def compare(got, exact, dtype):
    """(numbers that differ in a bit, whether each of those is a true tie)."""
    want = exact.to(dtype)
    differ = got != want
    if not differ.any():
        return 0, True
    a, b = got[differ].double(), want[differ].double()
    neighbours = torch.nextafter(want[differ], got[differ]) == got[differ]
    return int(differ.sum()), bool(neighbours.all() and (((a + b) / 2 - exact[differ]).abs() <= 1e-6 * (a - b).abs()).all())


def make(args, arch, dtype, shards, folder):
    """Checkpoints of a random walk, as transformers saves them; returns their folders."""
    import random
    r = random.Random(f"{arch} {args.seed}")
    tokenizer = character_tokenizer(r)
    config = random_config(arch, r, len(tokenizer))
    model = AutoModelForCausalLM.from_config(config)
    random_weights(model, args.seed)
    g = torch.Generator().manual_seed(args.seed)
    out = []
    for i in range(args.count):
        path = folder / f"checkpoint-{100 * (i + 1)}"
        stored = AutoModelForCausalLM.from_config(config)
        stored.load_state_dict(model.state_dict())
        stored = stored.to(DTYPES[dtype])
        size = sum(p.numel() * p.element_size() for p in stored.parameters())
        stored.save_pretrained(path, max_shard_size=size + 1 if shards == 1 else -(-size // shards))
        tokenizer.save_pretrained(path)
        out.append(path)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * p.std() * torch.randn(p.shape, generator=g))
    return out


def case(args, arch, dtype, shards, folder):
    inputs = make(args, arch, dtype, shards, folder)
    files = len(list(inputs[0].glob("*.safetensors")))
    loaded = [tensors_of(p) for p in inputs]
    given = [0.5, -1.0, 0.25] + [1.5] * (args.count - 3)
    failures = 0
    for method, flags in METHODS.items():
        out = folder / method
        if method == "weights":
            flags = ["--weights=" + ",".join(map(str, given))]
        command = [args.lehr, "merge", *map(str, inputs), f"--method={method}", *flags, f"--out={out}", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"FAILED {arch} {dtype} {method}: {done.stderr.strip()}")
            failures += 1
            continue
        got, numbers, differ, ties = load_file(out / "model.safetensors"), 0, 0, True
        same = set(got) == set(loaded[0])
        reference = {}
        for name, x in got.items():
            exact = merged([t[name].double() for t in loaded], method, given)
            same &= x.dtype == DTYPES[dtype] and x.shape == exact.shape
            count, tie = compare(x, exact, DTYPES[dtype])
            numbers, differ, ties = numbers + x.numel(), differ + count, ties and tie
            reference[name] = exact.to(DTYPES[dtype])
        opened = AutoModelForCausalLM.from_pretrained(out).eval()
        tokens = torch.tensor([AutoTokenizer.from_pretrained(out)("The kiln is slow.").input_ids])
        want = AutoModelForCausalLM.from_pretrained(inputs[-1]).eval()
        want.load_state_dict(reference, strict=False)
        want.tie_weights()
        with torch.no_grad():
            apart = (opened(tokens).logits - want(tokens).logits).abs().max().item()
        near = apart < (1e-4 if dtype == "f32" else 0.5)
        dtype_kept = next(opened.parameters()).dtype == DTYPES[dtype]
        ok = same and ties and near and dtype_kept and json.loads(done.stdout)["recipe"]["method"] == method
        failures += not ok
        print(f"{'ok    ' if ok else 'FAILED'} {arch:5} {dtype:4} {files} file(s) x {len(inputs)}, {method:14} {len(got)} tensors, "
              f"{numbers} numbers, {differ} at a tie rounded the other way, logits {apart:.1e} apart")
    return failures


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lehr", default="target/release/lehr")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--count", type=int, default=4, help="checkpoints, at least 3")
    p.add_argument("--arch", nargs="+", default=["llama", "qwen2", "qwen3"])
    p.add_argument("--keep", type=Path, help="leave the folders here")
    args = p.parse_args()
    torch.set_num_threads(1)
    root = args.keep or Path(tempfile.mkdtemp())
    failures = 0
    try:
        for arch in args.arch:
            for dtype, shards in [("f32", 1), ("bf16", 1), ("bf16", 3), ("f16", 2)]:
                failures += case(args, arch, dtype, shards, root / f"{arch}-{dtype}-{shards}")
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    print("all tensors agree" if failures == 0 else f"{failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
