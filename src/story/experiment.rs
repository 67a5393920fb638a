//! Experiments by hand: the lesson's trainer with more steps, whose settings the reader changes during training. The reader predicts the
//! effect of a change, and the effect is measured: the mean of a metric before and after.

use crate::history::History;
use crate::stats::{mean, t_interval};
use std::path::{Path, PathBuf};

/// Length of the run as a multiple of the lesson's.
const LONGER: u64 = 20;

/// A trainer that the reader controls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// The trainer's command line, without the program and the run folder.
    pub args: Vec<String>,
    /// The parent of its run folders.
    dir: PathBuf,
    /// Number of the first unused run folder.
    first_free: u32,
    /// Steps from a change to its result.
    pub span: u64,
}

impl Experiment {
    /// From a trainer's command line; none if it has no number of steps.
    pub fn new(mut args: Vec<String>, dir: &Path) -> Option<Self> {
        let steps: u64 = flag(&mut args, "--max-steps")?.parse().ok()?;
        *flag(&mut args, "--max-steps")? = (LONGER * steps).to_string();
        // The run is never resumed, so it saves only for rescues.
        if !args.iter().any(|arg| arg == "--rescue") {
            match flag(&mut args, "--save-every") {
                Some(value) => "0".clone_into(value),
                None => args.extend(["--save-every".into(), "0".into()]),
            }
        }
        if let Some(value) = flag(&mut args, "--keep-every") {
            "0".clone_into(value);
        }
        let first_free = (1..).find(|n| !folder(dir, *n).exists())?;
        Some(Self { args, dir: dir.to_owned(), first_free, span: (steps / 6).clamp(12, 200) })
    }

    /// The run folder of the next experiment; `is_taken` covers folders that may not exist yet.
    pub fn run(&self, is_taken: impl Fn(&Path) -> bool) -> PathBuf {
        let free = (self.first_free..).map(|n| folder(&self.dir, n)).find(|run| !is_taken(run));
        free.unwrap_or_else(|| folder(&self.dir, self.first_free))
    }
}

fn folder(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("experiment-{n}"))
}

/// The value of a flag in a command line.
fn flag<'a>(args: &'a mut [String], name: &str) -> Option<&'a mut String> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get_mut(at + 1)
}

/// Change of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Lower than before.
    Lower,
    /// Higher than before.
    Higher,
    /// The 95 % interval of the difference contains zero.
    Same,
}

/// A metric before and after a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Response {
    /// Means over the same number of steps, before the change and at the end of the span after it.
    pub means: [f64; 2],
    /// Steps of each mean.
    pub steps: u64,
    /// The 95 % interval of the difference.
    pub interval: [f64; 2],
    /// Its conclusion.
    pub course: Course,
}

impl Response {
    /// For a change after step `from`, measured `span` steps later; none if the run is not that far, or without measurements.
    pub fn of(history: &History, metric: &str, from: u64, span: u64) -> Option<Self> {
        if history.step < from + span {
            return None;
        }
        let steps = (span / 3).max(5);
        let before = values(history, metric, from.saturating_sub(steps), from);
        let after = values(history, metric, from + span - steps, from + span);
        // Given the weights before it, the value of a step varies by its batch alone, so that steps count as independent.
        let [own, its] = [t_interval(&before)?, t_interval(&after)?];
        let means = [mean(&before), mean(&after)];
        let half = (own[1] - means[0]).hypot(its[1] - means[1]);
        let difference = means[1] - means[0];
        let interval = [difference - half, difference + half];
        let course = match interval {
            [low, _] if low > 0.0 => Course::Higher,
            [_, high] if high < 0.0 => Course::Lower,
            _ => Course::Same,
        };
        Some(Self { means, steps, interval, course })
    }
}

/// Values of a metric after step `after` up to step `to`.
fn values(history: &History, metric: &str, after: u64, to: u64) -> Vec<f64> {
    let Some(curve) = history.curves.get(metric) else { return Vec::new() };
    let step = |row: u32| history.clock.at(crate::history::Axis::Steps, row);
    let points = curve.rows().iter().zip(curve.values()).rev();
    let late = points.skip_while(|(row, _)| step(**row) > to as f64).take_while(|(row, _)| step(**row) > after as f64);
    late.map(|(_, value)| *value).filter(|value| value.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Step};

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_experiment_is_the_lessons_run_but_longer_and_without_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let words = "pretrain --data a.txt --max-steps 300 --save-every 20 --keep-every 20 --seed 7";
        let found = Experiment::new(args(words), dir.path()).unwrap();
        assert_eq!(found.args, args("pretrain --data a.txt --max-steps 6000 --save-every 0 --keep-every 0 --seed 7"));
        assert_eq!(found.span, 50);
        let short = Experiment::new(args("grpo --max-steps 24"), dir.path()).unwrap();
        assert_eq!((short.args, short.span), (args("grpo --max-steps 480 --save-every 0"), 12));
        let rescued = Experiment::new(args("pretrain --max-steps 60 --save-every 20 --rescue pma"), dir.path()).unwrap();
        assert_eq!(rescued.args, args("pretrain --max-steps 1200 --save-every 20 --rescue pma"));
        assert_eq!(Experiment::new(args("data math --count 3"), dir.path()), None);
        // Each has a folder of its own.
        let run = |n: u32| dir.path().join(format!("experiment-{n}"));
        assert_eq!(found.run(|_| false), run(1));
        assert_eq!(found.run(|path| path == run(1)), run(2));
        std::fs::create_dir(run(1)).unwrap();
        assert_eq!(Experiment::new(args(words), dir.path()).unwrap().run(|_| false), run(2));
    }

    #[test]
    fn a_response_is_the_difference_of_means_with_its_interval() {
        // Until step 100 the loss is 2 with noise of 0.1, afterwards it is `level`.
        let run = |level: f64, to: u64| {
            let mut history = History::default();
            for step in 1..=to {
                let noise = if step % 2 == 0 { 0.1 } else { -0.1 };
                let loss = if step <= 100 { 2.0 } else { level } + noise;
                history.push(Event::Step(Step { step, loss, ..Step::default() }));
            }
            history
        };
        assert_eq!(Response::of(&run(1.0, 129), "loss", 100, 30), None, "the run is not there yet");
        let found = Response::of(&run(1.0, 150), "loss", 100, 30).unwrap();
        // Ten values each: a variance of 0.01 n / (n - 1) each.
        let error = (2.0 * 0.01 / 9.0f64).sqrt();
        // Student's t, 97.5 %, 9 degrees of freedom.
        const T: f64 = 2.262;
        assert!((found.means[0] - 2.0).abs() < 1e-12 && (found.means[1] - 1.0).abs() < 1e-12, "{found:?}");
        assert!((found.interval[0] - (-1.0 - T * error)).abs() < 1e-9 && (found.interval[1] - (-1.0 + T * error)).abs() < 1e-9);
        assert_eq!((found.steps, found.course), (10, Course::Lower));
        let course = |level: f64| Response::of(&run(level, 150), "loss", 100, 30).unwrap().course;
        assert_eq!([course(3.0), course(2.01)], [Course::Higher, Course::Same]);
        assert_eq!(Response::of(&run(1.0, 150), "reward", 100, 30), None, "not measured");
    }
}
