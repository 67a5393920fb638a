#!/usr/bin/env python3
"""One step of TRL's SFTTrainer on a tiny model: tests/golden/sft/, which tests/parity/sft.rs compares with.

    pip install torch transformers trl datasets safetensors
    tests/golden/sft.py

Writes a model folder with a tokenizer and a chat template, rows, and golden.json / updated.safetensors: the tokens and labels that TRL
makes of the rows, and loss, mean_token_accuracy, entropy, num_tokens, grad_norm and all weights after one update. CPU, float32.
"""

import json
import shutil
import tempfile
from pathlib import Path

import datasets
import safetensors.torch
import tokenizers
import torch
import transformers
import trl

HERE = Path(__file__).parent / "sft"
TEMPLATE = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


def say(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *chat] if system else chat


MESSAGES = [
    say("What cools glass slowly?", "A lehr."),
    say("And then?", "It is cut.", "By whom?", "By the glazier, with a wheel of steel.", system="Answer shortly."),
    say("Wie heißt der Ofen?", "Kühlofen. 🔥"),
    say("Say nothing.", ""),
    say("List three.", "1. sand\n2. soda\n3. lime\n", "Again.", "1. sand\n2. soda\n3. lime"),
    say("A very long question " * 12, "Too long to be kept whole, so the end is cut off somewhere in here. " * 3),
    say("Why?", "Because the heat must leave slowly."),
]
TURNS = [
    {"prompt": say("What cools glass slowly?"), "completion": say("", "A lehr.")[1:]},
    {"prompt": say("And?", "Yes.", "So?", system="Be kind."), "completion": say("", "Then it is done.")[1:]},
]
TEXTS = [
    {"prompt": "The kiln is ", "completion": "hot."},
    {"prompt": "Glass", "completion": "ware cools.<|endoftext|>"},
    {"prompt": "Sand\n", "completion": "\nand soda"},
]
ROWS = {
    "messages": [{"messages": m} for m in MESSAGES],
    "turns": TURNS,
    "texts": TEXTS,
    "plain": [{"text": "A lehr cools glass."}, {"text": "Sand, soda, lime."}],
}
SETTINGS = {
    "learning_rate": 1e-2,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "max_length": 96,
}


def make_tokenizer():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    texts = [m["content"] for chat in MESSAGES for m in chat]
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.BpeTrainer(
            vocab_size=320,
            show_progress=False,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=128
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(vocab):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, attention_dropout=0.0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def trainer(model, tokenizer, rows, out, max_steps=1, **more):
    args = trl.SFTConfig(
        output_dir=out, per_device_train_batch_size=len(rows), max_steps=max_steps, lr_scheduler_type="constant", warmup_steps=0,
        logging_steps=1, report_to="none", save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
        packing=False, dataloader_drop_last=False, disable_tqdm=True, optim="adamw_torch", **SETTINGS, **more,
    )  # fmt: skip
    return trl.SFTTrainer(model=model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    with tempfile.TemporaryDirectory() as out:
        # A little training first, so that some predictions are right.
        trainer(model, tokenizer, ROWS["messages"], out, max_steps=6, assistant_only_loss=True).train()
    model.save_pretrained(HERE / "model")
    tokenizer.save_pretrained(HERE / "model")
    for name, rows in ROWS.items():
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    golden = {"versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}}
    golden["settings"] = SETTINGS
    with tempfile.TemporaryDirectory() as out:
        for name, rows in ROWS.items():
            t = trainer(make_model(len(tokenizer)), tokenizer, rows, out, assistant_only_loss=name == "messages")
            golden[name] = [{"input_ids": r["input_ids"], "labels": r["labels"]} for r in t.train_dataset]
        t = trainer(model, tokenizer, ROWS["messages"], out, assistant_only_loss=True)
        t.train()
        logged = t.state.log_history[0]
        golden["step"] = {k: logged[k] for k in ["loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "epoch"]}
        weights = {k: v.detach().float().contiguous().clone() for k, v in t.model.state_dict().items() if k != "lm_head.weight"}
    safetensors.torch.save_file(weights, HERE / "updated.safetensors")
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")
    print(json.dumps(golden["step"], indent=1))


main()
