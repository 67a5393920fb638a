//! One file per shader: functions that record its dispatches, the f64 twin, and the check that compares the two.
//!
//! Letters: `R` rows (batch x time), `C` columns, `B` batch, `T` time, `H` heads, `D` head width, `V` vocabulary; `d` = gradient of.
//! Parameter gradients are `+=`, activation gradients `=`, except the residual stream, which is `+=` too.

pub mod adamw;
pub mod add_bias;
pub mod attention;
pub mod average;
pub mod check;
pub mod embedding;
pub mod grad_norm;
pub mod logprob;
pub mod lora;
pub mod matmul;
pub mod objective;
pub mod qk_norm;
pub mod rmsnorm;
pub mod rope;
pub mod sample;
pub mod self_test;
pub mod sources;
mod stored;
pub mod swiglu;
mod wgsl_text;

use crate::device::{Gpu, GpuClass};

/// Invocations in a workgroup of the row and element kernels.
pub(crate) const WG: u32 = 64;

/// Invocations that share a row of `cols` numbers, over which each loops `loops` times: one on a software adapter, with few lanes and
/// expensive barriers, unless its loops would be too long; up to a whole workgroup on a GPU.
pub(crate) fn row_lanes(gpu: &Gpu, cols: usize, loops: usize) -> u32 {
    match gpu.class() {
        GpuClass::Software => {
            let fits = |lanes: &u32| row_iterations(*lanes, cols, loops) <= gpu.max_iterations();
            (0..=WG.ilog2()).map(|shift| 1 << shift).find(fits).unwrap_or(WG)
        }
        GpuClass::Hardware => (cols.div_ceil(4) as u32).next_power_of_two().min(WG),
    }
}

/// Invocations in a workgroup that sums columns, `lanes` of them each: on a GPU as many columns as fill a cache line, on a software adapter,
/// where there are few columns, small workgroups, so that every core has some.
pub(crate) fn column_group(class: GpuClass, lanes: u32) -> u32 {
    match class {
        GpuClass::Software if lanes == 1 => 8,
        GpuClass::Software => WG,
        GpuClass::Hardware => (4 * lanes).max(WG),
    }
}

/// Loop iterations of one of `lanes` invocations that share a row: `loops` loops over the row's vec4, at most 8 reductions.
pub(crate) fn row_iterations(lanes: u32, cols: usize, loops: usize) -> usize {
    loops * cols.div_ceil(4).div_ceil(lanes as usize) + 8 * lanes.ilog2() as usize
}

/// Override constants of `lib/reduce.wgsl`.
pub(crate) fn row_constants(lanes: u32) -> [(&'static str, f64); 2] {
    [("WG", f64::from(WG)), ("LANES", f64::from(lanes))]
}

/// Checks of a device that was opened with float16 products, besides [`checks`].
pub fn float16_checks() -> &'static [check::Check] {
    matmul::FLOAT16_CHECKS
}

/// All checks of all ops, in order of dependence.
pub fn checks() -> Vec<check::Check> {
    [
        embedding::CHECKS,
        rmsnorm::CHECKS,
        matmul::CHECKS,
        stored::CHECKS,
        lora::CHECKS,
        add_bias::CHECKS,
        rope::CHECKS,
        qk_norm::CHECKS,
        attention::CHECKS,
        swiglu::CHECKS,
        logprob::CHECKS,
        objective::CHECKS,
        grad_norm::CHECKS,
        adamw::CHECKS,
        average::CHECKS,
        sample::CHECKS,
    ]
    .concat()
}
