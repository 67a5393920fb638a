//! The settings as data, for forms: sections, fields, help and choices, taken from clap so that no list is written twice.

use super::{GrpoSettings, RolloutSettings, Settings, SettingsLayers, SftSettings, Stage, TaskSettings};
use clap::{Arg, Args, Command};

/// A section of settings, in the order of a form.
#[derive(Clone, Debug)]
pub struct SectionSchema {
    /// Its name in TOML, such as `train`.
    pub name: &'static str,
    /// Its heading in `--help`.
    pub heading: String,
    /// Its fields.
    pub fields: Vec<FieldSchema>,
}

/// A setting.
#[derive(Clone, Debug)]
pub struct FieldSchema {
    /// Its name in TOML, such as `learning_rate`.
    pub name: String,
    /// Its flag without the dashes, such as `learning-rate`.
    pub flag: String,
    /// Help text, one or two sentences.
    pub help: String,
    /// Placeholder of a value, such as `PATH`; empty where clap has none but the field's name.
    pub value_name: String,
    /// Possible values; empty if any value of the type is allowed. `true` and `false` for a switch.
    pub choices: Vec<String>,
    /// Whether it may be absent.
    pub optional: bool,
    /// Whether it is a list, with one flag per value.
    pub many: bool,
}

/// Names of all sections, in the order of [`Settings`], and the stage that has them (None: all).
const SECTIONS: &[(&str, Option<Stage>)] = &[
    ("model", None),
    ("data", None),
    ("train", None),
    ("eval", None),
    ("save", None),
    ("start", None),
    ("lora", None),
    ("merge", None),
    ("rescue", None),
    ("sft", Some(Stage::Sft)),
    ("task", Some(Stage::Grpo)),
    ("rollout", Some(Stage::Grpo)),
    ("grpo", Some(Stage::Grpo)),
    ("device", None),
];

/// The sections of a stage.
pub fn schema(stage: Stage) -> Vec<SectionSchema> {
    let own = SECTIONS.iter().filter(|(_, of)| of.is_none_or(|of| of == stage));
    own.filter_map(|(name, _)| section(name)).collect()
}

fn section(name: &'static str) -> Option<SectionSchema> {
    let command = arguments(name)?;
    let shown: Vec<&Arg> = command.get_arguments().filter(|a| !a.is_hide_set()).collect();
    let heading = shown.iter().find_map(|a| a.get_help_heading()).unwrap_or(name).to_owned();
    Some(SectionSchema { name, heading, fields: shown.into_iter().map(field).collect() })
}

fn field(arg: &Arg) -> FieldSchema {
    let name = arg.get_id().to_string();
    let value_name = arg.get_value_names().and_then(|names| names.first()).map(|n| n.to_string()).unwrap_or_default();
    let value_name = if value_name.eq_ignore_ascii_case(&name) { String::new() } else { value_name };
    let many = matches!(arg.get_action(), clap::ArgAction::Append) || arg.get_value_delimiter().is_some();
    FieldSchema {
        flag: arg.get_long().unwrap_or(&name).to_owned(),
        help: arg.get_help().map(|h| h.to_string()).unwrap_or_default(),
        choices: arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect(),
        optional: arg.get_default_values().is_empty(),
        value_name,
        many,
        name,
    }
}

/// The clap arguments of a section; `None` if the section is unknown.
pub(super) fn arguments(section: &str) -> Option<Command> {
    let command = Command::new("section");
    Some(match section {
        "model" => super::ModelSettings::augment_args(command),
        "data" => super::DataSettings::augment_args(command),
        "train" => super::TrainSettings::augment_args(command),
        "eval" => super::EvalSettings::augment_args(command),
        "save" => super::SaveSettings::augment_args(command),
        "start" => super::StartSettings::augment_args(command),
        "lora" => super::LoraSettings::augment_args(command),
        "merge" => super::MergeSettings::augment_args(command),
        "rescue" => super::RescueSettings::augment_args(command),
        "sft" => SftSettings::augment_args(command),
        "task" => TaskSettings::augment_args(command),
        "rollout" => RolloutSettings::augment_args(command),
        "grpo" => GrpoSettings::augment_args(command),
        "device" => super::DeviceSettings::augment_args(command),
        _ => return None,
    })
}

/// The value of every setting of a stage under a preset, as `(section, field, value)`; values as in flags, empty when absent.
///
/// # Errors
/// Unknown preset.
pub fn values(stage: Stage, preset: Option<&str>) -> anyhow::Result<Vec<(&'static str, String, String)>> {
    values_under(stage, preset, None, &[])
}

/// [`values`] with the text of a config file, and with fields that were typed, as `section.field` and value: the other fields have the values
/// that a run with these would have ([`Settings::fit_defaults`]).
///
/// # Errors
/// Unknown preset; a text that is no config file.
pub fn values_under(
    stage: Stage,
    preset: Option<&str>,
    config: Option<&str>,
    typed: &[(&str, &str)],
) -> anyhow::Result<Vec<(&'static str, String, String)>> {
    let mut layers = SettingsLayers::of(stage)?;
    preset.map_or(Ok(()), |name| layers.preset(name))?;
    config.map_or(Ok(()), |text| layers.text(text, "config file"))?;
    for (name, text) in typed {
        // What is no value yet is refused by the command, in its own words.
        let _ = name.split_once('.').is_some_and(|(section, field)| layers.field(section, field, text));
    }
    Ok(values_of(&layers.fitted()?))
}

/// [`values`] of existing settings.
pub fn values_of(settings: &Settings) -> Vec<(&'static str, String, String)> {
    let table = toml::Table::try_from(settings).unwrap_or_default();
    let mut found = Vec::new();
    for section in schema(settings.stage()) {
        let fields = table.get(section.name).and_then(toml::Value::as_table);
        for field in section.fields {
            let value = fields.and_then(|f| f.get(&field.name)).map(plain).unwrap_or_default();
            found.push((section.name, field.name, value));
        }
    }
    found
}

fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_schema_once() {
        for stage in [Stage::Pretrain, Stage::Sft, Stage::Grpo] {
            let settings = SettingsLayers::of(stage).unwrap().settings().unwrap();
            let table = toml::Table::try_from(&settings).unwrap();
            let schema = schema(stage);
            let names: Vec<&str> = schema.iter().map(|s| s.name).collect();
            let mut of_file: Vec<&String> = table.keys().collect();
            let mut of_schema = names.clone();
            of_file.sort();
            of_schema.sort_unstable();
            assert_eq!(of_file, of_schema, "{stage:?}");
            for section in &schema {
                let fields: Vec<&str> = section.fields.iter().map(|f| f.name.as_str()).collect();
                for key in table[section.name].as_table().unwrap().keys() {
                    assert_eq!(fields.iter().filter(|f| **f == key).count(), 1, "{}.{key}", section.name);
                }
                assert!(section.fields.iter().all(|f| !f.help.is_empty()), "{}", section.name);
            }
        }
    }

    #[test]
    fn values_are_those_of_a_run_with_what_was_typed() {
        let value = |typed: &[(&str, &str)], config: Option<&str>, name: &str| {
            let all = values_under(Stage::Pretrain, Some("nano"), config, typed).unwrap();
            all.into_iter().find(|(_, field, _)| field == name).unwrap().2
        };
        assert_eq!(value(&[], None, "eval_every"), "250");
        assert_eq!(value(&[("train.max_steps", "100")], None, "eval_every"), "25");
        assert_eq!(value(&[("train.max_steps", "100")], None, "warmup_steps"), "10");
        // Half a number changes nothing; an explicit value is kept.
        assert_eq!(value(&[("train.max_steps", "1e")], None, "eval_every"), "250");
        assert_eq!(value(&[("train.max_steps", "100"), ("eval.eval_every", "60")], None, "eval_every"), "60");
        assert_eq!(value(&[], Some("[train]\nmax_steps = 40\nbatch_size = 3\n"), "eval_every"), "10");
        assert_eq!(value(&[], Some("[train]\nbatch_size = 3\n"), "batch_size"), "3");
        assert!(values_under(Stage::Pretrain, None, Some("[train]\nbatch = 3\n"), &[]).is_err());
    }

    #[test]
    fn schema_values_match_the_preset_and_are_valid_choices() {
        for preset in super::super::preset_names() {
            let values = values(Stage::Pretrain, Some(preset)).unwrap();
            let schema = schema(Stage::Pretrain);
            let field = |section: &str, name: &str| {
                let section = schema.iter().find(|s| s.name == section).unwrap();
                section.fields.iter().find(|f| f.name == name).unwrap().clone()
            };
            for (section, name, value) in values {
                let field = field(section, &name);
                assert!(
                    field.choices.is_empty() || value.is_empty() || field.choices.contains(&value),
                    "{section}.{name} = {value}"
                );
                assert!(!value.is_empty() || field.optional || field.many || name == "sample_prompt", "{section}.{name}");
            }
        }
    }
}
