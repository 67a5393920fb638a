#!/usr/bin/env python3
"""What transformers generates greedily with the golden models, one prompt at a time.

    pip install torch transformers
    python tests/golden/generate.py        # writes generate.json beside this file

For each model of make.py: prompts of several lengths, `generate(do_sample=False)` in float64, the log-probability of every token under
softmax(logits / temperature) for two temperatures, the logits that the first token is chosen by, and the smallest gap between the best and
the second-best logit (a gap near rounding would make the comparison meaningless).
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
MODELS = ["llama-gqa", "llama-tied", "qwen2", "qwen3"]
LENGTHS = [1, 2, 5, 5, 13, 30, 8, 3, 21]
NEW = 24
TEMPERATURES = [1.0, 0.7]


def case(name):
    model = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float64, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    random = torch.Generator().manual_seed(20250519)
    out = []
    for length in LENGTHS:
        prompt = torch.randint(model.config.vocab_size, (1, length), generator=random)
        with torch.no_grad():
            whole = model.generate(prompt, do_sample=False, max_new_tokens=NEW, attention_mask=torch.ones_like(prompt))
            logits = model(whole).logits[0, length - 1 : -1]
        drawn = whole[0, length:]
        best = logits.topk(2).values
        logprobs = {str(t): [float(f"{x:.9g}") for x in (logits / t).log_softmax(-1).gather(1, drawn[:, None])[:, 0]] for t in TEMPERATURES}
        out.append({
            "prompt": prompt[0].tolist(),
            "completion": drawn.tolist(),
            "logprobs": logprobs,
            "first_logits": [float(f"{x:.9g}") for x in logits[0]],
            "gap": float((best[:, 0] - best[:, 1]).min()),
        })
    return out


if __name__ == "__main__":
    cases = {name: case(name) for name in MODELS}
    (HERE / "generate.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    for name, rows in cases.items():
        print(name, "smallest gap", min(r["gap"] for r in rows), [len(set(r["completion"])) for r in rows])
