"""Makes fuzz/corpus: a few small inputs for each target, valid ones and former failures. Needs gguf, numpy, safetensors, tokenizers.

usage: python fuzz/corpus.py
"""

import json
import pathlib
import shutil

import gguf
import numpy as np
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).parent / "corpus"
GOLDEN = pathlib.Path(__file__).parent.parent / "tests/golden"


def put(target, name, content):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors():
    one = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
    put("safetensors", "two", save(one, metadata={"format": "pt"}))
    put("safetensors", "empty", save({}))
    put("safetensors", "scalar", save({"x": np.ones((), np.float32)}))
    put("safetensors", "long-header", (1 << 40).to_bytes(8, "little") + b"{}")


def config():
    for folder in ["llama-tied", "llama-bias", "mistral", "qwen2-yarn", "qwen3"]:
        put("config", folder, (GOLDEN / folder / "config.json").read_bytes())
    put("config", "nested", "[" * 200)


def tokenizer():
    letters = {c: i for i, c in enumerate(["<unk>", "</s>", *"abcdefghlorwĠĊ", "he", "hel"])}
    bpe = Tokenizer(models.BPE(letters, [("h", "e"), ("he", "l")], unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(["</s>"])
    settings = {"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    put("tokenizer", "bpe", bpe.to_str() + "\0" + json.dumps(settings))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "Hello": 1, "</s>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    put("tokenizer", "words", words.to_str())
    put("tokenizer", "huge-id", words.to_str().replace('"Hello":1', '"Hello":4294967295'))


def template():
    wanted = {"plain", "qwen3", "llama3", "llama-3", "mistral", "smollm2", "chatml", "zephyr"}
    templates = json.loads((GOLDEN / "chat.json").read_text())["templates"]
    small = [t for t in templates if t["name"] in wanted or len(t["template"]) < 700]
    for t in small[:8]:
        put("template", "".join(c if c.isalnum() or c in "-_." else "-" for c in t["name"]), t["template"])
    for name, text in {
        "nested": "{% set ns = namespace(x=[1]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "doubled": "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "indent": "{{ messages|tojson(indent=10000000000) }}",
        "format-not-ascii": "{{ '%(é'|format(1) }}",
        "macro": "{% macro f(x, n) %}{% if n %}{{ f([x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ f(1, 9) }}",
        "lists": "{{ [1] * 3 + range(3)|list }}{{ 'a'.join(['b', 'c'])[::-1]|upper|replace('A', '%s') }}{{ '%5d'|format(3) }}",
    }.items():
        put("template", name, text)


def rows():
    say = lambda role, content: {"role": role, "content": content}
    for name, lines in {
        "messages": [{"messages": [say("user", "Hi"), say("assistant", "Ho ü")]}] * 2,
        "prompt": [{"prompt": "a", "completion": "b"}, {"text": "c"}],
        "parts": [{"messages": [say("user", [{"type": "text", "text": "x"}]), say("assistant", "y")], "tools": "[]"}],
        "sharegpt": [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        "alpaca": [{"instruction": "a", "input": "", "output": "b"}],
    }.items():
        put("rows", name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def gguf_file():
    path = HERE / "gguf.tmp"
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(16)
    out.add_embedding_length(16)
    out.add_block_count(1)
    out.add_feed_forward_length(32)
    out.add_head_count(2)
    out.add_head_count_kv(1)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(6)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(["a", "b", "ab", "Ġ", "Ċ", "<|endoftext|>"])
    out.add_token_merges(["a b"])
    out.add_token_types([1, 1, 1, 1, 1, 3])
    out.add_eos_token_id(5)
    shapes = {
        "token_embd.weight": (6, 16), "output_norm.weight": (16,), "blk.0.attn_norm.weight": (16,), "blk.0.ffn_norm.weight": (16,),
        "blk.0.attn_q.weight": (16, 16), "blk.0.attn_k.weight": (8, 16), "blk.0.attn_v.weight": (8, 16),
        "blk.0.attn_output.weight": (16, 16), "blk.0.ffn_gate.weight": (32, 16), "blk.0.ffn_up.weight": (32, 16),
        "blk.0.ffn_down.weight": (16, 32),
    }
    for name, shape in shapes.items():
        out.add_tensor(name, np.ones(shape, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    whole = path.read_bytes()
    path.unlink()
    put("gguf", "llama", whole)
    put("gguf", "cut-off", whole[: len(whole) // 2])


def control():
    put("control", "plain", '{"command":"SaveNow"}\n{"command":"Pause"}\n{"command":"Stop"}')
    put("control", "sample", '{"command":"SampleNow","prompt":"ab","temperature":0.5,"tokens":4}')
    put("control", "hyper", '{"command":"SetHyper","learning_rate_scale":0.5}')
    put("control", "not-utf8", b'{"command":"\xff\xfe"}\n\x00\n')


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    for make in (safetensors, config, tokenizer, template, rows, gguf_file, control):
        make()
