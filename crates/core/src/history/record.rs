//! Builds a history from a sequence of events.

use super::clock::Clock;
use super::curve::Curve;
use super::pins::{self, Pin};
use crate::event::{Event, Finished, Merged, Norms, Predictions, Rescue, Sample, Started, Step, TaskEval, Tokens};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// State of a run according to its log.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RunState {
    /// No events yet.
    #[default]
    Empty,
    /// Training, or its trainer was killed.
    Running,
    /// Waiting for `Resume`.
    Paused,
    /// Completed or stopped.
    Finished(Box<Finished>),
    /// Ended with an error.
    Failed(String),
}

/// The contents of a run's log, ready to draw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The newest start event.
    pub started: Option<Started>,
    /// Time positions of the measurements.
    pub clock: Clock,
    /// All metrics by name.
    pub curves: BTreeMap<String, Curve>,
    /// Marks on the axis, oldest first.
    pub pins: Vec<Pin>,
    /// Token statistics of reinforcement learning, oldest first.
    pub tokens: Vec<Tokens>,
    /// Token statistics of supervised training, oldest first.
    pub predictions: Vec<Predictions>,
    /// Norms by module of the model, oldest first.
    pub norms: Vec<Norms>,
    /// Generated text, oldest first.
    pub samples: Vec<Sample>,
    /// Evaluations on held-out questions, oldest first.
    pub task_evals: Vec<TaskEval>,
    /// Evaluated merges, oldest first.
    pub merges: Vec<Merged>,
    /// Rescues, oldest first.
    pub rescues: Vec<Rescue>,
    /// Saved checkpoints as (step, folder), oldest first. Some may have been deleted.
    pub checkpoints: Vec<(u64, PathBuf)>,
    /// Its state.
    pub state: RunState,
    /// Number of updates.
    pub step: u64,
    /// Changed live settings: name to value.
    pub hyper: BTreeMap<String, f64>,
    /// Lines of the log that are not events.
    pub bad_lines: usize,
    first_step: Option<u64>,
    /// Unix time minus seconds of training, of the newest start; NaN until the first step.
    wall_from_seconds: Option<f64>,
    seconds: f64,
    num_tokens: u64,
}

impl History {
    /// Add an event.
    pub fn push(&mut self, event: Event) {
        if let Some((step, kind, text)) = pins::pin(&event) {
            let step = step.unwrap_or(self.step);
            let row = self.row_of(step);
            self.pins.push(Pin { step, row, kind, text });
        }
        match event {
            Event::Started(s) => self.start(s),
            Event::Step(s) => self.take_step(&s),
            Event::Eval(e) => {
                self.add(e.step, [("eval_loss", e.eval_loss), ("eval_mean_token_accuracy", e.eval_mean_token_accuracy)]);
            }
            Event::TaskEval(e) => self.take_task_eval(e),
            Event::Merged(m) => {
                self.add(m.step, m.metrics.iter().map(|(name, value)| (name.as_str(), value.0)));
                self.add(m.step, m.anneal_estimate.map(|value| ("anneal_estimate", value)));
                self.merges.push(m);
            }
            Event::Tokens(t) => {
                self.add(
                    t.step,
                    t.grad_norm.iter().filter(|(pass, _)| *pass != "all").map(|(pass, v)| (format!("grad_norm/{pass}"), v.0)),
                );
                self.tokens.push(*t);
            }
            Event::Predictions(p) => self.predictions.push(*p),
            Event::Norms(n) => {
                let named = |kind: &str, values: &[crate::event::Number]| -> Vec<(String, f64)> {
                    n.parts.iter().zip(values).map(|(part, value)| (format!("norms/{kind}/{part}"), value.0)).collect()
                };
                self.add(n.step, named("weights", &n.weights));
                self.add(n.step, named("gradients", &n.gradients));
                self.norms.push(n);
            }
            Event::Sample(s) => self.samples.push(s),
            Event::Checkpoint(c) => {
                self.checkpoints.retain(|(step, _)| *step != c.step);
                self.checkpoints.push((c.step, c.path));
            }
            Event::Rescue(r) => {
                self.step = r.to_step;
                self.rescues.push(r);
            }
            Event::Paused { .. } => self.state = RunState::Paused,
            Event::Resumed { .. } => self.state = RunState::Running,
            Event::HyperChanged { name, after, .. } => {
                self.hyper.insert(name, after);
            }
            Event::Warning { .. } => {}
            Event::Finished(f) => {
                // Its validation loss is that of the last evaluation, which a stopped run made earlier.
                self.step = f.step;
                self.state = RunState::Finished(Box::new(f));
            }
            Event::Failed { text } => self.state = RunState::Failed(text),
        }
    }

    fn start(&mut self, s: Started) {
        self.step = s.step;
        self.first_step.get_or_insert(s.step);
        self.wall_from_seconds = None;
        self.state = RunState::Running;
        self.started = Some(s);
    }

    fn take_step(&mut self, s: &Step) {
        self.step = s.step;
        self.seconds = s.seconds;
        self.num_tokens = s.num_tokens;
        if self.state != RunState::Paused {
            self.state = RunState::Running;
        }
        if self.wall_from_seconds.is_none() {
            self.wall_from_seconds = self.started.as_ref().map(|started| started.time - s.seconds);
        }
        let own = [
            ("loss", s.loss),
            ("grad_norm", s.grad_norm),
            ("learning_rate", s.learning_rate),
            ("entropy", s.entropy),
            ("mean_token_accuracy", s.mean_token_accuracy),
            ("tokens_per_second", s.tokens_per_second),
            ("mfu", s.mfu),
        ];
        self.add(
            s.step,
            own.into_iter().chain((s.device_bytes > 0).then_some(("device_mib", s.device_bytes as f64 / f64::from(1 << 20)))),
        );
        self.add(s.step, s.metrics.iter().map(|(name, value)| (name.as_str(), value.0)));
    }

    fn take_task_eval(&mut self, e: TaskEval) {
        let how = if e.temperature == 0.0 { "greedy" } else { "sampled" };
        let levels = e.levels.iter().map(|(level, score)| (format!("eval_accuracy/{how}/{level}"), score.accuracy));
        let all: Vec<_> = [(format!("eval_accuracy/{how}"), e.all.accuracy)].into_iter().chain(levels).collect();
        self.add(e.step, all);
        self.task_evals.push(e);
    }

    fn add<S: AsRef<str>>(&mut self, step: u64, metrics: impl IntoIterator<Item = (S, f64)>) {
        let row = self.row_of(step);
        for (name, value) in metrics {
            let name = name.as_ref();
            // Avoids allocating a string for each of a million points.
            match self.curves.get_mut(name) {
                Some(curve) => curve.push(&self.clock, row, value),
                None => self.curves.entry(name.to_owned()).or_default().push(&self.clock, row, value),
            }
        }
    }

    /// The clock's row for a step: the newest one if it belongs to that step, otherwise a new one.
    fn row_of(&mut self, step: u64) -> u32 {
        let newest = self.clock.len().checked_sub(1).map(|row| row as u32);
        if let Some(row) = newest.filter(|&row| self.clock.at(super::Axis::Steps, row) == step as f64) {
            return row;
        }
        let wall = self.wall_from_seconds.map_or(self.started.as_ref().map_or(f64::NAN, |s| s.time), |from| from + self.seconds);
        let since = step.saturating_sub(self.first_step.unwrap_or(step));
        self.clock.push(step as f64, self.num_tokens as f64, wall, self.seconds, since as f64)
    }

    /// The newest value of a metric.
    pub fn last(&self, metric: &str) -> Option<f64> {
        self.curves.get(metric)?.last()
    }

    /// `pretrain`, `sft` or `grpo`; empty before the start.
    pub fn stage(&self) -> &str {
        self.started.as_ref().map_or("", |s| &s.stage)
    }

    /// Seconds of training so far.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Training tokens so far.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Planned number of updates.
    pub fn max_steps(&self) -> u64 {
        self.started.as_ref().map_or(0, |s| s.max_steps)
    }

    /// Warnings and the error that ended the run, newest last.
    pub fn warnings(&self) -> impl Iterator<Item = &Pin> {
        self.pins.iter().filter(|pin| pin.kind == super::PinKind::Warning)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, PinKind};
    use super::*;

    fn started(step: u64, time: f64) -> Event {
        Event::Started(Started {
            stage: "pretrain".into(),
            run: "runs/x".into(),
            step,
            max_steps: 9,
            parameters: 1,
            tokens_per_step: 2,
            train_tokens: 3,
            val_tokens: 4,
            adapter: String::new(),
            driver: String::new(),
            startup_seconds: 0.5,
            version: String::new(),
            parent: None,
            time,
        })
    }

    fn step(step: u64, seconds: f64, loss: f64) -> Event {
        Event::Step(Step { step, seconds, loss, num_tokens: 10 * step, ..Step::default() })
    }

    #[test]
    fn each_axis_has_its_own_unit() {
        let mut h = History::default();
        [started(4, 1000.0), step(5, 1.0, 2.0), step(6, 3.0, f64::NAN)].into_iter().for_each(|e| h.push(e));
        let row = *h.curves["loss"].rows().last().unwrap();
        let at = |axis| h.clock.at(axis, row);
        assert_eq!([at(Axis::Steps), at(Axis::Tokens), at(Axis::Relative), at(Axis::RelativeSteps)], [6.0, 60.0, 3.0, 2.0]);
        // The first step ended at 1000, the latest time known for it; the second is two seconds later.
        assert_eq!(at(Axis::Wall), 1002.0);
        assert!(h.last("loss").unwrap().is_nan());
    }

    #[test]
    fn commands_and_ends_change_the_state_and_add_pins() {
        let mut h = History::default();
        h.push(started(0, 0.0));
        h.push(step(1, 1.0, 2.0));
        h.push(Event::HyperChanged { step: 1, name: "lopti_eta".into(), before: 0.0, after: 0.5 });
        h.push(Event::Paused { step: 1 });
        assert_eq!(h.state, RunState::Paused);
        h.push(Event::Resumed { step: 1 });
        h.push(Event::Failed { text: "device lost".into() });
        assert_eq!(h.state, RunState::Failed("device lost".into()));
        assert_eq!(h.hyper["lopti_eta"], 0.5);
        let kinds: Vec<PinKind> = h.pins.iter().map(|p| p.kind).collect();
        assert_eq!(kinds, [PinKind::Start, PinKind::LiveSettings, PinKind::Pause, PinKind::End]);
    }
}
