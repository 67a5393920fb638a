//! The policy on the device: recordings that score packed completions and compute their gradients.

use super::pack::{self, MicroBatch};
use super::{Loss, Rollout};
use crate::config::{LoptiMoments, ModelConfig, OptimizerKind, Settings};
use crate::device::{Device, Sizes, Tensor};
use crate::model::transformer::Objective;
use crate::model::{Activations, Model, Parameters, PassKind as Kind, activations};
use crate::ops::objective::{POLICY_LEN, PolicyRows};
use crate::train::plan::parameter_bytes;
use crate::train::{GradientPass, Optimizer, Scorer, most_rows, rows_at_once};
use crate::world::{RankCommand, World};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

/// Model and optimizer of an update, all on one device.
#[derive(Clone, Copy)]
pub struct PolicyModel<'a> {
    /// The device.
    pub device: &'a Device,
    /// The model.
    pub model: &'a Model,
    /// Its gradients and moments.
    pub optimizer: &'a Optimizer,
}

/// The policy. Create the optimizer with [`Policy::optimizer`], or with [`Policy::stats`] as its statistics.
pub struct Policy {
    /// By number of rows, largest first, in shared memory.
    acts: Vec<(Activations<Tensor>, PolicyRows<Tensor>)>,
    gradients: HashMap<usize, GradientPass>,
    scorers: HashMap<(ScoredModel, usize), Scorer>,
    time: usize,
    mini_batch: usize,
    /// The ranks, which share the rows.
    pub(super) world: World,
    /// Updates since the moments were zero, for the first and the second pair; used for the bias correction. Part of a checkpoint.
    pub optimizer_steps: [u64; 2],
}

/// Policy or reference model.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ScoredModel {
    Policy,
    Reference,
}

impl Policy {
    /// Command: score completions.
    pub(super) const SCORE: &str = "policy scores";

    /// Allocate for rows of `settings.train.seq_len` tokens (the maximum of prompt plus completion), with the number of rows that suits the
    /// adapter, or `--micro-batch-size`.
    ///
    /// # Errors
    /// An invalid length.
    pub fn new(device: &Device, model: &Model, settings: &Settings) -> Result<Self> {
        Self::in_world(device, model, settings, World::solo())
    }

    /// The same on one of several ranks.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn in_world(device: &Device, model: &Model, settings: &Settings, world: World) -> Result<Self> {
        let (time, rows) = shape(&model.config, settings, device.sizes(), world.size())?;
        ensure!(time <= model.max_context(), "--seq-len {time}: the model was opened for {}", model.max_context());
        let sizes = pack::sizes(rows);
        let kind = Kind::training(settings.train.checkpoints_activations());
        let acts = Activations::nested(device, &model.config, &sizes, time, kind);
        let make = |name: &str, shape: &[usize]| Tensor::new(device, "activations", name, shape);
        let samples = make("samples", &[rows * time, 4]);
        let (terms, inv_temperature) = (make("policy_settings", &[POLICY_LEN]), make("inv_temperature", &[1]));
        let dentropy = make("dentropy", &[rows * time]);
        let part = |rows: usize| PolicyRows {
            samples: samples.rows(0..rows * time),
            settings: terms.clone(),
            inv_temperature: inv_temperature.clone(),
            dentropy: dentropy.slice(0..rows * time),
        };
        let acts = acts.into_iter().map(|a| (part(a.batch), a)).map(|(rows, acts)| (acts, rows)).collect();
        let mini_batch = mini_batch_size(settings);
        let (gradients, scorers) = (HashMap::new(), HashMap::new());
        Ok(Self { acts, gradients, scorers, time, mini_batch, world, optimizer_steps: [0; 2] })
    }

    /// The optimizer's statistics, which receive the numbers of an update.
    pub fn stats(&self) -> &Tensor {
        &self.acts[0].0.stats
    }

    /// The optimizer of these settings.
    ///
    /// # Errors
    /// When a kernel does not compile.
    pub fn optimizer(&self, device: &Device, model: &Model, settings: &Settings) -> Result<Optimizer> {
        let kind = kind(settings);
        Optimizer::of(device, &model.parameters, &model.values, self.stats(), kind)
    }

    /// The mini-batches of a step with N completions: slices of `--mini-batch-size`; the last may be shorter.
    pub fn mini_batches(&self, completions: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = self.mini_batch;
        (0..completions).step_by(size).map(move |first| first..(first + size).min(completions))
    }

    /// Fill `old_logprobs`, `entropy` and `sum_p2` with the current model, at this temperature.
    ///
    /// Completions are packed per mini-batch, as in an update, so that before the first update every ratio is exactly 1 (except with
    /// [`super::Loss::skip_idle`], which packs differently).
    ///
    /// # Errors
    /// A completion that does not fit, or a device fault.
    pub fn score(&mut self, device: &Device, model: &Model, rollouts: &mut [Rollout], temperature: f64) -> Result<()> {
        self.score_by(device, (ScoredModel::Policy, model), rollouts, temperature, |rollout, [logp, entropy, sum_p2]| {
            (rollout.old_logprobs, rollout.entropy, rollout.sum_p2) = (logp, entropy, sum_p2);
        })
    }

    /// Fill `ref_logprobs` with a reference model of the same shape, without its adapters; the model must not change between calls.
    ///
    /// # Errors
    /// As [`Policy::score`].
    pub fn score_reference(
        &mut self,
        device: &Device,
        reference: &Model,
        rollouts: &mut [Rollout],
        temperature: f64,
    ) -> Result<()> {
        self.score_by(device, (ScoredModel::Reference, reference), rollouts, temperature, |rollout, [logp, ..]| {
            rollout.ref_logprobs = logp
        })
    }

    /// log pi(token) of each completion under the current model.
    ///
    /// # Errors
    /// As [`Policy::score`].
    pub fn logprobs(&mut self, device: &Device, model: &Model, rollouts: &[Rollout], temperature: f64) -> Result<Vec<Vec<f32>>> {
        let mut copies: Vec<Rollout> = rollouts
            .iter()
            .map(|r| Rollout { prompt: r.prompt.clone(), completion: r.completion.clone(), ..Rollout::default() })
            .collect();
        self.score(device, model, &mut copies, temperature)?;
        Ok(copies.into_iter().map(|r| r.old_logprobs).collect())
    }

    fn score_by(
        &mut self,
        device: &Device,
        (of, model): (ScoredModel, &Model),
        rollouts: &mut [Rollout],
        temperature: f64,
        mut put: impl FnMut(&mut Rollout, [Vec<f32>; 3]),
    ) -> Result<()> {
        self.check(rollouts)?;
        let world = self.world.clone();
        let task = world.broadcast_command(Self::SCORE, &(of == ScoredModel::Reference, &*rollouts, temperature))?;
        let all = self.scores(device, (of, model), rollouts, temperature)?;
        task.done();
        all.into_iter().for_each(|(i, numbers)| put(&mut rollouts[i], numbers));
        Ok(())
    }

    /// On the other ranks: execute [`Policy::SCORE`].
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub(super) fn run_score_command(
        &mut self,
        device: &Device,
        (model, reference): (&Model, Option<&Model>),
        command: &RankCommand,
    ) -> Result<()> {
        let (by_reference, rollouts, temperature): (bool, Vec<Rollout>, f64) = command.read()?;
        // With adapters, the reference model is the same model without them.
        let of = if by_reference { (ScoredModel::Reference, reference.unwrap_or(model)) } else { (ScoredModel::Policy, model) };
        self.scores(device, of, &rollouts, temperature).map(|_| ())
    }

    /// (index, [log-probabilities, entropies, sums of squares]) of all completions; each is computed by one rank.
    fn scores(
        &mut self,
        device: &Device,
        (of, model): (ScoredModel, &Model),
        rollouts: &[Rollout],
        temperature: f64,
    ) -> Result<Vec<(usize, [Vec<f32>; 3])>> {
        self.write_temperature(device, temperature);
        let mut own = Vec::new();
        for range in self.mini_batches(rollouts.len()) {
            let (first, part) = (range.start, &rollouts[range]);
            for micro in self.pack(part, |_| true) {
                let scorer = self.scorer(device, of, model, micro.batch.batch_size)?;
                let (logp, entropy) = scorer.score(device, &micro.batch)?;
                let sum_p2: Vec<f32> = device.read(&scorer.acts.sum_p2)?;
                for place in &micro.places {
                    let at = place.at..place.at + part[place.rollout].completion.len();
                    let cut = |of: &[f32]| of[at.clone()].to_vec();
                    own.push((first + place.rollout, [cut(&logp), cut(&entropy), cut(&sum_p2)]));
                }
            }
        }
        if self.world.is_solo() { Ok(own) } else { Ok(self.world.all_gather_values(&own)?.concat()) }
    }

    /// Write the terms of the loss, shared by all row counts.
    pub(super) fn write_terms(&self, device: &Device, loss: &Loss) {
        device.write(&self.acts[0].1.settings, &loss.terms.pack());
        self.write_temperature(device, loss.temperature);
    }

    fn write_temperature(&self, device: &Device, temperature: f64) {
        device.write(&self.acts[0].1.inv_temperature, &[(1.0 / temperature) as f32]);
    }

    fn scorer(&mut self, device: &Device, of: ScoredModel, model: &Model, rows: usize) -> Result<&Scorer> {
        match self.scorers.entry((of, rows)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let (acts, policy) = of_rows(&self.acts, rows);
                let record = if of == ScoredModel::Policy { Scorer::at } else { Scorer::without_adapters };
                Ok(new.insert(record(device, model, acts.clone(), &policy.inv_temperature)?))
            }
        }
    }

    /// The gradient recording for this number of rows, and its inputs.
    pub(super) fn gradient_pass(&mut self, on: PolicyModel<'_>, rows: usize) -> Result<(&GradientPass, &PolicyRows<Tensor>)> {
        let (acts, policy) = of_rows(&self.acts, rows);
        let pass = match self.gradients.entry(rows) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let by = Objective::Policy(policy);
                new.insert(GradientPass::by(on.device, on.model, acts.clone(), &on.optimizer.grad_weights, by)?)
            }
        };
        Ok((pass, policy))
    }

    /// Pack the completions selected by `wanted` for this policy's passes; with several ranks, this rank's share.
    pub(super) fn pack(&self, rollouts: &[Rollout], wanted: impl Fn(usize) -> bool) -> Vec<MicroBatch> {
        pack::pack(rollouts, self.time, self.acts[0].0.batch, (self.world.rank(), self.world.size()), wanted)
    }

    /// Reject completions longer than a row.
    pub(super) fn check(&self, rollouts: &[Rollout]) -> Result<()> {
        for rollout in rollouts {
            let (prompt, completion) = (rollout.prompt.len(), rollout.completion.len());
            ensure!(
                prompt > 0 && completion > 0,
                "a completion of {completion} tokens after a prompt of {prompt}: both need one"
            );
            ensure!(
                pack::length(rollout) <= self.time,
                "a completion of {completion} tokens after a prompt of {prompt}: a row holds {}; use a larger --seq-len",
                self.time + 1
            );
        }
        Ok(())
    }
}

fn of_rows(acts: &[(Activations<Tensor>, PolicyRows<Tensor>)], rows: usize) -> &(Activations<Tensor>, PolicyRows<Tensor>) {
    match acts.iter().find(|(acts, _)| acts.batch == rows) {
        Some(found) => found,
        None => unreachable!("{rows} rows: pack makes the sizes that were allocated"),
    }
}

fn mini_batch_size(settings: &Settings) -> usize {
    let set = settings.grpo.as_ref().and_then(|grpo| grpo.mini_batch_size);
    set.unwrap_or(settings.train.batch_size).max(1)
}

fn kind(settings: &Settings) -> (OptimizerKind, LoptiMoments) {
    settings.grpo.as_ref().map_or_else(Default::default, |grpo| (grpo.optimizer, grpo.lopti_moments))
}

/// (tokens in a row, rows at once)
fn shape(c: &ModelConfig, settings: &Settings, sizes: Sizes, ranks: usize) -> Result<(usize, usize)> {
    let time = settings.train.seq_len;
    let suits = || most_rows(c, &settings.train, sizes);
    let rows = rows_at_once(time, || settings.train.micro_batch_size.unwrap_or_else(suits))?;
    // More rows than completions are never filled.
    Ok((time, rows.min(mini_batch_size(settings).div_ceil(ranks)).max(1)))
}

/// Device memory of model, policy, optimizer and reference model, as in the device's ledger (without rollouts), and rows computed at once.
///
/// # Errors
/// When one tensor is larger than the adapter can bind, or an invalid length.
pub fn memory_parts(c: &ModelConfig, settings: &Settings, sizes: Sizes) -> Result<(Vec<(&'static str, u64)>, usize)> {
    let trained = Parameters::trained(c, sizes.max_tensor_bytes)?.arena_bytes();
    let (time, rows) = shape(c, settings, sizes, 1)?;
    let pass = Kind::training(settings.train.checkpoints_activations());
    let activations = activations::bytes(c, rows, time, pass, sizes) + (20 * rows * time) as u64;
    let mut parts = parameter_bytes(c, sizes)?;
    parts.push(("activations", activations));
    if kind(settings) == (OptimizerKind::Adamw, LoptiMoments::Separate) {
        parts.extend([("adam_m2", trained), ("adam_v2", trained)]);
    }
    // With adapters the reference is the model without them.
    if c.lora.is_none() && settings.has_reference_model() {
        let reference = Parameters::frozen(c, sizes.max_tensor_bytes, settings.train.frozen_element())?;
        parts.push(("reference values", reference.value_bytes()));
    }
    Ok((parts, rows))
}
