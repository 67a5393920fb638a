//! Objectives: one number per token, d loss / d log pi(target); the rest of the backward pass is shared.          shaders/objective.wgsl

mod host;

use super::check::{Case, Check, wide};
use super::logprob::RowStats;
use crate::device::{Cost, Device, Extent, Op, Recorder, Shader, Tensor};
use crate::{bind, shader, uniform};
use serde::{Deserialize, Serialize};

const SHADER: Shader = shader!("objective");
const GROUP: u32 = 256;

/// Step statistics that the host reads, one step late. Cleared at the start of a step.
pub mod stats {
    /// Elements of the buffer.
    pub const LEN: usize = 20;
    /// Global L2 norm of the gradient (`grad_norm.finish`).
    pub const GRAD_NORM: usize = 0;
    /// Clip factor (`grad_norm.finish`).
    pub const CLIP_SCALE: usize = 1;
    /// Number of workgroups with a NaN or an infinity in the gradient (`grad_norm.finish`); as f32.
    pub const NOT_FINITE: usize = 2;
    /// Sum of -w log p (`objective.cross_entropy`); the whole loss (`objective.policy`).
    pub const LOSS: usize = 4;
    /// Sum of w * entropy (`objective.cross_entropy`); of the entropy of the pass's rows (`objective.policy`).
    pub const ENTROPY: usize = 5;
    /// Sum of w over the targets that are the arg-max (`objective.cross_entropy`).
    pub const ACCURACY: usize = 6;
    /// Rows of the pass (this and all below: `objective.policy`).
    pub const ROWS: usize = 7;
    /// Sum of w * clipped policy loss.
    pub const POLICY_LOSS: usize = 8;
    /// Sum of w * KL over the pass's rows; its factor in the loss is beta.
    pub const KL_LOSS: usize = 9;
    /// Sum of w * entropy over the pass's rows; its factor in the loss is the coefficient.
    pub const ENTROPY_LOSS: usize = 10;
    /// Sum of the KL of the pass's rows.
    pub const KL: usize = 11;
    /// Sum of log pi_old - log pi over the pass's rows.
    pub const OLD_KL: usize = 12;
    /// Rows with A < 0 where the lower clip is active (zero gradient).
    pub const CLIP_LOW: usize = 13;
    /// Rows with A > 0 where the upper clip is active (zero gradient).
    pub const CLIP_HIGH: usize = 14;
    /// Rows where the dual clip is active (zero gradient).
    pub const CLIP_DUAL: usize = 15;
    /// Sum of |ratio - 1| over the pass's rows.
    pub const RATIO: usize = 16;
}

uniform! { struct Dims { rows: u32, first_row: u32 } }

/// Cross-entropy over rows `first_row..first_row + rows`: `dlogp = -weights`; adds loss, entropy and accuracy to `stats`.
pub fn cross_entropy(
    r: &mut Recorder<'_>,
    rows: (usize, usize),
    of: &RowStats,
    weights: &Tensor,
    dlogp: &Tensor,
    stats: &Tensor,
) {
    let RowStats { logp, entropy, hit, .. } = of;
    let cost = Cost { flops: 0.0, bytes: 20.0 * rows.1 as f64 };
    r.op(
        Op { name: "objective.cross_entropy", cost, reads: bind!(logp, entropy, hit, weights), writes: bind!(dlogp, stats) },
        |wgsl| wgsl.run(&SHADER, "cross_entropy", &constants(), dims(rows), extent(rows)),
        move |cpu, [logp, entropy, hit, weights], [dlogp, stats]| {
            host::cross_entropy(cpu, rows, logp, entropy, weights, hit, dlogp, stats);
        },
    );
}

/// Inputs of `objective.policy` per row, besides the head's statistics, and its output d loss / d entropy.
#[derive(Clone, Debug)]
pub struct PolicyRows<T> {
    /// (R, 4): log pi_old, log pi_ref, advantage, share in the loss. The last is above 0 for rows of the pass and 0 for all others.
    pub samples: T,
    /// (`POLICY_LEN`): [`PolicyTerms::pack`].
    pub settings: T,
    /// (1) 1 / temperature.
    pub inv_temperature: T,
    /// (R) d loss / d entropy, for `logprob::backward_policy`.
    pub dentropy: T,
}

/// Elements of [`PolicyRows::settings`].
pub const POLICY_LEN: usize = 8;

/// The terms of the policy loss; they may change between replays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyTerms {
    /// Lower clip bound of the ratio is 1 - epsilon.
    pub epsilon: f64,
    /// Upper clip bound of the ratio is 1 + epsilon_high.
    pub epsilon_high: f64,
    /// Dual clip; `None` is off.
    pub delta: Option<f64>,
    /// Weight of the KL term.
    pub beta: f64,
    /// Weight of the entropy bonus.
    pub entropy_coef: f64,
}

impl PolicyTerms {
    /// In the shader's layout.
    pub fn pack(&self) -> [f32; POLICY_LEN] {
        let delta = self.delta.unwrap_or(0.0);
        [self.epsilon, self.epsilon_high, delta, self.beta, self.entropy_coef, 0.0, 0.0, 0.0].map(|x| x as f32)
    }
}

/// The clipped surrogate of PPO with a KL term and an entropy bonus, over rows `first_row..first_row + rows`: leaves `dlogp` and
/// `dentropy`, adds to `stats`. The sum of w (pg + beta KL - coefficient H), where
///
/// - r = pi / pi_old, pg = max(-A r, -A clip(r, 1 - epsilon, 1 + epsilon_high)), and for A < 0 at most -A delta (Schulman et al. 2017,
///   Eq. 7; dual clip: Ye et al. 2020, Eq. 5),
/// - KL = exp(d) - d - 1 with d = log pi_ref - log pi clamped to [-5, 5], the result to at most 10 (GRPO, arXiv 2402.03300, Eq. 4; the
///   clamps are verl's and let no gradient through).
///
/// A row with w = 0 gets zeros, for any finite values in the rest of the row.
pub fn policy(
    r: &mut Recorder<'_>,
    rows: (usize, usize),
    of: &RowStats,
    policy: &PolicyRows<Tensor>,
    dlogp: &Tensor,
    stats: &Tensor,
) {
    let RowStats { logp, entropy, .. } = of;
    let PolicyRows { samples, settings, dentropy, .. } = policy;
    let cost = Cost { flops: 0.0, bytes: 36.0 * rows.1 as f64 };
    r.op(
        Op {
            name: "objective.policy",
            cost,
            reads: bind!(logp, entropy, samples, settings),
            writes: bind!(dlogp, dentropy, stats),
        },
        |wgsl| wgsl.run(&SHADER, "policy", &constants(), dims(rows), extent(rows)),
        move |_, [logp, entropy, samples, settings], [dlogp, dentropy, stats]| {
            host::policy(rows, logp, entropy, samples, settings, dlogp, stats, dentropy);
        },
    );
}

fn constants() -> [(&'static str, f64); 1] {
    [("WG", f64::from(GROUP))]
}

/// One workgroup: a loop over the rows, three sums over the workgroup.
fn extent(rows: (usize, usize)) -> Extent {
    Extent { groups: [1, 1, 1], iterations: rows.1.div_ceil(GROUP as usize) + 3 * GROUP.ilog2() as usize }
}

fn dims(rows: (usize, usize)) -> Dims {
    Dims { first_row: rows.0 as u32, rows: rows.1 as u32 }
}

/// The same arithmetic in f64.
pub mod twin {
    use super::PolicyTerms;

    /// (dlogp, loss, weighted entropy, weighted accuracy)
    pub fn cross_entropy(logp: &[f64], entropy: &[f64], hit: &[f64], weights: &[f64]) -> (Vec<f64>, f64, f64, f64) {
        let sum = |of: &[f64]| of.iter().zip(weights).map(|(x, w)| w * x).sum::<f64>();
        (weights.iter().map(|w| -w).collect(), -sum(logp), sum(entropy), sum(hit))
    }

    /// One row of the policy loss.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Row {
        /// (policy loss, KL); the contribution of a row to the loss is w (pg + beta KL - coefficient H).
        pub terms: (f64, f64),
        /// d loss / d log pi and d loss / d entropy.
        pub gradient: (f64, f64),
        /// The active clips: (low, high, dual).
        pub clipped: (bool, bool, bool),
    }

    /// `sample` is [log pi_old, log pi_ref, advantage, w].
    pub fn policy(logp: f64, sample: [f64; 4], t: &PolicyTerms) -> Row {
        let [old, reference, a, w] = sample;
        let ratio = (logp - old).clamp(-80.0, 80.0).exp();
        let (plain, clipped) = (-a * ratio, -a * ratio.clamp(1.0 - t.epsilon, 1.0 + t.epsilon_high));
        let bound = t.delta.filter(|d| *d > 0.0 && a < 0.0).map_or(f64::INFINITY, |d| -a * d);
        let (is_clipped, is_dual) = (clipped > plain, plain.max(clipped) > bound);
        let slope = if is_clipped || is_dual { 0.0 } else { plain };
        let gap = reference - logp;
        let d = gap.clamp(-5.0, 5.0);
        let k3 = d.exp_m1() - d;
        let kl_slope = if gap.abs() <= 5.0 && k3 <= 10.0 { -d.exp_m1() } else { 0.0 };
        Row {
            terms: (plain.max(clipped).min(bound), k3.min(10.0)),
            gradient: (w * (slope + t.beta * kl_slope), -w * t.entropy_coef),
            clipped: (is_clipped && a < 0.0, is_clipped && a > 0.0, is_dual),
        }
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] =
    &[Check { name: "objective (cross-entropy)", run: check }, Check { name: "objective (policy)", run: check_policy }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, first) = (case.int(1, 900), case.int(0, 50));
    case.shape = format!("{rows} rows from {first}");
    let n = first + rows;
    let (logp, entropy, weights) = (case.normals(n, 3.0), case.normals(n, 1.0), case.normals(n, 0.01));
    let start = case.normals(stats::LEN, 1.0);
    let up = |case: &Case, name: &str, v: &[f32]| case.upload(device, name, &[v.len()], v);
    let (tl, te, tw) = (up(case, "logp", &logp), up(case, "entropy", &entropy), up(case, "weights", &weights));
    let hit: Vec<f32> = (0..n).map(|_| case.int(0, 1) as f32).collect();
    let (td, ts) = (up(case, "dlogp", &vec![0.0; n]), up(case, "stats", &start));
    // Unread values are arbitrary.
    let unread = case.poisoned(device, "unread", &[n]);
    let of = RowStats { logp: tl, entropy: te, hit: up(case, "hit", &hit), sum_p2: unread.clone(), lse: unread };
    case.replay(device, |r| cross_entropy(r, (first, rows), &of, &tw, &td, &ts))?;
    let part = |v: &[f32]| wide(&v[first..]);
    let (dlogp, loss, weighted, accuracy) = twin::cross_entropy(&part(&logp), &part(&entropy), &part(&hit), &part(&weights));
    let mut want = wide(&start);
    want[stats::LOSS] += loss;
    want[stats::ENTROPY] += weighted;
    want[stats::ACCURACY] += accuracy;
    case.compare(device, &td, &[vec![0.0; first], dlogp].concat())?;
    case.compare(device, &ts, &want)
}

/// Ratios, gaps and advantages on both sides of every bound, some exactly on one.
fn draw_samples(case: &mut Case, logp: &[f32]) -> Vec<f32> {
    let mut samples = Vec::new();
    for l in logp {
        let old = l - case.pick(&[0.0, 0.1, -0.1, 0.3, -0.4, 1.5, -1.2]) + case.normals(1, 0.01)[0];
        let reference = l + case.pick(&[0.0, 1e-4, -1e-3, 0.1, -0.4, 0.6, -1.5, 2.0, 3.5, -4.9, 6.0, -7.0]);
        let advantage = case.normals(1, 1.0)[0] * case.pick(&[1.0, 1.0, 1.0, 0.0]);
        samples.extend([old, reference, advantage, case.pick(&[0.0, 1.0, 0.3])]);
    }
    samples
}

fn check_policy(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, first) = (case.int(1, 900), case.int(0, 50));
    let n = first + rows;
    let terms = PolicyTerms {
        epsilon: 0.2,
        epsilon_high: case.pick(&[0.2, 0.24]),
        delta: case.pick(&[None, Some(3.0)]),
        beta: case.pick(&[0.0, 0.04, 1.0]),
        entropy_coef: case.pick(&[0.0, 0.1, -0.5]),
    };
    case.shape = format!("{rows} rows from {first}, {terms:?}");
    let (logp, entropy, start) = (case.normals(n, 3.0), case.normals(n, 1.0), case.normals(stats::LEN, 1.0));
    let samples = draw_samples(case, &logp);
    let up = |case: &Case, name: &str, v: &[f32]| case.upload(device, name, &[v.len()], v);
    let (td, ts) = (up(case, "dlogp", &vec![0.0; n]), up(case, "stats", &start));
    let unread = case.poisoned(device, "unread", &[n]);
    let (tl, te) = (up(case, "logp", &logp), up(case, "entropy", &entropy));
    let of = RowStats { logp: tl, entropy: te, hit: unread.clone(), sum_p2: unread.clone(), lse: unread.clone() };
    let inputs = PolicyRows {
        samples: case.upload(device, "samples", &[n, 4], &samples),
        settings: up(case, "settings", &terms.pack()),
        inv_temperature: unread,
        dentropy: up(case, "dentropy", &vec![0.0; n]),
    };
    case.replay(device, |r| policy(r, (first, rows), &of, &inputs, &td, &ts))?;
    let mut want = wide(&start);
    let (mut dlogp, mut dentropy) = (vec![0.0; first], vec![0.0; first]);
    for at in first..n {
        let sample = [0, 1, 2, 3].map(|i| f64::from(samples[4 * at + i]));
        let [l, h, w] = [f64::from(logp[at]), f64::from(entropy[at]), sample[3]];
        let row = twin::policy(l, sample, &terms);
        dlogp.push(row.gradient.0);
        dentropy.push(row.gradient.1);
        let flag = |b: bool| f64::from(u8::from(b && w > 0.0));
        let member = flag(true);
        for (slot, value) in [
            (stats::LOSS, w * (row.terms.0 + terms.beta * row.terms.1 - terms.entropy_coef * h)),
            (stats::ENTROPY, member * h),
            (stats::ROWS, member),
            (stats::POLICY_LOSS, w * row.terms.0),
            (stats::KL_LOSS, w * row.terms.1),
            (stats::ENTROPY_LOSS, w * h),
            (stats::KL, member * row.terms.1),
            (stats::OLD_KL, member * (sample[0] - l)),
            (stats::CLIP_LOW, flag(row.clipped.0)),
            (stats::CLIP_HIGH, flag(row.clipped.1)),
            (stats::CLIP_DUAL, flag(row.clipped.2)),
            (stats::RATIO, member * ((l - sample[0]).clamp(-80.0, 80.0).exp() - 1.0).abs()),
        ] {
            want[slot] += value;
        }
    }
    case.compare(device, &td, &dlogp)?;
    case.compare(device, &inputs.dentropy, &dentropy)?;
    case.compare(device, &ts, &want)
}

#[cfg(test)]
mod tests {
    use super::super::check::{finite_difference_error, probe};
    use super::{PolicyTerms, twin};

    #[test]
    fn twin_dlogp_is_the_derivative() {
        let (logp, weights) = (probe(7), probe(7));
        let (dlogp, ..) = twin::cross_entropy(&logp, &logp, &logp, &weights);
        assert!(finite_difference_error(&logp, &dlogp, |l| twin::cross_entropy(l, l, l, &weights).1) < 1e-6);
    }
    /// Away from the kinks, for ratios and gaps on every side of every bound.
    #[test]
    fn twin_policy_is_the_derivative() {
        let t = PolicyTerms { epsilon: 0.2, epsilon_high: 0.24, delta: Some(3.0), beta: 0.3, entropy_coef: 0.05 };
        let mut clipped = (0, 0, 0);
        for shift in [-2.0, -0.25, -0.1, 0.0, 0.1, 0.23, 1.3] {
            for gap in [-6.0, -2.0, -0.01, 0.0, 0.3, 2.2, 2.7, 4.9, 5.1] {
                for a in [-1.3, 0.0, 0.7] {
                    let (logp, w) = (-1.1, 0.37);
                    let loss = |x: &[f64]| {
                        let row = twin::policy(x[0], [logp - shift, logp + gap, a, w], &t);
                        w * (row.terms.0 + t.beta * row.terms.1 - t.entropy_coef * x[1])
                    };
                    let row = twin::policy(logp, [logp - shift, logp + gap, a, w], &t);
                    let error = finite_difference_error(&[logp, 0.9], &[row.gradient.0, row.gradient.1], loss);
                    assert!(error < 1e-6, "shift {shift}, gap {gap}, A {a}: {error:e}");
                    clipped.0 += u32::from(row.clipped.0);
                    clipped.1 += u32::from(row.clipped.1);
                    clipped.2 += u32::from(row.clipped.2);
                }
            }
        }
        assert!(clipped.0 > 0 && clipped.1 > 0 && clipped.2 > 0, "{clipped:?}");
    }

    /// papers: the gradient of the k3 term is (1 - pi_ref / pi) grad log pi, and k3 is never negative.
    #[test]
    fn twin_kl_is_k3() {
        let t = PolicyTerms { beta: 1.0, ..PolicyTerms::default() };
        for gap in [-4.0, -0.5, 0.0, 1e-9, 0.2, 2.0] {
            let row = twin::policy(-1.0, [-1.0, -1.0 + gap, 0.0, 1.0], &t);
            assert!(row.terms.1 >= 0.0 && (row.gradient.0 - (1.0 - f64::exp(gap))).abs() < 1e-12, "{gap}: {row:?}");
        }
    }
}
