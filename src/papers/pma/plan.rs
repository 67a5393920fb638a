//! The arms by name: comparisons of each claim.

use super::arm::{ArmStart, PmaArm, TrainingText};
use super::scale::{FORK, GRID, N, PmaScale, READOUTS, Size, V0};
use crate::config::{DecayShape, Scheduler, TrainSettings};
use crate::merge::MergeRule;

/// A merge window: `n` checkpoints `every` snapshots apart, the newest at snapshot `at`.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotWindow {
    /// Newest checkpoint, in snapshots.
    pub at: u64,
    /// Interval V, in snapshots.
    pub every: u64,
    /// Count N.
    pub n: usize,
    /// Merge rule.
    pub rule: MergeRule,
}

impl SnapshotWindow {
    /// The paper's default: N = 10 at V0, uniform weights.
    pub fn standard(at: u64) -> Self {
        Self { at, every: V0, n: N, rule: MergeRule::Sma }
    }

    /// One checkpoint, unmerged.
    pub fn single(at: u64) -> Self {
        Self { at, every: 1, n: 1, rule: MergeRule::Sma }
    }

    /// Number of available checkpoints: early in a run there may be fewer than `n` (the paper, Sec. 4.3, then used 6 instead of 10).
    pub fn available(&self) -> usize {
        self.n.min(((self.at.max(1) - 1) / self.every + 1) as usize)
    }

    /// Snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<u64> {
        (0..self.available() as u64).rev().map(|i| self.at - i * self.every).collect()
    }

    /// Weights, oldest first.
    ///
    /// # Errors
    /// As [`MergeRule::weights`].
    pub fn weights(&self) -> anyhow::Result<Vec<f64>> {
        self.rule.weights(self.available())
    }

    /// (step, weight) of a base run of this size.
    ///
    /// # Errors
    /// As [`MergeRule::weights`].
    pub fn mix(&self, size: &Size) -> anyhow::Result<Vec<(u64, f64)>> {
        Ok(self.snapshots().into_iter().map(|s| size.at(s)).zip(self.weights()?).collect())
    }
}

/// Starting point of a later stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// The newest checkpoint of the stable phase.
    Latest,
    /// Its merge.
    Pma,
    /// The end of the annealed run.
    Annealed,
}

impl Init {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Pma => "PMA",
            Self::Annealed => "annealed",
        }
    }
}

/// Evaluation points of P7 and P8 in continued training, in fortieths of its updates.
pub const CT_READOUTS: [u64; 6] = [0, 2, 4, 10, 20, 40];
/// Number of snapshots of continued training and fine-tuning.
pub const LATER_GRID: u64 = 40;
/// Interval of stored states in P9, in updates.
pub const HOT_EVERY: u64 = 25;
/// Minimum distance between the newest checkpoint of a rescue and the spike, in updates.
pub const MARGIN: u64 = 5;
/// Checkpoints of a rescue's merge (the paper, Sec. 4.5).
pub const RESCUE_COUNT: u64 = 3;

/// Restart of a diverged run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RescuePolicy {
    /// From the merge of three checkpoints, or from the newest alone.
    pub merged: bool,
    /// Skip the batches up to the spike.
    pub skip: bool,
    /// Reset Adam's moments to zero.
    pub reset: bool,
}

/// Learning rates of P11, as multiples of the base's.
pub const RATES: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// Plans arms.
pub struct PmaPlan<'a> {
    /// The scale.
    pub scale: &'a PmaScale,
}

impl PmaPlan<'_> {
    fn arm(&self, name: String, size: &Size, train: TrainSettings) -> PmaArm {
        PmaArm {
            name,
            model: size.model(),
            to_step: train.max_steps,
            train,
            text: TrainingText::Base,
            begin: ArmStart::Random,
            from_step: 0,
            skip: 0,
            snapshot_every: 0,
            states: Vec::new(),
            until_lost: false,
        }
    }

    /// Warm-up, then a constant rate to the end.
    pub fn base(&self, size: &Size, seed: u64) -> PmaArm {
        let arm = self.arm(format!("base/{}/{seed}", size.name), size, self.scale.recipe(size, seed));
        PmaArm { snapshot_every: size.snapshot_interval(), states: vec![size.at(FORK)], ..arm }
    }

    /// Forked from the base at 85 %, with cosine decay to zero.
    pub fn annealed(&self, size: &Size, seed: u64) -> PmaArm {
        let train = TrainSettings { lr_scheduler: Scheduler::Wsd, ..self.scale.recipe(size, seed) };
        let from = size.at(FORK);
        let begin = ArmStart::From { arm: Box::new(self.base(size, seed)), mix: vec![(from, 1.0)], moments: Some(from) };
        let arm = self.arm(format!("annealed/{}/{seed}", size.name), size, train);
        PmaArm { begin, from_step: from, snapshot_every: size.snapshot_interval(), ..arm }
    }

    /// The base at another learning rate (P11), for the smallest size; factor 1 is the base.
    pub fn rate(&self, factor: f64, seed: u64) -> PmaArm {
        let size = self.scale.smallest();
        if factor == 1.0 {
            return self.base(size, seed);
        }
        let recipe = self.scale.recipe(size, seed);
        let train = TrainSettings { learning_rate: factor * recipe.learning_rate, ..recipe };
        let arm = self.arm(format!("rate-{factor}/{}/{seed}", size.name), size, train);
        PmaArm { snapshot_every: size.snapshot_interval(), ..arm }
    }

    fn arm_start(&self, init: Init, seed: u64) -> anyhow::Result<ArmStart> {
        let size = self.scale.middle();
        let arm = match init {
            Init::Annealed => self.annealed(size, seed),
            _ => self.base(size, seed),
        };
        let window = if init == Init::Pma { SnapshotWindow::standard(GRID) } else { SnapshotWindow::single(GRID) };
        Ok(ArmStart::From { arm: Box::new(arm), mix: window.mix(size)?, moments: None })
    }

    /// Continued training on the shifted text: cosine from `factor` times the base's rate to a fortieth of it, with new moments (P7).
    ///
    /// # Errors
    /// None in practice: the weights of a window.
    pub fn continued(&self, init: Init, factor: f64, seed: u64) -> anyhow::Result<PmaArm> {
        let (size, steps) = (self.scale.middle(), self.scale.ct_steps);
        let recipe = self.scale.recipe(size, seed);
        let train = TrainSettings {
            learning_rate: factor * recipe.learning_rate,
            min_learning_rate: recipe.learning_rate / 40.0,
            lr_scheduler: Scheduler::Cosine,
            max_steps: steps,
            warmup_steps: 0,
            ..recipe
        };
        let arm = self.arm(format!("ct-{}-{factor}/{}/{seed}", init.name().to_lowercase(), size.name), size, train);
        Ok(PmaArm { text: TrainingText::Shifted, begin: self.arm_start(init, seed)?, snapshot_every: steps / LATER_GRID, ..arm })
    }

    /// Fine-tuning on the task: cosine from half of the base's rate to a tenth of that, with new moments (P8).
    ///
    /// # Errors
    /// As [`PmaPlan::continued`].
    pub fn tuned(&self, init: Init, seed: u64) -> anyhow::Result<PmaArm> {
        let (size, steps) = (self.scale.middle(), self.scale.sft_steps);
        let recipe = self.scale.recipe(size, seed);
        let train = TrainSettings {
            learning_rate: 0.5 * recipe.learning_rate,
            min_learning_rate: 0.05 * recipe.learning_rate,
            lr_scheduler: Scheduler::Cosine,
            decay_shape: DecayShape::Cosine,
            max_steps: steps,
            warmup_steps: 0,
            ..recipe
        };
        let arm = self.arm(format!("sft-{}/{}/{seed}", init.name().to_lowercase(), size.name), size, train);
        Ok(PmaArm { text: TrainingText::Task, begin: self.arm_start(init, seed)?, snapshot_every: steps, ..arm })
    }

    /// An unstable run: no clipping, no weight decay, a critical learning rate (P9).
    pub fn unstable(&self, seed: u64) -> PmaArm {
        let (size, hot) = (self.scale.smallest(), &self.scale.hot);
        let train = TrainSettings {
            learning_rate: hot.learning_rate,
            adam_beta1: hot.betas[0],
            adam_beta2: hot.betas[1],
            max_grad_norm: 0.0,
            weight_decay: 0.0,
            max_steps: hot.steps,
            warmup_steps: hot.warmup,
            ..self.scale.recipe(size, seed)
        };
        let arm = self.arm(format!("hot/{}/{seed}", size.name), size, train);
        PmaArm { states: (1..=hot.steps / HOT_EVERY).map(|i| i * HOT_EVERY).collect(), until_lost: true, ..arm }
    }

    /// A diverged run restarted from before its spike (P9).
    pub fn rescued(&self, hot: &PmaArm, spike: u64, rescue: RescuePolicy) -> PmaArm {
        let newest = (spike - MARGIN) / HOT_EVERY * HOT_EVERY;
        let count = if rescue.merged { RESCUE_COUNT } else { 1 };
        let mix = (0..count).rev().map(|i| (newest - i * HOT_EVERY, 1.0 / count as f64)).collect();
        // Reset moments have made no step, so Adam's bias correction counts from 0.
        let from = if rescue.reset { 0 } else { newest };
        let next_batch = if rescue.skip { spike } else { newest };
        let horizon = self.scale.hot.horizon;
        let kind = ["latest", "pma"][usize::from(rescue.merged)];
        let data = ["replay", "skip"][usize::from(rescue.skip)];
        let adam = ["keep", "reset"][usize::from(rescue.reset)];
        PmaArm {
            name: format!("rescue-{kind}-{data}-{adam}/{}", hot.name.replace('/', "-")),
            train: TrainSettings { warmup_steps: 0, max_steps: from + horizon, ..hot.train.clone() },
            begin: ArmStart::From { arm: Box::new(hot.clone()), mix, moments: (!rescue.reset).then_some(newest) },
            from_step: from,
            to_step: from + horizon,
            skip: next_batch - from,
            states: Vec::new(),
            until_lost: false,
            ..hot.clone()
        }
    }

    /// All arms that are known in advance for these claims and seeds, parents before children, the longest first.
    ///
    /// # Errors
    /// As [`PmaPlan::continued`].
    pub fn all(&self, claims: &[&str], seeds: &[u64]) -> anyhow::Result<Vec<PmaArm>> {
        let asks = |names: &[&str]| claims.iter().any(|c| names.contains(c));
        let mut arms = Vec::new();
        for &seed in seeds {
            for size in self.scale.sizes.iter().rev() {
                if asks(&["P1", "P2", "P3", "P4", "P5", "P6", "P5/6+", "P10"])
                    || (size == self.scale.middle() && asks(&["P7", "P8"]))
                    || (size == self.scale.smallest() && asks(&["P11"]))
                {
                    arms.push(self.base(size, seed));
                }
            }
        }
        for &seed in seeds {
            for size in self.scale.sizes.iter().rev() {
                if asks(&["P2", "P3", "P10"]) || (size == self.scale.middle() && asks(&["P8"])) {
                    arms.push(self.annealed(size, seed));
                }
            }
            if asks(&["P7"]) {
                for (init, factor) in [(Init::Latest, 1.0), (Init::Pma, 1.0), (Init::Latest, 0.5), (Init::Pma, 0.5)] {
                    arms.push(self.continued(init, factor, seed)?);
                }
            }
            if asks(&["P8"]) {
                for init in [Init::Latest, Init::Pma, Init::Annealed] {
                    arms.push(self.tuned(init, seed)?);
                }
            }
        }
        for &seed in seeds {
            if asks(&["P11"]) {
                arms.extend(RATES.iter().filter(|r| **r != 1.0).map(|r| self.rate(*r, seed)));
            }
        }
        if asks(&["P9"]) {
            let first = seeds.first().copied().unwrap_or(1);
            arms.extend((0..self.scale.hot.runs).map(|i| self.unstable(first + i)));
        }
        Ok(arms)
    }
}

/// Evaluation points that P4, P5 and P6 share, with the paper's names.
pub fn readout(index: usize) -> &'static str {
    ["12.75 %", "28 %", "69 %", "100 %"].get(index).copied().unwrap_or_default()
}

/// The paper's evaluation points are on the grid.
const _: () = assert!(READOUTS[3] == GRID && FORK < GRID);
