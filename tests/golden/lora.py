#!/usr/bin/env python3
"""Low-rank adapters by PEFT on the golden models: tests/golden/lora/, which tests/parity/lora.rs compares with.

    pip install torch transformers safetensors peft
    python tests/golden/lora.py

Each folder NAME/ holds an adapter of the golden folder NAME as peft's save_pretrained writes it, A and B random, and golden.safetensors:
`logprobs` of the next tokens of that folder's `tokens`, `loss`, `grad.<tensor>` of every tensor of the adapter, `losses` and `grad_norms` of
ten AdamW steps of the adapter alone, and `merged.<weight>`, the adapted weights of the last block as merge_and_unload leaves them. All
arithmetic is f64 on f32 weights, as in make.py, whose helpers this uses.
"""

import json
from pathlib import Path

import torch
from make import BETAS, CLIP, DECAY, EPS, LR, MODELS, STEPS, NoFloat32, build, in_double, logits_of, token_numbers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Ranks that are no multiple of 4, projections that leave gaps in fused products.
CASES = {
    "llama-gqa": dict(r=4, lora_alpha=8, target_modules=ALL),
    "qwen2": dict(r=3, lora_alpha=4.5, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
    "qwen3": dict(r=5, lora_alpha=16, target_modules=["k_proj", "o_proj", "gate_proj"]),
}


def adapt(name):
    """The f64 model with adapters, whose values are f32."""
    model, generator = build(name)
    with NoFloat32():
        double = in_double(model)
    config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=f"../../{name}", **CASES[name])
    adapted = get_peft_model(double, config, autocast_adapter_dtype=False)
    adapted.peft_config["default"].base_model_name_or_path = f"../../{name}"
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if "lora_" in key:
                noise = torch.randn(p.shape, generator=generator)
                p.copy_((0.5 / p.shape[1] ** 0.5 * noise).float().double())
    return adapted.eval()


def trained(model):
    return {key.replace(".default", ""): p for key, p in model.named_parameters() if p.requires_grad}


def train(model, tokens):
    """As make.py's `train`: every tensor of an adapter is a matrix."""
    params = list(trained(model).values())
    optimizer = torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, foreach=False)
    losses, norms = [], []
    for _ in range(STEPS):
        loss = -token_numbers(logits_of(model, tokens), tokens)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params, CLIP).detach())
        losses.append(loss.detach())
        optimizer.step()
    return torch.stack(losses), torch.stack(norms)


def make(name):
    folder = HERE / "lora" / name
    tokens = load_file(HERE / name / "golden.safetensors")["tokens"]
    model = adapt(name)
    model.save_pretrained(folder)
    stored = load_file(folder / "adapter_model.safetensors")
    save_file({key: value.float().contiguous() for key, value in stored.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
    numbers = {}
    with NoFloat32():
        logp, _ = token_numbers(logits_of(model, tokens), tokens)
        loss = -logp.mean()
        loss.backward()
        assert set(trained(model)) == set(stored), set(trained(model)) ^ set(stored)
        numbers |= {"logprobs": logp.detach(), "loss": loss.detach()}
        numbers |= {f"grad.{key}": p.grad.float() for key, p in trained(model).items()}
        numbers["losses"], numbers["grad_norms"] = train(model, tokens)
        merged = adapt(name).merge_and_unload()
    last = f"layers.{merged.config.num_hidden_layers - 1}."
    targets = CASES[name]["target_modules"]
    for key, p in merged.named_parameters():
        if last in key and any(f"{target}.weight" in key for target in targets):
            numbers[f"merged.{key}"] = p.detach().float()
    save_file({key: value.contiguous() for key, value in numbers.items()}, folder / "golden.safetensors")
    print(name, json.dumps(CASES[name]), f"loss {loss.item():.4f} -> {numbers['losses'][-1].item():.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert set(CASES) <= set(MODELS)
    for case in CASES:
        make(case)
