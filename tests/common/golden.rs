//! References in safetensors, made by Python in float64, and how they are compared.
#![allow(dead_code, reason = "each test file uses a part of this")]

use lehr::ops::adamw::UpdateParams;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::path::Path;

/// A file of reference tensors.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).unwrap() }
    }

    fn with<R>(&self, name: &str, read: impl FnOnce(TensorView<'_>) -> R) -> R {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        read(file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")))
    }

    pub fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.with(name, |t| t.shape().to_vec())
    }

    pub fn floats(&self, name: &str) -> Vec<f64> {
        self.with(name, |t| match t.dtype() {
            Dtype::F32 => t.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::F64 => t.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            other => panic!("{name}: {other:?}"),
        })
    }

    pub fn integers(&self, name: &str) -> Vec<u32> {
        self.with(name, |t| t.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect())
    }
}

/// Relative to |want| + rms(want), the largest difference.
pub fn worst(got: impl IntoIterator<Item = f64>, want: &[f64]) -> f64 {
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(g, w)| if g.is_finite() { (g - w).abs() / (w.abs() + rms) } else { f64::INFINITY })
        .fold(0.0, f64::max)
}

/// The settings of the references' AdamW.
pub fn update_params(step: u64) -> UpdateParams {
    UpdateParams { learning_rate: 1e-3, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1, max_grad_norm: 1.0, step }
}
