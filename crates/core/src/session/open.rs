//! From settings to a run: data, tokenizer, model, folder. Everything is checked before anything is written.

use super::clock::RunClock;
use super::control::{CommandReader, Control};
use super::emitter::{EventEmitter, GradNorms, Listener, Notification};
use super::run::Run;
use super::save::TrainerFile;
use super::stage::{self, LoadedData, StageData};
use super::starting_point::{self, StartingPoint};
use super::unsaved::FailedSaves;
use super::{driver_notes, ranks, reinforce};
use crate::config::{ModelConfig, SaveSettings, Settings, Stage};
use crate::data::Tokenizer;
use crate::device::{Device, Kind};
use crate::event::{Event, Finished, SavedCheckpoint};
use crate::model_files::checkpoint::{Checkpoint, CheckpointOrigin};
use crate::number_format::counted;
use crate::ops::matmul::measured_peak_gflops;
use crate::ops::self_test;
use crate::run_folder::{self, EventLog, Retention, RetentionPolicy, RunFolder, TensorBoard, checkpoints};
use crate::train::{MemoryPlan, Trainer, learning_rate, within_memory};
use crate::vfs::{Vfs, display_path};
use crate::world::World;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use web_time::Instant;

/// The start of a run.
#[derive(Clone, Debug, Default)]
pub struct RunStart {
    /// Folder of a new run; if absent, a new `runs/NAME`.
    pub run: Option<PathBuf>,
    /// Folder of an existing run to resume.
    pub resume: Option<PathBuf>,
    /// With `resume`: total number of updates, instead of the run's own.
    pub max_steps: Option<u64>,
}

/// Train on text, or on rows of messages if the settings have a section for them. Commands are read from `commands`, and events go to
/// `listener`. Blocks until the run ends.
///
/// # Errors
/// Invalid settings, files or devices: one line with the remedy.
pub fn train(
    vfs: &dyn Vfs,
    settings: Settings,
    start: &RunStart,
    commands: Option<CommandReader>,
    listener: Listener,
    started: Instant,
) -> anyhow::Result<Finished> {
    Control::catch_signals();
    let world = World::open()?;
    let finished = train_in(vfs, &world, settings, start, commands, listener, started);
    world.end(finished.as_ref().map_or(ranks::FAILED, |finished| &finished.reason));
    finished
}

/// On each rank. Every step of the setup is collective, so that an error on one rank ends all.
fn train_in(
    vfs: &dyn Vfs,
    world: &World,
    settings: Settings,
    start: &RunStart,
    commands: Option<CommandReader>,
    listener: Listener,
    started: Instant,
) -> anyhow::Result<Finished> {
    ranks::check_flags(world, &settings, start)?;
    match world.is_root() {
        true => open(vfs, world, settings, start, commands, listener, started)?.train(),
        false => ranks::run_worker(vfs, world, &settings.device),
    }
}

fn open<'a>(
    vfs: &'a dyn Vfs,
    world: &World,
    settings: Settings,
    start: &RunStart,
    commands: Option<CommandReader>,
    mut listener: Listener,
    started: Instant,
) -> anyhow::Result<Run<'a>> {
    let prepared = prepare(vfs, settings, start, &mut listener).and_then(|prepared| {
        fork_fits(&prepared.1, &prepared.0)?;
        Ok(prepared)
    });
    let (mut settings, start_from, held) = world.check_all(prepared)?;
    // An existing model brings its tokenizer and its shape.
    let (existing, resumed) = (start_from.folder(), held.is_some());
    ranks::send_settings(world, &settings, existing, resumed)?;
    let prepared = prepare_rank(vfs, world, &mut settings, existing, resumed, &mut listener)?;
    let run = world.check_all(begin_run(vfs, (settings, start_from, held), prepared, (start, commands), listener, started))?;
    world.start_following();
    Ok(run)
}

/// The preparation of every rank.
pub(super) struct PreparedRun {
    pub trainer: Trainer,
    tokenizer: Tokenizer,
    data_tokens: (u64, u64),
    data_hash: Option<String>,
}

/// Load data, open the device and create the trainer. `existing` is the folder of an existing model.
pub(super) fn prepare_rank(
    vfs: &dyn Vfs,
    world: &World,
    settings: &mut Settings,
    existing: Option<&Path>,
    resumed: bool,
    listener: &mut Listener,
) -> anyhow::Result<PreparedRun> {
    let loaded = world.check_all(stage::load(vfs, settings, existing, resumed, listener))?;
    ranks::check_data(world, settings, &loaded)?;
    let LoadedData { tokenizer, material, config } = loaded;
    let (data_tokens, data_hash) = (material.tokens(), material.content_hash());
    let device = world.check_all(open_device(vfs, world, settings, &config, listener))?;
    let mixed = ranks::has_mixed_devices(world, &device)?;
    let trainer = match material {
        StageData::Source(source) => Trainer::in_world(world.clone(), device, settings, &config, source),
        StageData::Task(task_context) => Trainer::reinforce_in_world(world.clone(), device, settings, &config, task_context),
    };
    let mut trainer = world.check_all(trainer)?;
    trainer.mixed_devices = mixed;
    ranks::check_layout(world, &trainer)?;
    ranks::notice_uneven(world, settings, listener);
    Ok(PreparedRun { trainer, tokenizer, data_tokens, data_hash })
}

/// The folder of the run: a new one, or that of the resumed run.
fn folder_of(
    vfs: &dyn Vfs,
    held: Option<RunFolder>,
    start: &RunStart,
    (settings, start_from): (&Settings, &StartingPoint),
    (trainer, tokenizer): (&Trainer, &Tokenizer),
) -> anyhow::Result<RunFolder> {
    if let Some(folder) = held {
        start.max_steps.map_or(Ok(()), |max_steps| keep_extended(vfs, &folder, max_steps))?;
        return Ok(folder);
    }
    let folder = new_folder(vfs, start, settings, start_from)?;
    reinforce::keep_reference(vfs, &folder, trainer, tokenizer, start_from.parent())?;
    Ok(folder)
}

/// The origin of the run's checkpoints; the step is set when one is saved.
fn origin_of(
    folder: &RunFolder,
    settings: &Settings,
    trainer: &Trainer,
    start_from: &StartingPoint,
) -> anyhow::Result<CheckpointOrigin> {
    Ok(CheckpointOrigin {
        step: 0,
        run_id: folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        config_hash: super::config_hash(settings)?,
        adapter: trainer.device.summary().title(),
        parent: start_from.parent(),
    })
}

fn begin_run<'a>(
    vfs: &'a dyn Vfs,
    (settings, start_from, held): (Settings, StartingPoint, Option<RunFolder>),
    prepared: PreparedRun,
    (start, commands): (&RunStart, Option<CommandReader>),
    mut listener: Listener,
    started: Instant,
) -> anyhow::Result<Run<'a>> {
    let PreparedRun { mut trainer, tokenizer, data_tokens, data_hash } = prepared;
    // Checked again, because epochs are converted to updates only now.
    fork_fits(&start_from, &settings)?;
    notice_other_device(&trainer.device, &start_from, &mut listener);
    let file = start_from.apply(vfs, &mut trainer, settings.start.init_optimizer)?;
    file.as_ref().map_or(Ok(()), |file| same_data(file, data_tokens, data_hash.as_ref()))?;
    // The reference model is the starting point.
    reinforce::take_reference(vfs, &settings, &start_from, &mut trainer)?;
    let peak_gflops = trainer.world().size() as f64 * measured_peak_gflops(&trainer.device)?;
    let folder = folder_of(vfs, held, start, (&settings, &start_from), (&trainer, &tokenizer))?;
    let (log, grad_norms) = match start_from.resumed().zip(file.as_ref()) {
        None => (EventLog::create(vfs, &folder.events())?, GradNorms::default()),
        Some((checkpoint, file)) => resumed_log(vfs, &folder, checkpoint, file)?,
    };
    let last_saved = start_from.resumed().map(Checkpoint::step);
    let tensorboard = settings.save.tensorboard.then(|| TensorBoard::create(vfs, folder.path(), last_saved)).transpose()?;
    let origin = origin_of(&folder, &settings, &trainer, &start_from)?;
    let tokens_before = file.as_ref().map_or(trainer.state.num_tokens, |file| file.tokens_before);
    let TrainerFile { seconds, eval_loss, accuracy, final_eval_step, samples_bytes, watch, .. } = file.unwrap_or_default();
    let SaveSettings { keep_last, keep_every, .. } = settings.save;
    Ok(Run {
        vfs,
        out: EventEmitter::new(vfs, log, (folder.samples(), samples_bytes), tensorboard, listener),
        folder,
        settings,
        origin,
        tokenizer,
        trainer,
        control: Control::listen(commands)?,
        peak_gflops,
        started,
        data_tokens,
        data_hash,
        retention: Retention::new(RetentionPolicy { keep_last, keep_every }),
        last_saved,
        checkpoint: start_from.resumed().map(|checkpoint| checkpoint.path.clone()),
        unsaved: FailedSaves::default(),
        eval_loss,
        accuracy,
        final_eval_step: final_eval_step.filter(|step| last_saved == Some(*step)),
        grad_norms,
        watch,
        seconds_before: seconds,
        tokens_before,
        clock: RunClock::default(),
        sampler: None,
        samples_asked: 0,
    })
}

/// The settings, the starting point, and the folder of a resumed run.
fn prepare(
    vfs: &dyn Vfs,
    settings: Settings,
    start: &RunStart,
    listener: &mut Listener,
) -> anyhow::Result<(Settings, StartingPoint, Option<RunFolder>)> {
    let Some(run) = &start.resume else {
        // Only the lock is authoritative, but this check fails early.
        start.run.iter().try_for_each(|path| RunFolder::refuse_used(vfs, path))?;
        settings.validate()?;
        let start_from = StartingPoint::resolve(vfs, &settings.start)?;
        return Ok((settings, start_from, None));
    };
    // Lock first: another process may be changing the folder.
    let (folder, tidied) = RunFolder::open_for_resume(vfs, run)?;
    tidied.into_iter().for_each(|text| listener(Notification::Event(&Event::Warning { text })));
    let checkpoint = newest(vfs, run, listener)?;
    let settings = resumed_settings(vfs, run, settings, start.max_steps, checkpoint.step(), listener)?;
    settings.validate()?;
    // The starting point of a resumed run is its checkpoint.
    Ok((settings, StartingPoint::Resume(Box::new(checkpoint)), Some(folder)))
}

/// A resumed run must have its original data.
fn same_data(file: &TrainerFile, tokens: (u64, u64), hash: Option<&String>) -> anyhow::Result<()> {
    anyhow::ensure!(
        file.data_tokens == tokens,
        "the text of --data has changed: {} training and {} validation tokens, it began with {} and {}; \
         put the text back, or start a new run with --init",
        tokens.0,
        tokens.1,
        file.data_tokens.0,
        file.data_tokens.1
    );
    // Checkpoints of earlier versions have no hash.
    let same = file.data_hash.is_none() || hash.is_none() || file.data_hash.as_ref() == hash;
    anyhow::ensure!(
        same,
        "the text of --data has changed: as much as before, but another, or in another order; put it back, or \
         start a new run with --init"
    );
    Ok(())
}

/// The log of a resumed run, truncated to its length at the checkpoint, and its gradient norms.
fn resumed_log<'a>(
    vfs: &'a dyn Vfs,
    folder: &RunFolder,
    checkpoint: &Checkpoint,
    file: &TrainerFile,
) -> anyhow::Result<(EventLog<'a>, GradNorms)> {
    let mut log = EventLog::resume(vfs, &folder.events(), file.events_bytes)?;
    let mut grad_norms = GradNorms::default();
    for event in run_folder::read_all(vfs, &folder.events())?.0 {
        if let Event::Step(step) = event {
            grad_norms.push(step.grad_norm);
        }
    }
    // The save event was cut off. A log that cannot be written does not stop a run.
    let (step, path, bytes) = (checkpoint.step(), checkpoint.path.clone(), checkpoint.manifest.bytes());
    let _ = log.append(&Event::Checkpoint(SavedCheckpoint { step, path, bytes, save_seconds: 0.0 }));
    Ok((log, grad_norms))
}

/// A planned run.
pub struct DryRun {
    /// The settings, completed from the data.
    pub settings: Settings,
    /// The model's shape.
    pub config: ModelConfig,
    /// The memory that it needs, by part.
    pub plan: MemoryPlan,
    /// The device it would use.
    pub device: Device,
    /// Updates that the resumed run has made; `None` for a new run.
    pub done: Option<u64>,
}

/// Determine what a run needs, without starting it. A resumed run is planned from its newest valid checkpoint; its folder is only read.
///
/// # Errors
/// As [`train`], where applicable.
pub fn dry_run(vfs: &dyn Vfs, settings: &Settings, start: &RunStart, listener: &mut Listener) -> anyhow::Result<DryRun> {
    let mut settings = settings.clone();
    let start_from = match &start.resume {
        None => {
            settings.validate()?;
            StartingPoint::resolve(vfs, &settings.start)?
        }
        Some(run) => {
            let checkpoint = newest(vfs, run, listener)?;
            settings = resumed_settings(vfs, run, settings, start.max_steps, checkpoint.step(), listener)?;
            settings.validate()?;
            StartingPoint::Resume(Box::new(checkpoint))
        }
    };
    let done = start_from.resumed().map(Checkpoint::step);
    let loaded = stage::load(vfs, &mut settings, start_from.folder(), done.is_some(), listener)?;
    let device = open_device(vfs, &World::solo(), &settings, &loaded.config, listener)?;
    let plan = MemoryPlan::of(&loaded.config, &settings, device.sizes())?;
    Ok(DryRun { settings, config: loaded.config, plan, device, done })
}

fn open_device(
    vfs: &dyn Vfs,
    world: &World,
    settings: &Settings,
    config: &ModelConfig,
    listener: &mut Listener,
) -> anyhow::Result<Device> {
    let mut device = Device::open(&world.device(&settings.device)?)?;
    device.set_sizes(within_memory(config, settings, device.sizes())?);
    device.enable_tuning();
    let summary = device.summary();
    let named = settings.device.adapter.is_some();
    let mut warn = |text: String| {
        if driver_notes::is_new(vfs, &device, &text) {
            listener(Notification::Event(&Event::Warning { text }));
        }
    };
    match device.kind() {
        Kind::Cpu if !named => warn(format!("no GPU found: computing on the CPU ({}, {})", summary.name, device.limits())),
        Kind::SoftwareGpu => {
            warn(format!("{} computes shaders on the CPU, which is slow; --adapter cpu is many times faster", summary.name));
            if let Some(text) = self_test::long_loops(&device)? {
                warn(text);
            }
        }
        Kind::Cpu | Kind::Gpu => {}
    }
    Ok(device)
}

/// A run may resume on another device; the bits of its numbers may then differ.
fn notice_other_device(device: &Device, start_from: &StartingPoint, listener: &mut Listener) {
    let Some(checkpoint) = start_from.resumed() else { return };
    let (before, now) = (&checkpoint.manifest.origin.adapter, device.summary().title());
    if *before != now {
        let text =
            format!("the run was computed by {before} and continues on {now}: results agree within rounding, not bit for bit");
        listener(Notification::Event(&Event::Warning { text }));
    }
}

fn fork_fits(start_from: &StartingPoint, settings: &Settings) -> anyhow::Result<()> {
    let StartingPoint::Fork(checkpoint) = start_from else { return Ok(()) };
    let (step, most) = (checkpoint.step(), settings.train.max_steps);
    anyhow::ensure!(step < most, "--max-steps {most}: the fork begins after {}; name a number above that", counted(step, "step"));
    Ok(())
}

fn newest(vfs: &dyn Vfs, run: &Path, listener: &mut Listener) -> anyhow::Result<Checkpoint> {
    let newest = checkpoints::newest_valid(vfs, run)?;
    for reason in newest.skipped {
        listener(Notification::Event(&Event::Warning { text: format!("skipped a checkpoint: {reason}") }));
    }
    newest
        .found
        .with_context(|| format!("{}: holds no valid checkpoint to resume from; start a new run with --run", display_path(run)))
}

/// The settings of a run, with the device replaced if it was given again, since it does not define the computation, and with the number
/// of updates replaced if the run is extended.
fn resumed_settings(
    vfs: &dyn Vfs,
    run: &Path,
    typed: Settings,
    max_steps: Option<u64>,
    step: u64,
    listener: &mut Listener,
) -> anyhow::Result<Settings> {
    let frozen = frozen_settings(vfs, run, typed.stage())?;
    let mut settings = Settings { device: typed.device.or(frozen.device.clone()), ..frozen };
    let mut say = |text: String| listener(Notification::Event(&Event::Warning { text }));
    let Some(most) = max_steps else {
        if step >= settings.train.max_steps {
            say(format!("the run has made all of its {}; --max-steps N lets it make more", counted(step, "step")));
        }
        return Ok(settings);
    };
    anyhow::ensure!(step < most, "--max-steps {most}: the run has made {}; name a number above that", counted(step, "step"));
    let next = |settings: &Settings| learning_rate(&settings.train, (step + 1).min(settings.train.max_steps));
    let (before, planned) = (settings.train.max_steps, next(&settings));
    extend(&mut settings, most);
    let rate = next(&settings);
    if most != before {
        let scheduler = format!("{:?}", settings.train.lr_scheduler).to_lowercase();
        let fixed = if rate == planned {
            String::new()
        } else {
            format!(": the next step's learning rate is {rate:.2e}, not {planned:.2e}")
        };
        say(format!("--max-steps {most}, not {before}: the {scheduler} schedule is laid over all {most} steps{fixed}"));
    }
    Ok(settings)
}

/// Replace the number of updates; clears epochs.
fn extend(settings: &mut Settings, max_steps: u64) {
    settings.train.max_steps = max_steps;
    settings.sft.iter_mut().for_each(|sft| sft.num_train_epochs = 0.0);
}

/// Write the new number of updates to the settings, for the next resume.
fn keep_extended(vfs: &dyn Vfs, folder: &RunFolder, max_steps: u64) -> anyhow::Result<()> {
    let mut settings = run_folder::settings(vfs, folder.path())?;
    extend(&mut settings, max_steps);
    let text = toml::to_string(&settings).context("the settings cannot be saved: is the name of the current folder UTF-8?")?;
    vfs.replace(&folder.config(), text.as_bytes()).with_context(|| display_path(&folder.config()))
}

/// The settings of a run, which must be of this stage.
fn frozen_settings(vfs: &dyn Vfs, run: &Path, stage: Stage) -> anyhow::Result<Settings> {
    let settings = run_folder::settings(vfs, run)?;
    let own = settings.stage();
    anyhow::ensure!(
        own == stage,
        "--resume {}: is a run of lehr {}; continue it with `lehr {} --resume {}`",
        display_path(run),
        own.name(),
        own.name(),
        display_path(run)
    );
    Ok(settings)
}

fn new_folder(vfs: &dyn Vfs, start: &RunStart, settings: &Settings, start_from: &StartingPoint) -> anyhow::Result<RunFolder> {
    // Standard input cannot be read again, and relative paths depend on the current folder.
    let mut frozen = settings.clone();
    for path in frozen.data.data.iter_mut().chain(&mut frozen.data.val_data) {
        if path.as_os_str() != "-" {
            *path = std::path::absolute(&*path)?;
        }
    }
    if let Some(program) = frozen.task.as_mut().and_then(|task| task.grader_command.as_mut()) {
        // Make the path absolute, so that it is found from any folder on resume.
        if vfs.is_file(Path::new(program.as_str()))? {
            *program = std::path::absolute(&*program)?.display().to_string();
        }
    }
    for path in frozen.sft.iter_mut().flat_map(|sft| &mut sft.chat_template) {
        *path = std::path::absolute(&*path)?;
    }
    for spec in frozen.start.init.iter_mut().chain(&mut frozen.start.fork) {
        *spec = starting_point::absolute(spec)?;
    }
    frozen.start.parent = start_from.parent();
    let text = toml::to_string(&frozen).context("the settings cannot be saved: is the name of the current folder UTF-8?")?;
    match &start.run {
        Some(path) => RunFolder::create(vfs, path, &text),
        None => {
            let stage = settings.stage().name();
            let mut number = 1;
            let name = |number: u32| PathBuf::from(format!("runs/{stage}-{number:03}"));
            while vfs.exists(&name(number))? {
                number += 1;
            }
            RunFolder::create(vfs, &name(number), &text)
        }
    }
}
