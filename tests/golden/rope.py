#!/usr/bin/env python3
"""Make rope.json: the angular frequencies and the scale that transformers derives from many a config.json, in f64.

    python tests/golden/rope.py

Each entry holds `config` (what a file would hold), `frequencies` and `scale`. Both dialects, absent and null fields, integers for
floats, and numbers from a seeded generator. tests/parity/golden.rs reads it.
"""

import copy
import json
import random
from pathlib import Path

from transformers import CONFIG_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from make import NoFloat32

HERE = Path(__file__).resolve().parent
CLASSES = dict(llama="LlamaForCausalLM", mistral="MistralForCausalLM", qwen2="Qwen2ForCausalLM", qwen3="Qwen3ForCausalLM")


def base(kind, **more):
    return dict(
        architectures=[CLASSES[kind]], model_type=kind, vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, **more)


def written_by_hand():
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)
    yield base("llama")
    yield base("llama", rope_theta=500000)
    yield base("mistral", rope_scaling=None, rope_theta=1e6)
    yield base("qwen2", rope_parameters={}, rope_theta=77.5)
    yield base("qwen2", rope_scaling={}, rope_parameters=dict(rope_type="default", rope_theta=321.0))
    # Qwen2.5 and Qwen3, as their cards say.
    yield base("qwen2", rope_theta=1e6, max_position_embeddings=32768, rope_scaling=dict(
        factor=4.0, original_max_position_embeddings=32768, type="yarn"))
    yield base("qwen3", head_dim=128, rope_theta=1000000, max_position_embeddings=131072, rope_scaling=yarn)
    # Both dialects that agree.
    yield base("qwen3", head_dim=64, rope_theta=5e5, rope_scaling=yarn, rope_parameters=dict(yarn, rope_theta=5e5))
    # The original context: absent, beside the object; the factor: null.
    yield base("llama", max_position_embeddings=4096, rope_scaling=dict(type="yarn", factor=2))
    yield base("llama", max_position_embeddings=4096, original_max_position_embeddings=1024, rope_scaling=dict(
        rope_type="yarn", factor=None))
    yield base("llama", max_position_embeddings=8192, rope_scaling=dict(
        rope_type="llama3", factor=8, low_freq_factor=1, high_freq_factor=4))
    # Fields that are there and say nothing.
    yield base("llama", rope_scaling=dict(yarn, attention_factor=None, beta_fast=0, beta_slow=None, mscale=0.0, mscale_all_dim=1.0))
    yield base("llama", rope_scaling=dict(yarn, truncate=None))
    yield base("llama", rope_scaling=dict(yarn, attention_factor=0.75, mscale=2.0, mscale_all_dim=1.0))
    yield base("llama", rope_scaling=dict(yarn, mscale=1.0, mscale_all_dim=0.8))
    yield base("llama", rope_scaling=dict(yarn, factor=0.5))
    # A ramp of no width, one past the ends, one backwards.
    yield base("llama", rope_scaling=dict(yarn, original_max_position_embeddings=1))
    yield base("llama", rope_scaling=dict(yarn, original_max_position_embeddings=10**9))
    yield base("llama", rope_scaling=dict(yarn, beta_fast=1.0, beta_slow=32.0, truncate=False))
    yield base("mistral", rope_theta=1e4, rope_scaling=dict(type="linear", factor=2))
    yield base("llama", rope_scaling=dict(type="dynamic", factor=2.0), max_position_embeddings=100)


def drawn(r):
    kind = r.choice(list(CLASSES))
    rope = dict(rope_type=r.choice(["yarn", "yarn", "yarn", "llama3", "linear", "dynamic"]), factor=r.choice([1.5, 2.0, 4.0, 32.0]))
    if rope["rope_type"] in ["yarn", "llama3"]:
        rope["original_max_position_embeddings"] = r.choice([16, 100, 2048, 8192, 32768])
    if rope["rope_type"] == "llama3":
        rope.update(low_freq_factor=r.choice([0.5, 1.0]), high_freq_factor=r.choice([2.5, 4.0]))
    if rope["rope_type"] == "yarn":
        options = dict(beta_fast=r.uniform(2, 40), beta_slow=r.uniform(0.3, 2), truncate=r.random() < 0.5,
                       attention_factor=r.uniform(0.5, 1.5), mscale=r.uniform(0.5, 1.5), mscale_all_dim=r.uniform(0.5, 1.5))
        rope.update({k: v if k == "truncate" else round(v, 3) for k, v in options.items() if r.random() < 0.4})
    theta = r.choice([100.0, 10000.0, 12345.678, 500000.0, 1e6])
    config = base(kind, max_position_embeddings=r.choice([256, 4096, 40960]))
    if kind != "qwen2":
        config["head_dim"] = r.choice([8, 12, 20, 32])
    if r.random() < 0.5:
        config.update(rope_theta=theta, rope_scaling=rope)
    else:
        config["rope_parameters"] = dict(rope, rope_theta=theta)
    return config


def derived(config):
    config = copy.deepcopy(config)
    parsed = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    kind = parsed.rope_parameters["rope_type"]
    init = LlamaRotaryEmbedding.compute_default_rope_parameters if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    with NoFloat32():
        frequencies, scale = init(parsed)
    return frequencies.tolist(), float(scale)


def main():
    r = random.Random(14)
    configs = [*written_by_hand(), *(drawn(r) for _ in range(24))]
    lines = []
    for config in configs:
        frequencies, scale = derived(config)
        lines.append(json.dumps(dict(config=config, frequencies=frequencies, scale=scale)))
    (HERE / "rope.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
