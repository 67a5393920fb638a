#!/usr/bin/env python3
"""Make the golden folders: tiny Hugging Face models and what PyTorch says about them.

    pip install torch transformers safetensors
    python tests/golden/make.py            # remakes every folder beside this file
    python tests/golden/make.py qwen3      # only the named ones

Each folder NAME/ holds
    config.json, model.safetensors   as transformers' save_pretrained writes them (f32)
    golden.safetensors               the reference numbers, see `reference_numbers` below

The weights are f32; the reference numbers are computed in f64 from those very f32 values and rounded
to f32 at the end (scalars and short series stay f64). Nothing is downloaded, every random number
comes from a seeded generator, and a second run on the same versions writes the same bytes.
"""

import copy
import json
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from transformers import (
    LlamaConfig, LlamaForCausalLM,
    MistralConfig, MistralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM,
    Qwen3Config, Qwen3ForCausalLM,
)

HERE = Path(__file__).resolve().parent

B, T = 3, 19            # the batch; 19 is prime, so no tile size divides it
PROMPT, CONTINUE = 5, 12   # greedy continuation: tokens[0, :5], then 12 more
STEPS = 10              # AdamW steps on the one batch
LR, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0
DOCUMENTS = (7, 1, 11)  # packed documents in one row of 19, one of them a single token

# ---------------------------------------------------------------------------------------------
# The models. Shapes are odd on purpose: vocabularies are prime, heads * head_dim differs from
# hidden in qwen3, and the llama-3 scaling has its bend inside the 19 positions.
# ---------------------------------------------------------------------------------------------

NO_SPECIAL = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)

LLAMA3_SCALING = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)

MODELS = {
    # Grouped queries (6 query heads on 2 key/value heads), two layers, its own output matrix.
    "llama-gqa": (LlamaForCausalLM, lambda: LlamaConfig(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        intermediate_size=80, vocab_size=61, tie_word_embeddings=False, max_position_embeddings=64,
        rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=10000.0), **NO_SPECIAL)),
    # Tied embeddings and Llama-3 RoPE scaling.
    "llama-tied": (LlamaForCausalLM, lambda: LlamaConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64, vocab_size=67, tie_word_embeddings=True, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_parameters=dict(rope_theta=500000.0, **LLAMA3_SCALING), **NO_SPECIAL)),
    # Biases on q, k and v.
    "qwen2": (Qwen2ForCausalLM, lambda: Qwen2Config(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, vocab_size=59, tie_word_embeddings=True, max_position_embeddings=64,
        rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **NO_SPECIAL)),
    # RMSNorm on each head of q and k; four heads of 16 on a hidden size of 40.
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(
        num_hidden_layers=2, hidden_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=44, vocab_size=53, tie_word_embeddings=False, max_position_embeddings=64,
        rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **NO_SPECIAL)),
    # attention_bias: q, k, v and output. Dynamic scaling, which is none up to max_position_embeddings.
    "llama-bias": (LlamaForCausalLM, lambda: LlamaConfig(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, attention_bias=True,
        intermediate_size=36, vocab_size=59, tie_word_embeddings=True, max_position_embeddings=19,
        rms_norm_eps=1e-5, rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0), **NO_SPECIAL)),
    # A sliding window as wide as the context, linear scaling, heads * head_dim differs from hidden.
    "mistral": (MistralForCausalLM, lambda: MistralConfig(
        num_hidden_layers=2, hidden_size=28, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
        intermediate_size=36, vocab_size=59, tie_word_embeddings=False, max_position_embeddings=64, sliding_window=19,
        rms_norm_eps=1e-5, rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=10000.0), **NO_SPECIAL)),
    # YaRN by its defaults, as Qwen's model cards write it; a window that no layer has.
    "qwen2-yarn": (Qwen2ForCausalLM, lambda: Qwen2Config(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=36, vocab_size=59, tie_word_embeddings=True, max_position_embeddings=64,
        use_sliding_window=True, sliding_window=4, max_window_layers=2, rms_norm_eps=1e-6,
        rope_parameters=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0), **NO_SPECIAL)),
    # YaRN with every other field, biases under the q/k norms.
    "qwen3-yarn": (Qwen3ForCausalLM, lambda: Qwen3Config(
        num_hidden_layers=2, hidden_size=28, num_attention_heads=4, num_key_value_heads=2, head_dim=12, attention_bias=True,
        intermediate_size=36, vocab_size=53, tie_word_embeddings=True, max_position_embeddings=128,
        rms_norm_eps=1e-6, rope_parameters=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=100.0, beta_fast=4.0, beta_slow=0.5,
            mscale=1.3, mscale_all_dim=0.6, truncate=False), **NO_SPECIAL)),
}
V4 = ["llama-tied", "qwen2-yarn"]   # have a config.v4.json too


def build(name):
    """The model with random f32 weights: none is zero or one, so that no term can hide."""
    cls, config = MODELS[name]
    config = config()
    config._attn_implementation = "eager"
    model = cls(config).eval()
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        for key, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "norm" in key:
                p.copy_(1.0 + 0.2 * noise)                        # gains around one
            elif key.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "embed" in key or "lm_head" in key:
                p.copy_(0.5 * noise)
            else:
                p.copy_(1.5 / p.shape[1] ** 0.5 * noise)          # large enough that attention is not flat
    return model, g


# ---------------------------------------------------------------------------------------------
# f64 all the way
# ---------------------------------------------------------------------------------------------

class NoFloat32(TorchFunctionMode):
    """Turns every conversion to f32 into one to f64.

    `model.double()` is not enough: transformers computes RMSNorm, the RoPE tables and the attention
    softmax in f32 whatever the weights are.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        swap = lambda a: torch.float64 if a is torch.float32 else a
        kwargs = {k: swap(v) for k, v in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(swap, args), **kwargs)


def in_double(model):
    """A f64 copy of the model whose RoPE frequencies are f64 too (they are made in the constructor)."""
    double = copy.deepcopy(model).double()
    rope = double.model.rotary_emb
    if rope.rope_type == "default":
        rope.inv_freq, rope.attention_scaling = rope.compute_default_rope_parameters(model.config)
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
        rope.inv_freq, rope.attention_scaling = ROPE_INIT_FUNCTIONS[rope.rope_type](model.config, "cpu")
    assert rope.inv_freq.dtype == torch.float64
    return double


def logits_of(model, tokens):
    """(B, T, V); asserts that the whole forward pass stayed in f64."""
    logits = model(input_ids=tokens, use_cache=False).logits
    assert logits.dtype == torch.float64
    return logits


def token_numbers(logits, tokens):
    """Log-probability of each next token and entropy of the distribution it was drawn from, in nats."""
    logp = torch.log_softmax(logits[:, :-1], dim=-1)
    chosen = logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return chosen, entropy                                        # both (B, T-1)


# ---------------------------------------------------------------------------------------------
# The reference numbers
# ---------------------------------------------------------------------------------------------

def greedy(model, prompt):
    """The likeliest token, CONTINUE times. Refuses a model where rounding could change the choice."""
    ids = prompt.clone()
    for _ in range(CONTINUE):
        top = logits_of(model, ids[None])[0, -1].topk(2)
        assert top.values[0] - top.values[1] > 1e-2, "too close a call for f32"
        ids = torch.cat([ids, top.indices[:1]])
    return ids[len(prompt):]


def train(model, tokens):
    """Losses and gradient norms of STEPS AdamW steps; each is measured before its update."""
    params = list(model.parameters())
    optimizer = torch.optim.AdamW([
        dict(params=[p for p in params if p.dim() >= 2], weight_decay=DECAY),
        dict(params=[p for p in params if p.dim() < 2], weight_decay=0.0),
    ], lr=LR, betas=BETAS, eps=EPS, foreach=False)
    losses, norms = [], []
    for _ in range(STEPS):
        loss = -token_numbers(logits_of(model, tokens), tokens)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params, CLIP).detach())
        losses.append(loss.detach())
        optimizer.step()
    return torch.stack(losses), torch.stack(norms)


def packed(model, g):
    """Documents packed in one row: each is run alone, and the logits are put side by side.

    doc_start[t] is the row position where the document of token t begins. RoPE is relative, so it makes
    no difference whether positions run on or restart at each document.
    """
    row = torch.randint(model.config.vocab_size, (sum(DOCUMENTS),), generator=g)
    logits, doc_start, at = [], [], 0
    for length in DOCUMENTS:
        logits.append(logits_of(model, row[None, at:at + length])[0])
        doc_start += [at] * length
        at += length
    return {
        "packed.tokens": row,                                     # (19) i64
        "packed.doc_start": torch.tensor(doc_start),              # (19) i64
        "packed.logits": torch.cat(logits).float(),               # (19, V)
    }


def reference_numbers(name, model, g):
    """Everything in golden.safetensors. f32 unless said otherwise."""
    tokens = torch.randint(model.config.vocab_size, (B, T), generator=g)
    with torch.no_grad():
        plain = model(input_ids=tokens, use_cache=False).logits   # transformers as it comes, in f32

    with NoFloat32():
        double = in_double(model)
        logits = logits_of(double, tokens)
        logprobs, entropy = token_numbers(logits, tokens)
        loss = -logprobs.mean()
        loss.backward()
        out = {
            "tokens": tokens,                                     # (B, T) i64
            "logits": logits.detach(),                            # (B, T, V)
            "logprobs": logprobs.detach(),                        # (B, T-1), of tokens[:, 1:]
            "entropy": entropy.detach(),                          # (B, T-1)
            "loss": loss.detach(),                                # () f64: mean of -logprobs
        }
        for key, p in double.named_parameters():                  # d loss / d parameter; tied ones once
            assert p.grad.abs().max() > 0, key
            out[f"grad.{key}"] = p.grad.clone()
        with torch.no_grad():
            out["greedy"] = greedy(double, tokens[0, :PROMPT])    # (12) i64
            more = packed(double, g) if name == "llama-gqa" else {}
        out["losses"], out["grad_norms"] = train(double, tokens)  # (10) f64 each; last, as it moves the weights

    assert torch.allclose(logits.float(), plain, atol=2e-4), "the f64 pass and transformers' own disagree"
    short = {"loss", "losses", "grad_norms"}
    rounded = {k: v if k in short or not v.is_floating_point() else v.float() for k, v in out.items()}
    return {k: v.contiguous() for k, v in {**rounded, **more}.items()}


# ---------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------

def write_v4_config(folder):
    """config.v4.json: the same model as transformers 4 would have written it."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    (folder / "config.v4.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name):
    folder = HERE / name
    model, g = build(name)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)   # says nothing here
    if name in V4:
        write_v4_config(folder)
    numbers = reference_numbers(name, model, g)
    save_file(numbers, folder / "golden.safetensors", metadata={"made_by": "tests/golden/make.py"})

    size = sum(f.stat().st_size for f in folder.iterdir())
    losses = numbers["losses"]
    print(f"{name:11} {sum(p.numel() for p in model.parameters()):6} parameters  {size / 1000:5.0f} kB  "
          f"loss {losses[0]:.4f} -> {losses[-1]:.4f}  grad_norm {numbers['grad_norms'][0]:.3f}  "
          f"entropy {numbers['entropy'].mean():.3f}")


if __name__ == "__main__":
    if set(sys.argv[1:]) & {"-h", "--help"}:
        sys.exit(__doc__)
    torch.set_num_threads(1)                                      # one order of summation
    for name in sys.argv[1:] or MODELS:
        make(name)
