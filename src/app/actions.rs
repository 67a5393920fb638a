//! Orders, carried out.

use super::chat_process::{ChatProcess, ChatState};
use super::child::{Job, JobState, Trainer};
use super::errands::Done;
use super::memory::write_whole;
use super::state::{Action, AppState, OpenRun, Page};
use super::window::Window;
use crate::history::find_runs;
use crate::session::folder;
use eframe::egui;
use std::path::{Path, PathBuf};

impl Window {
    /// Carry out what the panels have asked for.
    pub(super) fn handle_commands(&mut self, ctx: &egui::Context) {
        for order in self.desk.take_orders() {
            match order {
                Action::Send(path, command) => self.send(&path, &command),
                Action::Start { args, run } => self.start(args, run, ctx),
                Action::Job(key, args) => {
                    let wake = waker(ctx);
                    let job = Job::start(&self.program, &args, wake);
                    let job = job.unwrap_or_else(|e| Job::ended(&args, JobState::Failed(format!("{e:#}"))));
                    self.desk.jobs.insert(key, job);
                }
                Action::Cancel(key) => {
                    if let Some(job) = self.desk.jobs.get_mut(&key) {
                        job.cancel();
                    }
                }
                Action::ChatProcess { model, system, tokens } => self.talk(&model, (&system, tokens), ctx),
                Action::ChatRequest(ask) => {
                    if let Some(talk) = &mut self.desk.talk {
                        talk.ask(ask);
                    }
                }
                Action::EndTalk => self.desk.talk = None,
                Action::Open(path) => self.errands.run(move || look(path), waker(ctx)),
                Action::Close(path) => self.close(&path),
                Action::Delete(path) => self.errands.run(move || delete(path), waker(ctx)),
                Action::Focus(path) => {
                    self.desk.focus = Some(path.clone());
                    if let Some(run) = self.desk.run_mut(&path) {
                        run.visible = true;
                    }
                }
                Action::Show(page) => self.show(page),
                Action::NewRun(stage, settings) => {
                    self.panels.new_run.fill(&stage, &settings);
                    self.show(Page::NewRun);
                }
                Action::Write(path, bytes) => self.errands.run(move || write(&path, &bytes), waker(ctx)),
                Action::Say(text) => self.say(text),
            }
        }
    }

    fn talk(&mut self, model: &str, how: (&str, u64), ctx: &egui::Context) {
        // First the one before goes, with its memory on the device.
        self.desk.talk = None;
        let talk = ChatProcess::start(&self.program, model, how, waker(ctx));
        self.desk.talk = Some(talk.unwrap_or_else(|e| ChatProcess::made(model, Vec::new(), ChatState::Ended(format!("{e:#}")))));
    }

    fn send(&mut self, path: &Path, command: &crate::event::Command) {
        let Some(run) = self.desk.run_mut(path) else { return };
        let name = run.name();
        let sent = match &mut run.trainer {
            Some(trainer) => trainer.send(command),
            None => Err(anyhow::anyhow!("it was not started from this window, so that it takes no commands from it")),
        };
        if let Err(error) = sent {
            self.say(format!("{name}: {error:#}"));
        }
    }

    fn start(&mut self, args: Vec<String>, path: PathBuf, ctx: &egui::Context) {
        match Trainer::start(&self.program, &args, &path, waker(ctx)) {
            Err(error) => self.say(format!("{error:#}")),
            Ok(trainer) => {
                // Once more from the beginning: a resumed run's log may be cut.
                let index = self.desk.runs.iter().position(|run| run.files.path == path).unwrap_or(self.desk.runs.len());
                let fresh = OpenRun { trainer: Some(trainer), ours: true, live: true, ..OpenRun::new(&path, 0) };
                match self.desk.runs.get_mut(index) {
                    Some(run) => *run = fresh,
                    None => self.desk.runs.push(fresh),
                }
                self.desk.color_runs();
                self.watcher.watch(&path);
                self.desk.only(&path);
                self.desk.focus = Some(path);
                self.show(Page::Charts);
            }
        }
    }

    /// Look at a run, or at all runs in a folder, before the first frame.
    pub(super) fn open(&mut self, path: &Path) {
        self.opened(path, find_runs(path), path.exists());
    }

    /// Look at these runs, which were found in a folder.
    pub(super) fn opened(&mut self, path: &Path, found: Vec<PathBuf>, there: bool) {
        if found.is_empty() {
            let there = if there { "holds no run" } else { "is not there" };
            self.say(format!("{}: {there}", crate::vfs::shown(path)));
            return;
        }
        for path in found {
            if self.desk.run(&path).is_none() {
                self.desk.runs.push(OpenRun::new(&path, 0));
                self.watcher.watch(&path);
            }
            if self.desk.focus.is_none() {
                self.desk.focus = Some(path);
            }
        }
        self.desk.color_runs();
        self.tick_a_few();
    }

    /// With many runs open at once, only the focused one is drawn to begin with.
    fn tick_a_few(&mut self) {
        if self.desk.runs.iter().filter(|run| run.visible).count() > 6 {
            let focus = self.desk.focus.clone();
            self.desk.runs.iter_mut().for_each(|run| run.visible = Some(&run.files.path) == focus.as_ref());
        }
    }

    /// Look at a run no more.
    pub(super) fn close(&mut self, path: &Path) {
        if self.desk.run(path).is_some_and(OpenRun::is_ours) {
            self.say("a run that is being trained from here stays open; stop it first".into());
            return;
        }
        self.watcher.forget(path);
        self.desk.runs.retain(|run| run.files.path != path);
        self.desk.color_runs();
        if self.desk.focus.as_deref() == Some(path) {
            self.desk.focus = self.desk.runs.first().map(|run| run.files.path.clone());
        }
    }
}

/// Look for the runs in a folder.
fn look(path: PathBuf) -> Done {
    let (found, there) = (find_runs(&path), path.exists());
    Done::Found(path, found, there)
}

fn write(path: &Path, bytes: &[u8]) -> Done {
    match write_whole(path, bytes) {
        Ok(()) => Done::Message(format!("written: {}", crate::vfs::shown(path))),
        Err(error) => Done::Message(format!("{error:#}")),
    }
}

/// Delete a run's folder, never one that is not a run's.
fn delete(path: PathBuf) -> Done {
    let shown = crate::vfs::shown(&path);
    if crate::session::lock::RunLock::is_held(&path) {
        return Done::Message(format!("{shown}: is being trained; stop it first"));
    }
    if !folder::config(&path).is_file() {
        return Done::Message(format!("{shown}: holds no config.toml, so it is no run; nothing was deleted"));
    }
    match std::fs::remove_dir_all(&path) {
        Ok(()) => Done::Deleted(path),
        Err(error) => Done::Message(format!("{shown}: {error}")),
    }
}

/// Wakes the window when a child has something to say.
pub(super) fn waker(ctx: &egui::Context) -> impl Fn() + Send + Clone + 'static {
    let ctx = ctx.clone();
    move || ctx.request_repaint_after(std::time::Duration::from_millis(100))
}

/// Runs that are trained from this window.
pub(super) fn ours(desk: &AppState) -> Vec<PathBuf> {
    desk.runs.iter().filter(|run| run.is_ours()).map(|run| run.files.path.clone()).collect()
}
