//! Embedding: `y[row] = weight[token[row]]`.          shaders/embedding.wgsl

mod host;

use super::WG;
use super::check::{Case, Check, wide};
use super::stored::StoredShader;
use crate::device::{Cost, Device, Dispatcher, ElementType, Extent, Numbers, Op, Recorder, Tensor, grid};
use crate::{bind, shader, uniform};
use bytemuck::cast_slice;
use std::ops::Range;

const SHADER: StoredShader = StoredShader { shader: shader!("embedding"), buffers: &["weight"], element: ElementType::Bf16 };

uniform! { struct Dims { rows: u32, vocab: u32, skip: u32, most: u32, first: u32, last: u32 } }

/// `y` (R, C) = the rows `tokens` (R) of `table` (V, C), which may be stored in 16 bits. A table larger than a binding is read part by part.
pub fn forward(r: &mut Recorder<'_>, tokens: &Tensor, table: &Tensor, y: &Tensor) {
    for (first, weight) in table.row_parts(r.device().sizes().max_tensor_bytes) {
        let (sizes, cost) = shape(table, first, &weight, y);
        let element = weight.element();
        r.op(
            Op { name: "embedding.forward", cost, reads: bind!(tokens, weight), writes: bind!(y) },
            |wgsl| dispatch(wgsl, (element, "forward"), sizes, 0..1, 0),
            move |cpu, [tokens, weight], [y]| match Numbers::of(element, weight) {
                Numbers::F32(weight) => host::forward(cpu, &sizes, cast_slice(tokens), weight, y),
                Numbers::Bf16(weight) => host::forward(cpu, &sizes, cast_slice(tokens), weight, y),
            },
        );
    }
}

/// `dtable` (V, C) += the gradient `dy` (R, C) at each row's token. `order` and `spans` come from [`Spans::of`].
pub fn backward(r: &mut Recorder<'_>, dy: &Tensor, dtable: &Tensor, order: &Tensor, spans: &Tensor) {
    for (first, dweight) in dtable.row_parts(r.device().sizes().max_tensor_bytes) {
        let (sizes, cost) = shape(dtable, first, &dweight, dy);
        r.op(
            Op { name: "embedding.backward", cost, reads: bind!(dy, order, spans), writes: bind!(dweight) },
            |wgsl| {
                // Loops over the rows of a token, at most all of them.
                let most = sizes.rows.min(wgsl.gpu().max_iterations()).max(1);
                dispatch(wgsl, (ElementType::F32, "backward"), sizes, 0..sizes.rows, most)
            },
            move |cpu, [dy, order, spans], [dweight]| {
                host::backward(cpu, &sizes, dy, cast_slice(order), cast_slice(spans), dweight);
            },
        );
    }
}

/// The text for a table in bfloat16: (stem, WGSL).
pub(super) fn stored_source() -> (String, String) {
    SHADER.source()
}

/// Rows and columns of y; rows of this part of the table, its first row, and the table's last row.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    cols: usize,
    vocab: usize,
    first: usize,
    last: usize,
}

impl Sizes {
    /// The row of a token in this part, if it is in it. A token beyond the table counts as its last.
    fn row(&self, token: u32) -> Option<usize> {
        (token as usize).min(self.last).checked_sub(self.first).filter(|row| *row < self.vocab)
    }
}

fn shape(table: &Tensor, first: usize, part: &Tensor, y: &Tensor) -> (Sizes, Cost) {
    let ([rows, cols], [vocab, _], [all, _]) = (y.matrix(), part.matrix(), table.matrix());
    let share = vocab as f64 / all as f64;
    let bytes = share * ((4 + part.element().bytes()) * y.len()) as f64;
    (Sizes { rows, cols, vocab, first, last: all - 1 }, Cost { flops: 0.0, bytes })
}

/// One dispatch per `most` rows of a token; 0 for a kernel without loops.
fn dispatch(
    wgsl: &mut Dispatcher<'_>,
    (element, entry): (ElementType, &str),
    Sizes { rows, cols, vocab, first, last }: Sizes,
    of_a_token: Range<usize>,
    most: usize,
) -> anyhow::Result<()> {
    let constants = [("WG", f64::from(WG)), ("COLS4", (cols / 4) as f64)];
    let groups = grid((rows * cols / 4).div_ceil(WG as usize) as u64);
    for skip in of_a_token.step_by(most.max(1)) {
        let dims = Dims {
            rows: rows as u32,
            vocab: vocab as u32,
            skip: skip as u32,
            most: most as u32,
            first: first as u32,
            last: last as u32,
        };
        SHADER.run(wgsl, element, entry, &constants, (dims, Extent { groups, iterations: most }))?;
    }
    Ok(())
}

/// The occurrences of each token in a batch, so that the backward needs no atomics.
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

    /// dweight, added to the existing values
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

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (rows, cols, vocab) = (case.int(1, 300), 4 * case.int(1, 40), case.int(1, 50));
    case.shape = format!("{rows} rows of {cols}, vocabulary {vocab}");
    let tokens: Vec<u32> = (0..rows).map(|_| case.int(0, vocab - 1) as u32).collect();
    let (weight, dy, dw0) = (case.normals(vocab * cols, 1.0), case.normals(rows * cols, 1.0), case.normals(vocab * cols, 1.0));
    let spans = Spans::of(&tokens);
    let (t, order) = (case.upload_u32(device, "tokens", &tokens), case.upload_u32(device, "order", &spans.order));
    let spans = case.upload_u32(device, "spans", &spans.spans);
    let (w, dw) = (case.upload(device, "weight", &[vocab, cols], &weight), case.upload(device, "dweight", &[vocab, cols], &dw0));
    let (y, tdy) = (case.poisoned(device, "y", &[rows, cols]), case.upload(device, "dy", &[rows, cols], &dy));
    case.replay(device, |r| {
        forward(r, &t, &w, &y);
        backward(r, &tdy, &dw, &order, &spans);
    })?;
    case.compare(device, &y, &twin::forward(&tokens, &wide(&weight), cols))?;
    let mut want = wide(&dw0);
    twin::backward(&wide(&dy), &tokens, &mut want, cols);
    case.compare(device, &dw, &want)
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
    fn spans_contain_every_row_once() {
        let s = Spans::of(&[5, 1, 5, 5, 0]);
        assert_eq!(s.order, [4, 1, 0, 2, 3]);
        assert_eq!(s.spans, [0, 0, 1, 1, 1, 2, 5, 2, 5, 0, 0, 0, 0, 0, 0]);
    }
}
