//! A run for the page: its files, a unique name, and curves derived from its token statistics.

use crate::event::{Event, Merged, Number, Step};
use crate::history::chart_spec::ChartSpec;
use crate::history::{Axis, History, RunFiles, find_runs};
use crate::vfs::display_path;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A run in a report.
pub(super) struct ReportRun {
    pub files: RunFiles,
    pub name: String,
    /// Index of its colour.
    pub hue: usize,
    /// Metrics for [`MORE`].
    pub derived: History,
}

/// Charts of the effect of reinforcement and supervised learning on low-probability tokens, over steps.
pub(super) const MORE: &[ChartSpec] = &[
    ChartSpec {
        title: "Improbable tokens",
        y: "share",
        metrics: &["tokens below 0.25", "gradient below 0.25"],
        log_y: false,
        range: Some((0.0, 1.0)),
        hint: "Sampled tokens that the model gave a probability below 0.25: their share of all tokens, and of the sum of the \
               gradients' sizes. Improbable tokens are few and have a large share of the gradient.",
    },
    ChartSpec {
        title: "Moved in the right direction",
        y: "share of tokens",
        metrics: &["p in [0, 0.25)", "p in [0.25, 0.5)", "p in [0.5, 0.75)", "p in [0.75, 1]"],
        log_y: false,
        range: Some((0.0, 1.0)),
        hint: "Of the tokens that a step moved, those whose probability rose with a positive advantage or fell with a negative one, by \
               their probability before the step. 0.5 is chance.",
    },
    ChartSpec {
        title: "Unexpected held-out tokens",
        y: "share",
        metrics: &["held-out tokens below 0.25", "loss below 0.25", "gradient of those"],
        log_y: false,
        range: Some((0.0, 1.0)),
        hint: "Held-out tokens that the model gave a probability below 0.25: their share of all tokens, of the loss, and of the sum of \
               the gradients' sizes.",
    },
];

impl ReportRun {
    fn new(files: RunFiles) -> Self {
        let derived = derived(&files.history);
        Self { name: files.name(), hue: 0, files, derived }
    }

    pub fn history(&self) -> &History {
        &self.files.history
    }
}

/// The validation loss of a merge, if it was evaluated.
pub(super) fn merged_loss(m: &Merged) -> Option<f64> {
    m.metrics.iter().find(|(name, _)| name.ends_with("/eval_loss")).map(|(_, value)| value.0)
}

/// All given runs, each once, in the given order; a folder of runs stands for all runs in it.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<ReportRun>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        anyhow::ensure!(path.is_dir(), "{}: there is no such folder", display_path(path));
        let runs = find_runs(path);
        anyhow::ensure!(!runs.is_empty(), "{}: holds no run (a folder with config.toml or events.jsonl)", display_path(path));
        found.extend(runs);
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|path| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    anyhow::ensure!(found.len() <= MOST_RUNS, "{} runs are too many for one page; name {MOST_RUNS} at most", found.len());
    let mut runs: Vec<ReportRun> = found.iter().map(|path| RunFiles::read(path).map(ReportRun::new)).collect::<Result<_>>()?;
    // By the names that the window uses.
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    runs.iter_mut().zip(crate::history::run_colors(&names)).for_each(|(run, hue)| run.hue = hue);
    runs.iter_mut().zip(crate::history::distinct_names(&found)).for_each(|(run, name)| run.name = name);
    Ok(runs)
}

/// Maximum number of runs: more colours and lines are not distinguishable.
const MOST_RUNS: usize = 48;

/// Curves of the shares in the run's token statistics.
fn derived(history: &History) -> History {
    let mut rows: BTreeMap<u64, Vec<(String, f64)>> = BTreeMap::new();
    let [tokens, moved, predicted] = MORE else { return History::default() };
    let first = |values: &[Number]| values.first().map_or(f64::NAN, |v| v.0);
    for t in &history.tokens {
        let row = rows.entry(t.step).or_default();
        let all = &t.quartiles.all;
        row.extend([(tokens.metrics[0].into(), first(&all.share)), (tokens.metrics[1].into(), first(&all.gradient))]);
        if let Some(probe) = &t.probe {
            row.extend(moved.metrics.iter().zip(&probe.all.right).map(|(name, v)| ((*name).to_owned(), v.0)));
        }
    }
    for p in &history.predictions {
        let q = &p.quartiles;
        let values = [first(&q.share), first(&q.loss), first(&q.gradient)];
        rows.entry(p.step).or_default().extend(predicted.metrics.iter().zip(values).map(|(name, v)| ((*name).to_owned(), v)));
    }
    let mut out = History::default();
    for (step, metrics) in rows {
        let row = row_at(history, step);
        let [num_tokens, seconds] = [Axis::Tokens, Axis::Relative].map(|axis| row.map_or(0.0, |row| history.clock.at(axis, row)));
        let metrics = metrics.into_iter().map(|(name, value)| (name, Number(value))).collect();
        out.push(Event::Step(Step { step, num_tokens: num_tokens as u64, seconds, metrics, ..Step::default() }));
    }
    out
}

/// The row of the clock for a step, or for the last one before it.
fn row_at(history: &History, step: u64) -> Option<u32> {
    let mut rows = 0..history.clock.len() as u32;
    let mut best: Option<u32> = None;
    // Steps may repeat after a rescue: the newest row counts.
    if let Some(curve) = history.curves.get("loss") {
        let stretch = curve.segments().last()?;
        let at = curve.find(&history.clock, Axis::Steps, &stretch, step as f64);
        best = curve.rows().get(at.min(stretch.end.saturating_sub(1))).copied();
    }
    best.or_else(|| rows.next_back())
}
