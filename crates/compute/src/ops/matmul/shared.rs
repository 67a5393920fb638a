//! The loop body of the `Shared` family, for GPUs: 16 x 16 invocations, slabs of both operands in workgroup memory.
//!
//! Workgroup memory keeps the order of the storage buffer, so nothing is transposed: an operand whose neighbours differ in the summed index
//! is kept as vectors along the depth, one more in a row than it has (against bank conflicts), the other as vectors of neighbours in the
//! result. Slabs are nested arrays, so that all indices but the invocation's own are constants: one bounds check a thread, outside of the
//! loop. Invocation (x, y) owns rows y, y + 16, ... (or groups of four rows, 16 groups apart) and groups of four columns, 16 groups apart.

use super::source::{Epilogue, Variant, XYZW};
use crate::ops::wgsl_text::WgslText;

/// Edge of the square workgroup.
pub const EDGE: usize = 16;
const THREADS: usize = EDGE * EDGE;

/// Layout of one operand in workgroup memory.
struct Slab {
    name: &'static str,
    /// `left` or `right`.
    side: &'static str,
    /// `row` or `col` of the result.
    axis: &'static str,
    /// `id.y` or `id.x`.
    own: &'static str,
    along_depth: bool,
    /// Neighbouring rows of the result lie in different quarters, so that an invocation owns four of them.
    quarters: bool,
    /// Rows or columns of the result.
    block: usize,
    /// Summed indices.
    depth: usize,
}

impl Slab {
    /// Vectors along the depth.
    fn vectors(&self) -> usize {
        self.depth / 4
    }

    fn declare(&self, t: &mut WgslText) {
        let (name, outer) = (self.name, self.block / EDGE);
        let kind = match (self.along_depth, self.quarters) {
            (true, true) => {
                format!("array<array<array<array<vec4<f32>, {}>, {EDGE}>, 4>, {}>", self.vectors() + 1, outer / 4)
            }
            (true, false) => format!("array<array<array<vec4<f32>, {}>, {EDGE}>, {outer}>", self.vectors() + 1),
            (false, _) => format!("array<array<array<vec4<f32>, {EDGE}>, {}>, {}>", outer / 4, self.depth),
        };
        t.line(format!("var<workgroup> {name}_slab: {kind};"));
    }

    /// Vectors that an invocation loads.
    fn loads(&self) -> usize {
        self.block * self.vectors() / THREADS
    }

    /// The constants of all slabs: source and destination of an invocation's vectors.
    fn prepare(&self, t: &mut WgslText) {
        let Self { name, side, axis, .. } = self;
        for part in 0..self.loads() {
            let at = format!("(local + {}u)", part * THREADS);
            if self.along_depth {
                let vectors = self.vectors();
                t.line(format!("let {name}_at{part} = min({axis}0 + {at} / {vectors}u, last_{axis}) * {side}_stride;"));
            } else {
                let across = self.block / 4;
                t.line(format!("let {name}_at{part} = min({axis}0 + {at} % {across}u * 4u, last_{axis} & ~3u);"));
            }
        }
    }

    /// Fill it: invocation `local` takes vectors local, local + 256, ... Elements past the end become zero.
    fn fill(&self, t: &mut WgslText) {
        let Self { name, side, .. } = self;
        for part in 0..self.loads() {
            t.line("{");
            t.line(format!("let at = local + {}u;", part * THREADS));
            if self.along_depth {
                let vectors = self.vectors();
                t.line(format!("let row = at / {vectors}u;"));
                t.line(format!("let index = i + at % {vectors}u * 4u;"));
                t.line(format!("let v = load_{name}({name}_at{part}, select(i, index, index < end));"));
                let place = match self.quarters {
                    true => format!("[row / {}u][row % 4u][row / 4u % {EDGE}u]", 4 * EDGE),
                    false => format!("[row / {EDGE}u][row % {EDGE}u]"),
                };
                t.line("let inside = vec4<u32>(index, index + 1u, index + 2u, index + 3u) < vec4<u32>(end);");
                t.line(format!("{name}_slab{place}[at % {vectors}u] = select(vec4<f32>(), v, inside);"));
            } else {
                let across = self.block / 4;
                t.line(format!("let index = i + at / {across}u;"));
                t.line(format!("let v = load_{name}(min(index, end - 1u) * {side}_stride, {name}_at{part});"));
                let place = format!("[at / {across}u][at % {across}u / {EDGE}u][at % {EDGE}u]");
                t.line(format!("{name}_slab{place} = select(vec4<f32>(), v, index < end);"));
            }
            t.line("}");
        }
    }
}

fn slabs(v: &Variant) -> [Slab; 2] {
    let [block_rows, block_cols] = v.tile.block();
    let [left, right, _] = v.role.names();
    let depth = v.tile.depth();
    let (left_along, right_along) = (v.role.left_along_depth(), v.role.right_along_depth());
    let rows = Slab {
        name: left,
        side: "left",
        axis: "row",
        own: "id.y",
        along_depth: left_along,
        quarters: false,
        block: block_rows,
        depth,
    };
    let cols = Slab {
        name: right,
        side: "right",
        axis: "col",
        own: "id.x",
        along_depth: right_along,
        quarters: true,
        block: block_cols,
        depth,
    };
    [rows, cols]
}

pub(super) fn body(t: &mut WgslText, v: &Variant) {
    let [left, right] = slabs(v);
    let depth = v.tile.depth();
    left.declare(t);
    right.declare(t);
    t.line("");
    t.line(format!("@compute @workgroup_size({EDGE}, {EDGE}, 1)"));
    t.line(format!(
        "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>,",
        v.role.entry()
    ));
    t.line("        @builtin(local_invocation_index) local: u32) {");
    start(t, v, &left, &right);
    t.line(format!("for (var i = begin; i < end; i += {depth}u) {{"));
    left.fill(t);
    right.fill(t);
    t.line("workgroupBarrier();");
    for q in 0..depth / 4 {
        t.line("{");
        multiply(t, v, q, [&left, &right]);
        t.line("}");
    }
    t.line("workgroupBarrier();");
    t.line("}");
    t.line("");
    let part = if v.epilogue == Epilogue::Part { "group.z, " } else { "" };
    for r in 0..v.tile.rows {
        let row = match v.role.left_along_depth() {
            true => format!("row0 + id.y + {}u", r * EDGE),
            false => format!("row0 + (id.y + {}u) * 4u + {}u", r / 4 * EDGE, r % 4),
        };
        for g in 0..v.tile.cols / 4 {
            t.line(format!("put({part}{row}, col_{g}, sum{r}_{g});"));
        }
    }
    t.line("}");
}

/// The block of the result that a workgroup of tiles in workgroup memory owns, of these rows and columns, and its part of the depth.
pub(super) fn locate(t: &mut WgslText, epilogue: Epilogue, [rows, cols]: [usize; 2]) {
    t.line("// Read once: a compiler may load them again after every barrier.");
    t.line("let left_stride = dims.left_stride;");
    t.line("let right_stride = dims.right_stride;");
    t.line("let last_row = dims.rows - 1u;");
    t.line("let last_col = dims.cols - 1u;");
    match epilogue {
        // Workgroup z sums its part of the depth.
        Epilogue::Part => {
            t.line("let begin = group.z * dims.span;");
            t.line("let end = min(begin + dims.span, dims.depth);");
        }
        _ => {
            t.line("let begin = 0u;");
            t.line("let end = dims.depth;");
        }
    }
    t.line(format!("let row0 = dims.first_row + group.y * {}u;", rows));
    t.line(format!("let col0 = group.x * {}u;", cols));
}

/// Prologue of the loop: constant offsets, and the initial values of the sums.
fn start(t: &mut WgslText, v: &Variant, left: &Slab, right: &Slab) {
    locate(t, v.epilogue, [left.block, right.block]);
    left.prepare(t);
    right.prepare(t);
    t.line("");
    let groups = v.tile.cols / 4;
    for g in 0..groups {
        t.line(format!("let col_{g} = col0 + (id.x + {}u) * 4u;", g * EDGE));
        let first = match v.epilogue {
            Epilogue::Bias => format!("bias[min(col_{g}, last_col & ~3u) >> 2u]"),
            _ => "vec4<f32>()".into(),
        };
        t.line(format!("let first_{g} = {first};"));
    }
    for r in 0..v.tile.rows {
        for g in 0..groups {
            t.line(format!("var sum{r}_{g} = first_{g};"));
        }
    }
    t.line("");
}

/// Indices 4 step .. 4 step + 3 of the slab: load what this invocation needs, multiply, add.
fn multiply(t: &mut WgslText, v: &Variant, step: usize, [left, right]: [&Slab; 2]) {
    let (rows, groups) = (v.tile.rows, v.tile.cols / 4);
    let (x, w) = (left.name, right.name);
    for g in 0..groups {
        if right.along_depth {
            for (c, y) in XYZW.iter().enumerate() {
                t.line(format!("let {w}_{y}{g} = {w}_slab[{g}][{c}][{}][{step}];", right.own));
            }
            for (q, y) in XYZW.iter().enumerate() {
                let parts: Vec<_> = XYZW.iter().map(|c| format!("{w}_{c}{g}.{y}")).collect();
                t.line(format!("let {w}{q}_{g} = vec4<f32>({});", parts.join(", ")));
            }
        } else {
            for q in 0..4 {
                t.line(format!("let {w}{q}_{g} = {w}_slab[{}][{g}][{}];", step * 4 + q, right.own));
            }
        }
    }
    // All loads come before what uses them: compilers that keep the order wait once.
    if left.along_depth {
        for r in 0..rows {
            t.line(format!("let {x}{r} = {x}_slab[{r}][{}][{step}];", left.own));
        }
    } else {
        for q in 0..4 {
            for g in 0..rows / 4 {
                t.line(format!("let {x}{q}_{g} = {x}_slab[{}][{g}][{}];", step * 4 + q, left.own));
            }
        }
    }
    for r in 0..rows {
        let scalar = |q: usize| match left.along_depth {
            true => format!("{x}{r}.{}", XYZW[q]),
            false => format!("{x}{q}_{}.{}", r / 4, XYZW[r % 4]),
        };
        for g in 0..groups {
            let terms: Vec<_> = (0..4).map(|q| format!(" + {} * {w}{q}_{g}", scalar(q))).collect();
            t.line(format!("sum{r}_{g} = sum{r}_{g}{};", terms.concat()));
        }
    }
}
