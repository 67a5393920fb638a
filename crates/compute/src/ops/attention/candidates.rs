//! The plans that a GPU may get. Only those that no compiler of `scripts/check-gpus` for GPUs of that vendor spills, which `tests/gpus.tsv`
//! records; figures in docs/gpus.md.

use super::decode_tiled::TiledDecodePlan;
use super::source::{AttentionPass, AttentionPlan};
use crate::device::Vendor;

/// The parameters of a candidate that do not follow from pass and head width.
#[derive(Clone, Copy)]
struct PlanVariant {
    /// vec4 of a row that a thread holds, at most.
    vectors: usize,
    /// Streamed rows at a time.
    chunk: usize,
    /// Invocations, about.
    threads: usize,
    /// Neighbours that use subgroup operations, at most.
    lanes: usize,
}

/// Through workgroup memory.
const fn memory(vectors: usize, chunk: usize, threads: usize) -> PlanVariant {
    PlanVariant { vectors, chunk, threads, lanes: 1 }
}

/// By subgroup operations.
const fn shuffle(vectors: usize, chunk: usize, threads: usize) -> PlanVariant {
    PlanVariant { vectors, chunk, threads, lanes: 16 }
}

/// The plan of a GPU without tuning. A thread holds so few numbers of a row that no compiler spills: 16 of each of the two or three matrices
/// of a pass over queries, 8 of the four of the pass over keys.
pub(super) fn untuned(pass: AttentionPass, head_dim: usize) -> AttentionPlan {
    let (vectors, chunk) = match pass {
        AttentionPass::Forward => (4, 4),
        AttentionPass::BackwardQuery if head_dim < 64 => (4, 4),
        AttentionPass::BackwardQuery => (3, 4),
        AttentionPass::BackwardKey => (2, 2),
    };
    let plan = AttentionPlan::shared(pass, head_dim, vectors, chunk, 128, 1);
    // Many threads a row need many threads, or every streamed row serves few rows.
    if plan.split >= 8 && pass != AttentionPass::BackwardQuery {
        AttentionPlan::shared(pass, head_dim, vectors, chunk, 256, 1)
    } else {
        plan
    }
}

/// Further candidates, by vendor: the starting points of the search, the most promising first, as it ends after a while.
fn variants(vendor: Vendor, pass: AttentionPass) -> Vec<PlanVariant> {
    use AttentionPass::{BackwardKey, BackwardQuery, Forward};
    use Vendor::{Amd, Apple, Intel, Nvidia, Other, Qualcomm};
    match (pass, vendor) {
        (Forward, Amd | Nvidia | Apple) => vec![
            shuffle(4, 4, 128),
            shuffle(4, 8, 128),
            shuffle(8, 4, 128),
            memory(4, 8, 128),
            shuffle(4, 4, 256),
            shuffle(2, 4, 128),
        ],
        (Forward, Intel | Qualcomm | Other) => {
            vec![shuffle(4, 4, 128), memory(4, 8, 128), shuffle(4, 2, 128), shuffle(4, 4, 256), shuffle(2, 4, 128)]
        }
        (BackwardQuery, Amd | Nvidia | Apple) => {
            vec![shuffle(4, 4, 128), shuffle(3, 4, 128), memory(4, 4, 128), shuffle(4, 8, 128), shuffle(2, 4, 256)]
        }
        (BackwardQuery, Qualcomm) => vec![memory(4, 4, 128), shuffle(2, 4, 128), memory(2, 4, 128), shuffle(3, 2, 128)],
        (BackwardQuery, Intel | Other) => {
            vec![shuffle(2, 4, 128), shuffle(3, 2, 128), memory(2, 4, 128), memory(3, 2, 128)]
        }
        (BackwardKey, Amd | Nvidia) => vec![
            shuffle(2, 4, 128),
            shuffle(2, 2, 128),
            memory(2, 4, 128),
            shuffle(4, 2, 128),
            memory(4, 4, 128),
            shuffle(2, 2, 256),
        ],
        (BackwardKey, Apple | Qualcomm) => {
            vec![shuffle(2, 2, 128), shuffle(2, 4, 128), memory(2, 4, 128), memory(4, 2, 128), shuffle(2, 2, 256)]
        }
        (BackwardKey, Intel | Other) => {
            vec![shuffle(2, 2, 256), memory(2, 4, 128), memory(2, 2, 128), memory(3, 2, 128)]
        }
    }
}

/// Head widths with more than one plan: those of well-known models, for which the compilers' figures are known.
pub(super) const TUNED_HEAD_DIMS: [usize; 5] = [32, 64, 80, 96, 128];

/// Neighbours that use subgroup operations, at most: as many as the smallest subgroup of these GPUs has.
pub(super) fn most_lanes(vendor: Vendor) -> usize {
    match vendor {
        Vendor::Amd | Vendor::Apple | Vendor::Nvidia | Vendor::Qualcomm => 16,
        Vendor::Intel => 8,
        Vendor::Other => 4,
    }
}

/// Of a device where `lanes` neighbours have subgroup operations: those that were checked, or none.
fn checked_lanes(vendor: Vendor, lanes: usize) -> usize {
    if lanes >= most_lanes(vendor) { most_lanes(vendor) } else { 1 }
}

/// The plans for a pass that a GPU of this vendor may get, if `lanes` neighbours have subgroup operations; the first is used without tuning.
pub(super) fn candidates(vendor: Vendor, pass: AttentionPass, head_dim: usize, lanes: usize) -> Vec<AttentionPlan> {
    let mut plans = vec![untuned(pass, head_dim)];
    if !TUNED_HEAD_DIMS.contains(&head_dim) {
        return plans;
    }
    let lanes = checked_lanes(vendor, lanes);
    for v in variants(vendor, pass) {
        let plan = AttentionPlan::shared(pass, head_dim, v.vectors, v.chunk, v.threads, v.lanes.min(lanes));
        if plan.fits() && !plans.contains(&plan) {
            plans.push(plan);
        }
    }
    plans
}

/// (invocations, keys of a tile, threads of a key at most, neighbours that use subgroup operations at most) of the plans for decoding that are
/// tried, the most promising first.
const DECODE_VARIANTS: [(usize, usize, usize, usize); 4] =
    [(128, 128, 8, 16), (64, 64, 8, 16), (256, 128, 8, 16), (128, 128, 4, 1)];

/// The plans for decoding that a GPU of this vendor may get for `heads` query heads in a workgroup, if `lanes` neighbours have subgroup
/// operations; the first is used without tuning.
pub(super) fn decode_candidates(vendor: Vendor, head_dim: usize, heads: usize, lanes: usize) -> Vec<TiledDecodePlan> {
    // With more heads these compilers keep the sums of many keys at a time, and spill them.
    let lanes = if matches!(vendor, Vendor::Intel | Vendor::Other) && heads > 2 { 1 } else { checked_lanes(vendor, lanes) };
    let mut plans = vec![TiledDecodePlan::new(head_dim, heads)];
    if !TUNED_HEAD_DIMS.contains(&head_dim) {
        return plans;
    }
    for (threads, keys, split, most) in DECODE_VARIANTS {
        let split = TiledDecodePlan::split_for(head_dim, split);
        let plan = TiledDecodePlan { head_dim, heads, threads, keys, split, shuffled: split.min(most).min(lanes) };
        if plan.fits() && !plans.contains(&plan) {
            plans.push(plan);
        }
    }
    plans
}
