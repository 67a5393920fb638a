#!/usr/bin/env python3
"""Train lehr's `nano` or `small` preset in PyTorch on the CPU: the loss to reach and the speed to compare with.

    python scripts/oracle/train_reference.py corpus.txt                  # 2,000 steps, validation loss
    python scripts/oracle/train_reference.py corpus.txt --steps 200      # speed only (the schedule is cut short too)
    python scripts/oracle/train_reference.py corpus.txt --preset small --batch 4 --steps 20

Characters of the corpus are the tokens; the last 10 % of it is held out. By default the model is the compact module
below, which has the parameters and the arithmetic of transformers' LlamaForCausalLM (--check proves it) and is faster,
being free of its bookkeeping; --hf trains transformers' own. AdamW is PyTorch's fused one in both cases.

Needs torch; --hf and --check need transformers. Progress goes to stderr, one JSON object to stdout.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {
    "nano": dict(layers=4, heads=4, dim=128, hidden=352, context=64, batch=12),
    "small": dict(layers=6, heads=6, dim=384, hidden=1024, context=256, batch=64),
}
THETA, NORM_EPS = 10000.0, 1e-5
LR, LR_END, WARMUP = 1e-3, 1e-4, 100
BETAS, EPS, DECAY, CLIP = (0.9, 0.99), 1e-8, 0.1, 1.0


# ---- The model. Module names are Hugging Face's, so that one state dict fits both. -----------------------------

class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out, bias=False)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (linear(dim, dim) for _ in range(4))

    def forward(self, x, cos, sin):
        b, t, c = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, c))


def rotate(x, cos, sin):
    """RoPE on pairs (i, i + half), as in Hugging Face's Llama."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class SwiGlu(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(dim, hidden), linear(dim, hidden), linear(hidden, dim)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.input_layernorm, self.self_attn = RmsNorm(dim), Attention(dim, heads)
        self.post_attention_layernorm, self.mlp = RmsNorm(dim), SwiGlu(dim, hidden)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Tokens (B, T) -> logits (B, T, V); the embedding is also the output matrix."""

    def __init__(self, vocab, layers, heads, dim, hidden, context, **_):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(Block(dim, heads, hidden) for _ in range(layers))
        self.norm = RmsNorm(dim)
        half = dim // heads // 2
        angle = torch.outer(torch.arange(context), THETA ** (-torch.arange(half) / half))     # (T, D/2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for p in self.parameters():
            if p.dim() >= 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens):
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


class HfLlama(nn.Module):
    """transformers' LlamaForCausalLM of the same shape, called the same way."""

    def __init__(self, vocab, layers, heads, dim, hidden, context, **_):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM
        self.llama = LlamaForCausalLM(LlamaConfig(
            num_hidden_layers=layers, num_attention_heads=heads, hidden_size=dim, intermediate_size=hidden,
            vocab_size=vocab, tie_word_embeddings=True, max_position_embeddings=context, rms_norm_eps=NORM_EPS,
            rope_parameters=dict(rope_type="default", rope_theta=THETA),
            bos_token_id=None, eos_token_id=None, pad_token_id=None))

    def forward(self, tokens):
        return self.llama(input_ids=tokens, use_cache=False).logits


def check(vocab, shape):
    """The compact module and transformers' agree on logits and on every gradient."""
    ours, theirs = Llama(vocab, **shape), HfLlama(vocab, **shape)
    theirs.llama.model.load_state_dict(ours.state_dict())
    tokens = torch.randint(vocab, (3, shape["context"]))
    for model in (ours, theirs):
        model.logits = model(tokens)
        F.cross_entropy(model.logits.flatten(0, 1), tokens.flatten()).backward()
    grads = dict(theirs.llama.model.named_parameters())
    worst = max(((p.grad - grads[k].grad).norm() / p.grad.norm()).item() for k, p in ours.named_parameters())
    return {"logits_max_abs_difference": (ours.logits - theirs.logits).abs().max().item(),
            "gradient_max_relative_difference": worst}


# ---- The recipe. ---------------------------------------------------------------------------------------------

def learning_rate(step, steps):
    """Linear warm-up, then a cosine that ends at LR_END with the last step."""
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - 1 - WARMUP)
    return LR_END + (LR - LR_END) * 0.5 * (1 + math.cos(math.pi * done))


def windows(data, starts, length):
    return torch.stack([data[s:s + length] for s in starts])


def loss_of(model, rows, reduction="mean"):
    """Next-token cross-entropy of rows of T+1 tokens."""
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model, data, context, batch=64):
    """Mean over every token of the split but its first, in windows side by side; the last may be shorter."""
    starts, total = list(range(0, len(data) - 1, context)), 0.0
    full = [s for s in starts if s + context < len(data)]
    groups = [full[i:i + batch] for i in range(0, len(full), batch)] + [[s] for s in starts if s not in full[-1:] and s > full[-1]]
    for group in groups:
        total += loss_of(model, windows(data, group, context + 1), "sum").item()
    return total / (len(data) - 1)


def train(model, data, args, shape):
    """Runs the recipe; returns the last training loss and the median seconds a step."""
    params = list(model.parameters())
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in params if p.dim() >= 2], weight_decay=DECAY),
        dict(params=[p for p in params if p.dim() < 2], weight_decay=0.0),
    ], lr=LR, betas=BETAS, eps=EPS, fused=True)
    rng = torch.Generator().manual_seed(args.seed)
    times = []
    for step in range(args.steps):
        start = time.perf_counter()
        starts = torch.randint(len(data) - shape["context"], (shape["batch"],), generator=rng)
        loss = loss_of(model, windows(data, starts, shape["context"] + 1))
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
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--batch", type=int, help="rows a step, instead of the preset's")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--hf", action="store_true", help="train transformers' LlamaForCausalLM instead of the compact module")
    p.add_argument("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    p.add_argument("--check", action="store_true", help="compare the two models and stop")
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
    if args.check:
        return print(json.dumps(check(len(chars), shape)))

    model = (HfLlama if args.hf else Llama)(len(chars), **shape)
    runner = torch.compile(model) if args.compile else model
    loss, times = train(runner, data[:cut], args, shape)
    settled = times[min(10, len(times) // 2):]                     # the first steps allocate (and compile)
    tokens = shape["batch"] * shape["context"]
    result = dict(
        preset=args.preset, model="transformers" if args.hf else "compact", compiled=args.compile, seed=args.seed, **shape,
        vocab=len(chars), parameters=sum(p.numel() for p in model.parameters()), steps=args.steps, threads=args.threads,
        torch=torch.__version__, loss=loss,
        tokens_per_s=tokens / statistics.median(settled), best_tokens_per_s=tokens / min(settled), seconds=sum(times))
    if not args.no_eval:
        result["eval_loss"] = validation_loss(model, data[cut:], shape["context"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
