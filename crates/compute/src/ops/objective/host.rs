//! Objectives: from log pi(target) to one number a row, dlogp = d loss / d log pi(target). The sums go to `stats`.
//!
//! Some thousand rows, a few numbers each: one thread walks them.

use super::stats as slot;
use crate::device::cpu::{Cpu, math::BLOCK};
use crate::simd;
use fearless_simd::prelude::*;

/// Cross-entropy over rows `rows.0..rows.0 + rows.1`: `dlogp = -weights`; adds loss, entropy and accuracy to `stats`.
pub fn cross_entropy(
    cpu: &Cpu,
    rows: (usize, usize),
    logp: &[f32],
    entropy: &[f32],
    weights: &[f32],
    hit: &[f32],
    dlogp: &mut [f32],
    stats: &mut [f32],
) {
    let range = rows.0..rows.0 + rows.1;
    let (logp, entropy, weights, hit) =
        (&logp[range.clone()], &entropy[range.clone()], &weights[range.clone()], &hit[range.clone()]);
    dlogp[range].iter_mut().zip(weights).for_each(|(d, w)| *d = -w);
    simd!(cpu, s => {
        stats[slot::LOSS] -= weighted(s, weights, logp);
        stats[slot::ENTROPY] += weighted(s, weights, entropy);
        stats[slot::ACCURACY] += weighted(s, weights, hit);
    });
}

/// Sum of products; blocks in f32, their sums in f64.
#[inline(always)]
fn weighted<S: Simd>(simd: S, weights: &[f32], values: &[f32]) -> f32 {
    let n = S::f32s::LEN;
    let mut total = 0.0;
    for (weights, values) in weights.chunks(BLOCK).zip(values.chunks(BLOCK)) {
        let (weights, values) = (weights.chunks_exact(n), values.chunks_exact(n));
        let rest = weights.remainder().iter().zip(values.remainder());
        total += rest.map(|(w, v)| f64::from(w * v)).sum::<f64>();
        let mut sum = S::f32s::splat(simd, 0.0);
        for (w, v) in weights.zip(values) {
            sum = S::f32s::from_slice(simd, w).mul_add(S::f32s::from_slice(simd, v), sum);
        }
        total += f64::from(sum.reduce_sum());
    }
    total as f32
}

/// exp(x) - x - 1, which cancels near 0: a series there.
fn k3(x: f32) -> f32 {
    if x.abs() >= 0.5 {
        return x.clamp(-5.0, 5.0).exp() - x - 1.0;
    }
    let series =
        0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0)))));
    x * x * series
}

/// Contribution of a row to `stats`, and the destination of its gradients.
struct Row {
    slope: f32,
    loss: f32,
    kl: f32,
    kl_slope: f32,
    ratio: f32,
    /// The active clips: low, high, dual.
    clipped: [bool; 3],
}

/// `sample` is (log pi_old, log pi_ref, advantage, share in the loss); `settings` as [`policy`] has them.
fn policy_row(logp: f32, sample: &[f32], settings: &[f32]) -> Row {
    let (low, high, delta) = (1.0 - settings[0], 1.0 + settings[1], settings[2]);
    let advantage = sample[2];
    // Far beyond any ratio that is not clipped, and finite.
    let ratio = (logp - sample[0]).clamp(-80.0, 80.0).exp();
    let (plain, clipped) = (-advantage * ratio, -advantage * ratio.clamp(low, high));
    let is_clipped = clipped > plain;
    let ceiling = -advantage * delta;
    let is_dual = delta > 0.0 && advantage < 0.0 && plain.max(clipped) > ceiling;
    // The clamps have zero gradient.
    let gap = sample[1] - logp;
    let d = gap.clamp(-5.0, 5.0);
    let raw = k3(d);
    Row {
        slope: if is_clipped || is_dual { 0.0 } else { plain },
        loss: if is_dual { ceiling } else { plain.max(clipped) },
        kl: raw.clamp(-10.0, 10.0),
        kl_slope: if gap.abs() <= 5.0 && raw <= 10.0 { -(d + raw) } else { 0.0 },
        ratio,
        clipped: [is_clipped && advantage < 0.0, is_clipped && advantage > 0.0, is_dual],
    }
}

/// The clipped surrogate of PPO with a KL term and an entropy bonus, over rows `rows.0..rows.0 + rows.1`: leaves `dlogp` and `dentropy`
/// (R), adds to `stats`. `samples` (R, 4): log pi_old, log pi_ref, advantage, share in the loss w. `settings`: epsilon low, epsilon high,
/// delta (0: off), beta, entropy coefficient. The sum of w (pg + beta KL - coefficient H) with r = pi / pi_old and
/// pg = max(-A r, -A clip(r, 1 - low, 1 + high)), and for A < 0 at most -A delta.
pub fn policy(
    rows: (usize, usize),
    logp: &[f32],
    entropy: &[f32],
    samples: &[f32],
    settings: &[f32],
    dlogp: &mut [f32],
    stats: &mut [f32],
    dentropy: &mut [f32],
) {
    let (beta, coefficient) = (settings[3], settings[4]);
    let mut sums = [0f64; 20];
    for at in rows.0..rows.0 + rows.1 {
        let sample = &samples[4 * at..][..4];
        let w = sample[3];
        let row = policy_row(logp[at], sample, settings);
        dlogp[at] = w * (row.slope + beta * row.kl_slope);
        dentropy[at] = -w * coefficient;
        let mut add = |slot: usize, value: f32| sums[slot] += f64::from(value);
        add(slot::POLICY_LOSS, w * row.loss);
        add(slot::KL_LOSS, w * row.kl);
        add(slot::ENTROPY_LOSS, w * entropy[at]);
        if w > 0.0 {
            add(slot::ENTROPY, entropy[at]);
            add(slot::ROWS, 1.0);
            add(slot::KL, row.kl);
            add(slot::OLD_KL, sample[0] - logp[at]);
            for (slot, is) in [slot::CLIP_LOW, slot::CLIP_HIGH, slot::CLIP_DUAL].into_iter().zip(row.clipped) {
                add(slot, f32::from(u8::from(is)));
            }
            add(slot::RATIO, (row.ratio - 1.0).abs());
        }
    }
    sums[slot::LOSS] =
        sums[slot::POLICY_LOSS] + f64::from(beta) * sums[slot::KL_LOSS] - f64::from(coefficient) * sums[slot::ENTROPY_LOSS];
    stats.iter_mut().zip(sums).for_each(|(s, sum)| *s += sum as f32);
}
