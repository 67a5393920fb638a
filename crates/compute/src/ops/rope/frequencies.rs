//! Angular frequencies of a head and the scale of its cosines and sines, as transformers' `modeling_rope_utils` defines them.

use super::scaling::{Llama3Scaling, RopeScaling, YarnScaling};
use std::f64::consts::TAU;

/// Parameters of a model's rotations besides the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// One angular frequency for each pair of a head (D/2).
    pub frequencies: Vec<f64>,
    /// Cosines and sines are multiplied by this: YaRN's attention factor, else 1.
    pub scale: f64,
}

impl Rotation {
    /// That of heads of `d` values with base `theta`. Dynamic scaling is none: callers end contexts at `max_position_embeddings`.
    pub fn new(d: usize, theta: f64, scaling: Option<&RopeScaling>) -> Self {
        let mut frequencies: Vec<f64> = (0..d / 2).map(|i| theta.powf(-2.0 * i as f64 / d as f64)).collect();
        let mut scale = 1.0;
        match scaling {
            None | Some(RopeScaling::Dynamic { .. }) => {}
            Some(RopeScaling::Linear { factor }) => frequencies.iter_mut().for_each(|f| *f /= factor),
            Some(RopeScaling::Llama3(s)) => frequencies.iter_mut().for_each(|f| *f = llama3(*f, s)),
            Some(RopeScaling::Yarn(s)) => {
                yarn(&mut frequencies, theta, s);
                scale = attention_factor(s);
            }
        }
        Self { frequencies, scale }
    }
}

/// `_compute_llama3_parameters`
fn llama3(frequency: f64, s: &Llama3Scaling) -> f64 {
    let wavelength = TAU / frequency;
    let original = s.original_max_position_embeddings as f64;
    if wavelength < original / s.high_freq_factor {
        frequency
    } else if wavelength > original / s.low_freq_factor {
        frequency / s.factor
    } else {
        let smooth = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        (1.0 - smooth) * frequency / s.factor + smooth * frequency
    }
}

/// `_compute_yarn_parameters`: fast pairs keep their frequency, slow ones are interpolated, between them is a ramp.
fn yarn(frequencies: &mut [f64], theta: f64, s: &YarnScaling) {
    let dim = 2.0 * frequencies.len() as f64;
    let pair = |turns: f64| dim * (s.original_max_position_embeddings as f64 / (turns * TAU)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (pair(s.beta_fast), pair(s.beta_slow));
    if s.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    for (i, f) in frequencies.iter_mut().enumerate() {
        let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        *f = *f / s.factor * interpolated + *f * (1.0 - interpolated);
    }
}

fn attention_factor(s: &YarnScaling) -> f64 {
    let mscale = |mscale: f64| if s.factor <= 1.0 { 1.0 } else { 0.1 * mscale * s.factor.ln() + 1.0 };
    let given = |value: Option<f64>| value.filter(|m| *m != 0.0);
    match (s.attention_factor, given(s.mscale), given(s.mscale_all_dim)) {
        (Some(factor), _, _) => factor,
        (None, Some(own), Some(all)) => mscale(own) / mscale(all),
        (None, _, _) => mscale(1.0),
    }
}
