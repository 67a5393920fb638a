//! A conversation with a run's checkpoint, or with any model folder or GGUF file.

use crate::app::chat_process::{ChatProcess, ChatState, Turn};
use crate::app::draw::{card, printable};
use crate::app::paths::{PathField, PathKind, path_ui};
use crate::app::state::{Action, AppState, OpenRun};
use crate::app::theme;
use crate::model::conversation::ChatRequest;
use eframe::egui::{self, DragValue, RichText, Ui};
use std::path::{Path, PathBuf};

/// Characters of a turn that are shown.
const SHOWN: usize = 20_000;
/// Temperature where neither the user nor the model has one.
const USUAL_TEMPERATURE: f64 = 0.8;

/// The model of the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Newest,
    Step(u64),
    Named,
}

/// See the module.
#[derive(Debug)]
pub struct ChatPage {
    of: PathBuf,
    at: At,
    named: String,
    system: String,
    /// None: the model's own.
    temperature: Option<f64>,
    tokens: u64,
    draft: String,
}

impl Default for ChatPage {
    fn default() -> Self {
        Self {
            of: PathBuf::new(),
            at: At::Newest,
            named: String::new(),
            system: String::new(),
            temperature: None,
            tokens: 0,
            draft: String::new(),
        }
    }
}

impl ChatPage {
    /// Draw; `run` is the one in focus.
    pub fn ui(&mut self, ui: &mut Ui, state: &AppState, run: Option<&OpenRun>, actions: &mut Vec<Action>) {
        let path = run.map_or(Path::new(""), |run| &run.files.path);
        if self.of != path {
            (self.of, self.at) = (path.to_owned(), At::Newest);
        }
        let chat = state.chat.as_ref();
        let wanted = self.selected_model(run);
        card(ui, "Model", "The model is loaded by a process of its own, beside any run that is being trained.", |ui| {
            self.model_ui(ui, run, chat, &wanted, actions);
        });
        ui.add_space(4.0);
        let title = chat.map_or("Conversation".to_owned(), |chat| {
            format!("Conversation with {}{}", printable(&chat.model, 120, false), step_of(chat))
        });
        card(ui, &title, "", |ui| {
            if let Some(chat) = chat {
                chat_ui(ui, chat);
            }
            self.entry_ui(ui, chat, &wanted, actions);
        });
    }

    /// The model to talk to as the command line names it, or what is missing.
    fn selected_model(&self, run: Option<&OpenRun>) -> Result<String, &'static str> {
        let typed = self.named.trim();
        match (self.at, run) {
            (At::Named, _) | (_, None) if typed.is_empty() => Err("Name a model folder or a GGUF file."),
            (At::Named, _) | (_, None) => Ok(typed.to_owned()),
            (_, Some(run)) if run.files.history.checkpoints.is_empty() => {
                Err("This run has saved no checkpoint yet. Save one on the page Controls, or choose a model folder.")
            }
            (At::Step(step), Some(run)) => Ok(format!("{}@{step}", run.files.path.display())),
            (At::Newest, Some(run)) => Ok(run.files.path.display().to_string()),
        }
    }

    fn model_ui(
        &mut self,
        ui: &mut Ui,
        run: Option<&OpenRun>,
        chat: Option<&ChatProcess>,
        wanted: &Result<String, &'static str>,
        actions: &mut Vec<Action>,
    ) {
        ui.horizontal_wrapped(|ui| {
            if let Some(run) = run {
                self.choice_ui(ui, run);
            }
            if run.is_none() || self.at == At::Named {
                let label = ui.label("model folder");
                let hint = "model folder, GGUF file, or run folder";
                let field = PathField { kind: PathKind::Model, label: "model folder", hint, width: 380.0 };
                path_ui(ui, &mut self.named, field).labelled_by(label.id);
            }
            let label = ui.label("max tokens");
            let tokens = DragValue::new(&mut self.tokens).range(0..=4096);
            let tokens = tokens.custom_formatter(|n, _| if n < 1.0 { "auto".into() } else { format!("{n:.0}") });
            let tokens = tokens.custom_parser(|text| if text.trim() == "auto" { Some(0.0) } else { text.trim().parse().ok() });
            ui.add(tokens).labelled_by(label.id).on_hover_text("Longest reply, from the next conversation on");
        });
        ui.horizontal(|ui| {
            let label = ui.label("system message");
            let field = egui::TextEdit::singleline(&mut self.system).hint_text("none").desired_width(f32::INFINITY);
            ui.add(field).labelled_by(label.id);
        });
        ui.horizontal_wrapped(|ui| {
            let same = chat.is_some_and(|chat| Ok(&chat.model) == wanted.as_ref() && !matches!(chat.state, ChatState::Ended(_)));
            if let (Ok(model), false) = (wanted, same)
                && ui.button("Load").on_hover_text("Start a conversation with this model").clicked()
            {
                actions.push(self.start_chat(model));
            }
            let Some(chat) = chat else { return };
            let idle = chat.state == ChatState::Ready;
            let reset = ui.add_enabled(idle, egui::Button::new("Start over"));
            if reset.on_hover_text("Clear the conversation and use the system message above").clicked() {
                actions.push(Action::SendChat(ChatRequest::Reset {
                    system: Some(self.system.clone()).filter(|s| !s.trim().is_empty()),
                }));
            }
            if ui.button("Unload").on_hover_text("End the conversation and free the model's memory").clicked() {
                actions.push(Action::EndChat);
            }
        });
        if let Err(missing) = wanted {
            ui.weak(*missing);
        }
    }

    fn choice_ui(&mut self, ui: &mut Ui, run: &OpenRun) {
        let name = |at: At| match at {
            At::Newest => "newest checkpoint".to_owned(),
            At::Step(step) => format!("step {}", crate::app::format::count(step)),
            At::Named => "a model folder or file".to_owned(),
        };
        let label = ui.label("model");
        let combo = egui::ComboBox::from_id_salt("chat model").selected_text(name(self.at)).show_ui(ui, |ui| {
            ui.selectable_value(&mut self.at, At::Newest, name(At::Newest));
            ui.selectable_value(&mut self.at, At::Named, name(At::Named));
            for step in run.checkpoints().into_iter().rev().take(200) {
                ui.selectable_value(&mut self.at, At::Step(step), name(At::Step(step)));
            }
        });
        combo.response.labelled_by(label.id);
    }

    fn start_chat(&self, model: &str) -> Action {
        Action::StartChat { model: model.to_owned(), system: self.system.clone(), tokens: self.tokens }
    }

    /// Where the user writes.
    fn entry_ui(
        &mut self,
        ui: &mut Ui,
        chat: Option<&ChatProcess>,
        wanted: &Result<String, &'static str>,
        actions: &mut Vec<Action>,
    ) {
        let label = ui.label("message");
        let newline = egui::KeyboardShortcut::new(egui::Modifiers::SHIFT, egui::Key::Enter);
        let field = egui::TextEdit::multiline(&mut self.draft).desired_rows(2).desired_width(f32::INFINITY).return_key(newline);
        let field = ui.add(field.hint_text("Enter sends, Shift Enter starts a new line")).labelled_by(label.id);
        let enter = field.has_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter) && !i.modifiers.shift);
        // Without a conversation the message starts one.
        let over = chat.is_none_or(|chat| matches!(chat.state, ChatState::Ended(_)));
        let open = chat.is_some_and(ChatProcess::can_say) || (over && wanted.is_ok());
        ui.horizontal_wrapped(|ui| {
            let ready = open && !self.draft.trim().is_empty();
            let clicked = ui.add_enabled(ready, egui::Button::new("Send")).clicked();
            if ready && (clicked || enter) {
                if let (true, Ok(model)) = (over, wanted) {
                    actions.push(self.start_chat(model));
                }
                let text = std::mem::take(&mut self.draft);
                actions.push(Action::SendChat(ChatRequest::Say { text, temperature: self.temperature }));
            }
            let replying = chat.is_some_and(|chat| chat.state == ChatState::Replying);
            if ui.add_enabled(replying, egui::Button::new("Stop")).on_hover_text("End this reply").clicked() {
                actions.push(Action::SendChat(ChatRequest::Stop));
            }
            let own = chat.and_then(|chat| chat.about.as_ref()).map_or(USUAL_TEMPERATURE, |about| about.temperature);
            let mut value = self.temperature.unwrap_or(own);
            let label = ui.label("temperature");
            let drag = ui.add(DragValue::new(&mut value).range(0.0..=5.0).speed(0.01).max_decimals(2)).labelled_by(label.id);
            if drag.on_hover_text("0 takes the most probable token each time").changed() {
                self.temperature = Some(value);
            }
        });
    }
}

/// The step of the checkpoint that has been loaded: a run continues, and its newest checkpoint becomes another.
fn step_of(chat: &ChatProcess) -> String {
    let folder = chat.about.as_ref().and_then(|about| about.model.rsplit(['/', '\\']).next());
    let step = folder.and_then(|folder| folder.strip_prefix("step-")?.parse::<u64>().ok());
    step.filter(|_| !chat.model.contains('@')).map_or(String::new(), |step| format!(", step {}", crate::app::format::count(step)))
}

/// The messages, and how the conversation stands.
fn chat_ui(ui: &mut Ui, chat: &ChatProcess) {
    if let Some(about) = chat.about.as_ref().filter(|about| !about.template) {
        ui.weak("This model has no chat template of its own: lehr's plain one (user: ..., assistant: ...) is used. A model that was only \
                 pre-trained continues the text rather than answering.")
            .on_hover_text(printable(&about.model, 300, false));
    }
    let is_replying = matches!(chat.state, ChatState::Replying);
    for (i, turn) in chat.turns.iter().enumerate() {
        turn_ui(ui, turn, is_replying && i + 1 == chat.turns.len());
    }
    match &chat.state {
        ChatState::Loading(line) => {
            ui.horizontal(|ui| {
                ui.spinner();
                ui.weak(if line.is_empty() { "loading the model".to_owned() } else { printable(line, 200, false) });
            });
        }
        ChatState::Ended(why) => {
            ui.colored_label(
                theme::error_color(ui.visuals()),
                format!("The conversation has ended: {}", printable(why, 600, false)),
            );
        }
        ChatState::Replying if chat.turns.last().is_some_and(|turn| turn.text.is_empty()) => {
            ui.spinner();
        }
        ChatState::Ready | ChatState::Replying => {}
    }
    ui.add_space(6.0);
}

/// A message; `is_written` while the model still writes it.
fn turn_ui(ui: &mut Ui, turn: &Turn, is_written: bool) {
    let who = if turn.by_model { "model" } else { "you" };
    let color = if turn.by_model { ui.visuals().hyperlink_color } else { ui.visuals().weak_text_color() };
    ui.label(RichText::new(who).small().strong().color(color));
    let is_empty = turn.by_model && turn.text.trim().is_empty() && !is_written;
    let text = match is_empty {
        true => RichText::new("(nothing: the model ended its reply at once)").weak(),
        false => RichText::new(printable(&turn.text, SHOWN, false)),
    };
    ui.add(egui::Label::new(if turn.refused { text.weak().strikethrough() } else { text }).wrap());
    if !turn.note.is_empty() {
        let note = RichText::new(printable(&turn.note, 600, false)).small();
        ui.label(if turn.refused { note.color(theme::error_color(ui.visuals())) } else { note.weak() });
    }
    ui.add_space(4.0);
}
