//! The measured rate of products on this machine, for MFU and time estimates.

use super::{GemmAddend, GemmShape, forward};
use crate::device::cpu::Cpu;
use web_time::Instant;

/// The best rate of a large product in GFLOP/s, measured for a tenth of a second.
pub fn peak_gflops(cpu: &Cpu) -> f64 {
    const EDGE: usize = 512;
    let shape = GemmShape { rows: EDGE, cols: EDGE, depth: EDGE, strides: [EDGE; 3] };
    // Realistic numbers: multiplying zeros takes less power and runs faster.
    let values: Vec<f32> = (0..EDGE * EDGE).map(|i| (i * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect();
    let mut out = vec![0.0; EDGE * EDGE];
    let (begin, mut best) = (Instant::now(), 0.0f64);
    while best == 0.0 || begin.elapsed().as_secs_f64() < 0.1 {
        let trial = Instant::now();
        forward(cpu, &values, &values[..], &mut out, &shape, GemmAddend::None);
        best = best.max(shape.flops() / trial.elapsed().as_secs_f64() / 1e9);
    }
    best
}
