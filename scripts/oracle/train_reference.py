#!/usr/bin/env python3
"""Train lehr's `nano` or `small` preset in PyTorch on the CPU: the loss to reach and the speed to compare with.

    python scripts/oracle/train_reference.py corpus.txt                        # 2,000 steps and the validation loss
    python scripts/oracle/train_reference.py corpus.txt --steps 200 --no-eval  # speed only
    python scripts/oracle/train_reference.py corpus.txt --preset small --batch 4 --steps 20 --no-eval

Characters of the corpus are the tokens; its last 10 % is held out. The model is transformers' own LlamaForCausalLM:
a compact hand-written module of the same arithmetic was tried and was not faster (20,100 against 20,100 tokens/s),
so there is none. --compile adds torch.compile, PyTorch's best on a CPU (about a third faster, needs a C++ compiler).

Needs torch and transformers. Progress goes to stderr, one JSON object to stdout. With two threads on a machine of two
cores anything else that runs costs far more than its share, as the threads wait for each other: measure alone.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

PRESETS = {
    "nano": dict(layers=4, heads=4, dim=128, hidden=352, context=64, batch=12),
    "small": dict(layers=6, heads=6, dim=384, hidden=1024, context=256, batch=64),
}
LR, LR_END, WARMUP = 1e-3, 1e-4, 100
BETAS, EPS, DECAY, CLIP = (0.9, 0.99), 1e-8, 0.1, 1.0


def build(vocab, shape):
    """Random weights as transformers makes them: normal(0.02), gains one, tied embeddings."""
    return LlamaForCausalLM(LlamaConfig(
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["heads"],
        hidden_size=shape["dim"], intermediate_size=shape["hidden"], vocab_size=vocab, tie_word_embeddings=True,
        max_position_embeddings=shape["context"], rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
        bos_token_id=None, eos_token_id=None, pad_token_id=None))


def learning_rate(step, steps):
    """Linear warm-up, then a cosine that reaches LR_END with the last step."""
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - 1 - WARMUP)
    return LR_END + (LR - LR_END) * 0.5 * (1 + math.cos(math.pi * done))


def windows(data, starts, length):
    return torch.stack([data[s:s + length] for s in starts])


def loss_of(model, rows, reduction="mean"):
    """Next-token cross-entropy of rows of T+1 tokens."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model, data, context, batch=64):
    """Mean over every token of the split but its first, in windows side by side; the last one may be shorter."""
    starts = range(0, len(data) - 1, context)
    full = [s for s in starts if s + context < len(data)]
    groups = [full[i:i + batch] for i in range(0, len(full), batch)] + [[s] for s in starts[len(full):]]
    total = sum(loss_of(model, windows(data, group, context + 1), "sum").item() for group in groups)
    return total / (len(data) - 1)


def train(model, data, args, shape):
    """Runs the recipe; returns the last training loss and the seconds of each step."""
    params = list(model.parameters())
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in params if p.dim() >= 2], weight_decay=DECAY),
        dict(params=[p for p in params if p.dim() < 2], weight_decay=0.0),
    ], lr=LR, betas=BETAS, eps=EPS, fused=True)
    rng = torch.Generator().manual_seed(args.seed)
    runner = torch.compile(model) if args.compile else model
    times = []
    for step in range(args.steps):
        start = time.perf_counter()
        starts = torch.randint(len(data) - shape["context"], (shape["batch"],), generator=rng)
        loss = loss_of(runner, windows(data, starts, shape["context"] + 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        optimizer.step()
        times.append(time.perf_counter() - start)
        if step % 100 == 0 or step == args.steps - 1:
            print(f"step {step:5}  loss {loss.item():.4f}  {1000 * statistics.median(times[-100:]):.1f} ms", file=sys.stderr)
    return loss.item(), times


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", help="a text file")
    p.add_argument("--preset", choices=PRESETS, default="nano")
    p.add_argument("--steps", type=int, default=2000, help="the learning-rate schedule is fitted to them")
    p.add_argument("--batch", type=int, help="rows a step, instead of the preset's")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--compile", action="store_true", help="use torch.compile")
    p.add_argument("--no-eval", action="store_true", help="leave the validation loss out")
    args = p.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with open(args.corpus, encoding="utf-8", newline="") as f:
        text = f.read()
    chars = sorted(set(text))
    ids = {c: i for i, c in enumerate(chars)}
    data = torch.tensor([ids[c] for c in text])
    cut = len(data) * 9 // 10
    shape = dict(PRESETS[args.preset])
    shape["batch"] = args.batch or shape["batch"]

    model = build(len(chars), shape)
    loss, times = train(model, data[:cut], args, shape)
    settled = times[min(10, len(times) // 2):]                     # the first steps allocate (and compile)
    tokens = shape["batch"] * shape["context"]
    result = dict(
        preset=args.preset, **shape, vocab=len(chars), parameters=model.num_parameters(), steps=args.steps, seed=args.seed,
        threads=args.threads, compiled=args.compile, torch=torch.__version__, seconds=sum(times), loss=loss,
        tokens_per_s=tokens / statistics.median(settled), best_tokens_per_s=tokens / min(settled))
    if not args.no_eval:
        result["eval_loss"] = validation_loss(model, data[cut:], shape["context"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
