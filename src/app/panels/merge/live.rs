//! Merged losses beside raw ones.

use crate::app::draw::{Line, Lines, card, lines, stat};
use crate::app::format::{cells, count, number};
use crate::app::state::{Action, OpenRun};
use crate::event::{Command, Merged};
use crate::history::chart_spec;
use crate::plot::Ink;
use eframe::egui::{self, Ui};

/// Rows of the list.
const LISTED: usize = 8;

/// Draw.
pub fn ui(ui: &mut Ui, run: &OpenRun, late: &mut bool, actions: &mut Vec<Action>) {
    let history = &run.files.history;
    let hint = "At each evaluation the newest snapshots are averaged, and the average is scored on the same held-out tokens as the run's own \
                weights; the run is not touched. At a constant learning rate the merged loss runs below the raw one.";
    card(ui, "Merged against raw", hint, |ui| {
        let merged = history.curves.keys().filter(|name| name.starts_with("merge/") && name.ends_with("/eval_loss"));
        let known = ["eval_loss", "anneal_estimate"].into_iter().filter(|name| history.curves.contains_key(*name));
        let found: Vec<Line<'_>> = known.chain(merged.map(String::as_str)).map(line).collect();
        if history.merges.is_empty() && run.files.settings.as_ref().is_some_and(|settings| settings.merge.merge_every > 0) {
            ui.weak("No merge has been evaluated yet. The first one comes with an evaluation, once there are two snapshots.");
        } else if history.merges.is_empty() {
            ui.weak("No merge was evaluated in this run so far. With live merging a run keeps snapshots and evaluates their merge at each evaluation.");
            let words = "New run like this one, with live merging";
            super::super::shared::another_run(ui, run, words, &[("merge.merge_every", "50")], actions);
        } else {
            newest(ui, history.merges.last());
            ui.checkbox(late, "newest half").on_hover_text("Leave out the first half of the run, where the loss falls fast");
            let from = if *late { history.step as f64 / 2.0 } else { 0.0 };
            lines(
                ui,
                history,
                &Lines {
                    name: "Merged against raw",
                    lines: found,
                    y_label: "nats per token",
                    log: false,
                    at: None,
                    from,
                    height: 240.0,
                },
            );
            table(ui, &history.merges);
        }
        ui.horizontal_wrapped(|ui| {
            let button = ui.add_enabled(run.is_controllable(), egui::Button::new("Merge now"));
            let button =
                button.on_hover_text("Merge the snapshots of this run between two steps, write the model, and evaluate it");
            if button.on_disabled_hover_text("Only a run that this window trains can be asked").clicked() {
                actions.push(Action::Send(run.files.path.clone(), Command::MergeNow));
            }
            if !run.is_controllable() {
                ui.weak("Only for a run that this window trains. Any other is merged below, from its checkpoints.");
            }
        });
    });
}

fn line(metric: &str) -> Line<'_> {
    let name = if metric == "eval_loss" { "raw".into() } else { chart_spec::label(metric) };
    Line { metric, name, color: Ink::Series(chart_spec::color_of(metric)), dots: true }
}

/// The merge's loss, and how far it is below the raw one.
fn losses(m: &Merged) -> (f64, f64) {
    let loss = m.metrics.iter().find(|(name, _)| name.ends_with("/eval_loss")).map_or(f64::NAN, |(_, value)| value.0);
    (loss, m.eval_loss.map_or(f64::NAN, |raw| raw - loss))
}

fn newest(ui: &mut Ui, merge: Option<&Merged>) {
    let Some(m) = merge else { return };
    let (loss, gain) = losses(m);
    ui.horizontal_wrapped(|ui| {
        stat(ui, "step", &count(m.step));
        let [raw, estimate] = [m.eval_loss, m.anneal_estimate].map(|loss| loss.unwrap_or(f64::NAN));
        let losses = cells([raw, loss, estimate]);
        stat(ui, "raw", &losses[0]);
        stat(ui, "merged", &losses[1]);
        stat(ui, "merged is", &if gain.is_finite() { super::difference(gain) } else { "–".into() });
        if estimate.is_finite() {
            stat(ui, "if annealed, about", &losses[2]);
        }
        stat(ui, "snapshots", &m.steps.len().to_string());
    });
}

fn table(ui: &mut Ui, merges: &[Merged]) {
    egui::CollapsingHeader::new("Newest merges").id_salt("merges").show(ui, |ui| {
        egui::ScrollArea::horizontal().id_salt("merges").show(ui, |ui| {
            egui::Grid::new("merges").striped(true).num_columns(7).show(ui, |ui| {
                for head in ["step", "method", "snapshots", "raw", "merged", "gain", "mean age (tokens)"] {
                    ui.strong(head);
                }
                ui.end_row();
                let listed = || merges.iter().rev().take(LISTED);
                let raw = cells(listed().map(|m| m.eval_loss.unwrap_or(f64::NAN)));
                let (loss, gain) = (cells(listed().map(|m| losses(m).0)), cells(listed().map(|m| losses(m).1)));
                for (i, m) in listed().enumerate() {
                    let cells = [
                        count(m.step),
                        crate::vfs::clean(&m.method),
                        m.steps.len().to_string(),
                        raw[i].clone(),
                        loss[i].clone(),
                        gain[i].clone(),
                        number(m.mean_age_tokens),
                    ];
                    cells.into_iter().for_each(|cell| {
                        ui.label(cell);
                    });
                    ui.end_row();
                }
            });
        });
    });
}
