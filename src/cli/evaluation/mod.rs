//! Commands that measure a model, or show what it computes on one text or one step.

pub(super) mod evaluate;
pub(super) mod inspect;
pub(super) mod replay;
pub(super) mod score;
