//! Embedding: `y[row] = weight[token[row]]`.          shaders/embedding.wgsl

use super::WG;
use super::check::{Case, Check, wide};
use crate::gpu::{Cost, Gpu, Recording, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const SHADER: Shader = shader!("embedding");

uniform! { struct Dims { rows: u32, vocab: u32 } }

/// `y` (R, C) = the rows of `weight` (V, C) named by `tokens` (R).
pub fn forward(r: &mut Recording, gpu: &Gpu, tokens: &Tensor, weight: &Tensor, y: &Tensor) {
    let (dims, constants, groups, cost) = shape(weight, y);
    r.run(gpu, &SHADER, "forward", &constants, dims, bind!(tokens, weight, y), groups, cost);
}

/// `dweight` (V, C) += the gradient `dy` (R, C), row by row onto its token. `order` and `spans` come from [`Spans::of`].
pub fn backward(r: &mut Recording, gpu: &Gpu, dy: &Tensor, dweight: &Tensor, order: &Tensor, spans: &Tensor) {
    let (dims, constants, groups, cost) = shape(dweight, dy);
    r.run(gpu, &SHADER, "backward", &constants, dims, bind!(dy, dweight, order, spans), groups, cost);
}

fn shape(weight: &Tensor, y: &Tensor) -> (Dims, [(&'static str, f64); 2], [u32; 3], Cost) {
    let ([rows, cols], [vocab, _]) = (y.matrix(), weight.matrix());
    let items = (rows * cols / 4) as u64;
    let dims = Dims { rows: rows as u32, vocab: vocab as u32 };
    let constants = [("WG", f64::from(WG)), ("COLS4", (cols / 4) as f64)];
    (dims, constants, grid(items.div_ceil(u64::from(WG))), Cost { flops: 0.0, bytes: 32.0 * items as f64 })
}

/// Where each token occurs in a batch, so that the backward needs no atomics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// Row numbers sorted by token (R).
    pub order: Vec<u32>,
    /// (token, start, end) for each distinct token, then zeros (3 R).
    pub spans: Vec<u32>,
}

impl Spans {
    /// Sort the rows of a batch by token.
    pub fn of(tokens: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
        order.sort_by_key(|&row| tokens[row as usize]);
        let mut spans = Vec::with_capacity(3 * tokens.len());
        let mut start = 0;
        while start < order.len() {
            let token = tokens[order[start] as usize];
            let end = start + order[start..].iter().take_while(|&&row| tokens[row as usize] == token).count();
            spans.extend([token, start as u32, end as u32]);
            start = end;
        }
        spans.resize(3 * tokens.len(), 0);
        Self { order, spans }
    }
}

/// The same arithmetic in f64.
pub mod twin {
    /// y
    pub fn forward(tokens: &[u32], weight: &[f64], cols: usize) -> Vec<f64> {
        tokens.iter().flat_map(|&t| weight[t as usize * cols..][..cols].to_vec()).collect()
    }

    /// dweight, added to what is there
    pub fn backward(dy: &[f64], tokens: &[u32], dweight: &mut [f64], cols: usize) {
        for (row, &t) in tokens.iter().enumerate() {
            for c in 0..cols {
                dweight[t as usize * cols + c] += dy[row * cols + c];
            }
        }
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "embedding", run: check }];

fn check(gpu: &Gpu, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols, vocab) = (case.int(1, 300), 4 * case.int(1, 40), case.int(1, 50));
    case.shape = format!("{rows} rows of {cols}, vocabulary {vocab}");
    let tokens: Vec<u32> = (0..rows).map(|_| case.int(0, vocab - 1) as u32).collect();
    let (weight, dy, dw0) = (case.normals(vocab * cols, 1.0), case.normals(rows * cols, 1.0), case.normals(vocab * cols, 1.0));
    let spans = Spans::of(&tokens);
    let (t, order) = (case.upload_u32(gpu, "tokens", &tokens), case.upload_u32(gpu, "order", &spans.order));
    let spans = case.upload_u32(gpu, "spans", &spans.spans);
    let (w, dw) = (case.upload(gpu, "weight", &[vocab, cols], &weight), case.upload(gpu, "dweight", &[vocab, cols], &dw0));
    let (y, tdy) = (case.poisoned(gpu, "y", &[rows, cols]), case.upload(gpu, "dy", &[rows, cols], &dy));
    case.replay(gpu, |r| {
        forward(r, gpu, &t, &w, &y);
        backward(r, gpu, &tdy, &dw, &order, &spans);
    })?;
    case.compare(gpu, &y, &twin::forward(&tokens, &wide(&weight), cols))?;
    let mut want = wide(&dw0);
    twin::backward(&wide(&dy), &tokens, &mut want, cols);
    case.compare(gpu, &dw, &want)
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::*;

    #[test]
    fn twin_backward_is_the_derivative() {
        let (tokens, cols) = ([2u32, 0, 2, 1], 4);
        let (weight, weights) = (probe(3 * cols), probe(tokens.len() * cols));
        let mut dweight = vec![0.0; weight.len()];
        twin::backward(&weights, &tokens, &mut dweight, cols);
        let loss = |w: &[f64]| dot(&twin::forward(&tokens, w, cols), &weights);
        assert!(finite_difference_error(&weight, &dweight, loss) < 1e-6);
    }

    #[test]
    fn spans_hold_every_row_once() {
        let s = Spans::of(&[5, 1, 5, 5, 0]);
        assert_eq!(s.order, [4, 1, 0, 2, 3]);
        assert_eq!(s.spans, [0, 0, 1, 1, 1, 2, 5, 2, 5, 0, 0, 0, 0, 0, 0]);
    }
}
