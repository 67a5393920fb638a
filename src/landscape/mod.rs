//! Layer 4: the loss on the plane through three checkpoints, and what merging does there (PMA, arXiv 2505.12082, section 4.6 and its figure 8).

mod curvature;
mod plane;

pub use curvature::{MergeTest, Quadratic};
pub use plane::{Frame, Plane};
