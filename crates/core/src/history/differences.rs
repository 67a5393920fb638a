//! Differences between the settings of runs.

use crate::config::Settings;
use toml::{Table, Value};

/// A setting that differs between runs.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingDifference {
    /// `section.field`.
    pub name: String,
    /// Its value in each run, as written in config.toml; empty if a run does not have it.
    pub values: Vec<String>,
}

/// Settings that differ between these runs, by section. Origin and location of a run are ignored.
pub fn differences(runs: &[Option<&Settings>]) -> Vec<SettingDifference> {
    let flat: Vec<Vec<(String, String)>> = runs.iter().map(|settings| settings.map(flatten).unwrap_or_default()).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in flat.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // A field that only a later run has is listed with its section.
    let section = |name: &str| name.split_once('.').map_or(name, |(section, _)| section).to_owned();
    let mut sections: Vec<String> = Vec::new();
    for name in &names {
        if !sections.contains(&section(name)) {
            sections.push(section(name));
        }
    }
    names.sort_by_key(|name| sections.iter().position(|s| *s == section(name)));
    let value =
        |run: &[(String, String)], name: &str| run.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    let all = names
        .into_iter()
        .map(|name| SettingDifference { name: name.clone(), values: flat.iter().map(|run| value(run, name)).collect() });
    let mut found: Vec<SettingDifference> = all.filter(|d| d.values.iter().any(|v| *v != d.values[0])).collect();
    // The parent is what --fork or --init names, resolved when the run started.
    if found.iter().any(|d| d.name == "start.fork" || d.name == "start.init") {
        found.retain(|d| d.name != "start.parent");
    }
    found
}

fn flatten(settings: &Settings) -> Vec<(String, String)> {
    let Ok(Value::Table(sections)) = Value::try_from(settings) else { return Vec::new() };
    let of = |(section, fields): (String, Value)| {
        let fields: Table = fields.as_table().cloned().unwrap_or_default();
        fields.into_iter().map(move |(name, value)| (format!("{section}.{name}"), plain(&value)))
    };
    sections.into_iter().flat_map(of).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_listed() {
        let a = Settings::default();
        let mut b = a.clone();
        b.train.learning_rate = 0.5;
        b.model.head_dim = Some(7);
        let found = differences(&[Some(&a), Some(&b)]);
        let names: Vec<&str> = found.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["model.head_dim", "train.learning_rate"]);
        assert_eq!(found[1].values, ["0.001", "0.5"]);
        assert!(differences(&[Some(&a), Some(&a), None]).iter().all(|d| d.values[2].is_empty()));
        assert!(differences(&[Some(&a)]).is_empty());
    }
}
