#!/usr/bin/env python3
"""What a training step and a decoding step would take on GPUs, estimated on paper and not measured; docs/gpus.md has the output.

    python3 scripts/gpus/estimate.py [--kernels MODEL] [--fusions]

The operations are those of crates/core/src/model/transformer.rs, with the FLOPs and bytes that src/ops states. A kernel takes the longest of its
arithmetic, its memory traffic and a launch. How much of a card's peak its kernels reach is assumed, below, from the compilers' figures
(scripts/check-gpus); nothing here was measured.
"""

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A card's data sheet, and the shares of it that kernels are assumed to reach."""

    name: str
    tflops: float  # f32, without matrix units
    gbytes: float  # GB/s of memory
    matmul: float  # share of tflops in large products
    attention: float  # share of tflops in attention
    units: int  # that work on a workgroup each
    launch: float = 4e-6  # seconds of a dispatch that does nothing


# RDNA3's data sheets count two operations a cycle that ACO pairs seldom (VOPD = 0 in its figures).
CARDS = [
    Card("RX 7900 XT", 51.5, 800, 0.35, 0.12, 84),
    Card("RTX 3060", 12.7, 360, 0.50, 0.20, 28),
    Card("RTX 4090", 82.6, 1008, 0.45, 0.18, 128),
    Card("Apple M1", 2.6, 68, 0.50, 0.20, 8, 8e-6),
    Card("Arc A770", 19.7, 560, 0.30, 0.10, 32, 8e-6),
    Card("Adreno 740", 3.4, 67, 0.25, 0.10, 6, 20e-6),
]
MEMORY_SHARE = 0.75  # of the data sheet's bandwidth, in a kernel that streams
TILE = 64  # rows and columns of the smallest tile of a product
LOGITS = 256 << 20  # bytes of logits at once: `Sizes::GPU`
ENOUGH = 256  # workgroups among which the depth of a product with few tiles is divided: `parts` of src/ops/matmul/choose.rs


@dataclass(frozen=True)
class Model:
    """A shape and the batch that is trained."""

    name: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    batch: int
    time: int
    qk_norm: bool = False

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def parameters(self) -> int:
        block = self.width * (self.qkv + self.heads * self.head_dim + 3 * self.hidden + 2)
        return self.layers * block + self.width * (self.vocab + 1)


MODELS = [
    Model("nano", 4, 128, 352, 4, 4, 32, 65, 12, 64),
    Model("small", 6, 384, 1024, 6, 6, 64, 65, 64, 256),
    Model("SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152, 8, 512),
    Model("Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 64, 151936, 8, 512),
]
# For what only its family has.
QWEN3 = Model("Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128, 151936, 8, 512, qk_norm=True)


@dataclass
class Kernel:
    """All dispatches of one kind in a step."""

    kind: str  # matmul, attention or memory
    calls: float
    flops: float  # of all calls
    numbers: float  # read and written, of all calls
    groups: float = 1e9  # workgroups of a call

    def seconds(self, card: Card) -> tuple[float, str]:
        """Time, and what bounds it."""
        share = {"matmul": card.matmul, "attention": card.attention, "memory": 0.5}[self.kind]
        bounds = {
            # Workgroups in whole rounds: the units that have none in the last wait.
            "arithmetic": self.flops / (card.tflops * 1e12 * share) * math.ceil(self.groups / card.units) * card.units / self.groups,
            "memory": 4 * self.numbers / (card.gbytes * 1e9 * MEMORY_SHARE),
            "launches": self.calls * card.launch,
        }
        bound = max(bounds, key=lambda name: bounds[name])
        return bounds[bound], bound


def product(calls: float, rows: int, cols: int, depth: int, added: bool = False, divided: bool = False) -> Kernel:
    passes = 2 if added else 1
    numbers = rows * depth + cols * depth + passes * rows * cols
    groups = math.ceil(rows / TILE) * math.ceil(cols / TILE)
    if divided or 8 < rows <= TILE:
        groups *= max(min(ENOUGH // groups, depth // 128), 1)
    return Kernel("matmul", calls, calls * 2.0 * rows * cols * depth, calls * float(numbers), groups)


def together(parts: list[Kernel]) -> Kernel:
    """Several products; of their workgroups the mean, weighted by work."""
    flops, calls = sum(p.flops for p in parts), sum(p.calls for p in parts)
    groups = sum(p.flops for p in parts) / sum(p.flops / p.groups for p in parts)
    return Kernel("matmul", calls, flops, sum(p.numbers for p in parts), groups)


def training_step(m: Model) -> dict[str, Kernel]:
    n, c, layers = m.batch * m.time, m.width, m.layers
    q = m.heads * m.head_dim
    pairs = m.batch * m.heads * m.time * (m.time + 1) / 2

    def attention(products: float, qkvs: float, outs: float, calls: int) -> Kernel:
        numbers = layers * n * (qkvs * m.qkv + outs * q)
        return Kernel("attention", calls, layers * 2 * products * m.head_dim * pairs, numbers)

    def stream(calls: int, numbers: float) -> Kernel:
        return Kernel("memory", calls, numbers, numbers)

    linear = [(m.qkv, c), (c, q), (2 * m.hidden, c), (c, m.hidden)]
    kernels: dict[str, Kernel] = {}
    for kind, sizes in {
        "forward products": [(n, out, into) for out, into in linear],
        "gradients of inputs": [(n, into, out) for out, into in linear],
        "gradients of weights": [(out, into, n) for out, into in linear],
    }.items():
        backward, added = kind != "forward products", kind == "gradients of weights"
        parts = [product(layers, *size, added=added, divided=backward) for size in sizes]
        if kind == "gradients of inputs":
            # SwiGLU's gradient in the last one's epilogue: reads gate and up, writes their gradients.
            parts[-1].numbers += 3 * layers * n * m.hidden
        kernels[kind] = together(parts)
    # Logits of all tokens at once would take gigabytes.
    chunk = min(n, max(LOGITS // (4 * m.vocab) // 64 * 64, 64))
    chunks = n / chunk
    head = [
        product(chunks, chunk, m.vocab, c),
        product(chunks, chunk, c, m.vocab, divided=True),
        product(chunks, m.vocab, c, chunk, added=True, divided=True),
    ]
    kernels["head"] = together(head)
    kernels["attention forward"] = attention(2, 1, 1, layers)
    kernels["attention backward"] = attention(7, 3, 4, 2 * layers)
    kernels["norms"] = stream((2 * 3) * layers + 3, (2 * layers + 1) * n * c * (3 + 6 + 2))
    k = m.kv_heads * m.head_dim
    if m.qk_norm:
        kernels["q/k norm and RoPE"] = stream(6 * layers, layers * n * ((4 + 7 + 3) * (q + k) + 2 * 2 * k))
    else:
        kernels["RoPE"] = stream(2 * layers, layers * 2 * 3 * n * (q + k))
    kernels["SwiGLU"] = stream(layers, layers * n * m.hidden * 3)
    kernels["loss"] = stream(3, 4.0 * n * m.vocab)
    kernels["embedding"] = stream(2, 4.0 * n * c)
    kernels["norm of the gradient, AdamW"] = stream(6, 9.0 * m.parameters)
    return kernels


def fusions(m: Model) -> list[tuple[str, float]]:
    """What each fusion of kernels saves, or would save, in a block: numbers read and written."""
    n, c, f = m.batch * m.time, m.width, m.hidden
    rotated = (m.heads + m.kv_heads) * m.head_dim
    found = [
        ("residual in the product's epilogue (done)", 2 * 2 * n * c),
        ("norm in the next product's loads", 2 * 2 * n * c),
        ("norm's two gradients in one pass", 2 * 2 * n * c),
        ("SwiGLU in the product's epilogue", 2 * n * f),
        ("SwiGLU's gradient in the product's epilogue (done)", 2 * n * f),
    ]
    if m.qk_norm:
        return [*found, ("q/k norm with RoPE and the copy of values (done)", (4 + 3) * n * rotated)]
    return [*found, ("RoPE in the epilogues before and after it", 2 * 2 * n * rotated)]


def decoding_step(m: Model, rows: int, cached: int) -> dict[str, Kernel]:
    """One new token of each of `rows` sequences with `cached` keys."""
    linear = [(m.qkv, m.width), (m.width, m.heads * m.head_dim), (2 * m.hidden, m.width), (m.width, m.hidden)]
    parts = [product(m.layers, rows, out, into) for out, into in linear] + [product(1, rows, m.vocab, m.width)]
    cache = 2.0 * m.layers * rows * cached * m.kv_heads * m.head_dim
    pairs = m.layers * rows * cached * m.heads
    small = m.layers * 6 + 4
    products = together(parts)
    # Up to 8 rows are row vectors, with a workgroup for every 16 columns; above, few rows leave most of a tile idle.
    products.groups *= TILE / 16 if rows <= 8 else 1
    products.flops *= 1.0 if rows <= 8 else max(TILE / rows, 1.0)
    return {
        "products": products,
        "attention": Kernel("attention", 2 * m.layers, 4.0 * m.head_dim * pairs, cache),
        "norms, RoPE, SwiGLU, sampling": Kernel("memory", small, 0.0, rows * (m.layers * 12.0 * m.width + 2.0 * m.vocab)),
    }


def total(kernels: dict[str, Kernel], card: Card) -> tuple[float, str]:
    """Seconds, and the kind of kernel and of bound that take most."""
    by: dict[str, float] = {}
    for name, kernel in kernels.items():
        seconds, bound = kernel.seconds(card)
        by[f"{name}: {bound}"] = by.get(f"{name}: {bound}", 0.0) + seconds
    most = max(by, key=lambda name: by[name])
    seconds = sum(by.values())
    return seconds, f"{most} ({100 * by[most] / seconds:.0f} %)"


def rate(tokens: float, seconds: float) -> str:
    value = tokens / seconds
    return f"{value / 1e3:,.0f}k" if value >= 1e4 else f"{value:,.0f}"


def table(title: str, rows: list[list[str]], header: list[str]) -> None:
    print(f"\n**{title}**\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_fusions() -> None:
    card = next(card for card in CARDS if card.name == "RTX 4090")
    models = [*MODELS, QWEN3]
    cells: dict[str, dict[str, str]] = {}
    for m in models:
        kernels = training_step(m)
        step, (step_seconds, _) = 4 * sum(kernel.numbers for kernel in kernels.values()), total(kernels, card)
        for name, numbers in fusions(m):
            saved = 4 * numbers * m.layers
            seconds = saved / (card.gbytes * 1e9 * MEMORY_SHARE)
            # What is done is missing in the step's figures.
            more = 1 if name.endswith("(done)") else 0
            share, of_time = saved / (step + more * saved), seconds / (step_seconds + more * seconds)
            text = f"{4 * numbers / 1e6:,.1f}, {saved / 1e6:,.0f} ({100 * share:.1f} %, {100 * of_time:.1f} %)"
            cells.setdefault(name, {})[m.name] = text
    rows = [[name, *(of.get(m.name, "") for m in models)] for name, of in cells.items()]
    title = f"Fusions: MB a block, MB a training step (share of its bytes, of its estimated time on an {card.name})"
    table(title, rows, ["fusion", *(m.name for m in models)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", metavar="MODEL", help="also the kernels of one model on every card")
    parser.add_argument("--fusions", action="store_true", help="instead: the bytes that fusions of kernels save")
    args = parser.parse_args()
    if args.fusions:
        print_fusions()
        return
    wanted = args.kernels
    rows = []
    for m in MODELS:
        for card in CARDS:
            seconds, most = total(training_step(m), card)
            rows.append([m.name, card.name, rate(m.batch * m.time, seconds), f"{1e3 * seconds:,.1f} ms", most])
    table("Training, tokens/s (estimates)", rows, ["model", "card", "tokens/s", "a step", "what takes most"])
    rows = []
    for m in MODELS:
        for sequences in (1, 64):
            cells = []
            for card in CARDS:
                seconds, _ = total(decoding_step(m, sequences, min(m.time, 512)), card)
                cells.append(rate(sequences, seconds))
            rows.append([m.name, str(sequences), *cells])
    table("Sampling, tokens/s (estimates)", rows, ["model", "sequences", *(c.name for c in CARDS)])
    for m in MODELS:
        kernels = training_step(m)
        body = [[k, str(math.ceil(v.calls)), f"{v.flops / 1e9:,.1f}", f"{4 * v.numbers / 1e6:,.1f}"] for k, v in kernels.items()]
        title = f"{m.name}: {m.parameters / 1e6:,.1f} M parameters, a step of {m.batch} x {m.time} tokens"
        header = ["kernels", "calls", "GFLOP", "MB"]
        if wanted == m.name:
            header += [c.name for c in CARDS]
            for line, kernel in zip(body, kernels.values(), strict=True):
                line += ["{:,.2f} ms {}".format(1e3 * s, b) for s, b in (kernel.seconds(c) for c in CARDS)]
        table(title, body, header)


if __name__ == "__main__":
    main()
