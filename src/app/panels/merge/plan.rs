//! A merge of checkpoints: the method, the checkpoints, and what to do with the result.

use super::{key, results::Cell};
use crate::app::child::JobState;
use crate::app::draw::{card, printable};
use crate::app::panels::shared::{self, progress};
use crate::app::paths::{PathField, PathKind, path_ui};
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use crate::config::{DecayShape, MergeMethod};
use crate::event::Command;
use crate::merge::{Interval, MAX_CHECKPOINTS, MergeRule, MergeSpec, WindowSpec};
use eframe::egui::{self, DragValue, RichText, Ui};
use std::path::{Path, PathBuf};

const METHODS: [MergeMethod; 5] =
    [MergeMethod::Sma, MergeMethod::Ema, MergeMethod::EmaNormalized, MergeMethod::Wma, MergeMethod::Wsm];
const STAGES: [(&str, &str); 3] = [("pretrain", "pre-training"), ("sft", "fine-tuning"), ("grpo", "GRPO")];

/// See the module.
#[derive(Debug)]
pub struct Plan {
    method: MergeMethod,
    last: usize,
    /// Updates between checkpoints; 0 for all that are there.
    every: u64,
    /// Step of the newest; 0 the newest of all.
    at: u64,
    alpha: f64,
    out: String,
    stage: &'static str,
    /// Filled from the run's settings.
    begun: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            method: MergeMethod::Sma,
            last: 10,
            every: 0,
            at: 0,
            alpha: 0.2,
            out: String::new(),
            stage: "pretrain",
            begun: false,
        }
    }
}

impl Plan {
    /// Start with the run's own settings for merging.
    pub fn follow(&mut self, run: &OpenRun, home: &Path) {
        if self.begun {
            return;
        }
        let Some(settings) = &run.files.settings else { return };
        let m = &settings.merge;
        if m.merge_method != MergeMethod::Weights {
            self.method = m.merge_method;
        }
        (self.last, self.alpha, self.begun) = (m.merge_last.clamp(1, MAX_CHECKPOINTS), m.merge_alpha, true);
        self.stage = STAGES.into_iter().find(|s| s.0 == run.files.history.stage()).map_or("pretrain", |s| s.0);
        self.out = home.join(format!("{}-merged", run.name())).display().to_string();
    }

    /// Use the best merge of a sweep.
    pub fn take(&mut self, best: &Cell) {
        if let Some(method) = METHODS.into_iter().find(|m| m.name() == best.method) {
            (self.method, self.last, self.every, self.at) = (method, best.last, best.every, best.at);
            self.alpha = best.alpha.unwrap_or(self.alpha);
        }
    }

    fn has_alpha(&self) -> bool {
        matches!(self.method, MergeMethod::Ema | MergeMethod::EmaNormalized)
    }

    /// The merge in one word, as `--init` takes it.
    fn spec(&self, run: &Path) -> Result<MergeSpec, String> {
        let rule = MergeRule::new(self.method, self.alpha, DecayShape::default(), &[], "").map_err(|e| format!("{e:#}"))?;
        let window = WindowSpec {
            last: self.last,
            every: (self.every > 0).then_some(Interval::Steps(self.every)),
            at: (self.at > 0).then_some(self.at),
        };
        Ok(MergeSpec { run: run.to_owned(), window, rule })
    }

    /// `lehr merge` for it.
    fn args(&self, run: &Path) -> Vec<String> {
        let mut args = vec!["merge".into(), run.display().to_string(), "--method".into(), self.method.name().into()];
        let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        add("--last", self.last.to_string());
        if self.every > 0 {
            add("--every", self.every.to_string());
        }
        if self.at > 0 {
            add("--at", self.at.to_string());
        }
        if self.has_alpha() {
            add("--alpha", self.alpha.to_string());
        }
        add("--out", self.out.trim().to_owned());
        args.push("--json".into());
        args
    }

    /// Draw.
    pub fn ui(
        &mut self,
        ui: &mut Ui,
        run: &OpenRun,
        (steps, spacing): (&[u64], u64),
        job: Option<&JobState>,
        actions: &mut Vec<Action>,
    ) {
        let hint = "Checkpoints of one run, averaged: their noise cancels, but older ones lag behind. PMA-init starts a new run from \
                    the merge instead of from the newest checkpoint.";
        card(ui, "A merge of checkpoints", hint, |ui| {
            ui.weak(match (steps.first(), steps.last()) {
                (Some(only), _) if steps.len() == 1 => {
                    format!(
                        "The only checkpoint is that of step {}. The mean of one is that checkpoint: a merge needs two or more.",
                        crate::app::format::count(*only)
                    )
                }
                (Some(first), Some(last)) => {
                    format!("{} checkpoints, steps {first} to {last}, at least {spacing} apart.", steps.len())
                }
                _ => "This run has no checkpoint on disk yet; a merge averages two or more.".into(),
            });
            if steps.len() < 2 && run.is_controllable() && ui.button("Save a checkpoint now").clicked() {
                actions.push(Action::Send(run.files.path.clone(), Command::SaveNow));
            }
            if steps.len() == 2 {
                ui.weak("With two checkpoints there is one merge to try; a sweep and a landscape need three.");
            }
            if steps.len() < 3 {
                let words = "New run like this one that keeps its checkpoints";
                let keep = [("save.save_every", "50"), ("save.keep_every", "50")];
                shared::another_run(ui, run, words, &keep, actions);
            }
            // A merge of more checkpoints than there are would be refused.
            self.last = self.last.clamp(1, steps.len().clamp(1, MAX_CHECKPOINTS));
            self.choices(ui, steps);
            let path = &run.files.path;
            ui.add_enabled_ui(!steps.is_empty(), |ui| {
                self.start_row(ui, path, actions);
                self.write(ui, path, job, actions);
            });
        });
    }

    fn choices(&mut self, ui: &mut Ui, steps: &[u64]) {
        ui.horizontal_wrapped(|ui| {
            let label = ui.label("method");
            egui::ComboBox::from_id_salt("method")
                .selected_text(self.method.name())
                .show_ui(ui, |ui| {
                    METHODS.into_iter().for_each(|m| {
                        ui.selectable_value(&mut self.method, m, m.name()).on_hover_text(explained(m));
                    });
                })
                .response
                .labelled_by(label.id);
            if self.has_alpha() {
                let label = ui.label("factor");
                ui.add(DragValue::new(&mut self.alpha).range(0.01..=0.99).speed(0.005).max_decimals(3)).labelled_by(label.id);
            }
            let label = ui.label("checkpoints");
            ui.add(DragValue::new(&mut self.last).range(1..=steps.len().clamp(1, MAX_CHECKPOINTS)).speed(0.05))
                .labelled_by(label.id);
            let label = ui.label("every");
            let every = DragValue::new(&mut self.every).range(0..=1_000_000_000u64).speed(0.5);
            ui.add(every.custom_formatter(|v, _| if v == 0.0 { "as kept".into() } else { format!("{v} steps") }))
                .labelled_by(label.id);
            let newest = |at: u64| if at == 0 { "newest".into() } else { at.to_string() };
            let label = ui.label("up to step");
            egui::ComboBox::from_id_salt("at")
                .selected_text(newest(self.at))
                .show_ui(ui, |ui| {
                    ui.selectable_value(&mut self.at, 0, "newest");
                    steps.iter().rev().take(200).for_each(|step| {
                        ui.selectable_value(&mut self.at, *step, step.to_string());
                    });
                })
                .response
                .labelled_by(label.id);
        });
        ui.weak(explained(self.method));
    }

    fn start_row(&mut self, ui: &mut Ui, run: &Path, actions: &mut Vec<Action>) {
        ui.horizontal_wrapped(|ui| {
            let name = STAGES.into_iter().find(|s| s.0 == self.stage).map_or(self.stage, |s| s.1);
            let clicked = ui
                .button("PMA-init from here")
                .on_hover_text("Fill the form for a new run that starts from this merge")
                .clicked();
            let label = ui.label("as");
            egui::ComboBox::from_id_salt("stage")
                .selected_text(name)
                .show_ui(ui, |ui| {
                    STAGES.into_iter().for_each(|(stage, name)| {
                        ui.selectable_value(&mut self.stage, stage, name);
                    });
                })
                .response
                .labelled_by(label.id);
            match self.spec(run) {
                Err(why) => {
                    ui.colored_label(theme::error_color(ui.visuals()), why);
                }
                Ok(spec) if clicked => {
                    let init = spec.to_string();
                    actions.push(Action::NewRun(self.stage.into(), vec![("start.init".into(), init)]));
                }
                Ok(spec) => {
                    ui.label(RichText::new(printable(&spec.to_string(), 200, false)).weak().small());
                }
            }
        });
    }

    fn write(&mut self, ui: &mut Ui, run: &Path, job: Option<&JobState>, actions: &mut Vec<Action>) {
        ui.horizontal_wrapped(|ui| {
            let running = matches!(job, Some(JobState::Running(_)));
            let ready = !running && !self.out.trim().is_empty();
            let clicked = ui.add_enabled(ready, egui::Button::new("Write the merge")).clicked();
            let label = ui.label("into");
            let field = PathField { kind: PathKind::NewFolder, label: "into", hint: "a new folder", width: 330.0 };
            path_ui(ui, &mut self.out, field).labelled_by(label.id);
            if clicked {
                actions.push(Action::Job(key("merge", run), self.args(run)));
            }
        });
        if progress(ui, &key("merge", run), job, actions).is_some() {
            let written = PathBuf::from(self.out.trim());
            ui.colored_label(theme::success_color(ui.visuals()), format!("Written: {}", crate::vfs::display_path(&written)));
        }
    }
}

/// A method in a sentence.
fn explained(method: MergeMethod) -> &'static str {
    match method {
        MergeMethod::Sma => "sma: a simple moving average, with equal weights.",
        MergeMethod::Ema => {
            "ema: A = a M + (1 - a) A from the oldest on; for a small factor a the oldest has the largest weight."
        }
        MergeMethod::EmaNormalized => {
            "ema-normalized: exponential weights divided by their sum; the newest has the largest weight."
        }
        MergeMethod::Wma => "wma: the i-th checkpoint has weight i, so newer ones have larger weights.",
        MergeMethod::Wsm => "wsm: weights that emulate a decay of the learning rate over these checkpoints.",
        MergeMethod::Weights => "",
    }
}
