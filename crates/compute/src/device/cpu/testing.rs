//! Shared by unit tests of CPU kernels: a check with every instruction set and several numbers of threads; random numbers.

use super::{Cpu, levels};

/// Run a check with every instruction set and one to three threads; `run` returns all outputs, as bits, which must not depend on
/// the number of threads.
pub fn on_every_level(run: impl Fn(&Cpu) -> Vec<u32>) {
    for level in levels() {
        let of = |threads: usize| run(&Cpu::with_level(level, threads).expect("threads start"));
        let one = of(1);
        for threads in [2, 3] {
            assert!(of(threads) == one, "{level:?}: {threads} threads give other bits than one");
        }
    }
}

/// Random numbers of a fixed sequence.
pub struct Draw(u64);

impl Draw {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number in `low..=high`.
    pub fn int(&mut self, low: usize, high: usize) -> usize {
        low + (self.word() % (high - low + 1) as u64) as usize
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.int(0, end - 1)
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.int(0, of.len() - 1)]
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A normal number of this scale.
    pub fn normal(&mut self, scale: f64) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (scale * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// `n` normal numbers of this scale.
    pub fn normals(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| self.normal(scale)).collect()
    }
}
