//! Harness of the checks: random odd shapes, poisoned outputs, comparison with the f64 twin. Shared by tests and `lehr doctor`.

use crate::device::{Device, Recorder, Tensor};
use crate::rng::Rng;

/// One check: a kernel (or a pair) against its twin.
#[derive(Clone, Copy)]
pub struct Check {
    /// `op.entry`.
    pub name: &'static str,
    /// Run it with a random shape and values of the case.
    pub run: fn(&Device, &mut Case) -> anyhow::Result<()>,
}

/// Random numbers and results of one run of a check.
pub struct Case {
    rng: Rng,
    drawn: u64,
    /// The shape, for messages.
    pub shape: String,
    /// The largest error, as a multiple of the tolerance.
    pub worst: f64,
    /// Position and both values of the largest error.
    pub detail: String,
    /// Hash of all compared values, for bit-identity.
    pub bits: u64,
}

/// Tolerance, relative to |expected| + the root mean square of the expected values. Covers the order of sums and the 2 to 163 ULP that WGSL
/// allows for exp (its specification: 3 + 2 |x| ULP); a wrong formula is orders of magnitude away.
pub const TOLERANCE: f64 = 2e-5;

/// Vocabularies of well-known tokenizers (Llama 2, SmolLM2, Llama 3, Qwen), for the checks of kernels that loop over the vocabulary.
pub const LARGE_VOCABULARIES: [usize; 4] = [32_000, 49_152, 128_256, 151_936];

impl Case {
    /// The case of this check's `seed`.
    pub fn new(name: &str, seed: u64) -> Self {
        Self { rng: Rng::new(seed, name), drawn: 0, shape: String::new(), worst: 0.0, detail: String::new(), bits: 0 }
    }

    /// A whole number in `low..=high`.
    pub fn int(&mut self, low: usize, high: usize) -> usize {
        self.drawn += 1;
        low + self.rng.below(0, self.drawn, (high - low + 1) as u64) as usize
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.int(0, options.len() - 1)]
    }

    /// `n` normal numbers of this scale.
    pub fn normals(&mut self, n: usize, scale: f64) -> Vec<f32> {
        self.drawn += 1;
        (0..n).map(|i| (scale * self.rng.normal_pair(self.drawn, i as u64)[0]) as f32).collect()
    }

    /// A device tensor with these values.
    pub fn upload(&self, device: &Device, name: &str, shape: &[usize], values: &[f32]) -> Tensor {
        let t = Tensor::new(device, "check", name, shape);
        device.write(&t, values);
        t
    }

    /// A device tensor with these whole numbers.
    pub fn upload_u32(&self, device: &Device, name: &str, values: &[u32]) -> Tensor {
        let t = Tensor::new(device, "check", name, &[values.len()]);
        device.write(&t, values);
        t
    }

    /// A device tensor full of NaN, which reveals unwritten elements.
    pub fn poisoned(&self, device: &Device, name: &str, shape: &[usize]) -> Tensor {
        let t = Tensor::new(device, "check", name, shape);
        device.write(&t, &vec![f32::from_bits(0xFFFF_FFFF); t.len()]);
        t
    }

    /// Record, run and wait.
    ///
    /// # Errors
    /// An error of the recording or the device.
    pub fn replay(&self, device: &Device, record: impl FnOnce(&mut Recorder<'_>)) -> anyhow::Result<()> {
        let mut r = Recorder::new(device, "check");
        record(&mut r);
        let r = r.finish()?;
        device.replay(&r)?;
        Ok(device.wait()?)
    }

    /// Compare a device tensor with the twin's result.
    ///
    /// # Errors
    /// A device fault. Differences are not errors: they are stored in `worst`.
    pub fn compare(&mut self, device: &Device, got: &Tensor, want: &[f64]) -> anyhow::Result<()> {
        let values: Vec<f32> = device.read(got)?;
        anyhow::ensure!(values.len() == want.len(), "{}: {} values, twin has {}", got.name(), values.len(), want.len());
        for value in &values {
            self.bits = (self.bits.rotate_left(5) ^ u64::from(value.to_bits())).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
        let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64).sqrt();
        for (i, (&g, &w)) in values.iter().zip(want).enumerate() {
            let error = (f64::from(g) - w).abs() / ((w.abs() + rms).max(1e-30) * TOLERANCE);
            if !g.is_finite() || error > self.worst {
                self.worst = if g.is_finite() { error } else { f64::INFINITY };
                self.detail = format!("{}[{i}] = {g:e}, expected {w:e}", got.name());
                if !g.is_finite() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// f32 values as f64, for the twin.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Largest difference between `gradient` and central differences of `loss`, relative to the gradient's size: verifies a twin's backward.
pub fn finite_difference_error(values: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) -> f64 {
    const STEP: f64 = 1e-5;
    let scale = (gradient.iter().map(|g| g * g).sum::<f64>() / gradient.len().max(1) as f64).sqrt().max(1e-12);
    let mut worst: f64 = 0.0;
    let mut moved = values.to_vec();
    for i in 0..values.len() {
        moved[i] = values[i] + STEP;
        let up = loss(&moved);
        moved[i] = values[i] - STEP;
        let down = loss(&moved);
        moved[i] = values[i];
        worst = worst.max(((up - down) / (2.0 * STEP) - gradient[i]).abs() / scale);
    }
    worst
}

/// A fixed weighting that turns an output into a scalar loss for [`finite_difference_error`].
pub fn probe(n: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect()
}

/// Sum of products.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
