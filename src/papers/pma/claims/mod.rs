//! The claims of arXiv 2505.12082, one family per file. The paper's figures are quoted from its text; see each `paper` field.

mod annealing;
mod curvature;
mod rescue;
mod schemes;
mod stable;
mod stages;

use super::measure::Measure;
use crate::papers::finding::ClaimFinding;

pub use rescue::RESCUES;

/// Measure a claim.
///
/// # Errors
/// A device error, a full disk, or an interruption.
pub fn find(m: &Measure<'_>, claim: &str) -> anyhow::Result<ClaimFinding> {
    match claim {
        "P1" => stable::p1(m),
        "P2" => annealing::p2(m),
        "P3" => annealing::p3(m),
        "P4" => schemes::p4(m),
        "P5" => schemes::p5(m),
        "P6" => schemes::p6(m),
        "P5/6+" => schemes::p56(m),
        "P7" => stages::p7(m),
        "P8" => stages::p8(m),
        "P9" => rescue::p9(m),
        "P10" => curvature::p10(m),
        "P11" => stable::p11(m),
        _ => anyhow::bail!("{claim}: no such claim"),
    }
}
