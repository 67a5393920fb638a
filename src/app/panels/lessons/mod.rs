//! Lessons: read, predict, run, look, understand. The story is played by [`Player`]; this page tells it.

mod scene;

use crate::app::chart::{Frame, chart_ui};
use crate::app::state::{Action, AppState, Page};
use crate::app::{StoryView, format, theme};
use crate::config::DeviceSettings;
use crate::event::Command;
use crate::story::{
    Block, Options, Panel, Phase, Player, StepKind, Story, Watch, Where, is_complete, lesson, lesson_names, next_lesson,
};
use eframe::egui::{self, RichText, Ui};
use scene::{answer_ui, blocks_ui, commands_ui, picture_ui, question_ui, table_ui};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Width of the words: lines that an eye can follow.
const WIDTH: f32 = 720.0;
/// The seed that the words were written for.
const SEED: u64 = 1337;

/// See the module.
#[derive(Default)]
pub struct Lessons {
    player: Option<Player>,
    /// Which answer was chosen before the run.
    predicted: Option<usize>,
    error: Option<String>,
    by_itself: bool,
    /// Scenes that are over, of a story that goes on by itself.
    before: Vec<(String, Vec<Block>)>,
    /// The lessons, and whether each has been run to its end.
    list: Vec<(Story, bool)>,
    /// The next lesson, once it was looked for.
    next: Option<Option<Story>>,
    /// Pictures that steps made, by their path; None is one that cannot be shown.
    pictures: BTreeMap<PathBuf, Option<egui::TextureHandle>>,
}

impl std::fmt::Debug for Lessons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lessons").field("player", &self.player).finish_non_exhaustive()
    }
}

impl Lessons {
    /// Begin with this lesson; its runs go below `home`.
    pub fn choose(&mut self, name: &str, home: &Path) {
        let told = lesson(name).and_then(|story| {
            let options = Options {
                place: Where::In(home.join("lessons")),
                seed: SEED,
                device: DeviceSettings::default(),
                lehr: std::env::current_exe()?,
            };
            Ok(StoryView { story, options, by_itself: false })
        });
        match told {
            Ok(told) => self.begin(told),
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    /// Begin with a story.
    pub fn begin(&mut self, told: StoryView) {
        (self.predicted, self.error, self.by_itself) = (None, None, told.by_itself);
        self.next = None;
        self.before.clear();
        match Player::open(told.story, told.options) {
            Ok(player) => self.player = Some(player),
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    /// Between frames: look at what runs. True while something does.
    pub fn advance(&mut self, desk: &mut AppState) -> bool {
        if self.by_itself {
            self.continue_automatically(desk);
        }
        let Some(player) = &mut self.player else { return false };
        if *player.phase() != Phase::Running {
            return false;
        }
        // A step that is done already takes no time.
        for _ in 0..20 {
            if !player.poll() {
                break;
            }
        }
        let paths: Vec<PathBuf> = player.runs().map(|(_, run)| run.path.clone()).collect();
        for path in paths {
            // The other pages show it too.
            if desk.run(&path).is_none() && crate::run_folder::config(&path).is_file() {
                desk.ask(Action::Open(path.clone()));
                desk.ask(Action::Focus(path));
            }
        }
        true
    }

    /// From scene to scene; what was said in those before stays above. At the end comes the report.
    fn continue_automatically(&mut self, desk: &mut AppState) {
        let Some(player) = &mut self.player else { return };
        match player.phase() {
            Phase::Reading => player.go(),
            Phase::Seen => {
                let last = player.scene_number() + 1 == player.story().scenes.len();
                if last {
                    self.by_itself = false;
                    let trained = player.story().steps().filter(|s| s.kind() == StepKind::Trainer).map(|s| s.name.clone());
                    let runs = trained.filter_map(|name| player.product(&name)).map(|path| path.display().to_string());
                    let out = player.dir().join("report.html").display().to_string();
                    let args = ["report".to_owned()].into_iter().chain(runs).chain(["-o".to_owned(), out.clone()]).collect();
                    desk.ask(Action::Job(format!("report {out}"), args));
                    desk.ask(Action::Say(format!("all charts, texts and settings will be on one page: {out}")));
                    return;
                }
                let mut said = player.text();
                said.extend(player.seen().unwrap_or_default());
                said.extend(player.closing().unwrap_or_default());
                self.before.push((player.scene().title.clone(), said));
                player.next();
            }
            _ => {}
        }
    }

    /// Whether a step runs.
    pub fn is_running(&self) -> bool {
        self.player.as_ref().is_some_and(|player| *player.phase() == Phase::Running)
    }

    /// Stop what runs; what was trained is saved.
    pub fn stop(&mut self) {
        if let Some(player) = &mut self.player {
            player.stop();
        }
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, desk: &mut AppState) {
        let scene = self.player.as_ref().map_or(usize::MAX, Player::scene_number);
        egui::ScrollArea::vertical().id_salt(scene).auto_shrink(false).stick_to_bottom(self.by_itself).show(ui, |ui| {
            ui.set_max_width(WIDTH.min(ui.available_width()));
            if let Some(error) = &self.error {
                ui.colored_label(ui.visuals().error_fg_color, error);
            }
            match self.player.is_some() {
                true => self.scene_ui(ui, desk),
                false => self.list_ui(ui, desk),
            }
        });
    }

    fn list_ui(&mut self, ui: &mut Ui, desk: &AppState) {
        if self.list.is_empty() {
            let root = desk.home.join("lessons");
            let stories = lesson_names().filter_map(|name| lesson(name).ok());
            self.list = stories.map(|story| (is_complete(&root, &story), story)).map(|(done, story)| (story, done)).collect();
        }
        ui.label(RichText::new("Lessons").heading());
        ui.label(
            "Each is a few minutes: text to read, a question to answer before the run, a real run, and what came out of it.",
        );
        ui.add_space(8.0);
        let mut chosen = None;
        for (i, (story, done)) in self.list.iter().enumerate() {
            egui::Frame::group(ui.style()).show(ui, |ui| {
                ui.set_width(ui.available_width());
                ui.horizontal(|ui| {
                    if ui.button(RichText::new(format!("{}. {}", i + 1, story.title)).strong()).clicked() {
                        chosen = Some(story.name.clone());
                    }
                    if *done {
                        ui.colored_label(theme::good(ui.visuals()), "done");
                    }
                });
                ui.label(format!("{} About {} on two processor cores.", story.about, format::duration(story.seconds())));
            });
        }
        if let Some(name) = chosen {
            self.choose(&name, &desk.home.clone());
        }
    }

    fn scene_ui(&mut self, ui: &mut Ui, desk: &mut AppState) {
        let Some(player) = &self.player else { return };
        let mut back = false;
        ui.horizontal_wrapped(|ui| {
            back = ui.button("All lessons").clicked();
            ui.label(RichText::new(&player.story().title).weak());
            let scenes = player.story().scenes.len();
            if scenes > 1 {
                ui.label(RichText::new(format!("part {} of {scenes}", player.scene_number() + 1)).weak());
            }
        });
        if back {
            self.stop();
            self.player = None;
            self.list.clear();
            return;
        }
        for (title, said) in &self.before {
            ui.add_space(10.0);
            ui.label(RichText::new(title).heading());
            blocks_ui(ui, said);
        }
        ui.add_space(10.0);
        ui.label(RichText::new(&player.scene().title).heading());
        blocks_ui(ui, &player.text());
        if let Some(question) = player.question() {
            let open = *player.phase() == Phase::Reading;
            question_ui(ui, question, open, &mut self.predicted);
        }
        self.parameters_ui(ui);
        self.run_ui(ui);
        self.watch_ui(ui, desk);
        self.after_ui(ui, &desk.home);
    }

    /// What the reader may change before a scene is run, and again after it.
    fn parameters_ui(&mut self, ui: &mut Ui) {
        let Some(player) = &mut self.player else { return };
        let is_open = matches!(player.phase(), Phase::Reading | Phase::Seen | Phase::Done);
        let mut changed = None;
        let uses = |name: &str| {
            player.scene().steps.iter().any(|step| step.run.iter().any(|word| word.contains(&format!("{{{name}}}"))))
        };
        for (name, parameter) in player.story().parameters.iter().filter(|(name, _)| uses(name)) {
            ui.add_enabled_ui(is_open, |ui| {
                ui.horizontal(|ui| {
                    ui.label(&parameter.label);
                    for choice in &parameter.choices {
                        if ui.selectable_label(*choice == parameter.value, choice).clicked() {
                            changed = Some((name.clone(), choice.clone()));
                        }
                    }
                });
            });
        }
        if let Some((name, value)) = changed {
            self.error = player.set(&name, &value).err().map(|error| format!("{error:#}"));
        }
    }

    /// What can be done now: run, stop, go on.
    fn run_ui(&mut self, ui: &mut Ui) {
        let Some(player) = &mut self.player else { return };
        ui.add_space(8.0);
        match player.phase().clone() {
            Phase::Reading => {
                let asked = player.question().is_some_and(|q| !q.choices.is_empty()) && self.predicted.is_none();
                let runs = !player.scene().steps.is_empty();
                let words = match (runs, asked) {
                    (false, _) => "Go on",
                    (true, true) => "Run it without a prediction",
                    (true, false) => "Run it",
                };
                if ui.add(egui::Button::new(RichText::new(words).strong()).min_size(egui::vec2(120.0, 32.0))).clicked() {
                    player.go();
                }
                if let Some(seconds) = player.preparation() {
                    let about = format::duration((seconds / 5.0).ceil() * 5.0);
                    let text = format!(
                        "Once, before this lesson, a model that several lessons share is trained: about {about} on two cores."
                    );
                    ui.label(RichText::new(text).weak());
                }
                commands_ui(ui, player);
            }
            Phase::Running => {
                let progress = player.progress();
                ui.horizontal(|ui| {
                    ui.spinner();
                    ui.label(progress.doing.unwrap_or_else(|| "starting".into()));
                    let left = progress.seconds_left.map_or("...".to_owned(), format::duration);
                    ui.label(RichText::new(format!("{left} left")).weak());
                    pause_ui(ui, player);
                    if ui.button("Stop").clicked() {
                        player.stop();
                    }
                });
                ui.add(egui::ProgressBar::new(progress.share as f32).desired_height(6.0));
            }
            Phase::Stopped => {
                ui.label("Stopped. What was trained is saved.");
                if ui.button("Go on").clicked() {
                    player.go();
                }
            }
            Phase::Failed(text) => {
                ui.colored_label(ui.visuals().error_fg_color, text);
            }
            Phase::Seen | Phase::Done => {}
        }
    }

    fn watch_ui(&mut self, ui: &mut Ui, desk: &mut AppState) {
        let Some(player) = &self.player else { return };
        if matches!(player.phase(), Phase::Reading) {
            return;
        }
        let watches = player.scene().watch.clone();
        for watch in &watches {
            ui.add_space(8.0);
            if let Some(spec) = watch.spec() {
                let runs: Vec<PathBuf> = runs_of(player, watch).into_iter().filter(|path| desk.run(path).is_some()).collect();
                if runs.is_empty() {
                    continue;
                }
                runs.iter().for_each(|path| desk.run_mut(path).into_iter().for_each(|run| run.visible = true));
                let extent = super::charts::extent(desk, &runs);
                let frame = Frame { view: None, extent, runs: &runs, log_x: false, only: &watch.metrics, raw: true };
                ui.label(RichText::new(spec.title).strong()).on_hover_text(spec.hint);
                let touched = chart_ui(ui, desk, spec, &frame, spec.log_y, 230.0);
                if touched.hover.is_some() {
                    desk.cursor = touched.hover;
                }
            } else if let Some(panel) = watch.panel {
                let (page, words) = match panel {
                    Panel::Tokens => (Page::Tokens, "Look at the tokens"),
                    Panel::Samples => (Page::Samples, "Look at the texts"),
                    Panel::Merge => (Page::Merge, "Look at merging"),
                    Panel::Inside => (Page::Inside, "Look inside"),
                };
                if ui.button(words).clicked() {
                    desk.ask(Action::Show(page));
                }
            } else if let Some(picture) = &watch.picture {
                let (step, file) = picture.split_once('/').unwrap_or((picture, ""));
                if let Some(dir) = player.product(step).filter(|_| matches!(player.phase(), Phase::Seen | Phase::Done)) {
                    picture_ui(ui, &mut self.pictures, &dir.join(file));
                }
            }
        }
    }

    /// What came out, and the way on.
    fn after_ui(&mut self, ui: &mut Ui, home: &Path) {
        let Some(player) = &mut self.player else { return };
        if !matches!(player.phase(), Phase::Seen | Phase::Done) {
            return;
        }
        let mut said = || -> anyhow::Result<()> {
            blocks_ui(ui, &player.seen()?);
            if let Some((head, rows)) = player.table()? {
                table_ui(ui, &head, &rows);
            }
            let answer = player.answer()?;
            if !answer.is_empty() {
                let judged = self.predicted.map(|choice| player.judge(choice)).transpose()?.flatten();
                answer_ui(ui, player.question(), self.predicted, judged.as_ref(), &answer);
            }
            blocks_ui(ui, &player.closing()?);
            Ok(())
        };
        if let Err(error) = said() {
            ui.colored_label(ui.visuals().error_fg_color, format!("{error:#}"));
        }
        ui.add_space(8.0);
        let last = player.scene_number() + 1 == player.story().scenes.len();
        if *player.phase() == Phase::Seen && !last {
            if ui.add(egui::Button::new(RichText::new("Go on").strong()).min_size(egui::vec2(120.0, 32.0))).clicked() {
                player.next();
                self.predicted = None;
            }
        } else {
            ui.label(RichText::new("This is the end. Its runs are open on the other pages.").weak());
            self.next_ui(ui, home);
        }
        ui.add_space(30.0);
    }
}

impl Lessons {
    /// The way to the next lesson.
    fn next_ui(&mut self, ui: &mut Ui, home: &Path) {
        if self.next.is_none() {
            let name = self.player.as_ref().map_or(String::new(), |player| player.story().name.clone());
            self.next = Some(next_lesson(&home.join("lessons"), &name).ok().flatten());
        }
        let Some(Some(next)) = &self.next else { return };
        if ui.button(RichText::new(format!("Next lesson: {}", next.title)).strong()).clicked() {
            let name = next.name.clone();
            self.choose(&name, home);
        }
    }
}

/// Pause, one update, continue: while a trainer runs.
fn pause_ui(ui: &mut Ui, player: &mut Player) {
    if !player.can_pause() {
        return;
    }
    let paused = player.is_paused();
    // A trainer that has just ended takes no command; what became of it is seen next.
    if ui.button(if paused { "Continue" } else { "Pause" }).clicked() {
        let _ = player.pause(!paused);
    }
    if paused && ui.button("One update").clicked() {
        let _ = player.send(&Command::Step);
    }
}

/// Folders of the runs that are to be looked at.
fn runs_of(player: &Player, watch: &Watch) -> Vec<PathBuf> {
    let all: Vec<(&str, PathBuf)> = match watch.runs.is_empty() {
        true => player.runs().map(|(name, run)| (name, run.path.clone())).collect(),
        false => watch.runs.iter().filter_map(|name| Some((name.as_str(), player.run(name)?.path.clone()))).collect(),
    };
    let shared = |name: &str| player.story().steps().any(|s| s.name == name && s.shared);
    all.into_iter().filter(|(name, _)| !watch.runs.is_empty() || !shared(name)).map(|(_, path)| path).collect()
}
