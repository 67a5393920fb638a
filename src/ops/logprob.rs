//! Log-probability head: log pi(target), entropy, sum p^2, whether the target is the arg-max and, in place, dlogits = dlogp * (onehot - p).          shaders/logprob.wgsl
//!
//! Every objective of lehr sees the model through log pi(target) alone, so this backward serves them all (DESIGN 2.6); only an entropy
//! bonus needs more, [`backward_with_entropy`]. All of it is at a temperature: pi = softmax(logits / T).

use super::check::{Case, Check, wide};
use super::{WG, row_constants, row_lanes};
use crate::gpu::{Cost, Gpu, Recording, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("logprob");

uniform! { struct Dims { rows: u32, vocab: u32, stride4: u32, first_row: u32 } }

/// What the head says of each row (all of shape R, f32).
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
    /// 1 where the target is the arg-max (the first, if several logits are highest), else 0: what token accuracy averages.
    pub hit: Tensor,
}

/// The rows of a chunk: `logits` is (rows, stride); its row 0 is row `first_row` of `targets` and of the statistics.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Rows in the chunk.
    pub rows: usize,
    /// Its first row.
    pub first_row: usize,
    /// Columns that count.
    pub vocab: usize,
}

/// Statistics of each row of a chunk of logits at the temperature 1 / `inv_temperature` (1).
pub fn forward(
    r: &mut Recording,
    gpu: &Gpu,
    chunk: Chunk,
    logits: &Tensor,
    targets: &Tensor,
    inv_temperature: &Tensor,
    out: &RowStats,
) {
    let RowStats { logp, entropy, sum_p2, lse, hit } = out;
    let (dims, lanes, groups, cost) = shape(gpu, chunk, logits);
    let bindings: &[(&str, &Tensor)] = &[
        ("logits", logits),
        ("targets", targets),
        ("inv_temperature", inv_temperature),
        ("logp", logp),
        ("entropy", entropy),
        ("sum_p2", sum_p2),
        ("lse", lse),
        ("hit", hit),
    ];
    r.run(gpu, &SHADER, "forward", &row_constants(lanes), dims, bindings, groups, cost);
}

/// Turn a chunk of logits into its gradient, from `dlogp` (R) and the `lse` that forward left.
pub fn backward(
    r: &mut Recording,
    gpu: &Gpu,
    chunk: Chunk,
    dlogits: &Tensor,
    targets: &Tensor,
    inv_temperature: &Tensor,
    dlogp: &Tensor,
    row_lse: &Tensor,
) {
    let (dims, lanes, groups, cost) = shape(gpu, chunk, dlogits);
    let bindings: &[(&str, &Tensor)] = bind!(dlogits, targets, inv_temperature, dlogp, row_lse);
    r.run(gpu, &SHADER, "backward", &row_constants(lanes), dims, bindings, groups, cost);
}

/// As [`backward`], for an objective that also depends on the entropy of each row: `dentropy` (R) is d loss / d entropy. Of `stats`,
/// `lse` and `entropy` must be what forward left.
///
/// dH / dlogits = -p (log p + H) / T.
pub fn backward_with_entropy(
    r: &mut Recording,
    gpu: &Gpu,
    chunk: Chunk,
    dlogits: &Tensor,
    targets: &Tensor,
    inv_temperature: &Tensor,
    (dlogp, dentropy): (&Tensor, &Tensor),
    stats: &RowStats,
) {
    let (dims, lanes, groups, cost) = shape(gpu, chunk, dlogits);
    let (row_lse, row_entropy) = (&stats.lse, &stats.entropy);
    let bindings: &[(&str, &Tensor)] = bind!(dlogits, targets, inv_temperature, dlogp, dentropy, row_lse, row_entropy);
    r.run(gpu, &SHADER, "backward_with_entropy", &row_constants(lanes), dims, bindings, groups, cost);
}

fn shape(gpu: &Gpu, chunk: Chunk, logits: &Tensor) -> (Dims, u32, [u32; 3], Cost) {
    let [_, stride] = logits.matrix();
    let dims = Dims {
        rows: chunk.rows as u32,
        vocab: chunk.vocab as u32,
        stride4: (stride / 4) as u32,
        first_row: chunk.first_row as u32,
    };
    let lanes = row_lanes(gpu, chunk.vocab);
    let numbers = (chunk.rows * chunk.vocab) as f64;
    let groups = grid((chunk.rows as u64).div_ceil(u64::from(WG / lanes)));
    (dims, lanes, groups, Cost { flops: 30.0 * numbers, bytes: 8.0 * numbers })
}

/// The same arithmetic in f64, one row; `logits` are divided by the temperature already.
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

    /// d(dlogp log p(target) + dentropy H) / dlogits
    pub fn backward(logits: &[f64], target: usize, dlogp: f64, dentropy: f64) -> Vec<f64> {
        let (_, entropy, _, lse, _) = forward(logits, target);
        let gradient = |(v, l): (usize, &f64)| {
            let (log_p, hit) = (l - lse, f64::from(u8::from(v == target)));
            dlogp * (hit - log_p.exp()) - dentropy * log_p.exp() * (log_p + entropy)
        };
        logits.iter().enumerate().map(gradient).collect()
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[
    Check { name: "logprob", run: |gpu, case| check(gpu, case, false) },
    Check { name: "logprob (entropy)", run: |gpu, case| check(gpu, case, true) },
];

struct Drawn {
    chunk: Chunk,
    stride: usize,
    temperature: f64,
    logits: Vec<f32>,
    targets: Vec<u32>,
}

fn draw(case: &mut Case) -> Drawn {
    let (rows, vocab, first_row) = (case.int(1, 80), case.int(1, 400), case.int(0, 30));
    let (stride, scale) = (vocab.next_multiple_of(4) + 4 * case.int(0, 2), case.pick(&[1.0, 10.0, 50.0]));
    let temperature = case.pick(&[1.0, 1.0, 0.7, 0.25, 1.3]);
    case.shape =
        format!("{rows} rows from {first_row}, vocabulary {vocab}, stride {stride}, scale {scale}, temperature {temperature}");
    // The products with 1 / T must stay where the twin's tolerance holds.
    let mut logits = case.normals(rows * stride, scale * f64::min(temperature, 1.0));
    // What lies behind the vocabulary must not be read: poison it.
    for row in logits.chunks_mut(stride) {
        row[vocab..].fill(f32::NAN);
    }
    let targets: Vec<u32> = (0..first_row + rows).map(|_| case.int(0, vocab - 1) as u32).collect();
    // Chance seldom draws the arg-max: every third target is one, tied with another before or behind it.
    for (row, target) in logits.chunks_mut(stride).zip(&targets[first_row..]).step_by(3) {
        row[*target as usize] = row[..vocab].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    Drawn { chunk: Chunk { rows, first_row, vocab }, stride, temperature, logits, targets }
}

fn check(gpu: &Gpu, case: &mut Case, with_entropy: bool) -> anyhow::Result<()> {
    let Drawn { chunk, stride, temperature, logits, targets } = draw(case);
    let total = targets.len();
    let inv = (1.0 / temperature) as f32;
    let dlogp = case.normals(total, 1.0);
    let dentropy = if with_entropy { case.normals(total, 1.0) } else { vec![0.0; total] };
    let (t, d) = (case.upload_u32(gpu, "targets", &targets), case.upload(gpu, "dlogp", &[total], &dlogp));
    let l = case.upload(gpu, "logits", &[chunk.rows, stride], &logits);
    let (e, inv_t) = (case.upload(gpu, "dentropy", &[total], &dentropy), case.upload(gpu, "inv_temperature", &[1], &[inv]));
    let zeros = vec![0.0; total];
    let out = |name: &str| case.upload(gpu, name, &[total], &zeros);
    let (logp, entropy, sum_p2, lse, hit) = (out("logp"), out("entropy"), out("sum_p2"), out("lse"), out("hit"));
    let stats = RowStats { logp, entropy, sum_p2, lse, hit };
    case.replay(gpu, |r| {
        forward(r, gpu, chunk, &l, &t, &inv_t, &stats);
        match with_entropy {
            true => backward_with_entropy(r, gpu, chunk, &l, &t, &inv_t, (&d, &e), &stats),
            false => backward(r, gpu, chunk, &l, &t, &inv_t, &d, &stats.lse),
        }
    })?;
    let mut want: [Vec<f64>; 5] = std::array::from_fn(|_| vec![0.0; chunk.first_row]);
    let mut dwant = Vec::new();
    for (i, row) in logits.chunks(stride).enumerate() {
        let at = chunk.first_row + i;
        let row: Vec<f64> = wide(&row[..chunk.vocab]).iter().map(|l| l * f64::from(inv)).collect();
        let (a, b, c, e, h) = twin::forward(&row, targets[at] as usize);
        for (list, value) in want.iter_mut().zip([a, b, c, e, h]) {
            list.push(value);
        }
        let gradient = twin::backward(&row, targets[at] as usize, f64::from(dlogp[at]), f64::from(dentropy[at]));
        dwant.extend(gradient.iter().map(|g| g * f64::from(inv)));
        dwant.resize(dwant.len() + stride - chunk.vocab, 0.0);
    }
    case.compare(gpu, &stats.logp, &want[0])?;
    // Entropy and sum p^2 lie in fixed ranges; where they are tiny by nature (scale 50) only their absolute error means anything.
    for (tensor, want) in [(&stats.entropy, &want[1]), (&stats.sum_p2, &want[2])] {
        let values: Vec<f32> = gpu.read(tensor)?;
        for (g, w) in values.iter().zip(want) {
            let error = (f64::from(*g) - w).abs() / (2e-5 * (1.0 + w.abs()));
            if error > case.worst {
                (case.worst, case.detail) = (error, format!("{} = {g}, twin says {w}", tensor.name()));
            }
        }
    }
    case.compare(gpu, &stats.lse, &want[3])?;
    case.compare(gpu, &stats.hit, &want[4])?;
    case.compare(gpu, &l, &dwant)
}

#[cfg(test)]
mod tests {
    use super::super::check::{finite_difference_error, probe};
    use super::twin;

    #[test]
    fn twin_backward_is_the_derivative() {
        let logits: Vec<f64> = probe(9).iter().map(|l| 3.0 * l).collect();
        for (dlogp, dentropy) in [(1.7, 0.0), (0.0, -0.8), (1.7, 0.9)] {
            let d = twin::backward(&logits, 4, dlogp, dentropy);
            let loss = |l: &[f64]| dlogp * twin::forward(l, 4).0 + dentropy * twin::forward(l, 4).1;
            assert!(finite_difference_error(&logits, &d, loss) < 1e-6);
        }
    }

    /// |dlogits| = |dlogp| sqrt(sum p^2 - 2 p + 1): the token statistics rest on it.
    #[test]
    fn gradient_size_from_sum_of_squares() {
        let logits = probe(13);
        let (logp, _, sum_p2, _, _) = twin::forward(&logits, 2);
        let size = twin::backward(&logits, 2, -0.3, 0.0).iter().map(|d| d * d).sum::<f64>().sqrt();
        assert!((size - 0.3 * (sum_p2 - 2.0 * logp.exp() + 1.0).sqrt()).abs() < 1e-12);
    }
}
