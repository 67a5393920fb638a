//! Commands that run whole experiments: the demo, lessons, the papers' claims, and their report.

pub(super) mod demo;
pub(super) mod lesson;
pub(super) mod report;
pub(super) mod reproduce;
pub(super) mod story_output;
