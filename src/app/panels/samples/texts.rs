//! Texts that a run has generated, and requests for more.

use crate::app::child::JobState;
use crate::app::draw::{ScoredTokens, StepPick, TokenColor, TokenText, card, key_to, printable};
use crate::app::format::number;
use crate::app::panels::shared;
use crate::app::state::{Action, AppState, OpenRun};
use crate::event::{Command, Sample};
use eframe::egui::{self, DragValue, Id, RichText, Ui};
use std::collections::HashMap;
use std::path::PathBuf;

/// Characters of a text.
const SHOWN: usize = 6_000;
/// Earlier texts below the selected one.
const EARLIER: usize = 12;

/// See the module.
#[derive(Debug)]
pub struct Texts {
    step: StepPick,
    prompt: String,
    temperature: f64,
    tokens: u64,
    chat: bool,
    /// Samples from saved weights so far: each has a seed of its own.
    asked: u64,
    of: PathBuf,
    /// Laid out texts by their place in the history.
    laid: HashMap<usize, TokenText>,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            step: StepPick::default(),
            prompt: String::new(),
            temperature: 0.8,
            tokens: 200,
            chat: false,
            asked: 0,
            of: PathBuf::new(),
            laid: HashMap::new(),
        }
    }
}

impl Texts {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, state: &AppState, actions: &mut Vec<Action>) {
        if self.of != run.files.path {
            (self.of, self.step) = (run.files.path.clone(), StepPick::default());
            self.laid.clear();
        }
        let key = format!("sample {}", run.files.path.display());
        self.request_samples(ui, run, (&key, state.job(&key)), actions);
        ui.add_space(4.0);
        let samples = &run.files.history.samples;
        if samples.is_empty() {
            let what = "This run has written no text while it trained. Ask for one above, or talk to a checkpoint under Chat.";
            shared::empty_with(ui, "No text in the log", what, |ui| {
                let words = "New run like this one, with samples";
                shared::another_run(ui, run, words, &[("eval.sample_tokens", "200")], actions);
            });
            return;
        }
        let entry = self.step.ui(ui, samples.len(), |i| samples[i].step);
        if !samples[entry].pieces.is_empty() {
            ui.horizontal_wrapped(|ui| key_to(ui, TokenColor::Probability, [0.0; 2]));
        }
        self.laid.retain(|i, _| (entry.saturating_sub(EARLIER)..=entry).contains(i));
        for (i, sample) in samples[..=entry].iter().enumerate().rev().take(EARLIER) {
            let id = Id::unique(("sample", &self.of, sample.step, i));
            text(ui, sample, self.laid.entry(i).or_default(), id);
        }
        let earlier = (entry + 1).saturating_sub(EARLIER);
        if earlier > 0 {
            ui.weak(format!("{earlier} earlier ones: move the slider."));
        }
    }

    /// A request: to the trainer between two steps, or else to a process of its own, which loads the newest checkpoint.
    fn request_samples(&mut self, ui: &mut Ui, run: &OpenRun, (key, job): (&str, Option<&JobState>), actions: &mut Vec<Action>) {
        let hint = "A run that this window trains generates a text between two steps, from its newest weights. Of any other run the newest \
                    checkpoint is loaded.";
        let is_saved = !run.files.history.checkpoints.is_empty();
        let is_free = !matches!(job, Some(JobState::Running(_)));
        card(ui, "Sample now", hint, |ui| {
            ui.add_enabled_ui(run.is_controllable() || (is_saved && is_free), |ui| {
                let label = ui.label("prompt");
                let field = egui::TextEdit::multiline(&mut self.prompt).desired_rows(2).desired_width(f32::INFINITY);
                ui.add(
                    field.hint_text(
                        "The text to continue; a model with a token that begins texts can also start from an empty one",
                    ),
                )
                .labelled_by(label.id);
                ui.horizontal_wrapped(|ui| {
                    let asked = ui.button("Sample now").clicked();
                    let label = ui.label("temperature");
                    let warm = DragValue::new(&mut self.temperature).range(0.0..=5.0).speed(0.01).max_decimals(2);
                    ui.add(warm).labelled_by(label.id).on_hover_text("0 takes the most probable token each time");
                    let label = ui.label("max tokens");
                    ui.add(DragValue::new(&mut self.tokens).range(1..=4096)).labelled_by(label.id);
                    ui.checkbox(&mut self.chat, "as a chat")
                        .on_hover_text("Write the prompt as a user's message, through the chat template");
                    if asked && run.is_controllable() {
                        let (prompt, chat) = (self.prompt.clone(), self.chat);
                        let (temperature, tokens) = (Some(self.temperature), Some(self.tokens));
                        actions
                            .push(Action::Send(run.files.path.clone(), Command::SampleNow { prompt, temperature, tokens, chat }));
                    } else if asked {
                        actions.push(Action::Job(key.to_owned(), self.args(run)));
                    }
                });
            });
            if !run.is_controllable() && !is_saved {
                ui.weak("This run has saved no checkpoint to sample from.");
            }
            if let Some(text) = shared::progress(ui, key, job, actions) {
                ui.label(printable(text.trim_end(), SHOWN, false));
            }
        });
    }

    /// `lehr generate` for a sample from the newest checkpoint.
    fn args(&mut self, run: &OpenRun) -> Vec<String> {
        self.asked += 1;
        let options = [
            format!("--model={}", run.files.path.display()),
            format!("--prompt={}", self.prompt),
            format!("--temperature={}", self.temperature),
            format!("--max-new-tokens={}", self.tokens),
            format!("--seed={}", self.asked),
        ];
        let chat = self.chat.then(|| "--chat".to_owned());
        ["generate".to_owned()].into_iter().chain(options).chain(chat).collect()
    }
}

fn text(ui: &mut Ui, sample: &Sample, laid: &mut TokenText, id: Id) {
    let how = match (sample.temperature, sample.chat) {
        (Some(t), chat) => format!(", temperature {}{}", number(t), if chat { ", as a chat" } else { "" }),
        (None, _) => String::new(),
    };
    card(ui, &format!("Step {}{how}", sample.step), "", |ui| {
        let prompt = printable(&sample.prompt, SHOWN, false);
        if !prompt.trim().is_empty() {
            ui.label(RichText::new(prompt).weak());
        }
        if sample.pieces.is_empty() {
            ui.label(printable(&sample.text, SHOWN, false));
        } else {
            let it = ScoredTokens { pieces: &sample.pieces, logprobs: &sample.logprobs, ..ScoredTokens::default() };
            laid.ui(ui, id, &it, TokenColor::Probability);
        }
    });
    ui.add_space(2.0);
}
