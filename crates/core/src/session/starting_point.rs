//! Starting point of a run: nothing, a model folder, a checkpoint of a run, a merge of checkpoints, or a fork of another run.

use super::save;
use crate::config::{OptimizerState, StartSettings};
use crate::merge::{self, MergeInputs, MergeSpec, MergeWindow, Verification};
use crate::model_files::checkpoint::{self, Checkpoint};
use crate::model_files::gguf::is_gguf;
use crate::model_files::snapshot;
use crate::model_files::weight_files::WeightFiles;
use crate::run_folder::checkpoints::{self, split_step};
use crate::run_folder::{self, is_run};
use crate::train::Trainer;
use crate::vfs::{Vfs, display_path};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// A starting point, found and verified.
pub enum StartingPoint {
    /// Random weights.
    Nothing,
    /// Weights of a folder (lehr or Hugging Face) or of a GGUF file.
    Model {
        /// The folder or file.
        dir: PathBuf,
        /// The checkpoint, if it is one of a run.
        checkpoint: Option<Box<Checkpoint>>,
    },
    /// The merge of a window of a run's checkpoints (PMA-init).
    Merge(Box<MergeStart>),
    /// The full state of a checkpoint: weights, moments, step, data order.
    Fork(Box<Checkpoint>),
    /// The newest checkpoint of the run itself, which is resumed.
    Resume(Box<Checkpoint>),
}

/// A merge used as starting point.
pub struct MergeStart {
    spec: MergeSpec,
    window: MergeWindow,
    inputs: MergeInputs,
    /// The newest checkpoint, whose moments may be used.
    newest: Checkpoint,
}

impl MergeStart {
    fn resolve(vfs: &dyn Vfs, text: &str) -> Result<Self> {
        let spec = MergeSpec::parse(text)?;
        let window = merge::choose(vfs, &spec.run, &spec.window)?;
        // The weights must match before anything else is done.
        spec.rule.weights(window.checkpoints.len())?;
        let inputs = MergeInputs::open(vfs, &window.folders(), Verification::Sizes)?;
        let newest = Checkpoint::open(vfs, &inputs.newest().dir)?;
        Ok(Self { spec, window, inputs, newest })
    }

    fn parent(&self) -> String {
        let steps: Vec<String> = self.window.steps().iter().map(u64::to_string).collect();
        format!("{} of {}@{}", self.spec.rule, self.newest.manifest.origin.run_id, steps.join(","))
    }
}

impl StartingPoint {
    /// Find the starting point that the settings name.
    ///
    /// # Errors
    /// One line that names the flag, what is missing, and what exists.
    pub fn resolve(vfs: &dyn Vfs, start: &StartSettings) -> Result<Self> {
        let keep = start.init_optimizer == Some(OptimizerState::Keep);
        if let Some(fork) = &start.fork {
            let checkpoint = checkpoint_of(vfs, fork, "--fork")?;
            checkpoint.optimizer(vfs).context("--fork")?;
            return Ok(Self::Fork(Box::new(checkpoint)));
        }
        let Some(init) = &start.init else {
            ensure!(
                start.init_optimizer.is_none(),
                "--init-optimizer: says what happens to the moments after --init or --fork; name one"
            );
            return Ok(Self::Nothing);
        };
        if MergeSpec::is_merge(init) {
            let start_from = MergeStart::resolve(vfs, init).context("--init")?;
            if keep {
                start_from.newest.optimizer(vfs).context("--init-optimizer keep")?;
            }
            return Ok(Self::Merge(Box::new(start_from)));
        }
        let (path, step) = split_step(init);
        let start_from = if step.is_some() || is_run(vfs, path)? {
            let checkpoint = checkpoint_of(vfs, init, "--init")?;
            Self::Model { dir: checkpoint.path.clone(), checkpoint: Some(Box::new(checkpoint)) }
        } else {
            let dir = snapshot(vfs, Path::new(init)).context("--init")?;
            ensure!(
                vfs.is_dir(&dir)? || is_gguf(vfs, &dir)?,
                "--init {}: there is no such folder or GGUF file",
                display_path(&dir)
            );
            let checkpoint = Checkpoint::open(vfs, &dir).ok().map(Box::new);
            Self::Model { dir, checkpoint }
        };
        if let (true, Self::Model { dir, checkpoint }) = (keep, &start_from) {
            let moments = checkpoint.as_ref().with_context(|| {
                format!(
                    "--init-optimizer keep: {} is not a checkpoint of a run, so that it holds no moments; use fresh",
                    display_path(dir)
                )
            })?;
            moments.optimizer(vfs).context("--init-optimizer keep")?;
        }
        Ok(start_from)
    }

    /// The folder that provides shape and tokenizer.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Nothing => None,
            Self::Model { dir, .. } => Some(dir),
            Self::Merge(merge) => Some(&merge.newest.path),
            Self::Fork(checkpoint) | Self::Resume(checkpoint) => Some(&checkpoint.path),
        }
    }

    /// Lineage for the manifest: `RUN@STEP`, `sma of RUN@STEP,STEP,...`, or a folder's name.
    pub fn parent(&self) -> Option<String> {
        match self {
            // A resumed run has its parent in its settings.
            Self::Nothing | Self::Resume(_) => None,
            Self::Model { checkpoint: Some(checkpoint), .. } | Self::Fork(checkpoint) => Some(name_of(checkpoint)),
            Self::Merge(merge) => Some(merge.parent()),
            Self::Model { dir, checkpoint: None } => dir.file_name().map(|name| name.to_string_lossy().into_owned()),
        }
    }

    /// The checkpoint of a resumed run.
    pub fn resumed(&self) -> Option<&Checkpoint> {
        if let Self::Resume(checkpoint) = self { Some(checkpoint) } else { None }
    }

    /// The run whose checkpoint is continued by a fork or a resumed run.
    pub fn continued_run(&self) -> Option<&Path> {
        match self {
            Self::Fork(checkpoint) | Self::Resume(checkpoint) => checkpoint.path.parent().and_then(Path::parent),
            Self::Nothing | Self::Model { .. } | Self::Merge(_) => None,
        }
    }

    /// Load it onto the device. For a resumed run, returns the non-tensor data of its checkpoint.
    ///
    /// # Errors
    /// Files that do not match the model, or cannot be read.
    pub fn apply(
        &self,
        vfs: &dyn Vfs,
        trainer: &mut Trainer,
        optimizer: Option<OptimizerState>,
    ) -> Result<Option<save::TrainerFile>> {
        let keep = optimizer == Some(OptimizerState::Keep);
        match self {
            Self::Nothing => trainer.initialise(),
            Self::Model { dir, checkpoint } => {
                trainer.initialise_adapters();
                trainer.model.load(&trainer.device, &WeightFiles::open(vfs, dir)?)?;
                if let (true, Some(checkpoint)) = (keep, checkpoint) {
                    keep_moments(vfs, checkpoint, trainer)?;
                }
            }
            Self::Merge(merge) => {
                trainer.initialise_adapters();
                merge.inputs.merge(&merge.spec.rule)?.load(&trainer.device, &trainer.model)?;
                if keep {
                    keep_moments(vfs, &merge.newest, trainer)?;
                }
            }
            Self::Fork(checkpoint) => {
                save::restore(vfs, checkpoint, trainer)?;
                // Live settings are the parent's; the child has its own settings.
                trainer.state.hyper = Default::default();
                trainer.state.rescue_scale = None;
                if optimizer == Some(OptimizerState::Fresh) {
                    trainer.forget_moments()?;
                }
            }
            Self::Resume(checkpoint) => return save::restore(vfs, checkpoint, trainer).map(Some),
        }
        Ok(None)
    }
}

fn keep_moments(vfs: &dyn Vfs, checkpoint: &Checkpoint, trainer: &mut Trainer) -> Result<()> {
    save::restore_moments(vfs, checkpoint, trainer)?;
    let file: save::TrainerFile = checkpoint.trainer(vfs)?;
    trainer.state.optimizer_steps = file.state.optimizer_steps;
    Ok(())
}

/// A checkpoint as `RUN@STEP`.
fn name_of(checkpoint: &Checkpoint) -> String {
    format!("{}@{}", checkpoint.manifest.origin.run_id, checkpoint.step())
}

/// The checkpoint for `RUN@STEP` or `RUN` (its newest valid one).
fn checkpoint_of(vfs: &dyn Vfs, spec: &str, flag: &str) -> Result<Checkpoint> {
    let (path, step) = split_step(spec);
    let at = display_path(path);
    ensure!(vfs.is_dir(path)?, "{flag} {at}: there is no such run folder");
    if vfs.is_file(&path.join(checkpoint::MANIFEST))? {
        ensure!(step.is_none(), "{flag} {at}: is a checkpoint already; leave the @ and the step out");
        return Checkpoint::open(vfs, path).with_context(|| flag.to_owned());
    }
    ensure!(is_run(vfs, path)?, "{flag} {at}: is not a run folder (it holds no config.toml)");
    let Some(step) = step else {
        return checkpoints::newest_of(vfs, path).with_context(|| flag.to_owned());
    };
    let dir = checkpoints::folder(path).join(checkpoint::step_name(step));
    if vfs.kind(&dir).with_context(|| format!("{flag} {at}"))?.is_none() {
        let mut steps: Vec<String> = checkpoints::list(vfs, path)?.iter().map(|(step, _)| step.to_string()).collect();
        steps.reverse();
        let there = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
        bail!("{flag} {at}@{step}: this run has no checkpoint at step {step}; there are: {there}");
    }
    Checkpoint::open(vfs, &dir).with_context(|| flag.to_owned())
}

/// The settings of the run named by `--fork`.
///
/// # Errors
/// No run folder.
pub fn settings_of_fork(vfs: &dyn Vfs, spec: &str) -> Result<PathBuf> {
    let (path, _) = split_step(spec);
    let run = match vfs.is_file(&path.join(checkpoint::MANIFEST))? {
        // The run folder of a checkpoint is two levels up.
        true => path.parent().and_then(Path::parent).unwrap_or(path),
        false => path,
    };
    let config = run_folder::config(run);
    ensure!(vfs.is_file(&config)?, "--fork {}: is not a run folder (it holds no config.toml)", display_path(path));
    Ok(config)
}

/// The starting point with an absolute path, independent of the current folder.
pub fn absolute(spec: &str) -> Result<String> {
    let (scheme, rest) = spec.strip_prefix("merge:").map_or(("", spec), |rest| ("merge:", rest));
    let (path, query) = if scheme.is_empty() { (rest, "") } else { rest.split_at(rest.find('?').unwrap_or(rest.len())) };
    let absolute = std::path::absolute(path)?;
    Ok(format!("{scheme}{}{query}", absolute.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_become_absolute() {
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        assert_eq!(absolute("merge:runs/a?last=3").unwrap(), format!("merge:{here}/runs/a?last=3"));
        assert_eq!(absolute("runs/a@7").unwrap(), format!("{here}/runs/a@7"));
    }
}
