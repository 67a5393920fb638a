//! Training of an arm with the common trainer, with snapshots on disk.

use super::arm::{ArmStart, PmaArm, PmaRecord};
use super::checkpoints::{CheckpointStore, SavedState, state_name};
use super::corpora::Corpora;
use super::spike::first_lost;
use crate::config::{DeviceSettings, Settings};
use crate::device::{Arena, Device};
use crate::papers::jobs::{AttemptResult, check};
use crate::progress::Progress;
use crate::train::{StepResult, Trainer, TrainingLoop};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use web_time::Instant;

/// Updates between checks for divergence.
const LOOK_EVERY: u64 = 25;

/// Train an arm unless it exists. Its parent must exist.
///
/// # Errors
/// A device or disk error, or [`Interrupted`](crate::progress::Interrupted).
pub fn train(
    checkpoints: &CheckpointStore,
    arm: &PmaArm,
    texts: &Corpora,
    device: &DeviceSettings,
    progress: &mut Progress<'_>,
) -> anyhow::Result<AttemptResult> {
    checkpoints.once(arm, || {
        let folder = checkpoints.folder(arm);
        let trainer = trainer(checkpoints, arm, texts, device)?;
        let begin = Instant::now();
        let record = PmaRecord { first_step: arm.from_step + 1, ..PmaRecord::default() };
        let snapshots = match arm.snapshot_every {
            0 => None,
            _ => Some(BufWriter::new(File::create(folder.join("weights.f32"))?)),
        };
        let mut training = PmaTraining { trainer, arm, folder, record, snapshots, progress };
        crate::train::train(&mut training, arm.to_step)?;
        let PmaTraining { mut record, snapshots, .. } = training;
        snapshots.map_or(Ok(()), |mut file| file.flush())?;
        record.seconds = begin.elapsed().as_secs_f64();
        checkpoints.finish(arm, &record)
    })
}

/// An arm during training.
struct PmaTraining<'a> {
    trainer: Trainer,
    arm: &'a PmaArm,
    folder: PathBuf,
    record: PmaRecord,
    snapshots: Option<BufWriter<File>>,
    progress: &'a mut Progress<'a>,
}

impl TrainingLoop for PmaTraining<'_> {
    fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    fn before_update(&mut self) -> anyhow::Result<bool> {
        check().map(|()| true)
    }

    fn update(&mut self) -> anyhow::Result<Option<StepResult>> {
        self.trainer.step()
    }

    fn report(&mut self, row: StepResult) -> anyhow::Result<()> {
        self.record.loss.push(row.loss);
        self.record.grad_norm.push(row.grad_norm);
        Ok(())
    }

    fn after_update(&mut self, _: bool) -> anyhow::Result<bool> {
        let Self { trainer, arm, .. } = self;
        let step = trainer.state.step;
        let done = step - arm.from_step;
        if let Some(file) = &mut self.snapshots
            && done.is_multiple_of(arm.snapshot_every)
        {
            write_arena(&trainer.device, &trainer.model.values, file)?;
        }
        if arm.states.contains(&step) {
            let mut file = BufWriter::new(File::create(self.folder.join(state_name(step)))?);
            for arena in [&trainer.model.values, &trainer.optimizer.m, &trainer.optimizer.v] {
                write_arena(&trainer.device, arena, &mut file)?;
            }
            file.flush()?;
        }
        (self.progress)("training", done, arm.updates())?;
        Ok(!(arm.until_lost && done.is_multiple_of(LOOK_EVERY) && first_lost(&self.record.loss).is_some()))
    }
}

/// A trainer at the arm's starting point.
fn trainer(checkpoints: &CheckpointStore, arm: &PmaArm, texts: &Corpora, device: &DeviceSettings) -> anyhow::Result<Trainer> {
    let settings = Settings { model: arm.model.clone(), train: arm.train.clone(), ..Settings::default() };
    let seq_len = arm.train.seq_len;
    let config = arm.model.config(texts.vocab, seq_len);
    // Without tuning: kernels chosen by timing would make the bits vary.
    let device = Device::open(device)?;
    let mut trainer = Trainer::new(device, &settings, &config, texts.source(arm.text, seq_len, arm.train.seed)?)?;
    // An arm that starts after step 0 starts with moments of that age.
    (trainer.state.step, trainer.state.optimizer_steps) = (arm.from_step, arm.from_step);
    trainer.state.skipped_batches = arm.skip;
    if let ArmStart::From { arm: parent, mix, moments } = &arm.begin {
        write_values(&trainer.device, &trainer.model.values, &checkpoints.merged(parent, mix)?)?;
        if let Some(step) = moments {
            let SavedState { parts: [_, m, v] } = checkpoints.state(parent, *step)?;
            write_values(&trainer.device, &trainer.optimizer.m, &m)?;
            write_values(&trainer.device, &trainer.optimizer.v, &v)?;
        }
    }
    Ok(trainer)
}

/// All numbers of an arena, by segment, padding included.
///
/// # Errors
/// A device error.
pub fn read_arena(device: &Device, arena: &Arena) -> anyhow::Result<Vec<f32>> {
    let mut out = Vec::new();
    for (segment, _) in arena.segments() {
        out.extend(device.read::<f32>(segment)?);
    }
    Ok(out)
}

fn write_arena(device: &Device, arena: &Arena, file: &mut impl std::io::Write) -> anyhow::Result<()> {
    for (segment, _) in arena.segments() {
        file.write_all(bytemuck::cast_slice(&device.read::<f32>(segment)?))?;
    }
    Ok(())
}

/// Write numbers, as returned by [`read_arena`], into an arena.
///
/// # Errors
/// A number of values that differs from the arena's: they belong to another model shape.
pub fn write_values(device: &Device, arena: &Arena, values: &[f32]) -> anyhow::Result<()> {
    let want: usize = arena.segments().map(|(s, _)| s.len()).sum();
    anyhow::ensure!(values.len() == want, "{} numbers for a model of {want}", values.len());
    let mut rest = values;
    for (segment, _) in arena.segments() {
        let (now, later) = rest.split_at(segment.len());
        device.write(segment, now);
        rest = later;
    }
    Ok(())
}
