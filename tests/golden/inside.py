#!/usr/bin/env python3
"""What transformers sees inside the golden models: attention of every head, and the logit lens.

    pip install torch transformers safetensors
    python tests/golden/inside.py         # writes inside.safetensors beside this file

For each model of make.py, in float64, of the first row of its golden tokens:
    NAME.tokens      (T) i64
    NAME.attention   (L, H, T, T): output_attentions of eager attention
    NAME.lens        (L + 1, T, V): log-softmax of head(norm(residual stream)): the embedding, then after each block. transformers'
                     last hidden state has the final norm in it already; the model's own logits are the last of these.
`tests/parity/inspect.rs` compares `model::inspect` with it.
"""

from pathlib import Path

import torch
from make import MODELS, NoFloat32, in_double
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent


def case(name):
    model = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = load_file(HERE / name / "golden.safetensors")["tokens"][0]
    with NoFloat32(), torch.no_grad():
        double = in_double(model)
        out = double(input_ids=tokens[None], use_cache=False, output_attentions=True, output_hidden_states=True)
        assert out.logits.dtype == torch.float64 and len(out.hidden_states) == len(double.model.layers) + 1
        streams = [double.lm_head(double.model.norm(h[0])) for h in out.hidden_states[:-1]]
        assert torch.allclose(double.lm_head(out.hidden_states[-1][0]), out.logits[0], atol=1e-12)
        lens = torch.stack([*streams, out.logits[0]]).log_softmax(-1)
        attention = torch.cat(out.attentions)
    return {
        f"{name}.tokens": tokens,
        f"{name}.attention": attention.float().contiguous(),
        f"{name}.lens": lens.float().contiguous(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    numbers = {key: value for name in MODELS for key, value in case(name).items()}
    save_file(numbers, HERE / "inside.safetensors", metadata={"made_by": "tests/golden/inside.py"})
    print({key: tuple(value.shape) for key, value in numbers.items()})
