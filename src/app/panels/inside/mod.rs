//! Attention, logit lens and next-token distribution of a text; norms over time.

mod attention;
mod lens;
mod next;
mod norms;

use crate::app::child::JobState;
use crate::app::draw::{card, printable, stat, tiles};
use crate::app::format::{count, number};
use crate::app::loader::Loaded;
use crate::app::panels::shared::{self, Found, progress};
use crate::app::state::{Action, AppState, OpenRun};
use crate::app::theme;
use crate::event::Command;
use crate::history::opening_text;
use crate::model::inspect::Inspection;
use attention::Attention;
use eframe::egui::{self, RichText, Ui};
use lens::LensPart;
use norms::NormsPart;
use std::collections::HashMap;
use std::path::PathBuf;

/// Predictions for each token.
const TOP: &str = "12";

/// The text where a run's data cannot be read.
const USUAL: &str = "Once upon a time";
/// Names of tokens for text that is not in the vocabulary.
const UNKNOWN: [&str; 3] = ["<unk>", "[UNK]", "<UNK>"];

/// The first words of the data of the run in focus, read by a thread.
#[derive(Debug, Default)]
struct Opening {
    /// The text that was put into the field; any other text was typed.
    given: Option<String>,
    found: Loaded<PathBuf, Option<String>>,
}

impl Opening {
    /// Put the words into the field, unless the user has typed something there.
    fn follow(&mut self, ui: &Ui, run: &OpenRun, text: &mut String) {
        let Some(settings) = &run.files.settings else { return };
        let path = &run.files.path;
        let settings = if self.found.is_for(path) { None } else { Some(settings.clone()) };
        let read = move |path: &PathBuf| opening_text(path, &settings?);
        let Some((of, Some(words))) = self.found.get(ui.ctx(), path, read) else { return };
        if of == path && self.given.as_ref() != Some(words) {
            if text == self.given.as_deref().unwrap_or(USUAL) {
                text.clone_from(words);
            }
            self.given = Some(words.clone());
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Inside {
    of: PathBuf,
    text: String,
    /// The checkpoint's step; 0 the newest.
    at: u64,
    /// The selected token; the last one until one is chosen.
    picked: Option<usize>,
    results: HashMap<PathBuf, Found<Inspection>>,
    opening: Opening,
    attention: Attention,
    lens: LensPart,
    norms: NormsPart,
}

impl Default for Inside {
    fn default() -> Self {
        Self {
            of: PathBuf::new(),
            text: USUAL.into(),
            at: 0,
            picked: None,
            results: HashMap::new(),
            opening: Opening::default(),
            attention: Attention::default(),
            lens: LensPart::default(),
            norms: NormsPart::default(),
        }
    }
}

impl Inside {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let Some(path) = shared::focused_name(ui, state) else { return };
        if self.of != path {
            (self.of, self.at, self.picked) = (path.clone(), 0, None);
        }
        let mut actions = Vec::new();
        if let Some(run) = state.run(&path) {
            self.opening.follow(ui, run, &mut self.text);
            let key = format!("inspect {}", path.display());
            let job = state.job(&key);
            let before = self.results.entry(path.clone()).or_default().count;
            let found = self.results.entry(path.clone()).or_default();
            found.take(job);
            if found.count != before {
                self.picked = None;
            }
            egui::ScrollArea::vertical().id_salt("inside").auto_shrink([false, false]).show(ui, |ui| {
                self.form(ui, run, &key, job, &mut actions);
                ui.add_space(4.0);
                self.found(ui);
                self.norms.ui(ui, run, &mut actions);
            });
        }
        actions.into_iter().for_each(|order| state.request(order));
    }

    fn form(&mut self, ui: &mut Ui, run: &OpenRun, key: &str, job: Option<&JobState>, actions: &mut Vec<Action>) {
        let hint = "The text goes through the model once. It shows what each head attends to, what the model would predict after each block, and what \
                    it predicts next. Short texts (up to about 60 tokens) can be read best.";
        card(ui, "A text through the model", hint, |ui| {
            let saved = run.checkpoints();
            if saved.is_empty() {
                ui.horizontal_wrapped(|ui| {
                    ui.weak("This run has saved no checkpoint yet.");
                    if run.is_controllable() && ui.button("Save now").clicked() {
                        actions.push(Action::Send(run.files.path.clone(), Command::SaveNow));
                    }
                });
            }
            let label = ui.label("text");
            let field = egui::TextEdit::multiline(&mut self.text).desired_rows(2).desired_width(f32::INFINITY).char_limit(8_000);
            ui.add(field.hint_text("A text for the model")).labelled_by(label.id);
            ui.horizontal_wrapped(|ui| {
                let running = matches!(job, Some(JobState::Running(_)));
                let ready = !running && !saved.is_empty() && !self.text.is_empty();
                let clicked = ui.add_enabled(ready, egui::Button::new("Look inside")).clicked();
                let name = |at: u64| if at == 0 { "newest".into() } else { format!("step {}", count(at)) };
                let label = ui.label("checkpoint");
                egui::ComboBox::from_id_salt("checkpoint")
                    .selected_text(name(self.at))
                    .show_ui(ui, |ui| {
                        ui.selectable_value(&mut self.at, 0, name(0));
                        saved.iter().rev().take(200).for_each(|step| {
                            ui.selectable_value(&mut self.at, *step, name(*step));
                        });
                    })
                    .response
                    .labelled_by(label.id);
                if clicked {
                    let path = run.files.path.display();
                    let model = if self.at == 0 { path.to_string() } else { format!("{path}@{}", self.at) };
                    // Joined, because a text may begin with a hyphen.
                    let text = format!("--text={}", self.text);
                    let args = ["inspect", "--model", &model, &text, "--top", TOP, "--json"].map(str::to_owned);
                    if let Some(found) = self.results.get_mut(&self.of) {
                        found.await_new();
                    }
                    actions.push(Action::Job(key.to_owned(), args.to_vec()));
                }
            });
            progress(ui, key, job, actions);
        });
    }

    /// The result, if there is one.
    fn found(&mut self, ui: &mut Ui) {
        let Some(found) = self.results.remove(&self.of) else { return };
        match &found.value {
            Some(Ok(it)) if !it.tokens.is_empty() => {
                let last = it.tokens.len() - 1;
                let mut picked = self.picked.unwrap_or(last).min(last);
                let before = picked;
                card(ui, "The text, token by token", "Click a token to see what the model expects after it.", |ui| {
                    ui.weak(format!(
                        "{}, {} tokens; coloured by the probability that the model gave each.",
                        printable(&it.model, 120, false),
                        it.tokens.len()
                    ));
                    unknown(ui, it);
                    tokens(ui, it, &mut picked);
                });
                ui.add_space(4.0);
                let (attention, lens, count) = (&mut self.attention, &mut self.lens, found.count);
                let (mut by_attention, mut by_lens) = (None, None);
                tiles(
                    ui,
                    460.0,
                    vec![Box::new(|ui| by_attention = attention.ui(ui, it, count)), Box::new(|ui| next::ui(ui, it, picked))],
                );
                ui.add_space(4.0);
                card(ui, "Logit lens", lens::HINT, |ui| by_lens = lens.ui(ui, it, count));
                ui.add_space(4.0);
                let chosen = by_attention.or(by_lens).unwrap_or(picked);
                if chosen != before {
                    self.picked = Some(chosen);
                }
            }
            Some(Ok(_)) => {
                ui.weak("The text has no token.");
            }
            Some(Err(why)) => {
                ui.colored_label(theme::error_color(ui.visuals()), why);
            }
            None => {}
        }
        self.results.insert(self.of.clone(), found);
    }
}

/// Warns of text that is not in the vocabulary.
fn unknown(ui: &mut Ui, it: &Inspection) {
    let count = it.tokens.iter().filter(|token| UNKNOWN.contains(&token.piece.as_str())).count();
    if count > 0 {
        let (are, parts) = if count == 1 { ("is", "A part") } else { ("are", "Parts") };
        let words = format!(
            "{count} of {} tokens {are} <unk>. {parts} of this text {are} not in the model's vocabulary: it reads the same token for all of \
             them. Try words of the text that it was trained on.",
            it.tokens.len()
        );
        ui.colored_label(ui.visuals().warn_fg_color, words);
    }
}

/// Tokens as buttons.
fn tokens(ui: &mut Ui, it: &Inspection, picked: &mut usize) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 3.0;
        for (i, token) in it.tokens.iter().enumerate() {
            let p = token.logprob.map_or(f64::NAN, |l| f64::from(l).exp());
            let fill = if p.is_finite() { theme::probability(p) } else { ui.visuals().widgets.inactive.bg_fill };
            let ink = if p.is_finite() { theme::ink_on(fill) } else { ui.visuals().text_color() };
            let button = egui::Button::new(RichText::new(piece(&token.piece)).monospace().color(ink)).fill(fill);
            let ring = egui::Stroke::new(2.0, ui.visuals().strong_text_color());
            let button = if *picked == i { button.stroke(ring) } else { button };
            let read_out = format!(
                "token {i}, id {}\nprobability {}\nlog p {} nats\nrank {}\nentropy of what comes next {} nats",
                token.id,
                number(p),
                token.logprob.map_or("–".into(), |l| number(f64::from(l))),
                token.rank.map_or("–".into(), |r| r.to_string()),
                number(f64::from(token.entropy))
            );
            if ui.add(button).on_hover_text(read_out).clicked() {
                *picked = i;
            }
        }
    });
    let token = &it.tokens[(*picked).min(it.tokens.len() - 1)];
    ui.horizontal_wrapped(|ui| {
        stat(ui, "picked", &piece(&token.piece));
        stat(ui, "probability", &token.logprob.map_or("–".into(), |l| number(f64::from(l).exp())));
        stat(ui, "rank", &token.rank.map_or("–".into(), |r| r.to_string()));
        stat(ui, "entropy after it (nats)", &number(f64::from(token.entropy)));
    });
}

/// A token's text on one line.
fn piece(text: &str) -> String {
    let text = printable(text, 40, false).replace('\n', "\\n");
    if text.trim().is_empty() { "·".repeat(text.chars().count().clamp(1, 8)) } else { text }
}
