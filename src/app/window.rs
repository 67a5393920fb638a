//! The window itself: it takes what the watcher has read, draws the pages, and carries out what they ask for.

use super::layout;
use super::loader::Loader;
use super::memory::{self, Memory};
use super::options::{Options, PlayStory};
use super::panels::PageSet;
use super::state::{Action, AppState, OpenRun, Page};
use super::top_bar::{self, Leave};
use super::watcher::{WatchedRun, Watcher};
use crate::backend::{Backend, Wake};
use crate::event::Command;
use eframe::egui;
use egui_tiles::Tree;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Duration of a message.
const TOAST: Duration = Duration::from_secs(8);
/// Taking what logs have brought may use this much of a frame.
const READING: Duration = Duration::from_millis(8);
/// Longest time from press to release of a click. egui's 0.8 s are lost clicks on a display that is rendered in software beside a trainer.
const CLICK_SECONDS: f64 = 5.0;
/// From news of a live run to the frame that shows it; a moment, so that several come together.
const HARDWARE_PAUSE_MS: u64 = 30;
/// The same on a software-rendered display: a frame costs some 100 ms there, which the trainer would miss (1.5 % of two cores). Whoever moves
/// the mouse gets frames at once.
const SOFTWARE_PAUSE_MS: u64 = 4000;
/// Least and greatest pause while a story runs.
const STORY_PAUSE_MS: (u64, u64) = (60, 700);

/// Results of background work.
#[derive(Debug)]
pub(super) enum Done {
    /// Runs in a folder that is to be opened; whether that exists.
    Found(PathBuf, Vec<PathBuf>, bool),
    /// A run's folder is deleted.
    Deleted(PathBuf),
    /// A message.
    Notify(String),
}

/// See the module.
pub struct Window {
    pub(super) state: AppState,
    pub(super) panels: PageSet,
    pub(super) watcher: Watcher,
    pub(super) backend: Arc<dyn Backend>,
    work: Vec<Loader<Done>>,
    tree: Tree<Page>,
    help: bool,
    /// The user closes the window while runs are trained from it: what becomes of them is being asked.
    leaving: bool,
    /// Runs were asked to stop; the window closes when they have.
    stopping: bool,
    memory: Option<PathBuf>,
    toasts: Vec<(String, Instant)>,
    /// Milliseconds between what a log brings and the frame that shows it.
    pause: Arc<AtomicU64>,
    ctx: egui::Context,
    size: Option<[f32; 2]>,
}

impl Window {
    /// An empty window. `backend` starts trainers and jobs; `memory` is the file in which its layout is remembered.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(ctx: &egui::Context, backend: Arc<dyn Backend>, home: PathBuf, memory: Option<PathBuf>) -> anyhow::Result<Self> {
        let kept: Memory = memory::read(memory.as_deref());
        let (wake, pause) = (ctx.clone(), Arc::new(AtomicU64::new(HARDWARE_PAUSE_MS)));
        let between = pause.clone();
        let wake = move || wake.request_repaint_after(Duration::from_millis(between.load(Ordering::Relaxed)));
        let watcher = Watcher::start(wake)?;
        ctx.set_theme(kept.look.theme);
        // Where frames take long, press and release are seen far apart: that is a click too.
        ctx.options_mut(|options| options.input_options.max_click_duration = CLICK_SECONDS);
        super::theme::apply(ctx);
        let mut state = AppState::default();
        (state.look, state.home) = (kept.look, home);
        Ok(Self {
            state,
            panels: PageSet::default(),
            watcher,
            backend,
            work: Vec::new(),
            tree: kept.tree.filter(layout::is_whole).unwrap_or_else(layout::first),
            help: false,
            leaving: false,
            stopping: false,
            memory,
            toasts: Vec::new(),
            pause,
            ctx: ctx.clone(),
            size: None,
        })
    }

    /// Open what was asked for on the command line. Reads no disk: the first frame comes before the runs.
    pub fn open(&mut self, options: Options) {
        let nothing = options.start.is_none() && options.story.is_none() && options.runs.is_empty();
        options.runs.into_iter().for_each(|path| self.state.request(Action::Open(path)));
        if let Some((args, run)) = options.start {
            self.state.request(Action::Start { args, run });
        }
        if let Some(play) = options.story {
            self.play(play);
            self.show(Page::Lessons);
        }
        if nothing {
            // The runs that are there, and those that begin later.
            self.watcher.look_for_runs(&options.home);
        }
    }

    /// Play a story on the page of lessons.
    pub(super) fn play(&mut self, play: PlayStory) {
        let (ctx, pause) = (self.ctx.clone(), self.pause.clone());
        let wake: Wake = Arc::new(move || {
            let pause = pause.load(Ordering::Relaxed).clamp(STORY_PAUSE_MS.0, STORY_PAUSE_MS.1);
            ctx.request_repaint_after(Duration::from_millis(pause));
        });
        self.panels.lessons.start(play, wake);
    }

    /// The state, for tests.
    pub fn state(&mut self) -> &mut AppState {
        &mut self.state
    }

    /// Whether the display is software-rendered: frames are expensive.
    pub fn set_software_rendered(&mut self, software: bool) {
        let pause = if software { SOFTWARE_PAUSE_MS } else { HARDWARE_PAUSE_MS };
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Show a message for some seconds.
    pub fn notify(&mut self, text: String) {
        self.toasts.push((text, Instant::now()));
        let extra = self.toasts.len().saturating_sub(4);
        self.toasts.drain(..extra);
    }

    /// Do this on a thread of its own; what it brings is taken between two frames.
    pub(super) fn in_background(&mut self, ctx: &egui::Context, work: impl FnOnce() -> Done + Send + 'static) {
        let mut loader = Loader::default();
        loader.start(ctx, || Some(work()));
        self.work.push(loader);
    }

    /// Bring a page to the front.
    pub fn show(&mut self, page: Page) {
        layout::show(&mut self.tree, &self.ctx, page);
    }

    /// Between frames: logs, tasks, orders. Called while the window is hidden too, so that nothing piles up.
    pub fn advance(&mut self, ctx: &egui::Context) {
        let begin = Instant::now();
        let mut more = false;
        while let Some(seen) = self.watcher.next() {
            self.take(seen);
            if begin.elapsed() >= READING {
                more = true;
                break;
            }
        }
        while let Some((home, runs)) = self.watcher.found() {
            self.opened(&home, runs, true);
        }
        self.take_work();
        for run in &mut self.state.runs {
            if let Some(trainer) = &mut run.trainer {
                trainer.poll();
                run.live &= trainer.end().is_none();
            }
        }
        self.state.jobs.values_mut().for_each(super::child::Job::poll);
        self.state.chat.iter_mut().for_each(super::chat_process::ChatProcess::poll);
        self.panels.lessons.advance(&mut self.state);
        self.perform_requests(ctx);
        self.confirm_close(ctx);
        if more {
            ctx.request_repaint();
        }
        self.toasts.retain(|(_, since)| since.elapsed() < TOAST);
        if !self.toasts.is_empty() {
            ctx.request_repaint_after(TOAST / 4);
        }
    }

    fn take_work(&mut self) {
        let mut done = Vec::new();
        self.work.retain_mut(|loader| {
            done.extend(loader.take());
            loader.is_busy()
        });
        for done in done {
            match done {
                Done::Found(asked, runs, exists) => self.opened(&asked, runs, exists),
                Done::Deleted(path) => {
                    self.close(&path);
                    self.notify(format!("deleted: {}", crate::vfs::display_path(&path)));
                }
                Done::Notify(text) => self.notify(text),
            }
        }
    }

    fn take(&mut self, seen: WatchedRun) {
        let Some(run) = self.state.run_mut(&seen.path) else { return };
        run.loading = seen.poll.more;
        // A trainer from here that has not created its folder yet is live all the same.
        run.live = match &run.trainer {
            Some(trainer) => trainer.end().is_none() || seen.live,
            None => seen.live,
        };
        run.error = seen.error;
        if let Some(settings) = seen.settings {
            run.files.settings = Some(*settings);
        }
        run.bytes = seen.bytes.unwrap_or(run.bytes);
        run.kept = seen.kept.or(run.kept.take());
        run.files.take(seen.poll);
    }

    /// Closing while runs are trained: the user is asked in the window, once.
    fn confirm_close(&mut self, ctx: &egui::Context) {
        let training = !self.state.training_folders().is_empty() || self.panels.lessons.is_running();
        if self.stopping && !training {
            self.stopping = false;
            ctx.send_viewport_cmd(egui::ViewportCommand::Close);
            return;
        }
        if ctx.input(|i| i.viewport().close_requested()) && training && !self.leaving {
            ctx.send_viewport_cmd(egui::ViewportCommand::CancelClose);
            self.leaving = true;
        }
    }

    /// Draw everything.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        self.shortcuts(ui);
        let rect = ui.ctx().content_rect();
        self.size = Some([rect.width(), rect.height()]);
        if rect.width() < 40.0 || rect.height() < 40.0 {
            return;
        }
        egui::Panel::top("top").show(ui, |ui| top_bar::top_ui(ui, &mut self.state, &mut self.help));
        if self.leaving {
            let runs = self.state.training_folders();
            let decided = egui::Panel::top("leaving").show(ui, |ui| top_bar::leaving_ui(ui, runs.len(), self.stopping)).inner;
            self.decide(ui.ctx(), decided, runs);
        }
        if !self.toasts.is_empty() {
            let texts: Vec<String> = self.toasts.iter().map(|(text, _)| text.clone()).collect();
            egui::Panel::bottom("toasts").show(ui, |ui| {
                for text in texts {
                    ui.label(text);
                }
            });
        }
        egui::CentralPanel::default().show(ui, |ui| layout::ui(ui, &mut self.tree, &mut self.panels, &mut self.state));
        if self.help {
            top_bar::help_ui(ui, &mut self.help);
        }
        let zoom = self.state.look.zoom.clamp(0.5, 4.0);
        if (ui.ctx().zoom_factor() - zoom).abs() > 1e-3 {
            ui.ctx().set_zoom_factor(zoom);
        }
        if ui.ctx().options(|o| o.theme_preference) != self.state.look.theme {
            ui.ctx().set_theme(self.state.look.theme);
        }
    }

    /// Treatment of the runs that a closing window trains.
    fn decide(&mut self, ctx: &egui::Context, decided: Option<Leave>, runs: Vec<PathBuf>) {
        match decided {
            None => {}
            Some(Leave::Stop) => {
                runs.into_iter().for_each(|run| self.state.request(Action::Send(run, Command::Stop)));
                self.panels.lessons.stop();
                self.stopping = true;
            }
            Some(Leave::Close) => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
            Some(Leave::Stay) => self.leaving = false,
        }
    }

    fn shortcuts(&mut self, ui: &egui::Ui) {
        let ctx = ui.ctx();
        // Escape cancels every question, also during typing.
        if ctx.input(|i| i.key_pressed(egui::Key::Escape)) {
            self.help = false;
            self.leaving &= self.stopping;
            self.panels.runs.cancel();
            self.panels.lessons.cancel();
        }
        if ctx.egui_wants_keyboard_input() {
            return;
        }
        let pressed = |key| ctx.input(|i| i.key_pressed(key) && i.modifiers.is_none());
        let with_command = |key| ctx.input(|i| i.key_pressed(key) && i.modifiers.command_only());
        if pressed(egui::Key::Space) {
            let paused = self.state.focused().is_some_and(|r| r.files.history.state == crate::history::RunState::Paused);
            self.state.send(if paused { Command::Resume } else { Command::Pause });
        }
        let commands = [(egui::Key::N, Command::Step), (egui::Key::M, Command::MergeNow), (egui::Key::E, Command::EvalNow)];
        for (key, command) in commands {
            if pressed(key) && self.state.focused().is_some_and(OpenRun::is_controllable) {
                self.state.send(command);
            }
        }
        if with_command(egui::Key::S) {
            self.state.send(Command::SaveNow);
        }
        if pressed(egui::Key::F1) || pressed(egui::Key::Questionmark) {
            self.help = !self.help;
        }
        let digits = [
            egui::Key::Num1,
            egui::Key::Num2,
            egui::Key::Num3,
            egui::Key::Num4,
            egui::Key::Num5,
            egui::Key::Num6,
            egui::Key::Num7,
        ];
        for (key, page) in digits.into_iter().zip(layout::PAGES) {
            if pressed(key) {
                self.show(page);
            }
        }
        let zoom = &mut self.state.look.zoom;
        if with_command(egui::Key::Plus) || with_command(egui::Key::Equals) {
            *zoom = (*zoom * 1.1).min(4.0);
        } else if with_command(egui::Key::Minus) {
            *zoom = (*zoom / 1.1).max(0.5);
        } else if with_command(egui::Key::Num0) {
            *zoom = 1.0;
        }
    }

    /// Remember look and layout.
    pub fn save_layout(&mut self) {
        let Some(path) = &self.memory else { return };
        let memory = Memory { look: self.state.look.clone(), tree: Some(self.tree.clone()), size: self.size };
        if let Err(error) = memory::write(path, &memory) {
            use std::io::Write as _;
            // There is no window any more to show it in.
            let _ = writeln!(std::io::stderr(), "note: the window's layout is not remembered: {error:#}");
        }
    }
}

impl eframe::App for Window {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.advance(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        self.draw(ui);
        self.perform_requests(&ui.ctx().clone());
    }

    fn on_exit(&mut self) {
        self.save_layout();
    }
}
