//! Floor 3: what a model is and how it is kept: weights, Hugging Face files, checkpoints.

pub mod checkpoint;
pub mod hf_config;
pub mod safetensors_file;
pub mod weight_files;
