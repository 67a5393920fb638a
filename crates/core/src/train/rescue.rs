//! The rescue ladder: which checkpoint a run returns to when a spike does not pass, with which changes, and when it gives up. No device.
//!
//! A checkpoint is *good* when it was saved on schedule while the detector was calm, and there was no alarm for [`MARGIN`] updates after
//! it. The newest [`KEEP`] good ones (and those that may still become good) are kept on disk.
//! - First divergence: back to the newest good checkpoint before the spike, or to the merge (SMA) of the last three, as configured.
//! - Another one at most [`AGAIN`] updates past the last, or before a new checkpoint became good: further back, to the second newest good
//!   one, or to one older than last time if none is newer than that (the oldest kept when none is older either); from there on with half
//!   the learning rate, and the batches from there to the spike are skipped.
//! - `limit` rescues within [`SPAN`] updates, or no good checkpoint before the spike: the run ends with an error that describes them.
//!
//! It always terminates: all rescues decided in the same [`SPAN`] updates of the run count against each other, so there are at most `limit`
//! per span, and between two rescues the whole run is trained at most once.
//! Without merge, reset, skipped data or another learning rate the replayed updates would be bit-identical; such a plan skips data.

use super::spike::{MARGIN, PersistentSpike};
use crate::config::{RescueData, RescueMethod, RescueOptimizer, RescueSettings};
use serde::{Deserialize, Serialize};

/// Number of good checkpoints that are kept, and merged.
pub const KEEP: usize = 3;
/// Updates past the last divergence within which another counts as the same.
pub const AGAIN: u64 = 500;
/// Window of updates for the limit.
pub const SPAN: u64 = 2000;

/// A rescue that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRescue {
    /// First update of the spike.
    pub onset: u64,
    /// The update at which it was decided.
    pub at: u64,
    /// The step it went back to.
    pub to: u64,
}

/// A planned rescue.
#[derive(Clone, Debug, PartialEq)]
pub struct RescuePlan {
    /// Steps of the checkpoints to continue from, oldest first: one, or those to be merged. The newest gives step, data order and moments.
    pub from_steps: Vec<u64>,
    /// Whether to zero Adam's moments.
    pub reset: bool,
    /// Batches to skip, in addition to those skipped before.
    pub skip: u64,
    /// Total factor on the learning rate from now on.
    pub learning_rate_scale: f64,
    /// Remark on differences from the settings; empty for a first rescue as configured.
    pub note: String,
}

impl RescuePlan {
    /// The step to go back to.
    pub fn to(&self) -> u64 {
        self.from_steps.last().copied().unwrap_or(0)
    }
}

/// State of the ladder; part of every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ladder {
    /// Good checkpoints, oldest first.
    good: Vec<u64>,
    /// Checkpoints that may become good.
    young: Vec<u64>,
    /// The run's first step: untrained weights are never part of a merge.
    begin: Option<u64>,
    /// Whether a checkpoint became good since the last rescue.
    fresh: bool,
    /// Factor on the learning rate.
    learning_rate_scale: f64,
    /// Every rescue so far.
    pub past: Vec<PastRescue>,
}

impl Default for Ladder {
    fn default() -> Self {
        Self { good: Vec::new(), young: Vec::new(), begin: None, fresh: false, learning_rate_scale: 1.0, past: Vec::new() }
    }
}

impl Ladder {
    /// A checkpoint was saved on schedule, or is the starting point; `calm` is the detector's state.
    pub fn saved(&mut self, step: u64, calm: bool) {
        if calm && !self.young.contains(&step) && !self.good.contains(&step) {
            self.young.push(step);
        }
    }

    /// The start of the run was saved: a fallback while there is no good checkpoint.
    pub fn started(&mut self, step: u64) {
        (self.begin, self.young) = (Some(step), vec![step]);
    }

    /// The checkpoint could not be saved after all.
    pub fn lost(&mut self, step: u64) {
        self.young.retain(|young| *young != step);
    }

    /// An update was made.
    pub fn updated(&mut self, step: u64, calm: bool) {
        if !calm {
            // The start is kept: if the run diverged from there, a smaller learning rate is the remedy.
            self.young.retain(|young| self.begin == Some(*young));
            return;
        }
        let old = |young: &u64| young + MARGIN <= step;
        self.fresh |= self.young.iter().any(old);
        self.good.extend(self.young.iter().copied().filter(old));
        self.young.retain(|young| !old(young));
        self.good.drain(..self.good.len().saturating_sub(KEEP));
    }

    /// Steps of the checkpoints that must not be deleted.
    pub fn pinned(&self) -> impl Iterator<Item = u64> + '_ {
        self.good.iter().chain(&self.young).copied()
    }

    /// Plan a rescue from `trouble`; `usable` returns whether the checkpoint of a step is still valid.
    ///
    /// # Errors
    /// No rescue is possible: cause, previous attempts and remedy, in one line.
    pub fn decide(
        &mut self,
        trouble: &PersistentSpike,
        s: &RescueSettings,
        usable: &mut dyn FnMut(u64) -> bool,
    ) -> Result<RescuePlan, String> {
        let recent = self.past.iter().filter(|p| p.at + SPAN > trouble.at).count() as u64;
        if recent >= s.rescue_limit {
            return Err(self.account(trouble, &format!("{recent} rescues within {SPAN} steps did not help (--rescue-limit)")));
        }
        // The start needs no margin.
        let start = self.young.iter().filter(|young| self.begin == Some(**young));
        let mut before: Vec<u64> = start.chain(&self.good).copied().filter(|g| *g < trouble.onset && usable(*g)).collect();
        before.sort_unstable();
        let last = self.past.last();
        let again = last.is_some_and(|p| trouble.onset <= p.at + AGAIN || !self.fresh);
        // As far back as is kept, before the newest good one or before the last target.
        let below = match last {
            Some(p) if again => before.last().map_or(0, |newest| if *newest > p.to { *newest } else { p.to }),
            _ => u64::MAX,
        };
        let Some(&to) = before.iter().rev().find(|g| **g < below).or(before.first()) else {
            return Err(self.account(trouble, "there is no good checkpoint from before it; save more often (--save-every)"));
        };
        let mut notes = Vec::new();
        let from_steps = match s.rescue {
            RescueMethod::Pma => self.merged(&before, to, &mut notes),
            _ => vec![to],
        };
        let mut plan = RescuePlan {
            reset: s.rescue_optimizer == RescueOptimizer::Reset,
            skip: 0,
            learning_rate_scale: self.learning_rate_scale,
            note: String::new(),
            from_steps,
        };
        let asked = match s.rescue_data {
            RescueData::Auto => s.rescue == RescueMethod::Rollback,
            other => other == RescueData::Skip,
        };
        let same = plan.from_steps.len() == 1 && !plan.reset;
        if again {
            plan.learning_rate_scale *= 0.5;
            notes.push("trouble again, so the learning rate is halved".to_string());
        }
        if asked || again || same {
            plan.skip = trouble.at.saturating_sub(to);
        }
        if same && !asked && !again {
            notes.push("the same batches would lead to the same spike, so they are skipped".to_string());
        }
        plan.note = notes.join("; ");
        self.good = before;
        self.good.retain(|g| *g <= to);
        self.young.clear();
        (self.fresh, self.learning_rate_scale) = (false, plan.learning_rate_scale);
        self.past.push(PastRescue { onset: trouble.onset, at: trouble.at, to });
        Ok(plan)
    }

    /// The steps to merge: the newest good ones up to `to`.
    fn merged(&self, before: &[u64], to: u64, notes: &mut Vec<String>) -> Vec<u64> {
        let learned: Vec<u64> = before.iter().copied().filter(|g| *g <= to && self.begin != Some(*g)).collect();
        let steps = if learned.is_empty() { vec![to] } else { learned[learned.len().saturating_sub(KEEP)..].to_vec() };
        match steps.len() {
            KEEP => {}
            1 => notes.push("there is only one good checkpoint up to there, so nothing to merge".to_string()),
            n => notes.push(format!("there are only {n} good checkpoints up to there to merge")),
        }
        steps
    }

    fn account(&self, trouble: &PersistentSpike, why: &str) -> String {
        let tried: Vec<String> = self.past.iter().map(|p| format!("at {} back to {}", p.at, p.to)).collect();
        let tried = if tried.is_empty() { String::new() } else { format!("; tried: {}", tried.join(", ")) };
        let scale = match self.learning_rate_scale {
            1.0 => String::new(),
            scale => format!(" (it was at {scale} of it by now)"),
        };
        format!("training diverged: {}; {why}{tried}; lower --learning-rate{scale} or lengthen --warmup-steps", trouble.cause)
    }
}

#[cfg(test)]
mod tests;
