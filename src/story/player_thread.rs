//! A player on a separate thread for a window: the state to draw arrives as a value, and no frame waits for a file.

use super::experiment::Experiment;
use super::player::{GuessReply, Player, PlayerOptions, StoryPhase};
use super::script::{StepKind, Story, StoryScene, WatchItem};
use super::templates::{FilledTable, TextBlock};
use super::time_estimate::StoryProgress;
use crate::backend::Wake;
use crate::event::Command;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use web_time::Instant;

/// Polling interval of a running command.
const POLL: Duration = Duration::from_millis(40);
/// Minimum interval between values of [`StoryView`] if only the progress changes.
const PROGRESS: Duration = Duration::from_millis(250);
/// Time for a trainer to save after the window has left a story.
const LEAVING: Duration = Duration::from_secs(60);

/// An action of the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoryAction {
    /// Run the scene, or continue it after a stop.
    Run,
    /// Go to the next scene.
    Next,
    /// Save and stop the running step.
    Stop,
    /// Pause or resume the running trainer.
    Pause(bool),
    /// Make one update while paused.
    Step,
    /// Set a parameter.
    Set(String, String),
}

/// The state of a story for display.
#[derive(Clone, Debug)]
pub struct StoryView {
    /// The story, with the values of its parameters.
    pub story: Arc<Story>,
    /// Its folder.
    pub dir: PathBuf,
    /// Number of the current scene, from 0.
    pub number: usize,
    /// Phase of the story.
    pub phase: StoryPhase,
    /// Progress of the story.
    pub progress: StoryProgress,
    /// Whether a trainer is running.
    pub can_pause: bool,
    /// Whether that trainer is paused.
    pub is_paused: bool,
    /// Estimated seconds of shared steps that have not been run yet.
    pub preparation: Option<f64>,
    /// The scene's command lines.
    pub commands: Vec<String>,
    /// Existing run folders, by step name.
    pub runs: BTreeMap<String, PathBuf>,
    /// The output of each step, by step name.
    pub products: BTreeMap<String, PathBuf>,
    /// Texts after the run, or an error.
    pub after: Option<Result<SceneResult, String>>,
    /// Completed scenes of an automatic story: titles and texts.
    pub before: Arc<Vec<(String, Vec<TextBlock>)>>,
    /// Whether an automatic story has ended.
    pub is_over: bool,
    /// An experiment by hand, if available.
    pub experiment: Option<Experiment>,
    /// Why a parameter could not be set.
    pub refused: Option<String>,
}

/// Texts after a scene's run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SceneResult {
    /// Text about the results.
    pub results: Vec<TextBlock>,
    /// A table of numbers.
    pub table: Option<FilledTable>,
    /// The answer to the question.
    pub answer: Vec<TextBlock>,
    /// The reply to each choice.
    pub checked: Vec<Option<GuessReply>>,
    /// Text at the end.
    pub closing: Vec<TextBlock>,
}

impl StoryView {
    /// The current scene.
    pub fn scene(&self) -> &StoryScene {
        &self.story.scenes[self.number]
    }

    /// Whether the current scene is the last one.
    pub fn is_last(&self) -> bool {
        self.number + 1 == self.story.scenes.len()
    }

    /// Run folders to watch: the named ones, otherwise the scene's own.
    pub fn watched_folders(&self, watch: &WatchItem) -> Vec<PathBuf> {
        let named = watch.runs.iter().filter_map(|name| self.runs.get(name));
        let own = self.scene().steps.iter().filter(|step| !step.shared).filter_map(|step| self.runs.get(&step.name));
        if watch.runs.is_empty() { own.cloned().collect() } else { named.cloned().collect() }
    }
}

/// A player on a separate thread. When dropped, a running trainer is stopped and saved.
#[derive(Debug)]
pub struct Host {
    actions: Sender<StoryAction>,
    news: Receiver<Result<StoryView, String>>,
    newest: Option<Result<StoryView, String>>,
}

impl Host {
    /// Play a story; `automatic` continues from scene to scene without a reader. `wake` is called when the state changes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(story: Story, options: PlayerOptions, automatic: bool, wake: Wake) -> Result<Self> {
        let (actions, asked) = channel();
        let (send, news) = channel();
        std::thread::Builder::new().name("story".into()).spawn(move || {
            let opened = Player::open(story, options);
            match opened {
                Ok(player) => {
                    let (before, after, story) = (Arc::default(), None, None);
                    PlayerThread { player, automatic, is_over: false, send, wake, before, after, story }.play(&asked);
                }
                Err(error) => {
                    let _ = send.send(Err(format!("{error:#}")));
                    wake();
                }
            }
        })?;
        Ok(Self { actions, news, newest: None })
    }

    /// Perform an action.
    pub fn perform(&self, action: StoryAction) {
        // If the story could not be opened, the thread has ended.
        let _ = self.actions.send(action);
    }

    /// Receive a new state; returns whether there was one.
    pub fn poll(&mut self) -> bool {
        let news = self.news.try_iter().last();
        let is_new = news.is_some();
        self.newest = news.or(self.newest.take());
        is_new
    }

    /// The newest state; none while the folder is being opened.
    pub fn view(&self) -> Option<&StoryView> {
        self.newest.as_ref().and_then(|newest| newest.as_ref().ok())
    }

    /// Why the story could not be opened.
    pub fn error(&self) -> Option<&str> {
        self.newest.as_ref().and_then(|newest| newest.as_ref().err()).map(String::as_str)
    }

    /// Whether a step is running.
    pub fn is_running(&self) -> bool {
        self.view().is_some_and(|shown| shown.phase == StoryPhase::Running)
    }
}

/// State of the thread.
struct PlayerThread {
    player: Player,
    automatic: bool,
    is_over: bool,
    send: Sender<Result<StoryView, String>>,
    wake: Wake,
    before: Arc<Vec<(String, Vec<TextBlock>)>>,
    /// Texts after the completed run, with the scene's number.
    after: Option<(usize, Result<SceneResult, String>)>,
    /// The story as last sent; none after a change.
    story: Option<Arc<Story>>,
}

impl PlayerThread {
    fn play(mut self, actions: &Receiver<StoryAction>) {
        let (mut sent, mut changed, mut refused) = (Instant::now(), true, None);
        loop {
            if changed || (self.is_running() && sent.elapsed() >= PROGRESS) {
                let shown = StoryView { refused: refused.take(), ..self.view() };
                if self.send.send(Ok(shown)).is_err() {
                    break;
                }
                (self.wake)();
                sent = Instant::now();
            }
            let wait = if self.is_running() || (self.automatic && self.is_waiting()) { POLL } else { Duration::from_secs(3600) };
            let action = match actions.recv_timeout(wait) {
                Err(RecvTimeoutError::Disconnected) => break,
                asked => asked.ok(),
            };
            changed = action.is_some();
            if let Some(action) = action {
                refused = self.perform(action).err().map(|error| format!("{error:#}"));
            }
            changed |= self.automatic && self.continue_by_itself();
            // Steps that were run before take no time.
            for _ in 0..20 {
                let is_new = self.player.poll();
                changed |= is_new;
                if !is_new {
                    break;
                }
            }
        }
        self.save_running_step();
    }

    fn is_running(&self) -> bool {
        *self.player.phase() == StoryPhase::Running
    }

    /// Whether the reader must act.
    fn is_waiting(&self) -> bool {
        matches!(self.player.phase(), StoryPhase::Reading | StoryPhase::Results)
    }

    fn perform(&mut self, action: StoryAction) -> Result<()> {
        match action {
            StoryAction::Run => self.player.run_scene(),
            StoryAction::Next => self.player.next(),
            StoryAction::Stop => self.player.stop(),
            // A trainer that has just ended accepts no command; its end is handled next.
            StoryAction::Pause(paused) => self.player.pause(paused).unwrap_or_default(),
            StoryAction::Step => self.player.send(&Command::Step).unwrap_or_default(),
            StoryAction::Set(name, value) => {
                self.player.set(&name, &value)?;
                (self.story, self.after) = (None, None);
            }
        }
        Ok(())
    }

    /// Continue an automatic story. Returns whether anything has changed.
    fn continue_by_itself(&mut self) -> bool {
        match self.player.phase() {
            StoryPhase::Reading => self.player.run_scene(),
            StoryPhase::Results if self.player.scene_number() + 1 == self.player.story().scenes.len() => {
                (self.automatic, self.is_over) = (false, true);
            }
            StoryPhase::Results => {
                let mut blocks = self.player.text();
                blocks.extend(self.player.results().unwrap_or_default());
                blocks.extend(self.player.closing().unwrap_or_default());
                Arc::make_mut(&mut self.before).push((self.player.scene().title.clone(), blocks));
                self.player.next();
            }
            _ => return false,
        }
        true
    }

    fn view(&mut self) -> StoryView {
        let player = &self.player;
        let story = self.story.get_or_insert_with(|| Arc::new(player.story().clone())).clone();
        let number = player.scene_number();
        let has_results = matches!(player.phase(), StoryPhase::Results | StoryPhase::Done);
        if has_results && self.after.as_ref().is_none_or(|(of, _)| *of != number) {
            self.after = Some((number, scene_result(player).map_err(|error| format!("{error:#}"))));
        }
        let after = self.after.as_ref().filter(|_| has_results).map(|(_, after)| after.clone());
        let exists = |path: &Path| crate::run_folder::config(path).is_file();
        let trained = story.steps().filter(|step| step.kind() == StepKind::Trainer);
        let runs = trained.filter_map(|step| Some((step.name.clone(), player.run(&step.name)?.path.clone())));
        let line = |step| player.command_line(step).unwrap_or_else(|error| format!("{error:#}"));
        StoryView {
            dir: player.dir().to_owned(),
            number,
            phase: player.phase().clone(),
            progress: player.progress(),
            can_pause: player.can_pause(),
            is_paused: player.is_paused(),
            preparation: player.preparation(),
            commands: player.scene().steps.iter().map(line).collect(),
            runs: runs.filter(|(_, path)| exists(path)).collect(),
            products: story.steps().filter_map(|step| Some((step.name.clone(), player.product(&step.name)?))).collect(),
            after,
            before: self.before.clone(),
            is_over: self.is_over,
            // A running step has priority over experiments.
            experiment: if player.phase() == &StoryPhase::Running { None } else { player.experiment() },
            refused: None,
            story,
        }
    }

    /// After the window has left the story, save the running step.
    fn save_running_step(&mut self) {
        let begin = Instant::now();
        if self.is_running() {
            self.player.stop();
        }
        while self.is_running() && begin.elapsed() < LEAVING {
            self.player.poll();
            std::thread::sleep(POLL);
        }
    }
}

fn scene_result(player: &Player) -> Result<SceneResult> {
    let choices = player.question().map_or(0, |question| question.choices.len());
    Ok(SceneResult {
        results: player.results()?,
        table: player.table()?,
        answer: player.answer()?,
        checked: (0..choices).map(|choice| player.check_prediction(choice)).collect::<Result<_>>()?,
        closing: player.closing()?,
    })
}
