#!/usr/bin/env python3
"""What transformers makes of tokenizer folders: tests/golden/vocabularies/, which tests/parity/vocabularies.rs compares with.

    pip install transformers tokenizers
    tests/golden/vocabularies.py

Writes five small tokenizers of the kinds that are common (Llama-2's with a begin token, a Unigram that begins and ends texts, byte-level with
tokens that only the files beside tokenizer.json name) and golden.json: ids of texts with and without what the post-processor adds, what
continuations say behind a prompt, ids of special tokens, and a chat.
"""

import json
import shutil
from pathlib import Path

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent / "vocabularies"
SAMPLE = [
    "The lehr cools glass slowly, so that it does not crack.",
    "Once there was a cat. The cat sat on the mat; the mat was there once.",
    "Sand, soda and lime are melted; then the glass is blown, cut and cooled.",
    "Ein Kühlofen kühlt das Glas langsam.",
] * 4
TEXTS = [
    "", "a", " a", "Once there", "Once  there ", "the cat\n\nsat", "<s>Once</s> there", "<|endoftext|>the cat", "<tool>glass</tool>",
    "the <think>cat</think>", "<|im_start|>user\nthe cat<|im_end|>\n", "Kühlofen 🔥 é", "glass [PAD] glass<|extra|>", "x<|late|> y",
]  # fmt: skip
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}"
    "{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def write(name, tokenizer, config, **files):
    folder = HERE / name
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}, indent=1) + "\n")
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content) + "\n")


def frame(tokenizer, single):
    ids = {token: tokenizer.token_to_id(token) for token in ["<s>", "</s>"]}
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(ids.items()))


def llama():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *fallback], show_progress=False, max_token_length=8
    )
    # Words apart while it is trained, as sentencepiece does.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    frame(tokenizer, "<s> $A")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]", "add_bos_token": True}
    write("llama", tokenizer, {**roles, "chat_template": WITH_BOS})


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        SAMPLE, trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    frame(tokenizer, "<s> $A </s>")
    write("unigram", tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def byte_level(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SAMPLE, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def listed():
    """Tokens that only added_tokens_decoder lists, an end token that is special by its role alone, more that only a list names."""
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=True)])
    n = tokenizer.get_vocab_size()
    token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
    decoder = {
        str(tokenizer.token_to_id("<|endoftext|>")): {**token, "content": "<|endoftext|>", "special": True},
        str(n): {**token, "content": "<|im_end|>"},
        str(n + 1): {**token, "content": "<tool>"},
        str(n + 2): {**token, "content": "</tool>", "lstrip": True},
    }
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "added_tokens_decoder": decoder}
    more = {"additional_special_tokens": ["<|extra|>"], "extra_role_token": "<|late|>", "chat_template": CHATML}
    # It is not read beside a decoder.
    write("listed", tokenizer, {**config, **more}, special_tokens_map={"eos_token": "<|endoftext|>"})


def mapped():
    """Roles that only special_tokens_map.json names, and a token of added_tokens.json."""
    tokenizer = byte_level(["<|endoftext|>"])
    n = tokenizer.get_vocab_size()
    flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
    roles = {"eos_token": "<|endoftext|>", "pad_token": "[PAD]", "bos_token": {"content": "<s>", **flags}}
    write("mapped", tokenizer, {}, special_tokens_map=roles, added_tokens={"<|late|>": n})


def words():
    """As lehr pretrain --tokenizer words makes it: no decoder, tokens are joined by spaces."""
    names = sorted({word for text in SAMPLE for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*names, "<unk>"])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<|endoftext|>"])
    write("words", tokenizer, {"eos_token": "<|endoftext|>", "unk_token": "<unk>"})


def golden(folder):
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    plain = lambda text: fast(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    out = {"size": len(fast), "texts": [{"text": t, "ids": fast(t)["input_ids"], "plain": plain(t)} for t in TEXTS], "streams": []}
    out["roles"] = {role: getattr(fast, f"{role}_token_id") for role in ["bos", "eos", "pad"]}
    out["special"] = sorted(id for id, token in fast.added_tokens_decoder.items() if token.special)
    end = {fast.eos_token_id, fast.pad_token_id}
    for prompt, more in [("Once there", " was a cat"), ("The lehr", " cools 🔥 glass"), ("the cat", "s sat"), ("glass", "\n the mat")]:
        before = fast(prompt)["input_ids"]
        before = before[:-1] if before[-1] == fast.eos_token_id else before
        # What stands behind the prompt, in tokens: the whole without the beginning that both share.
        whole = [id for id in fast(prompt + more)["input_ids"] if id not in end]
        same = next((i for i, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
        ids = whole[same:]
        text = fast.decode(before + ids, clean_up_tokenization_spaces=False)[len(fast.decode(before, clean_up_tokenization_spaces=False)) :]
        out["streams"].append({"before": before, "ids": ids, "text": text})
    if fast.chat_template:
        messages = [{"role": "user", "content": "the cat"}]
        ids = fast.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        out["chat"] = {"messages": messages, "ids": ids}
    return out


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    for make in [llama, unigram, listed, mapped, words]:
        make()
    out = {folder.name: golden(folder) for folder in sorted(HERE.iterdir())}
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in [("versions", versions), *out.items()]]
    (HERE / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
