//! How many neighbouring invocations exchange values by subgroup operations on this GPU: quads, and shuffles beyond them.
//!
//! Kernels rely on neighbours in a workgroup being neighbours in a subgroup, which all drivers do and no specification promises. So it is
//! tested once, before a plan that needs it becomes a candidate.

use super::source::neighbour;
use crate::device::{Cost, Device, Extent, Gpu, Op, Recorder, Tensor};
use crate::ops::wgsl_text::WgslText;
use crate::{bind, uniform};

uniform! { struct ProbeDims { numbers: u32 } }

/// Whole and partial subgroups.
const INVOCATIONS: usize = 160;
/// Beyond this more exchanges than sums are left.
const MOST_LANES: usize = 16;
/// All numbers of neighbours that a device may be tested for.
pub(super) const TESTED_LANES: [usize; 4] = [2, 4, 8, MOST_LANES];

/// Neighbours that can exchange values: a power of two, 1 for none. Tested at the first call.
pub(super) fn lanes(device: &Device, gpu: &Gpu) -> usize {
    let most = gpu.subgroup_lanes().min(MOST_LANES);
    *gpu.shuffled_lanes.get_or_init(|| if most < 2 { 1 } else { probed(device, most).unwrap_or(1) })
}

/// (stem, WGSL): each invocation's index as its neighbours at distances 1, 2, 4 .. below `lanes` see it.
pub(super) fn source(lanes: usize) -> (String, String) {
    let mut t = WgslText::default();
    t.line("// Which invocations are neighbours in a subgroup.             made by crates/compute/src/ops/attention/shuffle.rs");
    t.line("struct Dims { numbers: u32 }");
    t.line("");
    t.line("@group(0) @binding(0) var<uniform> dims: Dims;");
    t.line("@group(0) @binding(1) var<storage, read_write> found: array<u32>;");
    t.line("");
    t.line(format!("@compute @workgroup_size({INVOCATIONS})"));
    t.open("fn probe(@builtin(local_invocation_index) local: u32)");
    let distances = (0..lanes.ilog2()).map(|bit| 1 << bit);
    for distance in distances.clone() {
        t.line(format!("let at{distance} = {};", neighbour("local", distance)));
    }
    for (i, distance) in distances.enumerate() {
        t.line(format!("found[min({}u + local, dims.numbers - 1u)] = at{distance};", i * INVOCATIONS));
    }
    t.close();
    (format!("attention_shuffle_x{lanes}"), t.text)
}

/// Up to which power of two all neighbours are where the kernels expect them.
fn probed(device: &Device, lanes: usize) -> anyhow::Result<usize> {
    const SCRATCH: &str = "tuning";
    let rounds = lanes.ilog2() as usize;
    let values: Vec<u32> = {
        let found = Tensor::new(device, SCRATCH, "found", &[rounds * INVOCATIONS]);
        let mut r = Recorder::new(device, "shuffle");
        r.op(
            Op { name: "attention.shuffle", cost: Cost::default(), reads: [], writes: bind!(found) },
            |wgsl| {
                let (stem, text) = source(lanes);
                let dims = ProbeDims { numbers: (rounds * INVOCATIONS) as u32 };
                wgsl.run_text((&stem, &text), "probe", dims, Extent::without_loops([1, 1, 1]))
            },
            |_, [], [_]| unreachable!("only GPUs are tested"),
        );
        device.replay(&r.finish()?)?;
        device.read(&found)?
    };
    device.scratch_freed(SCRATCH);
    let right = |round: &usize| {
        let seen = &values[round * INVOCATIONS..(round + 1) * INVOCATIONS];
        seen.iter().enumerate().all(|(local, &other)| other as usize == local ^ (1 << round))
    };
    Ok(1 << (0..rounds).take_while(right).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU without subgroup operations, or opened with default limits, has none; others a power of two.
    #[test]
    fn neighbours_are_tested() {
        let device = Device::open_named(None).expect("a device");
        if let Some(gpu) = device.gpu() {
            let found = lanes(&device, gpu);
            assert!(found.is_power_of_two() && found <= gpu.subgroup_lanes().max(1), "{found}");
            eprintln!("{} of {} neighbours", found, gpu.subgroup_lanes());
        }
        let device = Device::with_default_limits(None).expect("a device");
        if let Some(gpu) = device.gpu() {
            assert_eq!(lanes(&device, gpu), 1);
        }
    }
}
