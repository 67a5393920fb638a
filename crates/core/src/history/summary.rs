//! The result of a run in a few figures, for lists and headings; never based on a single batch.

use super::{Curve, History};
use crate::event::TaskEval;
use std::ops::Range;

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryFigure {
    /// Its name, such as `validation loss`.
    pub name: &'static str,
    /// Its value: nats, a reward, or a share if `percent`.
    pub value: f64,
    /// Whether the value is a share.
    pub percent: bool,
    /// 95 % confidence interval, if known.
    pub interval: Option<[f64; 2]>,
    /// Its basis.
    pub of: FigureBasis,
}

/// Basis of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FigureBasis {
    /// Held-out data at this step.
    Step(u64),
    /// The mean over this number of newest steps.
    Steps(usize),
}

/// Minimum number of values in a tenth of a curve, if the curve has enough.
const LEAST: usize = 8;

impl History {
    /// Steps that rescues discarded: those between a rescue and the step that the run went back to.
    pub fn discarded_steps(&self) -> u64 {
        self.rescues.iter().map(|rescue| rescue.step.saturating_sub(rescue.to_step)).sum()
    }

    /// The last tenth of a metric's values, of the newest segment.
    pub fn last_tenth(&self, metric: &str) -> Option<&[f64]> {
        let curve = self.curves.get(metric)?;
        Some(&curve.values()[last_range(curve)?])
    }

    /// The first tenth of a metric's values; none if it would overlap the last.
    pub fn first_tenth(&self, metric: &str) -> Option<&[f64]> {
        let curve = self.curves.get(metric)?;
        Some(&curve.values()[first_range(curve)?])
    }

    /// Mean of a metric over the last tenth of its values, and their number. Called in every frame: the curve's tree has the sums.
    pub fn newest_mean(&self, metric: &str) -> Option<(f64, usize)> {
        let curve = self.curves.get(metric)?;
        mean_of(curve, last_range(curve)?)
    }

    /// The same over the first tenth.
    pub fn oldest_mean(&self, metric: &str) -> Option<(f64, usize)> {
        let curve = self.curves.get(metric)?;
        mean_of(curve, first_range(curve)?)
    }

    /// The evaluation on questions that stands for the run: the newest greedy one, else the newest sampled one.
    pub fn held_out(&self) -> Option<&TaskEval> {
        let graded = || self.task_evals.iter().rev().filter(|eval| eval.all.count > 0 && eval.all.accuracy.is_finite());
        graded().find(|eval| eval.temperature == 0.0).or_else(|| graded().next())
    }

    /// The main figures of a run: held-out results first, then training metrics.
    pub fn figures(&self) -> Vec<SummaryFigure> {
        let reinforced = self.stage() == "grpo";
        let mean = |metric: &str, name: &'static str, percent: bool| {
            let (value, count) = self.newest_mean(metric).filter(|(_, count)| *count > 1)?;
            Some(SummaryFigure { name, value, percent, interval: None, of: FigureBasis::Steps(count) })
        };
        let eval = self.held_out().map(|eval| SummaryFigure {
            name: if eval.temperature == 0.0 { "held-out accuracy, greedy" } else { "held-out accuracy, sampled" },
            value: eval.all.accuracy,
            percent: true,
            interval: Some(eval.all.interval),
            of: FigureBasis::Step(eval.step),
        });
        let validation = || {
            let curve = self.curves.get("eval_loss")?;
            let last = curve.len().checked_sub(1).filter(|last| curve.values()[*last].is_finite())?;
            let step = self.clock.at(super::Axis::Steps, curve.rows()[last]) as u64;
            let value = curve.values()[last];
            Some(SummaryFigure { name: "validation loss", value, percent: false, interval: None, of: FigureBasis::Step(step) })
        };
        // In GRPO `loss` is the policy loss, which does not show progress.
        let trained = if reinforced { mean("reward", "reward", false) } else { mean("loss", "training loss", false) };
        eval.into_iter().chain(validation()).chain(trained).collect()
    }
}

/// Range of the last tenth of a curve's values, within its newest segment.
fn last_range(curve: &Curve) -> Option<Range<usize>> {
    let stretch = curve.segments().next_back()?;
    let count = (curve.len() / 10).max(LEAST).min(stretch.len());
    Some(stretch.end - count..stretch.end)
}

/// Range of the first tenth of a curve's values; none if it would overlap the last.
fn first_range(curve: &Curve) -> Option<Range<usize>> {
    let count = (curve.len() / 10).max(LEAST);
    (count + last_range(curve)?.len() <= curve.len()).then_some(0..count)
}

/// Mean of the finite values in a range, and the length of the range.
fn mean_of(curve: &Curve, range: Range<usize>) -> Option<(f64, usize)> {
    Some((curve.mean(range.clone())?, range.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eval, Event, Finished, Number, Score, Started, Step, TaskEval};

    fn begun(stage: &str) -> History {
        let mut h = History::default();
        h.push(Event::Started(Started {
            stage: stage.into(),
            run: "runs/x".into(),
            step: 0,
            max_steps: 100,
            parameters: 1,
            tokens_per_step: 1,
            train_tokens: 1,
            val_tokens: 1,
            adapter: String::new(),
            driver: String::new(),
            startup_seconds: 0.0,
            version: String::new(),
            parent: None,
            time: 0.0,
        }));
        h
    }

    #[test]
    fn single_batch_losses_are_not_results() {
        let mut h = begun("pretrain");
        for step in 1..=200 {
            let loss = if step == 200 { 9.0 } else { 2.0 };
            h.push(Event::Step(Step { step, loss, ..Step::default() }));
        }
        let (perplexity, eval_mean_token_accuracy) = (f64::NAN, f64::NAN);
        h.push(Event::Eval(Eval {
            step: 0,
            eval_loss: 4.156,
            perplexity,
            eval_mean_token_accuracy,
            eval_tokens: 1,
            eval_seconds: 0.0,
        }));
        // A stopped run repeats the loss of its last evaluation, which was made elsewhere.
        h.push(Event::Finished(Finished { step: 200, reason: "stopped".into(), eval_loss: Some(4.156), ..Finished::default() }));
        let figures = h.figures();
        assert_eq!((figures[0].name, figures[0].value, figures[0].of), ("validation loss", 4.156, FigureBasis::Step(0)));
        assert_eq!((figures[1].name, figures[1].of), ("training loss", FigureBasis::Steps(20)));
        assert!((figures[1].value - (19.0 * 2.0 + 9.0) / 20.0).abs() < 1e-12);
    }

    #[test]
    fn grpo_shows_no_training_loss_and_evaluations_have_intervals() {
        let mut h = begun("grpo");
        for step in 1..=12 {
            let metrics = [("reward".to_owned(), Number(step as f64))].into();
            h.push(Event::Step(Step { step, loss: 0.1, metrics, ..Step::default() }));
        }
        let all = Score { count: 100, accuracy: 0.4, interval: [0.31, 0.5], ..Score::default() };
        let sampled = Score { accuracy: 0.3, ..all.clone() };
        h.push(Event::TaskEval(TaskEval { step: 12, all: sampled, temperature: 1.0, ..TaskEval::default() }));
        assert_eq!(h.figures()[0].name, "held-out accuracy, sampled");
        // The greedy one stands for the run, whatever came last.
        h.push(Event::TaskEval(TaskEval { step: 12, all, ..TaskEval::default() }));
        let figures = h.figures();
        assert_eq!(figures.iter().map(|f| f.name).collect::<Vec<_>>(), ["held-out accuracy, greedy", "reward"]);
        assert_eq!((figures[0].interval, figures[0].of), (Some([0.31, 0.5]), FigureBasis::Step(12)));
        // The mean of 5 to 12.
        assert_eq!((figures[1].value, figures[1].of), (8.5, FigureBasis::Steps(8)));
    }
}
