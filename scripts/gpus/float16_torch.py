"""What --matmul-precision float16 changes, emulated in PyTorch, without a GPU: float16_torch.py [STEPS]

Linear layers round as lehr's kernels do: inputs to f16, gradients after a power of two brought their largest number below 2^14, sums in f32.
Prints losses and gradients of the models in tests/golden, and losses of a model of nano's shape on assets/stories.txt.
"""

import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]


def rounded(values: Tensor) -> Tensor:
    return values.half().float()


class Float16Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor) -> Tensor:
        x, w = rounded(x), rounded(w)
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        scale = 2.0 ** (14 - math.frexp(dy.abs().max().item())[1])
        dy = rounded(dy * scale)
        return dy @ w / scale, dy.flatten(0, -2).t() @ x.flatten(0, -2) / scale


def use_float16(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):

            def forward(x: Tensor, module: torch.nn.Linear = module) -> Tensor:
                y = Float16Product.apply(x, module.weight)
                return y if module.bias is None else y + module.bias

            module.forward = forward


def golden(name: str) -> None:
    place = ROOT / "tests/golden" / name
    tokens = load_file(place / "golden.safetensors")["tokens"]
    found = []
    for float16 in (False, True):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, attn_implementation="eager")
        if float16:
            use_float16(model)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten().double() for p in model.parameters()])))
    (loss, exact), (other, changed) = found
    error, cosine = (exact - changed).norm() / exact.norm(), exact @ changed / (exact.norm() * changed.norm())
    print(f"{name:<12} loss {loss:.5f} and {other:.5f}, gradients differ by {error:.1e} of their norm, 1 - cosine {1 - cosine:.0e}")


def nano(steps: int) -> None:
    text = (ROOT / "assets/stories.txt").read_text()
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(c) for c in text])
    config = LlamaConfig(vocab_size=len(characters), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
                         num_attention_heads=4, max_position_embeddings=64, tie_word_embeddings=True)  # fmt: skip
    curves = []
    for float16 in (False, True):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        if float16:
            use_float16(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
        draws, losses = torch.Generator().manual_seed(1), []
        for step in range(steps):
            starts = torch.randint(0, len(ids) - 64, (12,), generator=draws)
            rows = torch.stack([ids[start : start + 64] for start in starts.tolist()])
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 10)
            loss = model(input_ids=rows, labels=rows).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    differences = (curves[0] - curves[1]).abs()
    print(f"nano, {steps} losses from {curves[0][0]:.4f} to {curves[0][-1]:.4f} and {curves[1][-1]:.4f}: "
          f"largest difference {differences.max():.1e}, mean {differences.mean():.1e}")  # fmt: skip


if __name__ == "__main__":
    for model_name in ("llama-gqa", "qwen2", "qwen3"):
        golden(model_name)
    nano(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
