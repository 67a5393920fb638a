//! Training an arm: the trainer of every stage, with snapshots to disk.

use super::arm::{Arm, Begin, Record};
use super::checkpoints::{CheckpointStore, State, state_name};
use super::corpora::Texts;
use super::spike::first_lost;
use crate::config::{DeviceSettings, Settings};
use crate::device::{Arena, Device};
use crate::papers::attempts::Ended;
use crate::session::control::Control;
use crate::train::Trainer;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use web_time::Instant;

/// Updates between two looks at whether a run is lost.
const LOOK_EVERY: u64 = 25;

/// Train an arm unless it is there. Its parent must be. `tell` gets the updates made so far.
///
/// # Errors
/// A device fault or a disk that refuses.
pub fn train(
    checkpoints: &CheckpointStore,
    arm: &Arm,
    texts: &Texts,
    device: &DeviceSettings,
    tell: &mut dyn FnMut(u64),
) -> anyhow::Result<Ended> {
    if checkpoints.is_done(arm) {
        return Ok(Ended::Done);
    }
    let Some(_lock) = checkpoints.lock(arm)? else { return Ok(Ended::Busy) };
    if checkpoints.is_done(arm) {
        return Ok(Ended::Done);
    }
    let folder = checkpoints.folder(arm);
    let mut trainer = trainer(checkpoints, arm, texts, device)?;
    let begin = Instant::now();
    let mut record = Record { first_step: arm.from_step + 1, ..Record::default() };
    let mut snapshots = match arm.snapshot_every {
        0 => None,
        _ => Some(BufWriter::new(File::create(folder.join("weights.f32"))?)),
    };
    for done in 1..=arm.updates() {
        if Control::interrupted() {
            return Ok(Ended::Interrupted);
        }
        if let Some(row) = trainer.step()? {
            push(&mut record, row.loss, row.grad_norm);
        }
        if let Some(file) = &mut snapshots
            && done.is_multiple_of(arm.snapshot_every)
        {
            write_arena(&trainer.device, &trainer.model.values, file)?;
        }
        let step = arm.from_step + done;
        if arm.states.contains(&step) {
            let mut file = BufWriter::new(File::create(folder.join(state_name(step)))?);
            for arena in [&trainer.model.values, &trainer.optimizer.m, &trainer.optimizer.v] {
                write_arena(&trainer.device, arena, &mut file)?;
            }
            file.flush()?;
        }
        tell(done);
        if arm.until_lost && done.is_multiple_of(LOOK_EVERY) && first_lost(&record.loss).is_some() {
            break;
        }
    }
    for row in trainer.flush()? {
        push(&mut record, row.loss, row.grad_norm);
    }
    if let Some(file) = &mut snapshots {
        file.flush()?;
    }
    record.seconds = begin.elapsed().as_secs_f64();
    checkpoints.finish(arm, &record)?;
    Ok(Ended::Done)
}

fn push(record: &mut Record, loss: f64, grad_norm: f64) {
    record.loss.push(loss);
    record.grad_norm.push(grad_norm);
}

/// A trainer at the arm's beginning.
fn trainer(checkpoints: &CheckpointStore, arm: &Arm, texts: &Texts, device: &DeviceSettings) -> anyhow::Result<Trainer> {
    let settings = Settings { model: arm.model.clone(), train: arm.train.clone(), ..Settings::default() };
    let seq_len = arm.train.seq_len;
    let config = arm.model.config(texts.vocab, seq_len);
    // Not tuned: kernels that were chosen by the clock would make the bits depend on the day.
    let device = Device::open(device)?;
    let mut trainer = Trainer::new(device, &settings, &config, texts.source(arm.text, seq_len, arm.train.seed)?)?;
    // Whoever begins later than at 0 brings moments that are as old as that.
    (trainer.state.step, trainer.state.optimizer_steps) = (arm.from_step, arm.from_step);
    trainer.state.skipped_batches = arm.skip;
    if let Begin::From { arm: parent, mix, moments } = &arm.begin {
        write_values(&trainer.device, &trainer.model.values, &checkpoints.merged(parent, mix)?)?;
        if let Some(step) = moments {
            let State { parts: [_, m, v] } = checkpoints.state(parent, *step)?;
            write_values(&trainer.device, &trainer.optimizer.m, &m)?;
            write_values(&trainer.device, &trainer.optimizer.v, &v)?;
        }
    }
    Ok(trainer)
}

/// All numbers of an arena, segment after segment, padding included.
///
/// # Errors
/// A device fault.
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

/// Put numbers, as [`read_arena`] gives them, into an arena.
///
/// # Errors
/// Another number of them than the arena has: they belong to another shape.
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
