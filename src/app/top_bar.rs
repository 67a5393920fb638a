//! The bar at the top, the question when the window is closed, the list of shortcuts.

use super::state::{Action, AppState, OpenRun, Page};
use super::{format, theme};
use crate::history::RunState;
use eframe::egui::{self, RichText, Ui};

/// The focused run in one line, and what concerns the whole window.
pub fn top_ui(ui: &mut Ui, state: &mut AppState, help: &mut bool) {
    ui.horizontal(|ui| {
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            if ui.button("?").on_hover_text("Keyboard shortcuts (F1)").clicked() {
                *help = !*help;
            }
            let look = &mut state.look;
            let names = [
                (egui::ThemePreference::System, "as the system"),
                (egui::ThemePreference::Dark, "dark"),
                (egui::ThemePreference::Light, "light"),
            ];
            let current = names.iter().find(|(t, _)| *t == look.theme).map_or("", |(_, name)| name);
            ui.menu_button("Appearance", |ui| {
                for (theme, name) in names {
                    ui.radio_value(&mut look.theme, theme, name);
                }
                ui.separator();
                for (zoom, name) in [(1.0, "desk"), (1.5, "large"), (2.0, "projector")] {
                    ui.radio_value(&mut look.zoom, zoom, name);
                }
            })
            .response
            .on_hover_text(format!("Colours ({current}) and size"));
            ui.with_layout(egui::Layout::left_to_right(egui::Align::Center), |ui| focused_ui(ui, state));
        });
    });
}

fn focused_ui(ui: &mut Ui, state: &mut AppState) {
    ui.label(RichText::new("lehr").strong());
    ui.separator();
    let Some(run) = state.focused() else {
        ui.label(RichText::new("no run is open").weak());
        if ui.button("New run").clicked() {
            state.request(Action::Show(Page::NewRun));
        }
        return;
    };
    let h = &run.files.history;
    let state = state_label(run);
    // A narrow window has the name and how the run stands; the rest as far as there is space.
    let has_space = |ui: &Ui, width: f32| ui.available_width() > width;
    let most = (ui.available_width() - 70.0).clamp(30.0, 400.0);
    ui.scope(|ui| {
        ui.set_max_width(most);
        ui.add(egui::Label::new(RichText::new(run.name()).strong()).truncate());
    });
    state_ui(ui, run);
    if state == "starting" {
        starting_ui(ui, run);
        return;
    }
    let step = format!("step {} of {}", format::count(h.step), format::count(h.max_steps()));
    if !has_space(ui, 60.0) {
        return;
    }
    ui.add(egui::Label::new(step).truncate());
    if h.max_steps() > 0 && has_space(ui, 110.0) {
        let share = h.step as f32 / h.max_steps() as f32;
        let bar = ui.add(egui::ProgressBar::new(share.min(1.0)).desired_width(90.0).desired_height(8.0));
        if h.discarded_steps() > 0 {
            let discarded = crate::number_format::counted(h.discarded_steps(), "step");
            bar.on_hover_text(format!("A rescue goes back to earlier weights; discarded so far: {discarded}."));
        }
    }
    if let Some(left) = left_seconds(run).filter(|_| state == "running" && has_space(ui, 130.0)) {
        ui.label(RichText::new(format!("about {} left", format::duration(left))).weak());
    }
    let speed = h.newest_mean("tokens_per_second").map(|(speed, _)| format!("{} tokens/s", format::number(speed)));
    let said: Vec<String> = h.figures().iter().map(format::figure).chain(speed).collect();
    if !said.is_empty() {
        // As many as fit as a whole; all are in the tooltip.
        let font = egui::TextStyle::Body.resolve(ui.style());
        let width = |text: String| ui.painter().layout_no_wrap(text, font.clone(), egui::Color32::WHITE).size().x;
        let fitting = (1..=said.len()).rev().find(|n| width(said[..*n].join(BETWEEN)) <= ui.available_width()).unwrap_or(0);
        let words = RichText::new(said[..fitting].join(BETWEEN)).weak();
        if fitting > 0 {
            ui.add(egui::Label::new(words).truncate()).on_hover_text(said.join("\n"));
        }
    }
    if run.loading && has_space(ui, 20.0) {
        ui.spinner();
        ui.add(egui::Label::new(RichText::new("reading the log").weak()).truncate());
    }
}

/// Between two figures of a line.
const BETWEEN: &str = "   ";

/// A run without a step yet: the trainer's newest message.
fn starting_ui(ui: &mut Ui, run: &OpenRun) {
    ui.spinner();
    let line = run.trainer.as_ref().and_then(|trainer| trainer.messages().back().cloned());
    let line = line.unwrap_or_else(|| "reading data and compiling kernels".into());
    ui.add(egui::Label::new(RichText::new(crate::vfs::clean(&line)).weak()).truncate());
}

/// State of a run, as a word; unknown while its log is read.
pub fn state_label(run: &OpenRun) -> &'static str {
    match run.files.history.state {
        RunState::Empty if run.loading && !run.live => "reading",
        _ => run.files.state_label(run.live),
    }
}

/// State of a run, as a word in its colour.
pub fn state_ui(ui: &mut Ui, run: &OpenRun) {
    let state = state_label(run);
    let visuals = ui.visuals();
    let color = match state {
        "running" | "starting" => theme::success_color(visuals),
        "failed" | "cut off" => theme::error_color(visuals),
        "paused" => visuals.warn_fg_color,
        _ => visuals.weak_text_color(),
    };
    let label = ui.label(RichText::new(state).color(color));
    let hint = match &run.files.history.state {
        RunState::Failed(text) => text.clone(),
        _ if state == "cut off" => {
            "Its trainer ended without a message: killed, crashed, or the machine went off. Resume continues from the newest checkpoint."
                .into()
        }
        _ => return,
    };
    label.on_hover_text(hint);
}

/// Seconds until the planned end, by the speed since the newest start.
pub fn left_seconds(run: &OpenRun) -> Option<f64> {
    let h = &run.files.history;
    let first = h.started.as_ref()?.step;
    let done = h.step.checked_sub(first).filter(|d| *d > 1)? as f64;
    let curve = h.curves.get("loss")?;
    let rows = curve.rows();
    // The first step of a start compiles kernels; the last 100 are the best estimate.
    let from = rows.len().saturating_sub(100.min(done as usize));
    let seconds = |row: u32| h.clock.at(crate::history::Axis::Relative, row);
    let (a, b) = (*rows.get(from)?, *rows.last()?);
    let steps = h.clock.at(crate::history::Axis::Steps, b) - h.clock.at(crate::history::Axis::Steps, a);
    (steps > 0.0).then(|| (seconds(b) - seconds(a)) / steps * h.max_steps().saturating_sub(h.step) as f64)
}

/// Treatment of the runs that a closing window trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They save and stop; then the window closes.
    Stop,
    /// They continue without a window.
    Close,
    /// The window stays.
    Stay,
}

/// Asks what becomes of `runs` runs; `stopping` once they were asked to stop.
pub fn leaving_ui(ui: &mut Ui, runs: usize, stopping: bool) -> Option<Leave> {
    let mut decided = None;
    ui.horizontal_wrapped(|ui| {
        if stopping {
            ui.spinner();
            ui.label("saving; the window closes when this is done");
            return;
        }
        let what = if runs < 2 { "A run is".to_owned() } else { format!("{runs} runs are") };
        ui.label(RichText::new(format!("{what} being trained.")).strong());
        let hints = [
            ("Stop and save, then close", "Each run saves a checkpoint and ends; the window closes when all have.", Leave::Stop),
            (
                "Close, and let them train on",
                "They continue without a window: open them again later to watch, or stop them with Ctrl-C or kill.",
                Leave::Close,
            ),
            ("Stay", "Keep the window open (Escape)", Leave::Stay),
        ];
        for (words, hint, leave) in hints {
            if ui.button(words).on_hover_text(hint).clicked() {
                decided = Some(leave);
            }
        }
    });
    decided
}

/// Keys and what they do.
const SHORTCUTS: &[(&str, &str)] = &[
    ("Space", "pause or continue"),
    ("N", "one step, while paused"),
    ("Ctrl S", "save a checkpoint now"),
    ("M", "merge now"),
    ("E", "evaluate now"),
    ("1 to 7", "Charts, Tokens, Samples, Merge, Inside, New run, Lessons"),
    ("Ctrl + / Ctrl - / Ctrl 0", "larger, smaller, normal size"),
    ("F1 or ?", "this list"),
    ("Escape", "close this list, cancel a question"),
    ("drag in a chart", "zoom all charts to that part"),
    ("Ctrl and wheel", "zoom around the pointer; wheel sideways moves"),
    ("double click in a chart", "the whole run again"),
    ("drag a tab", "arrange the pages"),
];

/// The list of shortcuts.
pub fn help_ui(ui: &Ui, open: &mut bool) {
    egui::Window::new("Shortcuts")
        .open(open)
        .resizable(false)
        .collapsible(false)
        .anchor(egui::Align2::CENTER_CENTER, [0.0, 0.0])
        .show(ui.ctx(), |ui| {
            egui::Grid::new("shortcuts").num_columns(2).spacing([18.0, 6.0]).show(ui, |ui| {
                for (key, what) in SHORTCUTS {
                    ui.label(RichText::new(*key).monospace());
                    ui.label(*what);
                    ui.end_row();
                }
            });
        });
}
