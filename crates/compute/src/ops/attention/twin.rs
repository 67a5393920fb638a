//! Attention in f64, one query at a time.

use super::AttentionShape;

/// Which keys query `t` of sequence `b` sees, as (row of the first, row of the last) of the batch.
fn reach(shape: AttentionShape, positions: &[u32], b: usize, t: usize) -> std::ops::RangeInclusive<usize> {
    let row = b * shape.time + t;
    row - positions[row] as usize..=row
}

/// (out, lse)
pub fn forward(shape: AttentionShape, qkv: &[f64], positions: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let mut out = vec![0.0; shape.tokens() * shape.heads * d];
    let mut lse = vec![0.0; shape.tokens() * shape.heads];
    for_each_query(shape, |b, t, h| {
        let row = b * shape.time + t;
        let keys = reach(shape, positions, b, t);
        let q = shape.query(row, h);
        let scores: Vec<f64> = keys.clone().map(|j| shape.score(qkv, q, shape.key(j, h))).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        lse[row * shape.heads + h] = most + sum.ln();
        for (j, s) in keys.zip(&scores) {
            for i in 0..d {
                out[(row * shape.heads + h) * d + i] += (s - most).exp() / sum * qkv[shape.value(j, h) + i];
            }
        }
    });
    (out, lse)
}

/// (delta, dqkv)
pub fn backward(
    shape: AttentionShape,
    qkv: &[f64],
    positions: &[u32],
    out: &[f64],
    lse: &[f64],
    dout: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let scale = 1.0 / (d as f64).sqrt();
    let mut delta = vec![0.0; lse.len()];
    let mut dqkv = vec![0.0; qkv.len()];
    for_each_query(shape, |b, t, h| {
        let row = b * shape.time + t;
        let (q, o) = (shape.query(row, h), (row * shape.heads + h) * d);
        delta[o / d] = (0..d).map(|i| dout[o + i] * out[o + i]).sum();
        for j in reach(shape, positions, b, t) {
            let (k, v) = (shape.key(j, h), shape.value(j, h));
            let p = (shape.score(qkv, q, k) - lse[o / d]).exp();
            let dp: f64 = (0..d).map(|i| dout[o + i] * qkv[v + i]).sum();
            let ds = p * (dp - delta[o / d]) * scale;
            for i in 0..d {
                dqkv[q + i] += ds * qkv[k + i];
                dqkv[k + i] += ds * qkv[q + i];
                dqkv[v + i] += p * dout[o + i];
            }
        }
    });
    (delta, dqkv)
}

fn for_each_query(shape: AttentionShape, mut each: impl FnMut(usize, usize, usize)) {
    for b in 0..shape.batch {
        for t in 0..shape.time {
            for h in 0..shape.heads {
                each(b, t, h);
            }
        }
    }
}

impl AttentionShape {
    fn query(self, row: usize, head: usize) -> usize {
        row * self.row_width() + head * self.head_dim
    }

    fn key(self, row: usize, head: usize) -> usize {
        row * self.row_width() + (self.heads + head / self.group()) * self.head_dim
    }

    fn value(self, row: usize, head: usize) -> usize {
        self.key(row, head) + self.kv_heads * self.head_dim
    }

    fn score(self, qkv: &[f64], q: usize, k: usize) -> f64 {
        (0..self.head_dim).map(|i| qkv[q + i] * qkv[k + i]).sum::<f64>() / (self.head_dim as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::check::{dot, finite_difference_error, probe};
    use super::*;

    #[test]
    fn twin_backward_is_the_derivative() {
        let shape = AttentionShape { batch: 2, time: 5, heads: 4, kv_heads: 2, head_dim: 4 };
        let positions = [0, 1, 0, 1, 2, 0, 1, 2, 3, 0];
        let qkv = probe(shape.tokens() * shape.row_width());
        let weights = probe(shape.tokens() * shape.heads * shape.head_dim);
        let (out, lse) = forward(shape, &qkv, &positions);
        let (_, dqkv) = backward(shape, &qkv, &positions, &out, &lse, &weights);
        let loss = |x: &[f64]| dot(&forward(shape, x, &positions).0, &weights);
        assert!(finite_difference_error(&qkv, &dqkv, loss) < 1e-6);
    }

    #[test]
    fn attention_does_not_cross_documents() {
        let shape = AttentionShape { batch: 1, time: 6, heads: 1, kv_heads: 1, head_dim: 4 };
        let mut qkv = probe(shape.tokens() * shape.row_width());
        let positions = [0, 1, 2, 0, 1, 2];
        let before = forward(shape, &qkv, &positions).0;
        qkv[..3 * shape.row_width()].iter_mut().for_each(|v| *v += 1.0);
        let after = forward(shape, &qkv, &positions).0;
        assert_eq!(before[12..], after[12..]);
        assert_ne!(before[..12], after[..12]);
    }
}
