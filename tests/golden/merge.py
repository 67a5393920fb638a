#!/usr/bin/env python3
"""Make tests/golden/merge/: four small folders in each of three storages, and what PyTorch says about their merges.

    python tests/golden/merge.py

f32/ single files; bf16/ two shards and an index; f16/ single files. FOLDER/1..4 are the checkpoints, oldest first, FOLDER/expected.safetensors
holds `METHOD/TENSOR`. All sums are in float64 by another way than lehr's where there is one: the mean, the recursion of the PMA paper's
Eq. 4, SGD with scaled updates for wsm; then torch's conversion to the stored type. Among the numbers are both zeros, the smallest
subnormals, exact ties of a mean, and large ones. Same versions, same bytes.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent / "merge"
SHAPES = {"model.embed_tokens.weight": (11, 6), "model.layers.0.norm.weight": (7,), "model.layers.0.up.weight": (5, 9),
          "lm_head.weight": (11, 6), "model.empty": (0, 3), "model.scalar": ()}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CONFIG = {"architectures": ["GoldenForCausalLM"], "model_type": "golden", "vocab_size": 11, "hidden_size": 6,
          "tie_word_embeddings": False}


def checkpoints(dtype):
    """Four of a random walk, as stored."""
    g = torch.Generator().manual_seed(20250519)
    walk = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in SHAPES.items()}
    out = []
    for _ in range(4):
        out.append({name: x.to(dtype) for name, x in walk.items()})
        walk = {name: x + 0.1 * torch.randn(x.shape, generator=g, dtype=torch.float64) for name, x in walk.items()}
    tiny, large = {torch.float32: 2.0**-149, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}[dtype], 60000.0
    for i, c in enumerate(out):
        special = c["model.layers.0.norm.weight"]
        special[0] = -0.0
        special[1] = [0.0, -0.0, 0.0, -0.0][i]
        special[2] = tiny * [1, 2, 3, 5][i]
        special[3] = large if i % 2 else -large
        # The mean lies exactly between two stored numbers.
        special[4] = 1.0 + torch.finfo(dtype).eps * [0, 0, 1, 1][i]
        special[5] = 1.0 + torch.finfo(dtype).eps * [1, 1, 2, 2][i]
    return out


def merges(xs):
    """Each method on a list of float64 tensors, oldest first."""
    def ema(alpha):
        acc = xs[0]
        for x in xs[1:]:
            acc = alpha * x + (1 - alpha) * acc
        return acc

    def wsm(remaining):
        """Where SGD would be, had each update been scaled by what remains of the learning rate in its middle."""
        acc, n = xs[0], len(xs) - 1
        for j, (a, b) in enumerate(zip(xs, xs[1:])):
            acc = acc + remaining((j + 0.5) / n) * (b - a)
        return acc

    stack = torch.stack(xs)
    each = (-1,) + (1,) * xs[0].dim()
    normalised = torch.tensor([0.8 ** (3 - i) for i in range(4)], dtype=torch.float64)
    return {
        "sma": stack.mean(0),
        "wma": (stack * torch.arange(1, 5, dtype=torch.float64).reshape(each)).sum(0) / 10,
        "ema": ema(0.2),
        "ema-normalized": (stack * (normalised / normalised.sum()).reshape(each)).sum(0),
        "wsm": wsm(lambda t: 1 - t**0.5),
        "weights": (xs[0] * 0.5 - xs[1] + xs[2] * 0.25 + xs[3] * 3.0) / 2.75,
    }


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for kind, dtype in DTYPES.items():
        inputs = checkpoints(dtype)
        for i, tensors in enumerate(inputs):
            folder = HERE / kind / str(i + 1)
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": str(dtype).split(".")[1]}, indent=2) + "\n")
            if kind != "bf16":
                save_file(tensors, folder / "model.safetensors", {"format": "pt"})
                continue
            names = sorted(tensors)
            shards = {f"model-0000{k + 1}-of-00002.safetensors": names[k::2] for k in range(2)}
            for file, part in shards.items():
                save_file({n: tensors[n] for n in part}, folder / file, {"format": "pt"})
            index = {"metadata": {"total_size": 0}, "weight_map": {n: f for f, part in shards.items() for n in part}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        expected = {}
        for name in SHAPES:
            for method, merged in merges([c[name].double() for c in inputs]).items():
                expected[f"{method}/{name}"] = merged.to(dtype)
        save_file({k: v.contiguous() for k, v in expected.items()}, HERE / kind / "expected.safetensors")


if __name__ == "__main__":
    main()
