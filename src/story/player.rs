//! Plays a story: a state machine that is polled, so that a terminal or a window can present it. Commands are run by a [`Backend`]; their
//! results are read from their files.
//!
//! `Reading` -`run_scene`-> `Running` -`poll`...-> `Results` -`next`-> `Reading` of the next scene ... `Done`. `stop` asks a trainer to save and
//! stop: `Stopped`; `run_scene` continues from there, or a new player does later.

use super::child::Child;
use super::compare::ComparisonVerdict;
use super::experiment::Experiment;
use super::facts::{Fact, Facts, StepOutcome, first_rows, printed};
use super::location::{StoryFolders, StoryLocation};
use super::script::{ConditionalText, StepKind, Story, StoryQuestion, StoryScene, StoryStep, path_names};
use super::templates::{self, FilledTable, TextBlock, blocks};
use super::time_estimate::{StoryProgress, TimeEstimate};
use crate::backend::{Backend, End};
use crate::config::DeviceSettings;
use crate::event::Command;
use crate::history::{RunFiles, RunState};
use crate::vfs::display_path;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of a player.
#[derive(Clone, Debug)]
pub struct PlayerOptions {
    /// Location of the files.
    pub place: StoryLocation,
    /// Random seed.
    pub seed: u64,
    /// Adapter of all commands.
    pub device: DeviceSettings,
    /// Starts commands of lehr.
    pub backend: Arc<dyn Backend>,
}

/// Phase of a story.
#[derive(Clone, Debug, PartialEq)]
pub enum StoryPhase {
    /// The scene's text and question are shown: `run_scene` runs the scene.
    Reading,
    /// Its commands are running: call `poll`.
    Running,
    /// Its results are available: `next`.
    Results,
    /// The story has ended.
    Done,
    /// It was stopped; training is saved. `run_scene` continues.
    Stopped,
    /// A command failed, with a one-line message.
    Failed(String),
}

/// The reply to a guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuessReply {
    /// Whether the guess is right.
    pub is_right: bool,
    /// "Right." or "Not quite." with the reason.
    pub text: String,
}

/// The state machine of a story.
#[derive(Debug)]
pub struct Player {
    story: Story,
    options: PlayerOptions,
    place: StoryFolders,
    scene: usize,
    /// Completed steps of the scene.
    passed: usize,
    phase: StoryPhase,
    child: Option<Child>,
    stopping: bool,
    outcomes: BTreeMap<String, Arc<StepOutcome>>,
    pace: TimeEstimate,
}

impl Player {
    /// Start a story, or continue an interrupted one.
    ///
    /// # Errors
    /// A folder that cannot be used.
    pub fn open(story: Story, options: PlayerOptions) -> Result<Self> {
        let place = StoryFolders::open(&story, &options.place, options.seed)?;
        Ok(Self {
            story,
            options,
            place,
            scene: 0,
            passed: 0,
            phase: StoryPhase::Reading,
            child: None,
            stopping: false,
            outcomes: BTreeMap::new(),
            pace: TimeEstimate::default(),
        })
    }

    /// The story.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Whether every step was completed, now or earlier.
    pub fn is_complete(&self) -> bool {
        self.story.steps().all(|step| self.place.is_done(step))
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// The number of the current scene, from 0.
    pub fn scene_number(&self) -> usize {
        self.scene
    }

    /// The current scene.
    pub fn scene(&self) -> &StoryScene {
        &self.story.scenes[self.scene]
    }

    /// Phase of the story.
    pub fn phase(&self) -> &StoryPhase {
        &self.phase
    }

    /// The running step.
    pub fn step(&self) -> Option<&StoryStep> {
        self.child.as_ref().and_then(|_| self.scene().steps.get(self.passed))
    }

    /// A training run of the story so far, by its step's name; updated during training.
    pub fn run(&self, name: &str) -> Option<&RunFiles> {
        if let Some(StepOutcome::Run(run)) = self.outcomes.get(name).map(Arc::as_ref) { Some(run) } else { None }
    }

    /// Training runs of this scene so far, in order.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &RunFiles)> {
        self.scene().steps.iter().filter_map(|s| Some((s.name.as_str(), self.run(&s.name)?)))
    }

    /// The output folder or file of a step.
    pub fn product(&self, step: &str) -> Option<PathBuf> {
        self.story.steps().find(|s| s.name == step).map(|s| self.place.product(s))
    }

    /// A step's command line, as typed by a user.
    ///
    /// # Errors
    /// An undefined name, which the story's own check finds first.
    pub fn command_line(&self, step: &StoryStep) -> Result<String> {
        let mut words = self.place.command_line(&self.story, step, self.options.seed)?;
        if let StepKind::Trainer = step.kind() {
            words.extend(["--run".into(), self.place.product(step).display().to_string()]);
        }
        let quoted = |word: &String| match word.contains([' ', '?', '&', '*', '$', '"', '\'']) || word.is_empty() {
            true => format!("'{}'", word.replace('\'', "'\\''")),
            false => word.clone(),
        };
        Ok(words.iter().fold("lehr".to_owned(), |line, word| line + " " + &quoted(word)))
    }

    /// The scene's text before the run.
    pub fn text(&self) -> Vec<TextBlock> {
        blocks(&self.scene().text)
    }

    /// The scene's question.
    pub fn question(&self) -> Option<&StoryQuestion> {
        self.scene().question.as_ref()
    }

    /// The answer to the question after the run.
    ///
    /// # Errors
    /// A number in it is not available.
    pub fn answer(&self) -> Result<Vec<TextBlock>> {
        self.conditional(self.question().map_or(&[], |q| &q.answer))
    }

    /// Text about the results.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn results(&self) -> Result<Vec<TextBlock>> {
        self.conditional(&self.scene().results)
    }

    /// Text at the end of the scene.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn closing(&self) -> Result<Vec<TextBlock>> {
        self.conditional(&self.scene().closing)
    }

    /// The scene's table: heading, rows.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn table(&self) -> Result<Option<FilledTable>> {
        let Some(table) = &self.scene().table else { return Ok(None) };
        let facts = self.facts();
        let fill = |cell: &String| templates::fill(cell, &facts);
        let rows = table.rows.iter().map(|row| row.iter().map(fill).collect()).collect::<Result<_>>()?;
        Ok(Some((table.head.clone(), rows)))
    }

    /// The reply to a choice, from 0; none if the question has no right answer.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn check_prediction(&self, choice: usize) -> Result<Option<GuessReply>> {
        self.question().map_or(Ok(None), |question| checked(question, choice, &self.facts()))
    }

    /// A number or text of a step, `step.fact`.
    ///
    /// # Errors
    /// It is not available.
    pub fn fact(&self, name: &str) -> Result<Fact> {
        let (step, fact) = name.split_once('.').with_context(|| format!("{name}: unknown fact; write STEP.FACT"))?;
        let outcome = self.outcomes.get(step).with_context(|| format!("{name}: no step {step} has been run"))?;
        outcome.fact(fact).with_context(|| name.to_owned())
    }

    /// Everything that texts may name at this point.
    fn facts(&self) -> Facts {
        let parameters = self.story.parameters.iter().map(|(name, p)| (name.clone(), p.value.clone()));
        let mut facts = Facts::new(&self.story.values, &self.story.compare, parameters);
        self.outcomes.iter().for_each(|(step, outcome)| facts.add(step, outcome.clone()));
        facts
    }

    fn conditional(&self, words: &[ConditionalText]) -> Result<Vec<TextBlock>> {
        let facts = self.facts();
        let mut out = Vec::new();
        for conditional in words {
            let Some(text) = chosen(conditional, &facts)? else { continue };
            // Numbers are filled in after the text was split into blocks, so that model output cannot imitate the lesson's structure.
            for block in blocks(text) {
                let fill = |text: &str| templates::fill(text, &facts);
                out.push(match block {
                    TextBlock::Paragraph(words) => TextBlock::Paragraph(fill(&words)?),
                    TextBlock::Lines(lines) => TextBlock::Lines(lines.iter().map(|l| fill(l)).collect::<Result<_>>()?),
                });
            }
        }
        Ok(out)
    }

    /// Set a parameter; a scene that was run with the old value can be run again.
    ///
    /// # Errors
    /// A step is running, or the value is not valid.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        if !matches!(self.phase, StoryPhase::Reading | StoryPhase::Results | StoryPhase::Done) {
            bail!("{name}: can be changed once what runs has ended");
        }
        if self.story.parameters.get(name).is_some_and(|p| p.value == value) {
            return Ok(());
        }
        self.story.set(name, value)?;
        (self.phase, self.passed) = (StoryPhase::Reading, 0);
        Ok(())
    }

    /// Estimated seconds of shared steps that have not been run yet; none if all have.
    pub fn preparation(&self) -> Option<f64> {
        let missing = self.story.steps().filter(|s| s.shared && !self.place.is_done(s)).map(|s| s.seconds).sum::<f64>();
        Some(missing).filter(|seconds| *seconds > 1.0)
    }

    /// Progress of the story.
    pub fn progress(&self) -> StoryProgress {
        let steps: Vec<&StoryStep> = self.story.steps().collect();
        let before: usize = self.story.scenes[..self.scene].iter().map(|s| s.steps.len()).sum();
        let later = steps.iter().skip(before + self.passed + usize::from(self.child.is_some()));
        let later = later.filter(|s| !self.place.is_done(s)).map(|s| s.seconds).sum();
        let share = self.step().and_then(|step| share_of(self.run(&step.name)?));
        self.pace.progress(self.step(), share, later)
    }

    /// Run the scene.
    pub fn run_scene(&mut self) {
        if matches!(self.phase, StoryPhase::Reading | StoryPhase::Stopped) {
            self.stopping = false;
            self.phase = StoryPhase::Running;
        }
    }

    /// Go to the next scene.
    pub fn next(&mut self) {
        if self.phase == StoryPhase::Results {
            let last = self.scene + 1 == self.story.scenes.len();
            (self.scene, self.passed) = if last { (self.scene, self.passed) } else { (self.scene + 1, 0) };
            self.phase = if last { StoryPhase::Done } else { StoryPhase::Reading };
        }
    }

    /// Save and stop; the phase becomes `Stopped` once that is done.
    pub fn stop(&mut self) {
        self.stopping = true;
        match &mut self.child {
            Some(child) => child.stop(),
            None if self.phase == StoryPhase::Running => self.phase = StoryPhase::Stopped,
            None => {}
        }
    }

    /// Send a command to the running trainer.
    ///
    /// # Errors
    /// No trainer is running.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        self.child.as_mut().context("nothing is being trained")?.send(command)
    }

    /// Whether the running step can be paused: a trainer.
    pub fn can_pause(&self) -> bool {
        self.phase == StoryPhase::Running && self.step().is_some_and(|step| step.kind() == StepKind::Trainer)
    }

    /// Whether the running trainer is paused.
    pub fn is_paused(&self) -> bool {
        self.step().and_then(|step| self.run(&step.name)).is_some_and(|run| run.history.state == RunState::Paused)
    }

    /// Pause or resume the running trainer.
    ///
    /// # Errors
    /// No trainer is running.
    pub fn pause(&mut self, paused: bool) -> Result<()> {
        self.send(if paused { &Command::Pause } else { &Command::Resume })?;
        if paused {
            self.pace.pause()
        } else {
            self.pace.resumes()
        }
        Ok(())
    }

    /// The experiment by hand of this scene, once it can be started.
    pub fn experiment(&self) -> Option<Experiment> {
        let is_own =
            |step: &&StoryStep| step.kind() == StepKind::Trainer && !step.shared && !step.run.iter().any(|w| w == "--fork");
        let step = self.scene().steps.iter().rev().find(is_own)?;
        let is_there = |name: &str| self.story.steps().find(|s| s.name == name).is_none_or(|s| self.place.is_done(s));
        let mut names = step.run.iter().flat_map(|word| path_names(word).unwrap_or_default());
        if !names.all(is_there) {
            return None;
        }
        let mut words = self.place.command_line(&self.story, step, self.options.seed).ok()?;
        words.extend(self.options.device.words());
        Experiment::new(words, self.dir())
    }

    /// Check the running step and start the next one. Returns whether anything has changed. An error becomes the phase `Failed`.
    pub fn poll(&mut self) -> bool {
        if self.phase != StoryPhase::Running {
            return false;
        }
        self.advance().unwrap_or_else(|error| {
            self.child = None;
            self.phase = StoryPhase::Failed(format!("{error:#}"));
            true
        })
    }

    fn advance(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return self.start_step() };
        // Checked before the files are read, so that an ended child's files are read completely.
        let ended = child.ended()?;
        let step = &self.story.scenes[self.scene].steps[self.passed];
        let mut changed = false;
        if let Some(StepOutcome::Run(run)) = self.outcomes.get_mut(&step.name).and_then(Arc::get_mut) {
            changed = match ended {
                None => run.follow(0.02)?.changed,
                Some(_) => {
                    while run.follow(f64::INFINITY)?.more {}
                    true
                }
            };
        }
        let Some(end) = ended else { return Ok(changed) };
        self.child = None;
        match end {
            End::Done => {}
            // Errors of a command killed by a stop are ignored.
            End::Failed(why) if !self.stopping => bail!("{}: {why}", step.doing),
            End::Interrupted | End::Failed(_) => {
                self.phase = StoryPhase::Stopped;
                return Ok(true);
            }
        }
        let step = step.clone();
        self.pace.finish_step(step.seconds);
        self.finish(&step)?;
        Ok(true)
    }

    /// Start the next step, if there is one.
    fn start_step(&mut self) -> Result<bool> {
        let Some(step) = self.scene().steps.get(self.passed).cloned() else {
            self.phase = StoryPhase::Results;
            return Ok(true);
        };
        if self.place.is_done(&step) {
            self.load(&step)?;
            self.passed += 1;
            return Ok(true);
        }
        let product = self.place.product(&step);
        let mut words = self.place.command_line(&self.story, &step, self.options.seed)?;
        match step.kind() {
            StepKind::Trainer => {
                match super::child::attempt(&product)? {
                    super::child::EarlierAttempt::Complete => {
                        self.finish(&step)?;
                        return Ok(true);
                    }
                    super::child::EarlierAttempt::Resumable => {
                        words = vec![words[0].clone(), "--resume".into(), product.display().to_string()];
                    }
                    super::child::EarlierAttempt::Nothing => {
                        words.extend(["--run".into(), product.display().to_string()]);
                        words.extend(self.options.device.words());
                    }
                }
                words.push("--control".into());
                let run = StepOutcome::Run(Box::new(RunFiles::new(&product)));
                self.outcomes.insert(step.name.clone(), Arc::new(run));
            }
            StepKind::Rows => {}
            kind => {
                words.push("--json".into());
                if kind == StepKind::Folder {
                    super::child::remove(&product)?;
                    words.extend(["--out".into(), product.display().to_string()]);
                }
                if words[0] != "merge" {
                    words.extend(self.options.device.words());
                }
            }
        }
        let child = Child::start(self.options.backend.as_ref(), &words, &self.place.printed(&step), &self.place.log(&step))?;
        self.child = Some(if step.kind() == StepKind::Trainer { child.listening() } else { child });
        self.pace.begins();
        Ok(true)
    }

    /// Record a completed step.
    fn finish(&mut self, step: &StoryStep) -> Result<()> {
        self.load(step)?;
        self.place.done(step)?;
        self.passed += 1;
        Ok(())
    }

    /// Read the results of a step.
    fn load(&mut self, step: &StoryStep) -> Result<()> {
        let outcome = match step.kind() {
            StepKind::Trainer => StepOutcome::Run(Box::new(RunFiles::read(&self.place.product(step))?)),
            StepKind::Rows => {
                let path = self.place.product(step);
                let rows = first_rows(&path).with_context(|| display_path(&path))?;
                StepOutcome::Rows(path, rows)
            }
            StepKind::Folder | StepKind::Json => StepOutcome::Printed(printed(&self.place.printed(step))?),
        };
        self.outcomes.insert(step.name.clone(), Arc::new(outcome));
        Ok(())
    }
}

/// The letter of a question that a run leaves open.
const UNDECIDED: &str = "?";

/// The reply to a choice, from 0; none if the question has no right answer.
pub(super) fn checked(question: &StoryQuestion, choice: usize, facts: &Facts) -> Result<Option<GuessReply>> {
    let Some(right) = &question.right else { return Ok(None) };
    let letter = templates::text(right, facts)?;
    if letter == UNDECIDED {
        return Ok(Some(GuessReply { is_right: false, text: "This run does not decide the question.".into() }));
    }
    let right = ('a'..='z').position(|c| letter == c.to_string());
    if right == Some(choice) {
        return Ok(Some(GuessReply { is_right: true, text: "Right.".into() }));
    }
    let reason = templates::fill(question.reasons.get(choice).map_or("", String::as_str), facts)?;
    let none = if right.is_none() { "None of the choices describes this run." } else { "" };
    let parts = ["Not quite.", reason.trim(), none];
    let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    Ok(Some(GuessReply { is_right: false, text }))
}

/// The selected text, if any.
pub(super) fn chosen<'a>(conditional: &'a ConditionalText, facts: &Facts) -> Result<Option<&'a str>> {
    let text = match (&conditional.by, &conditional.when) {
        (Some(by), _) => match facts.difference(by)?.verdict {
            ComparisonVerdict::Better => &conditional.better,
            ComparisonVerdict::Worse => &conditional.worse,
            ComparisonVerdict::Inconclusive => &conditional.inconclusive,
        },
        (None, Some(when)) if !templates::condition_holds(when, facts)? => &conditional.otherwise,
        (None, _) => &conditional.say,
    };
    Ok(text.as_deref())
}

/// Completed share of a run's updates.
fn share_of(run: &RunFiles) -> Option<f64> {
    let started = run.history.started.as_ref()?;
    let planned = started.max_steps.saturating_sub(started.step).max(1);
    Some((run.history.step.saturating_sub(started.step)) as f64 / planned as f64)
}
