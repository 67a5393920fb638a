//! The window itself: it takes what the watcher saw, draws the pages, and carries out what they ask for.

use super::actions::ours;
use super::errands::{Done, Errands};
use super::memory::{self, Memory};
use super::panels::Panels;
use super::state::{Action, AppState, OpenRun, Page};
use super::watcher::Watcher;
use super::{layout, top_bar};
use crate::event::Command;
use eframe::egui;
use egui_tiles::Tree;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a message stays.
const TOAST: Duration = Duration::from_secs(8);
/// Reading logs takes so much of a frame at most.
const READING: Duration = Duration::from_millis(8);
/// From news of a live run to the frame that shows it; a moment, so that news come together.
const HARDWARE_PAUSE_MS: u64 = 30;
/// The same on a display that the processor draws: a frame costs some 100 ms there, which the trainer would miss (1.5 % of two cores).
/// Whoever moves the mouse gets frames at once.
const SOFTWARE_PAUSE_MS: u64 = 4000;

/// See the module.
pub struct Window {
    pub(super) desk: AppState,
    pub(super) panels: Panels,
    pub(super) watcher: Watcher,
    pub(super) errands: Errands,
    pub(super) program: PathBuf,
    pub(super) tree: Tree<Page>,
    pub(super) help: bool,
    /// The user wants to leave while runs of ours are being trained.
    pub(super) leaving: bool,
    /// Runs were told to stop; the window closes when they have.
    pub(super) stopping: bool,
    memory: Option<PathBuf>,
    toasts: Vec<(String, Instant)>,
    /// Milliseconds between what a log brings and the frame that shows it.
    pause: Arc<AtomicU64>,
    size: Option<[f32; 2]>,
}

impl Window {
    /// A window over nothing yet. `program` is started for trainers and jobs; `memory` is the file of what is remembered.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn new(ctx: &egui::Context, program: PathBuf, home: PathBuf, memory: Option<PathBuf>) -> anyhow::Result<Self> {
        let kept: Memory = memory::read(memory.as_deref());
        let (wake, pause) = (ctx.clone(), Arc::new(AtomicU64::new(HARDWARE_PAUSE_MS)));
        let between = pause.clone();
        let wake = move || wake.request_repaint_after(Duration::from_millis(between.load(Ordering::Relaxed)));
        let watcher = Watcher::start(wake)?;
        ctx.set_theme(kept.look.theme);
        super::theme::apply(ctx);
        let mut desk = AppState::default();
        (desk.look, desk.home) = (kept.look, home);
        Ok(Self {
            desk,
            panels: Panels::default(),
            watcher,
            errands: Errands::default(),
            program,
            tree: kept.tree.filter(layout::is_whole).unwrap_or_else(layout::first),
            help: false,
            leaving: false,
            stopping: false,
            memory,
            toasts: Vec::new(),
            pause,
            size: None,
        })
    }

    /// Open what was asked for on the command line.
    pub fn begin(&mut self, options: super::Options) {
        let nothing = options.start.is_none() && options.story.is_none() && options.runs.is_empty();
        options.runs.iter().for_each(|path| self.open(path));
        if let Some((args, run)) = options.start {
            self.desk.ask(Action::Start { args, run });
        }
        if let Some(told) = options.story {
            self.panels.lessons.begin(told);
            self.show(Page::Lessons);
        }
        if nothing {
            self.watcher.look_for_runs(&options.home);
            self.open_home();
        }
    }

    /// The runs that lie where new runs go, if there are some.
    fn open_home(&mut self) {
        let home = self.desk.home.clone();
        if !crate::history::find_runs(&home).is_empty() {
            self.open(&home);
        }
    }

    /// The desk, for tests.
    pub fn desk(&mut self) -> &mut AppState {
        &mut self.desk
    }

    /// The display is drawn by the processor: frames are dear.
    pub fn on_software(&mut self, software: bool) {
        let pause = if software { SOFTWARE_PAUSE_MS } else { HARDWARE_PAUSE_MS };
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Say something; it goes away by itself.
    pub fn say(&mut self, text: String) {
        self.toasts.push((text, Instant::now()));
        let extra = self.toasts.len().saturating_sub(4);
        self.toasts.drain(..extra);
    }

    /// Bring a page to the front.
    pub fn show(&mut self, page: Page) {
        self.tree.make_active(|_, tile| matches!(tile, egui_tiles::Tile::Pane(p) if *p == page));
    }

    /// Between frames: logs, children, orders. Called while the window is hidden too, so that nothing piles up.
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
        while let Some(path) = self.watcher.found() {
            self.opened(&path, vec![path.clone()], true);
        }
        while let Some(done) = self.errands.next() {
            match done {
                Done::Found(asked, runs, there) => self.opened(&asked, runs, there),
                Done::Deleted(path) => {
                    self.close(&path);
                    self.say(format!("deleted: {}", crate::vfs::shown(&path)));
                }
                Done::Message(text) => self.say(text),
            }
        }
        for run in &mut self.desk.runs {
            if let Some(trainer) = &mut run.trainer
                && trainer.end().is_some()
            {
                run.live = false;
            }
        }
        self.desk.jobs.values_mut().for_each(super::child::Job::poll);
        self.desk.talk.iter_mut().for_each(super::chat_process::ChatProcess::poll);
        if self.panels.lessons.advance(&mut self.desk) {
            let pause = self.pause.load(Ordering::Relaxed).clamp(60, 700);
            ctx.request_repaint_after(Duration::from_millis(pause));
        }
        self.handle_commands(ctx);
        self.leave(ctx);
        if more {
            ctx.request_repaint();
        }
        self.toasts.retain(|(_, since)| since.elapsed() < TOAST);
        if !self.toasts.is_empty() {
            ctx.request_repaint_after(TOAST / 4);
        }
    }

    fn take(&mut self, seen: super::watcher::Seen) {
        let Some(run) = self.desk.run_mut(&seen.path) else { return };
        run.loading = seen.poll.more;
        // A trainer of ours that has not made its folder yet is live all the same.
        run.live = match &mut run.trainer {
            Some(trainer) => trainer.end().is_none() || seen.live,
            None => seen.live,
        };
        run.error = seen.error;
        if let Some(settings) = seen.settings {
            run.files.settings = Some(*settings);
        }
        run.bytes = seen.bytes.unwrap_or(run.bytes);
        run.files.take(seen.poll);
    }

    /// Leaving with runs under way: the user is asked in the window, once.
    fn leave(&mut self, ctx: &egui::Context) {
        let training = !ours(&self.desk).is_empty() || self.panels.lessons.is_running();
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
        egui::Panel::top("top").show(ui, |ui| top_bar::top_ui(ui, self));
        if self.leaving {
            egui::Panel::top("leaving").show(ui, |ui| top_bar::leaving_ui(ui, self));
        }
        if !self.toasts.is_empty() {
            let texts: Vec<String> = self.toasts.iter().map(|(text, _)| text.clone()).collect();
            egui::Panel::bottom("toasts").show(ui, |ui| {
                for text in texts {
                    ui.label(text);
                }
            });
        }
        egui::CentralPanel::default().show(ui, |ui| layout::ui(ui, &mut self.tree, &mut self.panels, &mut self.desk));
        if self.help {
            top_bar::help_ui(ui, &mut self.help);
        }
        let zoom = self.desk.look.zoom.clamp(0.5, 4.0);
        if (ui.ctx().zoom_factor() - zoom).abs() > 1e-3 {
            ui.ctx().set_zoom_factor(zoom);
        }
        if ui.ctx().options(|o| o.theme_preference) != self.desk.look.theme {
            ui.ctx().set_theme(self.desk.look.theme);
        }
    }

    fn shortcuts(&mut self, ui: &egui::Ui) {
        let ctx = ui.ctx();
        // Whatever asks for a decision goes away undecided, also while somebody types.
        if ctx.input(|i| i.key_pressed(egui::Key::Escape)) {
            self.help = false;
            self.leaving &= self.stopping;
            self.panels.runs.cancel();
        }
        if ctx.egui_wants_keyboard_input() {
            return;
        }
        let pressed = |key| ctx.input(|i| i.key_pressed(key) && i.modifiers.is_none());
        let with_command = |key| ctx.input(|i| i.key_pressed(key) && i.modifiers.command_only());
        if pressed(egui::Key::Space) {
            let paused = self.desk.focused().is_some_and(|r| r.files.history.state == crate::history::State::Paused);
            self.desk.send(if paused { Command::Resume } else { Command::Pause });
        }
        let commands = [(egui::Key::N, Command::Step), (egui::Key::M, Command::MergeNow), (egui::Key::E, Command::EvalNow)];
        for (key, command) in commands {
            if pressed(key) && self.desk.focused().is_some_and(OpenRun::is_ours) {
                self.desk.send(command);
            }
        }
        if with_command(egui::Key::S) {
            self.desk.send(Command::SaveNow);
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
        let zoom = &mut self.desk.look.zoom;
        if with_command(egui::Key::Plus) || with_command(egui::Key::Equals) {
            *zoom = (*zoom * 1.1).min(4.0);
        } else if with_command(egui::Key::Minus) {
            *zoom = (*zoom / 1.1).max(0.5);
        } else if with_command(egui::Key::Num0) {
            *zoom = 1.0;
        }
    }

    /// Remember look and layout.
    pub fn remember(&mut self) {
        let Some(path) = &self.memory else { return };
        let memory = Memory { look: self.desk.look.clone(), tree: Some(self.tree.clone()), size: self.size };
        if let Err(error) = memory::write(path, &memory) {
            crate::app::complain(&format!("the window's layout is not remembered: {error:#}"));
        }
    }
}

impl eframe::App for Window {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.advance(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        self.draw(ui);
        self.handle_commands(&ui.ctx().clone());
    }

    fn on_exit(&mut self) {
        self.remember();
    }
}
