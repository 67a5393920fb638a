//! The arms by name: comparisons of each claim. Arms that several claims need are shared.

use super::arm::{ArmStage, LoptiArm};
use super::scale::{ALPHA, ETA, LoptiScale, SMALL_ALPHA};
use crate::config::{Algorithm, GrpoSettings, LoptiMoments, LoptiOrder, LoptiSplit, TaskKind, TaskSettings, TrainSettings};

/// An update method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateMethod {
    /// Plain GRPO.
    Grpo,
    /// Advantage Reweighting with this alpha.
    Ar(f64),
    /// Lopti with this threshold.
    Lopti(f64),
    /// Both.
    Both,
    /// Plain GRPO with every step's completions used twice: as many updates as Lopti.
    Twice,
    /// Lopti with a random split into parts of the same sizes.
    RandomSplit,
    /// High-probability tokens first.
    HighFirst,
    /// Lopti with separate moments for the second pass.
    OwnMoments,
    /// Only the tokens of these quartiles.
    Only(&'static [u8]),
    /// Plain GRPO at a multiple of the learning rate.
    Rate(f64),
}

/// Only tokens above 0.25, above 0.5, and below 0.25 (Fig. 6 a).
pub const ABOVE_QUARTER: UpdateMethod = UpdateMethod::Only(&[2, 3, 4]);
/// See [`ABOVE_QUARTER`].
pub const ABOVE_HALF: UpdateMethod = UpdateMethod::Only(&[3, 4]);
/// See [`ABOVE_QUARTER`].
pub const BELOW_QUARTER: UpdateMethod = UpdateMethod::Only(&[1]);
/// The paper's four methods.
pub const METHODS: [UpdateMethod; 4] =
    [UpdateMethod::Grpo, UpdateMethod::Ar(ALPHA), UpdateMethod::Lopti(ETA), UpdateMethod::Both];
/// Controls of L5: the same number of updates, and a random split.
pub const CONTROLS: [UpdateMethod; 2] = [UpdateMethod::Twice, UpdateMethod::RandomSplit];
/// More controls (L5b): separate moments, and larger learning rates.
pub const MORE_CONTROLS: [UpdateMethod; 3] =
    [UpdateMethod::OwnMoments, UpdateMethod::Rate(std::f64::consts::SQRT_2), UpdateMethod::Rate(2.0)];
/// Values of L6.
pub const ALPHAS: [f64; 5] = [0.1, ALPHA, 0.5, 0.7, 1.0];
/// Values of L7.
pub const ETAS: [f64; 5] = [0.1, 0.3, ETA, 0.7, 0.9];
/// Values of L13: updates per pass over a step's completions.
pub const UPDATES: [usize; 4] = [1, 2, 4, 8];

impl UpdateMethod {
    /// Name in tables.
    pub fn name(self) -> String {
        match self {
            Self::Grpo => "GRPO".into(),
            Self::Ar(alpha) => format!("AR {alpha}"),
            Self::Lopti(eta) => format!("Lopti {eta}"),
            Self::Both => "AR + Lopti".into(),
            Self::Twice => "GRPO, two passes".into(),
            Self::RandomSplit => "Lopti, random split".into(),
            Self::HighFirst => "Lopti, high first".into(),
            Self::OwnMoments => "Lopti, moments apart".into(),
            Self::Only(&[1]) => "only p < 0.25".into(),
            Self::Only(&[3, 4]) => "only p > 0.5".into(),
            Self::Only(&[4]) => "only p > 0.75".into(),
            Self::Only(_) => "only p > 0.25".into(),
            Self::Rate(factor) => format!("GRPO, rate x {factor:.2}"),
        }
    }

    /// Name in folder names.
    pub fn slug(self) -> String {
        let kept = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        let mut out: String = self.name().replace('<', "below").replace('>', "above").chars().map(kept).collect();
        while out.contains("--") {
            out = out.replace("--", "-");
        }
        out
    }

    /// Apply to settings. `small` selects the alpha that the paper uses other than for K&K with GRPO.
    pub fn into_settings(self, grpo: GrpoSettings, small: bool) -> GrpoSettings {
        let strength = |alpha: f64| if small { SMALL_ALPHA } else { alpha };
        let lopti = GrpoSettings { lopti_eta: Some(ETA), ..grpo.clone() };
        match self {
            Self::Grpo | Self::Rate(_) => grpo,
            Self::Ar(alpha) => GrpoSettings { reweight_alpha: strength(alpha), ..grpo },
            Self::Lopti(eta) => GrpoSettings { lopti_eta: Some(eta), ..grpo },
            Self::Both => GrpoSettings { reweight_alpha: strength(ALPHA), ..lopti },
            Self::Twice => GrpoSettings { num_iterations: 2, ..grpo },
            Self::RandomSplit => GrpoSettings { lopti_split: LoptiSplit::Random, ..lopti },
            Self::HighFirst => GrpoSettings { lopti_order: LoptiOrder::HighFirst, ..lopti },
            Self::OwnMoments => GrpoSettings { lopti_moments: LoptiMoments::Separate, ..lopti },
            Self::Only(bins) => GrpoSettings { mask_bins: bins.to_vec(), ..grpo },
        }
    }
}

/// Task and algorithm of an arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// K&K with GRPO.
    Main,
    /// K&K with REINFORCE++ (L10).
    PlusPlus,
    /// Sums (L12).
    Sums,
    /// K&K, with this number of updates per pass (L13).
    Updates(usize),
}

impl Setting {
    fn slug(self) -> String {
        match self {
            Self::Main => "kk".into(),
            Self::PlusPlus => "plusplus".into(),
            Self::Sums => "sums".into(),
            Self::Updates(n) => format!("kk-{n}-updates"),
        }
    }

    /// Name of a method in this setting: the baseline is the setting's own algorithm, and alpha is as small as in the paper.
    pub fn name_of(self, way: UpdateMethod) -> String {
        match (self, way) {
            (Self::PlusPlus, UpdateMethod::Grpo) => "REINFORCE++".into(),
            (Self::PlusPlus | Self::Sums, UpdateMethod::Ar(_)) => UpdateMethod::Ar(SMALL_ALPHA).name(),
            _ => way.name(),
        }
    }

    fn task(self) -> TaskKind {
        if self == Self::Sums { TaskKind::Math } else { TaskKind::Kk }
    }
}

/// Plans arms.
pub struct LoptiPlan<'a> {
    /// The scale.
    pub scale: &'a LoptiScale,
}

impl LoptiPlan<'_> {
    /// Fine-tuning on worked solutions, stopped early.
    pub fn sft(&self, task: TaskKind, seed: u64) -> LoptiArm {
        let name = match task {
            TaskKind::Math => "sft-sums",
            _ => "sft",
        };
        let train = self.scale.fine_tuning(task, seed);
        let task = TaskSettings { people: self.scale.people[1].into(), ..self.scale.task(task) };
        LoptiArm { name: format!("{name}/{seed}"), model: self.scale.model(), train, task, work: ArmStage::FineTune }
    }

    /// Reinforcement learning from the fine-tuned model.
    pub fn arm(&self, setting: Setting, way: UpdateMethod, seed: u64) -> LoptiArm {
        // Two updates per pass are the main setting.
        let setting = if setting == Setting::Updates(self.scale.mini_batches) { Setting::Main } else { setting };
        let mut train = self.scale.reinforcement(seed);
        let mut grpo = self.scale.grpo();
        match setting {
            Setting::PlusPlus => grpo.algorithm = Algorithm::ReinforcePlusPlus,
            Setting::Updates(n) => grpo.mini_batch_size = Some((self.scale.batch_size / n).max(1)),
            Setting::Main | Setting::Sums => {}
        }
        if let UpdateMethod::Rate(factor) = way {
            train = TrainSettings {
                learning_rate: factor * train.learning_rate,
                min_learning_rate: factor * train.min_learning_rate,
                ..train
            };
        }
        let grpo = way.into_settings(grpo, matches!(setting, Setting::PlusPlus | Setting::Sums));
        LoptiArm {
            name: format!("{}/{}/{seed}", setting.slug(), way.slug()),
            model: self.scale.model(),
            train,
            task: self.scale.task(setting.task()),
            work: ArmStage::Reinforce {
                from: Box::new(self.sft(setting.task(), seed)),
                rollout: self.scale.rollout(),
                grpo: Box::new(grpo),
                evals: self.scale.evaluation_steps(),
            },
        }
    }

    /// Arms that a claim compares, in the order of its table.
    pub fn compared_arms(claim: &str) -> Vec<(Setting, UpdateMethod)> {
        let main = |ways: &[UpdateMethod]| ways.iter().map(|w| (Setting::Main, *w)).collect::<Vec<_>>();
        match claim {
            "L5" => main(&[&METHODS[..], &CONTROLS[..]].concat()),
            "L5b" => main(&[&[UpdateMethod::Grpo, UpdateMethod::Lopti(ETA)][..], &MORE_CONTROLS[..]].concat()),
            "L6" => main(&[&[UpdateMethod::Grpo][..], &ALPHAS.map(UpdateMethod::Ar)[..]].concat()),
            "L7" => main(&[&[UpdateMethod::Grpo][..], &ETAS.map(UpdateMethod::Lopti)[..]].concat()),
            "L8" => main(&[UpdateMethod::Grpo, UpdateMethod::Lopti(ETA), UpdateMethod::HighFirst, UpdateMethod::RandomSplit]),
            "L9" => main(&[UpdateMethod::Grpo, ABOVE_QUARTER, ABOVE_HALF, BELOW_QUARTER]),
            "L10" => METHODS.map(|w| (Setting::PlusPlus, w)).to_vec(),
            "L12" => METHODS.map(|w| (Setting::Sums, w)).to_vec(),
            "L13" => UPDATES
                .iter()
                .flat_map(|n| {
                    [UpdateMethod::Grpo, UpdateMethod::Ar(ALPHA), UpdateMethod::Lopti(ETA)].map(|w| (Setting::Updates(*n), w))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// All arms that these claims need, by seed, parents before children.
    pub fn all(&self, claims: &[&str], seeds: &[u64]) -> Vec<LoptiArm> {
        let mut arms: Vec<LoptiArm> = Vec::new();
        for &seed in seeds {
            // Single updates start from it too.
            let mut wanted = vec![self.sft(TaskKind::Kk, seed)];
            for (setting, way) in claims.iter().flat_map(|c| Self::compared_arms(c)) {
                if setting == Setting::Sums {
                    wanted.push(self.sft(TaskKind::Math, seed));
                }
                wanted.push(self.arm(setting, way, seed));
            }
            for arm in wanted {
                if !arms.iter().any(|known| known.key() == arm.key()) {
                    arms.push(arm);
                }
            }
        }
        arms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::papers::jobs::TrainingJob as _;

    #[test]
    fn claims_share_their_arms() {
        let scale = LoptiScale::from_name("tiny").unwrap();
        let plan = LoptiPlan { scale: &scale };
        let count = |claims: &[&str]| plan.all(claims, &[1]).len();
        assert_eq!(count(&["L1", "L2", "L3", "L4", "L11"]), 1, "probes need the fine-tuned model only");
        assert_eq!(count(&["L5"]), 1 + 6);
        assert_eq!(count(&["L5", "L5b"]), count(&["L5"]) + 3);
        // GRPO and alpha = 0.3 are already included.
        assert_eq!(count(&["L5", "L6"]), count(&["L5"]) + 4);
        assert_eq!(count(&["L5", "L7"]), count(&["L5"]) + 4);
        assert_eq!(count(&["L5", "L8"]), count(&["L5"]) + 1);
        assert_eq!(count(&["L12"]), 1 + 1 + 4);
        assert_eq!(count(&["L5", "L13"]), count(&["L5"]) + 9);
        let all = plan.all(super::super::PAPER.claims, &[1, 2]);
        let mut names: Vec<&str> = all.iter().map(|a| a.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "every arm has a folder name of its own");
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_alphanumeric() || "/.-".contains(c))), "{names:?}");
    }

    /// Compared arms differ only in what their name states.
    #[test]
    fn arms_differ_only_in_the_update_method() {
        let scale = LoptiScale::from_name("tiny").unwrap();
        let plan = LoptiPlan { scale: &scale };
        let base = plan.arm(Setting::Main, UpdateMethod::Grpo, 1);
        for (setting, way) in [LoptiPlan::compared_arms("L5"), LoptiPlan::compared_arms("L5b")].concat() {
            let arm = plan.arm(setting, way, 1);
            assert_eq!((&arm.model, &arm.task, arm.train.seed), (&base.model, &base.task, 1));
            let updates = arm.passes() * scale.mini_batches;
            let twice = matches!(
                way,
                UpdateMethod::Lopti(_)
                    | UpdateMethod::Both
                    | UpdateMethod::Twice
                    | UpdateMethod::RandomSplit
                    | UpdateMethod::OwnMoments
            );
            assert_eq!(updates, if twice { 4 } else { 2 }, "{way:?}");
        }
        assert_eq!(plan.arm(Setting::Updates(2), UpdateMethod::Grpo, 1), base);
        let plus = plan.arm(Setting::PlusPlus, UpdateMethod::Ar(ALPHA), 1);
        assert_eq!(plus.grpo().unwrap().reweight_alpha, SMALL_ALPHA);
        let names = METHODS.map(|way| Setting::PlusPlus.name_of(way));
        assert_eq!(names, ["REINFORCE++", "AR 0.1", "Lopti 0.5", "AR + Lopti"]);
    }
}
