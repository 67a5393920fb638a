//! A story as defined by its file: scenes of text, a question, commands to run, charts to watch, and texts about the results.
//!
//! Files are TOML; unknown fields are errors, and so are names in braces that no step of the story defines.

use super::compare::{Comparison, FIELDS};
use super::facts::check_name;
use super::templates::{FactName, fact_names, names_of_expression};
use crate::config::UsageError;
use crate::history::chart_spec;
use crate::number_format::{did_you_mean, one_line};
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A story.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    /// Its name on the command line, equal to the file name.
    #[serde(skip)]
    pub name: String,
    /// Its title.
    pub title: String,
    /// A one-line summary.
    pub about: String,
    /// Shared steps, by the name of their file; they are run once and kept.
    #[serde(default)]
    pub start: Option<String>,
    /// Text files that are written into the story's folder first: name to content; `@stories` is the included text.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Named expressions, usable in all texts after the runs that they depend on.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Comparisons on the same questions, by name.
    #[serde(default)]
    pub compare: BTreeMap<String, Comparison>,
    /// Parameters that the reader may change, by name: `{name}` in command lines.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// The scenes, in order.
    #[serde(rename = "scene")]
    pub scenes: Vec<StoryScene>,
}

/// A part of a story: read, predict, run, look, understand.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryScene {
    /// Its title.
    pub title: String,
    /// Text before the run.
    #[serde(default)]
    pub text: String,
    /// Question before the run.
    #[serde(default)]
    pub question: Option<StoryQuestion>,
    /// Commands to run.
    #[serde(default, rename = "step")]
    pub steps: Vec<StoryStep>,
    /// Charts and panels during the run and after it.
    #[serde(default)]
    pub watch: Vec<WatchItem>,
    /// Text after the run.
    #[serde(default)]
    pub results: Vec<ConditionalText>,
    /// A table of results, after the run.
    #[serde(default)]
    pub table: Option<StoryTable>,
    /// Text after the table.
    #[serde(default)]
    pub closing: Vec<ConditionalText>,
}

/// A prediction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryQuestion {
    /// The question.
    pub ask: String,
    /// Possible answers; none for an open question.
    #[serde(default)]
    pub choices: Vec<String>,
    /// An expression for the letter of the right choice (`"'b'"`), `?` if this run does not decide it, empty if none of them fits.
    #[serde(default)]
    pub right: Option<String>,
    /// For each choice, why it is wrong, which may depend on the results; empty for one that is always right.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The answer after the run.
    pub answer: Vec<ConditionalText>,
}

/// Text that may depend on the results: `say` with or without a condition, or three texts selected by a comparison.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditionalText {
    /// The condition of `say`; none means always.
    pub when: Option<String>,
    /// The text.
    pub say: Option<String>,
    /// The text if the condition is false.
    pub otherwise: Option<String>,
    /// A comparison that selects one of the next three.
    pub by: Option<String>,
    /// The text for an improvement.
    pub better: Option<String>,
    /// The text for a deterioration.
    pub worse: Option<String>,
    /// The text if the interval includes zero, or rests on too few pairs.
    pub inconclusive: Option<String>,
}

/// A parameter that the reader may change before a scene is run, and again after it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its label.
    pub label: String,
    /// Its value.
    pub value: String,
    /// Possible values.
    pub choices: Vec<String>,
}

/// Shared steps.
const STARTS: &[(&str, &str)] = &[("puzzles", include_str!("../../assets/lessons/common/puzzles.toml"))];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedSteps {
    step: Vec<StoryStep>,
}

/// Read shared steps, by the name of their file.
fn shared_start(name: &str) -> Result<Vec<StoryStep>> {
    let (_, text) = STARTS.iter().find(|(known, _)| *known == name).with_context(|| format!("there is no start {name:?}"))?;
    let start: SharedSteps = toml::from_str(text).map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
    Ok(start.step.into_iter().map(|step| StoryStep { shared: true, ..step }).collect())
}

impl ConditionalText {
    /// All texts of the question.
    fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.say, &self.otherwise, &self.better, &self.worse, &self.inconclusive].into_iter().flatten().map(String::as_str)
    }

    /// Check that its fields are consistent.
    fn check(&self, story: &Story) -> Result<()> {
        let branches = [&self.better, &self.worse, &self.inconclusive];
        let Some(by) = &self.by else {
            ensure!(self.say.is_some(), "words without say");
            ensure!(branches.iter().all(|b| b.is_none()), "better, worse and inconclusive need by");
            ensure!(self.otherwise.is_none() || self.when.is_some(), "{:?}: otherwise without when", self.say);
            return Ok(());
        };
        ensure!(story.compare.contains_key(by), "by = {by:?}: is not a comparison of this story");
        ensure!(branches.iter().all(|b| b.is_some()), "by = {by:?}: needs all of better, worse and inconclusive");
        ensure!(
            self.say.is_none() && self.when.is_none() && self.otherwise.is_none(),
            "by = {by:?}: has branches instead of say"
        );
        Ok(())
    }
}

/// A command of lehr.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryStep {
    /// The name for its results: `{name.eval_loss}`. Also the name of a trainer's run folder.
    pub name: String,
    /// Description: "training at a rate of 0.01".
    pub doing: String,
    /// The command line without `lehr` and without flags that the player adds: `--run`, `--out`, `--json`, `--adapter`. `{name}` is the
    /// path of a file or of an earlier step's output, `{seed}` the seed.
    pub run: Vec<String>,
    /// Duration in seconds on two processor cores without a GPU.
    pub seconds: f64,
    /// Flag values for a test run of seconds, without meaningful results.
    #[serde(default)]
    pub quick: BTreeMap<String, String>,
    /// Whether its results are shared by all stories with the same start.
    #[serde(skip)]
    pub shared: bool,
    /// The stem of its file names: its name, and the values of the parameters that it depends on.
    #[serde(skip)]
    pub stem: String,
}

/// Kind of a step, from its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Trains into a run folder.
    Trainer,
    /// Prints rows, which are stored in a file.
    Rows,
    /// Writes a folder and prints JSON.
    Folder,
    /// Prints JSON.
    Json,
}

/// A chart or panel to watch.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchItem {
    /// A chart of [`chart_spec::CHARTS`], by its title.
    #[serde(default)]
    pub chart: Option<String>,
    /// Metrics to show; all if empty.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// A panel of the window: tokens, samples, merge or inside.
    #[serde(default)]
    pub panel: Option<Panel>,
    /// An image file of a step's output: `step/file.svg`.
    #[serde(default)]
    pub picture: Option<String>,
    /// Names of the steps to show; those of the scene if empty.
    #[serde(default)]
    pub runs: Vec<String>,
}

/// A panel of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Panel {
    /// Token statistics.
    Tokens,
    /// Generated text and completions.
    Samples,
    /// Merging.
    Merge,
    /// Attention, logit lens, norms.
    Inside,
}

/// A table of results.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryTable {
    /// Column headings.
    pub head: Vec<String>,
    /// Rows of texts with numbers.
    #[serde(rename = "row")]
    pub rows: Vec<Vec<String>>,
}

impl StoryStep {
    /// Its kind.
    pub fn kind(&self) -> StepKind {
        match self.run.first().map_or("", String::as_str) {
            "pretrain" | "sft" | "grpo" => StepKind::Trainer,
            "data" => StepKind::Rows,
            "landscape" => StepKind::Folder,
            "merge" if self.run.get(1).is_none_or(|word| word != "sweep") => StepKind::Folder,
            _ => StepKind::Json,
        }
    }
}

impl Story {
    /// Parse a story.
    ///
    /// # Errors
    /// One line that states what is wrong and where.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut story: Self = toml::from_str(text).map_err(|e| anyhow::anyhow!("{name}: {}", one_line(&e.to_string())))?;
        story.name = name.to_owned();
        if let Some(start) = &story.start {
            let steps = shared_start(start).with_context(|| format!("{name}: start"))?;
            let scene = story.scenes.iter_mut().find(|s| !s.steps.is_empty());
            let scene = scene.with_context(|| format!("{name}: start {start:?}, but nothing is run"))?;
            scene.steps.splice(0..0, steps);
        }
        story.check().with_context(|| name.to_owned())?;
        story.name_files();
        Ok(story)
    }

    /// Set a parameter; steps that depend on it get new file names.
    ///
    /// # Errors
    /// The parameter does not exist, or the value is not valid.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let known: Vec<&str> = self.parameters.keys().map(String::as_str).collect();
        let hint = if known.is_empty() { "; this lesson has none".to_owned() } else { did_you_mean(name, known) };
        let shown = crate::vfs::clean(name);
        let unknown = || UsageError(format!("--set {shown}: is not a parameter of the lesson{hint}"));
        let parameter = self.parameters.get_mut(name).ok_or_else(unknown)?;
        if !parameter.choices.iter().any(|c| c == value) {
            let (choices, value) = (parameter.choices.join(", "), crate::vfs::clean(value));
            bail!(UsageError(format!("--set {shown}={value}: must be one of {choices}")));
        }
        value.clone_into(&mut parameter.value);
        self.name_files();
        Ok(())
    }

    /// Set each step's stem, from the parameters that it or its inputs depend on.
    fn name_files(&mut self) {
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for step in self.scenes.iter_mut().flat_map(|s| &mut s.steps) {
            let mut own = BTreeSet::new();
            for name in step.run.iter().flat_map(|word| path_names(word).unwrap_or_default()) {
                match used.get(name) {
                    Some(others) => own.extend(others.iter().cloned()),
                    None if self.parameters.contains_key(name) => {
                        own.insert(name.to_owned());
                    }
                    None => {}
                }
            }
            let values = own.iter().map(|name| format!("-{name}{}", self.parameters[name].value));
            step.stem = step.name.clone() + &values.collect::<String>();
            used.insert(step.name.clone(), own);
        }
    }

    /// Seconds of the shared steps, on two processor cores without a GPU.
    pub fn preparation_seconds(&self) -> f64 {
        self.steps().filter(|s| s.shared).map(|s| s.seconds).sum()
    }

    /// The story as a test run.
    #[must_use]
    pub fn quick(mut self) -> Self {
        for step in self.scenes.iter_mut().flat_map(|s| &mut s.steps) {
            let mut flag: Option<String> = None;
            for word in &mut step.run {
                let value = flag.as_ref().and_then(|flag| step.quick.get(flag));
                let next = value.is_none().then(|| word.clone());
                if let Some(value) = value {
                    word.clone_from(value);
                }
                flag = next;
            }
            step.seconds = 1.0;
        }
        self
    }

    /// Every step, in order.
    pub fn steps(&self) -> impl Iterator<Item = &StoryStep> {
        self.scenes.iter().flat_map(|s| &s.steps)
    }

    /// Seconds on two processor cores without a GPU, without the shared steps.
    pub fn seconds(&self) -> f64 {
        self.steps().filter(|s| !s.shared).map(|s| s.seconds).sum()
    }

    /// Check that every name is defined before it is used.
    fn check(&self) -> Result<()> {
        ensure!(!self.scenes.is_empty(), "has no scene");
        let mut paths: BTreeSet<&str> = self.files.keys().map(String::as_str).collect();
        let mut made: BTreeMap<&str, StepKind> = BTreeMap::new();
        paths.insert("seed");
        for (name, parameter) in &self.parameters {
            ensure!(parameter.choices.contains(&parameter.value), "parameter {name}: its value must be one of its choices");
            let is_plain = |c: &String| !c.is_empty() && c.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
            ensure!(parameter.choices.iter().all(is_plain), "parameter {name}: choices are of letters, digits, dots and dashes");
            ensure!(paths.insert(name), "parameter {name}: the name is taken");
        }
        for name in &paths {
            check_word(name)?;
        }
        for scene in &self.scenes {
            let at = || format!("scene {:?}", scene.title);
            check_no_placeholders(&scene.text).with_context(at)?;
            for step in &scene.steps {
                check_word(&step.name).with_context(at)?;
                ensure!(step.seconds > 0.0, "{}: step {}: seconds must be above 0", at(), step.name);
                for word in &step.run {
                    for name in path_names(word).with_context(at)? {
                        ensure!(paths.contains(name), "{}: step {}: {{{name}}}: nothing before makes it", at(), step.name);
                    }
                }
                if let Some(flag) = step.quick.keys().find(|flag| !step.run.contains(flag)) {
                    bail!("{}: step {}: quick: {flag}: is not a flag of the step", at(), step.name);
                }
                ensure!(paths.insert(&step.name), "{}: step {}: the name is taken", at(), step.name);
                made.insert(&step.name, step.kind());
            }
            self.check_words(scene, &made).with_context(at)?;
        }
        for (name, text) in &self.values {
            names_of_expression(text).with_context(|| format!("values: {name}"))?;
        }
        for (name, comparison) in &self.compare {
            for path in [&comparison.before, &comparison.after] {
                let kind = path.split_once('.').and_then(|(step, _)| made.get(step));
                ensure!(
                    matches!(kind, Some(StepKind::Json | StepKind::Folder)),
                    "compare {name}: {path:?} is not a list that a step prints"
                );
            }
        }
        Ok(())
    }

    fn check_words(&self, scene: &StoryScene, made: &BTreeMap<&str, StepKind>) -> Result<()> {
        if let Some(question) = &scene.question {
            ensure!(!question.answer.is_empty(), "the question has no answer");
            check_no_placeholders(&question.ask)?;
            question.choices.iter().try_for_each(|text| check_no_placeholders(text))?;
            ensure!(
                question.reasons.is_empty() || question.reasons.len() == question.choices.len(),
                "question: {} reasons for {} choices",
                question.reasons.len(),
                question.choices.len()
            );
            ensure!(question.right.is_none() || !question.choices.is_empty(), "question: right, but no choices");
        }
        let answers = scene.question.iter().flat_map(|q| &q.answer);
        let conditionals: Vec<&ConditionalText> = answers.chain(&scene.results).chain(&scene.closing).collect();
        conditionals.iter().try_for_each(|s| s.check(self))?;
        let rows = scene.table.iter().flat_map(|table| &table.rows);
        for row in rows.clone() {
            let columns = scene.table.as_ref().map_or(0, |table| table.head.len());
            ensure!(row.len() == columns, "table: a row has {} cells, the head {columns}", row.len());
        }
        let reasons = scene.question.iter().flat_map(|q| &q.reasons);
        let texts = conditionals.iter().flat_map(|s| s.texts()).chain(reasons.chain(rows.flatten()).map(String::as_str));
        for text in texts {
            self.check_names(&fact_names(text)?, made).with_context(|| format!("{text:?}"))?;
        }
        let right = scene.question.iter().filter_map(|q| q.right.as_deref());
        for text in conditionals.iter().filter_map(|s| s.when.as_deref()).chain(right) {
            self.check_names(&names_of_expression(text)?, made).with_context(|| format!("{text:?}"))?;
        }
        scene.watch.iter().try_for_each(|watch| watch.check(made))
    }

    fn check_names(&self, names: &[FactName], made: &BTreeMap<&str, StepKind>) -> Result<()> {
        names.iter().try_for_each(|name| self.check_fact(name, made, 0))
    }

    /// Check a name in a text: one of `values`, a comparison, a parameter, or a fact of an earlier step.
    fn check_fact(&self, name: &FactName, made: &BTreeMap<&str, StepKind>, depth: usize) -> Result<()> {
        let FactName { root, path } = name;
        ensure!(depth < 8, "{root}: is made of itself");
        if let Some(expression) = self.values.get(root) {
            return names_of_expression(expression)?.iter().try_for_each(|name| self.check_fact(name, made, depth + 1));
        }
        if let Some(comparison) = self.compare.get(root) {
            ensure!(FIELDS.contains(&path.as_str()), "{root}.{path}: a comparison has {}", FIELDS.join(", "));
            let steps = [&comparison.before, &comparison.after].map(|path| path.split('.').next().unwrap_or_default());
            let late = steps.iter().find(|step| !made.contains_key(*step));
            return late.map_or(Ok(()), |step| Err(anyhow::anyhow!("{root}: no step {step} has been run by then")));
        }
        if self.parameters.contains_key(root) && path.is_empty() {
            return Ok(());
        }
        ensure!(!path.is_empty(), "{root}: is not a value of this story");
        let Some(kind) = made.get(root.as_str()) else { bail!("{root}.{path}: no step {root} has been run by then") };
        check_name(*kind, path).with_context(|| format!("{root}.{path}"))
    }
}

impl WatchItem {
    /// The specified chart.
    pub fn spec(&self) -> Option<&'static chart_spec::ChartSpec> {
        let title = self.chart.as_deref()?;
        chart_spec::CHARTS.iter().find(|c| c.title == title)
    }

    fn check(&self, made: &BTreeMap<&str, StepKind>) -> Result<()> {
        let kinds = [self.chart.is_some(), self.panel.is_some(), self.picture.is_some()].into_iter().filter(|x| *x).count();
        ensure!(kinds == 1, "watch: needs one of chart, panel, picture");
        for run in &self.runs {
            ensure!(made.get(run.as_str()) == Some(&StepKind::Trainer), "watch: {run:?} is not a training run of this story");
        }
        if let Some(picture) = &self.picture {
            let step = picture.split_once('/').map_or("", |(step, _)| step);
            ensure!(made.get(step) == Some(&StepKind::Folder), "watch: {picture:?}: no step makes it");
        }
        if let Some(title) = &self.chart {
            let Some(chart) = self.spec() else { bail!("watch: there is no chart {title:?}") };
            let fits = |metric: &str, pattern: &str| match pattern.strip_suffix('*') {
                Some(start) => metric.starts_with(start),
                None => metric == pattern,
            };
            for metric in &self.metrics {
                ensure!(
                    chart.metrics.iter().any(|pattern| fits(metric, pattern)),
                    "watch: the chart {title:?} has no metric {metric:?}"
                );
            }
        }
        Ok(())
    }
}

/// The names in braces in an argument.
pub(super) fn path_names(word: &str) -> Result<Vec<&str>> {
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        let Some(end) = rest[at..].find('}') else { bail!("{word:?}: a brace is not closed") };
        out.push(&rest[at + 1..at + end]);
        rest = &rest[at + end + 1..];
    }
    Ok(out)
}

/// Check that text before a run has no placeholders, since there are no numbers yet.
fn check_no_placeholders(text: &str) -> Result<()> {
    let found = fact_names(text)?;
    ensure!(found.is_empty(), "{text:?}: {} stands before the run", found[0].root);
    Ok(())
}

fn check_word(name: &str) -> Result<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(fits, "{name:?}: names are of a-z, 0-9 and _");
    Ok(())
}
