#!/usr/bin/env python3
"""Golden values for tests/parity/gguf.rs: GGUF files of small random models, and what transformers reads in them.

Needs torch, transformers, tokenizers, gguf: `python tests/parity/gguf/make.py`. Writes into tests/golden/gguf. Matrices are stored in every type
that lehr reads, one after another; rows of 256 numbers are of the K types, whose blocks are drawn, because gguf has no quantiser for them.
"""

import json
import os
import tempfile

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, GGUFWriter, quantize, get_tensor_name_map, MODEL_ARCH
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers import Qwen3Config, Qwen3ForCausalLM

OUT = os.path.join(os.path.dirname(__file__), "..", "golden", "gguf")
TEXT = "The cat sat on the mat. It's 12 o'clock, and the dog said: 'We'll see!' Größe, naïve, 你好 " * 20
TEXTS = [
    "The cat sat on the mat.",
    "It's 1234 o'clock!\n\n  and  the\tdog 😀",
    "Größe 你好 e\u0301",
    "<|user|>the cat<|end|>\n the mat",
    "  leading",
    "",
]
PLAIN = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]
K = {Type.Q4_K: (144, [0, 2]), Type.Q6_K: (210, [208])}
TEMPLATE = "{% for m in messages %}{{ '<|user|>' + m['content'] + '<|end|>\\n' }}{% endfor %}"


def blocks(rng, kind, rows, width):
    """Random blocks with small scales."""
    size, scales = K[kind]
    data = rng.integers(0, 256, (rows * (width // 256), size), dtype=np.uint8)
    for at in scales:
        data[:, at : at + 2] = rng.uniform(1e-4, 3e-4, (len(data), 1)).astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def byte_level(n):
    """Byte-level BPE with special tokens at the end: tokens, types, merges."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=n, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(t.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    return tokens, [1] * len(tokens), merges


def sentencepiece(n):
    """SentencePiece's BPE: tokens, types, scores."""
    t = Tokenizer(models.BPE())
    t.train_from_iterator([TEXT.replace(" ", "▁")], trainers.BpeTrainer(vocab_size=n, show_progress=False))
    model = json.loads(t.to_str())["model"]
    merged = ["".join(m) if isinstance(m, list) else m.replace(" ", "") for m in model["merges"]]
    single = [token for token in model["vocab"] if token not in merged]
    merged = list(dict.fromkeys(merged))
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + merged + single
    types = [2, 3, 3] + [6] * 256 + [1] * (len(merged) + len(single))
    scores = [0.0] * 259 + [float(-i) for i in range(len(merged) + len(single))]
    return tokens, types, scores


def write(path, arch, model, config, tokenizer, rng):
    w = GGUFWriter(path, arch)
    w.add_name("tiny")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if arch == "llama":
        w.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    elif arch == "qwen3":
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    for add, value in tokenizer:
        getattr(w, add)(value)
    names = get_tensor_name_map({"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}[arch], 8)
    turn = 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = tensor.numpy().astype(np.float32)
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            data = data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        stem, end = name.rsplit(".", 1)
        kinds = PLAIN if data.ndim == 2 and data.shape[1] % 256 else list(K)
        kind = Type.F32 if data.ndim == 1 else kinds[turn % len(kinds)]
        turn += data.ndim == 2
        stored = blocks(rng, kind, *data.shape) if kind in K else quantize(np.ascontiguousarray(data), kind)
        w.add_tensor(names.get_name(stem) + "." + end, stored, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def common(tokens, types, pre):
    end, user = len(tokens), len(tokens) + 1
    tokens, types = tokens + ["<|end|>", "<|user|>", "<think>"], types + [3, 3, 4]
    return [
        ("add_tokenizer_model", "gpt2"),
        ("add_tokenizer_pre", pre),
        ("add_token_list", tokens),
        ("add_token_types", types),
        ("add_bos_token_id", user),
        ("add_eos_token_id", end),
        ("add_pad_token_id", end),
        ("add_chat_template", TEMPLATE),
    ], len(tokens)


def main():
    os.makedirs(OUT, exist_ok=True)
    golden = {}
    sizes = dict(hidden_size=32, num_hidden_layers=3, max_position_embeddings=64, initializer_range=0.2)
    for case in ["llama", "qwen2", "qwen3", "sentencepiece"]:
        torch.manual_seed(7)
        rng = np.random.default_rng(7)
        if case == "sentencepiece":
            tokens, types, scores = sentencepiece(340 - 259)
            settings = [
                ("add_tokenizer_model", "llama"),
                ("add_tokenizer_pre", "default"),
                ("add_token_list", tokens),
                ("add_token_scores", scores),
                ("add_token_types", types),
                ("add_bos_token_id", 1),
                ("add_eos_token_id", 2),
                ("add_unk_token_id", 0),
            ]
            count = len(tokens)
        else:
            tokens, types, merges = byte_level(300)
            settings, count = common(tokens, types, {"llama": "gpt-2", "qwen2": "qwen2", "qwen3": "llama-bpe"}[case])
            settings += [("add_token_merges", merges), ("add_add_bos_token", case == "qwen3")]
        arch = "llama" if case == "sentencepiece" else case
        if arch == "llama":
            config = LlamaConfig(**sizes, vocab_size=count, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
                                 tie_word_embeddings=False, rms_norm_eps=1e-5)
            model = LlamaForCausalLM(config)
        elif arch == "qwen2":
            config = Qwen2Config(**sizes, vocab_size=count, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
                                 tie_word_embeddings=True)
            model = Qwen2ForCausalLM(config)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.5)
        else:
            # transformers reads no head_dim from a Qwen3's file: 128 is its default.
            config = Qwen3Config(**sizes, vocab_size=count, intermediate_size=256, num_attention_heads=2, num_key_value_heads=1,
                                 head_dim=128, tie_word_embeddings=True)
            model = Qwen3ForCausalLM(config)
        if case == "sentencepiece":
            config.num_hidden_layers = model.config.num_hidden_layers = 1
            model = LlamaForCausalLM(config)
        path = os.path.join(OUT, f"{case}.gguf")
        write(path, arch, model, config, settings, rng)
        read = AutoModelForCausalLM.from_pretrained(OUT, gguf_file=f"{case}.gguf", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(OUT, gguf_file=f"{case}.gguf")
        ids = tokenizer(TEXTS[0]).input_ids
        with torch.no_grad():
            logits = read(torch.tensor([ids])).logits[0]
        golden[case] = {
            "ids": [[text, tokenizer(text).input_ids] for text in TEXTS],
            "input": ids,
            "logits": [[round(float(x), 5) for x in row] for row in logits[[0, -1]]],
        }
    with open(os.path.join(OUT, "golden.json"), "w") as f:
        json.dump(golden, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
