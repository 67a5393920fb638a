"""What --matmul-precision float16 changes, on one device: precision.py LEHR [--adapter NAME] [--steps N]

Compares float16 with float32: losses of a `nano` pretraining run on assets/stories.txt (same data, same seed), gradients of one step of the
models in tests/golden, and of GRPO the ratio before an update and the log-probabilities of the sampler beside those of the scorer. For
drivers other than the machine's, set VK_DRIVER_FILES as scripts/check-gpus does; LEHR may be a script that does so.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ["llama-gqa", "qwen2", "qwen3"]
PRECISIONS = ["float32", "float16"]


def tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of each tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    begin = 8 + length
    return {
        name: (entry["dtype"], entry["shape"], data[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def norm(values: list[float]) -> float:
    return math.sqrt(sum(v * v for v in values))


def gradients(path: Path) -> list[float]:
    found: list[float] = []
    for _, (dtype, _, data) in sorted(tensors(path).items()):
        if dtype != "F32":
            sys.exit(f"precision.py: {path}: {dtype}")
        found += array("f", data).tolist()
    return found


def golden(command: list[str], flags: list[str], folder: Path) -> None:
    for model in MODELS:
        place = ROOT / "tests/golden" / model
        _, shape, data = tensors(place / "golden.safetensors")["tokens"]
        rows = array("q", data).tolist()
        lines = [json.dumps({"tokens": rows[i * shape[1] : (i + 1) * shape[1]]}) for i in range(shape[0])]
        texts = folder / "tokens.jsonl"
        texts.write_text("\n".join(lines) + "\n")
        found = []
        for precision in PRECISIONS:
            out = folder / f"{model}-{precision}.safetensors"
            words = ["score", f"--model={place}", f"--tokens={texts}", f"--grads={out}", "--json", f"--matmul-precision={precision}"]
            subprocess.run([*command, *words, *flags], check=True, stdout=subprocess.DEVNULL)
            found.append(gradients(out))
        exact, rounded = found
        error = norm([a - b for a, b in zip(exact, rounded, strict=True)]) / norm(exact)
        cosine = sum(a * b for a, b in zip(exact, rounded, strict=True)) / (norm(exact) * norm(rounded))
        print(f"{model:<12} gradients: |difference| / |gradient| = {error:.2e}, 1 - cosine = {1 - cosine:.1e}", flush=True)


def losses(command: list[str], flags: list[str], folder: Path, steps: int) -> None:
    found = []
    for precision in PRECISIONS:
        run = folder / f"run-{precision}"
        words = ["pretrain", "--preset=nano", f"--data={ROOT / 'assets/stories.txt'}", f"--run={run}", f"--max-steps={steps}"]
        words += ["--warmup-steps=5", "--eval-every=0", "--save-every=0", f"--matmul-precision={precision}"]
        subprocess.run([*command, *words, *flags], check=True, stdout=subprocess.DEVNULL)
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        found.append({event["step"]: event["loss"] for event in events if event["event"] == "Step"})
    exact, rounded = found
    shared = sorted(set(exact) & set(rounded))
    if not shared:
        sys.exit("precision.py: no losses in the logs")
    differences = [abs(exact[s] - rounded[s]) for s in shared]
    last = shared[-1]
    print(f"nano, {len(shared)} losses: from {exact[shared[0]]:.4f} to {exact[last]:.4f} (float32), {rounded[last]:.4f} (float16); "
          f"largest difference {max(differences):.1e}, mean {sum(differences) / len(shared):.1e}", flush=True)  # fmt: skip


def policy(command: list[str], flags: list[str], folder: Path) -> None:
    rows, base = folder / "rows.jsonl", folder / "base"
    task = ["--form=compact", "--people=2-3"]
    shape = ["--hidden-size=64", "--intermediate-size=176", "--num-hidden-layers=3", "--initializer-range=0.08"]
    # The same weights for both, and good enough that some answers are right.
    run = ["--tokenizer=words", "--seq-len=96", "--max-position-embeddings=192", "--batch-size=16", "--max-steps=300", "--warmup-steps=10"]
    for words in [
        ["data", "kk", *task, "--count=400", "--seed=1", f"--out={rows}"],
        ["pretrain", "--adapter=cpu", f"--data={rows}", *shape, *run, "--eval-every=0", "--save-every=0", f"--run={base}"],
    ]:
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    for precision in PRECISIONS:
        run = folder / f"grpo-{precision}"
        words = ["grpo", f"--init={base}", "--task=kk", *task, "--max-completion-length=48", "--batch-size=16", "--num-generations=4"]
        words += ["--max-steps=6", "--eval-every=0", "--eval-questions=8", "--save-every=0", f"--run={run}", f"--matmul-precision={precision}"]
        subprocess.run([*command, *words, *flags], check=True, stdout=subprocess.DEVNULL)
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        steps = [event for event in events if event["event"] == "Step"]
        if not steps or not all(event["grad_norm"] > 0 for event in steps):
            sys.exit("precision.py: GRPO made no update")
        # Completions without a gradient are left out of an update: the others then lie at other places of a mini-batch than for the scorer.
        same = [event["ratio_deviation"] for event in steps if event["frac_reward_zero_std"] == 0]
        moved = [event["ratio_deviation"] for event in steps if event["frac_reward_zero_std"] > 0]
        mismatch = max(event["mismatch/logprob_max_abs"] for event in steps)
        print(f"GRPO, {precision}, mean |ratio - 1| before an update: {max(same, default=math.nan):.1e} in {len(same)} steps with all "
              f"completions, {max(moved, default=math.nan):.1e} in {len(moved)} others; log-probabilities of sampler and scorer at most "
              f"{mismatch:.1e} apart", flush=True)  # fmt: skip
        if any(same):
            sys.exit("precision.py: the ratio must be 1")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("lehr", nargs="+", help="the binary, with what must stand before it")
    parser.add_argument("--adapter", default="vulkan")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    # Without measurements cooperative matrices are used for every product with more than 8 rows.
    os.environ["LEHR_TUNE"] = "off"
    with tempfile.TemporaryDirectory() as name:
        golden(args.lehr, [f"--adapter={args.adapter}"], Path(name))
        policy(args.lehr, [f"--adapter={args.adapter}"], Path(name))
        losses(args.lehr, [f"--adapter={args.adapter}"], Path(name), args.steps)


if __name__ == "__main__":
    main()
