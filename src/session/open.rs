//! From settings to a run: data, tokenizer, model, folder; everything is checked before anything is written.

use super::begin::{self, Begin};
use super::control::Control;
use super::driver_notes;
use super::emitter::{Listener, Notification};
use super::folder::RunFolder;
use super::ranks;
use super::reinforce;
use super::run::Run;
use super::stage::{self, StageData};
use crate::config::{ModelConfig, Settings, Stage};
use crate::data::Tokenizer;
use crate::device::{Device, Kind};
use crate::event::{Event, Finished};
use crate::model::checkpoint::{self, Checkpoint};
use crate::ops::matmul::measured_peak_gflops;
use crate::ops::self_test;
use crate::train::reinforce::TaskContext;
use crate::train::{MemoryPlan, Trainer, learning_rate};
use crate::vfs::{RealFs, Vfs, shown, write_whole};
use crate::world::World;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use web_time::Instant;

/// What a run begins from.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// A new run's folder; `runs/NAME` of its own when absent.
    pub run: Option<PathBuf>,
    /// An existing run's folder, to go on with.
    pub resume: Option<PathBuf>,
    /// With `resume`: updates to make in all, in place of the run's own number.
    pub max_steps: Option<u64>,
    /// Take commands from standard input.
    pub control: bool,
}

/// Train: on text, or on rows of messages when the settings have a section for them. Blocks until the run ends.
///
/// # Errors
/// Settings, files or devices that cannot work: one line that says what to do.
pub fn train(settings: Settings, start: &Start, sink: Listener, started: Instant) -> anyhow::Result<Finished> {
    Control::catch_signals();
    let world = World::open()?;
    let finished = train_in(&world, settings, start, sink, started);
    world.end(finished.as_ref().map_or(ranks::FAILED, |finished| &finished.reason));
    finished
}

/// On each rank: every step of the start is made by all ranks together, so that an error on one ends all.
fn train_in(world: &World, settings: Settings, start: &Start, mut sink: Listener, started: Instant) -> anyhow::Result<Finished> {
    ranks::agree_at_first(world, &settings, start)?;
    if !world.is_root() {
        return ranks::follow(world, &settings.device);
    }
    let vfs: &dyn Vfs = &RealFs;
    let begun = begun(vfs, settings, start, &mut sink).and_then(|(settings, resumed)| {
        settings.validate()?;
        // What a resumed run began from is in its checkpoint.
        let begin = if resumed.is_some() { Begin::Nothing } else { Begin::resolve(vfs, &settings.start)? };
        fork_fits(&begin, &settings)?;
        Ok((settings, resumed, begin))
    });
    let (mut settings, resumed, begin) = world.together(begun)?;
    // A model that exists brings its tokenizer and its shape.
    let existing = resumed.as_ref().map(|(_, checkpoint)| checkpoint.path.as_path()).or(begin.folder());
    ranks::tell(world, &settings, existing, resumed.is_some())?;
    let Prepared { mut trainer, tokenizer, data_tokens, data_hash } =
        prepare(world, &mut settings, existing, resumed.is_some(), &mut sink)?;
    let rest = || -> anyhow::Result<_> {
        // Once more, because a number of epochs is a number of updates only now.
        fork_fits(&begin, &settings)?;
        if let Some((_, checkpoint)) = &resumed {
            notice_other_device(&trainer.device, checkpoint, &mut sink);
        }
        begin.apply(vfs, &mut trainer, settings.start.init_optimizer)?;
        // What the run begins from is what it is held to.
        reinforce::take_reference(&settings, &begin, start.resume.as_deref(), &mut trainer)?;
        let peak_gflops = world.size() as f64 * measured_peak_gflops(&trainer.device)?;
        let (folder, checkpoint) = match resumed {
            None => {
                let folder = new_folder(vfs, start, &settings, &begin)?;
                reinforce::keep_reference(vfs, &folder, &trainer, &tokenizer, begin.parent())?;
                (folder, None)
            }
            Some((folder, checkpoint)) => {
                if let Some(max_steps) = start.max_steps {
                    keep_extended(&folder, max_steps)?;
                }
                (folder, Some(checkpoint))
            }
        };
        Ok((folder, checkpoint, peak_gflops, Control::listen(start.control)?))
    };
    let (folder, checkpoint, peak_gflops, control) = world.together(rest())?;
    world.follow_rank_0();
    let parent = begin.parent();
    let run =
        Run { parent, vfs, folder, settings, tokenizer, trainer, control, sink, peak_gflops, started, data_tokens, data_hash };
    run.train(checkpoint.as_ref())
}

/// What every rank makes from the settings.
pub(super) struct Prepared {
    pub trainer: Trainer,
    tokenizer: Tokenizer,
    data_tokens: (u64, u64),
    data_hash: Option<String>,
}

/// Data, device and trainer. `existing` is the folder of a model that is there already.
pub(super) fn prepare(
    world: &World,
    settings: &mut Settings,
    existing: Option<&Path>,
    resumed: bool,
    sink: &mut Listener,
) -> anyhow::Result<Prepared> {
    let loaded = world.together(stage::load(settings, existing, resumed, sink))?;
    let (data_tokens, data_hash) = (loaded.material.tokens(), loaded.material.content_hash());
    ranks::agree_on_data(world, settings, &loaded)?;
    let device = world.together(open_device(world, settings, sink))?;
    let mixed = ranks::has_mixed_devices(world, &device)?;
    let made = trainer(world, device, settings, &loaded.config, &loaded.tokenizer, loaded.material);
    let mut trainer = world.together(made)?;
    trainer.mixed_devices = mixed;
    ranks::notice_uneven(world, settings, sink);
    Ok(Prepared { trainer, tokenizer: loaded.tokenizer, data_tokens, data_hash })
}

/// The settings, and the folder and checkpoint of a run that is resumed.
fn begun(
    vfs: &dyn Vfs,
    settings: Settings,
    start: &Start,
    sink: &mut Listener,
) -> anyhow::Result<(Settings, Option<(RunFolder, Checkpoint)>)> {
    let Some(run) = &start.resume else {
        // Not the last word, that is the lock's, but soon said.
        start.run.iter().try_for_each(|path| RunFolder::refuse_used(vfs, path))?;
        return Ok((settings, None));
    };
    // The lock comes before all else: whoever holds it may be changing what is there.
    let (folder, tidied) = RunFolder::open_for_resume(vfs, run)?;
    tidied.into_iter().for_each(|text| sink(Notification::Event(&Event::Warning { text })));
    let checkpoint = newest(vfs, run, sink)?;
    Ok((resumed_settings(run, settings, start.max_steps, checkpoint.step(), sink)?, Some((folder, checkpoint))))
}

fn trainer(
    world: &World,
    device: Device,
    settings: &Settings,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    material: StageData,
) -> anyhow::Result<Trainer> {
    match material {
        StageData::Source(source) => Trainer::in_world(world.clone(), device, settings, config, source),
        StageData::Task(task) => {
            let stops = tokenizer.end_tokens().ids().to_vec();
            let chat = settings.task.as_ref().is_some_and(|task| task.chat);
            let task_context = TaskContext { task, tokenizer: tokenizer.clone(), stops, chat };
            Trainer::reinforce_in_world(world.clone(), device, settings, config, task_context)
        }
    }
}

/// What a run would be.
pub struct DryRun {
    /// The settings, with what the data decides filled in.
    pub settings: Settings,
    /// The model's shape.
    pub config: ModelConfig,
    /// The memory that it takes, part by part.
    pub plan: MemoryPlan,
    /// Where it would run.
    pub device: Device,
}

/// What a run would take, without starting it.
///
/// # Errors
/// As [`train`], as far as it goes.
pub fn dry_run(settings: &Settings, sink: &mut Listener) -> anyhow::Result<DryRun> {
    settings.validate()?;
    let mut settings = settings.clone();
    let begin = Begin::resolve(&RealFs, &settings.start)?;
    let loaded = stage::load(&mut settings, begin.folder(), false, sink)?;
    let device = open_device(&World::solo(), &settings, sink)?;
    let plan = match settings.stage() {
        Stage::Grpo => MemoryPlan::reinforcement(&loaded.config, &settings, device.sizes())?,
        _ => MemoryPlan::training(&loaded.config, &settings.train, &settings.merge, device.sizes())?,
    };
    Ok(DryRun { settings, config: loaded.config, plan, device })
}

fn open_device(world: &World, settings: &Settings, sink: &mut Listener) -> anyhow::Result<Device> {
    let device = Device::open(&world.device(&settings.device)?)?;
    device.enable_tuning();
    let summary = device.summary();
    let named = settings.device.adapter.is_some();
    let mut warn = |text: String| {
        if driver_notes::is_new(&device, &text) {
            sink(Notification::Event(&Event::Warning { text }));
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

/// A run may go on on another device; the bits of its numbers may then differ from what they would have been.
fn notice_other_device(device: &Device, checkpoint: &Checkpoint, sink: &mut Listener) {
    let (before, now) = (&checkpoint.manifest.origin.adapter, device.summary().title());
    if *before != now {
        let text =
            format!("the run was computed by {before} and continues on {now}: results agree within rounding, not bit for bit");
        sink(Notification::Event(&Event::Warning { text }));
    }
}

fn fork_fits(begin: &Begin, settings: &Settings) -> anyhow::Result<()> {
    let Begin::Fork(checkpoint) = begin else { return Ok(()) };
    let (step, most) = (checkpoint.step(), settings.train.max_steps);
    anyhow::ensure!(step < most, "--max-steps {most}: the fork begins after {step} updates; name a number above that");
    Ok(())
}

fn newest(vfs: &dyn Vfs, run: &Path, sink: &mut Listener) -> anyhow::Result<Checkpoint> {
    let newest = checkpoint::newest_valid(vfs, run)?;
    for reason in newest.skipped {
        sink(Notification::Event(&Event::Warning { text: format!("passed over a checkpoint: {reason}") }));
    }
    newest.found.with_context(|| format!("{}: holds no sound checkpoint to resume from; start anew with --run", shown(run)))
}

/// The settings of a run, but what computes if that was named anew: it is no part of what is computed. And the number of updates, if
/// the run is to go on for more of them.
fn resumed_settings(
    run: &Path,
    typed: Settings,
    max_steps: Option<u64>,
    step: u64,
    sink: &mut Listener,
) -> anyhow::Result<Settings> {
    let frozen = frozen_settings(run, typed.stage())?;
    let mut settings = Settings { device: typed.device.or(frozen.device.clone()), ..frozen };
    let mut say = |text: String| sink(Notification::Event(&Event::Warning { text }));
    let Some(most) = max_steps else {
        if step >= settings.train.max_steps {
            say(format!("the run has made all of its {step} updates; --max-steps N lets it make more"));
        }
        return Ok(settings);
    };
    anyhow::ensure!(step < most, "--max-steps {most}: the run has made {step} updates; name a number above that");
    let next = |settings: &Settings| learning_rate(&settings.train, (step + 1).min(settings.train.max_steps));
    let (before, planned) = (settings.train.max_steps, next(&settings));
    extend(&mut settings, most);
    let rate = next(&settings);
    if most != before {
        let scheduler = format!("{:?}", settings.train.lr_scheduler).to_lowercase();
        let fixed = if rate == planned {
            String::new()
        } else {
            format!(": the next update's learning rate is {rate:.2e}, not {planned:.2e}")
        };
        say(format!("--max-steps {most}, not {before}: the {scheduler} schedule is laid over all {most} updates{fixed}"));
    }
    Ok(settings)
}

/// Another number of updates, which is not said in epochs.
fn extend(settings: &mut Settings, max_steps: u64) {
    settings.train.max_steps = max_steps;
    settings.sft.iter_mut().for_each(|sft| sft.num_train_epochs = 0.0);
}

/// Write the number down, for the next time that the run is resumed.
fn keep_extended(folder: &RunFolder, max_steps: u64) -> anyhow::Result<()> {
    let mut settings = Settings::read(&folder.config())?;
    extend(&mut settings, max_steps);
    write_whole(&folder.config(), toml::to_string(&settings)?.as_bytes())
}

/// The settings of a run, which must be one of this stage.
fn frozen_settings(run: &Path, stage: Stage) -> anyhow::Result<Settings> {
    let settings = Settings::read(&super::folder::config(run))?;
    let own = settings.stage();
    anyhow::ensure!(
        own == stage,
        "--resume {}: is a run of lehr {}; go on with it by `lehr {} --resume {}`",
        shown(run),
        own.name(),
        own.name(),
        shown(run)
    );
    Ok(settings)
}

fn new_folder(vfs: &dyn Vfs, start: &Start, settings: &Settings, begin: &Begin) -> anyhow::Result<RunFolder> {
    // Standard input cannot be read again, and relative paths would mean other files after a change of folder.
    let mut frozen = settings.clone();
    for path in frozen.data.data.iter_mut().chain(&mut frozen.data.val_data) {
        if path.as_os_str() != "-" {
            *path = std::path::absolute(&*path)?;
        }
    }
    if let Some(program) = frozen.task.as_mut().and_then(|task| task.grader_command.as_mut()) {
        // Found from this folder today, from any folder when the run is resumed.
        if Path::new(program.as_str()).is_file() {
            *program = std::path::absolute(&*program)?.display().to_string();
        }
    }
    for path in frozen.sft.iter_mut().flat_map(|sft| &mut sft.chat_template) {
        *path = std::path::absolute(&*path)?;
    }
    for spec in frozen.start.init.iter_mut().chain(&mut frozen.start.fork) {
        *spec = begin::absolute(spec)?;
    }
    frozen.start.parent = begin.parent();
    let text = toml::to_string(&frozen)?;
    match &start.run {
        Some(path) => RunFolder::create(vfs, path, &text),
        None => {
            let stage = settings.stage().name();
            let name = (1..).map(|i| PathBuf::from(format!("runs/{stage}-{i:03}"))).find(|p| !p.exists());
            RunFolder::create(vfs, &name.unwrap_or_default(), &text)
        }
    }
}
