//! Scales of the experiments: model, fine-tuning, RL task, and duration.

use crate::config::{
    Architecture, GrpoSettings, ModelSettings, PuzzleForm, RolloutSettings, Scheduler, TaskKind, TaskSettings, TrainSettings,
};

/// Default alpha of Advantage Reweighting (the paper, caption of Fig. 4).
pub const ALPHA: f64 = 0.3;
/// Default threshold of Lopti.
pub const ETA: f64 = 0.5;
/// alpha with REINFORCE++ and on sums (Table 7, Sec. 5).
pub const SMALL_ALPHA: f64 = 0.1;
/// Final results are the mean of this number of last evaluations (as in the paper).
pub const LAST_EVALS: usize = 3;
/// The paper's share of tokens by quartile of probability (Fig. 1 a).
pub const PAPER_SHARES: [f64; 4] = [0.1922, 0.1015, 0.1009, 0.6054];

/// Standard deviation of weights before fine-tuning.
const INITIALIZER_RANGE: f64 = 0.08;

/// One scale.
#[derive(Clone, Debug, PartialEq)]
pub struct LoptiScale {
    /// Its name for `--scale`.
    pub name: &'static str,
    /// Hidden size, intermediate size, layers, heads.
    pub shape: [usize; 4],
    /// Numbers of people in training and evaluation, and in fine-tuning.
    pub people: [&'static str; 2],
    /// Maximum tokens of a prompt, and of a completion.
    pub lengths: [usize; 2],
    /// Fine-tuning: updates, rows in each, learning rate. It stops early to leave room for improvement.
    pub sft: (u64, usize, f64),
    /// Steps of reinforcement learning.
    pub steps: u64,
    /// Completions per step.
    pub batch_size: usize,
    /// Completions per prompt.
    pub num_generations: usize,
    /// Updates per pass over a step's completions (the paper: 2).
    pub mini_batches: usize,
    /// Learning rate of reinforcement learning, tuned for plain GRPO alone.
    pub learning_rate: f64,
    /// Temperature of rollouts.
    pub temperature: f64,
    /// Evaluations as fractions of the steps, and questions per evaluation.
    pub evals: (&'static [f64], usize),
    /// Single updates: batches of completions per seed, completions per batch.
    pub probe: (u64, usize),
    /// Tokens with individually computed gradients (L1), per seed.
    pub single_tokens: usize,
}

/// Valid names for `--scale`; `test` is for tests.
pub const SCALES: [&str; 3] = ["tiny", "small", "gpu"];

/// The smallest scale with a result.
const TINY: LoptiScale = LoptiScale {
    name: "tiny",
    shape: [64, 176, 3, 4],
    people: ["2,3", "2,3"],
    lengths: [48, 96],
    sft: (2500, 8, 2e-3),
    steps: 24,
    batch_size: 128,
    num_generations: 8,
    mini_batches: 2,
    learning_rate: 3e-4,
    temperature: 1.0,
    evals: (&[0.75, 0.875, 1.0], 150),
    probe: (10, 32),
    single_tokens: 300,
};

impl LoptiScale {
    /// A scale by name.
    ///
    /// # Errors
    /// No such scale; the message lists them.
    pub fn from_name(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "tiny" => TINY,
            "small" => Self {
                name: "small",
                shape: [128, 352, 4, 4],
                people: ["2-4", "2-4"],
                lengths: [72, 128],
                sft: (6000, 16, 1e-3),
                steps: 200,
                evals: (&[0.25, 0.5, 0.75, 0.9, 0.95, 1.0], 600),
                probe: (40, 128),
                single_tokens: 2000,
                ..TINY
            },
            "gpu" => Self {
                name: "gpu",
                shape: [320, 864, 8, 8],
                people: ["3-6", "2-4"],
                lengths: [96, 256],
                sft: (12_000, 32, 6e-4),
                steps: 400,
                batch_size: 512,
                learning_rate: 1e-4,
                evals: (&[0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0], 2000),
                probe: (100, 512),
                single_tokens: 2000,
                ..TINY
            },
            "test" => Self {
                name: "test",
                shape: [16, 32, 1, 2],
                people: ["2", "2"],
                lengths: [32, 24],
                sft: (8, 8, 2e-3),
                steps: 3,
                batch_size: 8,
                num_generations: 4,
                evals: (&[0.4, 0.7, 1.0], 8),
                probe: (2, 8),
                single_tokens: 12,
                ..TINY
            },
            _ => anyhow::bail!("--scale {}: no such scale; choose one of {}", crate::vfs::clean(name), SCALES.join(", ")),
        })
    }

    /// Tokens per row.
    pub fn seq_len(&self) -> usize {
        self.lengths[0] + self.lengths[1]
    }

    /// The model's settings.
    pub fn model(&self) -> ModelSettings {
        let [hidden_size, intermediate_size, num_hidden_layers, num_attention_heads] = self.shape;
        ModelSettings {
            architecture: Architecture::Llama,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            // Small models learn copying, which answers need, only with initial weights larger than the usual 0.02.
            initializer_range: INITIALIZER_RANGE,
            ..ModelSettings::default()
        }
    }

    /// Fine-tuning: a short warm-up, then a constant rate. Sums take a fifth of the updates of puzzles; with all of them nothing would be
    /// left to learn.
    pub fn fine_tuning(&self, task: TaskKind, seed: u64) -> TrainSettings {
        let (max_steps, batch_size, learning_rate) = self.sft;
        let max_steps = if task == TaskKind::Math { max_steps.div_ceil(5) } else { max_steps };
        TrainSettings {
            max_steps,
            batch_size,
            seq_len: self.seq_len(),
            learning_rate,
            min_learning_rate: learning_rate,
            lr_scheduler: Scheduler::Constant,
            warmup_steps: max_steps / 20,
            seed,
            ..TrainSettings::default()
        }
    }

    /// Reinforcement learning: AdamW at a constant rate without warm-up; betas, decay and clipping as in the paper's scripts.
    pub fn reinforcement(&self, seed: u64) -> TrainSettings {
        TrainSettings {
            max_steps: self.steps,
            batch_size: self.batch_size,
            seq_len: self.seq_len(),
            learning_rate: self.learning_rate,
            min_learning_rate: self.learning_rate,
            lr_scheduler: Scheduler::Constant,
            warmup_steps: 0,
            adam_beta2: 0.999,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            seed,
            ..TrainSettings::default()
        }
    }

    /// Rollouts.
    pub fn rollout(&self) -> RolloutSettings {
        RolloutSettings {
            num_generations: self.num_generations,
            temperature: self.temperature,
            max_prompt_length: self.lengths[0],
            max_completion_length: self.lengths[1],
            log_completions: 0,
            ..RolloutSettings::default()
        }
    }

    /// Plain GRPO as in the paper's scripts: clip 0.20 and 0.24, dual clip 10, k3 with 0.001, mean over tokens.
    pub fn grpo(&self) -> GrpoSettings {
        GrpoSettings {
            beta: 1e-3,
            epsilon: 0.2,
            epsilon_high: Some(0.24),
            delta: Some(10.0),
            mini_batch_size: Some(self.batch_size / self.mini_batches),
            ..GrpoSettings::default()
        }
    }

    /// Settings of the RL task.
    pub fn task(&self, task: TaskKind) -> TaskSettings {
        let usual = TaskSettings::default();
        TaskSettings {
            task,
            people: self.people[0].into(),
            form: PuzzleForm::Compact,
            // Sums of two digits: with one digit there are so few that a model memorizes them and fails on held-out ones.
            difficulty: if task == TaskKind::Math { "2".into() } else { usual.difficulty.clone() },
            eval_questions: self.evals.1,
            ..usual
        }
    }

    /// Steps of evaluations, including the last step.
    pub fn evaluation_steps(&self) -> Vec<u64> {
        self.evals.0.iter().map(|part| (part * self.steps as f64).round() as u64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_consistent() {
        for name in SCALES.iter().chain(&["test"]) {
            let s = LoptiScale::from_name(name).unwrap();
            assert!(s.batch_size.is_multiple_of(s.num_generations) && s.batch_size.is_multiple_of(8), "{name}");
            assert!(s.probe.1.is_multiple_of(s.num_generations), "{name}");
            let evals = s.evaluation_steps();
            assert!(evals.len() >= LAST_EVALS && evals.last() == Some(&s.steps) && evals[0] > 0, "{name}: {evals:?}");
            assert!(evals.windows(2).all(|w| w[0] < w[1]), "{name}: {evals:?}");
        }
        assert!(LoptiScale::from_name("huge").unwrap_err().to_string().contains("tiny, small, gpu"));
        assert!((PAPER_SHARES.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
