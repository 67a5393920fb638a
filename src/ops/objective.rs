//! Objectives: one number a token, d loss / d log pi(target); everything behind it is shared.          shaders/objective.wgsl

use super::check::{Case, Check, wide};
use super::logprob::RowStats;
use crate::gpu::{Cost, Gpu, Recording, Shader, Tensor};
use crate::{shader, uniform};

const SHADER: Shader = shader!("objective");
const GROUP: u32 = 256;

/// The numbers of a step that the host reads, one step late. Cleared at the start of a step.
pub mod stats {
    /// Elements of the buffer.
    pub const LEN: usize = 16;
    /// Global L2 norm of the gradient (`grad_norm.finish`).
    pub const GRAD_NORM: usize = 0;
    /// Factor that clips it (`grad_norm.finish`).
    pub const CLIP_SCALE: usize = 1;
    /// Number of workgroups that met a NaN or an infinity in the gradient (`grad_norm.finish`); as f32.
    pub const NOT_FINITE: usize = 2;
    /// Sum of -w log p (`objective.cross_entropy`).
    pub const LOSS: usize = 4;
    /// Sum of w * entropy (`objective.cross_entropy`).
    pub const ENTROPY: usize = 5;
    /// Sum of w over the targets that are the arg-max (`objective.cross_entropy`).
    pub const ACCURACY: usize = 6;
}

uniform! { struct Dims { rows: u32, first_row: u32 } }

/// Cross-entropy over rows `first_row..first_row + rows`: `dlogp = -weights`; adds loss, entropy and accuracy to `stats`.
pub fn cross_entropy(
    r: &mut Recording,
    gpu: &Gpu,
    rows: (usize, usize),
    of: &RowStats,
    weights: &Tensor,
    dlogp: &Tensor,
    stats: &Tensor,
) {
    let dims = Dims { first_row: rows.0 as u32, rows: rows.1 as u32 };
    let cost = Cost { flops: 0.0, bytes: 20.0 * rows.1 as f64 };
    let constants = [("WG", f64::from(GROUP))];
    let bindings: &[(&str, &Tensor)] = &[
        ("logp", &of.logp),
        ("entropy", &of.entropy),
        ("hit", &of.hit),
        ("weights", weights),
        ("dlogp", dlogp),
        ("stats", stats),
    ];
    r.run(gpu, &SHADER, "cross_entropy", &constants, dims, bindings, [1, 1, 1], cost);
}

/// The same arithmetic in f64.
pub mod twin {
    /// (dlogp, loss, weighted entropy, weighted accuracy)
    pub fn cross_entropy(logp: &[f64], entropy: &[f64], hit: &[f64], weights: &[f64]) -> (Vec<f64>, f64, f64, f64) {
        let sum = |of: &[f64]| of.iter().zip(weights).map(|(x, w)| w * x).sum::<f64>();
        (weights.iter().map(|w| -w).collect(), -sum(logp), sum(entropy), sum(hit))
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "objective (cross-entropy)", run: check }];

fn check(gpu: &Gpu, case: &mut Case) -> anyhow::Result<()> {
    let (rows, first) = (case.int(1, 900), case.int(0, 50));
    case.shape = format!("{rows} rows from {first}");
    let n = first + rows;
    let (logp, entropy, weights) = (case.normals(n, 3.0), case.normals(n, 1.0), case.normals(n, 0.01));
    let start = case.normals(stats::LEN, 1.0);
    let up = |case: &Case, name: &str, v: &[f32]| case.upload(gpu, name, &[v.len()], v);
    let (tl, te, tw) = (up(case, "logp", &logp), up(case, "entropy", &entropy), up(case, "weights", &weights));
    let hit: Vec<f32> = (0..n).map(|_| case.int(0, 1) as f32).collect();
    let (td, ts) = (up(case, "dlogp", &vec![0.0; n]), up(case, "stats", &start));
    // What is not read may be anything.
    let unread = case.poisoned(gpu, "unread", &[n]);
    let of = RowStats { logp: tl, entropy: te, hit: up(case, "hit", &hit), sum_p2: unread.clone(), lse: unread };
    case.replay(gpu, |r| cross_entropy(r, gpu, (first, rows), &of, &tw, &td, &ts))?;
    let part = |v: &[f32]| wide(&v[first..]);
    let (dlogp, loss, weighted, accuracy) = twin::cross_entropy(&part(&logp), &part(&entropy), &part(&hit), &part(&weights));
    let mut want = wide(&start);
    want[stats::LOSS] += loss;
    want[stats::ENTROPY] += weighted;
    want[stats::ACCURACY] += accuracy;
    case.compare(gpu, &td, &[vec![0.0; first], dlogp].concat())?;
    case.compare(gpu, &ts, &want)
}

#[cfg(test)]
mod tests {
    use super::super::check::{finite_difference_error, probe};
    use super::twin;

    #[test]
    fn twin_dlogp_is_the_derivative() {
        let (logp, weights) = (probe(7), probe(7));
        let (dlogp, ..) = twin::cross_entropy(&logp, &logp, &logp, &weights);
        assert!(finite_difference_error(&logp, &dlogp, |l| twin::cross_entropy(l, l, l, &weights).1) < 1e-6);
    }
}
