//! Single updates of a fine-tuned model: completions sampled from it, and the effect of an update. Every update starts from the same
//! weights and from moments at zero.

use super::arm::LoptiArm;
use super::plan::UpdateMethod;
use super::scale::LoptiScale;
use super::task_setup::TaskSetup;
use super::training::weights;
use crate::config::{DeviceSettings, GrpoSettings, LossType, OptimizerKind, Settings};
use crate::data::tasks::Task;
use crate::device::{Arena, Device};
use crate::event::BinGradient;
use crate::model::{Model, RolloutEngine};
use crate::ops::adamw::UpdateParams;
use crate::ops::sample::Sampling;
use crate::papers::jobs::check;
use crate::papers::store::WorkFolder;
use crate::progress::Interrupted;
use crate::session::control::Control;
use crate::train::Optimizer;
use crate::train::reinforce::probe::{TokenChange, changes, gradient_by_quartile, pass_of};
use crate::train::reinforce::{Loss, Policy, PolicyModel, Rollout, Sampler, advantage, passes, slots};
use std::collections::BTreeMap;
use std::sync::Arc;
use web_time::Instant;

/// A fine-tuned model for measurements of single updates.
pub struct Bench {
    device: Device,
    model: Model,
    weights: Vec<f32>,
    hands: [OptimizerPasses; 2],
    engine: RolloutEngine,
    task: Box<dyn Task>,
    task_setup: TaskSetup,
    settings: Settings,
    seed: u64,
    batches: BTreeMap<u64, Vec<Rollout>>,
}

/// An optimizer and the passes that compute its gradients.
struct OptimizerPasses {
    policy: Policy,
    optimizer: Optimizer,
}

/// Optimizer of a single update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// Plain gradient descent with this learning rate, without clipping (as for Fig. 1).
    Sgd(f64),
    /// AdamW as in training, from moments at zero.
    Adam,
}

/// The effect and duration of an update.
pub struct UpdateEffect {
    /// Every response token before and after; advantages are the original ones for every method.
    pub changes: Vec<TokenChange>,
    /// Seconds of the update alone.
    pub seconds: f64,
    /// Seconds for computing the advantages.
    pub advantage_seconds: f64,
}

impl Bench {
    /// Open a device with the weights of a finished fine-tuning.
    ///
    /// # Errors
    /// Missing weights, or a device error.
    pub fn new(
        store: &WorkFolder,
        task_setup: &TaskSetup,
        scale: &LoptiScale,
        sft: &LoptiArm,
        device: &DeviceSettings,
    ) -> anyhow::Result<Self> {
        let device = Device::open(device)?;
        let seed = sft.train.seed;
        let mut settings = Settings {
            model: sft.model.clone(),
            train: scale.reinforcement(seed),
            task: Some(scale.task(sft.task.task)),
            rollout: Some(scale.rollout()),
            // One mini-batch and no reference model, to measure the effect of a single batch of tokens.
            grpo: Some(GrpoSettings { beta: 0.0, mini_batch_size: None, ..scale.grpo() }),
            ..Settings::default()
        };
        settings.train.batch_size = scale.probe.1;
        let config = sft.model.config(task_setup.vocab(), scale.seq_len());
        let model = Model::new(&device, &config, scale.seq_len())?;
        let weights = weights(store, sft)?;
        model.set(&device, &weights);
        let hand = |optimizer: OptimizerKind| -> anyhow::Result<OptimizerPasses> {
            let mut settings = settings.clone();
            settings.grpo.iter_mut().for_each(|g| g.optimizer = optimizer);
            let policy = Policy::new(&device, &model, &settings)?;
            let optimizer = policy.optimizer(&device, &model, &settings)?;
            Ok(OptimizerPasses { policy, optimizer })
        };
        let hands = [hand(OptimizerKind::Sgd)?, hand(OptimizerKind::Adamw)?];
        let slots = slots(&config, &settings, &scale.rollout(), device.sizes());
        let engine = RolloutEngine::new(&device, &model, slots, scale.seq_len())?;
        let task = task_setup.task_context(&scale.task(sft.task.task), seed)?.task;
        Ok(Self {
            device,
            model,
            weights,
            hands,
            engine,
            task,
            task_setup: task_setup.clone(),
            settings,
            seed,
            batches: BTreeMap::new(),
        })
    }

    /// Temperature of rollouts.
    fn temperature(&self) -> f64 {
        self.settings.rollout.as_ref().map_or(1.0, |r| r.temperature)
    }

    /// Completions of batch `n`, graded, scored, with plain advantages: determined by weights, seed and `n`.
    ///
    /// # Errors
    /// A device error, or [`Interrupted`].
    pub fn batch(&mut self, n: u64) -> anyhow::Result<Vec<Rollout>> {
        if !self.batches.contains_key(&n) {
            let made = self.sample(n)?;
            // The newest batches are used again.
            self.batches.retain(|k, _| k + 4 > n);
            self.batches.insert(n, made);
        }
        Ok(self.batches.get(&n).cloned().unwrap_or_default())
    }

    fn sample(&mut self, n: u64) -> anyhow::Result<Vec<Rollout>> {
        check()?;
        self.restore()?;
        let Some((_, rollout, grpo)) = self.settings.reinforcement() else { return Ok(Vec::new()) };
        let completions = self.settings.train.batch_size;
        let mut sampler = Sampler {
            device: &self.device,
            model: &self.model,
            engine: &mut self.engine,
            task: self.task.as_mut(),
            tokenizer: &self.task_setup.tokenizer,
            stops: &[self.task_setup.stop],
            chat: false,
            settings: rollout,
            completions,
            sampling: Sampling { temperature: rollout.temperature, seed: self.seed, ..Sampling::default() },
            step: n,
        };
        // Questions outside the range that training uses.
        let mut asked = FAR + n * (completions / rollout.num_generations) as u64;
        let sampled = sampler.sample(&mut asked, &mut |_, _, _| Ok(!Control::interrupted()))?;
        let mut rollouts = sampled.ok_or(Interrupted)?.rollouts;
        let temperature = rollout.temperature;
        self.hands[0].policy.score(&self.device, &self.model, &mut rollouts, temperature)?;
        advantage::fill(&mut rollouts, grpo)?;
        Ok(rollouts)
    }

    /// Restore the fine-tuned weights, with moments at zero.
    fn restore(&mut self) -> anyhow::Result<()> {
        self.model.set(&self.device, &self.weights);
        for hand in &mut self.hands {
            for arena in [&hand.optimizer.m, &hand.optimizer.v] {
                clear(&self.device, arena);
            }
            hand.policy.optimizer_steps = [0; 2];
        }
        Ok(())
    }

    /// Restore the weights, then do the updates of one step on completions and measure the effect on their tokens.
    ///
    /// # Errors
    /// A device error, or [`Interrupted`].
    pub fn update(&mut self, rollouts: &[Rollout], way: UpdateMethod, by: UpdateRule) -> anyhow::Result<UpdateEffect> {
        check()?;
        self.restore()?;
        let temperature = self.temperature();
        let Some((_, rollout, grpo)) = self.settings.reinforcement() else { anyhow::bail!("no GRPO settings") };
        let grpo = way.into_settings(grpo.clone(), false);
        let loss = Loss::of(rollout, &grpo);
        let mut weighted = rollouts.to_vec();
        let begin = Instant::now();
        advantage::fill(&mut weighted, &grpo)?;
        let advantage_seconds = begin.elapsed().as_secs_f64();
        let adam = UpdateParams::from(&self.settings.train);
        let (hand, hyper) = match by {
            UpdateRule::Sgd(learning_rate) => {
                (&mut self.hands[0], UpdateParams { learning_rate, max_grad_norm: 0.0, weight_decay: 0.0, ..adam })
            }
            UpdateRule::Adam => (&mut self.hands[1], adam),
        };
        let on = PolicyModel { device: &self.device, model: &self.model, optimizer: &hand.optimizer };
        let begin = Instant::now();
        for pass in passes(&weighted, &grpo, self.seed, 0)? {
            hand.policy.update(on, &weighted, 0..weighted.len(), &pass, &loss, &hyper)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let after = hand.policy.logprobs(&self.device, &self.model, rollouts, temperature)?;
        Ok(UpdateEffect { changes: changes(rollouts, &after), seconds, advantage_seconds })
    }

    /// For the fine-tuned weights: gradient norms of each quartile's tokens, and of all.
    ///
    /// # Errors
    /// A device error, or [`Interrupted`].
    pub fn gradient_by_quartile(&mut self, rollouts: &[Rollout]) -> anyhow::Result<BinGradient> {
        check()?;
        self.restore()?;
        let Some((_, rollout, grpo)) = self.settings.reinforcement() else { anyhow::bail!("no GRPO settings") };
        let loss = Loss::of(rollout, grpo);
        let hand = &mut self.hands[0];
        let on = PolicyModel { device: &self.device, model: &self.model, optimizer: &hand.optimizer };
        gradient_by_quartile(&mut hand.policy, on, rollouts, grpo, &loss)
    }

    /// The gradient of log pi of a single token with respect to all parameters: its norm in each tensor, by name.
    ///
    /// # Errors
    /// A device error, or [`Interrupted`].
    pub fn gradient_of_token(&mut self, rollout: &Rollout, token: usize) -> anyhow::Result<Vec<(String, f64)>> {
        check()?;
        let Some((_, settings, grpo)) = self.settings.reinforcement() else { anyhow::bail!("no GRPO settings") };
        let loss = Loss { loss_type: LossType::SeqMeanTokenSum, ..Loss::of(settings, grpo) };
        let one = Rollout { advantages: vec![1.0; rollout.completion.len()], ..rollout.clone() };
        let mut pass = pass_of(std::slice::from_ref(&one), |_| false);
        Arc::make_mut(&mut pass.tokens)[0][token] = true;
        let hand = &mut self.hands[0];
        let on = PolicyModel { device: &self.device, model: &self.model, optimizer: &hand.optimizer };
        hand.policy.gradient(on, std::slice::from_ref(&one), 0..1, &pass, &loss)?;
        let mut out = Vec::new();
        for (spec, tensor) in self.model.parameters.tensors(&hand.optimizer.grads) {
            let values: Vec<f32> = self.device.read(&tensor)?;
            for (name, _, range) in spec.ranges() {
                let squares: f64 = values[range].iter().map(|v| f64::from(*v).powi(2)).sum();
                out.push((name.to_owned(), squares.sqrt()));
            }
        }
        Ok(out)
    }
}

/// First question of the bench, far beyond those of training.
const FAR: u64 = 1 << 40;

fn clear(device: &Device, arena: &Arena) {
    for (segment, _) in arena.segments() {
        device.write(segment, &vec![0f32; segment.len()]);
    }
}
