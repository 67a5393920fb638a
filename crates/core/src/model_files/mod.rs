//! Files of models as other programs write and read them: Hugging Face folders, PEFT adapters, GGUF, checkpoints. Formats only: no device.

pub mod adapter;
mod byte_alphabet;
pub mod checkpoint;
pub mod gguf;
pub mod hf_config;
pub mod safetensors_file;
mod snapshot;
pub mod weight_files;

pub(crate) use byte_alphabet::{byte_of, char_of};
pub use snapshot::snapshot;
