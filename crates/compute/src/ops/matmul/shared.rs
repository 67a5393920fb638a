//! The loop body of the `Shared` family, for GPUs: 16 x 16 invocations, slabs of 16 summed indices in workgroup memory.
//!
//! Workgroup memory keeps the order of the storage buffer, so nothing is transposed: an operand whose neighbours differ in the summed
//! index is kept as `[row][index / 4]` with a stride of five vectors (one more against bank conflicts), the other as `[index][row / 4]`.

use super::source::{Epilogue, Text, Variant, XYZW};

/// Edge of the square workgroup.
pub const EDGE: usize = 16;
/// Summed indices of one slab.
const DEPTH: usize = 16;
/// Vectors along a slab's depth.
const VECTORS: usize = DEPTH / 4;
/// Vectors from row to row of a slab that is stored along the depth.
const STRIDE: usize = VECTORS + 1;

pub(super) fn body(t: &mut Text, v: &Variant) {
    let [block_rows, block_cols] = v.tile.block();
    let [left, right, _] = v.role.names();
    let size = |along_depth: bool, block: usize| if along_depth { block * STRIDE } else { block / 4 * DEPTH };
    t.line(format!("var<workgroup> {left}_slab: array<vec4<f32>, {}>;", size(v.role.left_along_depth(), block_rows)));
    t.line(format!("var<workgroup> {right}_slab: array<vec4<f32>, {}>;", size(v.role.right_along_depth(), block_cols)));
    t.line("");
    t.line("// v holds indices i .. i + 3; those past the depth become zero.");
    t.line("fn cut(v: vec4<f32>, i: u32) -> vec4<f32> {");
    t.line("return select(vec4<f32>(), v, vec4<u32>(i, i + 1u, i + 2u, i + 3u) < vec4<u32>(dims.depth));");
    t.line("}");
    t.line("");
    t.line(format!("@compute @workgroup_size({EDGE}, {EDGE}, 1)"));
    t.line(format!(
        "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>,",
        v.role.entry()
    ));
    t.line("        @builtin(local_invocation_index) local: u32) {");
    t.line(format!("let row0 = dims.first_row + group.y * {block_rows}u;"));
    t.line(format!("let col0 = group.x * {block_cols}u;"));
    t.line("let last_row = dims.rows - 1u;");
    t.line("let last_col = dims.cols - 1u;");
    // Lane id.x owns four neighbours, or where the right operand is stored along the depth columns id.x, id.x + 16, ...
    let (lane_step, col_step) = if v.spread_columns() { (1, EDGE) } else { (4, 1) };
    t.line(format!("let col = col0 + id.x * {lane_step}u;"));
    t.line("");
    let start = match v.epilogue {
        Epilogue::Bias => {
            let parts: Vec<_> = (0..4).map(|i| format!("bias[min(col + {}u, last_col)]", i * col_step)).collect();
            format!("vec4<f32>({})", parts.join(", "))
        }
        _ => "vec4<f32>()".into(),
    };
    t.line(format!("let first = {start};"));
    for r in 0..v.tile.rows {
        t.line(format!("var sum{r} = first;"));
    }
    t.line("");
    t.line(format!("for (var i = 0u; i < dims.depth; i += {DEPTH}u) {{"));
    slab(t, left, "left", v.role.left_along_depth(), block_rows, "row");
    slab(t, right, "right", v.role.right_along_depth(), block_cols, "col");
    t.line("workgroupBarrier();");
    t.line(format!("for (var q = 0u; q < {VECTORS}u; q++) {{"));
    multiply(t, v);
    t.line("}");
    t.line("workgroupBarrier();");
    t.line("}");
    t.line("");
    for r in 0..v.tile.rows {
        let row = format!("row0 + id.y * {}u + {r}u", v.tile.rows);
        if v.spread_columns() {
            for (i, x) in XYZW.iter().enumerate() {
                t.line(format!("put({row}, col + {}u, sum{r}.{x});", i * col_step));
            }
        } else {
            t.line(format!("put({row}, col, sum{r});"));
        }
    }
    t.line("}");
}

/// Fill a slab: invocation `local` takes vectors local, local + 256, ... What lies past the depth becomes zero.
fn slab(t: &mut Text, name: &str, side: &str, along_depth: bool, block: usize, axis: &str) {
    for part in 0..block * VECTORS / (EDGE * EDGE) {
        t.line("{");
        t.line(format!("let at = local + {}u;", part * EDGE * EDGE));
        if along_depth {
            t.line(format!("let row = at / {VECTORS}u;"));
            t.line(format!("let index = i + (at % {VECTORS}u) * 4u;"));
            t.line(format!("let start = min({axis}0 + row, last_{axis}) * dims.{side}_stride;"));
            t.line(format!("let v = load_{name}(start, select(i, index, index < dims.depth));"));
            t.line(format!("{name}_slab[row * {STRIDE}u + at % {VECTORS}u] = cut(v, index);"));
        } else {
            let vectors = block / 4;
            t.line(format!("let index = i + at / {vectors}u;"));
            t.line(format!("let start = min(index, dims.depth - 1u) * dims.{side}_stride;"));
            t.line(format!("let v = load_{name}(start, min({axis}0 + (at % {vectors}u) * 4u, last_{axis} & ~3u));"));
            t.line(format!("{name}_slab[at] = select(vec4<f32>(), v, index < dims.depth);"));
        }
        t.line("}");
    }
}

/// Four indices of the slab: load what this invocation needs, multiply, add.
fn multiply(t: &mut Text, v: &Variant) {
    let (rows, [left, right, _]) = (v.tile.rows, v.role.names());
    let [block_rows, block_cols] = v.tile.block();
    if v.role.right_along_depth() {
        for (c, x) in XYZW.iter().enumerate() {
            t.line(format!("let {right}_{x} = {right}_slab[(id.x + {}u) * {STRIDE}u + q];", c * EDGE));
        }
        for (q, x) in XYZW.iter().enumerate() {
            let parts: Vec<_> = XYZW.iter().map(|y| format!("{right}_{y}.{x}")).collect();
            t.line(format!("let {right}{q} = vec4<f32>({});", parts.join(", ")));
        }
    } else {
        for q in 0..4 {
            t.line(format!("let {right}{q} = {right}_slab[(q * 4u + {q}u) * {}u + id.x];", block_cols / 4));
        }
    }
    if v.role.left_along_depth() {
        for r in 0..rows {
            t.line(format!("let {left}{r} = {left}_slab[(id.y * {rows}u + {r}u) * {STRIDE}u + q];"));
        }
    } else {
        for q in 0..4 {
            for g in 0..rows / 4 {
                let place = format!("(q * 4u + {q}u) * {}u + id.y * {}u + {g}u", block_rows / 4, rows / 4);
                t.line(format!("let {left}{q}_{g} = {left}_slab[{place}];"));
            }
        }
    }
    for r in 0..rows {
        let scalar = |q: usize| match v.role.left_along_depth() {
            true => format!("{left}{r}.{}", XYZW[q]),
            false => format!("{left}{q}_{}.{}", r / 4, XYZW[r % 4]),
        };
        let terms: Vec<_> = (0..4).map(|q| format!(" + {} * {right}{q}", scalar(q))).collect();
        t.line(format!("sum{r} = sum{r}{};", terms.concat()));
    }
}
