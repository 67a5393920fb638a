//! Layer 4: the loss on the plane through three checkpoints, and the effect of merging (PMA, arXiv 2505.12082, Section 4.6 and Figure 8).

mod curvature;
mod plane;

pub use curvature::{MergeTest, Quadratic};
pub use plane::{Plane, PlaneRange};
