//! An arm: the training of one model, by fine-tuning, or by reinforcement learning from a fine-tuned model. An arm is identified by a key
//! over its settings and is trained only once.

use crate::config::{GrpoSettings, ModelSettings, RolloutSettings, TaskSettings, TrainSettings};
use crate::papers::jobs::TrainingJob;
use crate::papers::store::digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Changed when the same settings would produce different numbers.
const FORMAT: &str = "lehr reproduce lopti 2";

/// A training arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoptiArm {
    /// For display and folder names; not part of the key.
    #[serde(skip)]
    pub name: String,
    /// Shape.
    pub model: ModelSettings,
    /// Recipe.
    pub train: TrainSettings,
    /// RL task.
    pub task: TaskSettings,
    /// Kind of training.
    pub work: ArmStage,
}

/// Fine-tuning or reinforcement learning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ArmStage {
    /// From random weights, on worked solutions.
    FineTune,
    /// From the end of another arm.
    Reinforce {
        /// That arm.
        from: Box<LoptiArm>,
        /// Sampling of completions.
        rollout: RolloutSettings,
        /// The update.
        grpo: Box<GrpoSettings>,
        /// Steps of its evaluations.
        #[serde(rename = "exams")]
        evals: Vec<u64>,
    },
}

/// (questions, correct answers) by level.
pub type LevelCounts = BTreeMap<u32, (u64, u64)>;

/// An evaluation on held-out questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmEval {
    /// Number of steps.
    pub step: u64,
    /// Answers sampled at the temperature of the rollouts.
    pub sampled: LevelCounts,
    /// Greedy answers.
    pub greedy: LevelCounts,
}

/// The measurements of an arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoptiRecord {
    /// Mean cross-entropy of each update (fine-tuning).
    pub loss: Vec<f64>,
    /// Mean reward of each step's completions.
    pub reward: Vec<f64>,
    /// Share of each step's completions that are entirely correct.
    pub correct: Vec<f64>,
    /// Mean entropy of each step.
    pub entropy: Vec<f64>,
    /// Mean gradient norm of each step's updates; 0 where one was not finite.
    pub grad_norm: Vec<f64>,
    /// Total number of updates.
    pub updates: u64,
    /// Share of tokens by quartile of probability, at the first and at the last step.
    pub shares: [Vec<f64>; 2],
    /// Before the first step, and at the requested steps.
    #[serde(rename = "exams")]
    pub evals: Vec<ArmEval>,
    /// Total seconds.
    pub seconds: f64,
}

impl ArmEval {
    /// Share of correct answers, over all levels or of one; NaN if there are none.
    pub fn accuracy(levels: &LevelCounts, level: Option<u32>) -> f64 {
        let asked = levels.iter().filter(|(l, _)| level.is_none_or(|want| want == **l)).map(|(_, counts)| counts);
        let (all, right) = asked.fold((0, 0), |sum, (all, right)| (sum.0 + all, sum.1 + right));
        right as f64 / all as f64
    }

    /// Mean of greedy and sampled accuracy.
    fn mean_accuracy(&self, level: Option<u32>) -> f64 {
        0.5 * (Self::accuracy(&self.sampled, level) + Self::accuracy(&self.greedy, level))
    }
}

impl LoptiRecord {
    /// Mean over the last evaluations (as the paper reports results) of greedy and sampled accuracy.
    pub fn accuracy(&self, level: Option<u32>) -> f64 {
        let last = &self.evals[self.evals.len().saturating_sub(super::scale::LAST_EVALS)..];
        last.iter().map(|e| e.mean_accuracy(level)).sum::<f64>() / last.len() as f64
    }

    /// The same before the first step; NaN without an evaluation.
    pub fn accuracy_before(&self) -> f64 {
        self.evals.first().map_or(f64::NAN, |e| e.mean_accuracy(None))
    }

    /// Mean of a curve over a part of the run; `from` and `to` are between 0 and 1.
    pub fn mean_of(curve: &[f64], from: f64, to: f64) -> f64 {
        let at = |part: f64| ((part * curve.len() as f64).round() as usize).min(curve.len());
        crate::papers::stats::mean(&curve[at(from)..at(to)])
    }

    /// Mean reward over the last quarter of the steps.
    pub fn late_reward(&self) -> f64 {
        Self::mean_of(&self.reward, 0.75, 1.0)
    }
}

impl LoptiArm {
    /// Sixteen hexadecimal digits: a hash of everything that determines its numbers.
    pub fn key(&self) -> String {
        digest(&[FORMAT, env!("CARGO_PKG_VERSION"), &serde_json::to_string(self).unwrap_or_default()])
    }

    /// Settings of GRPO, if it uses them.
    pub fn grpo(&self) -> Option<&GrpoSettings> {
        match &self.work {
            ArmStage::FineTune => None,
            ArmStage::Reinforce { grpo, .. } => Some(grpo),
        }
    }

    /// Passes over a step's completions.
    pub fn passes(&self) -> usize {
        self.grpo().map_or(1, |g| {
            let lopti = g.lopti_eta().is_some() || g.lopti_quantile.is_some();
            g.num_iterations * if lopti { 2 } else { 1 }
        })
    }
}

impl TrainingJob for LoptiArm {
    fn name(&self) -> &str {
        &self.name
    }

    fn parent(&self) -> Option<&Self> {
        match &self.work {
            ArmStage::FineTune => None,
            ArmStage::Reinforce { from, .. } => Some(from),
        }
    }

    /// Cost in forward passes of a row; a gradient counts three, a rollout, which is slow, four.
    fn cost(&self) -> f64 {
        let rows = (self.train.max_steps * self.train.batch_size as u64) as f64;
        match &self.work {
            ArmStage::FineTune => 3.0 * rows,
            ArmStage::Reinforce { evals, .. } => {
                let eval = 2.0 * 4.0 * ((1 + evals.len()) * self.task.eval_questions) as f64;
                rows * (4.0 + 2.0 + 3.0 * self.passes() as f64) + eval
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(step: u64, sampled: u64, greedy: u64) -> ArmEval {
        let levels = |right: u64| LevelCounts::from([(2, (10, right)), (3, (30, 0))]);
        ArmEval { step, sampled: levels(sampled), greedy: levels(greedy) }
    }

    #[test]
    fn accuracy_is_the_mean_of_the_last_evaluations() {
        let record =
            LoptiRecord { evals: vec![eval(0, 9, 9), eval(1, 1, 3), eval(2, 2, 4), eval(3, 6, 8)], ..LoptiRecord::default() };
        // Of level 2: 0.2, 0.3 and 0.7; of all 40 questions a quarter of that.
        assert!((record.accuracy(Some(2)) - 0.4).abs() < 1e-12 && (record.accuracy(None) - 0.1).abs() < 1e-12);
        assert_eq!(record.accuracy(Some(3)), 0.0);
        assert!(record.accuracy(Some(7)).is_nan());
    }

    #[test]
    fn curve_sections_are_averaged() {
        let record = LoptiRecord { reward: (0..8).map(f64::from).collect(), ..LoptiRecord::default() };
        assert_eq!(record.late_reward(), 6.5);
        assert_eq!(LoptiRecord::mean_of(&record.reward, 0.0, 0.5), 1.5);
        assert!(LoptiRecord::mean_of(&[], 0.0, 1.0).is_nan());
    }
}
