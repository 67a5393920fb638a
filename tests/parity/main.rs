//! Numbers, texts and token ids against independent implementations: PyTorch, transformers, TRL, PEFT and llama.cpp (goldens of tests/golden).

#[path = "../common/mod.rs"]
mod common;
mod gguf;
mod golden;
mod grpo;
mod inspect;
mod lora;
mod merge;
#[path = "../common/golden.rs"]
mod reference;
mod rollouts;
mod sft;
mod tokenizer_classes;
mod vocabularies;
