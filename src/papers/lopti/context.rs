//! What every claim works with: arms and their records, benches, what is known already.

use super::arm::{Arm, Record};
use super::bench::Bench;
use super::plan::{Plan, Setting, UpdateMethod};
use super::scale::Scale;
use super::task_setup::TaskSetup;
use super::training::TrainingContext;
use crate::config::{DeviceSettings, TaskKind};
use crate::papers::attempts::{Ended, Worker, work_off};
use crate::papers::stats::mean;
use crate::papers::store::Store;
use crate::progress::Progress;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

/// See the module.
pub struct Context<'a> {
    /// Model, questions, steps.
    pub scale: &'a Scale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// What is known already.
    pub store: Store,
    /// Adapter by name or index.
    pub device: DeviceSettings,
    /// Gets progress lines.
    pub tell: Box<dyn Fn(&str) + 'a>,
    puzzles: TaskSetup,
    sums: OnceCell<TaskSetup>,
    benches: RefCell<BTreeMap<u64, Bench>>,
}

impl<'a> Context<'a> {
    /// Nothing is opened but the vocabulary.
    ///
    /// # Errors
    /// None in practice: questions that cannot be made.
    pub fn new(
        scale: &'a Scale,
        seeds: Vec<u64>,
        store: Store,
        device: DeviceSettings,
        tell: Box<dyn Fn(&str) + 'a>,
    ) -> anyhow::Result<Self> {
        let (sums, benches) = (OnceCell::new(), RefCell::default());
        Ok(Self { scale, seeds, store, device, tell, puzzles: TaskSetup::new(TaskKind::Kk)?, sums, benches })
    }

    /// Makes arms.
    pub fn plan(&self) -> Plan<'_> {
        Plan { scale: self.scale }
    }

    /// Words and questions of a kind of task.
    ///
    /// # Errors
    /// None in practice: questions that cannot be made.
    pub fn task_setup(&self, task: TaskKind) -> anyhow::Result<&TaskSetup> {
        if task != TaskKind::Math {
            return Ok(&self.puzzles);
        }
        if self.sums.get().is_none() {
            let _ = self.sums.set(TaskSetup::new(TaskKind::Math)?);
        }
        Ok(self.sums.get().unwrap_or(&self.puzzles))
    }

    /// Have all these arms trained, and before them those that they begin from.
    ///
    /// # Errors
    /// A device fault, a full disk, or [`crate::papers::attempts::Interrupted`].
    pub fn ensure(&self, arms: &[Arm]) -> anyhow::Result<()> {
        work_off(arms, self, &*self.tell)
    }

    /// The numbers of an arm, which is trained if it was not.
    ///
    /// # Errors
    /// As [`Context::ensure`].
    pub fn record(&self, setting: Setting, way: UpdateMethod, seed: u64) -> anyhow::Result<Record> {
        let arm = self.plan().arm(setting, way, seed);
        self.ensure(std::slice::from_ref(&arm))?;
        self.store.record(&arm.name, &arm.key())
    }

    /// Of every seed.
    ///
    /// # Errors
    /// As [`Context::ensure`].
    pub fn records(&self, setting: Setting, way: UpdateMethod) -> anyhow::Result<Vec<Record>> {
        self.seeds.iter().map(|seed| self.record(setting, way, *seed)).collect()
    }

    /// A number that a bench measures, remembered; `what` names it and all that it depends on beside the scale and the weights.
    ///
    /// # Errors
    /// A device fault, or [`crate::papers::attempts::Interrupted`].
    pub fn measured<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        seed: u64,
        what: &str,
        measure: impl FnOnce(&mut Bench) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let sft = self.plan().sft(TaskKind::Kk, seed);
        // Exams and the number of steps do not matter to single updates.
        let train = crate::config::TrainSettings { max_steps: 0, ..self.scale.reinforcement(seed) };
        let settings = format!("{:?}", (train, self.scale.rollout(), self.scale.grpo(), self.scale.people, self.scale.probe));
        self.store.remember(&["bench 1", &sft.key(), &settings, what], || {
            self.ensure(std::slice::from_ref(&sft))?;
            let mut benches = self.benches.borrow_mut();
            let bench = match benches.entry(seed) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(new) => {
                    new.insert(Bench::new(&self.store, &self.puzzles, self.scale, &sft, &self.device)?)
                }
            };
            measure(bench)
        })
    }
}

impl Worker<Arm> for Context<'_> {
    fn is_done(&self, arm: &Arm) -> bool {
        self.store.is_done(&arm.name, &arm.key())
    }

    fn attempt(&self, arm: &Arm, progress: &mut Progress<'_>) -> anyhow::Result<Ended> {
        let task_setup = self.task_setup(arm.task.task)?;
        TrainingContext { store: &self.store, task_setup, device: &self.device }.train(arm, progress)
    }
}

/// Mean of a number over records.
pub fn mean_of(records: &[Record], value: impl Fn(&Record) -> f64) -> f64 {
    mean(&records.iter().map(value).collect::<Vec<_>>())
}

/// (smallest, largest) over records, for error bars.
pub fn range_of(records: &[Record], value: impl Fn(&Record) -> f64) -> (f64, f64) {
    records.iter().map(value).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// Numbers of people (or grades) that an arm was examined in.
pub fn levels(records: &[Record]) -> Vec<u32> {
    records
        .iter()
        .flat_map(|r| &r.exams)
        .flat_map(|e| e.sampled.keys())
        .copied()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}
