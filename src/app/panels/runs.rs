//! The open runs as a tree of forks, merges and stages; what can be done with one; how they differ.

use crate::app::draw::named_ui;
use crate::app::panels::shared;
use crate::app::paths::{PathField, PathKind, path_ui};
use crate::app::state::{Action, AppState, OpenRun, Page};
use crate::app::top_bar::{state_label, state_ui};
use crate::app::{format, theme};
use crate::history::{differences, family};
use crate::number_format::counted;
use crate::vfs::human_bytes;
use eframe::egui::{self, RichText, Ui};
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug, Default)]
pub struct Runs {
    /// The folder that was typed or chosen.
    typed: String,
    /// The run that is deleted once that is confirmed.
    deleting: Option<PathBuf>,
}

impl Runs {
    /// Cancel the question: nothing is deleted.
    pub fn cancel(&mut self) {
        self.deleting = None;
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        if ui.button("New run").clicked() {
            state.request(Action::Show(Page::NewRun));
        }
        ui.horizontal(|ui| {
            let width = (ui.available_width() - 60.0).max(60.0);
            let field = PathField { kind: PathKind::Folder, label: "folder of runs", hint: "folder", width };
            let field = path_ui(ui, &mut self.typed, field).accessible_name("folder of runs");
            let entered = field.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
            let open = ui.button("Open").on_hover_text("Open a run folder, or all runs in a folder").clicked();
            if (open || entered) && !self.typed.trim().is_empty() {
                state.request(Action::Open(PathBuf::from(self.typed.trim())));
            }
        });
        ui.separator();
        if state.runs.is_empty() {
            let mut actions = Vec::new();
            let what =
                "Choose a folder above and press Open, start a run, or take a lesson. New runs are folders in the folder runs.";
            shared::empty_with(ui, "No run is open", what, |ui| {
                let offers = [("Start a new run", Action::Show(Page::NewRun)), ("Take a lesson", Action::Show(Page::Lessons))];
                shared::action_buttons(ui, offers, &mut actions);
            });
            actions.into_iter().for_each(|order| state.request(order));
            return;
        }
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            // A wide table below must not widen what is above it.
            ui.set_max_width(ui.available_width());
            self.tree_ui(ui, state);
            ui.add_space(8.0);
            if let Some(path) = state.focus.clone() {
                self.actions_ui(ui, state, &path);
            }
            differences_ui(ui, state);
        });
    }

    fn tree_ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let files: Vec<_> = state.runs.iter().map(|run| &run.files).collect();
        let members = family(&files);
        let focus = state.focus.clone();
        // A single run is drawn in the colours of its metrics.
        let are_colored = state.runs.iter().filter(|run| run.visible).count() > 1;
        let mut actions = Vec::new();
        let is_long = members.len() > LONG;
        for member in members {
            let run = &mut state.runs[member.run];
            let focused = focus.as_deref() == Some(run.files.path.as_path());
            let frame = egui::Frame::new().inner_margin(egui::Margin::symmetric(4, 3)).corner_radius(4.0);
            let frame = if focused { frame.fill(ui.visuals().selection.bg_fill.gamma_multiply(0.35)) } else { frame };
            frame.show(ui, |ui| {
                ui.set_width(ui.available_width());
                let row = ui.horizontal(|ui| {
                    // Narrow lists have more space for names.
                    ui.spacing_mut().item_spacing.x = 4.0;
                    ui.add_space(14.0 * member.depth as f32);
                    let color = theme::readable(run.color, ui.visuals());
                    let tick = ui.checkbox(&mut run.visible, "").on_hover_text("Draw it in the charts");
                    if run.visible && are_colored {
                        ui.painter().circle_filled(tick.rect.right_center() + egui::vec2(5.0, 0.0), 4.0, color);
                    }
                    ui.add_space(12.0);
                    let (name, is_beside) = name_ui(ui, run, focused);
                    if name.clicked() {
                        actions.push(Action::Focus(run.files.path.clone()));
                    }
                    if is_beside {
                        state_ui(ui, run);
                    }
                    is_beside
                });
                let mut full = in_short(run);
                if !member.origin.is_empty() {
                    full = format!("from {}; {full}", member.origin);
                }
                // A long list has one figure of each run that is not selected.
                let figure = run.files.history.figures().first().map(format::figure).filter(|_| is_long && !focused);
                let said = format::keep_percent_signs(figure.as_ref().unwrap_or(&full));
                ui.horizontal(|ui| {
                    ui.add_space(14.0 * member.depth as f32 + 30.0);
                    ui.vertical(|ui| {
                        if !row.inner {
                            state_ui(ui, run);
                        }
                        let label = ui.add(egui::Label::new(RichText::new(said).small().weak()).wrap());
                        if figure.is_some() {
                            label.on_hover_text(full);
                        }
                    });
                });
            });
        }
        actions.into_iter().for_each(|order| state.request(order));
    }

    fn actions_ui(&mut self, ui: &mut Ui, state: &mut AppState, path: &Path) {
        let Some(run) = state.run(path) else { return };
        ui.label(RichText::new(run.name()).strong());
        if let Some(error) = &run.error {
            ui.colored_label(ui.visuals().error_fg_color, error);
        }
        let shown = path.display().to_string();
        let (mut actions, mut only_this) = (Vec::new(), false);
        ui.horizontal_wrapped(|ui| {
            shared::continue_ui(ui, run, &mut actions);
            if ui.button("Report").on_hover_text("Write report.html into its folder").clicked() {
                let out = path.join("report.html").display().to_string();
                actions.push(Action::Job(format!("report {shown}"), vec!["report".into(), shown.clone(), "-o".into(), out]));
            }
            let others = state.runs.iter().any(|other| other.visible && other.files.path != path);
            let only = ui.add_enabled(others || !run.visible, egui::Button::new("Only this run"));
            only_this |= only.on_hover_text("Draw this run in the charts, and no other").clicked();
            if ui.button("Close").on_hover_text("Close this run; nothing is deleted").clicked() {
                actions.push(Action::Close(path.to_owned()));
            }
            if ui.add_enabled(!run.live, egui::Button::new("Delete")).on_disabled_hover_text("It is being trained.").clicked() {
                self.deleting = Some(path.to_owned());
            }
        });
        if self.deleting.as_deref() == Some(path) {
            ui.horizontal_wrapped(|ui| {
                ui.label(format!("Delete {shown} for good, {} with all checkpoints?", human_bytes(run.bytes)));
                if ui.button("Delete it").clicked() {
                    actions.push(Action::Delete(path.to_owned()));
                    self.deleting = None;
                }
                if ui.button("Keep it").clicked() {
                    self.deleting = None;
                }
            });
        }
        report_ui(ui, state, path);
        if only_this {
            state.show_only(path);
        }
        actions.into_iter().for_each(|order| state.request(order));
    }
}

/// The name of a run, and whether how it stands fits beside it: the ends of names tell runs apart.
fn name_ui(ui: &mut Ui, run: &OpenRun, is_focused: bool) -> (egui::Response, bool) {
    let word = body_width(ui, state_label(run)) + 6.0;
    let wanted = body_width(ui, &run.name()) + 2.0 * ui.spacing().button_padding.x + word;
    let is_beside = wanted <= ui.available_width();
    let space = (ui.available_width() - if is_beside { word } else { 0.0 }).max(40.0);
    let button = egui::Button::selectable(is_focused, RichText::new(run.name()).strong()).truncate();
    let name = ui.scope(|ui| {
        ui.set_max_width(space);
        ui.add(button)
    });
    (name.inner.on_hover_text(crate::vfs::display_path(&run.files.path)), is_beside)
}

/// A list of more runs than this is long.
const LONG: usize = 4;

/// Width of a text in the usual type.
fn body_width(ui: &Ui, text: &str) -> f32 {
    let font = egui::TextStyle::Body.resolve(ui.style());
    ui.painter().layout_no_wrap(text.to_owned(), font, egui::Color32::WHITE).size().x
}

fn report_ui(ui: &mut Ui, state: &AppState, path: &Path) {
    use crate::app::child::JobState;
    match state.job(&format!("report {}", path.display())) {
        None => {}
        Some(JobState::Running(_)) => {
            ui.spinner();
        }
        Some(JobState::Done(_)) => {
            ui.label(format!("written: {}", path.join("report.html").display()));
        }
        Some(JobState::Failed(text)) => {
            ui.colored_label(ui.visuals().error_fg_color, text);
        }
    }
}

fn in_short(run: &OpenRun) -> String {
    let h = &run.files.history;
    let mut parts = Vec::new();
    if !h.stage().is_empty() {
        parts.push(h.stage().to_owned());
    }
    if let Some(started) = &h.started {
        parts.push(format!("{} parameters", crate::number_format::approximate_count(started.parameters)));
        parts.push(format!("step {} of {}", format::count(h.step), format::count(h.max_steps())));
    }
    parts.extend(h.figures().iter().map(format::figure));
    if run.bytes > 0 {
        parts.push(human_bytes(run.bytes));
    }
    if h.bad_lines > 0 {
        parts.push(format!("{} lines cannot be read", h.bad_lines));
    }
    match parts.is_empty() {
        true if run.loading => "its log is being read".into(),
        true => "nothing has happened yet".into(),
        false => parts.join(", "),
    }
}

/// Settings of the ticked runs that differ.
fn differences_ui(ui: &mut Ui, state: &AppState) {
    let ticked: Vec<&OpenRun> = state.runs.iter().filter(|run| run.visible).collect();
    if ticked.len() < 2 {
        return;
    }
    let settings: Vec<_> = ticked.iter().map(|run| run.files.settings.as_ref()).collect();
    let found = differences(&settings);
    // How many says that the table may reach beyond the page.
    let title = format!("{} ticked runs differ in {}", ticked.len(), counted(found.len() as u64, "setting"));
    egui::CollapsingHeader::new(title).id_salt("differences").default_open(true).show(ui, |ui| {
        if found.is_empty() {
            ui.label(RichText::new("Their settings are the same.").weak());
            return;
        }
        egui::ScrollArea::horizontal().show(ui, |ui| differences_grid_ui(ui, &ticked, &found));
    });
}

/// A row a run, a column a setting: names of settings are short, and runs are compared line by line.
fn differences_grid_ui(ui: &mut Ui, ticked: &[&OpenRun], found: &[crate::history::SettingDifference]) {
    egui::Grid::new("differences").striped(true).spacing([14.0, 3.0]).show(ui, |ui| {
        ui.label("");
        for difference in found {
            let short = difference.name.split_once('.').map_or(difference.name.as_str(), |(_, field)| field).replace('_', " ");
            ui.label(RichText::new(short).small().strong()).on_hover_text(&difference.name);
        }
        ui.end_row();
        for (i, run) in ticked.iter().enumerate() {
            let color = theme::readable(run.color, ui.visuals());
            named_ui(ui, color, &format::excerpt(&run.name(), 18), false).on_hover_text(run.name());
            for difference in found {
                let value = difference.values.get(i).map_or("", String::as_str);
                ui.label(RichText::new(short(value)).small()).on_hover_text(crate::vfs::clean(value));
            }
            ui.end_row();
        }
    });
}

/// A value of a setting in few characters: of a path its last part, of a list its elements.
fn short(value: &str) -> String {
    let elements = value.trim_matches(['[', ']']).split(", ").map(|element| element.trim_matches('"'));
    let last = |path: &str| path.trim_end_matches('/').rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
    let short = elements.map(last).collect::<Vec<_>>().join(", ");
    let shown = format::excerpt(&crate::vfs::clean(&short), 28);
    if shown.is_empty() { "none".into() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_short_value_says_what_differs() {
        let cases = [
            ("", "none"),
            ("[]", "none"),
            ("0.001", "0.001"),
            (r#"["/data/long/sums.jsonl"]"#, "sums.jsonl"),
            (r#"["a/b.txt", "c.txt"]"#, "b.txt, c.txt"),
            ("runs/base@200", "base@200"),
            ("abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrstuvwxyz01…"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }
}
