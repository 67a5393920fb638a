//! Data of a stage: text for pre-training, rows of messages for fine-tuning, questions for reinforcement learning. Model and tokenizer are
//! loaded first.

use super::emitter::{Listener, Notification};
use crate::config::{Lora, ModelConfig, Settings, SftSettings, Stage, WeightsDtype};
use crate::data::tasks;
use crate::data::{self, Notices, Source, TextSource, TokenCache, Tokenizer, chat};
use crate::device::ElementType;
use crate::event::Event;
use crate::merge::MergeSpec;
use crate::model_files::adapter::{self, AdapterFolder};
use crate::model_files::hf_config;
use crate::model_files::weight_files::storage_element;
use crate::train::reinforce::TaskContext;
use crate::vfs::{Vfs, unix_time};
use anyhow::{Context as _, Result, ensure};
use std::path::Path;

/// Default maximum length of a fine-tuning row, if the model's context is longer: TRL's `max_length`.
const MOST_SEQ_LEN: usize = 1024;

/// A stage's data, with its tokenizer and model shape.
pub(super) struct LoadedData {
    pub tokenizer: Tokenizer,
    pub material: StageData,
    pub config: ModelConfig,
}

/// Training data of a stage.
pub(super) enum StageData {
    /// Batches.
    Source(Box<dyn Source>),
    /// An RL task.
    Task(TaskContext),
}

impl StageData {
    /// Hash of the content.
    pub fn content_hash(&self) -> Option<String> {
        match self {
            Self::Source(source) => source.content_hash(),
            Self::Task(task_context) => task_context.task.content_hash(),
        }
    }

    /// Sizes used to detect changed data: (tokens for training, for validation); for a task, the evaluation questions.
    pub fn tokens(&self) -> (u64, u64) {
        match self {
            Self::Source(source) => source.tokens(),
            Self::Task(task_context) => (0, task_context.task.eval_questions()),
        }
    }
}

/// Load data, tokenizer and shape. `existing` is the folder of an existing model. Fills in settings that depend on the data (updates from
/// epochs).
pub(super) fn load(
    vfs: &dyn Vfs,
    settings: &mut Settings,
    existing: Option<&Path>,
    resumed: bool,
    listener: &mut Listener,
) -> Result<LoadedData> {
    let mut notices = Notices::new();
    let loaded = match (settings.sft.clone(), settings.stage()) {
        (_, Stage::Grpo) => questions(vfs, settings, existing, resumed, &mut notices),
        (Some(sft), _) => rows(vfs, settings, &sft, existing, resumed, &mut notices, listener),
        (None, _) => text(vfs, settings, existing, resumed, &mut notices, listener),
    };
    notices.take().into_iter().for_each(|text| listener(Notification::Event(&Event::Warning { text })));
    let mut loaded = loaded?;
    if let Some(text) = loaded.tokenizer.class_note() {
        listener(Notification::Event(&Event::Warning { text: text.to_owned() }));
    }
    if let Some(dir) = existing.filter(|_| settings.has_frozen_weights()) {
        let dtype = settings.train.dtype.unwrap_or_default();
        let exact = if dtype == WeightsDtype::Auto { untrained_element(vfs, dir, settings, resumed)? } else { ElementType::F32 };
        settings.train.dtype = Some(dtype.fixed(exact));
    }
    loaded.config.lora = settings.lora.adapters()?.map(|lora| Lora { base: settings.train.frozen_element(), ..lora });
    Ok(loaded)
}

/// The smallest type that stores those weights unchanged that a run does not train: the model it starts from, or the base model of a
/// checkpoint with adapters that it continues.
fn untrained_element(vfs: &dyn Vfs, dir: &Path, settings: &Settings, resumed: bool) -> Result<ElementType> {
    let start = &settings.start;
    if start.init.as_deref().is_some_and(MergeSpec::is_merge) {
        return Ok(ElementType::F32);
    }
    let is_continued = resumed || start.fork.is_some();
    match is_continued && adapter::is_adapter(vfs, dir)? {
        true => storage_element(vfs, AdapterFolder::open(vfs, dir)?.base()?),
        false => storage_element(vfs, dir),
    }
}

/// The training and validation data of a run, from its frozen settings and one of its checkpoints, to evaluate other weights on the same
/// validation split.
///
/// # Errors
/// Text or rows that no longer exist or do not match.
pub fn source(vfs: &dyn Vfs, settings: &Settings, checkpoint: &Path, listener: &mut Listener) -> Result<Box<dyn Source>> {
    match load(vfs, &mut settings.clone(), Some(checkpoint), true, listener)?.material {
        StageData::Source(source) => Ok(source),
        StageData::Task(TaskContext { task, .. }) => {
            anyhow::bail!("a run of lehr grpo on {} has no validation text; evaluate it with lehr eval --task", task.name())
        }
    }
}

/// A model's tokenizer and shape.
fn model(vfs: &dyn Vfs, dir: &Path) -> Result<(Tokenizer, ModelConfig)> {
    let config = hf_config::of_model(vfs, dir)?;
    Ok((Tokenizer::from_folder(vfs, dir)?, config.model))
}

/// Report progress to a listener, without cancellation: before training begins, a signal ends the process directly.
fn reported(listener: &mut Listener) -> impl FnMut(&str, u64, u64) -> Result<bool> {
    move |what, done, all| {
        listener(Notification::Progress(what, done, all));
        Ok(true)
    }
}

/// The error of a resumed run whose data was valid at its start.
fn not_the_same(resumed: bool, error: anyhow::Error) -> anyhow::Error {
    match resumed {
        true => anyhow::anyhow!(
            "the data of this run differs from the data at its start: {error:#}; put it back, or start a new run with --init"
        ),
        false => error,
    }
}

fn text(
    vfs: &dyn Vfs,
    settings: &Settings,
    existing: Option<&Path>,
    resumed: bool,
    notices: &mut Notices,
    listener: &mut Listener,
) -> Result<LoadedData> {
    let (tokenizer, shape) = existing.map(|dir| model(vfs, dir)).transpose()?.unzip();
    let progress = &mut reported(listener);
    let (tokenizer, dataset) =
        data::load(vfs, &settings.data, tokenizer, &TokenCache::User, notices, progress).map_err(|e| not_the_same(resumed, e))?;
    let config = shape.unwrap_or_else(|| settings.model.config(tokenizer.vocab_size(), settings.train.seq_len));
    check(settings, &config, &tokenizer)?;
    let source = TextSource::new(dataset, settings.train.seq_len, settings.train.seed)?;
    Ok(LoadedData { tokenizer, material: StageData::Source(Box::new(source)), config })
}

/// The RL task, with lengths that fit the model's context.
fn questions(
    vfs: &dyn Vfs,
    settings: &mut Settings,
    existing: Option<&Path>,
    resumed: bool,
    notices: &mut Notices,
) -> Result<LoadedData> {
    let dir =
        existing.context("--init: reinforcement learning starts from a model; name its folder, or a run (RUN, RUN@STEP)")?;
    let (tokenizer, config) = model(vfs, dir)?;
    let (context, why) = config.usable_context();
    if let Some(rollout) = &mut settings.rollout {
        let most = rollout.max_completion_length;
        ensure!(
            most < context,
            "--max-completion-length {most}: this model takes at most {context} tokens at once, prompt included ({why})"
        );
        if rollout.max_prompt_length > context - most {
            rollout.max_prompt_length = context - most;
            notices.push(format!(
                "prompts of up to {} tokens: this model takes at most {context} at once ({why}), with --max-completion-length {most}",
                context - most
            ));
        }
        if settings.train.seq_len == 0 {
            settings.train.seq_len = rollout.max_prompt_length + most;
        }
        ensure!(
            settings.train.seq_len >= rollout.max_prompt_length + most,
            "--seq-len {}: must hold a prompt and its completion, {} + {most} tokens",
            settings.train.seq_len,
            rollout.max_prompt_length
        );
    }
    check(settings, &config, &tokenizer)?;
    let day = settings.task.as_ref().and_then(|task| task.date.clone()).unwrap_or_else(today);
    let date = date(&day)?;
    if let Some(task) = &mut settings.task {
        task.date = Some(day);
    }
    let task = settings.task.clone().unwrap_or_default();
    let opened = tasks::open(vfs, &task, &settings.data, settings.train.seed, Some(&tokenizer), date, notices);
    let task = opened.map_err(|e| not_the_same(resumed, e))?;
    settings.validate()?;
    let chat = settings.task.as_ref().is_some_and(|task| task.chat);
    let task_context = TaskContext { task, tokenizer: tokenizer.clone(), stops: tokenizer.end_tokens().ids().to_vec(), chat };
    Ok(LoadedData { tokenizer, material: StageData::Task(task_context), config })
}

fn rows(
    vfs: &dyn Vfs,
    settings: &mut Settings,
    sft: &SftSettings,
    existing: Option<&Path>,
    resumed: bool,
    notices: &mut Notices,
    listener: &mut Listener,
) -> Result<LoadedData> {
    let dir = existing.context("--init: fine-tuning starts from a model; name its folder, or a run (RUN, RUN@STEP)")?;
    let (tokenizer, config) = model(vfs, dir)?;
    let train = &mut settings.train;
    if train.seq_len == 0 {
        train.seq_len = config.usable_context().0.min(MOST_SEQ_LEN);
    }
    check(settings, &config, &tokenizer)?;
    let day = sft.date.clone().unwrap_or_else(today);
    let date = date(&day)?;
    // A resumed run has its template in its checkpoint; the file may have changed.
    let file = sft.chat_template.as_deref().filter(|_| !resumed);
    let given = file.map(|file| chat::read_template(vfs, file)).transpose()?;
    let (tokenizer, template) = chat::template_of(&tokenizer, given, date)?;
    let from = chat::ChatInput {
        vfs,
        tokenizer: &tokenizer,
        template: &template,
        seq_len: settings.train.seq_len,
        seed: settings.train.seed,
    };
    let progress = &mut reported(listener);
    let loaded = chat::load(&settings.data, sft, &from, notices, progress);
    let mut source = loaded.map_err(|e| not_the_same(resumed, e))?;
    plan_updates(settings, sft.num_train_epochs, &mut source, notices);
    if let Some(sft) = &mut settings.sft {
        sft.date = Some(day);
    }
    settings.validate()?;
    Ok(LoadedData { tokenizer, material: StageData::Source(Box::new(source)), config })
}

/// Convert epochs to updates, and limit the warm-up to them.
fn plan_updates(settings: &mut Settings, epochs: f64, source: &mut chat::ChatSource, notices: &mut Notices) {
    let (train, rows) = (&mut settings.train, source.rows_per_epoch());
    if rows < train.batch_size as u64 {
        notices.push(format!(
            "an epoch fills {rows} sequences of {} tokens, fewer than --batch-size {}: a step sees rows more than once",
            train.seq_len, train.batch_size
        ));
    }
    if epochs == 0.0 {
        return;
    }
    train.max_steps = source.end_after(epochs, train.batch_size);
    let most = train.max_steps / 10;
    if train.warmup_steps > most {
        notices.push(format!(
            "--warmup-steps {}: {most} instead, a tenth of the {} steps that {epochs} epochs take",
            train.warmup_steps, train.max_steps
        ));
        train.warmup_steps = most;
    }
}

fn check(settings: &Settings, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    tokenizer.check_model(config.vocab_size)?;
    if let Some(problem) = config.problems().into_iter().next() {
        anyhow::bail!("{problem}");
    }
    let (most, why) = config.usable_context();
    ensure!(
        settings.train.seq_len <= most,
        "--seq-len {}: this model takes at most {most} tokens at once ({why}); use at most that",
        settings.train.seq_len
    );
    Ok(())
}

/// Unix time of a date, in seconds.
fn date(day: &str) -> Result<i64> {
    chat::parse_date(day).with_context(|| format!("--date {}: must be a day, such as 2026-11-25", day.escape_debug()))
}

/// Today, in UTC, as 2026-11-25.
pub fn today() -> String {
    chat::date(unix_time() as i64)
}
