//! The search for the best merge of a run: interval by number by method, as heat maps.

use super::results::{Cell, Sweep};
use super::{difference, key};
use crate::app::child::JobState;
use crate::app::draw::{Heat, HeatLabels, Part, card, tiles};
use crate::app::format::number;
use crate::app::panels::shared::{Found, progress};
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use eframe::egui::{self, RichText, Stroke, StrokeKind, Ui};
use std::collections::HashMap;
use std::path::PathBuf;

/// See the module.
#[derive(Debug)]
pub struct SweepPart {
    every: String,
    last: String,
    methods: [(&'static str, bool); 4],
    results: HashMap<PathBuf, Found<Sweep>>,
    heats: HashMap<String, Heat>,
}

impl Default for SweepPart {
    fn default() -> Self {
        let methods = [("sma", true), ("ema", true), ("wma", true), ("wsm", false)];
        Self { every: String::new(), last: String::new(), methods, results: HashMap::new(), heats: HashMap::new() }
    }
}

impl SweepPart {
    /// Draw; returns the best merge when it is to be used.
    pub fn ui(
        &mut self,
        ui: &mut Ui,
        run: &OpenRun,
        (steps, spacing): (&[u64], u64),
        job: Option<&JobState>,
        actions: &mut Vec<Action>,
    ) -> Option<Cell> {
        let path = run.files.path.clone();
        self.results.entry(path.clone()).or_default().take(job);
        let hint = "Every merge of the grid is made and scored on held-out tokens. Blue cells are below the raw checkpoint, red ones above: checkpoints \
                    that are many or far apart average away more noise, but lag further behind.";
        card(ui, "Sweep", hint, |ui| {
            if steps.len() < 3 {
                ui.weak("A sweep needs at least three checkpoints on disk.");
            } else {
                self.form(ui, &path, (steps.len(), spacing), job, actions);
            }
            progress(ui, &key("sweep", &path), job, actions);
            let found = self.results.get(&path)?;
            match found.value.as_ref()? {
                Err(why) => {
                    ui.colored_label(theme::error_color(ui.visuals()), why);
                    None
                }
                Ok(sweep) => show(ui, sweep, found.count, &mut self.heats),
            }
        })
    }

    fn form(
        &mut self,
        ui: &mut Ui,
        run: &std::path::Path,
        (count, spacing): (usize, u64),
        job: Option<&JobState>,
        actions: &mut Vec<Action>,
    ) {
        let numbers = [2, 3, 5, 8, 12].into_iter().filter(|n| *n <= count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let usual = [1, 2, 4].map(|m| (m * spacing.max(1)).to_string()).join(",");
        ui.horizontal_wrapped(|ui| {
            let label = ui.label("intervals V (steps)");
            ui.add(egui::TextEdit::singleline(&mut self.every).hint_text(usual.clone()).desired_width(110.0))
                .labelled_by(label.id);
            let label = ui.label("numbers N");
            ui.add(egui::TextEdit::singleline(&mut self.last).hint_text(numbers.clone()).desired_width(90.0))
                .labelled_by(label.id);
            self.methods.iter_mut().for_each(|(name, on)| {
                ui.checkbox(on, *name);
            });
            let running = matches!(job, Some(JobState::Running(_)));
            let some = self.methods.iter().any(|m| m.1);
            if ui.add_enabled(!running && some, egui::Button::new("Sweep")).clicked() {
                let list = |text: &str| text.split([',', ' ']).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(",");
                let every = if self.every.trim().is_empty() { usual } else { list(&self.every) };
                let methods: Vec<&str> = self.methods.iter().filter(|m| m.1).map(|m| m.0).collect();
                let mut args = vec!["merge".to_owned(), "sweep".into(), run.display().to_string(), "--every".into(), every];
                let last = if self.last.trim().is_empty() { numbers } else { list(&self.last) };
                args.extend(["--last".into(), last, "--methods".into(), methods.join(","), "--json".into()]);
                self.results.entry(run.to_owned()).or_default().await_new();
                actions.push(Action::Job(key("sweep", run), args));
            }
        });
    }
}

/// Draw what was found at the newest step.
fn show(ui: &mut Ui, sweep: &Sweep, count: u64, heats: &mut HashMap<String, Heat>) -> Option<Cell> {
    let at = sweep.raw.iter().map(|r| r.at).max()?;
    let raw = sweep.raw.iter().find(|r| r.at == at).and_then(|r| r.loss);
    let best = sweep.best.iter().find(|c| c.at == at);
    let mut taken = None;
    ui.horizontal_wrapped(|ui| {
        ui.label(format!(
            "Step {}: raw {}, on {} tokens.",
            crate::app::format::count(at),
            raw.map_or("–".into(), number),
            crate::app::format::count(sweep.eval_tokens)
        ));
        let Some(best) = best else { return };
        let age = best.mean_age.map_or("–".into(), number);
        let text = format!(
            "Best: {}, V {}, N {}: {}, {} the raw checkpoint; {age} steps old on average.",
            best.rule(),
            best.every,
            best.last,
            best.loss.map_or("–".into(), number),
            difference(best.gain.unwrap_or(f64::NAN))
        );
        ui.label(RichText::new(text).strong());
        if ui.button("Take it above").clicked() {
            taken = Some(best.clone());
        }
    });
    let cells: Vec<&Cell> = sweep.cells.iter().filter(|c| c.at == at).collect();
    let gains = cells.iter().filter_map(|c| c.gain).filter(|g| g.is_finite());
    let most = gains.fold(1e-9f64, |m, g| m.max(g.abs()));
    let mut rules: Vec<String> = Vec::new();
    cells.iter().map(|c| c.rule()).for_each(|rule| {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    });
    ui.weak(format!(
        "Colours reach from {} above (red) to {} below the raw checkpoint (blue), in nats per token.",
        number(most),
        number(most)
    ));
    let mut mine: Vec<(String, Heat)> =
        rules.iter().take(12).map(|rule| (rule.clone(), heats.remove(rule).unwrap_or_default())).collect();
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (rule, heat) in &mut mine {
        let cells: Vec<&Cell> = cells.iter().copied().filter(|c| c.rule() == *rule).collect();
        parts.push(Box::new(move |ui| map(ui, heat, rule, &cells, best, most, count)));
    }
    tiles(ui, 300.0, parts);
    heats.extend(mine);
    taken
}

/// One method.
fn map(ui: &mut Ui, heat: &mut Heat, rule: &str, cells: &[&Cell], best: Option<&Cell>, most: f64, count: u64) {
    let (mut every, mut last): (Vec<u64>, Vec<usize>) =
        (cells.iter().map(|c| c.every).collect(), cells.iter().map(|c| c.last).collect());
    every.sort_unstable();
    every.dedup();
    last.sort_unstable();
    last.dedup();
    let at = |row: usize, column: usize| cells.iter().copied().find(|c| (c.every, c.last) == (every[row], last[column]));
    let gain = |row: usize, column: usize| at(row, column).and_then(|c| c.gain);
    let missing = ui.visuals().faint_bg_color;
    let color = |row: usize, column: usize| gain(row, column).map_or(missing, |g| theme::signed(g / most));
    ui.label(RichText::new(rule).strong());
    let words = HeatLabels {
        name: &format!("Sweep, {rule}"),
        y_label: "V (steps)",
        x_label: "N (checkpoints)",
        row: &|row| every[row].to_string(),
        column: &|column| last[column].to_string(),
        cell: &|row, column| match at(row, column) {
            None => "not measured".into(),
            Some(c) => {
                let head = format!("V {}, N {}", c.every, c.last);
                match (&c.missing, c.loss, c.gain) {
                    (Some(why), ..) => format!("{head}\n{}", crate::vfs::clean(why)),
                    (None, Some(loss), Some(gain)) => format!("{head}\nloss {loss:.4}\n{} the raw checkpoint", difference(gain)),
                    _ => format!("{head}\nno number"),
                }
            }
        },
        inside: Some(&|row, column| gain(row, column).map_or("–".into(), |g| format!("{:+.4}", -g).replace('-', "−"))),
        upward: true,
        smooth: false,
        row_height: (26.0, 34.0),
        column_width: 90.0,
    };
    let key = count << 1 | u64::from(ui.visuals().dark_mode);
    let Some(drawn) = heat.ui(ui, key, (every.len(), last.len()), color, &words) else { return };
    if let Some(best) = best.filter(|b| b.rule() == rule)
        && let (Some(row), Some(column)) =
            (every.iter().position(|v| *v == best.every), last.iter().position(|n| *n == best.last))
    {
        let stroke = Stroke::new(2.5, ui.visuals().strong_text_color());
        ui.painter().rect_stroke(drawn.cell(row, column).shrink(1.0), 2.0, stroke, StrokeKind::Inside);
    }
}
