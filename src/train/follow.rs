//! The other ranks' side of training: what rank 0 announces, they compute too, each its share of it; and what keeps all ranks alike.

use super::Trainer;
use super::across::{copy_of_rank_0, different};
use crate::world::{END, World};
use anyhow::{Result, ensure};

/// Updates between two comparisons of the ranks' weights.
const COMPARE_EVERY: u64 = 100;
/// Weights and moments of rank 0, for all.
const STATE: &str = "state";
/// The weights of rank 0 alone, for ranks with another kind of device.
const WEIGHTS: &str = "weights";
/// A comparison of the weights.
const COMPARISON: &str = "comparison";

impl Trainer {
    /// Do what rank 0 announces, to the end of the run: on every rank but that one. Returns how the run ended.
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
                STATE => self.copy_state()?,
                WEIGHTS => copy_of_rank_0(&world, device, &model.values)?,
                // What differs is for rank 0 to say.
                COMPARISON => drop(different(&world, device, &model.values)?),
                _ => stage.follow(device, model, optimizer, &announced)?,
            }
        }
    }

    /// Give every rank the weights, moments and reference model of this one, which is rank 0: at the start of a run, and after a rescue.
    ///
    /// # Errors
    /// A lost rank, or a device fault.
    pub fn share_state(&self) -> Result<()> {
        if self.world.is_solo() {
            return Ok(());
        }
        let task = self.world.announce(STATE, &())?;
        self.copy_state()?;
        task.done();
        Ok(())
    }

    fn copy_state(&self) -> Result<()> {
        let Self { device, model, optimizer, .. } = self;
        let second = optimizer.second.iter().flat_map(|second| [&second.m, &second.v]);
        let reference = self.reference().map(|reference| &reference.values);
        // The weights beside adapters, which are not trained.
        let frozen = (!model.adapters.is_empty()).then(|| model.base().1);
        let arenas = [&model.values, &optimizer.m, &optimizer.v].into_iter().chain(second).chain(frozen).chain(reference);
        arenas.into_iter().try_for_each(|arena| copy_of_rank_0(&self.world, device, arena))
    }

    /// After an update on rank 0: ranks with other devices get its weights, and now and then all are compared.
    ///
    /// # Errors
    /// Weights that differ, a lost rank, or a device fault.
    pub(super) fn keep_alike(&self) -> Result<()> {
        let Self { world, device, model, .. } = self;
        if world.is_solo() || !world.is_root() {
            return Ok(());
        }
        if self.mixed_devices {
            let task = world.announce(WEIGHTS, &())?;
            copy_of_rank_0(world, device, &model.values)?;
            task.done();
        }
        let step = self.state.step;
        if !step.is_multiple_of(COMPARE_EVERY) {
            return Ok(());
        }
        let task = world.announce(COMPARISON, &())?;
        let found = different(world, device, &model.values)?;
        task.done();
        let names: Vec<String> = found.iter().map(|rank| world.name(*rank)).collect();
        ensure!(
            found.is_empty(),
            "update {step}: the weights of {} differ from those of {}: a device or a driver computed something else there. The run ends, and \
             its last checkpoint stands; `lehr doctor` checks the kernels of a device",
            names.join(", "),
            world.name(0)
        );
        Ok(())
    }

    /// The ranks that train together.
    pub fn world(&self) -> &World {
        &self.world
    }
}
