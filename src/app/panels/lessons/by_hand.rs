//! A lesson's run by hand: change a setting while it trains, predict what that does, see what it did.

use crate::app::chart::{Frame, chart_ui};
use crate::app::format::{column, count, number};
use crate::app::panels::live::{LiveControls, hyper};
use crate::app::state::{Action, AppState, OpenRun};
use crate::app::theme;
use crate::event::Command;
use crate::history::{RunState, chart_spec};
use crate::story::{Course, Experiment, Response};
use eframe::egui::{self, RichText, Ui};
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Default)]
pub struct ByHand {
    run: Option<PathBuf>,
    /// Updates from a change to its result.
    span: u64,
    live: LiveControls,
    change: Option<Change>,
}

/// A setting that the reader has changed.
#[derive(Debug)]
struct Change {
    name: &'static str,
    label: &'static str,
    value: f64,
    /// Set once it was sent: the update, and the prediction where there is one.
    sent: Option<(u64, Option<Course>)>,
}

impl ByHand {
    /// Stop the run, if it trains.
    pub fn stop(&mut self, state: &mut AppState) {
        if let Some(run) = self.run.take().filter(|path| state.run(path).is_some_and(OpenRun::is_controllable)) {
            state.request(Action::Send(run, Command::Stop));
        }
        self.change = None;
    }

    /// Drop a change that was not sent yet.
    pub fn cancel(&mut self) {
        self.change.take_if(|change| change.sent.is_none());
    }

    /// Draw; `offered` is what can be started.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState, offered: Option<&Experiment>) {
        let is_open = self.run.as_ref().is_some_and(|path| state.run(path).is_some());
        if offered.is_none() && !is_open {
            return;
        }
        ui.add_space(10.0);
        let accent = ui.visuals().hyperlink_color;
        egui::Frame::new().stroke(egui::Stroke::new(1.5, accent)).inner_margin(12).corner_radius(6.0).show(ui, |ui| {
            ui.set_width(ui.available_width());
            ui.label(RichText::new("Try it by hand").strong().color(accent));
            ui.label(
                "The same run, but longer. Change a setting while it trains, predict what will happen, and see whether it did.",
            );
            let mut actions = Vec::new();
            if let Some(run) = self.run.as_ref().and_then(|path| state.run(path)) {
                self.run_ui(ui, run, &mut actions);
            }
            if let Some(path) = self.run.clone().filter(|_| is_open) {
                chart(ui, state, path);
            }
            let is_live = self.run.as_ref().and_then(|path| state.run(path)).is_some_and(|run| run.live);
            if let Some(offered) = offered.filter(|_| !is_live) {
                let words = if is_open { "Start another experiment" } else { "Start an experiment" };
                if ui.button(words).clicked() {
                    let run = offered.run(|path| state.run(path).is_some());
                    (self.run, self.span, self.change) = (Some(run.clone()), offered.span, None);
                    actions.push(Action::Experiment { args: offered.args.clone(), run });
                }
            }
            actions.into_iter().for_each(|order| state.request(order));
        });
    }

    fn run_ui(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        let send = |command| Action::Send(run.files.path.clone(), command);
        ui.horizontal_wrapped(|ui| {
            ui.label(
                RichText::new(format!("{}, step {}", run.files.state_label(run.live), count(run.files.history.step))).weak(),
            );
            if !run.is_controllable() {
                return;
            }
            let is_paused = run.files.history.state == RunState::Paused;
            if ui.button(if is_paused { "Continue" } else { "Pause" }).clicked() {
                actions.push(send(if is_paused { Command::Resume } else { Command::Pause }));
            }
            if is_paused && ui.button("One step").clicked() {
                actions.push(send(Command::Step));
            }
            if ui.button("Stop").clicked() {
                actions.push(send(Command::Stop));
            }
        });
        let is_waiting = self.change.as_ref().is_some_and(|c| c.sent.is_some() && self.response(run).is_none());
        let chosen = self.change.as_ref().filter(|c| c.sent.is_none()).map(|c| (c.name, c.value));
        let set = ui.add_enabled_ui(run.is_controllable() && !is_waiting, |ui| self.live.ui(ui, run, chosen)).inner;
        if let Some((live, value)) = set {
            self.change = Some(Change { name: live.name, label: live.label, value, sent: None });
        }
        if self.change.as_ref().is_some_and(|change| change.sent.is_none()) {
            self.predict_ui(ui, run, actions);
        } else {
            self.result_ui(ui, run);
        }
    }

    /// The change that is to be sent, and the question before it is.
    fn predict_ui(&mut self, ui: &mut Ui, run: &OpenRun, actions: &mut Vec<Action>) {
        let Some(change) = &mut self.change else { return };
        let text = format!(
            "{} {}: what will the {} be in {} steps, compared with now?",
            change.label,
            number(change.value),
            metric(run),
            self.span
        );
        ui.label(text);
        let mut is_dropped = false;
        ui.horizontal_wrapped(|ui| {
            let choices = [
                ("Lower", Some(Course::Lower)),
                ("Higher", Some(Course::Higher)),
                ("About the same", Some(Course::Same)),
                ("Change it without a prediction", None),
            ];
            for (words, prediction) in choices {
                if ui.button(words).clicked() {
                    change.sent = Some((run.files.history.step, prediction));
                    actions.push(Action::Send(run.files.path.clone(), Command::SetHyper(hyper(change.name, change.value))));
                }
            }
            is_dropped = ui.button("Do not change it").clicked();
        });
        if is_dropped {
            self.change = None;
        }
    }

    fn result_ui(&self, ui: &mut Ui, run: &OpenRun) {
        let Some(Change { sent: Some((from, prediction)), .. }) = self.change else { return };
        match self.response(run) {
            Some(response) => {
                let is_right = prediction == Some(response.course);
                let color = if is_right { theme::success_color(ui.visuals()) } else { ui.visuals().text_color() };
                ui.label(RichText::new(in_words(metric(run), &response, prediction)).color(color));
            }
            None if run.files.history.step >= from + self.span => {
                ui.label(RichText::new(format!("The {} was not measured often enough to tell.", metric(run))).weak());
            }
            None => {
                let done = run.files.history.step.saturating_sub(from);
                ui.label(RichText::new(format!("step {done} of {} after the change", self.span)).weak());
            }
        }
    }

    fn response(&self, run: &OpenRun) -> Option<Response> {
        let (from, _) = self.change.as_ref()?.sent?;
        Response::of(&run.files.history, metric(run), from, self.span)
    }
}

/// The metric that predictions are about.
fn metric(run: &OpenRun) -> &'static str {
    if run.files.history.stage() == "grpo" { "reward" } else { "loss" }
}

fn chart(ui: &mut Ui, state: &mut AppState, path: PathBuf) {
    let Some(run) = state.run(&path) else { return };
    let metric = metric(run);
    let Some(spec) = chart_spec::CHARTS.iter().find(|spec| spec.metrics.contains(&metric)) else { return };
    let runs = [path];
    let only = [metric.to_owned()];
    let frame = Frame { view: None, runs: &runs, log_x: false, only: &only, raw: true };
    ui.push_id("by hand", |ui| chart_ui(ui, state, spec, &frame, spec.log_y, 200.0));
}

/// The measured effect, and whether it was predicted.
fn in_words(metric: &str, response: &Response, prediction: Option<Course>) -> String {
    let name = |course: Course| match course {
        Course::Lower => "lower",
        Course::Higher => "higher",
        Course::Same => "about the same",
    };
    let (means, interval) = (column(&response.means), column(&response.interval));
    let said = match prediction {
        None => String::new(),
        Some(course) if course == response.course => format!(" You predicted it: {}.", name(course)),
        Some(course) => format!(" Not quite: you predicted {}.", name(course)),
    };
    format!(
        "The {metric} was {} and is {} (means of {} steps): {}, with a 95 % interval of the difference from {} to {}.{said}",
        means[0],
        means[1],
        response.steps,
        name(response.course),
        interval[0],
        interval[1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_what_happened_and_what_was_predicted() {
        let response = Response { means: [2.0, 1.5], steps: 16, interval: [-0.625, -0.375], course: Course::Lower };
        let text = in_words("loss", &response, Some(Course::Lower));
        assert!(text.starts_with("The loss was 2.0 and is 1.5 (means of 16 steps): lower,"), "{text}");
        assert!(text.contains("from −0.625 to −0.375") && text.ends_with("You predicted it: lower."), "{text}");
        assert!(in_words("loss", &response, Some(Course::Higher)).ends_with("Not quite: you predicted higher."));
        assert!(in_words("loss", &response, None).ends_with("−0.375."));
    }
}
