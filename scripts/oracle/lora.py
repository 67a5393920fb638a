#!/usr/bin/env python3
"""Does PEFT read an adapter that lehr saved, and say what lehr's folded folder says?

    pip install torch transformers safetensors peft
    lehr merge --lora ADAPTER --out FOLDED
    python scripts/oracle/lora.py ADAPTER FOLDED

ADAPTER is a checkpoint of `lehr sft --lora-rank` (or any PEFT folder whose base model is at the path that it names). Prints the largest
difference of the logits of random tokens, beside that to the base model alone, and ends with 1 when they differ by more than rounding.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(adapter, folded):
    base = json.loads((Path(adapter) / "adapter_config.json").read_text())["base_model_name_or_path"]
    load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokens = torch.randint(load(base).config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = load(base)(tokens).logits
        adapted = PeftModel.from_pretrained(load(base), adapter)(tokens).logits
        whole = load(folded)(tokens).logits
    off, moved = (adapted - whole).abs().max().item(), (adapted - alone).abs().max().item()
    print(f"PEFT and the folded folder differ by {off:.2e} in a logit; the adapter changes logits by up to {moved:.2e}")
    return 0 if off < 1e-4 * max(1.0, whole.abs().max().item()) and moved > 10 * off else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
