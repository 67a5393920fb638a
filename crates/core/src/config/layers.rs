//! Layers of settings: default < preset < config file < explicit flags.

use super::{GrpoSettings, RolloutSettings, Settings, SftSettings, Stage, TaskSettings, UsageError};
use crate::number_format::{did_you_mean, one_line};
use crate::vfs::{Vfs, display_path};
use clap::{ArgMatches, Command, parser::ValueSource};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The built-in presets: model and recipe together.
const PRESETS: &[(&str, &str)] = &[
    ("nano", include_str!("../../assets/presets/nano.toml")),
    ("tiny", include_str!("../../assets/presets/tiny.toml")),
    ("small", include_str!("../../assets/presets/small.toml")),
    ("smollm2-135m", include_str!("../../assets/presets/smollm2-135m.toml")),
    ("qwen2.5-0.5b", include_str!("../../assets/presets/qwen2.5-0.5b.toml")),
    ("qwen3-0.6b", include_str!("../../assets/presets/qwen3-0.6b.toml")),
    ("llama3.2-1b", include_str!("../../assets/presets/llama3.2-1b.toml")),
];

/// Training settings of `lehr sft` that differ from those of `lehr pretrain`. They are TRL's, except for a learning rate that suits models
/// below a billion parameters, and a short warm-up for moments that start at zero. A `seq_len` of 0 is the model's context, at most 1024.
pub const SFT_DEFAULTS: &[(&str, &str)] = &[
    ("seq_len", "0"),
    ("batch_size", "8"),
    ("learning_rate", "1e-4"),
    ("min_learning_rate", "0.0"),
    ("lr_scheduler", "linear"),
    ("warmup_steps", "10"),
    ("adam_beta2", "0.999"),
    ("weight_decay", "0.0"),
];

/// Training settings of `lehr grpo` that differ from those of `lehr pretrain`. The learning rate is for models of a few million parameters:
/// large ones need 1e-6. `seq_len` 0 is the sum of the maximum prompt and completion lengths; `batch_size` counts completions.
pub const GRPO_DEFAULTS: &[(&str, &str)] = &[
    ("seq_len", "0"),
    ("batch_size", "128"),
    ("max_steps", "200"),
    ("learning_rate", "1e-4"),
    ("min_learning_rate", "1e-4"),
    ("lr_scheduler", "constant"),
    ("warmup_steps", "0"),
    ("adam_beta2", "0.999"),
    ("weight_decay", "0.01"),
];

/// Names of the presets, smallest model first.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// Settings under construction, lowest layer first.
pub struct SettingsLayers {
    table: Table,
    /// Fields set by a config file or a flag; the others are defaults, which may be fitted to them.
    explicit: BTreeSet<String>,
}

impl Default for SettingsLayers {
    fn default() -> Self {
        Self { table: to_table(&Settings::default()), explicit: BTreeSet::new() }
    }
}

impl SettingsLayers {
    /// The defaults of a command.
    ///
    /// # Errors
    /// Invalid defaults, which would be a defect.
    pub fn of(stage: Stage) -> anyhow::Result<Self> {
        let mut settings = Settings::default();
        add_sections(&mut settings, stage);
        let mut layers = Self { table: to_table(&settings), explicit: BTreeSet::new() };
        let defaults = match stage {
            Stage::Pretrain => &[],
            Stage::Sft => SFT_DEFAULTS,
            Stage::Grpo => GRPO_DEFAULTS,
        };
        let lines = defaults.iter().map(|(field, value)| match value.parse::<f64>() {
            Ok(_) => format!("{field} = {value}\n"),
            Err(_) => format!("{field} = \"{value}\"\n"),
        });
        layers.overlay(&("[train]\n".to_owned() + &lines.collect::<String>()), "defaults")?;
        Ok(layers)
    }

    /// Overlay a preset.
    ///
    /// # Errors
    /// An unknown preset; the message lists the known ones.
    pub fn preset(&mut self, name: &str) -> anyhow::Result<()> {
        let Some((_, text)) = PRESETS.iter().find(|(n, _)| *n == name) else {
            let hint = did_you_mean(name, preset_names());
            anyhow::bail!(UsageError(format!("--preset {name}: no such preset{hint}")));
        };
        self.overlay(text, &format!("preset {name}"))
    }

    /// Overlay a config file.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than 1 MiB, is not TOML, or holds an unknown or mistyped setting.
    pub fn file(&mut self, vfs: &dyn Vfs, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let bytes = vfs.read(path, 1 << 20).map_err(|e| anyhow::anyhow!("--config {shown}: {e}"))?;
        let text = String::from_utf8(bytes)
            .map_err(|e| anyhow::anyhow!("{shown}: not UTF-8 at byte {}; save it as UTF-8", e.utf8_error().valid_up_to()))?;
        self.text(text.trim_start_matches('\u{feff}'), &shown.to_string())
    }

    /// Overlay the text of a config file, whose fields are then explicit; `source` names it in errors.
    ///
    /// # Errors
    /// As [`SettingsLayers::overlay`].
    pub fn text(&mut self, text: &str, source: &str) -> anyhow::Result<()> {
        self.overlay(text, source)?;
        let sections = text.parse::<Table>().unwrap_or_default();
        self.explicit.extend(sections.values().filter_map(Value::as_table).flat_map(Table::keys).cloned());
        // A file that sets a number of updates but no number of epochs trains for that number of updates.
        let says = |section: &str, field: &str| {
            text.parse::<Table>().is_ok_and(|t| t.get(section).is_some_and(|fields| fields.get(field).is_some()))
        };
        if self.table.contains_key("sft") && says("train", "max_steps") && !says("sft", "num_train_epochs") {
            self.set("sft", "num_train_epochs", Value::Float(0.0));
        }
        Ok(())
    }

    /// Overlay TOML text; `source` names it in errors.
    ///
    /// # Errors
    /// When the text is not TOML or a key is unknown or of the wrong type.
    pub fn overlay(&mut self, text: &str, source: &str) -> anyhow::Result<()> {
        let over: Table = text.parse().map_err(|e| anyhow::anyhow!("{source}: {}", one_line(&format!("{e}"))))?;
        for (section, fields) in over {
            let known: Vec<String> = known_fields(&section);
            let Value::Table(fields) = fields else {
                anyhow::bail!("{source}: {section}: settings live in sections, such as [train]{}", nearest_section(&section));
            };
            if known.is_empty() {
                anyhow::bail!("{source}: [{section}]: no such section{}", nearest_section(&section));
            }
            if !self.table.contains_key(&section) {
                // Sections of one stage are optional.
                let stage = if section == "sft" { Stage::Sft } else { Stage::Grpo };
                let mut settings = Settings::default();
                add_sections(&mut settings, stage);
                let own = OPTIONAL_SECTIONS.iter().filter(|(of, _)| *of == stage);
                let all = to_table(&settings);
                self.table.extend(own.filter_map(|(_, name)| all.get_key_value(*name)).map(|(k, v)| (k.clone(), v.clone())));
            }
            for (field, value) in fields {
                if !known.contains(&field) {
                    anyhow::bail!(
                        "{source}: [{section}] {field} = {value}: unknown setting{}",
                        did_you_mean(&field, known.iter().map(String::as_str))
                    );
                }
                self.set(&section, &field, value.clone());
                if let Err(e) = self.settings() {
                    anyhow::bail!("{source}: [{section}] {field} = {value}: {}", one_line(&e.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Overlay those of `flags` that were given explicitly.
    ///
    /// # Errors
    /// A whole number or a path that a config file could not hold.
    pub fn flags(&mut self, matches: &ArgMatches, flags: &Settings) -> anyhow::Result<()> {
        // TOML integers are signed 64-bit.
        for id in matches.ids().map(clap::Id::as_str) {
            let number = match (matches.try_get_one::<u64>(id), matches.try_get_one::<usize>(id)) {
                (Ok(Some(n)), _) => *n,
                (_, Ok(Some(n))) => *n as u64,
                _ => continue,
            };
            anyhow::ensure!(number <= i64::MAX as u64, "--{} {number}: must be at most {}", id.replace('_', "-"), i64::MAX);
        }
        // TOML text is UTF-8.
        for id in matches.ids().map(clap::Id::as_str) {
            let paths = matches.try_get_many::<PathBuf>(id).ok().flatten();
            if let Some(path) = paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
                let flag = id.replace('_', "-");
                anyhow::bail!("--{flag} {}: not UTF-8, which config.toml cannot hold; rename it", display_path(path));
            }
        }
        let sections: Vec<String> = to_table(flags).keys().cloned().collect();
        self.overlay_flags(matches, flags, &sections.iter().map(String::as_str).collect::<Vec<_>>());
        Ok(())
    }

    /// Overlay the explicit flags of these sections, for a command that has only some sections.
    pub fn overlay_flags(&mut self, matches: &ArgMatches, flags: &Settings, sections: &[&str]) {
        for (section, fields) in to_table(flags).iter().filter(|(section, _)| sections.contains(&section.as_str())) {
            for (field, value) in fields.as_table().into_iter().flatten() {
                if matches.value_source(field) == Some(ValueSource::CommandLine) {
                    self.set(section, field, value.clone());
                    self.explicit.insert(field.clone());
                }
            }
        }
    }

    /// Set a field from text, as its flag would. Returns false and changes nothing if the text is no value of the field's type, or if the
    /// field is absent.
    pub fn field(&mut self, section: &str, field: &str, text: &str) -> bool {
        let now = self.table.get(section).and_then(|fields| fields.get(field));
        let value = match now {
            Some(Value::String(_)) => Some(Value::String(text.to_owned())),
            Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
            Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
            Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
            _ => None,
        };
        let Some(value) = value else { return false };
        let mut changed = Self { table: self.table.clone(), explicit: self.explicit.clone() };
        changed.set(section, field, value);
        if changed.settings().is_err() {
            return false;
        }
        changed.explicit.insert(field.to_owned());
        *self = changed;
        true
    }

    /// Reset a section to its defaults.
    pub fn forget_section(&mut self, section: &str) {
        if let Some(default) = to_table(&Settings::default()).remove(section) {
            self.table.insert(section.to_owned(), default);
        }
    }

    /// The settings so far.
    ///
    /// # Errors
    /// When a value has the wrong type.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        Ok(Value::Table(self.table.clone()).try_into()?)
    }

    /// The settings, with the defaults fitted to the explicit values ([`Settings::fit_defaults`]).
    ///
    /// # Errors
    /// When a value has the wrong type.
    pub fn fitted(&self) -> anyhow::Result<Settings> {
        let mut settings = self.settings()?;
        settings.fit_defaults(|field| self.explicit.contains(field));
        Ok(settings)
    }

    fn set(&mut self, section: &str, field: &str, value: Value) {
        // An integer for a float setting ("rope_theta = 10000") is not an error.
        let was_float = matches!(self.table[section].get(field), Some(Value::Float(_)));
        let value = match value {
            Value::Integer(i) if was_float => Value::Float(i as f64),
            other => other,
        };
        if let Some(fields) = self.table.get_mut(section).and_then(Value::as_table_mut) {
            fields.insert(field.to_string(), value);
        }
    }
}

impl Settings {
    /// The settings of a file over the defaults, such as the `config.toml` of a run.
    ///
    /// # Errors
    /// As [`SettingsLayers::file`].
    pub fn read(vfs: &dyn Vfs, path: &Path) -> anyhow::Result<Self> {
        let mut layers = SettingsLayers::default();
        layers.file(vfs, path)?;
        layers.settings()
    }
}

fn to_table(settings: &Settings) -> Table {
    match Value::try_from(settings) {
        Ok(Value::Table(table)) => table,
        other => unreachable!("settings serialise to a table, not {other:?}"),
    }
}

/// Sections that exist only for runs of one stage.
const OPTIONAL_SECTIONS: &[(Stage, &str)] =
    &[(Stage::Sft, "sft"), (Stage::Grpo, "task"), (Stage::Grpo, "rollout"), (Stage::Grpo, "grpo")];

fn add_sections(settings: &mut Settings, stage: Stage) {
    match stage {
        Stage::Pretrain => {}
        Stage::Sft => settings.sft = Some(SftSettings::default()),
        Stage::Grpo => {
            settings.task = Some(TaskSettings::default());
            settings.rollout = Some(RolloutSettings::default());
            settings.grpo = Some(GrpoSettings::default());
        }
    }
}

/// Field names of a section: its clap arguments, which include options without a default.
fn known_fields(section: &str) -> Vec<String> {
    let command = super::schema::arguments(section);
    command.iter().flat_map(Command::get_arguments).map(|a| a.get_id().to_string()).collect()
}

fn nearest_section(typed: &str) -> String {
    let optional = OPTIONAL_SECTIONS.iter().map(|(_, name)| (*name).to_owned());
    let sections: Vec<String> = to_table(&Settings::default()).keys().cloned().chain(optional).collect();
    for section in &sections {
        if known_fields(section).iter().any(|f| f == typed) {
            return format!("; {typed} belongs to [{section}]");
        }
    }
    did_you_mean(typed, sections.iter().map(String::as_str))
}
