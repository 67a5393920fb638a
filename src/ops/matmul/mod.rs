//! Matrix products of a linear layer: y = x w^T, dx = dy w, dw += dy^T x, dbias += column sums of dy.
//!
//! Weights are stored as Hugging Face stores them, `[N, K]` = [out features, in features]. Strides come from a tensor's last axis and may
//! be larger than the extent, which comes from `w`: logits of a vocabulary of 65 live in rows of 68. Padding columns are neither read
//! nor written. Register tiles must be unrolled in the text, so the kernels are generated (`source.rs`); [`sources`] shows them.

mod checks;
mod choose;
mod register;
mod shared;
mod source;
pub mod twin;

pub use checks::CHECKS;
pub use choose::{candidates, choose, measured_peak_gflops, tiles};
pub use source::{Epilogue, Family, LANES, Role, Tile, Variant};

use super::{WG, row_constants, row_lanes};
use crate::gpu::{Cost, Gpu, Recording, Shader, Tensor, grid};
use crate::{bind, shader, uniform};

const BIAS: Shader = shader!("bias");
const ROWVEC: Shader = shader!("rowvec");

uniform! {
    /// Of every product; see [`Role`] for what rows, columns and depth are.
    pub(crate) struct Dims {
        rows: u32, cols: u32, depth: u32, left_stride: u32, right_stride: u32, out_stride: u32, first_row: u32,
    }
}
uniform! { struct BiasDims { first_row: u32, end_row: u32, cols: u32, stride4: u32 } }

/// What [`forward`] adds to the product.
#[derive(Clone, Copy, Debug)]
pub enum Extra<'a> {
    /// Nothing.
    None,
    /// A vector over the out features.
    Bias(&'a Tensor),
    /// A matrix of the shape of `y`, in another buffer.
    Residual(&'a Tensor),
}

/// Extents and strides of one product.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Terms of each sum.
    pub depth: usize,
    /// Elements from row to row, as stored: left, right, result.
    pub strides: [usize; 3],
}

impl Shape {
    fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.cols as f64 * self.depth as f64
    }
}

/// `y = x w^T`, plus what `extra` says. Columns of `y` past N stay as they are.
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn forward(r: &mut Recording, gpu: &Gpu, x: &Tensor, w: &Tensor, y: &Tensor, extra: Extra<'_>) {
    let shape = shape(Role::Forward, [x, w, y]);
    if let Extra::Residual(residual) = extra {
        assert_eq!(residual.matrix(), y.matrix(), "{} is added to {}", residual.name(), y.name());
    }
    if let Extra::Bias(bias) = extra {
        assert_eq!(bias.len(), shape.cols, "{} is added to {}", bias.name(), y.name());
    }
    match choose(gpu, Role::Forward, &shape) {
        Some(tile) => forward_by(r, gpu, tile, x, w, y, extra),
        None => row_vectors(r, gpu, shape, x, w, y, extra),
    }
}

/// `dx = dy w`, or `dx += dy w`. Columns of `dx` past K stay as they are.
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn backward_input(r: &mut Recording, gpu: &Gpu, dy: &Tensor, w: &Tensor, dx: &Tensor, accumulate: bool) {
    let tile = tile(gpu, Role::BackwardInput, [dy, w, dx]);
    backward_input_by(r, gpu, tile, dy, w, dx, accumulate);
}

/// `dw += dy^T x`
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn backward_weight(r: &mut Recording, gpu: &Gpu, dy: &Tensor, x: &Tensor, dw: &Tensor) {
    let tile = tile(gpu, Role::BackwardWeight, [dy, x, dw]);
    backward_weight_by(r, gpu, tile, dy, x, dw);
}

/// `dbias +=` the column sums of `dy`, whose stride is a multiple of 4. shaders/bias.wgsl
///
/// # Panics
/// When shapes do not fit (a defect of the caller).
pub fn backward_bias(r: &mut Recording, gpu: &Gpu, dy: &Tensor, dbias: &Tensor) {
    let ([rows, stride], cols) = (dy.matrix(), dbias.len());
    assert!(stride.is_multiple_of(4) && cols <= stride, "{}: {} columns in rows of {stride}", dy.name(), cols);
    let lanes = row_lanes(gpu, 4 * rows);
    let groups = grid((cols as u64).div_ceil(4).div_ceil(u64::from(WG / lanes)));
    // A lane's loop stays far below the 65,535 turns after which lavapipe ends it.
    let most = 32_768 * lanes as usize;
    for first in (0..rows).step_by(most) {
        let end = rows.min(first + most);
        let numbers = ((end - first) * cols) as f64;
        let dims = BiasDims { first_row: first as u32, end_row: end as u32, cols: cols as u32, stride4: (stride / 4) as u32 };
        let cost = Cost { flops: numbers, bytes: 4.0 * numbers };
        r.run(gpu, &BIAS, "backward", &row_constants(lanes), dims, bind!(dy, dbias), groups, cost);
    }
}

/// As [`forward`], with this tile.
pub fn forward_by(r: &mut Recording, gpu: &Gpu, tile: Tile, x: &Tensor, w: &Tensor, y: &Tensor, extra: Extra<'_>) {
    let (epilogue, added) = match extra {
        Extra::None => (Epilogue::Store, None),
        Extra::Bias(bias) => (Epilogue::Bias, Some(("bias", bias))),
        Extra::Residual(residual) => (Epilogue::Residual, Some(("residual", residual))),
    };
    product(r, gpu, Role::Forward, tile, epilogue, [x, w, y], added);
}

/// As [`backward_input`], with this tile.
pub fn backward_input_by(r: &mut Recording, gpu: &Gpu, tile: Tile, dy: &Tensor, w: &Tensor, dx: &Tensor, accumulate: bool) {
    let epilogue = if accumulate { Epilogue::Add } else { Epilogue::Store };
    product(r, gpu, Role::BackwardInput, tile, epilogue, [dy, w, dx], None);
}

/// As [`backward_weight`], with this tile.
pub fn backward_weight_by(r: &mut Recording, gpu: &Gpu, tile: Tile, dy: &Tensor, x: &Tensor, dw: &Tensor) {
    product(r, gpu, Role::BackwardWeight, tile, Epilogue::Add, [dy, x, dw], None);
}

fn tile(gpu: &Gpu, role: Role, operands: [&Tensor; 3]) -> Tile {
    let shape = shape(role, operands);
    choose(gpu, role, &shape).unwrap_or_else(|| choose::small(gpu))
}

/// Extents and strides, the operands' agreement checked. The weight, or its gradient, is what tells extents from strides.
fn shape(role: Role, operands: [&Tensor; 3]) -> Shape {
    let [[left_rows, left_stride], [right_rows, right_stride], [out_rows, out_stride]] = operands.map(Tensor::matrix);
    let (cols, depth) = match role {
        Role::Forward => (right_rows, right_stride),
        Role::BackwardInput => (right_stride, right_rows),
        Role::BackwardWeight => (out_stride, left_rows),
    };
    let fits = match role {
        Role::Forward => left_rows == out_rows && left_stride >= depth && out_stride >= cols,
        Role::BackwardInput => left_rows == out_rows && left_stride >= depth && out_stride >= cols,
        Role::BackwardWeight => left_rows == right_rows && left_stride >= out_rows && right_stride >= cols,
    };
    let named = operands.map(|t| format!("{} {:?}", t.name(), t.shape()));
    assert!(fits, "{}: shapes do not fit: {}", role.entry(), named.join(", "));
    Shape { rows: out_rows, cols, depth, strides: [left_stride, right_stride, out_stride] }
}

fn variant(role: Role, tile: Tile, epilogue: Epilogue, shape: &Shape) -> Variant {
    let mut vec4 = shape.strides.map(|stride| stride.is_multiple_of(4));
    if tile.family == Family::Shared && role == Role::Forward {
        vec4[2] = false;
    }
    let register = tile.family != Family::Shared;
    Variant {
        role,
        tile,
        epilogue,
        vec4,
        ragged: vec4[2] && !shape.cols.is_multiple_of(4),
        tail: register && !shape.depth.is_multiple_of(4),
    }
}

/// Record one product, in several dispatches when it is long.
fn product(
    r: &mut Recording,
    gpu: &Gpu,
    role: Role,
    tile: Tile,
    epilogue: Epilogue,
    operands: [&Tensor; 3],
    added: Option<(&str, &Tensor)>,
) {
    let shape = shape(role, operands);
    if shape.depth > tile.max_depth() {
        r.fail(&anyhow::anyhow!("{}: {} terms a sum, at most {} are safe", role.entry(), shape.depth, tile.max_depth()));
        return;
    }
    let variant = variant(role, tile, epilogue, &shape);
    let kernel = match gpu.kernel_from_text(&variant.stem(), &variant.source(), role.entry(), &[]) {
        Ok(kernel) => kernel,
        Err(error) => return r.fail(&error),
    };
    let mut bindings: Vec<_> = role.names().into_iter().zip(operands).collect();
    bindings.extend(added);
    let [block_rows, block_cols] = tile.block();
    let chunk = rows_per_dispatch(gpu, &shape, block_rows);
    for first_row in (0..shape.rows).step_by(chunk) {
        let rows = chunk.min(shape.rows - first_row);
        let groups = [shape.cols.div_ceil(block_cols) as u32, rows.div_ceil(block_rows) as u32, 1];
        let passes = if epilogue == Epilogue::Store { 1 } else { 2 };
        let numbers = rows * shape.depth + shape.cols * shape.depth + passes * rows * shape.cols;
        let part = Shape { rows, ..shape };
        r.dispatch(
            gpu,
            &kernel,
            dims(&shape, first_row),
            &bindings,
            groups,
            Cost { flops: part.flops(), bytes: 4.0 * numbers as f64 },
        );
    }
}

fn dims(shape: &Shape, first_row: usize) -> Dims {
    Dims {
        rows: shape.rows as u32,
        cols: shape.cols as u32,
        depth: shape.depth as u32,
        left_stride: shape.strides[0] as u32,
        right_stride: shape.strides[1] as u32,
        out_stride: shape.strides[2] as u32,
        first_row: first_row as u32,
    }
}

/// Rows of the result, a multiple of the tile's, that one dispatch may hold: at most ~100 ms of work, at most 65,535 workgroups.
fn rows_per_dispatch(gpu: &Gpu, shape: &Shape, block_rows: usize) -> usize {
    const SECONDS: f64 = 0.1;
    let blocks = shape.rows.div_ceil(block_rows);
    let seconds = shape.flops() / gpu.rates().flops_per_second;
    let parts = ((seconds / SECONDS).ceil() as usize).max(blocks.div_ceil(65_535)).clamp(1, blocks.max(1));
    blocks.div_ceil(parts).max(1) * block_rows
}

/// Few rows on a GPU: lanes along the depth, a reduction a column. shaders/rowvec.wgsl
fn row_vectors(r: &mut Recording, gpu: &Gpu, shape: Shape, x: &Tensor, w: &Tensor, y: &Tensor, extra: Extra<'_>) {
    let lanes = row_lanes(gpu, shape.depth);
    let groups = grid((shape.cols as u64).div_ceil(u64::from(WG / lanes)));
    let numbers = (shape.rows + shape.cols) * shape.depth + 2 * shape.rows * shape.cols;
    let cost = Cost { flops: shape.flops(), bytes: 4.0 * numbers as f64 };
    let (dims, constants) = (dims(&shape, 0), row_constants(lanes));
    match extra {
        Extra::None => r.run(gpu, &ROWVEC, "forward", &constants, dims, bind!(x, w, y), groups, cost),
        Extra::Bias(bias) => r.run(gpu, &ROWVEC, "forward_bias", &constants, dims, bind!(x, w, y, bias), groups, cost),
        Extra::Residual(residual) => {
            r.run(gpu, &ROWVEC, "forward_residual", &constants, dims, bind!(x, w, y, residual), groups, cost);
        }
    }
}

/// Representative texts of every family, role and binding kind, as (name, WGSL): for translation tests and for reading.
pub fn sources() -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for tile in choose::ALL {
        for role in Role::ALL {
            let epilogues: &[Epilogue] = match role {
                Role::Forward => &[Epilogue::Store, Epilogue::Bias, Epilogue::Residual],
                Role::BackwardInput => &[Epilogue::Store, Epilogue::Add],
                Role::BackwardWeight => &[Epilogue::Add],
            };
            for &epilogue in epilogues {
                // Aligned; a vocabulary of 65 in rows of 68; nothing aligned.
                for (extent, stride) in [(64, 64), (65, 68), (65, 65)] {
                    let shape = Shape { rows: extent, cols: extent, depth: extent, strides: [stride; 3] };
                    let variant = variant(role, tile, epilogue, &shape);
                    let name = format!("{}.{}", variant.stem(), role.entry());
                    if out.iter().all(|(known, _)| *known != name) {
                        out.push((name, variant.source()));
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::reflect::reflect;
    use std::collections::HashSet;

    #[test]
    fn every_source_is_valid_and_named_once() {
        let mut names = HashSet::new();
        for (name, text) in sources() {
            let reflection = reflect(&name, &text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert_eq!(reflection.entry_points.len(), 1, "{name}");
            assert!(name.ends_with(&format!(".{}", reflection.entry_points[0].name)), "{name}");
            assert!(names.insert(name.clone()), "{name} twice");
        }
        // Of 8 tiles x 6 products x 3 alignments, forward by shared tiles has only two of the last.
        assert_eq!(names.len(), 8 * 6 * 3 - 2 * 3);
    }

    /// Which tile is measured to be the fastest must not change results: on one adapter all register tiles give the same bits.
    #[test]
    fn tiles_agree_to_the_bit() {
        let gpu = pollster::block_on(Gpu::open(None)).expect("an adapter");
        let (rows, n, k) = (70, 36, 133);
        let make = |name: &str, shape: [usize; 2]| {
            let t = Tensor::new(&gpu, "test", name, &shape);
            gpu.write(&t, &(0..t.len()).map(|i| (i * 7919 % 1013) as f32 / 977.0 - 0.5).collect::<Vec<_>>());
            t
        };
        let (x, w, dy) = (make("x", [rows, k]), make("w", [n, k]), make("dy", [rows, n]));
        let mut results: Vec<(String, Vec<u32>)> = Vec::new();
        for &tile in candidates(&gpu) {
            let (y, dx, dw) = (make("y", [rows, n]), make("dx", [rows, k]), make("dw", [n, k]));
            let mut r = Recording::new("test");
            forward_by(&mut r, &gpu, tile, &x, &w, &y, Extra::None);
            backward_input_by(&mut r, &gpu, tile, &dy, &w, &dx, true);
            backward_weight_by(&mut r, &gpu, tile, &dy, &x, &dw);
            gpu.replay(&r.finish(&gpu).unwrap()).unwrap();
            let bits: Vec<u32> = [y, dx, dw].iter().flat_map(|t| gpu.read::<u32>(t).unwrap()).collect();
            results.push((tile.name(), bits));
        }
        for (name, bits) in &results[1..] {
            assert!(*bits == results[0].1, "{name} differs from {}", results[0].0);
        }
    }

    /// Sums that lavapipe would silently cut short are refused.
    #[test]
    fn endless_sums_are_refused() {
        let gpu = pollster::block_on(Gpu::open(None)).expect("an adapter");
        let tokens = 300_000;
        let [dy, x, dw] = [[tokens, 4], [tokens, 4], [4, 4]].map(|shape| Tensor::new(&gpu, "test", "t", &shape));
        let mut r = Recording::new("test");
        backward_weight(&mut r, &gpu, &dy, &x, &dw);
        assert!(r.finish(&gpu).err().unwrap().to_string().contains("300000 terms"));
    }

    /// With tuning on, a choice is measured once, kept, and within its time.
    #[test]
    fn tuned_choices_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape { rows: 256, cols: 384, depth: 128, strides: [128, 128, 384] };
        let mut chosen = Vec::new();
        for _ in 0..2 {
            let gpu = pollster::block_on(Gpu::open(None)).expect("an adapter");
            gpu.enable_tuning_in(Some(folder.path().to_path_buf()));
            let begin = web_time::Instant::now();
            chosen.push(choose(&gpu, Role::Forward, &shape));
            eprintln!("{:?} after {:.2} s", chosen, begin.elapsed().as_secs_f64());
            assert!(!gpu.ledger().entries().contains_key("tuning"), "scratch is freed");
        }
        assert_eq!(chosen[0], chosen[1]);
    }
}
