//! A story as its file tells it: scenes of words, a question, commands to run, what to look at, and words about what came out.
//!
//! Files are TOML; an unknown field is an error, and so is a name in a brace that nothing in the story makes.

use super::facts::check_name;
use super::formula::Condition;
use super::text::Template;
use crate::history::spec;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A story.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Story {
    /// What it is called on the command line; the file's name.
    #[serde(skip)]
    pub name: String,
    /// Its title.
    pub title: String,
    /// What one learns from it, in a line.
    pub about: String,
    /// Steps that several stories begin with, by the name of their file; they are run once and kept.
    #[serde(default)]
    pub start: Option<String>,
    /// Texts that are written into the story's folder first: name to content; `@stories` is the text that ships.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Names for numbers, usable in all words after the runs that they are made of.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// One after another.
    #[serde(rename = "scene")]
    pub scenes: Vec<Scene>,
}

/// A part of a story: read, predict, run, look, understand.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// Its title.
    pub title: String,
    /// To be read before the run.
    #[serde(default)]
    pub text: String,
    /// To be answered before the run.
    #[serde(default)]
    pub question: Option<Question>,
    /// What is run.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
    /// What to look at, while it runs and after.
    #[serde(default)]
    pub watch: Vec<Watch>,
    /// What was seen: words after the run.
    #[serde(default)]
    pub seen: Vec<Said>,
    /// Numbers side by side, after the run.
    #[serde(default)]
    pub table: Option<Table>,
    /// Words after the table.
    #[serde(default)]
    pub closing: Vec<Said>,
}

/// Something to predict.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked.
    pub ask: String,
    /// Answers to choose from, if the question has some.
    #[serde(default)]
    pub choices: Vec<String>,
    /// What is said to it after the run.
    pub answer: Vec<Said>,
}

/// Words that may depend on what came out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Said when this holds; always without it.
    #[serde(default)]
    pub when: Option<String>,
    /// The words.
    pub say: String,
    /// Said when it does not hold.
    #[serde(default)]
    pub otherwise: Option<String>,
}

/// A command of lehr.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What its results are called: `{name.eval_loss}`. A trainer's run folder has this name too.
    pub name: String,
    /// What it does, in words: "training at a rate of 0.01".
    pub doing: String,
    /// The command line without `lehr`, and without what the player adds: `--run`, `--out`, `--json`, `--adapter`. `{name}` is the path of
    /// a file or of what an earlier step made, `{seed}` the seed.
    pub run: Vec<String>,
    /// Seconds that it takes on two processor cores without a GPU.
    pub seconds: f64,
    /// Values of flags for a rehearsal of seconds, whose numbers mean nothing.
    #[serde(default)]
    pub quick: BTreeMap<String, String>,
    /// Its results are kept for all stories with the same start.
    #[serde(skip)]
    pub shared: bool,
}

/// What a command is to the player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Trains into a run folder.
    Trainer,
    /// Prints rows, which are kept as a file.
    Rows,
    /// Writes a folder and prints JSON.
    Folder,
    /// Prints JSON.
    Json,
}

/// Something to look at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// A chart of [`spec::CHARTS`], by its title.
    #[serde(default)]
    pub chart: Option<String>,
    /// Only these metrics of it; all when empty.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// A panel of the window: tokens, samples, merge or inside.
    #[serde(default)]
    pub panel: Option<Panel>,
    /// A picture that a step makes: `step/file.svg`.
    #[serde(default)]
    pub picture: Option<String>,
    /// Whose: names of steps; those of the scene when empty.
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

/// Numbers side by side.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Heads of the columns.
    pub head: Vec<String>,
    /// Rows: words with numbers put in.
    #[serde(rename = "row")]
    pub rows: Vec<Vec<String>>,
}

impl Step {
    /// What it is to the player.
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
    /// Read a story.
    ///
    /// # Errors
    /// One line that says what is wrong and where.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut story: Self = toml::from_str(text).map_err(|e| anyhow::anyhow!("{name}: {}", one_line(&e.to_string())))?;
        story.name = name.to_owned();
        if let Some(start) = &story.start {
            let steps = super::library::start(start).with_context(|| format!("{name}: start"))?;
            let scene = story.scenes.iter_mut().find(|s| !s.steps.is_empty());
            let scene = scene.with_context(|| format!("{name}: start {start:?}, but nothing is run"))?;
            scene.steps.splice(0..0, steps);
        }
        story.check().with_context(|| name.to_owned())?;
        Ok(story)
    }

    /// The same as a rehearsal.
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
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.scenes.iter().flat_map(|s| &s.steps)
    }

    /// Minutes on two processor cores without a GPU, the start included.
    pub fn minutes(&self) -> f64 {
        self.steps().map(|s| s.seconds).sum::<f64>() / 60.0
    }

    /// Whether every name is made by something before it is used.
    fn check(&self) -> Result<()> {
        ensure!(!self.scenes.is_empty(), "has no scene");
        let mut paths: BTreeSet<&str> = self.files.keys().map(String::as_str).collect();
        let mut made: BTreeMap<&str, StepKind> = BTreeMap::new();
        paths.insert("seed");
        for name in &paths {
            check_word(name)?;
        }
        for scene in &self.scenes {
            let at = || format!("scene {:?}", scene.title);
            no_places(&scene.text).with_context(at)?;
            for step in &scene.steps {
                check_word(&step.name).with_context(at)?;
                ensure!(step.seconds > 0.0, "{}: step {}: seconds must be above 0", at(), step.name);
                for word in &step.run {
                    for name in path_names(word).with_context(at)? {
                        ensure!(paths.contains(name), "{}: step {}: {{{name}}}: nothing before makes it", at(), step.name);
                    }
                }
                if let Some(flag) = step.quick.keys().find(|flag| !step.run.contains(flag)) {
                    bail!("{}: step {}: quick: {flag}: is no flag of the step", at(), step.name);
                }
                ensure!(paths.insert(&step.name), "{}: step {}: the name is taken", at(), step.name);
                made.insert(&step.name, step.kind());
            }
            self.check_words(scene, &made).with_context(at)?;
        }
        let unused = self.values.values().find_map(|text| super::formula::Formula::parse(text).err());
        unused.map_or(Ok(()), |error| Err(error.context("values")))
    }

    fn check_words(&self, scene: &Scene, made: &BTreeMap<&str, StepKind>) -> Result<()> {
        let mut texts: Vec<&str> = Vec::new();
        let mut conditions: Vec<&str> = Vec::new();
        let question = scene.question.iter().inspect(|q| texts.extend([q.ask.as_str()]));
        let answers: Vec<&Said> = question.flat_map(|q| &q.answer).collect();
        ensure!(scene.question.is_none() || !answers.is_empty(), "the question has no answer");
        for text in texts.drain(..).chain(scene.question.iter().flat_map(|q| q.choices.iter().map(String::as_str))) {
            no_places(text)?;
        }
        for said in answers.into_iter().chain(&scene.seen).chain(&scene.closing) {
            ensure!(said.otherwise.is_none() || said.when.is_some(), "{:?}: otherwise without when", said.say);
            texts.push(&said.say);
            texts.extend(said.otherwise.as_deref());
            conditions.extend(said.when.as_deref());
        }
        if let Some(table) = &scene.table {
            for row in &table.rows {
                ensure!(row.len() == table.head.len(), "table: a row has {} cells, the head {}", row.len(), table.head.len());
                texts.extend(row.iter().map(String::as_str));
            }
        }
        for text in texts {
            let template = Template::parse(text).with_context(|| format!("{text:?}"))?;
            template
                .names()
                .into_iter()
                .try_for_each(|name| self.check_fact(name, made, 0))
                .with_context(|| format!("{text:?}"))?;
        }
        for text in conditions {
            let condition = Condition::parse(text)?;
            condition
                .names()
                .into_iter()
                .try_for_each(|name| self.check_fact(name, made, 0))
                .with_context(|| format!("{text:?}"))?;
        }
        scene.watch.iter().try_for_each(|watch| watch.check(made))
    }

    /// A name in words: one of `values`, or `step.fact` of a step that has been run by then.
    fn check_fact(&self, name: &str, made: &BTreeMap<&str, StepKind>, depth: usize) -> Result<()> {
        ensure!(depth < 8, "{name}: is made of itself");
        if let Some(formula) = self.values.get(name) {
            let formula = super::formula::Formula::parse(formula).with_context(|| name.to_owned())?;
            return formula.names().into_iter().try_for_each(|name| self.check_fact(name, made, depth + 1));
        }
        let Some((step, fact)) = name.split_once('.') else { bail!("{name}: is no value of this story") };
        let Some(kind) = made.get(step) else { bail!("{name}: no step {step} has been run by then") };
        check_name(*kind, fact).with_context(|| name.to_owned())
    }
}

impl Watch {
    /// The chart that is meant.
    pub fn spec(&self) -> Option<&'static spec::Spec> {
        let title = self.chart.as_deref()?;
        spec::CHARTS.iter().find(|c| c.title == title)
    }

    fn check(&self, made: &BTreeMap<&str, StepKind>) -> Result<()> {
        let kinds = [self.chart.is_some(), self.panel.is_some(), self.picture.is_some()].into_iter().filter(|x| *x).count();
        ensure!(kinds == 1, "watch: needs one of chart, panel, picture");
        for run in &self.runs {
            ensure!(made.get(run.as_str()) == Some(&StepKind::Trainer), "watch: {run:?} is no training run of this story");
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

/// The names in braces of a word of a command line.
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

/// Words before a run, where there are no numbers yet.
fn no_places(text: &str) -> Result<()> {
    let names =
        Template::parse(text).with_context(|| format!("{text:?}"))?.names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    ensure!(names.is_empty(), "{text:?}: {{{}}} stands before the run", names[0]);
    Ok(())
}

fn check_word(name: &str) -> Result<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(fits, "{name:?}: names are of a-z, 0-9 and _");
    Ok(())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}
