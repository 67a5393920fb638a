//! Low-rank adapters: gradients and training steps against PEFT, folded weights, the files, runs. The references are made by
//! tests/golden/lora.py in float64.

mod parity;
mod policy;
mod runs;

use crate::common::golden;
use lehr::config::{LoraSettings, ModelConfig};
use lehr::device::Device;
use lehr::model::Model;
use lehr::model_files::adapter::AdapterFolder;
use lehr::model_files::hf_config;
use lehr::vfs::RealFs;
use serde_json::Value;

/// The shape of a golden model, with the adapters that PEFT wrote for it.
fn shape(case: &str) -> ModelConfig {
    let bytes = std::fs::read(golden("lora").join(case).join("adapter_config.json")).unwrap();
    let peft: Value = serde_json::from_slice(&bytes).unwrap();
    let settings = LoraSettings {
        lora_rank: Some(peft["r"].as_u64().unwrap() as usize),
        lora_alpha: Some(peft["lora_alpha"].as_f64().unwrap()),
        lora_targets: peft["target_modules"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect(),
    };
    let model = hf_config::read(&RealFs, &golden(case).join("config.json")).unwrap().model;
    ModelConfig { lora: settings.adapters().unwrap(), ..model }
}

/// A golden model with PEFT's adapters.
fn adapted(device: &Device, case: &str, context: usize) -> Model {
    let model = Model::new(device, &shape(case), context).unwrap();
    model.load_adapters(&RealFs, device, &AdapterFolder::open(&RealFs, &golden("lora").join(case)).unwrap()).unwrap();
    model
}
