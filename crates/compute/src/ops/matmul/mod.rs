//! Matrix products of a linear layer: y = x w^T, dx = dy w, dw += dy^T x, dbias += column sums of dy.
//!
//! Weights are stored as Hugging Face stores them, `[N, K]` = [out features, in features]. Strides come from a tensor's last axis and may
//! be larger than the extent, which comes from `w`: logits of a vocabulary of 65 live in rows of 68. Padding columns are neither read
//! nor written. A weight that is not trained may be stored in 16 bits (`Tensor::element`): kernels unpack its numbers while they load them, so
//! that results are those of the same numbers in f32, bit for bit. Register tiles must be unrolled in the text, so the kernels are generated (`source.rs`); [`sources`] shows them.

mod checks;
mod choose;
mod cooperative;
mod register;
mod shared;
mod source;
pub mod twin;

pub use crate::device::cpu::gemm::GemmShape;
pub use checks::{CHECKS, float16::CHECKS as FLOAT16_CHECKS};
use choose::SplitDepth;
pub use choose::{candidates, choose, measured_peak_gflops, tiles};
pub use source::{Epilogue, KernelFamily, LANES, RegisterTile, Role, Variant};

use super::stored::StoredShader;
use super::{WG, column_group, row_constants, row_iterations, row_lanes, swiglu};
use crate::device::cpu::gemm;
use crate::device::{Cost, Dispatcher, ElementType, Extent, Numbers, Op, Recorder, Shader, Tensor, Vendor, grid};
use crate::{bind, shader, uniform};

const BIAS: Shader = shader!("bias");
const PARTS: Shader = shader!("parts");
const ROWVEC: StoredShader = StoredShader { shader: shader!("rowvec"), buffers: &["w"], element: ElementType::Bf16 };

uniform! {
    /// Of every product; see [`Role`] for what rows, columns and depth are.
    pub(crate) struct Dims {
        rows: u32, cols: u32, depth: u32, left_stride: u32, right_stride: u32, out_stride: u32, first_row: u32,
    }
}
uniform! {
    /// Of a product whose depth is divided among workgroups, `span` indices each.
    struct PartDims {
        rows: u32, cols: u32, depth: u32, left_stride: u32, right_stride: u32, out_stride: u32, first_row: u32, span: u32,
    }
}
uniform! { struct AddPartsDims { numbers: u32, cols: u32, stride: u32, parts: u32 } }
uniform! { struct BiasDims { first_row: u32, end_row: u32, cols: u32, stride4: u32 } }

/// The value that [`forward`] adds to the product.
#[derive(Clone, Copy, Debug)]
pub enum Extra<'a> {
    /// Nothing.
    None,
    /// A vector over the out features.
    Bias(&'a Tensor),
    /// A matrix of the shape of `y`, in another buffer.
    Residual(&'a Tensor),
}

/// Cost of a product; `added` when its result is added to numbers that are read. `right` is the type of the right operand.
fn cost(shape: &GemmShape, right: ElementType, added: bool) -> Cost {
    let passes = if added { 2 } else { 1 };
    let numbers = shape.rows * shape.depth + passes * shape.rows * shape.cols;
    let bytes = 4 * numbers + right.bytes() * shape.cols * shape.depth;
    Cost { flops: shape.flops(), bytes: bytes as f64 }
}

/// `y = x w^T`, plus `extra`. Columns of `y` past N are unchanged.
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn forward(r: &mut Recorder<'_>, x: &Tensor, w: &Tensor, y: &Tensor, extra: Extra<'_>) {
    let shape = shape(Role::Forward, [x, w, y]);
    if let Extra::Residual(residual) = extra {
        assert_eq!(residual.matrix(), y.matrix(), "{} is added to {}", residual.name(), y.name());
    }
    if let Extra::Bias(bias) = extra {
        assert_eq!(bias.len(), shape.cols, "{} is added to {}", bias.name(), y.name());
    }
    record_forward(r, None, shape, [x, w, y], extra);
}

/// `dx = dy w`, or `dx += dy w`. Columns of `dx` past K are unchanged.
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn backward_input(r: &mut Recorder<'_>, dy: &Tensor, w: &Tensor, dx: &Tensor, accumulate: bool) {
    record_backward(r, Role::BackwardInput, None, [dy, w, dx], accumulate);
}

/// `dh = dy w`, and from it the gradient of SwiGLU's input, `dgate_up` (R, 2 F): on a GPU in the epilogue of the product where that is one kernel,
/// so that `dh` (R, F) is neither written nor read; else through `dh`.
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn backward_swiglu(r: &mut Recorder<'_>, [dy, w, gate_up]: [&Tensor; 3], dh: &Tensor, dgate_up: &Tensor) {
    let shape = shape(Role::BackwardInput, [dy, w, dh]);
    let tile = r.device().gpu().and_then(|gpu| choose::fused(r.device(), gpu, &shape));
    let Some(tile) = tile else {
        backward_input(r, dy, w, dh, false);
        return swiglu::backward(r, gate_up, dh, dgate_up);
    };
    let [rows, stride] = dgate_up.matrix();
    let fits =
        rows == shape.rows && stride == 2 * shape.cols && gate_up.matrix() == dgate_up.matrix() && shape.cols.is_multiple_of(4);
    assert!(fits, "{} {:?}: not twice {} columns", dgate_up.name(), dgate_up.shape(), shape.cols);
    let (element, shape) = (w.element(), GemmShape { strides: [shape.strides[0], shape.strides[1], stride], ..shape });
    let numbers = (rows * shape.cols) as f64;
    let product = cost(&shape, element, false);
    let cost = Cost { flops: product.flops + 15.0 * numbers, bytes: product.bytes + 12.0 * numbers };
    r.op(
        Op { name: "matmul.backward_swiglu", cost, reads: bind!(dy, w, gate_up), writes: bind!(dgate_up) },
        |wgsl| dispatch(wgsl, (Role::BackwardInput, element), tile, Epilogue::Swiglu, &shape),
        |_, _, _| unreachable!("a device with tiles is a GPU"),
    );
}

/// `dw += dy^T x`
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn backward_weight(r: &mut Recorder<'_>, dy: &Tensor, x: &Tensor, dw: &Tensor) {
    record_backward(r, Role::BackwardWeight, None, [dy, x, dw], true);
}

/// `dbias +=` the column sums of `dy`, whose stride is a multiple of 4. shaders/bias.wgsl
///
/// # Panics
/// When shapes do not match (a defect of the caller).
pub fn backward_bias(r: &mut Recorder<'_>, dy: &Tensor, dbias: &Tensor) {
    let ([rows, stride], cols) = (dy.matrix(), dbias.len());
    assert!(stride.is_multiple_of(4) && cols <= stride, "{}: {} columns in rows of {stride}", dy.name(), cols);
    let numbers = (rows * cols) as f64;
    r.op(
        Op {
            name: "matmul.backward_bias",
            cost: Cost { flops: numbers, bytes: 4.0 * numbers },
            reads: bind!(dy),
            writes: bind!(dbias),
        },
        |wgsl| dispatch_bias(wgsl, rows, cols, stride),
        move |cpu, [dy], [dbias]| gemm::backward_bias(cpu, dy, dbias, rows, stride),
    );
}

fn dispatch_bias(wgsl: &mut Dispatcher<'_>, rows: usize, cols: usize, stride: usize) -> anyhow::Result<()> {
    // Rows of a lane in one dispatch.
    const ROWS: usize = 32_768;
    let lanes = row_lanes(wgsl.gpu(), 4 * rows.min(ROWS), 1);
    let size = column_group(wgsl.class(), lanes);
    let constants = [("WG", f64::from(size)), ("LANES", f64::from(lanes))];
    let groups = grid((cols as u64).div_ceil(4).div_ceil(u64::from(size / lanes)));
    let most = ROWS * lanes as usize;
    for first in (0..rows).step_by(most) {
        let end = rows.min(first + most);
        let dims = BiasDims { first_row: first as u32, end_row: end as u32, cols: cols as u32, stride4: (stride / 4) as u32 };
        let share = (end - first) as f64 / rows as f64;
        let extent = Extent { groups, iterations: row_iterations(lanes, 4 * (end - first), 1) };
        wgsl.run_part(&BIAS, "backward", &constants, dims, extent, share)?;
    }
    Ok(())
}

/// As [`forward`]; on a GPU with this tile.
pub fn forward_by(r: &mut Recorder<'_>, tile: RegisterTile, x: &Tensor, w: &Tensor, y: &Tensor, extra: Extra<'_>) {
    record_forward(r, Some(tile), shape(Role::Forward, [x, w, y]), [x, w, y], extra);
}

/// As [`backward_input`]; on a GPU with this tile.
pub fn backward_input_by(r: &mut Recorder<'_>, tile: RegisterTile, dy: &Tensor, w: &Tensor, dx: &Tensor, accumulate: bool) {
    record_backward(r, Role::BackwardInput, Some(tile), [dy, w, dx], accumulate);
}

/// As [`backward_weight`]; on a GPU with this tile.
pub fn backward_weight_by(r: &mut Recorder<'_>, tile: RegisterTile, dy: &Tensor, x: &Tensor, dw: &Tensor) {
    record_backward(r, Role::BackwardWeight, Some(tile), [dy, x, dw], true);
}

/// As [`record_forward`] on a GPU, the depth divided.
fn record_forward_in_parts(r: &mut Recorder<'_>, parts: SplitDepth, shape: GemmShape, [x, w, y]: [&Tensor; 3], extra: Extra<'_>) {
    let (name, cost) = ("matmul.forward", cost(&shape, w.element(), !matches!(extra, Extra::None)));
    let scratch = parts.scratch(r.device(), &shape);
    let writes = [("y", y), ("parts", &scratch)];
    let product = (Role::Forward, w.element());
    let dispatch = |wgsl: &mut Dispatcher<'_>, entry| dispatch_in_parts(wgsl, product, parts, entry, &shape);
    match extra {
        Extra::None => r.op(
            Op { name, cost, reads: bind!(x, w), writes },
            |wgsl| dispatch(wgsl, "forward"),
            |_, _, _| unreachable!("a device that divides products is a GPU"),
        ),
        Extra::Bias(bias) => r.op(
            Op { name, cost, reads: bind!(x, w, bias), writes },
            |wgsl| dispatch(wgsl, "forward_bias"),
            |_, _, _| unreachable!("a device that divides products is a GPU"),
        ),
        Extra::Residual(residual) => r.op(
            Op { name, cost, reads: bind!(x, w, residual), writes },
            |wgsl| dispatch(wgsl, "forward_residual"),
            |_, _, _| unreachable!("a device that divides products is a GPU"),
        ),
    }
}

fn record_forward(r: &mut Recorder<'_>, tile: Option<RegisterTile>, shape: GemmShape, [x, w, y]: [&Tensor; 3], extra: Extra<'_>) {
    if tile.is_none()
        && let Some(parts) = choose::parts(r.device(), Role::Forward, &shape)
    {
        return record_forward_in_parts(r, parts, shape, [x, w, y], extra);
    }
    let element = w.element();
    let (name, cost) = ("matmul.forward", cost(&shape, element, !matches!(extra, Extra::None)));
    match extra {
        Extra::None => r.op(
            Op { name, cost, reads: bind!(x, w), writes: bind!(y) },
            |wgsl| dispatch_forward(wgsl, tile, (element, Epilogue::Store), &shape),
            move |cpu, [x, w], [y]| gemm::forward(cpu, x, Numbers::of(element, w), y, &shape, gemm::GemmAddend::None),
        ),
        Extra::Bias(bias) => r.op(
            Op { name, cost, reads: bind!(x, w, bias), writes: bind!(y) },
            |wgsl| dispatch_forward(wgsl, tile, (element, Epilogue::Bias), &shape),
            move |cpu, [x, w, bias], [y]| gemm::forward(cpu, x, Numbers::of(element, w), y, &shape, gemm::GemmAddend::Bias(bias)),
        ),
        Extra::Residual(residual) => r.op(
            Op { name, cost, reads: bind!(x, w, residual), writes: bind!(y) },
            |wgsl| dispatch_forward(wgsl, tile, (element, Epilogue::Residual), &shape),
            move |cpu, [x, w, residual], [y]| {
                gemm::forward(cpu, x, Numbers::of(element, w), y, &shape, gemm::GemmAddend::Residual(residual));
            },
        ),
    }
}

/// The products of a backward pass: of the input with `accumulate` or without, of the weight always with.
fn record_backward(r: &mut Recorder<'_>, role: Role, tile: Option<RegisterTile>, operands: [&Tensor; 3], accumulate: bool) {
    let shape = shape(role, operands);
    let [left, right, out] = operands;
    let [left_name, right_name, out_name] = role.names();
    let name = if role == Role::BackwardInput { "matmul.backward_input" } else { "matmul.backward_weight" };
    let epilogue = if accumulate { Epilogue::Add } else { Epilogue::Store };
    let element = right.element();
    let (cost, reads) = (cost(&shape, element, accumulate), [(left_name, left), (right_name, right)]);
    let device = r.device();
    let parts = if tile.is_none() { choose::parts(device, role, &shape) } else { None };
    let tile = device.gpu().map(|gpu| match parts {
        Some(parts) => parts.tile,
        None => tile.or_else(|| choose(device, gpu, role, &shape)).unwrap_or_else(|| choose::small(gpu)),
    });
    if let Some(tile) = tile.filter(|tile| tile.is_cooperative()) {
        return cooperative::record_backward(r, role, (tile, parts), operands, (shape, accumulate));
    }
    if let Some(parts) = parts {
        let scratch = parts.scratch(device, &shape);
        return r.op(
            Op { name, cost, reads, writes: [(out_name, out), ("parts", &scratch)] },
            |wgsl| dispatch_in_parts(wgsl, (role, element), parts, added_by(role, accumulate), &shape),
            |_, _, _| unreachable!("a device that divides products is a GPU"),
        );
    }
    r.op(
        Op { name, cost, reads, writes: [(out_name, out)] },
        |wgsl| dispatch(wgsl, (role, element), tile.unwrap_or_else(|| choose::small(wgsl.gpu())), epilogue, &shape),
        move |cpu, [left, right], [out]| match role {
            Role::BackwardInput => gemm::backward_input(cpu, left, Numbers::of(element, right), out, &shape, accumulate),
            _ => gemm::backward_weight(cpu, left, right, out, &shape),
        },
    );
}

fn dispatch_forward(
    wgsl: &mut Dispatcher<'_>,
    tile: Option<RegisterTile>,
    (element, epilogue): (ElementType, Epilogue),
    shape: &GemmShape,
) -> anyhow::Result<()> {
    match tile.or_else(|| choose(wgsl.device, wgsl.gpu(), Role::Forward, shape)) {
        Some(tile) => dispatch(wgsl, (Role::Forward, element), tile, epilogue, shape),
        None => dispatch_row_vectors(wgsl, (element, epilogue), shape),
    }
}

/// Extents and strides, the operands' agreement checked, and their types: only a weight may be stored in 16 bits, in bfloat16. The weight, or
/// its gradient, is what tells extents from strides.
fn shape(role: Role, operands: [&Tensor; 3]) -> GemmShape {
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
    let is_stored = |(i, t): (usize, &Tensor)| match t.element() {
        ElementType::F32 => true,
        ElementType::Bf16 => i == 1 && role != Role::BackwardWeight,
        ElementType::F16 => false,
    };
    let fits = fits && operands.into_iter().enumerate().all(is_stored);
    let named = operands.map(|t| format!("{} {:?} {:?}", t.name(), t.shape(), t.element()));
    assert!(fits, "{}: operands do not fit: {}", role.entry(), named.join(", "));
    GemmShape { rows: out_rows, cols, depth, strides: [left_stride, right_stride, out_stride] }
}

/// `right` is the type of the right operand.
fn variant((role, right): (Role, ElementType), tile: RegisterTile, epilogue: Epilogue, shape: &GemmShape) -> Variant {
    let vec4 = shape.strides.map(|stride| stride.is_multiple_of(4));
    Variant {
        role,
        tile,
        epilogue,
        right,
        vec4,
        ragged: vec4[2] && !shape.cols.is_multiple_of(4),
        tail: tile.family == KernelFamily::Direct && !shape.depth.is_multiple_of(4),
    }
}

/// One product, in several dispatches when it is long.
fn dispatch(
    wgsl: &mut Dispatcher<'_>,
    (role, right): (Role, ElementType),
    tile: RegisterTile,
    epilogue: Epilogue,
    shape: &GemmShape,
) -> anyhow::Result<()> {
    let variant = variant((role, right), tile, epilogue, shape);
    let kernel = wgsl.gpu().kernel_from_text(&variant.stem(), &variant.source(), role.entry(), &[])?;
    let [block_rows, block_cols] = tile.block();
    let chunk = rows_per_dispatch(wgsl.device.rates().flops_per_second, shape, block_rows);
    for first_row in (0..shape.rows).step_by(chunk) {
        let rows = chunk.min(shape.rows - first_row);
        let groups = [shape.cols.div_ceil(block_cols) as u32, rows.div_ceil(block_rows) as u32, 1];
        let extent = Extent { groups, iterations: tile.iterations(shape.depth) };
        wgsl.dispatch(&kernel, dims(shape, first_row), extent, rows as f64 / shape.rows as f64)?;
    }
    Ok(())
}

/// A product by two kernels: parts of the depth side by side, then their sum, always in the same order, by `entry` of shaders/parts.wgsl.
fn dispatch_in_parts(
    wgsl: &mut Dispatcher<'_>,
    (role, right): (Role, ElementType),
    SplitDepth { tile, parts }: SplitDepth,
    entry: &str,
    shape: &GemmShape,
) -> anyhow::Result<()> {
    let variant = variant((role, right), tile, Epilogue::Part, shape);
    let kernel = wgsl.gpu().kernel_from_text(&variant.stem(), &variant.source(), role.entry(), &[])?;
    let [block_rows, block_cols] = tile.block();
    let span = part_span(shape.depth, parts);
    let Dims { rows, cols, depth, left_stride, right_stride, out_stride, first_row } = dims(shape, 0);
    let dims = PartDims { rows, cols, depth, left_stride, right_stride, out_stride, first_row, span: span as u32 };
    let groups = [shape.cols.div_ceil(block_cols) as u32, shape.rows.div_ceil(block_rows) as u32, parts as u32];
    wgsl.dispatch(&kernel, dims, Extent { groups, iterations: tile.iterations(span) }, 1.0)?;
    let numbers = shape.rows * shape.strides[2];
    let dims = AddPartsDims { numbers: numbers as u32, cols: shape.cols as u32, stride: out_stride, parts: parts as u32 };
    let groups = grid((numbers as u64).div_ceil(u64::from(WG)));
    wgsl.run_part(&PARTS, entry, &[], dims, Extent { groups, iterations: parts }, 0.0)
}

/// Entry point of shaders/parts.wgsl for a product of a backward pass.
fn added_by(role: Role, accumulate: bool) -> &'static str {
    if role == Role::BackwardInput && accumulate { "backward_input_add" } else { role.entry() }
}

/// Summed indices of one of several parts, a multiple of every tile's slab.
fn part_span(depth: usize, parts: usize) -> usize {
    depth.div_ceil(parts).next_multiple_of(16)
}

fn dims(shape: &GemmShape, first_row: usize) -> Dims {
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
fn rows_per_dispatch(flops_per_second: f64, shape: &GemmShape, block_rows: usize) -> usize {
    const SECONDS: f64 = 0.1;
    let blocks = shape.rows.div_ceil(block_rows);
    let seconds = shape.flops() / flops_per_second;
    let parts = ((seconds / SECONDS).ceil() as usize).max(blocks.div_ceil(65_535)).clamp(1, blocks.max(1));
    blocks.div_ceil(parts).max(1) * block_rows
}

/// Few rows on a GPU: lanes along the depth, a reduction a column. shaders/rowvec.wgsl
fn dispatch_row_vectors(
    wgsl: &mut Dispatcher<'_>,
    (element, epilogue): (ElementType, Epilogue),
    shape: &GemmShape,
) -> anyhow::Result<()> {
    let four_rows = shape.rows.div_ceil(4);
    let lanes = row_lanes(wgsl.gpu(), shape.depth, four_rows);
    let groups = grid((shape.cols as u64).div_ceil(u64::from(WG / lanes)));
    let extent = Extent { groups, iterations: four_rows * (1 + row_iterations(lanes, shape.depth, 1)) };
    let entry = match epilogue {
        Epilogue::Bias => "forward_bias",
        Epilogue::Residual => "forward_residual",
        _ => "forward",
    };
    ROWVEC.run(wgsl, element, entry, &row_constants(lanes), (dims(shape, 0), extent))
}

/// Row vectors for a weight in bfloat16: (stem, WGSL).
pub(super) fn stored_source() -> (String, String) {
    ROWVEC.source()
}

/// Representative texts of every family, role and binding kind, as (name, WGSL): for translation tests and for reading.
pub fn sources() -> Vec<(String, String)> {
    let cooperative = cooperative::SHAPES.into_iter().flat_map(cooperative::tiles);
    sources_of(&choose::ALL.into_iter().chain(cooperative).collect::<Vec<_>>())
}

/// As [`sources`], of the tiles that a GPU of this vendor may get; those with cooperative matrices only where it lists their shape.
pub fn hardware_sources(vendor: Vendor) -> Vec<(String, String)> {
    let cooperative = cooperative::shape_of(vendor).into_iter().flat_map(cooperative::tiles);
    let float32 = [choose::hardware_candidates(vendor), choose::thin_candidates(vendor)].concat();
    sources_of(&float32.into_iter().chain(cooperative).collect::<Vec<_>>())
}

fn sources_of(tiles: &[RegisterTile]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for &tile in tiles {
        // Weights in 16 bits are not trained, so that they have no gradient.
        let stored = [Role::Forward, Role::BackwardInput].map(|role| (role, ElementType::Bf16));
        for (role, right) in Role::ALL.map(|role| (role, ElementType::F32)).into_iter().chain(stored) {
            let epilogues: &[Epilogue] = match role {
                Role::Forward => &[Epilogue::Store, Epilogue::Bias, Epilogue::Residual],
                Role::BackwardInput if tile.family == KernelFamily::Shared => &[Epilogue::Store, Epilogue::Add, Epilogue::Swiglu],
                Role::BackwardInput => &[Epilogue::Store, Epilogue::Add],
                Role::BackwardWeight => &[Epilogue::Add],
            };
            let divided = match tile.family {
                KernelFamily::Direct => false,
                KernelFamily::Shared => true,
                KernelFamily::Cooperative(_) => role != Role::Forward,
            };
            let epilogues = [epilogues, if divided { &[Epilogue::Part] } else { &[] }].concat();
            for epilogue in epilogues {
                // Aligned; a vocabulary of 65 in rows of 68; nothing aligned; adapters of an odd rank, which are in f32 and without bias.
                let adapters: &[(usize, usize, [usize; 3])] = match (role, epilogue, right) {
                    (Role::Forward, Epilogue::Store | Epilogue::Part, ElementType::F32) => &[(65, 68, [68, 68, 65])],
                    (Role::BackwardInput | Role::BackwardWeight, Epilogue::Add | Epilogue::Part, ElementType::F32) => {
                        &[(68, 65, [65, 68, 68])]
                    }
                    _ => &[],
                };
                // Of a width that is a multiple of 4.
                let any: &[(usize, usize, [usize; 3])] =
                    if epilogue == Epilogue::Swiglu { &[] } else { &[(65, 65, [68; 3]), (65, 65, [65; 3])] };
                for (extent, depth, strides) in [(64, 64, [64; 3])].iter().chain(any).chain(adapters).copied() {
                    let shape = GemmShape { rows: extent, cols: extent, depth, strides };
                    let variant = variant((role, right), tile, epilogue, &shape);
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
    use crate::device::{Device, GpuClass, reflect::reflect, resolve};
    use std::collections::HashSet;

    #[test]
    fn every_source_is_valid_and_named_once() {
        let mut names = HashSet::new();
        let cooperative = cooperative::SHAPES.into_iter().flat_map(cooperative::tiles);
        for (name, text) in sources_of(&choose::ALL.into_iter().chain(cooperative).collect::<Vec<_>>()) {
            let reflection = reflect(&name, &resolve(&text).unwrap()).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert_eq!(reflection.entry_points.len(), 1, "{name}");
            assert!(name.ends_with(&format!(".{}", reflection.entry_points[0].name)), "{name}");
            assert!(names.insert(name.clone()), "{name} twice");
        }
        // Four tiles have the gradient of SwiGLU, with a weight in bfloat16 or not.
        // 6 tiles x (6 products + 5 with a weight in bfloat16) x 3 alignments; the 4 shared tiles write parts of three products (two), too. 7
        // tiles of cooperative matrices, with parts of two products (one). Adapters of an odd rank: three products, and the parts.
        let cooperative = 7 * ((6 + 5 + 2 + 1) * 3 + 3 + 2);
        assert_eq!(names.len(), 6 * (6 + 5) * 3 + 4 * (3 + 2) * 3 + 6 * 3 + 4 * 3 + 4 * 2 + cooperative);
    }

    /// Which tile is measured to be the fastest must not change results: on one adapter all register tiles give the same bits.
    #[test]
    fn tiles_are_bit_identical() {
        let device = Device::open_named(None).expect("a device");
        let (rows, n, k) = (70, 36, 133);
        let make = |name: &str, shape: [usize; 2]| {
            let t = Tensor::new(&device, "test", name, &shape);
            device.write(&t, &(0..t.len()).map(|i| (i * 7919 % 1013) as f32 / 977.0 - 0.5).collect::<Vec<_>>());
            t
        };
        let (x, w, dy) = (make("x", [rows, k]), make("w", [n, k]), make("dy", [rows, n]));
        let mut results: Vec<(String, Vec<u32>)> = Vec::new();
        for tile in device.gpu().map_or(Vec::new(), candidates) {
            let (y, dx, dw) = (make("y", [rows, n]), make("dx", [rows, k]), make("dw", [n, k]));
            let mut r = Recorder::new(&device, "test");
            forward_by(&mut r, tile, &x, &w, &y, Extra::None);
            backward_input_by(&mut r, tile, &dy, &w, &dx, true);
            backward_weight_by(&mut r, tile, &dy, &x, &dw);
            device.replay(&r.finish().unwrap()).unwrap();
            let bits: Vec<u32> = [y, dx, dw].iter().flat_map(|t| device.read::<u32>(t).unwrap()).collect();
            results.push((tile.name(), bits));
        }
        for (name, bits) in results.iter().skip(1) {
            assert!(*bits == results[0].1, "{name} differs from {}", results[0].0);
        }
    }

    /// Sums that lavapipe would silently cut short are refused.
    #[test]
    fn loops_above_the_limit_are_refused() {
        let device = Device::open_named(None).expect("a device");
        // Kernels for GPUs divide long sums among workgroups.
        if device.gpu().is_none_or(|gpu| gpu.class() == GpuClass::Hardware) {
            return;
        }
        let tokens = 300_000;
        let [dy, x, dw] = [[tokens, 4], [tokens, 4], [4, 4]].map(|shape| Tensor::new(&device, "test", "t", &shape));
        let mut r = Recorder::new(&device, "test");
        backward_weight(&mut r, &dy, &x, &dw);
        let error = format!("{:#}", r.finish().err().unwrap());
        assert!(error.contains("iterations"), "{error}");
    }

    /// With tuning on, a choice is measured once, kept, and within its time.
    #[test]
    fn tuned_choices_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let shape = GemmShape { rows: 256, cols: 384, depth: 128, strides: [128, 128, 384] };
        let mut chosen = Vec::new();
        for _ in 0..2 {
            let device = Device::open_named(None).expect("a device");
            let Some(gpu) = device.gpu() else { return };
            device.enable_tuning_in(Some(folder.path().to_path_buf()));
            let begin = web_time::Instant::now();
            chosen.push(choose(&device, gpu, Role::Forward, &shape));
            eprintln!("{:?} after {:.2} s", chosen, begin.elapsed().as_secs_f64());
            assert!(!device.ledger().entries().contains_key("tuning"), "scratch is freed");
        }
        assert_eq!(chosen[0], chosen[1]);
    }
}
