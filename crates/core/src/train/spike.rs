//! Spike detection on loss and gradient norm, which distinguishes spikes that pass from those that persist. No device.
//!
//! The usual value is the median of the last [`WINDOW`] finite values, its spread s = 1.4826 MAD (the standard deviation, for normal
//! noise). There is no detection before [`LEAST`] values. A loss spike begins
//! - when one loss is above median + max(0.3, 6 s): robust z above 6, and by 0.3 nats more than usual;
//! - or when the median of the last 16 losses is above median + max(0.3, 6 s') with s' = 1.2533 s / 4, the standard error of a median of
//!   16: noisy losses of small batches hide a rise from a test of single values, not from this one;
//! - or when that median is max(0.5, 3 s) above the lowest median of a whole window so far: a slow rise shifts the window with it.
//!
//! Losses of an active spike do not enter the window. It has passed after 8 consecutive updates below half of these thresholds, or
//! `patience` consecutive updates below the thresholds (a run that settles a little higher). It is *irrecoverable* when it still alarms
//! after `patience` updates, after 5 consecutive updates that were not finite (their step was skipped), or when more than 1 % of the last
//! 1,000 were not. The gradient norm is watched on a logarithmic scale, where its noise is nearly normal: above 6 s and twice the median it
//! is reported, but since clipping may have handled it, it never makes a spike irrecoverable by itself. Values that are not finite never
//! enter a window (llm.c's detector includes them, and detects nothing from then on).

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Number of values in the window of the medians.
pub const WINDOW: usize = 256;
/// Number of values before detection starts.
pub const LEAST: usize = 32;
/// Updates after a checkpoint without any alarm that make it good.
pub const MARGIN: u64 = 25;
/// Number of losses whose median is compared with the usual value.
const LEVEL: usize = 16;
/// Consecutive updates without alarm after which a spike has passed.
const CALM: u64 = 8;
/// Limit of consecutive skipped updates.
const IN_A_ROW: u64 = 5;
/// (window of updates, limit of skipped updates in it).
const SHARE: (u64, usize) = (1000, 11);

/// The newest finite values, oldest first. Written as one string, which keeps every bit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct LossWindow(VecDeque<f32>);

impl From<LossWindow> for String {
    fn from(window: LossWindow) -> String {
        window.0.iter().map(f32::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl TryFrom<String> for LossWindow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |word: &str| match word.parse::<f32>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err("a window of the spike detector contains a number that is not finite".to_string()),
        };
        text.split_whitespace().map(number).collect::<Result<_, _>>().map(LossWindow)
    }
}

impl LossWindow {
    fn push(&mut self, value: f64, most: usize) {
        let value = value as f32;
        if value.is_finite() {
            self.0.push_back(value);
            self.0.drain(..self.0.len().saturating_sub(most));
        }
    }

    fn median(&self) -> Option<f64> {
        median(self.0.iter().map(|x| f64::from(*x)).collect())
    }

    /// Median and robust standard deviation of `map` of the values; `None` before there are [`LEAST`].
    fn median_and_deviation(&self, map: fn(f64) -> f64) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.0.iter().map(|x| map(f64::from(*x))).collect();
        let middle = median(values.clone()).filter(|_| values.len() >= LEAST)?;
        let spread = median(values.iter().map(|x| (x - middle).abs()).collect())?;
        Some((middle, 1.4826 * spread))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    let at = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(at, f64::total_cmp).1)
}

/// An active spike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Episode {
    onset: u64,
    /// Updates since the alarm, including it.
    lasted: u64,
    /// Consecutive updates below half of the thresholds.
    calm: u64,
    /// Consecutive updates without alarm.
    settled: u64,
    usual: f32,
    peak: f32,
}

/// The detector's result after an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// A loss spike has begun.
    Spike {
        /// The earliest possible first update of it.
        onset: u64,
        /// The loss, or the median of the last 16.
        loss: f64,
        /// The usual value.
        usual: f64,
    },
    /// Only the gradient norm is far above the usual value.
    Norm {
        /// The gradient norm.
        grad_norm: f64,
        /// The usual value.
        usual: f64,
    },
    /// The loss is back to normal.
    Passed {
        /// First update of the spike.
        onset: u64,
        /// Updates from the alarm until it had passed.
        lasted: u64,
        /// The largest finite loss in it.
        peak: f64,
    },
    /// The spike persists.
    PersistentSpike(PersistentSpike),
}

/// A spike that does not pass.
#[derive(Clone, Debug, PartialEq)]
pub struct PersistentSpike {
    /// The update at which that was decided.
    pub at: u64,
    /// The first update that may have been part of it.
    pub onset: u64,
    /// Description of the cause.
    pub cause: String,
    /// Usual loss before; NaN if there were too few values.
    pub loss_before: f64,
    /// The largest finite loss in it; NaN if there was none.
    pub loss_at_spike: f64,
}

/// The spike detector of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detector {
    /// Loss spikes so far.
    pub spikes: u64,
    updates: u64,
    losses: LossWindow,
    level: LossWindow,
    norms: LossWindow,
    /// The lowest median of a window.
    best: Option<f32>,
    /// (number of updates seen, step) of the skipped ones among the last 1,000.
    skipped: VecDeque<(u64, u64)>,
    in_a_row: u64,
    episode: Option<Episode>,
    norm_alarm: Option<u64>,
    calm: bool,
}

impl Detector {
    /// Process one update's loss and gradient norm. `patience`: updates to wait for a spike to pass.
    pub fn observe(&mut self, step: u64, loss: f64, grad_norm: f64, patience: u64) -> Option<Sign> {
        self.updates += 1;
        // As f32, the precision of the device.
        if !((loss as f32).is_finite() && (grad_norm as f32).is_finite()) {
            self.calm = false;
            return self.not_finite(step).map(Sign::PersistentSpike);
        }
        self.in_a_row = 0;
        self.level.push(loss, LEVEL);
        let norm = self.norm(grad_norm);
        let (alarm, suspect) = self.alarm(loss);
        self.calm = alarm.is_none() && !suspect && norm.is_none();
        if self.episode.is_some() {
            return self.continue_episode(step, loss, (alarm.is_some(), suspect), patience);
        }
        let Some((seen, usual, back)) = alarm else {
            self.losses.push(loss, WINDOW);
            return norm.filter(|(_, _, new)| *new).map(|(grad_norm, usual, _)| Sign::Norm { grad_norm, usual });
        };
        let onset = step.saturating_sub(back).max(1);
        self.spikes += 1;
        self.episode = Some(Episode { onset, lasted: 1, calm: 0, settled: 0, usual: usual as f32, peak: loss as f32 });
        Some(Sign::Spike { onset, loss: seen, usual })
    }

    /// Whether the last update raised no suspicion at all: only then can a checkpoint become good.
    pub fn is_calm(&self) -> bool {
        self.calm && self.episode.is_none() && self.in_a_row == 0
    }

    /// The first update of an active spike.
    pub fn pending_step(&self) -> Option<u64> {
        self.episode.map(|episode| episode.onset)
    }

    /// The run went back to where `older` was the state: the window is restored, counts continue.
    pub fn roll_back(&mut self, older: Detector) {
        let skipped = VecDeque::new();
        let (spikes, updates) = (self.spikes, self.updates);
        *self = Detector { spikes, updates, skipped, in_a_row: 0, episode: None, norm_alarm: None, ..older };
    }

    /// ((value, usual value, updates since it may have begun) of a loss alarm, whether the loss is at least suspiciously high)
    fn alarm(&mut self, loss: f64) -> (Option<(f64, f64, u64)>, bool) {
        let Some((middle, s)) = self.losses.median_and_deviation(|x| x) else { return (None, false) };
        let best = self.best.map_or(middle, |b| middle.min(f64::from(b)));
        if self.episode.is_none() {
            self.best = Some(best as f32);
        }
        if loss > middle + f64::max(0.3, 6.0 * s) {
            return (Some((loss, middle, 0)), true);
        }
        let Some(level) = self.level.median().filter(|_| self.level.0.len() == LEVEL) else { return (None, false) };
        let (rise, high) = (level - middle, f64::max(0.3, 6.0 * 1.2533 / 4.0 * s));
        if rise > high {
            return (Some((level, middle, LEVEL as u64)), true);
        }
        let (slow_rise, slow) = (level - best, f64::max(0.5, 3.0 * s));
        // A slow rise is detected only after about half a window.
        let alarm = (slow_rise > slow).then_some((level, best, WINDOW as u64 / 2));
        (alarm, slow_rise > slow / 2.0 || rise > high / 2.0)
    }

    /// (value, usual value, whether it is the first for a while) of an alarm of the norm.
    fn norm(&mut self, grad_norm: f64) -> Option<(f64, f64, bool)> {
        let usual = self.norms.median_and_deviation(f64::ln);
        if grad_norm > 0.0 {
            self.norms.push(grad_norm, WINDOW);
        }
        let (middle, s) = usual?;
        if grad_norm.ln() <= middle + f64::max(std::f64::consts::LN_2, 6.0 * s) {
            return None;
        }
        let before = self.norm_alarm.replace(self.updates);
        Some((grad_norm, middle.exp(), before.is_none_or(|at| self.updates - at > 4 * MARGIN)))
    }

    fn continue_episode(&mut self, step: u64, loss: f64, (alarm, suspect): (bool, bool), patience: u64) -> Option<Sign> {
        let episode = self.episode.as_mut()?;
        episode.lasted += 1;
        episode.peak = episode.peak.max(loss as f32);
        episode.calm = if suspect { 0 } else { episode.calm + 1 };
        episode.settled = if alarm { 0 } else { episode.settled + 1 };
        let Episode { onset, lasted, calm, settled, usual, peak } = *episode;
        let (usual, peak) = (f64::from(usual), f64::from(peak));
        if calm >= CALM {
            self.episode = None;
            return Some(Sign::Passed { onset, lasted: lasted - CALM, peak });
        }
        let over = if alarm { lasted >= patience } else { settled >= patience };
        if !over {
            return None;
        }
        // The window starts again from here.
        let (spikes, updates, norms) = (self.spikes, self.updates, std::mem::take(&mut self.norms));
        *self = Detector { spikes, updates, norms, ..Detector::default() };
        if !alarm {
            return Some(Sign::Passed { onset, lasted: lasted - settled, peak });
        }
        let cause = format!("the loss rose from {usual:.3} to {peak:.3} about step {onset} and did not return in {lasted} steps");
        Some(Sign::PersistentSpike(PersistentSpike { at: step, onset, cause, loss_before: usual, loss_at_spike: peak }))
    }

    fn not_finite(&mut self, step: u64) -> Option<PersistentSpike> {
        self.in_a_row += 1;
        self.skipped.push_back((self.updates, step));
        while self.skipped.front().is_some_and(|(at, _)| at + SHARE.0 <= self.updates) {
            self.skipped.pop_front();
        }
        let (onset, cause) = if self.in_a_row == IN_A_ROW {
            let onset = step.saturating_sub(IN_A_ROW - 1).max(1);
            (onset, format!("{IN_A_ROW} steps in a row, from {onset} on, were not finite"))
        } else if self.skipped.len() >= SHARE.1 && self.in_a_row < IN_A_ROW {
            let onset = self.skipped.front().map_or(step, |(_, first)| *first);
            let found = self.skipped.len();
            self.skipped.clear();
            (onset, format!("{found} of the last {} steps were not finite, the first was {onset}", SHARE.0))
        } else {
            return None;
        };
        // A spike that was active has its original onset.
        let onset = self.episode.as_ref().map_or(onset, |e| e.onset.min(onset));
        let loss_before = self.losses.median().unwrap_or(f64::NAN);
        let loss_at_spike = self.episode.take().map_or(f64::NAN, |e| f64::from(e.peak));
        Some(PersistentSpike { at: step, onset, cause, loss_before, loss_at_spike })
    }
}

#[cfg(test)]
mod tests;
