//! The form for a new run, drawn from the settings' own schema. `lehr STAGE --dry-run` estimates it before it starts, so that the form
//! refuses what the command would refuse, in the same words.

use crate::app::child::JobState;
use crate::app::format;
use crate::app::loader::Loaded;
use crate::app::paths::{PathField, PathKind, path_ui};
use crate::app::state::{Action, AppState};
use crate::app::theme;
use crate::config::schema::{self, FieldSchema, SectionSchema};
use crate::config::{Stage, preset_names};
use crate::session::starting_point::settings_of_fork;
use crate::vfs::{RealFs, human_bytes};
use eframe::egui::{self, RichText, Ui};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The key of the job that estimates what a run takes.
pub const ESTIMATE: &str = "estimate";
/// Size of a field.
const SIZE: [f32; 2] = [240.0, 20.0];
/// Width of the column of reset buttons.
const RESET: f32 = 44.0;
/// The least width for help beside the fields; in less it stands below them.
const HELP: f32 = 200.0;
/// After the last change, until the estimate is asked for.
const PATIENCE: Duration = Duration::from_millis(700);

/// See the module.
#[derive(Debug)]
pub struct NewRun {
    stage: Stage,
    /// Empty for none.
    preset: String,
    /// A TOML file of settings; empty for none.
    config: String,
    /// The run folder; empty for one of its own.
    name: String,
    /// `section.field` to what was typed; only what differs from `base`.
    typed: BTreeMap<String, String>,
    /// The same of every field, as a run with what was typed would have it.
    base: BTreeMap<String, String>,
    /// The text of the config file, or of the settings of the run that is forked.
    below: Loaded<(String, String), Option<String>>,
    /// That text, once it has been read.
    below_text: Option<String>,
    schema: Vec<SectionSchema>,
    search: String,
    /// When something was changed that is not estimated yet.
    changed: Option<Instant>,
    /// The command line of the last estimate.
    asked: Vec<String>,
    /// A run folder that is free, for a home, a stage and a number of open runs.
    free: Loaded<(PathBuf, &'static str, usize), PathBuf>,
}

impl Default for NewRun {
    fn default() -> Self {
        let mut form = Self {
            stage: Stage::Pretrain,
            preset: "nano".into(),
            config: String::new(),
            name: String::new(),
            typed: BTreeMap::new(),
            base: BTreeMap::new(),
            below: Loaded::default(),
            below_text: None,
            schema: Vec::new(),
            search: String::new(),
            changed: None,
            asked: Vec::new(),
            free: Loaded::default(),
        };
        form.load();
        form
    }
}

/// Fields that a new user needs; the others are below "All settings".
const FIRST: &[&str] = &[
    "data.data",
    "task.task",
    "task.people",
    "train.max_steps",
    "sft.num_train_epochs",
    "data.tokenizer",
    "start.init",
    "start.fork",
    "eval.eval_every",
    "eval.sample_tokens",
    "train.batch_size",
    "train.learning_rate",
    "train.lr_scheduler",
    "merge.merge_every",
    "grpo.reweight_alpha",
    "grpo.lopti_eta",
    "rollout.temperature",
    "train.seed",
];

impl NewRun {
    /// Fill the form: a stage by name, and `section.field` with values; `config` is a file of settings to start from.
    pub fn fill(&mut self, stage: &str, settings: &[(String, String)]) {
        self.stage = [Stage::Sft, Stage::Grpo].into_iter().find(|s| s.name() == stage).unwrap_or(Stage::Pretrain);
        // A model has its own shape.
        let begins = settings.iter().any(|(name, _)| name == "start.init" || name == "start.fork");
        let config = settings.iter().find(|(name, _)| name == "config").map_or(String::new(), |(_, path)| path.clone());
        self.preset = if begins || !config.is_empty() { String::new() } else { "nano".into() };
        self.config = config;
        self.typed.clear();
        self.below_text = None;
        self.load();
        for (name, value) in settings.iter().filter(|(name, _)| name != "config") {
            debug_assert!(self.base.contains_key(name), "{name} is no setting of {stage}");
            self.typed.insert(name.clone(), value.clone());
        }
        self.load_base();
    }

    fn load(&mut self) {
        self.schema = schema::schema(self.stage);
        self.load_base();
        self.typed.retain(|name, value| self.base.get(name).is_some_and(|base| base != value));
        self.changed = Some(Instant::now());
    }

    /// The values of fields that nobody has typed: those of the preset and the config file, fitted to what was typed.
    fn load_base(&mut self) {
        let preset = (!self.preset.is_empty()).then_some(self.preset.as_str());
        let typed: Vec<(&str, &str)> = self.typed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let of = |config| schema::values_under(self.stage, preset, config, &typed);
        // A file that cannot be read as settings is reported by the estimate.
        let values = of(self.below_text.as_deref()).or_else(|_| of(None)).unwrap_or_default();
        let mut base: BTreeMap<String, String> =
            values.into_iter().map(|(section, field, value)| (format!("{section}.{field}"), value)).collect();
        // Of a typed field, what it is reset to.
        for name in self.typed.keys() {
            let rest: Vec<(&str, &str)> = typed.iter().copied().filter(|(typed, _)| typed != name).collect();
            let values = schema::values_under(self.stage, preset, self.below_text.as_deref(), &rest).unwrap_or_default();
            let own = values.into_iter().find(|(section, field, _)| *name == format!("{section}.{field}"));
            base.extend(own.map(|(section, field, value)| (format!("{section}.{field}"), value)));
        }
        self.base = base;
    }

    /// Read the settings below what is typed: those of the config file, else those of the run that is forked.
    fn follow_below(&mut self, ui: &Ui) {
        let key = (self.config.trim().to_owned(), self.typed.get("start.fork").cloned().unwrap_or_default());
        let read = |(config, fork): &(String, String)| {
            let path = match (config.as_str(), fork.as_str()) {
                ("", "") => return None,
                ("", fork) => settings_of_fork(&RealFs, fork).ok()?,
                (config, _) => PathBuf::from(config),
            };
            let is_small = std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= 1 << 20);
            if is_small { std::fs::read_to_string(&path).ok() } else { None }
        };
        let Some((of, text)) = self.below.get(ui.ctx(), &key, read) else { return };
        if *of == key && *text != self.below_text {
            self.below_text.clone_from(text);
            self.load_base();
        }
    }

    /// The form's command line, without the run folder.
    pub fn args(&self) -> Vec<String> {
        let mut args = vec![self.stage.name().to_owned()];
        if !self.preset.is_empty() {
            args.extend(["--preset".to_owned(), self.preset.clone()]);
        }
        if !self.config.trim().is_empty() {
            args.extend(["--config".to_owned(), self.config.trim().to_owned()]);
        }
        for section in &self.schema {
            for field in &section.fields {
                let Some(value) = self.typed.get(&format!("{}.{}", section.name, field.name)) else { continue };
                let values: Vec<&str> = if field.many { value.split(',').map(str::trim).collect() } else { vec![value.as_str()] };
                // With an equals sign, so that a value that begins with a dash is no flag.
                args.extend(values.into_iter().filter(|v| !v.is_empty()).map(|value| format!("--{}={value}", field.flag)));
            }
        }
        args
    }

    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        self.follow_below(ui);
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            // The bar that scrolls lies over the right edge.
            ui.set_max_width((ui.available_width() - 8.0).min(900.0));
            self.head_ui(ui);
            ui.add_space(6.0);
            self.first_ui(ui);
            ui.add_space(6.0);
            self.estimate_ui(ui, state);
            self.start_ui(ui, state);
            ui.add_space(10.0);
            egui::CollapsingHeader::new("All settings").show(ui, |ui| self.all_ui(ui));
        });
        self.ask_estimate(ui, state);
    }

    fn head_ui(&mut self, ui: &mut Ui) {
        ui.horizontal_wrapped(|ui| {
            for (stage, name) in [(Stage::Pretrain, "Pre-train"), (Stage::Sft, "Fine-tune"), (Stage::Grpo, "GRPO")] {
                if ui.selectable_label(self.stage == stage, name).clicked() && self.stage != stage {
                    self.stage = stage;
                    self.preset = if stage == Stage::Pretrain { "nano".into() } else { String::new() };
                    self.load();
                }
            }
            ui.separator();
            let label = ui.label("preset");
            let shown = if self.preset.is_empty() { "none" } else { &self.preset };
            let before = self.preset.clone();
            let combo = egui::ComboBox::from_id_salt("preset").selected_text(shown).show_ui(ui, |ui| {
                ui.selectable_value(&mut self.preset, String::new(), "none");
                for name in preset_names() {
                    ui.selectable_value(&mut self.preset, name.to_owned(), name);
                }
            });
            combo.response.labelled_by(label.id).on_hover_text("Model and recipe together");
            if before != self.preset {
                self.load();
            }
        });
        let given = |key: &str| self.typed.get(key).is_some_and(|value| !value.is_empty());
        let words = match self.stage {
            _ if given("start.fork") => {
                "A fork: a new run that continues from this checkpoint. What is not changed here is as in the run that is forked."
            }
            Stage::Pretrain if given("start.init") => "A model learns to continue other text. It needs a file of text.",
            Stage::Pretrain => "A new model learns to continue text. It needs a file of text.",
            Stage::Sft => {
                "A model learns from conversations, or from prompts with completions. It needs rows, and a model to start from."
            }
            Stage::Grpo => {
                "A model learns from rewards for its answers to questions. It needs a task, and a model to start from."
            }
        };
        ui.add(egui::Label::new(RichText::new(words).weak()).wrap());
    }

    fn first_ui(&mut self, ui: &mut Ui) {
        let schema = self.schema.clone();
        let fields: Vec<_> = FIRST.iter().filter_map(|name| find(&schema, name)).collect();
        let width = name_width(ui, fields.iter().map(|(_, field)| field.name.as_str()));
        for (section, field) in fields {
            self.field_ui(ui, width, section, field);
        }
        row_ui(ui, width, "folder".into(), "Where the run goes; a new folder under runs when empty", None, |ui, label| {
            let field = PathField { kind: PathKind::NewFolder, label: "folder", hint: "a new one", width: SIZE[0] };
            path_ui(ui, &mut self.name, field).labelled_by(label);
        });
        let help = "A TOML file of settings, between the preset and what is typed here";
        row_ui(ui, width, "config file".into(), help, None, |ui, label| {
            let field = PathField { kind: PathKind::File, label: "config file", hint: "none", width: SIZE[0] };
            if path_ui(ui, &mut self.config, field).labelled_by(label).changed() {
                self.changed = Some(Instant::now());
            }
        });
    }

    fn all_ui(&mut self, ui: &mut Ui) {
        ui.add(egui::TextEdit::singleline(&mut self.search).hint_text("search in names and help").desired_width(SIZE[0]));
        let wanted = self.search.to_lowercase();
        let schema = self.schema.clone();
        let width = name_width(ui, schema.iter().flat_map(|section| &section.fields).map(|field| field.name.as_str()));
        for section in schema {
            let matches =
                |f: &&FieldSchema| wanted.is_empty() || f.name.contains(&wanted) || f.help.to_lowercase().contains(&wanted);
            let fields: Vec<&FieldSchema> = section.fields.iter().filter(matches).collect();
            if fields.is_empty() {
                continue;
            }
            ui.add_space(4.0);
            ui.label(RichText::new(&section.heading).strong());
            for field in fields {
                self.field_ui(ui, width, section.name, field);
            }
        }
    }

    /// The row of a setting.
    fn field_ui(&mut self, ui: &mut Ui, width: f32, section: &str, field: &FieldSchema) {
        let key = format!("{section}.{}", field.name);
        let base = self.base.get(&key).cloned().unwrap_or_default();
        let mut value = self.typed.get(&key).unwrap_or(&base).clone();
        let is_changed = self.typed.contains_key(&key);
        let name = RichText::new(field.name.replace('_', " "));
        let name = if is_changed { name.strong() } else { name };
        let before = value.clone();
        let help = format!("{}\n--{}", field.help.replace('`', ""), field.flag);
        let reset = is_changed.then_some(if base.is_empty() { "none" } else { base.as_str() });
        if row_ui(ui, width, name, &help, reset, |ui, label| value_ui(ui, &key, field, &mut value, label)) {
            value.clone_from(&base);
        }
        if value != before {
            self.changed = Some(Instant::now());
            match value == base {
                true => self.typed.remove(&key),
                false => self.typed.insert(key, value),
            };
            self.load_base();
        }
    }

    /// Once nothing has been typed for a moment.
    fn ask_estimate(&mut self, ui: &Ui, state: &mut AppState) {
        let Some(changed) = self.changed else { return };
        if changed.elapsed() < PATIENCE {
            ui.ctx().request_repaint_after(PATIENCE);
            return;
        }
        self.changed = None;
        let mut args = self.args();
        args.extend(["--dry-run".to_owned(), "--json".to_owned()]);
        // Where something is missing there is nothing to estimate, and the form says what it is.
        if self.missing().is_none() && args != self.asked {
            self.asked = args.clone();
            state.request(Action::Job(ESTIMATE.into(), args));
        }
    }

    /// Missing fields without which a run cannot start.
    fn missing(&self) -> Option<&'static str> {
        let given = |key: &str| self.typed.get(key).is_some_and(|v| !v.is_empty());
        let begins = given("start.init") || given("start.fork") || !self.config.trim().is_empty();
        match self.stage {
            Stage::Pretrain if !given("data.data") && !begins => {
                Some("data: name a text file, a folder of them, or JSONL rows with a text")
            }
            Stage::Sft if !given("data.data") && !begins => {
                Some("data: name a JSONL file of messages, or of prompts with completions")
            }
            Stage::Grpo if !begins => Some("init: name the model to start from, such as a run's folder"),
            _ => None,
        }
    }

    fn estimate_ui(&self, ui: &mut Ui, state: &AppState) {
        if let Some(missing) = self.missing() {
            ui.add(egui::Label::new(RichText::new(missing).weak()).wrap());
            return;
        }
        match state.job(ESTIMATE) {
            None => {}
            Some(JobState::Running(line)) => {
                ui.horizontal(|ui| {
                    ui.spinner();
                    ui.label(RichText::new(if line.is_empty() { "estimating memory and time" } else { line }).weak());
                });
            }
            Some(JobState::Failed(text)) => {
                ui.colored_label(ui.visuals().error_fg_color, text);
            }
            Some(JobState::Done(text)) => {
                let found: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
                let number = |name: &str| found.get(name).and_then(serde_json::Value::as_f64);
                let mut words = Vec::new();
                words.extend(number("parameters").map(|n| format!("{} parameters", format::count(n as u64))));
                words.extend(number("total_bytes").map(|n| format!("{} of device memory", human_bytes(n as u64))));
                let adapter = found.get("adapter").and_then(serde_json::Value::as_str).unwrap_or("this machine");
                words.extend(number("estimated_seconds").map(|s| format!("about {} on {adapter}", format::duration(s))));
                ui.label(words.join(", "));
            }
        }
    }

    fn start_ui(&mut self, ui: &mut Ui, state: &mut AppState) {
        let refused = matches!(state.job(ESTIMATE), Some(JobState::Failed(_)));
        let stage = self.stage.name();
        let taken: Vec<PathBuf> = state.runs.iter().map(|run| run.files.path.clone()).collect();
        let key = (state.home.clone(), stage, taken.len());
        let is_free = move |path: &PathBuf| !path.exists() && !taken.contains(path);
        let look = |(home, stage, _): &(PathBuf, &'static str, usize)| {
            (1..).map(|i| home.join(format!("{stage}-{i:03}"))).find(is_free).unwrap_or_default()
        };
        let free = self.free.get(ui.ctx(), &key, look).filter(|(of, _)| *of == key).map(|(_, path)| path.clone());
        let typed = Some(self.name.trim()).filter(|name| !name.is_empty()).map(PathBuf::from);
        let run = typed.or(free);
        let ready = self.missing().is_none() && !refused && run.is_some();
        let start = egui::Button::new(RichText::new("Start").strong()).min_size(egui::vec2(96.0, 30.0));
        let start = ui.horizontal(|ui| ui.add_enabled(ready, start)).inner;
        let clicked = start.on_disabled_hover_text("Something is missing or wrong: see the line above.").clicked();
        if let Some(run) = run.filter(|_| clicked) {
            let mut args = self.args();
            args.extend(["--run".to_owned(), run.display().to_string()]);
            self.name.clear();
            self.free.invalidate();
            state.request(Action::Start { args, run });
        }
        let line = format!("lehr {}", self.args().join(" "));
        ui.add(egui::Label::new(RichText::new(line).font(theme::small_mono()).weak()).wrap())
            .on_hover_text("The command line of this form");
    }
}

/// Width of the longest of these names of settings.
fn name_width<'a>(ui: &Ui, names: impl Iterator<Item = &'a str>) -> f32 {
    let font = egui::TextStyle::Body.resolve(ui.style());
    let width = |name: &str| ui.painter().layout_no_wrap(name.replace('_', " "), font.clone(), egui::Color32::WHITE).size().x;
    names.map(width).fold(width("config file"), f32::max)
}

/// A row of the form: a name, its field, a reset button where the value differs from `reset`, and help, whose first sentence wraps beside
/// the field, or below it. Name, field, button and the first line of the help share a line whatever their heights are. True if reset was pressed.
fn row_ui(
    ui: &mut Ui,
    width: f32,
    name: RichText,
    help: &str,
    reset: Option<&str>,
    field: impl FnOnce(&mut Ui, egui::Id),
) -> bool {
    let row = ui.horizontal_top(|ui| {
        let spacing = std::mem::replace(&mut ui.spacing_mut().item_spacing.x, 10.0);
        let label = cell_ui(ui, width, |ui| ui.label(name)).on_hover_text(help);
        ui.allocate_ui_with_layout(SIZE.into(), egui::Layout::top_down(egui::Align::Min), |ui| {
            ui.set_min_size(SIZE.into());
            ui.spacing_mut().item_spacing.x = spacing;
            field(ui, label.id);
        });
        let button = |value: &str, ui: &mut Ui| {
            let button = egui::Button::new(RichText::new("reset").small());
            ui.add(button).on_hover_text(format!("back to {value}")).clicked()
        };
        let is_pressed = cell_ui(ui, RESET, |ui| reset.is_some_and(|value| button(value, ui)));
        // A scrolled page does not know where the window ends.
        let space = ui.available_width().min(ui.clip_rect().right() - ui.cursor().left() - 4.0);
        if space > HELP {
            help_ui(ui, help, space);
        }
        (is_pressed, space > HELP)
    });
    let (is_pressed, is_helped) = row.inner;
    if !is_helped {
        ui.horizontal_top(|ui| {
            ui.add_space(width + 10.0);
            let space = ui.available_width().min(ui.clip_rect().right() - ui.cursor().left() - 4.0);
            help_ui(ui, help, space.max(HELP));
        });
        ui.add_space(4.0);
    }
    ui.add_space(2.0);
    is_pressed
}

/// The first sentence of a setting's help.
fn help_ui(ui: &mut Ui, help: &str, width: f32) {
    let first = help.split("\n--").next().and_then(|text| text.split(". ").next()).unwrap_or_default();
    ui.vertical(|ui| {
        ui.set_max_width(width);
        ui.add_space(3.0);
        ui.add(egui::Label::new(RichText::new(first.trim_end_matches('.')).small().weak()).wrap());
    });
}

/// A cell as high as a field, its content in the middle of the height.
fn cell_ui<R>(ui: &mut Ui, width: f32, content: impl FnOnce(&mut Ui) -> R) -> R {
    let size = egui::vec2(width, SIZE[1]);
    let cell = ui.allocate_ui_with_layout(size, egui::Layout::left_to_right(egui::Align::Center), |ui| {
        ui.set_min_size(size);
        ui.spacing_mut().button_padding.y = 0.0;
        content(ui)
    });
    cell.inner
}

/// The field of a setting, by what it may hold.
fn value_ui(ui: &mut Ui, key: &str, field: &FieldSchema, value: &mut String, label: egui::Id) {
    if field.choices.len() == 2 && field.choices.iter().all(|c| c == "true" || c == "false") {
        let mut on = value == "true";
        ui.checkbox(&mut on, "").labelled_by(label);
        *value = on.to_string();
    } else if !field.choices.is_empty() {
        let shown = if value.is_empty() { "none".to_owned() } else { value.clone() };
        let combo = egui::ComboBox::from_id_salt(key).selected_text(shown).show_ui(ui, |ui| {
            if field.optional {
                ui.selectable_value(value, String::new(), "none");
            }
            for choice in &field.choices {
                ui.selectable_value(value, choice.clone(), choice);
            }
        });
        combo.response.labelled_by(label);
    } else {
        let hint = match (key, field.value_name.as_str()) {
            ("data.data", _) => "a file or a folder",
            ("start.init", _) => "a model folder or a run",
            ("start.fork", _) => "a run, or RUN@STEP",
            (_, "") => "none",
            (_, name) => name,
        };
        if let Some(kind) = path_kind(key, field) {
            let name = field.name.replace('_', " ");
            path_ui(ui, value, PathField { kind, label: &name, hint, width: SIZE[0] }).labelled_by(label);
        } else {
            ui.add_sized(SIZE, egui::TextEdit::singleline(value).hint_text(hint)).labelled_by(label);
        }
    }
}

/// The kind of path in a setting.
fn path_kind(key: &str, field: &FieldSchema) -> Option<PathKind> {
    match (key, field.value_name.as_str()) {
        ("start.init", _) => Some(PathKind::Model),
        ("start.fork", _) => Some(PathKind::Folder),
        ("data.tokenizer", _) => Some(PathKind::File),
        (_, "PATH") if field.many => Some(PathKind::Data),
        (_, "PATH" | "FILE") => Some(PathKind::File),
        _ => None,
    }
}

fn find<'a>(schema: &'a [SectionSchema], name: &str) -> Option<(&'static str, &'a FieldSchema)> {
    let (section, field) = name.split_once('.')?;
    let section = schema.iter().find(|s| s.name == section)?;
    Some((section.name, section.fields.iter().find(|f| f.name == field)?))
}
