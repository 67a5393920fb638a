//! Distribution of events: the run's log, TensorBoard, and a listener.

use crate::event::{Completion, Event};
use crate::run_folder::{EventLog, TensorBoard};
use crate::vfs::{Vfs, unix_time};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A notification to a listener.
pub enum Notification<'a> {
    /// An event, also in the log.
    Event(&'a Event),
    /// (what, done, all): progress for display only.
    Progress(&'a str, u64, u64),
}

/// A listener: the progress line, the JSON lines on standard output, a window.
pub type Listener = Box<dyn FnMut(Notification<'_>)>;

/// Sends events to log, TensorBoard and listener. A log that cannot be written never stops a run: the listener is notified once.
pub struct EventEmitter<'a> {
    vfs: &'a dyn Vfs,
    log: EventLog<'a>,
    /// `samples.jsonl`: path, length, and the log after the first write.
    samples: (PathBuf, u64, Option<EventLog<'a>>),
    tensorboard: Option<TensorBoard<'a>>,
    listener: Listener,
    failure_reported: bool,
}

impl<'a> EventEmitter<'a> {
    /// With all outputs. `samples` is the path of `samples.jsonl` and the length from which a resumed run continues it.
    pub fn new(
        vfs: &'a dyn Vfs,
        log: EventLog<'a>,
        samples: (PathBuf, u64),
        tensorboard: Option<TensorBoard<'a>>,
        listener: Listener,
    ) -> Self {
        Self { vfs, log, samples: (samples.0, samples.1, None), tensorboard, listener, failure_reported: false }
    }

    /// Store completions.
    pub fn keep_samples(&mut self, completions: &[Completion]) {
        let (vfs, (path, offset, log)) = (self.vfs, &mut self.samples);
        let mut write = || -> anyhow::Result<()> {
            let log = match log {
                Some(log) => log,
                None => log.insert(EventLog::resume(vfs, path, *offset)?),
            };
            completions.iter().try_for_each(|completion| log.append(completion))
        };
        let written = write();
        self.report_failure(written);
    }

    /// Length of `samples.jsonl`, in bytes.
    pub fn samples_offset(&self) -> u64 {
        self.samples.2.as_ref().map_or(self.samples.1, EventLog::offset)
    }

    /// Send an event to all outputs.
    pub fn emit(&mut self, event: &Event) {
        let written = self.log.append(event);
        let drawn = match &mut self.tensorboard {
            Some(board) => board.event(unix_time(), event),
            None => Ok(()),
        };
        (self.listener)(Notification::Event(event));
        self.report_failure(written.and(drawn));
    }

    fn report_failure(&mut self, written: anyhow::Result<()>) {
        if let (Err(error), false) = (written, self.failure_reported) {
            self.failure_reported = true;
            let text = format!("{error:#}; it is not written any further");
            (self.listener)(Notification::Event(&Event::Warning { text }));
        }
    }

    /// Report progress to the listener; a [`Progress`](crate::progress::Progress) that never cancels the work.
    ///
    /// # Errors
    /// None.
    pub fn progress(&mut self, what: &str, done: u64, all: u64) -> anyhow::Result<bool> {
        (self.listener)(Notification::Progress(what, done, all));
        Ok(true)
    }

    /// Length of the log, in bytes.
    pub fn offset(&self) -> u64 {
        self.log.offset()
    }

    /// Make the log durable; disk errors were reported before.
    pub fn sync(&mut self) {
        let _ = self.log.sync();
    }
}

/// Statistics of the gradient norm over a run.
#[derive(Clone, Debug, Default)]
pub struct GradNorms {
    values: Vec<f32>,
    spikes: u64,
}

impl GradNorms {
    /// Values in the window of the running median.
    const WINDOW: usize = 256;

    /// Add the norm of an update; a norm over twice the median of the last 256 finite ones is a spike.
    pub fn push(&mut self, norm: f64) {
        if !norm.is_finite() {
            return;
        }
        let recent = &self.values[self.values.len().saturating_sub(Self::WINDOW)..];
        if recent.len() >= 32 && norm > 2.0 * f64::from(quantile(recent, 0.5)) {
            self.spikes += 1;
        }
        self.values.push(norm as f32);
    }

    /// mean, std, p99, spikes.
    pub fn summary(&self) -> BTreeMap<String, f64> {
        if self.values.is_empty() {
            return BTreeMap::new();
        }
        let n = self.values.len() as f64;
        let mean = self.values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = self.values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        BTreeMap::from([
            ("mean".into(), mean),
            ("std".into(), variance.sqrt()),
            ("p99".into(), f64::from(quantile(&self.values, 0.99))),
            ("spikes".into(), self.spikes as f64),
        ])
    }
}

fn quantile(values: &[f32], q: f64) -> f32 {
    let mut sorted = values.to_vec();
    let at = ((sorted.len() - 1) as f64 * q).round() as usize;
    *sorted.select_nth_unstable_by(at, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_counted_against_the_median() {
        let mut g = GradNorms::default();
        (0..100).for_each(|i| g.push(1.0 + 0.001 * f64::from(i % 7)));
        g.push(f64::NAN);
        g.push(5.0);
        g.push(1.0);
        assert_eq!(g.summary()["spikes"], 1.0);
        assert!(g.summary()["mean"] < 1.1);
    }
}
