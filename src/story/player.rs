//! Plays a story: a state machine that is polled, so that a terminal or a window can tell it. Commands run as child processes of this
//! very program; what they do is read from their files.
//!
//! `Reading` -`go`-> `Running` -`poll`...-> `Seen` -`next`-> `Reading` of the next scene ... `Done`. `stop` asks a trainer to save and leave:
//! `Stopped`; `go` goes on from there, as does a new player later.

use super::child::Child;
use super::facts::{Outcome, first_rows, printed};
use super::formula::{Condition, Formula};
use super::pace::{Pace, Progress};
use super::place::{Place, Where};
use super::script::{Question, Said, Scene, Step, StepKind, Story};
use super::text::{Block, Fact, Filled, Template, blocks, number};
use crate::config::DeviceSettings;
use crate::event::Command;
use crate::history::RunFiles;
use crate::vfs::shown;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where files go.
    pub place: Where,
    /// Seed of all that is random.
    pub seed: u64,
    /// Adapter of all commands.
    pub device: DeviceSettings,
    /// The program.
    pub lehr: PathBuf,
}

/// How the story stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The scene's words are to be read, its question to be answered: `go` runs it.
    Reading,
    /// Its commands run: `poll`.
    Running,
    /// All is there to be seen: `next`.
    Seen,
    /// The story is over.
    Done,
    /// It was stopped; what was trained is saved. `go` goes on.
    Stopped,
    /// A command failed: one line.
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub struct Player {
    story: Story,
    options: Options,
    place: Place,
    scene: usize,
    /// Steps of the scene that are behind us.
    passed: usize,
    phase: Phase,
    child: Option<Child>,
    stopping: bool,
    outcomes: BTreeMap<String, Outcome>,
    pace: Pace,
}

impl Player {
    /// Begin a story, or go on with one that was interrupted.
    ///
    /// # Errors
    /// A folder that cannot be used.
    pub fn open(story: Story, options: Options) -> Result<Self> {
        let place = Place::open(&story, &options.place, options.seed)?;
        Ok(Self {
            story,
            options,
            place,
            scene: 0,
            passed: 0,
            phase: Phase::Reading,
            child: None,
            stopping: false,
            outcomes: BTreeMap::new(),
            pace: Pace::default(),
        })
    }

    /// The story.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// Where we are: number of the scene, from 0.
    pub fn scene_number(&self) -> usize {
        self.scene
    }

    /// Where we are.
    pub fn scene(&self) -> &Scene {
        &self.story.scenes[self.scene]
    }

    /// How the story stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The step that runs.
    pub fn step(&self) -> Option<&Step> {
        self.child.as_ref().and_then(|_| self.scene().steps.get(self.passed))
    }

    /// A training run of the story so far, by its step's name; live while it trains.
    pub fn run(&self, name: &str) -> Option<&RunFiles> {
        if let Some(Outcome::Run(run)) = self.outcomes.get(name) { Some(run) } else { None }
    }

    /// Training runs of this scene so far, in order.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &RunFiles)> {
        self.scene().steps.iter().filter_map(|s| Some((s.name.as_str(), self.run(&s.name)?)))
    }

    /// The folder or file that a step makes.
    pub fn product(&self, step: &str) -> Option<PathBuf> {
        self.story.steps().find(|s| s.name == step).map(|s| self.place.product(s))
    }

    /// A step's command line, as it could be typed.
    ///
    /// # Errors
    /// A name that nothing makes, which the story's own check finds first.
    pub fn command_line(&self, step: &Step) -> Result<String> {
        let mut words = self.place.words(&self.story, step, self.options.seed)?;
        if let StepKind::Trainer = step.kind() {
            words.extend(["--run".into(), self.place.product(step).display().to_string()]);
        }
        let quoted = |word: &String| match word.contains([' ', '?', '&', '*', '$', '"', '\'']) || word.is_empty() {
            true => format!("'{}'", word.replace('\'', "'\\''")),
            false => word.clone(),
        };
        Ok(words.iter().fold("lehr".to_owned(), |line, word| line + " " + &quoted(word)))
    }

    /// The scene's words before the run.
    pub fn text(&self) -> Vec<Block> {
        self.plain(&self.scene().text)
    }

    /// The scene's question.
    pub fn question(&self) -> Option<&Question> {
        self.scene().question.as_ref()
    }

    /// What is said to the question after the run.
    ///
    /// # Errors
    /// A number in it is not there.
    pub fn answer(&self) -> Result<Vec<Block>> {
        self.said(self.question().map_or(&[], |q| &q.answer))
    }

    /// What was seen.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn seen(&self) -> Result<Vec<Block>> {
        self.said(&self.scene().seen)
    }

    /// Words at the end of the scene.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn closing(&self) -> Result<Vec<Block>> {
        self.said(&self.scene().closing)
    }

    /// The scene's table: head, rows.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn table(&self) -> Result<Option<Filled>> {
        let Some(table) = &self.scene().table else { return Ok(None) };
        let fill = |cell: &String| Template::parse(cell)?.fill(&|name| self.fact(name));
        let rows = table.rows.iter().map(|row| row.iter().map(fill).collect()).collect::<Result<_>>()?;
        Ok(Some((table.head.clone(), rows)))
    }

    /// A number or text that came out, by its name.
    ///
    /// # Errors
    /// Nothing of this name is there.
    pub fn fact(&self, name: &str) -> Result<Fact> {
        if let Some(formula) = self.story.values.get(name) {
            let value = Formula::parse(formula)?.value(&|name| number(name, self.fact(name)?));
            return value.map(Fact::Number).with_context(|| name.to_owned());
        }
        let (step, fact) = name.split_once('.').with_context(|| format!("{name}: is no value of this story"))?;
        let outcome = self.outcomes.get(step).with_context(|| format!("{name}: no step {step} has been run"))?;
        outcome.fact(fact).with_context(|| name.to_owned())
    }

    fn said(&self, words: &[Said]) -> Result<Vec<Block>> {
        let mut out = Vec::new();
        for said in words {
            let holds = match &said.when {
                None => true,
                Some(when) => Condition::parse(when)?.holds(&|name| number(name, self.fact(name)?))?,
            };
            if let Some(text) = if holds { Some(&said.say) } else { said.otherwise.as_ref() } {
                // Numbers are put in after the words were cut into lines, so that no text from a model looks like ours.
                for block in blocks(text) {
                    let fill = |text: &str| Template::parse(text)?.fill(&|name| self.fact(name));
                    out.push(match block {
                        Block::Paragraph(words) => Block::Paragraph(fill(&words)?),
                        Block::Lines(lines) => Block::Lines(lines.iter().map(|l| fill(l)).collect::<Result<_>>()?),
                    });
                }
            }
        }
        Ok(out)
    }

    /// Words without numbers.
    fn plain(&self, text: &str) -> Vec<Block> {
        blocks(&Template::parse(text).and_then(|t| t.fill(&|name| self.fact(name))).unwrap_or_else(|_| text.to_owned()))
    }

    /// How far the story is.
    pub fn progress(&self) -> Progress {
        let steps: Vec<&Step> = self.story.steps().collect();
        let before: usize = self.story.scenes[..self.scene].iter().map(|s| s.steps.len()).sum();
        let later = steps.iter().skip(before + self.passed + usize::from(self.child.is_some()));
        let later = later.filter(|s| !self.place.is_done(s)).map(|s| s.seconds).sum();
        let share = self.step().and_then(|step| share_of(self.run(&step.name)?));
        self.pace.progress(self.step(), share, later)
    }

    /// Run the scene.
    pub fn go(&mut self) {
        if matches!(self.phase, Phase::Reading | Phase::Stopped) {
            self.stopping = false;
            self.phase = Phase::Running;
        }
    }

    /// To the next scene.
    pub fn next(&mut self) {
        if self.phase == Phase::Seen {
            let last = self.scene + 1 == self.story.scenes.len();
            (self.scene, self.passed) = if last { (self.scene, self.passed) } else { (self.scene + 1, 0) };
            self.phase = if last { Phase::Done } else { Phase::Reading };
        }
    }

    /// Save and leave; the phase becomes `Stopped` once that is done.
    pub fn stop(&mut self) {
        self.stopping = true;
        match &mut self.child {
            Some(child) => child.stop(),
            None if self.phase == Phase::Running => self.phase = Phase::Stopped,
            None => {}
        }
    }

    /// Tell the trainer that runs.
    ///
    /// # Errors
    /// None runs.
    pub fn send(&mut self, command: &Command) -> Result<()> {
        self.child.as_mut().context("nothing is being trained")?.send(command)
    }

    /// Look at what runs, start what comes next. Whether anything is new. An error becomes the phase `Failed`.
    pub fn poll(&mut self) -> bool {
        if self.phase != Phase::Running {
            return false;
        }
        self.advance().unwrap_or_else(|error| {
            self.child = None;
            self.phase = Phase::Failed(format!("{error:#}"));
            true
        })
    }

    fn advance(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return self.begin() };
        // Asked before the files are read, so that an ended child's files are read to their end.
        let ended = child.ended()?;
        let step = &self.story.scenes[self.scene].steps[self.passed];
        let mut changed = false;
        if let Some(Outcome::Run(run)) = self.outcomes.get_mut(&step.name) {
            changed = match ended {
                None => run.follow(0.02)?.changed,
                Some(_) => {
                    while run.follow(f64::INFINITY)?.more {}
                    true
                }
            };
        }
        let Some(code) = ended else { return Ok(changed) };
        let log = self.child.take().map(|child| child.complaint()).unwrap_or_default();
        let is_stop = code == Some(crate::session::control::INTERRUPTED) || (self.stopping && code != Some(0));
        if is_stop {
            self.phase = Phase::Stopped;
            return Ok(true);
        }
        if code != Some(0) {
            bail!("{}: {log}", step.doing);
        }
        let step = step.clone();
        self.pace.passed(step.seconds);
        self.finish(&step)?;
        Ok(true)
    }

    /// The next step, if there is one.
    fn begin(&mut self) -> Result<bool> {
        let Some(step) = self.scene().steps.get(self.passed).cloned() else {
            self.phase = Phase::Seen;
            return Ok(true);
        };
        if self.place.is_done(&step) {
            self.load(&step)?;
            self.passed += 1;
            return Ok(true);
        }
        let product = self.place.product(&step);
        let mut words = self.place.words(&self.story, &step, self.options.seed)?;
        match step.kind() {
            StepKind::Trainer => {
                match super::child::attempt(&product)? {
                    super::child::Attempt::Complete => {
                        self.finish(&step)?;
                        return Ok(true);
                    }
                    super::child::Attempt::Resumable => {
                        words = vec![words[0].clone(), "--resume".into(), product.display().to_string()];
                    }
                    super::child::Attempt::Nothing => {
                        words.extend(["--run".into(), product.display().to_string()]);
                        words.extend(self.options.device.words());
                    }
                }
                words.push("--control".into());
                self.outcomes.insert(step.name.clone(), Outcome::Run(Box::new(RunFiles::new(&product))));
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
        let child = Child::start(&self.options.lehr, &words, &self.place.printed(&step), &self.place.log(&step))?;
        self.child = Some(if step.kind() == StepKind::Trainer { child.listening() } else { child });
        self.pace.begins();
        Ok(true)
    }

    /// A step has been run.
    fn finish(&mut self, step: &Step) -> Result<()> {
        self.load(step)?;
        self.place.done(step)?;
        self.passed += 1;
        Ok(())
    }

    /// Read what a step left.
    fn load(&mut self, step: &Step) -> Result<()> {
        let outcome = match step.kind() {
            StepKind::Trainer => Outcome::Run(Box::new(RunFiles::read(&self.place.product(step))?)),
            StepKind::Rows => {
                let path = self.place.product(step);
                let rows = first_rows(&path).with_context(|| shown(&path))?;
                Outcome::Rows(path, rows)
            }
            StepKind::Folder | StepKind::Json => Outcome::Printed(printed(&self.place.printed(step))?),
        };
        self.outcomes.insert(step.name.clone(), outcome);
        Ok(())
    }
}

/// Part of a run's updates that are made.
fn share_of(run: &RunFiles) -> Option<f64> {
    let started = run.history.started.as_ref()?;
    let planned = started.max_steps.saturating_sub(started.step).max(1);
    Some((run.history.step.saturating_sub(started.step)) as f64 / planned as f64)
}
