//! Training on ranks other than 0, which execute its commands; and synchronization of weights.

use super::Trainer;
use super::all_reduce::{broadcast_arena, ranks_that_differ};
use crate::device::Arena;
use crate::world::{END, World};
use anyhow::{Result, ensure};

/// Updates between two comparisons of weights.
const COMPARE_EVERY: u64 = 100;
/// Command: broadcast weights and moments.
const STATE: &str = "state";
/// Command: broadcast weights only, for ranks with different kinds of devices.
const WEIGHTS: &str = "weights";
/// Command: compare weights, and optionally moments.
const COMPARISON: &str = "comparison";

impl Trainer {
    /// On ranks other than 0: execute commands until the end of the run, and return the reason.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn run_worker(&mut self) -> Result<String> {
        let world = self.world.clone();
        loop {
            let command = world.next()?;
            let Self { device, model, optimizer, stage, .. } = &mut *self;
            match command.kind.as_str() {
                END => return command.read(),
                STATE => self.broadcast_arenas()?,
                WEIGHTS => broadcast_arena(&world, device, &model.values)?,
                // Rank 0 reports differences.
                COMPARISON => drop(self.ranks_that_differ(command.read()?)?),
                _ => stage.run_command(device, model, optimizer, &command)?,
            }
        }
    }

    /// On rank 0: broadcast weights, moments and reference model, at the start of a run and after a rescue.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn broadcast_state(&self) -> Result<()> {
        if self.world.is_solo() {
            return Ok(());
        }
        let task = self.world.broadcast_command(STATE, &())?;
        self.broadcast_arenas()?;
        task.done();
        Ok(())
    }

    fn broadcast_arenas(&self) -> Result<()> {
        let Self { device, model, .. } = self;
        let reference = self.reference().map(|reference| &reference.values);
        // With adapters, the frozen base.
        let frozen = (!model.adapters.is_empty()).then(|| model.base().1);
        let arenas = std::iter::once(&model.values).chain(self.moments()).chain(frozen).chain(reference);
        arenas.into_iter().try_for_each(|arena| broadcast_arena(&self.world, device, arena))
    }

    fn moments(&self) -> impl Iterator<Item = &Arena> {
        let second = self.optimizer.second.iter().flat_map(|second| [&second.m, &second.v]);
        [&self.optimizer.m, &self.optimizer.v].into_iter().chain(second)
    }

    /// On rank 0, after an update: broadcast weights if devices differ, and compare weights at intervals.
    ///
    /// # Errors
    /// Weights that differ, a lost rank, or a device fault.
    pub(super) fn synchronize(&self, is_step_done: bool) -> Result<()> {
        let Self { world, device, model, .. } = self;
        if world.is_solo() || !world.is_root() {
            return Ok(());
        }
        if self.mixed_devices {
            let task = world.broadcast_command(WEIGHTS, &())?;
            broadcast_arena(world, device, &model.values)?;
            task.done();
        }
        if !is_step_done || !self.state.step.is_multiple_of(COMPARE_EVERY) {
            return Ok(());
        }
        self.ensure_same(false)
    }

    /// On rank 0, before a save: compare weights and moments, so that a checkpoint has those of all ranks. Ranks with different kinds of devices
    /// compare weights only. After an error within a command of all ranks, nothing is compared.
    ///
    /// # Errors
    /// Weights or moments that differ, a lost rank, or a device fault.
    pub fn ensure_same_before_save(&self) -> Result<()> {
        if self.world.is_solo() || !self.world.is_idle() { Ok(()) } else { self.ensure_same(!self.mixed_devices) }
    }

    fn ensure_same(&self, with_moments: bool) -> Result<()> {
        let (world, step) = (&self.world, self.state.step);
        let task = world.broadcast_command(COMPARISON, &with_moments)?;
        let found = self.ranks_that_differ(with_moments)?;
        task.done();
        let names: Vec<String> = found.iter().map(|rank| world.name(*rank)).collect();
        ensure!(
            found.is_empty(),
            "step {step}: the weights{} on {} differ from those on {}: a device or driver fault. The run ends; saved checkpoints are valid. \
             Check the devices with `lehr doctor` under the same launcher",
            if with_moments { " or moments" } else { "" },
            names.join(", "),
            world.name(0)
        );
        Ok(())
    }

    fn ranks_that_differ(&self, with_moments: bool) -> Result<Vec<usize>> {
        let moments = self.moments().filter(|_| with_moments);
        ranks_that_differ(&self.world, &self.device, std::iter::once(&self.model.values).chain(moments))
    }

    /// The ranks of this run.
    pub fn world(&self) -> &World {
        &self.world
    }
}
