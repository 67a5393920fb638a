//! Counter-based random numbers: every draw is a pure function of (seed, purpose, step, index).
//!
//! There is no hidden state to save: resuming a run restores integers, and skipping ahead costs nothing. The generator is
//! Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). `shaders/lib/rng.wgsl` is the same function.

use rayon::prelude::*;

/// A stream of random numbers named by its purpose, such as `"init"` or `"data"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
}

impl Rng {
    /// The stream of `purpose` under `seed`; different purposes are independent.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed = splitmix(seed ^ fnv1a(purpose));
        Self { key: [mixed as u32, (mixed >> 32) as u32] }
    }

    /// The two key words, for the shader twin of this generator.
    pub fn key(self) -> [u32; 2] {
        self.key
    }

    /// Four random words for (step, index).
    pub fn words(self, step: u64, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, step as u32, (step >> 32) as u32], self.key)
    }

    /// Uniform in [0, 1), 24 bits, exactly the value that the shader draws.
    pub fn uniform(self, step: u64, index: u64) -> f32 {
        unit(self.words(step, index)[0])
    }

    /// Standard normal pair (Box-Muller, in f64).
    pub fn normal_pair(self, step: u64, index: u64) -> [f64; 2] {
        let w = self.words(step, index);
        let u = (f64::from(w[0]) + 1.0) / 4_294_967_296.0;
        let angle = std::f64::consts::TAU * f64::from(w[1]) / 4_294_967_296.0;
        let radius = (-2.0 * u.ln()).sqrt();
        [radius * angle.cos(), radius * angle.sin()]
    }

    /// Normal numbers of mean 0, drawn in pairs; on all cores, since every pair is a function of its index.
    pub fn fill_normal(self, step: u64, std: f64, values: &mut [f32]) {
        const PAIRS: usize = 1 << 14;
        values.par_chunks_mut(2 * PAIRS).enumerate().for_each(|(chunk, part)| {
            for (i, pair) in part.chunks_mut(2).enumerate() {
                let draws = self.normal_pair(step, (chunk * PAIRS + i) as u64);
                pair.iter_mut().zip(draws).for_each(|(value, draw)| *value = (std * draw) as f32);
            }
        });
    }

    /// Uniform integer in [0, n); the bias is below 2^-32.
    pub fn below(self, step: u64, index: u64, n: u64) -> u64 {
        let w = self.words(step, index);
        let word = (u64::from(w[1]) << 32) | u64::from(w[0]);
        ((u128::from(word) * u128::from(n)) >> 64) as u64
    }
}

/// The word's top 24 bits as a number in [0, 1).
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Philox4x32 with ten rounds.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let low = u64::from(counter[0]) * 0xD251_1F53;
        let high = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(high >> 32) as u32 ^ counter[1] ^ key[0], high as u32, (low >> 32) as u32 ^ counter[3] ^ key[1], low as u32];
    }
    counter
}

/// A bijection of 0..n chosen by a key: the order in which an epoch visits its windows.
///
/// A balanced Feistel network over the next even power of two, walked until it lands inside the range: O(1) memory, any index at once.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    rng: Rng,
    epoch: u64,
}

impl Permutation {
    /// The permutation of `0..n` for this stream and epoch.
    pub fn new(n: u64, rng: Rng, epoch: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { n, half_bits: bits.div_ceil(2).max(1), rng, epoch }
    }

    /// Where index `i` goes. `i` must be below `n`.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "index {i} outside a permutation of {}", self.n);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..6u64 {
                let f = self.rng.words(self.epoch, (round << 56) ^ right)[0];
                (left, right) = (right, left ^ (u64::from(f) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_permutation_visits_every_index_once() {
        for n in [1u64, 2, 3, 7, 64, 1000, 1025] {
            for epoch in 0..3 {
                let p = Permutation::new(n, Rng::new(7, "data"), epoch);
                let mut seen = vec![false; n as usize];
                for i in 0..n {
                    assert!(!std::mem::replace(&mut seen[p.at(i) as usize], true));
                }
            }
        }
        let order = |epoch| (0..100).map(|i| Permutation::new(100, Rng::new(7, "data"), epoch).at(i)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
    }

    #[test]
    fn filled_values_are_the_pairs_one_after_another() {
        let rng = Rng::new(3, "init");
        let mut filled = vec![f32::NAN; (1 << 16) + 7];
        rng.fill_normal(2, 0.5, &mut filled);
        for (i, pair) in filled.chunks(2).enumerate() {
            let want = rng.normal_pair(2, i as u64).map(|draw| (0.5 * draw) as f32);
            assert_eq!(pair, &want[..pair.len()], "pair {i}");
        }
    }

    #[test]
    fn normals_have_unit_variance() {
        let rng = Rng::new(3, "init");
        let n = 20_000;
        let draws: Vec<f64> = (0..n).flat_map(|i| rng.normal_pair(0, i)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let var = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.025 && (var - 1.0).abs() < 0.04, "mean {mean} variance {var}");
    }
}
