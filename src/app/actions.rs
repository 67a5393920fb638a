//! Orders of the pages, carried out.

use super::chat_process::ChatProcess;
use super::child::{Job, TrainerProcess};
use super::memory::write_whole;
use super::options::PlayStory;
use super::state::{Action, OpenRun, Page};
use super::window::{Done, Window};
use crate::backend::Wake;
use crate::history::{RunFiles, csv, find_runs};
use crate::run_folder::{self, RunLock};
use crate::story::{PlayerOptions, StoryLocation, UNTUNED, lesson};
use crate::vfs::display_path;
use anyhow::Result;
use eframe::egui;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The seed that the lessons' texts were written for.
const LESSON_SEED: u64 = 1337;

impl Window {
    /// Carry out what the pages have asked for.
    pub(super) fn perform_requests(&mut self, ctx: &egui::Context) {
        for order in self.state.take_orders() {
            self.perform(order, ctx);
        }
    }

    fn perform(&mut self, order: Action, ctx: &egui::Context) {
        match order {
            Action::Send(path, command) => self.send(&path, &command),
            Action::Start { args, run } => {
                if self.start(&args, &[], &run, ctx) {
                    self.state.show_only(&run);
                    self.show(Page::Charts);
                }
            }
            Action::Experiment { mut args, run } => {
                args.extend(["--run".to_owned(), run.display().to_string()]);
                if self.start(&args, &[UNTUNED], &run, ctx) {
                    self.state.show_only(&run);
                }
            }
            Action::Lesson(name) => self.begin_lesson(&name, StoryLocation::Kept),
            Action::LessonAgain(name) => self.begin_lesson(&name, StoryLocation::In),
            Action::Job(key, args) => {
                let job = Job::start(self.backend.as_ref(), &args, wake(ctx));
                self.state.jobs.insert(key, job);
            }
            Action::Cancel(key) => {
                if let Some(job) = self.state.jobs.get_mut(&key) {
                    job.cancel();
                }
            }
            Action::StartChat { model, system, tokens } => {
                // The one before frees its memory on the device first.
                self.state.chat = None;
                self.state.chat = Some(ChatProcess::start(self.backend.as_ref(), &model, (&system, tokens), wake(ctx)));
            }
            Action::SendChat(ask) => {
                if let Some(chat) = &mut self.state.chat {
                    chat.send(ask);
                }
            }
            Action::EndChat => self.state.chat = None,
            Action::Open(path) => self.in_background(ctx, move || find_runs_in(path)),
            Action::Close(path) => self.close(&path),
            Action::Delete(path) => self.in_background(ctx, move || delete(path)),
            Action::Focus(path) => {
                self.state.focus = Some(path.clone());
                if let Some(run) = self.state.run_mut(&path) {
                    run.visible = true;
                }
            }
            Action::Show(page) => self.show(page),
            Action::NewRun(stage, settings) => {
                self.panels.new_run.fill(&stage, &settings);
                self.show(Page::NewRun);
            }
            Action::Picture(to, svg) => {
                let write = move || write_whole(&to, &crate::report::png(&svg, 2.0)?).map(|()| to);
                self.in_background(ctx, || written(write()));
            }
            Action::Csv { run, metrics, to } => self.in_background(ctx, move || written(write_csv(&run, &metrics, to))),
            Action::Notify(text) => self.notify(text),
        }
    }

    fn send(&mut self, path: &Path, command: &crate::event::Command) {
        let Some(run) = self.state.run_mut(path) else { return };
        let name = run.name();
        let sent = match &mut run.trainer {
            Some(trainer) => trainer.send(command),
            None => Err(anyhow::anyhow!("it was not started from this window and takes no commands from it")),
        };
        if let Err(error) = sent {
            self.notify(format!("{name}: {error:#}"));
        }
    }

    /// Start a trainer; whether it was started.
    fn start(&mut self, args: &[String], env: &[(&str, &str)], path: &Path, ctx: &egui::Context) -> bool {
        let trainer = match TrainerProcess::start(self.backend.as_ref(), args, env, path, wake(ctx)) {
            Ok(trainer) => trainer,
            Err(error) => {
                self.notify(format!("{error:#}"));
                return false;
            }
        };
        // Its log is read again from the beginning: that of a resumed run may be cut.
        let index = self.state.runs.iter().position(|run| run.files.path == path).unwrap_or(self.state.runs.len());
        let fresh = OpenRun { trainer: Some(trainer), ours: true, live: true, ..OpenRun::new(path, 0) };
        match self.state.runs.get_mut(index) {
            Some(run) => *run = fresh,
            None => self.state.runs.push(fresh),
        }
        self.state.label_runs();
        self.watcher.watch(path);
        self.state.focus = Some(path.to_owned());
        true
    }

    fn begin_lesson(&mut self, name: &str, place: fn(PathBuf) -> StoryLocation) {
        let place = place(self.state.home.join("lessons"));
        let options = PlayerOptions {
            place,
            seed: LESSON_SEED,
            device: crate::config::DeviceSettings::default(),
            backend: self.backend.clone(),
        };
        match lesson(name) {
            Ok(story) => self.play(PlayStory { story, options, automatic: false }),
            Err(error) => self.notify(format!("{error:#}")),
        }
    }

    /// Show these runs, which were found in a folder.
    pub(super) fn opened(&mut self, path: &Path, found: Vec<PathBuf>, exists: bool) {
        if found.is_empty() {
            let what = if exists { "no run in this folder" } else { "no such folder" };
            self.notify(format!("{}: {what}", display_path(path)));
            return;
        }
        for path in found {
            if self.state.run(&path).is_none() {
                self.state.runs.push(OpenRun::new(&path, 0));
                self.watcher.watch(&path);
            }
            if self.state.focus.is_none() {
                self.state.focus = Some(path);
            }
        }
        self.state.label_runs();
        self.tick_a_few();
    }

    /// Of many open runs, only the focused one is drawn at first.
    fn tick_a_few(&mut self) {
        if self.state.runs.iter().filter(|run| run.visible).count() > 6 {
            let focus = self.state.focus.clone();
            self.state.runs.iter_mut().for_each(|run| run.visible = Some(&run.files.path) == focus.as_ref());
        }
    }

    /// Close a run.
    pub(super) fn close(&mut self, path: &Path) {
        if self.state.run(path).is_some_and(OpenRun::is_controllable) {
            self.notify("a run that is trained from this window stays open; stop it first".into());
            return;
        }
        self.watcher.unwatch(path);
        self.state.runs.retain(|run| run.files.path != path);
        self.state.label_runs();
        if self.state.focus.as_deref() == Some(path) {
            self.state.focus = self.state.runs.first().map(|run| run.files.path.clone());
        }
    }
}

/// Look for the runs in a folder.
fn find_runs_in(path: PathBuf) -> Done {
    let (found, exists) = (find_runs(&path), path.exists());
    Done::Found(path, found, exists)
}

/// Read the whole log of a run, and write metrics of it.
fn write_csv(run: &Path, metrics: &[String], to: PathBuf) -> Result<PathBuf> {
    let files = RunFiles::read(run)?;
    let names: Vec<&str> = metrics.iter().map(String::as_str).collect();
    write_whole(&to, csv(&files.history, &names).as_bytes())?;
    Ok(to)
}

fn written(path: Result<PathBuf>) -> Done {
    Done::Notify(path.map_or_else(|error| format!("{error:#}"), |path| format!("written: {}", display_path(&path))))
}

/// Delete a run's folder, and no other folder.
fn delete(path: PathBuf) -> Done {
    let name = display_path(&path);
    if RunLock::is_held(&path) {
        return Done::Notify(format!("{name}: is being trained; stop it first"));
    }
    if !run_folder::config(&path).is_file() {
        return Done::Notify(format!("{name}: has no config.toml, so it is not a run; nothing was deleted"));
    }
    match std::fs::remove_dir_all(&path) {
        Ok(()) => Done::Deleted(path),
        Err(error) => Done::Notify(format!("{name}: {error}")),
    }
}

/// Asks for a frame soon.
pub(super) fn wake(ctx: &egui::Context) -> Wake {
    let ctx = ctx.clone();
    Arc::new(move || ctx.request_repaint_after(std::time::Duration::from_millis(100)))
}
