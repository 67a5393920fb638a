//! Lessons: read, predict, run, look, understand, try by hand. The story is played on a thread of its own ([`Host`]); this page draws what
//! that shows.

mod blocks;
mod by_hand;

use crate::app::chart::{Frame, chart_ui};
use crate::app::loader::Loaded;
use crate::app::options::PlayStory;
use crate::app::state::{Action, AppState, Page};
use crate::app::{format, theme};
use crate::backend::Wake;
use crate::story::{self, Host, Panel, StepKind, Story, StoryPhase, StoryView, is_complete, lesson, lesson_names, next_lesson};
use blocks::{Picture, answer_ui, blocks_ui, commands_ui, picture_ui, question_ui, table_ui};
use by_hand::ByHand;
use eframe::egui::{self, RichText, Ui};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Width of the text: lines that an eye can follow.
const WIDTH: f32 = 720.0;

/// See the module.
#[derive(Default)]
pub struct Lessons {
    host: Option<Host>,
    /// The choice that was made before the run.
    predicted: Option<usize>,
    /// Remaining scrolls of the page to its first chart: when the run begins, and when its results are there.
    scrolls: u8,
    error: Option<String>,
    automatic: bool,
    /// Runs that were opened on the other pages.
    opened: BTreeSet<PathBuf>,
    /// The lessons, and whether each has been run to its end.
    list: Loaded<PathBuf, Vec<(Story, bool)>>,
    /// The lesson after the one of this name.
    next: Loaded<String, Option<Story>>,
    pictures: BTreeMap<PathBuf, Picture>,
    by_hand: ByHand,
}

impl std::fmt::Debug for Lessons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lessons").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Lessons {
    /// Begin with a story; `wake` is called when there is something new.
    pub fn start(&mut self, play: PlayStory, wake: Wake) {
        (self.predicted, self.error, self.automatic) = (None, None, play.automatic);
        self.next.invalidate();
        self.opened.clear();
        self.by_hand = ByHand::default();
        match Host::start(play.story, play.options, play.automatic, wake) {
            Ok(host) => self.host = Some(host),
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    /// Between frames: take what is new.
    pub fn advance(&mut self, state: &mut AppState) {
        let Some(host) = &mut self.host else { return };
        if !host.poll() {
            return;
        }
        let Some(shown) = host.view() else { return };
        if shown.phase != StoryPhase::Reading {
            // The other pages show the lesson's runs too, and only these.
            for path in shown.scene().steps.iter().filter_map(|step| shown.runs.get(&step.name)) {
                if self.opened.is_empty() {
                    state.runs.iter_mut().for_each(|run| run.visible = false);
                }
                if !self.opened.insert(path.clone()) {
                    continue;
                }
                match state.run_mut(path) {
                    Some(run) => run.visible = true,
                    None => {
                        state.request(Action::Open(path.clone()));
                        state.request(Action::Focus(path.clone()));
                    }
                }
            }
        }
        if shown.is_over && std::mem::take(&mut self.automatic) {
            report(shown, state);
        }
    }

    /// Whether a step runs.
    pub fn is_running(&self) -> bool {
        self.host.as_ref().is_some_and(Host::is_running)
    }

    /// Stop what runs; what was trained is saved.
    pub fn stop(&mut self) {
        if let Some(host) = &self.host {
            host.perform(story::StoryAction::Stop);
        }
    }

    /// Cancel the question about a change that was not made yet.
    pub fn cancel(&mut self) {
        self.by_hand.cancel();
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let host = self.host.take();
        let shown = host.as_ref().and_then(Host::view);
        let number = shown.map_or(usize::MAX, |shown| shown.number);
        let mut leave = false;
        egui::ScrollArea::vertical().id_salt(number).auto_shrink(false).stick_to_bottom(self.automatic).show(ui, |ui| {
            // The bar that scrolls lies over the right edge.
            ui.set_max_width(WIDTH.min(ui.available_width() - 10.0));
            let error = self.error.as_deref().or(host.as_ref().and_then(Host::error));
            if let Some(error) = error {
                ui.colored_label(ui.visuals().error_fg_color, error);
            }
            match (&host, shown) {
                (None, _) => self.list_ui(ui, state),
                (Some(host), Some(shown)) => leave = self.scene_ui(ui, state, host, shown),
                (Some(host), None) if host.error().is_some() => leave = ui.button("All lessons").clicked(),
                (Some(_), None) => {
                    ui.spinner();
                }
            }
        });
        if leave {
            self.by_hand.stop(state);
            self.list.invalidate();
        }
        // A host that is dropped saves what it trains.
        self.host = host.filter(|_| !leave);
    }

    fn list_ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        ui.label(RichText::new("Lessons").heading());
        ui.label(
            "Each lesson is a text to read, a question to answer before the run, a real run, and its results. The times are those of the \
             runs, measured on two processor cores.",
        );
        ui.add_space(8.0);
        let load = |root: &PathBuf| {
            let stories = lesson_names().filter_map(|name| lesson(name).ok());
            stories.map(|story| (is_complete(root, &story), story)).map(|(done, story)| (story, done)).collect()
        };
        let Some((_, list)) = self.list.get(ui.ctx(), &state.home.join("lessons"), load) else {
            ui.spinner();
            return;
        };
        let next = list.iter().position(|(_, done)| !done);
        for (i, (story, done)) in list.iter().enumerate() {
            egui::Frame::group(ui.style()).show(ui, |ui| {
                ui.set_width(ui.available_width());
                ui.horizontal_wrapped(|ui| {
                    let button = egui::Button::new(RichText::new(format!("{}. {}", i + 1, story.title)).strong());
                    let button = if next == Some(i) { button.fill(ui.visuals().selection.bg_fill) } else { button };
                    if ui.add(button).clicked() {
                        state.request(Action::Lesson(story.name.clone()));
                    }
                    ui.label(RichText::new(format!("about {}", format::duration(story.seconds()))).weak());
                    if *done {
                        ui.colored_label(theme::success_color(ui.visuals()), "done");
                        let again =
                            ui.button("Run again").on_hover_text("In a new folder; the button at the left shows the results.");
                        if again.clicked() {
                            state.request(Action::LessonAgain(story.name.clone()));
                        }
                    } else if next == Some(i) {
                        ui.label(RichText::new("next").weak());
                    }
                });
                ui.label(&story.about);
            });
        }
    }

    /// The current scene. True when the list of lessons is wanted.
    fn scene_ui(&mut self, ui: &mut Ui, state: &mut AppState, host: &Host, shown: &StoryView) -> bool {
        let mut leave = false;
        ui.horizontal_wrapped(|ui| {
            leave = ui.button("All lessons").clicked();
            ui.label(RichText::new(&shown.story.title).weak());
            let scenes = shown.story.scenes.len();
            if scenes > 1 {
                ui.label(RichText::new(format!("part {} of {scenes}", shown.number + 1)).weak());
            }
        });
        for (title, said) in shown.before.iter() {
            ui.add_space(10.0);
            ui.label(RichText::new(title).heading());
            blocks_ui(ui, said);
        }
        let scene = shown.scene();
        ui.add_space(10.0);
        ui.label(RichText::new(&scene.title).heading());
        blocks_ui(ui, &crate::story::blocks(&scene.text));
        if let Some(question) = &scene.question {
            question_ui(ui, question, shown.phase == StoryPhase::Reading, &mut self.predicted);
        }
        parameters_ui(ui, host, shown);
        self.run_ui(ui, state, host, shown);
        self.watch_ui(ui, state, shown);
        self.after_ui(ui, state, host, shown);
        leave
    }

    /// The possible actions: run, pause, stop, continue.
    fn run_ui(&mut self, ui: &mut Ui, state: &mut AppState, host: &Host, shown: &StoryView) {
        ui.add_space(8.0);
        match &shown.phase {
            StoryPhase::Reading => {
                let has_choices = shown.scene().question.as_ref().is_some_and(|q| !q.choices.is_empty());
                let words = match (shown.scene().steps.is_empty(), has_choices && self.predicted.is_none()) {
                    (true, _) => "Continue",
                    (false, true) => "Run it without a prediction",
                    (false, false) => "Run it",
                };
                if ui.add(large_button(words)).clicked() {
                    // Two trainers at once would both be slow.
                    self.by_hand.stop(state);
                    self.scrolls = 2;
                    host.perform(story::StoryAction::Run);
                }
                if let Some(seconds) = shown.preparation {
                    let about = format::duration((seconds / 5.0).ceil() * 5.0);
                    let text = format!(
                        "Once, before this lesson, a model that several lessons share is trained: about {about} on two cores."
                    );
                    ui.label(RichText::new(text).weak());
                }
                commands_ui(ui, &shown.commands);
            }
            StoryPhase::Running => {
                ui.horizontal_wrapped(|ui| {
                    ui.spinner();
                    ui.label(shown.progress.doing.as_deref().unwrap_or("starting"));
                    let left = shown.progress.seconds_left.map_or("...".to_owned(), format::duration);
                    ui.label(RichText::new(format!("{left} left")).weak());
                    pause_ui(ui, host, shown);
                    if ui.button("Stop").clicked() {
                        host.perform(story::StoryAction::Stop);
                    }
                });
                ui.add(egui::ProgressBar::new(shown.progress.share as f32).desired_height(6.0));
            }
            StoryPhase::Stopped => {
                ui.label("Stopped. What was trained is saved.");
                if ui.button("Continue").clicked() {
                    host.perform(story::StoryAction::Run);
                }
            }
            StoryPhase::Failed(text) => {
                ui.colored_label(ui.visuals().error_fg_color, text);
            }
            StoryPhase::Results | StoryPhase::Done => {}
        }
    }

    fn watch_ui(&mut self, ui: &mut Ui, state: &mut AppState, shown: &StoryView) {
        if shown.phase == StoryPhase::Reading {
            return;
        }
        for watch in &shown.scene().watch {
            ui.add_space(8.0);
            if let Some(spec) = watch.spec() {
                let runs: Vec<PathBuf> =
                    shown.watched_folders(watch).into_iter().filter(|path| state.run(path).is_some()).collect();
                if runs.is_empty() {
                    continue;
                }
                let frame = Frame { view: None, runs: &runs, log_x: false, only: &watch.metrics, raw: true };
                let title = ui.label(RichText::new(spec.title).strong()).on_hover_text(spec.hint);
                chart_ui(ui, state, spec, &frame, spec.log_y, 230.0);
                let is_due = self.scrolls > u8::from(!has_results(&shown.phase));
                if is_due {
                    title.scroll_to_me(Some(egui::Align::TOP));
                    self.scrolls = u8::from(!has_results(&shown.phase));
                }
            } else if let Some(panel) = watch.panel {
                let (page, words) = match panel {
                    Panel::Tokens => (Page::Tokens, "Look at the tokens"),
                    Panel::Samples => (Page::Samples, "Look at the texts"),
                    Panel::Merge => (Page::Merge, "Look at merging"),
                    Panel::Inside => (Page::Inside, "Look inside"),
                };
                if ui.button(words).clicked() {
                    state.request(Action::Show(page));
                }
            } else if let Some((step, file)) = watch.picture.as_ref().and_then(|picture| picture.split_once('/'))
                && let Some(dir) = shown.products.get(step).filter(|_| has_results(&shown.phase))
            {
                let path = dir.join(file);
                picture_ui(ui, self.pictures.entry(path.clone()).or_default(), &path);
            }
        }
    }

    /// The results, an experiment, and what comes next.
    fn after_ui(&mut self, ui: &mut Ui, state: &mut AppState, host: &Host, shown: &StoryView) {
        if !has_results(&shown.phase) {
            return;
        }
        match &shown.after {
            Some(Ok(after)) => {
                blocks_ui(ui, &after.results);
                if let Some((head, rows)) = &after.table {
                    table_ui(ui, head, rows);
                }
                if !after.answer.is_empty() {
                    let checked = self.predicted.and_then(|choice| after.checked.get(choice)?.as_ref());
                    answer_ui(ui, shown.scene().question.as_ref(), self.predicted, checked, &after.answer);
                }
                blocks_ui(ui, &after.closing);
            }
            Some(Err(error)) => {
                ui.colored_label(ui.visuals().error_fg_color, error);
            }
            None => {}
        }
        self.by_hand.ui(ui, state, shown.experiment.as_ref());
        ui.add_space(8.0);
        if shown.phase == StoryPhase::Results && !shown.is_last() {
            if ui.add(large_button("Continue")).clicked() {
                host.perform(story::StoryAction::Next);
                self.predicted = None;
            }
        } else {
            ui.label(RichText::new("This is the end. Its runs are open on the other pages.").weak());
            self.next_ui(ui, state, &shown.story.name);
        }
        ui.add_space(30.0);
    }

    /// The way to the next lesson.
    fn next_ui(&mut self, ui: &mut Ui, state: &mut AppState, name: &str) {
        let root = state.home.join("lessons");
        let load = move |name: &String| next_lesson(&root, name).ok().flatten();
        let Some((_, Some(next))) = self.next.get(ui.ctx(), &name.to_owned(), load) else { return };
        if ui.button(RichText::new(format!("Next lesson: {}", next.title)).strong()).clicked() {
            state.request(Action::Lesson(next.name.clone()));
        }
    }
}

/// The button that leads on.
fn large_button(words: &str) -> egui::Button<'static> {
    egui::Button::new(RichText::new(words).strong()).min_size(egui::vec2(120.0, 32.0))
}

fn has_results(phase: &StoryPhase) -> bool {
    matches!(phase, StoryPhase::Results | StoryPhase::Done)
}

/// Parameters that can be chosen before a scene is run, and again after it.
fn parameters_ui(ui: &mut Ui, host: &Host, shown: &StoryView) {
    let is_open = matches!(shown.phase, StoryPhase::Reading | StoryPhase::Results | StoryPhase::Done);
    let words = || shown.scene().steps.iter().flat_map(|step| &step.run);
    for (name, parameter) in &shown.story.parameters {
        let place = format!("{{{name}}}");
        if !words().any(|word| word.contains(&place)) {
            continue;
        }
        ui.add_enabled_ui(is_open, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.label(&parameter.label);
                for choice in &parameter.choices {
                    if ui.selectable_label(*choice == parameter.value, choice).clicked() {
                        host.perform(story::StoryAction::Set(name.clone(), choice.clone()));
                    }
                }
            });
        });
    }
    if let Some(refused) = &shown.refused {
        ui.colored_label(ui.visuals().error_fg_color, refused);
    }
}

/// Pause, one update, continue: while a trainer runs.
fn pause_ui(ui: &mut Ui, host: &Host, shown: &StoryView) {
    if !shown.can_pause {
        return;
    }
    if ui.button(if shown.is_paused { "Continue" } else { "Pause" }).clicked() {
        host.perform(story::StoryAction::Pause(!shown.is_paused));
    }
    if shown.is_paused && ui.button("One step").clicked() {
        host.perform(story::StoryAction::Step);
    }
}

/// The report of a story that has continued by itself to its end.
fn report(shown: &StoryView, state: &mut AppState) {
    let trained = shown.story.steps().filter(|step| step.kind() == StepKind::Trainer);
    let runs = trained.filter_map(|step| shown.products.get(&step.name)).map(|path| path.display().to_string());
    let out = shown.dir.join("report.html").display().to_string();
    let args = ["report".to_owned()].into_iter().chain(runs).chain(["-o".to_owned(), out.clone()]).collect();
    state.request(Action::Job(format!("report {out}"), args));
    state.request(Action::Notify(format!("all charts, texts and settings will be on one page: {out}")));
}
