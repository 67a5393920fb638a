//! The products with B on the CPU, part by part: each is a matrix product in some columns of y.

use super::{LoraParts, Shape};
use crate::device::cpu::Cpu;
use crate::device::cpu::gemm::{self, GemmAddend, GemmShape};

/// `y += scale u b^T`
pub(super) fn forward(cpu: &Cpu, parts: &LoraParts, s: &Shape, u: &[f32], b: &[f32], y: &mut [f32]) {
    let u = scaled(u, parts.scale);
    for (part, (rows, columns)) in parts.spans().enumerate() {
        let shape = GemmShape { rows: s.rows, cols: rows.len(), depth: s.rank, strides: [s.width, s.rank, s.stride] };
        gemm::forward(cpu, &u[part * s.rank..], &b[rows.start * s.rank..], &mut y[columns.start..], &shape, GemmAddend::Output);
    }
}

/// `du = scale dy b`
pub(super) fn backward_input(cpu: &Cpu, parts: &LoraParts, s: &Shape, dy: &[f32], b: &[f32], du: &mut [f32]) {
    for (part, (rows, columns)) in parts.spans().enumerate() {
        let shape = GemmShape { rows: s.rows, cols: s.rank, depth: rows.len(), strides: [s.stride, s.rank, s.width] };
        gemm::backward_input(cpu, &dy[columns.start..], &b[rows.start * s.rank..], &mut du[part * s.rank..], &shape, false);
    }
    let scale = parts.scale as f32;
    du.iter_mut().for_each(|du| *du *= scale);
}

/// `db += scale dy^T u`
pub(super) fn backward_weight(cpu: &Cpu, parts: &LoraParts, s: &Shape, dy: &[f32], u: &[f32], db: &mut [f32]) {
    let u = scaled(u, parts.scale);
    for (part, (rows, columns)) in parts.spans().enumerate() {
        let shape = GemmShape { rows: rows.len(), cols: s.rank, depth: s.rows, strides: [s.stride, s.width, s.rank] };
        gemm::backward_weight(cpu, &dy[columns.start..], &u[part * s.rank..], &mut db[rows.start * s.rank..], &shape);
    }
}

/// The narrow operand is scaled: R x parts x r numbers.
fn scaled(u: &[f32], scale: f64) -> Vec<f32> {
    let scale = scale as f32;
    u.iter().map(|u| u * scale).collect()
}
