//! Training on ranks other than 0, which execute its commands; and synchronization of weights.

use super::Trainer;
use super::all_reduce::{broadcast_arena, ranks_that_differ};
use crate::world::{END, World};
use anyhow::{Result, ensure};

/// Updates between two comparisons of weights.
const COMPARE_EVERY: u64 = 100;
/// Command: broadcast weights and moments.
const STATE: &str = "state";
/// Command: broadcast weights only, for ranks with different kinds of devices.
const WEIGHTS: &str = "weights";
/// Command: compare weights.
const COMPARISON: &str = "comparison";

impl Trainer {
    /// On ranks other than 0: execute commands until the end of the run, and return the reason.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn follow(&mut self) -> Result<String> {
        let world = self.world.clone();
        loop {
            let announced = world.next()?;
            let Self { device, model, optimizer, stage, .. } = &mut *self;
            match announced.kind.as_str() {
                END => return announced.read(),
                STATE => self.broadcast_arenas()?,
                WEIGHTS => broadcast_arena(&world, device, &model.values)?,
                // Rank 0 reports differences.
                COMPARISON => drop(ranks_that_differ(&world, device, &model.values)?),
                _ => stage.follow(device, model, optimizer, &announced)?,
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
        let task = self.world.announce(STATE, &())?;
        self.broadcast_arenas()?;
        task.done();
        Ok(())
    }

    fn broadcast_arenas(&self) -> Result<()> {
        let Self { device, model, optimizer, .. } = self;
        let second = optimizer.second.iter().flat_map(|second| [&second.m, &second.v]);
        let reference = self.reference().map(|reference| &reference.values);
        // With adapters, the frozen base.
        let frozen = (!model.adapters.is_empty()).then(|| model.base().1);
        let arenas = [&model.values, &optimizer.m, &optimizer.v].into_iter().chain(second).chain(frozen).chain(reference);
        arenas.into_iter().try_for_each(|arena| broadcast_arena(&self.world, device, arena))
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
            let task = world.announce(WEIGHTS, &())?;
            broadcast_arena(world, device, &model.values)?;
            task.done();
        }
        let step = self.state.step;
        if !is_step_done || !step.is_multiple_of(COMPARE_EVERY) {
            return Ok(());
        }
        let task = world.announce(COMPARISON, &())?;
        let found = ranks_that_differ(world, device, &model.values)?;
        task.done();
        let names: Vec<String> = found.iter().map(|rank| world.name(*rank)).collect();
        ensure!(
            found.is_empty(),
            "update {step}: the weights on {} differ from those on {}: a device or driver fault. The run ends; the last checkpoint is valid. \
             Check the devices with `lehr doctor` under the same launcher",
            names.join(", "),
            world.name(0)
        );
        Ok(())
    }

    /// The ranks of this run.
    pub fn world(&self) -> &World {
        &self.world
    }
}
