//! Log-probability head: log pi(target), entropy, sum p^2, whether the target is the arg-max and, in place, dlogits = dlogp * (onehot - p).          shaders/logprob.wgsl
//!
//! Objectives depend on the model only through log pi(target), so all share this backward. A policy objective adds a temperature, pi =
//! softmax(logits / T), and the entropy of a bonus.

mod host;

pub(super) use host::highest;

use super::check::{Case, Check, LARGE_VOCABULARIES, wide};
use super::{WG, row_constants, row_iterations, row_lanes};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};
use bytemuck::cast_slice;

const SHADER: Shader = shader!("logprob");

uniform! { struct Dims { rows: u32, vocab: u32, stride4: u32, first_row: u32 } }

/// Statistics of each row from the head (all of shape R, f32).
#[derive(Clone, Debug)]
pub struct RowStats {
    /// log pi(target).
    pub logp: Tensor,
    /// Entropy of the distribution, in nats.
    pub entropy: Tensor,
    /// Sum of squared probabilities: |dlogits| = |dlogp| sqrt(sum p^2 - 2 p + 1).
    pub sum_p2: Tensor,
    /// log sum exp of the logits.
    pub lse: Tensor,
    /// 1 where the target is the arg-max (the first, if several logits are highest), else 0: averaged for token accuracy.
    pub hit: Tensor,
}

/// The rows of a chunk: `logits` is (rows, stride); its row 0 is row `first_row` of `targets` and of the statistics.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Rows in the chunk.
    pub rows: usize,
    /// Its first row.
    pub first_row: usize,
    /// Vocabulary size: used columns.
    pub vocab: usize,
    /// Columns per row of logits.
    pub stride: usize,
}

/// Statistics of each row of a chunk of logits.
pub fn forward(r: &mut Recorder<'_>, chunk: Chunk, logits: &Tensor, targets: &Tensor, out: &RowStats) {
    let RowStats { logp, entropy, sum_p2, lse, hit } = out;
    let cost = cost(chunk, logits);
    r.op(
        Op { name: "logprob.forward", cost, reads: bind!(logits, targets), writes: bind!(logp, entropy, sum_p2, lse, hit) },
        |wgsl| dispatch(wgsl, "forward", chunk),
        move |cpu, [logits, targets], [logp, entropy, sum_p2, lse, hit]| {
            host::forward(cpu, chunk, logits, cast_slice(targets), logp, entropy, sum_p2, lse, hit);
        },
    );
}

/// Replace a chunk of logits by its gradient, from `dlogp` (R) and the `lse` of [`forward`].
pub fn backward(r: &mut Recorder<'_>, chunk: Chunk, dlogits: &Tensor, targets: &Tensor, dlogp: &Tensor, row_lse: &Tensor) {
    let cost = cost(chunk, dlogits);
    r.op(
        Op { name: "logprob.backward", cost, reads: bind!(targets, dlogp, row_lse), writes: bind!(dlogits) },
        |wgsl| dispatch(wgsl, "backward", chunk),
        move |cpu, [targets, dlogp, row_lse], [dlogits]| {
            host::backward(cpu, chunk, cast_slice(targets), dlogp, row_lse, dlogits);
        },
    );
}

/// Multiply a chunk of logits by `inv_temperature` (1), before [`forward`]; 1 changes no bit.
pub fn divide(r: &mut Recorder<'_>, chunk: Chunk, dlogits: &Tensor, inv_temperature: &Tensor) {
    let cost = Cost { flops: dlogits.len() as f64, ..cost(chunk, dlogits) };
    r.op(
        Op { name: "logprob.divide", cost, reads: bind!(inv_temperature), writes: bind!(dlogits) },
        |wgsl| dispatch(wgsl, "divide", chunk),
        move |cpu, [inv_temperature], [dlogits]| host::divide(cpu, chunk, inv_temperature, dlogits),
    );
}

/// As [`backward`], for logits scaled by [`divide`]: the gradient of the logits before scaling; and for an objective that also depends on
/// the entropy of each row, with `dentropy` (R) = d loss / d entropy: d entropy / d logits = -p (log p + entropy) / T. `lse` and `entropy`
/// of `stats` must be those of [`forward`].
pub fn backward_policy(
    r: &mut Recorder<'_>,
    chunk: Chunk,
    dlogits: &Tensor,
    targets: &Tensor,
    inv_temperature: &Tensor,
    (dlogp, dentropy): (&Tensor, &Tensor),
    stats: &RowStats,
) {
    let cost = cost(chunk, dlogits);
    let (row_lse, row_entropy) = (&stats.lse, &stats.entropy);
    r.op(
        Op {
            name: "logprob.backward_policy",
            cost,
            reads: bind!(targets, inv_temperature, dlogp, dentropy, row_lse, row_entropy),
            writes: bind!(dlogits),
        },
        |wgsl| dispatch(wgsl, "backward_policy", chunk),
        move |cpu, [targets, inv_temperature, dlogp, dentropy, row_lse, row_entropy], [dlogits]| {
            let targets = cast_slice(targets);
            host::backward_policy(cpu, chunk, targets, dlogp, row_lse, inv_temperature, row_entropy, dentropy, dlogits);
        },
    );
}

fn cost(chunk: Chunk, logits: &Tensor) -> Cost {
    assert_eq!(logits.matrix()[1], chunk.stride, "{}: stride", logits.name());
    let numbers = (chunk.rows * chunk.vocab) as f64;
    Cost { flops: 30.0 * numbers, bytes: 8.0 * numbers }
}

fn dispatch(wgsl: &mut Dispatcher<'_>, entry: &str, chunk: Chunk) -> anyhow::Result<()> {
    let dims = Dims {
        rows: chunk.rows as u32,
        vocab: chunk.vocab as u32,
        stride4: (chunk.stride / 4) as u32,
        first_row: chunk.first_row as u32,
    };
    // Forward has three loops, one of them in blocks; the others have one, and do not benefit from smaller sizes.
    const LOOPS: usize = 4;
    let lanes = row_lanes(wgsl.gpu(), chunk.stride, LOOPS);
    let groups = grid((chunk.rows as u64).div_ceil(u64::from(WG / lanes)));
    let extent = Extent { groups, iterations: row_iterations(lanes, chunk.stride, LOOPS) };
    wgsl.run(&SHADER, entry, &row_constants(lanes), dims, extent)
}

/// The same arithmetic in f64, one row.
pub mod twin {
    /// (log p(target), entropy, sum p^2, lse, hit)
    pub fn forward(logits: &[f64], target: usize) -> (f64, f64, f64, f64, f64) {
        let m = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = m + logits.iter().map(|l| (l - m).exp()).sum::<f64>().ln();
        let p: Vec<f64> = logits.iter().map(|l| (l - lse).exp()).collect();
        let entropy = p.iter().zip(logits).map(|(p, l)| p * (lse - l)).sum();
        let hit = f64::from(u8::from(logits.iter().position(|l| *l == m) == Some(target)));
        (logits[target] - lse, entropy, p.iter().map(|p| p * p).sum(), lse, hit)
    }

    /// dlogits
    pub fn backward(logits: &[f64], target: usize, dlogp: f64) -> Vec<f64> {
        let lse = forward(logits, target).3;
        logits.iter().enumerate().map(|(v, l)| dlogp * (f64::from(u8::from(v == target)) - (l - lse).exp())).collect()
    }

    /// Gradient of dlogp log p(target) + dentropy entropy, at `logits` that are divided by the temperature here.
    pub fn backward_policy(logits: &[f64], inv: f64, target: usize, dlogp: f64, dentropy: f64) -> Vec<f64> {
        let z: Vec<f64> = logits.iter().map(|l| l * inv).collect();
        let (_, entropy, _, lse, _) = forward(&z, target);
        let of_entropy = z.iter().map(|z| -(z - lse).exp() * (z - lse + entropy));
        backward(&z, target, dlogp).iter().zip(of_entropy).map(|(a, b)| inv * (a + dentropy * b)).collect()
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "logprob", run: |device, case| check(device, case, 80, |case| case.int(1, 400)) },
    Check { name: "logprob (policy)", run: |device, case| check_policy(device, case, 80, |case| case.int(1, 400)) },
    Check { name: "logprob (large vocabularies)", run: |device, case| check(device, case, 2, large) },
    Check { name: "logprob (policy, large vocabularies)", run: |device, case| check_policy(device, case, 2, large) },
];

fn large(case: &mut Case) -> usize {
    case.pick(&LARGE_VOCABULARIES)
}

fn check(device: &Device, case: &mut Case, most_rows: usize, vocab: fn(&mut Case) -> usize) -> anyhow::Result<()> {
    let (rows, vocab, first_row) = (case.int(1, most_rows), vocab(case), case.int(0, 30));
    let (stride, scale) = (vocab.next_multiple_of(4) + 4 * case.int(0, 2), case.pick(&[1.0, 10.0, 50.0]));
    case.shape = format!("{rows} rows from {first_row}, vocabulary {vocab}, stride {stride}, scale {scale}");
    let total = first_row + rows;
    let mut logits = case.normals(rows * stride, scale);
    // Padding columns must not be read: poison them.
    for row in logits.chunks_mut(stride) {
        row[vocab..].fill(f32::NAN);
    }
    let targets: Vec<u32> = (0..total).map(|_| case.int(0, vocab - 1) as u32).collect();
    // Random targets are rarely the arg-max: every third target is, tied with another before or after it.
    for (row, target) in logits.chunks_mut(stride).zip(&targets[first_row..]).step_by(3) {
        row[*target as usize] = row[..vocab].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    let dlogp = case.normals(total, 1.0);
    let (t, d) = (case.upload_u32(device, "targets", &targets), case.upload(device, "dlogp", &[total], &dlogp));
    let l = case.upload(device, "logits", &[rows, stride], &logits);
    let zeros = vec![0.0; total];
    let out = |name: &str| case.upload(device, name, &[total], &zeros);
    let (logp, entropy, sum_p2, lse, hit) = (out("logp"), out("entropy"), out("sum_p2"), out("lse"), out("hit"));
    let stats = RowStats { logp, entropy, sum_p2, lse, hit };
    let chunk = Chunk { rows, first_row, vocab, stride };
    case.replay(device, |r| {
        forward(r, chunk, &l, &t, &stats);
        backward(r, chunk, &l, &t, &d, &stats.lse);
    })?;
    let mut want: [Vec<f64>; 5] = std::array::from_fn(|_| vec![0.0; first_row]);
    let mut dwant = Vec::new();
    for (i, row) in logits.chunks(stride).enumerate() {
        let (row, target) = (wide(&row[..vocab]), targets[first_row + i] as usize);
        let (a, b, c, e, h) = twin::forward(&row, target);
        for (list, value) in want.iter_mut().zip([a, b, c, e, h]) {
            list.push(value);
        }
        dwant.extend(twin::backward(&row, target, f64::from(dlogp[first_row + i])));
        dwant.resize(dwant.len() + stride - vocab, 0.0);
    }
    case.compare(device, &stats.logp, &want[0])?;
    // Entropy and sum p^2 are in fixed ranges; where they are tiny (scale 50) only their absolute error is meaningful.
    for (tensor, want) in [(&stats.entropy, &want[1]), (&stats.sum_p2, &want[2])] {
        let values: Vec<f32> = device.read(tensor)?;
        for (g, w) in values.iter().zip(want) {
            let error = (f64::from(*g) - w).abs() / (2e-5 * (1.0 + w.abs()));
            if error > case.worst {
                (case.worst, case.detail) = (error, format!("{} = {g}, expected {w}", tensor.name()));
            }
        }
    }
    case.compare(device, &stats.lse, &want[3])?;
    case.compare(device, &stats.hit, &want[4])?;
    case.compare(device, &l, &dwant)
}

fn check_policy(device: &Device, case: &mut Case, most_rows: usize, vocab: fn(&mut Case) -> usize) -> anyhow::Result<()> {
    let (rows, vocab, first_row) = (case.int(1, most_rows), vocab(case), case.int(0, 30));
    let (stride, scale) = (vocab.next_multiple_of(4) + 4 * case.int(0, 2), case.pick(&[0.3, 1.0, 5.0]));
    // The highest of 10^5 logits would be so large that f32 spacing dominates the error.
    let scale = if vocab > 10_000 { scale / 3.0 } else { scale };
    let inv = (1.0 / case.pick(&[1.0, 0.7, 0.25, 1.3])) as f32;
    case.shape =
        format!("{rows} rows from {first_row}, vocabulary {vocab}, stride {stride}, scale {scale}, 1 / temperature {inv}");
    let total = first_row + rows;
    let mut logits = case.normals(rows * stride, scale);
    for row in logits.chunks_mut(stride) {
        row[vocab..].fill(f32::NAN);
    }
    let targets: Vec<u32> = (0..total).map(|_| case.int(0, vocab - 1) as u32).collect();
    let (dlogp, dentropy) = (case.normals(total, 1.0), case.normals(total, 1.0));
    let (t, d) = (case.upload_u32(device, "targets", &targets), case.upload(device, "dlogp", &[total], &dlogp));
    let (e, inv_t) = (case.upload(device, "dentropy", &[total], &dentropy), case.upload(device, "inv_temperature", &[1], &[inv]));
    let l = case.upload(device, "logits", &[rows, stride], &logits);
    let zeros = vec![0.0; total];
    let out = |name: &str| case.upload(device, name, &[total], &zeros);
    let (logp, entropy, sum_p2, lse, hit) = (out("logp"), out("entropy"), out("sum_p2"), out("lse"), out("hit"));
    let stats = RowStats { logp, entropy, sum_p2, lse, hit };
    let chunk = Chunk { rows, first_row, vocab, stride };
    case.replay(device, |r| {
        divide(r, chunk, &l, &inv_t);
        forward(r, chunk, &l, &t, &stats);
        backward_policy(r, chunk, &l, &t, &inv_t, (&d, &e), &stats);
    })?;
    let (mut logp, mut want) = (vec![0.0; first_row], Vec::new());
    for (i, row) in logits.chunks(stride).enumerate() {
        let (at, row) = (first_row + i, wide(&row[..vocab]));
        let (target, inv) = (targets[at] as usize, f64::from(inv));
        logp.push(twin::forward(&row.iter().map(|l| l * inv).collect::<Vec<_>>(), target).0);
        want.extend(twin::backward_policy(&row, inv, target, f64::from(dlogp[at]), f64::from(dentropy[at])));
        want.resize(want.len() + stride - vocab, 0.0);
    }
    case.compare(device, &stats.logp, &logp)?;
    case.compare(device, &l, &want)
}

#[cfg(test)]
mod tests {
    use super::super::check::{finite_difference_error, probe};
    use super::twin;

    #[test]
    fn twin_backward_is_the_derivative() {
        let logits: Vec<f64> = probe(9).iter().map(|l| 3.0 * l).collect();
        let d = twin::backward(&logits, 4, 1.7);
        assert!(finite_difference_error(&logits, &d, |l| 1.7 * twin::forward(l, 4).0) < 1e-6);
    }

    #[test]
    fn twin_backward_of_a_policy_is_the_derivative() {
        let logits: Vec<f64> = probe(9).iter().map(|l| 3.0 * l).collect();
        for (inv, dlogp, dentropy) in [(1.0, 1.7, 0.0), (1.4, 0.0, -0.8), (0.7, 1.7, 0.9)] {
            let d = twin::backward_policy(&logits, inv, 4, dlogp, dentropy);
            let loss = |l: &[f64]| {
                let (logp, entropy, ..) = twin::forward(&l.iter().map(|l| l * inv).collect::<Vec<_>>(), 4);
                dlogp * logp + dentropy * entropy
            };
            assert!(finite_difference_error(&logits, &d, loss) < 1e-6);
        }
    }

    /// |dlogits| = |dlogp| sqrt(sum p^2 - 2 p + 1): used by the token statistics.
    #[test]
    fn gradient_norm_follows_from_sum_of_squares() {
        let logits = probe(13);
        let (logp, _, sum_p2, _, _) = twin::forward(&logits, 2);
        let size = twin::backward(&logits, 2, -0.3).iter().map(|d| d * d).sum::<f64>().sqrt();
        assert!((size - 0.3 * (sum_p2 - 2.0 * logp.exp() + 1.0).sqrt()).abs() < 1e-12);
    }
}
