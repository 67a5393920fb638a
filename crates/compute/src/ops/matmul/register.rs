//! The loop body of the `Direct` family: a register tile a lane, lanes along the columns.

use super::source::{Epilogue, LANES, Variant, XYZW};
use crate::ops::wgsl_text::WgslText;

/// Rows whose stores are written out; a loop goes over the tile. Stores are most of lavapipe's compile time (2.0 s for 32 rows, 0.65 s for 4).
const STORE_ROWS: usize = 4;

/// Where the values of a step (four summed indices, or one in the tail) are.
#[derive(Default)]
struct Step {
    /// `left[row][q]`: a scalar.
    left: Vec<Vec<String>>,
    /// `right[q][group]`: four columns.
    right: Vec<Vec<String>>,
}

/// Groups of four columns of one lane are this many columns apart: lanes interleave.
const GROUP_STEP: usize = 4 * LANES;

pub(super) fn body(t: &mut WgslText, v: &Variant) {
    let (rows, groups) = (v.tile.rows, v.tile.cols / 4);
    if v.tail && v.role.left_along_depth() {
        t.line("// Component i of v, without a dynamic index.");
        t.line("fn pick(v: vec4<f32>, i: u32) -> f32 {");
        t.line("return select(select(v.x, v.y, i == 1u), select(v.z, v.w, i == 3u), i >= 2u);");
        t.line("}");
        t.line("");
    }
    t.line(format!("@compute @workgroup_size({LANES})"));
    t.line(format!(
        "fn {}(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{",
        v.role.entry()
    ));
    t.line(format!("let row0 = dims.first_row + group.y * {rows}u;"));
    t.line(format!("let col0 = group.x * {}u + lane * 4u;", v.tile.block()[1]));
    t.line("let last_row = dims.rows - 1u;");
    t.line("let last_col = dims.cols - 1u;");
    t.line("// Read once: the driver would load them again in every turn.");
    t.line("let depth = dims.depth;");
    t.line("let left_stride = dims.left_stride;");
    t.line("let right_stride = dims.right_stride;");
    t.line("");
    t.line("// Rows and columns past the end read the last one; their sums are never stored.");
    left_places(t, v);
    right_places(t, v, groups);
    t.line("");
    for g in 0..groups {
        if v.epilogue == Epilogue::Bias {
            t.line(format!("let bias{g} = bias[min(col0 + {}u, last_col & ~3u) >> 2u];", g * GROUP_STEP));
        }
    }
    for r in 0..rows {
        for g in 0..groups {
            let start = if v.epilogue == Epilogue::Bias { format!("bias{g}") } else { "vec4<f32>()".into() };
            t.line(format!("var sum{r}_{g} = {start};"));
        }
    }
    t.line("");
    t.line("var i = 0u;");
    t.line("while i + 4u <= depth {");
    let mut step = Step::default();
    right_step(t, v, groups, &mut step);
    left_step(t, v, &mut step);
    multiply(t, &step);
    t.line("i += 4u;");
    t.line("}");
    if v.tail {
        t.line("while i < depth {");
        let step = tail_step(t, v, groups);
        multiply(t, &step);
        t.line("i += 1u;");
        t.line("}");
    }
    t.line("");
    store(t, rows, groups);
    t.line("}");
}

/// Load positions of the left operand that do not depend on the step.
fn left_places(t: &mut WgslText, v: &Variant) {
    let (rows, name) = (v.tile.rows, v.role.names()[0]);
    if v.role.left_along_depth() {
        for r in 0..rows {
            t.line(format!("let {name}_row{r} = min(row0 + {r}u, last_row) * left_stride;"));
        }
    } else {
        for g in 0..rows / 4 {
            t.line(format!("let {name}_col{g} = min(row0 + {}u, last_row & ~3u);", g * 4));
        }
    }
}

/// Load positions of the right operand that do not depend on the step.
fn right_places(t: &mut WgslText, v: &Variant, groups: usize) {
    let name = v.role.names()[1];
    for g in 0..groups {
        if v.role.right_along_depth() {
            for (i, x) in XYZW.iter().enumerate() {
                let col = g * GROUP_STEP + i;
                t.line(format!("let {name}_row{g}{x} = min(col0 + {col}u, last_col) * right_stride;"));
            }
        } else {
            t.line(format!("let {name}_col{g} = min(col0 + {}u, last_col & ~3u);", g * GROUP_STEP));
        }
    }
}

/// Right operand of the four indices i .. i + 3.
fn right_step(t: &mut WgslText, v: &Variant, groups: usize, step: &mut Step) {
    let name = v.role.names()[1];
    if v.role.right_along_depth() {
        for g in 0..groups {
            for x in XYZW {
                t.line(format!("let {name}{g}{x} = load_{name}({name}_row{g}{x}, i);"));
            }
        }
        for (q, x) in XYZW.iter().enumerate() {
            for g in 0..groups {
                let parts: Vec<_> = XYZW.iter().map(|y| format!("{name}{g}{y}.{x}")).collect();
                t.line(format!("let {name}{q}_{g} = vec4<f32>({});", parts.join(", ")));
            }
        }
    } else {
        for q in 0..4 {
            t.line(format!("let {name}_row{q} = (i + {q}u) * right_stride;"));
            for g in 0..groups {
                t.line(format!("let {name}{q}_{g} = load_{name}({name}_row{q}, {name}_col{g});"));
            }
        }
    }
    step.right = (0..4).map(|q| (0..groups).map(|g| format!("{name}{q}_{g}")).collect()).collect();
}

/// Left operand of the four indices i .. i + 3.
fn left_step(t: &mut WgslText, v: &Variant, step: &mut Step) {
    let (rows, name) = (v.tile.rows, v.role.names()[0]);
    if v.role.left_along_depth() {
        for r in 0..rows {
            t.line(format!("let {name}{r} = load_{name}({name}_row{r}, i);"));
            step.left.push(XYZW.iter().map(|x| format!("{name}{r}.{x}")).collect());
        }
    } else {
        for q in 0..4 {
            t.line(format!("let {name}_row{q} = (i + {q}u) * left_stride;"));
            for g in 0..rows / 4 {
                t.line(format!("let {name}{q}_{g} = load_{name}({name}_row{q}, {name}_col{g});"));
            }
        }
        for r in 0..rows {
            step.left.push((0..4).map(|q| format!("{name}{q}_{}.{}", r / 4, XYZW[r % 4])).collect());
        }
    }
}

/// Both operands of the single index i.
fn tail_step(t: &mut WgslText, v: &Variant, groups: usize) -> Step {
    let (rows, [left, right, _]) = (v.tile.rows, v.role.names());
    let mut step = Step { left: Vec::new(), right: vec![(0..groups).map(|g| format!("{right}0_{g}")).collect()] };
    if v.role.left_along_depth() {
        t.line("let i4 = i & ~3u;");
        t.line("let part = i & 3u;");
    }
    for g in 0..groups {
        if v.role.right_along_depth() {
            let parts: Vec<_> = XYZW.iter().map(|x| format!("pick(load_{right}({right}_row{g}{x}, i4), part)")).collect();
            t.line(format!("let {right}0_{g} = vec4<f32>({});", parts.join(", ")));
        } else {
            t.line(format!("let {right}0_{g} = load_{right}(i * right_stride, {right}_col{g});"));
        }
    }
    if v.role.left_along_depth() {
        for r in 0..rows {
            t.line(format!("let {left}{r} = pick(load_{left}({left}_row{r}, i4), part);"));
            step.left.push(vec![format!("{left}{r}")]);
        }
    } else {
        for g in 0..rows / 4 {
            t.line(format!("let {left}{g} = load_{left}(i * left_stride, min(row0 + {}u, last_row & ~3u));", g * 4));
        }
        step.left = (0..rows).map(|r| vec![format!("{left}{}.{}", r / 4, XYZW[r % 4])]).collect();
    }
    step
}

/// The multiply-adds of a step, all terms of one sum together.
fn multiply(t: &mut WgslText, step: &Step) {
    for (r, terms) in step.left.iter().enumerate() {
        for g in 0..step.right[0].len() {
            let terms: Vec<_> = terms.iter().zip(&step.right).map(|(s, right)| format!(" + {s} * {}", right[g])).collect();
            t.line(format!("sum{r}_{g} = sum{r}_{g}{};", terms.concat()));
        }
    }
}

/// Store the first rows of the tile, move the others up, repeat.
fn store(t: &mut WgslText, rows: usize, groups: usize) {
    t.line(format!("let row_end = min(row0 + {rows}u, dims.rows);"));
    t.line(format!("for (var row = row0; row < row_end; row += {STORE_ROWS}u) {{"));
    for r in 0..STORE_ROWS {
        for g in 0..groups {
            t.line(format!("put(row + {r}u, col0 + {}u, sum{r}_{g});", g * GROUP_STEP));
        }
    }
    for r in STORE_ROWS..rows {
        for g in 0..groups {
            t.line(format!("sum{}_{g} = sum{r}_{g};", r - STORE_ROWS));
        }
    }
    t.line("}");
}
