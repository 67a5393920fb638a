//! The results of a story's steps, by name.
//!
//! For a training run, `run.METRIC` is the newest value of a curve, such as `run.eval_loss`; `run.EVENT.field.field` is a field of the
//! newest event of a kind, such as `run.Greedy.interval.0` (evaluations: `Greedy` and `Sampled`); and
//! `run.path step seconds rescues spikes`. A name can have a statistic: `@first`, `@last`, `@least`, `@most`, `@mean`, `@early` and `@late`
//! (means of the first and last quarter), or a step, `@100` (the newest value up to it). For rows, `step.path`, and `step.0.field` for the
//! first few. For other steps, `step.field.field` of the JSON that they print.

use super::compare::{Comparison, PairedDifference};
use super::script::StepKind;
use super::templates;
use crate::history::{Axis, Curve, History, RunFiles, RunState, chart_spec};
use crate::number_format::visible;
use crate::run_folder::checkpoints;
use anyhow::{Context as _, Result, bail, ensure};
use minijinja::value::{Object, Value as Jinja};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Event kinds that texts may use.
const EVENTS: &[&str] =
    &["Started", "Finished", "Tokens", "Greedy", "Sampled", "Rescue", "Merged", "Sample", "Predictions", "Norms"];
/// Other facts of a run.
const OF_RUNS: &[&str] = &["path", "step", "seconds", "rescues", "spikes", "vocab_size"];
/// Metrics that are in no chart.
const MORE_METRICS: &[&str] = &["mfu"];
/// Number of rows of a file that texts may use.
const FIRST_ROWS: usize = 8;
const STATISTICS: &[&str] = &["first", "last", "least", "most", "mean", "early", "late"];

/// The value of a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A number.
    Number(f64),
    /// Untrusted text.
    Text(String),
}

/// Everything that texts may name: results of steps, values and comparisons of them, and parameters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    outcomes: BTreeMap<String, Arc<StepOutcome>>,
    values: BTreeMap<String, String>,
    comparisons: BTreeMap<String, Comparison>,
    parameters: BTreeMap<String, String>,
}

impl Facts {
    /// With these values and comparisons.
    pub fn new(
        values: &BTreeMap<String, String>,
        comparisons: &BTreeMap<String, Comparison>,
        parameters: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let (values, comparisons) = (values.clone(), comparisons.clone());
        Self { outcomes: BTreeMap::new(), values, comparisons, parameters: parameters.collect() }
    }

    /// Add the result of a step.
    pub fn add(&mut self, step: &str, outcome: impl Into<Arc<StepOutcome>>) {
        self.outcomes.insert(step.to_owned(), outcome.into());
    }

    /// Define a name for an expression.
    #[cfg(test)]
    pub fn name(&mut self, name: &str, expression: &str) {
        self.values.insert(name.to_owned(), expression.to_owned());
    }

    /// For the template engine.
    pub fn value(&self) -> Jinja {
        Jinja::from_object(self.clone())
    }

    /// The result of a comparison.
    ///
    /// # Errors
    /// A list is missing.
    pub fn difference(&self, name: &str) -> Result<PairedDifference> {
        let comparison = self.comparisons.get(name).with_context(|| format!("{name}: is not a comparison of this story"))?;
        let list = |path: &str| {
            let (step, path) = path.split_once('.').with_context(|| format!("{path}: is not a list of a step"))?;
            self.outcomes.get(step).with_context(|| format!("{step}: has not been run"))?.list(path)
        };
        Ok(PairedDifference::of(&list(&comparison.before)?, &list(&comparison.after)?, comparison.lower_is_better))
    }

    fn find(&self, name: &str) -> Option<Result<Jinja>> {
        if let Some(outcome) = self.outcomes.get(name) {
            return Some(Ok(Jinja::from_object(OutcomeObject(outcome.clone()))));
        }
        if let Some(expression) = self.values.get(name) {
            return Some(templates::evaluate(expression, self.value()).map_err(|e| anyhow::anyhow!("{name}: {e}")));
        }
        if self.comparisons.contains_key(name) {
            return Some(self.difference(name).map(|d| d.value()));
        }
        self.parameters.get(name).map(|text| Ok(text.parse::<i64>().map_or_else(|_| Jinja::from(text.as_str()), Jinja::from)))
    }
}

impl Object for Facts {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let name = key.as_str()?;
        // The engine looks up its own functions here first.
        let unknown = || {
            (!templates::FUNCTIONS.contains(&name))
                .then(|| Err(anyhow::anyhow!("{name}: is not a value of this story at this point")))
        };
        self.find(name).or_else(unknown).map(or_error)
    }
}

/// The result of a step, for the template engine.
#[derive(Debug)]
struct OutcomeObject(Arc<StepOutcome>);

impl Object for OutcomeObject {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        Some(or_error(self.0.value(&key.to_string())))
    }
}

/// A value that fails with a message when it is used.
fn or_error(value: Result<Jinja>) -> Jinja {
    value.unwrap_or_else(|error| Jinja::from(Error::new(ErrorKind::UndefinedError, format!("{error:#}"))))
}

/// JSON for the engine; null becomes NaN.
fn value_of(json: &Value) -> Jinja {
    match json {
        Value::Array(list) => Jinja::from(list.iter().map(value_of).collect::<Vec<_>>()),
        Value::Object(map) => {
            Jinja::from(map.iter().map(|(key, value)| (key.clone(), value_of(value))).collect::<BTreeMap<_, _>>())
        }
        leaf => match leaf_of(leaf) {
            Fact::Number(_) if leaf.is_i64() => Jinja::from(leaf.as_i64().unwrap_or_default()),
            Fact::Number(n) => Jinja::from(n),
            Fact::Text(text) => Jinja::from(visible(&text)),
        },
    }
}

/// The result of a step.
#[derive(Debug)]
pub enum StepOutcome {
    /// A training run.
    Run(Box<RunFiles>),
    /// A file of rows, and the first of them.
    Rows(PathBuf, Value),
    /// Printed JSON.
    Printed(Value),
}

/// Check that a step of this kind can have a fact.
///
/// # Errors
/// It cannot, with the reason.
pub fn check_name(kind: StepKind, fact: &str) -> Result<()> {
    if matches!(kind, StepKind::Folder | StepKind::Json) {
        // Known only after the run.
        return Ok(());
    }
    let (name, statistic) = parts(fact)?;
    match kind {
        StepKind::Rows => {
            let is_field = name.split_once('.').is_some_and(|(n, _)| n.parse::<usize>().is_ok_and(|n| n < FIRST_ROWS));
            ensure!(
                statistic.is_empty() && (name == "path" || is_field),
                "of rows there are their path and the first {FIRST_ROWS}"
            );
        }
        _ => {
            let event = name.split('.').next().unwrap_or_default();
            let is_event = event.starts_with(|c: char| c.is_ascii_uppercase());
            ensure!(
                !is_event || EVENTS.contains(&event),
                "{event} is not an event that can be asked for; known: {}",
                EVENTS.join(", ")
            );
            let fits = |pattern: &&str| pattern.strip_suffix('*').map_or(*pattern == name, |start| name.starts_with(start));
            let is_metric = chart_spec::CHARTS.iter().flat_map(|c| c.metrics).chain(MORE_METRICS).any(fits);
            ensure!(is_event || is_metric || OF_RUNS.contains(&name), "{name} is neither a metric of a chart nor a known fact");
            ensure!(statistic.is_empty() || is_event || is_metric, "{name} has no statistics");
        }
    }
    Ok(())
}

/// The name, and the statistic after `@`.
fn parts(fact: &str) -> Result<(&str, &str)> {
    let (name, statistic) = fact.split_once('@').unwrap_or((fact, ""));
    let known = statistic.is_empty() || STATISTICS.contains(&statistic) || statistic.parse::<u64>().is_ok();
    ensure!(
        known && (statistic.is_empty() != fact.contains('@')),
        "@{statistic}: is not a statistic; known: {}",
        STATISTICS.join(", ")
    );
    Ok((name, statistic))
}

impl StepOutcome {
    /// The value of a fact.
    ///
    /// # Errors
    /// It is not available.
    pub fn fact(&self, fact: &str) -> Result<Fact> {
        if let Self::Printed(value) = self {
            return field(value, fact);
        }
        let (name, statistic) = parts(fact)?;
        match self {
            Self::Rows(path, _) if name == "path" => Ok(Fact::Text(crate::vfs::display_path(path))),
            Self::Rows(_, rows) => field(rows, name),
            Self::Printed(value) => field(value, fact),
            Self::Run(run) if name == "path" => Ok(Fact::Text(crate::vfs::display_path(&run.path))),
            Self::Run(run) if name == "vocab_size" => vocab_size(run),
            Self::Run(run) => of_run(&run.history, name, statistic),
        }
    }
}

impl StepOutcome {
    /// A fact, or a part of the printed JSON.
    fn value(&self, key: &str) -> Result<Jinja> {
        match self.fact(key) {
            Ok(Fact::Number(n)) if n.fract() == 0.0 && n.abs() < 1e15 => Ok(Jinja::from(n as i64)),
            Ok(Fact::Number(n)) => Ok(Jinja::from(n)),
            Ok(Fact::Text(text)) => Ok(Jinja::from(visible(&text))),
            Err(error) => match self {
                Self::Printed(value) | Self::Rows(_, value) => Ok(value_of(find(value, key)?)),
                Self::Run(run) if EVENTS.contains(&key) => newest(&run.history, key).map(|event| value_of(&event)),
                Self::Run(_) => Err(error),
            },
        }
    }

    /// A list of numbers in the printed JSON.
    fn list(&self, path: &str) -> Result<Vec<f64>> {
        let Self::Printed(value) = self else { bail!("{path}: only what is printed holds lists") };
        let Value::Array(list) = find(value, path)? else { bail!("{path}: is not a list") };
        Ok(list.iter().map(|item| item.as_f64().unwrap_or(f64::NAN)).collect())
    }
}

/// Vocabulary size of the run's newest model.
fn vocab_size(run: &RunFiles) -> Result<Fact> {
    let (_, folder) = run.history.checkpoints.last().context("the run has saved nothing")?;
    let folder = checkpoints::folder(&run.path).join(folder.file_name().unwrap_or_default());
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    field(&config, "vocab_size")
}

/// The first rows of a file.
///
/// # Errors
/// It cannot be read.
pub fn first_rows(path: &Path) -> Result<Value> {
    let file = std::io::BufReader::new(std::fs::File::open(path)?);
    let lines: Vec<String> = file.lines().take(FIRST_ROWS).collect::<Result<_, _>>()?;
    Ok(Value::Array(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// Printed JSON: a value, or a list of them, one per line.
///
/// # Errors
/// It cannot be read, or is not JSON.
pub fn printed(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| crate::vfs::display_path(path))?;
    let lines = text.lines().filter(|l| !l.trim().is_empty()).map(serde_json::from_str);
    let mut values: Vec<Value> =
        lines.collect::<Result<_, _>>().with_context(|| format!("{}: is not JSON", crate::vfs::display_path(path)))?;
    Ok(if values.len() == 1 { values.remove(0) } else { Value::Array(values) })
}

fn of_run(run: &History, name: &str, statistic: &str) -> Result<Fact> {
    let number = |n: f64| Ok(Fact::Number(n));
    match name {
        "step" => return number(run.step as f64),
        "seconds" => return number(run.seconds()),
        "rescues" => return number(run.rescues.len() as f64),
        "spikes" => {
            let RunState::Finished(f) = &run.state else { bail!("the run has not ended") };
            return number(f.spikes as f64);
        }
        _ => {}
    }
    if name.starts_with(|c: char| c.is_ascii_uppercase()) {
        let (event, path) = name.split_once('.').unwrap_or((name, ""));
        return of_events(run, event, path, statistic);
    }
    let curve = run.curves.get(name).with_context(|| format!("the run has no {name}"))?;
    number(of_curve(run, curve, statistic)?)
}

fn of_curve(run: &History, curve: &Curve, statistic: &str) -> Result<f64> {
    if let Ok(step) = statistic.parse::<f64>() {
        let at = curve.rows().iter().rposition(|row| run.clock.at(Axis::Steps, *row) <= step);
        return Ok(curve.values()[at.with_context(|| format!("there is no value by step {step}"))?]);
    }
    summary(curve.values(), statistic)
}

fn summary(values: &[f64], statistic: &str) -> Result<f64> {
    let (Some(first), Some(last)) = (values.first(), values.last()) else { bail!("there is no value") };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let quarter = values.len().div_ceil(4);
    Ok(match statistic {
        "first" => *first,
        "least" => values.iter().copied().fold(f64::NAN, f64::min),
        "most" => values.iter().copied().fold(f64::NAN, f64::max),
        "mean" => mean(values),
        "early" => mean(&values[..quarter]),
        "late" => mean(&values[values.len() - quarter..]),
        _ => *last,
    })
}

/// All events of a kind.
fn events_of(run: &History, event: &str) -> Result<Vec<Value>> {
    let task_evals = |greedy: bool| json(run.task_evals.iter().filter(move |e| (e.temperature == 0.0) == greedy));
    match event {
        "Started" => json(run.started.iter()),
        "Finished" => json([&run.state].into_iter().filter_map(|s| if let RunState::Finished(f) = s { Some(f) } else { None })),
        "Tokens" => json(run.tokens.iter()),
        "Greedy" => task_evals(true),
        "Sampled" => task_evals(false),
        "Rescue" => json(run.rescues.iter()),
        "Merged" => json(run.merges.iter()),
        "Sample" => json(run.samples.iter()),
        "Predictions" => json(run.predictions.iter()),
        "Norms" => json(run.norms.iter()),
        _ => bail!("{event}: is not an event that can be asked for"),
    }
}

/// The newest event of a kind.
fn newest(run: &History, event: &str) -> Result<Value> {
    events_of(run, event)?.pop().with_context(|| format!("the run has no event {event}"))
}

fn of_events(run: &History, event: &str, path: &str, statistic: &str) -> Result<Fact> {
    let events = events_of(run, event)?;
    let by_then = |step: f64| events.iter().rfind(|e| e["step"].as_f64().is_some_and(|s| s <= step));
    let one = match statistic {
        "" | "last" => events.last(),
        "first" => events.first(),
        other => match other.parse() {
            Ok(step) => by_then(step),
            Err(_) => {
                // Events without the field (a step without a probe) are ignored.
                let numbers: Vec<f64> = events.iter().filter_map(|e| field(e, path).ok()).filter_map(finite).collect();
                return Ok(Fact::Number(summary(&numbers, statistic).with_context(|| format!("{event}.{path}"))?));
            }
        },
    };
    field(one.with_context(|| format!("the run has no event {event}"))?, path)
}

fn finite(fact: Fact) -> Option<f64> {
    if let Fact::Number(n) = fact { Some(n).filter(|n| n.is_finite()) } else { None }
}

fn json<'a, T: Serialize + 'a>(events: impl Iterator<Item = &'a T>) -> Result<Vec<Value>> {
    Ok(events.map(serde_json::to_value).collect::<Result<_, _>>()?)
}

/// The value at a path: names and indices (`-1` is the last), joined by dots.
fn find<'a>(value: &'a Value, path: &str) -> Result<&'a Value> {
    let mut at = value;
    let mut rest = path;
    while !rest.is_empty() {
        // Names may contain dots (`layers.0`): the longest match is used.
        let cuts = std::iter::once(rest.len()).chain(rest.rmatch_indices('.').map(|(i, _)| i));
        let found = cuts.map(|cut| (&rest[..cut], rest[cut..].trim_start_matches('.'))).find_map(|(name, after)| {
            let inner = match at {
                Value::Array(list) => match name.parse::<isize>() {
                    Ok(i) if i < 0 => list.len().checked_sub(i.unsigned_abs()).map(|i| &list[i]),
                    Ok(i) => list.get(i as usize),
                    Err(_) => None,
                },
                other => other.get(name),
            };
            Some((inner?, after))
        });
        (at, rest) = found.with_context(|| format!("there is no {path}"))?;
    }
    Ok(at)
}

/// A field of JSON by its path.
fn field(value: &Value, path: &str) -> Result<Fact> {
    match find(value, path)? {
        Value::Array(_) | Value::Object(_) => bail!("{path}: is neither a number nor text"),
        leaf => Ok(leaf_of(leaf)),
    }
}

fn leaf_of(value: &Value) -> Fact {
    match value {
        Value::Number(n) => Fact::Number(n.as_f64().unwrap_or(f64::NAN)),
        Value::Bool(b) => Fact::Number(f64::from(u8::from(*b))),
        // Non-finite numbers are stored as text.
        Value::String(s) if s == "Infinity" || s == "inf" => Fact::Number(f64::INFINITY),
        Value::String(s) if s != "NaN" => Fact::Text(s.clone()),
        _ => Fact::Number(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Sample, Step, TaskEval};
    use serde_json::json;

    fn number(fact: Result<Fact>) -> f64 {
        match fact {
            Ok(Fact::Number(n)) => n,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn curves_and_events_of_a_run_are_found_by_name() {
        let mut run = History::default();
        for (step, loss) in [(1, 4.0), (2, 1.0), (3, 2.0), (4, 3.0)] {
            run.push(Event::Step(Step { step, loss, ..Step::default() }));
        }
        let evaluation = |step, temperature, accuracy| {
            let mut e = TaskEval { step, temperature, ..TaskEval::default() };
            e.all.accuracy = accuracy;
            e.all.interval = [accuracy - 0.1, accuracy + 0.1];
            Event::TaskEval(e)
        };
        [evaluation(0, 0.0, 0.2), evaluation(0, 1.0, 0.1), evaluation(4, 0.0, 0.5)].into_iter().for_each(|e| run.push(e));
        run.push(Event::Sample(Sample { step: 4, text: "hello".into(), ..Sample::default() }));
        for (name, want) in [
            ("loss", 3.0),
            ("loss@first", 4.0),
            ("loss@least", 1.0),
            ("loss@most", 4.0),
            ("loss@mean", 2.5),
            ("loss@early", 4.0),
            ("loss@late", 3.0),
            ("loss@2", 1.0),
            ("step", 4.0),
            ("Greedy.accuracy", 0.5),
            ("Greedy.accuracy@first", 0.2),
            ("Greedy.accuracy@3", 0.2),
            ("Greedy.accuracy@mean", 0.35),
            ("Greedy.interval.1", 0.6),
            ("Greedy.interval.-2", 0.4),
            ("Sampled.accuracy", 0.1),
        ] {
            let (name, statistic) = parts(name).unwrap();
            assert!((number(of_run(&run, name, statistic)) - want).abs() < 1e-12, "{name}@{statistic}");
        }
        assert_eq!(of_run(&run, "Sample.text", "").unwrap(), Fact::Text("hello".into()));
        for gone in ["reward", "Rescue.step", "Greedy.colour", "spikes", "Greedy"] {
            assert!(of_run(&run, gone, "").is_err(), "{gone}");
        }
    }

    #[test]
    fn printed_fields_are_found_through_names_with_dots() {
        let value = json!({"a": {"b.c": [1, {"d": "NaN"}], "b": 3}, "t": true});
        assert_eq!(number(field(&value, "a.b.c.0")), 1.0);
        assert_eq!(number(field(&value, "a.b")), 3.0);
        assert_eq!(number(field(&value, "t")), 1.0);
        assert!(number(field(&value, "a.b.c.1.d")).is_nan());
        assert!(field(&value, "a").is_err() && field(&value, "a.x").is_err() && field(&value, "a.b.c.7").is_err());
    }

    #[test]
    fn names_that_nothing_makes_are_refused() {
        use StepKind::{Json, Rows, Trainer};
        for good in
            ["eval_loss", "merge/sma/eval_loss@first", "Tokens.quartiles.all.share.0@mean", "grad_norm/low", "path", "loss@10"]
        {
            check_name(Trainer, good).unwrap();
        }
        for bad in ["evalloss", "Token.x", "loss@middle", "path@first", "loss@"] {
            assert!(check_name(Trainer, bad).is_err(), "{bad}");
        }
        assert!(check_name(Rows, "path").is_ok() && check_name(Rows, "0.text").is_ok());
        assert!(check_name(Rows, "x").is_err() && check_name(Rows, "9.text").is_err());
        assert!(check_name(Json, "a.pass@.4").is_ok());
    }
}
