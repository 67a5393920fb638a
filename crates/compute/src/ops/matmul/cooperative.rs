//! The loop body of the `Cooperative` family, for GPUs that list cooperative matrices (tensor cores, WMMA, simdgroup matrices): operands
//! are rounded to f16 on their way into workgroup memory, products are summed in f32.
//!
//! Four subgroups, two by two, own a block of the result; each keeps its part in matrices of f32 sums. Slabs keep the order of the storage
//! buffer, so nothing is transposed: a matrix is read row by row or column by column. Sums leave through workgroup memory, where every
//! invocation takes neighbours in a row, so that the epilogues and the bounds are those of the other families.
//!
//! **Which subgroup an invocation belongs to** is its index divided by the size of the largest subgroup, not a built-in value: an NVIDIA
//! driver crashes when a module has cooperative matrices and subgroup operations. Where the driver compiles for smaller subgroups, several
//! of them compute the same matrices.
//!
//! **Range of f16.** Gradients are small: they are multiplied by a power of two, which brings the largest below 2^14, and the sums are
//! divided by it; both are exact. It comes from [`dispatch_maxima`]. Activations and weights are not scaled: where one exceeds 65,504, the
//! whole block of the result becomes infinite or NaN, so that the update is skipped. This does not rely on the driver's conversion, for
//! which WGSL allows any value.

use super::choose::SplitDepth;
use super::shared::locate;
use super::source::{Epilogue, KernelFamily, RegisterTile, Role, Variant, XYZW};
use super::{GemmShape, added_by, cost, dispatch, dispatch_in_parts};
use crate::device::{CooperativeMatrix, Dispatcher, Extent, Op, Recorder, Shader, Tensor, Vendor};
use crate::ops::wgsl_text::WgslText;
use crate::{shader, uniform};

const MAXIMA: Shader = shader!("maxima");

/// Subgroups along each axis of a block.
const SUBGROUPS: usize = 2;
/// Columns of a subgroup's sums that leave at once.
const STRIP: usize = 16;
/// Padding of a row in workgroup memory, in numbers: against bank conflicts, and a multiple of 16 bytes.
const SLAB_PAD: usize = 8;
const STRIP_PAD: usize = 4;
/// Largest absolute values that a matrix is reduced to, and invocations that find each.
const PARTIAL_MAXIMA: usize = 128;
const MAXIMA_WG: usize = 256;

uniform! { struct MaximaDims { rows: u32, cols: u32, stride: u32 } }

/// The tiles for a shape of matrices; the first is used without tuning.
pub(super) fn tiles(matrix: CooperativeMatrix) -> Vec<RegisterTile> {
    let family = KernelFamily::Cooperative(matrix);
    match matrix.lanes {
        // Few lanes would load a large block one vector after another.
        ..32 => vec![RegisterTile::new(family, 16, 16)],
        _ => vec![RegisterTile::new(family, 32, 32), RegisterTile::new(family, 64, 32)],
    }
}

/// Shapes for which texts are checked: of lavapipe, and of each vendor's GPUs.
pub(super) const SHAPES: [CooperativeMatrix; 4] = [
    CooperativeMatrix { edge: 8, lanes: 8 },
    CooperativeMatrix { edge: 8, lanes: 32 },
    CooperativeMatrix { edge: 16, lanes: 32 },
    CooperativeMatrix { edge: 16, lanes: 64 },
];

/// The shape that GPUs of a vendor list, where they do.
pub(super) fn shape_of(vendor: Vendor) -> Option<CooperativeMatrix> {
    match vendor {
        Vendor::Amd => Some(CooperativeMatrix { edge: 16, lanes: 64 }),
        Vendor::Nvidia => Some(CooperativeMatrix { edge: 16, lanes: 32 }),
        Vendor::Apple => Some(CooperativeMatrix { edge: 8, lanes: 32 }),
        Vendor::Intel | Vendor::Qualcomm | Vendor::Other => None,
    }
}

/// Rows and columns of the result that a workgroup owns.
pub(super) fn block(tile: RegisterTile) -> [usize; 2] {
    [SUBGROUPS * tile.rows, SUBGROUPS * tile.cols]
}

/// Summed indices of a slab: as many as fit in 16 KiB of workgroup memory.
pub(super) fn slab_depth(tile: RegisterTile) -> usize {
    if tile.rows > 32 { 16 } else { 32 }
}

/// Loop iterations of an invocation.
pub(super) fn iterations(tile: RegisterTile, depth: usize) -> usize {
    depth.div_ceil(slab_depth(tile)) + PARTIAL_MAXIMA / 4
}

/// Whether the left operand is a gradient, which is scaled.
pub(super) fn is_scaled(role: Role) -> bool {
    role != Role::Forward
}

/// The binding of the largest absolute values of a scaled operand.
pub(super) fn declare_maxima(t: &mut WgslText) {
    t.line("@group(0) @binding(5) var<storage, read> maxima: array<vec4<f32>>;");
}

// ------------------------------------------------------------------------------------------------------------------------- recording

/// A product of the backward pass on a GPU, by a cooperative tile: the largest gradients first. `parts` divides the depth of a weight's
/// gradient.
pub(super) fn record_backward(
    r: &mut Recorder<'_>,
    role: Role,
    (tile, parts): (RegisterTile, Option<SplitDepth>),
    [left, right, out]: [&Tensor; 3],
    (shape, accumulate): (GemmShape, bool),
) {
    let [left_name, right_name, out_name] = role.names();
    let name = if role == Role::BackwardInput { "matmul.backward_input" } else { "matmul.backward_weight" };
    let element = right.element();
    let (mut cost, reads) = (cost(&shape, element, accumulate), [(left_name, left), (right_name, right)]);
    cost.bytes += 4.0 * (shape.rows * shape.depth) as f64;
    let device = r.device();
    let (out, maxima) = ((out_name, out), ("maxima", &device.maxima(PARTIAL_MAXIMA)));
    match parts {
        Some(parts) => {
            let scratch = parts.scratch(device, &shape);
            r.op(
                Op { name, cost, reads, writes: [out, maxima, ("parts", &scratch)] },
                |wgsl| {
                    dispatch_maxima(wgsl, role, &shape)?;
                    dispatch_in_parts(wgsl, (role, element), parts, added_by(role, accumulate), &shape)
                },
                |_, _, _| unreachable!("a device with cooperative matrices is a GPU"),
            );
        }
        None => {
            let epilogue = if accumulate { Epilogue::Add } else { Epilogue::Store };
            r.op(
                Op { name, cost, reads, writes: [out, maxima] },
                |wgsl| {
                    dispatch_maxima(wgsl, role, &shape)?;
                    dispatch(wgsl, (role, element), tile, epilogue, &shape)
                },
                |_, _, _| unreachable!("a device with cooperative matrices is a GPU"),
            );
        }
    }
}

/// The largest absolute values of the gradient, of 1/128 of it each. shaders/maxima.wgsl
fn dispatch_maxima(wgsl: &mut Dispatcher<'_>, role: Role, shape: &GemmShape) -> anyhow::Result<()> {
    let (rows, cols, stride) = match role {
        Role::BackwardWeight => (shape.depth, shape.rows, shape.strides[0]),
        _ => (shape.rows, shape.depth, shape.strides[0]),
    };
    // Without padding it is one long row.
    let (rows, cols) = if stride == cols { (1, rows * cols) } else { (rows, cols) };
    let dims = MaximaDims { rows: rows as u32, cols: cols as u32, stride: stride as u32 };
    let iterations = rows * cols.div_ceil(PARTIAL_MAXIMA * MAXIMA_WG) + rows + MAXIMA_WG.ilog2() as usize;
    wgsl.run_part(&MAXIMA, "largest", &[], dims, Extent { groups: [PARTIAL_MAXIMA as u32, 1, 1], iterations }, 0.0)
}

// ------------------------------------------------------------------------------------------------------------------------------- text

/// Layout of one operand in workgroup memory.
struct Slab {
    name: &'static str,
    /// `left` or `right`.
    side: &'static str,
    /// `row` or `col` of the result.
    axis: &'static str,
    /// The field of the extent along that axis.
    extent: &'static str,
    /// `A` or `B` of a product.
    role: &'static str,
    along_depth: bool,
    scaled: bool,
    /// Rows or columns of the result, and those of one subgroup.
    block: usize,
    own: usize,
    /// Summed indices.
    depth: usize,
    matrix: CooperativeMatrix,
}

impl Slab {
    /// Numbers that lie side by side in storage, and how many such rows there are.
    fn extents(&self) -> [usize; 2] {
        if self.along_depth { [self.depth, self.block] } else { [self.block, self.depth] }
    }

    fn stride(&self) -> usize {
        self.extents()[0] + SLAB_PAD
    }

    fn declare(&self, t: &mut WgslText) {
        t.line(format!("var<workgroup> {}_slab: array<f16, {}>;", self.name, self.stride() * self.extents()[1]));
    }

    /// Vectors that an invocation loads.
    fn loads(&self) -> usize {
        self.block * self.depth / 4 / threads(self.matrix)
    }

    /// The constants of all slabs: source and destination of an invocation's vectors.
    fn prepare(&self, t: &mut WgslText) {
        let Self { name, side, axis, extent, .. } = self;
        let across = self.extents()[0] / 4;
        for part in 0..self.loads() {
            let at = format!("(local + {}u)", part * threads(self.matrix));
            t.line(format!("let {name}_to{part} = {at} / {across}u * {}u + {at} % {across}u * 4u;", self.stride()));
            if self.along_depth {
                t.line(format!("let {name}_at{part} = min({axis}0 + {at} / {across}u, last_{axis}) * {side}_stride;"));
            } else {
                t.line(format!("let {name}_at{part} = min({axis}0 + {at} % {across}u * 4u, last_{axis} & ~3u);"));
                // Padding columns may hold anything.
                let own: Vec<_> = (0..4).map(|i| format!("{name}_at{part} + {i}u")).collect();
                t.line(format!("let {name}_real{part} = vec4<u32>({}) < vec4<u32>(dims.{extent});", own.join(", ")));
            }
        }
    }

    /// Fill it: invocation `local` takes vectors local, local + threads, ... Elements past the end become zero.
    fn fill(&self, t: &mut WgslText) {
        let Self { name, side, .. } = self;
        let across = self.extents()[0] / 4;
        for part in 0..self.loads() {
            t.line("{");
            let at = format!("(local + {}u)", part * threads(self.matrix));
            if self.along_depth {
                t.line(format!("let index = i + {at} % {across}u * 4u;"));
                t.line(format!("let v = load_{name}({name}_at{part}, select(i, index, index < end));"));
                t.line("let inside = vec4<u32>(index, index + 1u, index + 2u, index + 3u) < vec4<u32>(end);");
            } else {
                t.line(format!("let index = i + {at} / {across}u;"));
                t.line(format!("let v = load_{name}(min(index, end - 1u) * {side}_stride, {name}_at{part});"));
                t.line(format!("let inside = {name}_real{part} & vec4<bool>(index < end);"));
            }
            t.line("let real = select(vec4<f32>(), v, inside);");
            if self.scaled {
                t.line("let rounded = vec4<f16>(real * scale);");
            } else {
                t.line("largest = max(largest, abs(real));");
                t.line("let rounded = vec4<f16>(real);");
            }
            for (i, x) in XYZW.iter().enumerate() {
                t.line(format!("{name}_slab[{name}_to{part} + {i}u] = rounded.{x};"));
            }
            t.line("}");
        }
    }

    /// Load the matrix of these rows or columns of the subgroup, counted in matrices, at this step of the slab.
    fn load(&self, t: &mut WgslText, variable: &str, index: usize, step: usize) {
        let (Self { name, role, .. }, edge) = (self, self.matrix.edge);
        let (at, order) = match self.along_depth {
            true => (index * edge * self.stride() + step * edge, if *role == "A" { "T" } else { "" }),
            false => (step * edge * self.stride() + index * edge, if *role == "A" { "" } else { "T" }),
        };
        let kind = format!("coop_mat{edge}x{edge}<f16, {role}>");
        t.line(format!("let {variable} = coopLoad{order}<{kind}>(&{name}_slab[{name}_own + {at}u], {}u);", self.stride()));
    }

    /// Where the subgroup's first matrix begins.
    fn own(&self, t: &mut WgslText, subgroup: &str) {
        let from = if self.along_depth { self.own * self.stride() } else { self.own };
        t.line(format!("let {}_own = {subgroup} * {from}u;", self.name));
    }
}

fn threads(matrix: CooperativeMatrix) -> usize {
    SUBGROUPS * SUBGROUPS * matrix.lanes
}

fn slabs(v: &Variant, matrix: CooperativeMatrix) -> [Slab; 2] {
    let [block_rows, block_cols] = v.tile.block();
    let [left, right, _] = v.role.names();
    let depth = slab_depth(v.tile);
    let rows = Slab {
        name: left,
        side: "left",
        axis: "row",
        extent: "rows",
        role: "A",
        along_depth: v.role.left_along_depth(),
        scaled: is_scaled(v.role),
        block: block_rows,
        own: v.tile.rows,
        depth,
        matrix,
    };
    let cols = Slab {
        name: right,
        side: "right",
        axis: "col",
        extent: "cols",
        role: "B",
        along_depth: v.role.right_along_depth(),
        scaled: false,
        block: block_cols,
        own: v.tile.cols,
        depth,
        matrix,
    };
    [rows, cols]
}

pub(super) fn body(t: &mut WgslText, v: &Variant, matrix: CooperativeMatrix) {
    let [left, right] = slabs(v, matrix);
    let (edge, depth) = (matrix.edge, slab_depth(v.tile));
    let (across, down) = (v.tile.cols / edge, v.tile.rows / edge);
    left.declare(t);
    right.declare(t);
    t.line(format!("var<workgroup> strips: array<f32, {}>;", SUBGROUPS * SUBGROUPS * strip_numbers(edge)));
    t.line("var<workgroup> overflow: atomic<u32>;");
    t.line("");
    t.line(format!("@compute @workgroup_size({})", threads(matrix)));
    t.line(format!(
        "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {{",
        v.role.entry()
    ));
    start(t, v, [&left, &right], matrix);
    for r in 0..down {
        for c in 0..across {
            t.line(format!("var sum{r}_{c}: coop_mat{edge}x{edge}<f32, C>;"));
        }
    }
    t.line("");
    t.line(format!("for (var i = begin; i < end; i += {depth}u) {{"));
    left.fill(t);
    right.fill(t);
    t.line("workgroupBarrier();");
    for step in 0..depth / edge {
        t.line("{");
        (0..down).for_each(|r| left.load(t, &format!("a{r}"), r, step));
        (0..across).for_each(|c| right.load(t, &format!("b{c}"), c, step));
        for r in 0..down {
            for c in 0..across {
                t.line(format!("sum{r}_{c} = coopMultiplyAdd(a{r}, b{c}, sum{r}_{c});"));
            }
        }
        t.line("}");
    }
    t.line("workgroupBarrier();");
    t.line("}");
    t.line("");
    finish(t, v, matrix);
    t.line("}");
}

/// The statements before the loop.
fn start(t: &mut WgslText, v: &Variant, [left, right]: [&Slab; 2], matrix: CooperativeMatrix) {
    locate(t, v.epilogue, [left.block, right.block]);
    t.line(format!("let subgroup = local / {}u;", matrix.lanes));
    left.own(t, &format!("(subgroup / {SUBGROUPS}u)"));
    right.own(t, &format!("(subgroup % {SUBGROUPS}u)"));
    left.prepare(t);
    right.prepare(t);
    t.line("");
    t.line("// What f16 cannot hold is noted while it is loaded.");
    t.line("if local == 0u {");
    t.line("atomicStore(&overflow, 0u);");
    t.line("}");
    t.line("var largest = vec4<f32>();");
    if is_scaled(v.role) {
        t.line("var most = vec4<f32>();");
        t.line(format!("for (var m = 0u; m < {}u; m += 1u) {{", PARTIAL_MAXIMA / 4));
        t.line("most = max(most, maxima[m]);");
        t.line("}");
        t.line("// The largest gradient comes to lie between 2^13 and 2^14.");
        t.line("let exponent = clamp(14 - frexp(max(max(most.x, most.y), max(most.z, most.w))).exp, -114, 114);");
        t.line("let scale = ldexp(1f, exponent);");
        t.line("let unscale = ldexp(1f, -exponent);");
    }
}

/// Numbers of a strip: one row of matrices of a subgroup, 16 columns wide.
fn strip_numbers(edge: usize) -> usize {
    edge * (STRIP + STRIP_PAD)
}

/// Store the sums, strip by strip.
fn finish(t: &mut WgslText, v: &Variant, matrix: CooperativeMatrix) {
    let (edge, stride) = (matrix.edge, STRIP + STRIP_PAD);
    let (rows, strips) = (v.tile.rows / edge, v.tile.cols / STRIP);
    t.line("if any(largest > vec4<f32>(65504.0)) {");
    t.line("atomicStore(&overflow, 1u);");
    t.line("}");
    t.line(format!("let strip = subgroup * {}u;", strip_numbers(edge)));
    for r in 0..rows {
        for s in 0..strips {
            for c in 0..STRIP / edge {
                let at = c * edge;
                t.line(format!("coopStoreT(sum{r}_{}, &strips[strip + {at}u], {stride}u);", s * (STRIP / edge) + c));
            }
            t.line("workgroupBarrier();");
            if r == 0 && s == 0 {
                t.line("let excess = select(0.0, 1e30, atomicLoad(&overflow) != 0u);");
                t.line("let infinite = vec4<f32>(excess * excess);");
            }
            put_strip(t, v, matrix, [r * edge, s * STRIP]);
            if r + 1 < rows || s + 1 < strips {
                t.line("workgroupBarrier();");
            }
        }
    }
}

/// Every invocation stores vectors of the strip at `[row, col]` of each subgroup's part.
fn put_strip(t: &mut WgslText, v: &Variant, matrix: CooperativeMatrix, [row, col]: [usize; 2]) {
    let (edge, threads, stride) = (matrix.edge, threads(matrix), STRIP + STRIP_PAD);
    // Of one subgroup.
    let vectors = edge * STRIP / 4;
    let all = SUBGROUPS * SUBGROUPS * vectors;
    let part = if v.epilogue == Epilogue::Part { "group.z, " } else { "" };
    for first in (0..all).step_by(threads) {
        let whole = first + threads <= all;
        t.line(if whole { "{".into() } else { format!("if local < {}u {{", all - first) });
        t.line(format!("let at = local + {first}u;"));
        t.line(format!("let owner = at / {vectors}u;"));
        t.line(format!("let down = at % {vectors}u / {}u;", STRIP / 4));
        t.line(format!("let across = at % {}u * 4u;", STRIP / 4));
        t.line(format!("let number = owner * {}u + down * {stride}u + across;", strip_numbers(edge)));
        let numbers: Vec<_> = (0..4).map(|i| format!("strips[number + {i}u]")).collect();
        let scaled = if is_scaled(v.role) { " * unscale" } else { "" };
        t.line(format!("let row = row0 + owner / {SUBGROUPS}u * {}u + {row}u + down;", v.tile.rows));
        t.line(format!("let col = col0 + owner % {SUBGROUPS}u * {}u + {col}u + across;", v.tile.cols));
        let bias = if v.epilogue == Epilogue::Bias { " + bias[min(col, last_col & ~3u) >> 2u]" } else { "" };
        t.line(format!("put({part}row, col, vec4<f32>({}){scaled} + infinite{bias});", numbers.join(", ")));
        t.line("}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use crate::device::{reflect::reflect, resolve};
    use naga::back::{msl, spv};
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

    fn texts(edge: usize) -> Vec<(String, String)> {
        let all = sources().into_iter().filter(|(name, _)| name.starts_with("matmul_cooperative"));
        let of_edge = all.filter(|(_, text)| text.contains(&format!("coop_mat{edge}x{edge}<")));
        of_edge.map(|(name, text)| (name, resolve(&text).unwrap())).collect()
    }

    /// Apple's GPUs have 8 x 8 matrices; naga's writer does not check sizes.
    #[test]
    fn matrices_of_eight_are_written_for_metal() {
        let texts = texts(8);
        assert!(texts.len() > 40, "{}", texts.len());
        for (name, text) in texts {
            let reflection = reflect(&name, &text).unwrap();
            let restrict = BoundsCheckPolicy::Restrict;
            let bounds_check_policies =
                BoundsCheckPolicies { index: restrict, buffer: restrict, image_load: restrict, binding_array: restrict };
            // 2.3 is the first version with them, and what wgpu asks of an adapter.
            let options = msl::Options {
                lang_version: (2, 3),
                fake_missing_bindings: true,
                bounds_check_policies,
                zero_initialize_workgroup_memory: false,
                ..msl::Options::default()
            };
            let (metal, info) =
                msl::write_string(&reflection.module, &reflection.info, &options, &msl::PipelineOptions::default()).unwrap();
            info.entry_point_names[0].as_ref().unwrap();
            for part in ["simdgroup_half8x8 a0", "simdgroup_float8x8 sum0_0", "simdgroup_multiply_accumulate", "simdgroup_store"]
            {
                assert!(metal.contains(part), "{name}: no {part}");
            }
            for absent in ["16x16", "simdgroup_index", "simd_"] {
                assert!(!metal.contains(absent), "{name}: {absent}");
            }
        }
    }

    /// An NVIDIA driver crashes on modules with both; wgpu's validation of capabilities does not refuse them.
    #[test]
    fn no_module_has_subgroup_operations_too() {
        const CAPABILITY: u32 = 17;
        const COOPERATIVE_MATRIX: u32 = 6022;
        for (name, text) in [texts(8), texts(16)].concat() {
            let reflection = reflect(&name, &text).unwrap();
            let words = spv::write_vec(&reflection.module, &reflection.info, &spv::Options::default(), None).unwrap();
            let mut rest = &words[5..];
            let mut found = Vec::new();
            while let Some(&first) = rest.first() {
                if first & 0xFFFF == CAPABILITY {
                    found.push(rest[1]);
                }
                rest = &rest[(first >> 16) as usize..];
            }
            assert!(found.contains(&COOPERATIVE_MATRIX), "{name}: {found:?}");
            // GroupNonUniform, ...Vote, ...Arithmetic, ..., ...Quad.
            assert!(!found.iter().any(|c| (61..=68).contains(c)), "{name}: {found:?}");
        }
        let mixed = "enable wgpu_cooperative_matrix;\n@compute @workgroup_size(32) fn main() { let all = subgroupAdd(1u); }";
        assert!(reflect("mixed", mixed).is_err());
    }

    /// Sums are f32 in every text.
    #[test]
    fn sums_are_never_f16() {
        for (name, text) in [texts(8), texts(16)].concat() {
            assert!(text.contains("<f32, C>") && !text.contains("<f16, C>"), "{name}");
        }
    }
}
