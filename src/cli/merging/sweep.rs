//! `lehr merge sweep`: find the best merge of a run.

use crate::cli::held_out_text::{EvalProgress, HeldOutText, folder_of, prepare, save};
use crate::cli::output;
use crate::config::{DecayShape, MergeMethod};
use crate::merge::sweep::{CheckpointCache, SweepCell, SweepGrid, SweepResult, sweep};
use crate::merge::{self, Interval, MAX_CHECKPOINTS, MergeInputs, MergeRule, Verification, WindowSpec};
use crate::model_files::checkpoint::{step_name, verify_model};
use crate::model_files::weight_files::WeightFiles;
use crate::plot::{Chart, Heatmap, Panels, Series};
use crate::run_folder::checkpoints;
use crate::train::WeightEvaluator;
use crate::vfs::{RealFs, display_path, human_bytes};
use crate::world::World;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  The best interval, number and method at the end of a run, compared with an annealed run:
    lehr merge sweep runs/stories --every 50,100,200 --last 3,6,10 --annealed runs/annealed --out sweep
  The same early and late in training:
    lehr merge sweep runs/stories --every 50,100 --at 400,800,1200

Train with, for example, --save-every 50 --keep-every 50 to keep the checkpoints that a sweep needs.";

/// Flags of `lehr merge sweep`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run folder.
    run: PathBuf,
    /// Intervals V between checkpoints: steps (50) or training tokens (400ktok).
    #[arg(long, value_name = "V,...", value_delimiter = ',', required = true)]
    every: Vec<Interval>,
    /// Numbers N of checkpoints per merge.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "3,6,10,15")]
    last: Vec<usize>,
    /// Averaging methods.
    #[arg(long, value_enum, value_name = "METHOD,...", value_delimiter = ',', default_value = "sma,ema,wma")]
    methods: Vec<MergeMethod>,
    /// Factors a of ema and ema-normalized.
    #[arg(long, value_name = "A,...", value_delimiter = ',', default_value = "0.2")]
    alpha: Vec<f64>,
    /// Learning-rate decay that wsm emulates.
    #[arg(long, value_enum, default_value = "1-sqrt")]
    decay: DecayShape,
    /// Steps of the newest checkpoint of the merges; that of the newest valid checkpoint when absent.
    #[arg(long, value_name = "STEP,...", value_delimiter = ',')]
    at: Vec<u64>,
    /// The annealed model to compare with: a model folder, RUN (its newest checkpoint) or RUN@STEP.
    #[arg(long, value_name = "DIR|RUN@STEP")]
    annealed: Option<String>,
    /// Also write sweep.json and sweep.svg into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    text: HeldOutText,
}

/// Limit of the grid's size.
const MOST_CELLS: usize = 10_000;

/// Results of a sweep, for table, JSON and plot.
struct SweepReport {
    run: String,
    annealed: Option<String>,
    tokens_per_step: u64,
    eval_tokens: u64,
    reads: usize,
    grid: SweepGrid,
    found: SweepResult,
}

/// The measure, and its evaluator.
struct SweepSetup {
    tokens_per_step: u64,
    grid: SweepGrid,
    there: BTreeSet<u64>,
    annealed: Option<PathBuf>,
    evaluator: WeightEvaluator,
}

/// Sweep. Several ranks share the merges; rank 0 prints and writes.
pub fn run(args: &Args) -> Result<i32> {
    let world = World::open()?;
    let found = world.check_all(prepared(args, &world))?;
    world.ensure_equal(&[
        ("merges", format!("{:?}", found.grid)),
        ("checkpoints", format!("{:?}", found.there)),
        ("tokens of an evaluation", found.evaluator.tokens().to_string()),
    ])?;
    match world.is_solo() {
        true => measure(args, &world, found)?,
        false => measure(args, &world, found).with_context(|| world.name(world.rank()))?,
    }
    world.finish();
    Ok(0)
}

fn prepared(args: &Args, world: &World) -> Result<SweepSetup> {
    crate::cli::open::folder_exists(&args.run)?;
    let tokens_per_step = merge::tokens_per_step(&RealFs, &args.run)?;
    let grid = grid(args, tokens_per_step)?;
    let there = checkpoints(args, &grid)?;
    let newest = checkpoints::folder(&args.run).join(step_name(grid.at[0]));
    let annealed = args.annealed.as_deref().map(folder_of).transpose()?;
    if let Some(annealed) = &annealed {
        // A different shape or vocabulary is rejected before work starts.
        MergeInputs::open(&RealFs, &[newest.clone(), annealed.clone()], Verification::Hashes)?;
    }
    prepare(args.out.as_deref())?;
    let evaluator = args.text.evaluator(&newest, Some(&args.run), &world.device(&args.text.device)?)?;
    Ok(SweepSetup { tokens_per_step, grid, there, annealed, evaluator })
}

fn measure(args: &Args, world: &World, prepared: SweepSetup) -> Result<()> {
    let SweepSetup { tokens_per_step, grid, there, annealed, evaluator } = prepared;
    let bytes = 4 * evaluator.model.parameters.count() as u64;
    let needed = grid.required_checkpoints(&there).len();
    let most = (memory() / 2 / world.local_size() as u64 / bytes.max(1)).max(1) as usize;
    let evaluations = grid.evaluations(&there) + usize::from(annealed.is_some());
    if world.is_root() {
        output::note(&format!(
            "{evaluations} evaluations of {} tokens each; {needed} checkpoints of {}{}",
            output::count(evaluator.tokens()),
            human_bytes(bytes),
            if most < needed { format!(", of which {most} fit into memory: some are read again") } else { String::new() }
        ));
    }
    let (mut progress, mut own) = (EvalProgress::new(evaluations), 0u64);
    let mut done = || {
        own += 1;
        world.set_progress(own);
        if world.is_root() {
            progress.set_done(world.total_progress().max(own) as usize);
        }
    };
    let read = |step: u64| {
        let dir = checkpoints::folder(&args.run).join(step_name(step));
        verify_model(&RealFs, &dir)?;
        Ok(std::sync::Arc::new(evaluator.read(&WeightFiles::open(&RealFs, &dir)?)?))
    };
    let mut kept = CheckpointCache::new(most, Box::new(read));
    let mut found = sweep(world, &grid, &there, &mut |step| kept.get(step), &mut |w| evaluator.loss(w), &mut done)?;
    let reads: usize = world.all_gather_values(&kept.reads)?.into_iter().sum();
    if world.is_root() {
        if let Some(dir) = &annealed {
            found.annealed = Some(evaluator.loss(&evaluator.read(&WeightFiles::open(&RealFs, dir)?)?)?);
        }
        progress.set_done(evaluations);
        let (run, annealed, eval_tokens) = (display_path(&args.run), args.annealed.clone(), evaluator.tokens());
        SweepReport { run, annealed, tokens_per_step, eval_tokens, reads, grid, found }.output(args)?;
    }
    // The other ranks wait until rank 0 has written the results.
    world.wait_for_all()
}

/// An interval in updates, at least one.
fn updates(interval: Interval, tokens_per_step: u64) -> u64 {
    match interval {
        Interval::Steps(steps) => steps,
        Interval::Tokens(tokens) => ((tokens + tokens_per_step / 2) / tokens_per_step).max(1),
    }
}

/// The grid of the lists' distinct values.
fn grid(args: &Args, tokens_per_step: u64) -> Result<SweepGrid> {
    let mut every: Vec<u64> = args.every.iter().map(|v| updates(*v, tokens_per_step)).collect();
    let (mut last, mut at) = (args.last.clone(), args.at.clone());
    for n in &last {
        ensure!((1..=MAX_CHECKPOINTS).contains(n), "--last {n}: must lie between 1 and {MAX_CHECKPOINTS}");
    }
    every.sort_unstable();
    every.dedup();
    last.sort_unstable();
    last.dedup();
    at.sort_unstable();
    at.dedup();
    if at.is_empty() {
        let newest = merge::choose(&RealFs, &args.run, &WindowSpec { last: 1, every: None, at: None })?;
        newest.skipped.iter().for_each(|why| output::note(&format!("note: skipped a checkpoint: {why}")));
        at = newest.steps();
    }
    let mut rules: Vec<MergeRule> = Vec::new();
    for method in &args.methods {
        ensure!(*method != MergeMethod::Weights, "--methods weights: weights are of one number of checkpoints; use lehr merge");
        let with_alpha = matches!(method, MergeMethod::Ema | MergeMethod::EmaNormalized);
        for alpha in if with_alpha { args.alpha.as_slice() } else { &[0.0] } {
            let rule = MergeRule::new(*method, *alpha, args.decay, &[], "")?;
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    let cells = at.len() * every.len() * last.len() * rules.len();
    ensure!(cells <= MOST_CELLS, "{cells} merges: more than {MOST_CELLS}; shorten --every, --last, --methods or --at");
    Ok(SweepGrid { at, every, last, rules })
}

/// The steps of the run's checkpoints; rejects a grid without any complete merge.
fn checkpoints(args: &Args, grid: &SweepGrid) -> Result<BTreeSet<u64>> {
    let there: BTreeSet<u64> = checkpoints::list(&RealFs, &args.run)?.into_iter().map(|(step, _)| step).collect();
    for at in &grid.at {
        if !there.contains(at) {
            let steps: Vec<u64> = there.iter().copied().collect();
            let list = if steps.is_empty() { "none".into() } else { merge::ranges(&steps) };
            bail!("--at {at}: {} has no checkpoint of step {at}; there are: {list}", display_path(&args.run));
        }
    }
    if grid.evaluations(&there) == grid.at.len() {
        // The smallest window gives the clearest error.
        let spec =
            WindowSpec { last: grid.last[0], every: Some(Interval::Steps(grid.every[0])), at: Some(grid.at[grid.at.len() - 1]) };
        merge::choose(&RealFs, &args.run, &spec)?;
    }
    Ok(there)
}

/// Memory budget in bytes.
fn memory() -> u64 {
    let of_linux = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    of_linux.map_or(4 << 30, |kib| kib * 1024)
}

fn percent(share: Option<f64>) -> String {
    crate::number_format::percent(share.unwrap_or(f64::NAN), 0)
}

impl SweepReport {
    fn output(&self, args: &Args) -> Result<()> {
        if args.json {
            output::json_line(&self.json())?;
        } else {
            self.lines().iter().try_for_each(|line| output::line(line))?;
        }
        let Some(out) = &args.out else { return Ok(()) };
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        save(out, &[("sweep.json", json), ("sweep.svg", self.svg())])
    }

    fn tokens(&self, steps: f64) -> String {
        output::count((steps * self.tokens_per_step as f64).round() as u64)
    }

    fn head(&self, at: u64) -> String {
        let raw = self.found.raw.get(&at).copied().unwrap_or(f64::NAN);
        let annealed = match (&self.annealed, self.found.annealed) {
            (Some(name), Some(loss)) => format!(", annealed {loss:.4} ({name})"),
            _ => String::new(),
        };
        format!("{} at step {at}: raw {raw:.4}{annealed}, on {} tokens", self.run, output::count(self.eval_tokens))
    }

    fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        for at in &self.grid.at {
            out.push(self.head(*at));
            let mut head = vec!["method", "V", "N", "loss", "gain", "mean age", "tokens", "count"];
            if self.found.annealed.is_some() {
                head.push("of the gap");
            }
            let mut rows: Vec<Vec<String>> = vec![head.into_iter().map(String::from).collect()];
            let mut missing: Vec<(String, Vec<String>)> = Vec::new();
            for cell in self.found.cells.iter().filter(|c| c.at == *at) {
                match &cell.loss {
                    Ok(loss) => rows.push(self.row(cell, *loss)),
                    Err(why) if cell.rule == self.grid.rules[0] => {
                        let name = format!("V {} N {}", cell.every, cell.last);
                        match missing.iter_mut().find(|(known, _)| known == why) {
                            Some((_, cells)) => cells.push(name),
                            None => missing.push((why.clone(), vec![name])),
                        }
                    }
                    Err(_) => {}
                }
            }
            out.extend(output::aligned(&rows, |_| true));
            out.extend(missing.into_iter().map(|(why, cells)| format!("missing: {}: {why}", cells.join(", "))));
            out.extend(self.best(*at));
        }
        out
    }

    fn row(&self, cell: &SweepCell, loss: f64) -> Vec<String> {
        let mut row = vec![
            cell.rule.to_string(),
            cell.every.to_string(),
            cell.last.to_string(),
            format!("{loss:.4}"),
            self.found.gain(cell).map_or(String::new(), |g| format!("{g:+.4}")),
            format!("{:.1}", cell.mean_age),
            self.tokens(cell.mean_age),
            format!("{:.1}", cell.effective_count),
        ];
        if self.found.annealed.is_some() {
            row.push(percent(self.found.closed(cell)));
        }
        row
    }

    fn best(&self, at: u64) -> Option<String> {
        let best = self.found.best(at)?;
        let (loss, gain) = (best.loss.as_ref().ok()?, self.found.gain(best)?);
        let (word, closed) = (if gain >= 0.0 { "below" } else { "above" }, self.found.closed(best));
        let way = closed.map_or(String::new(), |s| format!(", {:.0} % of the way to the annealed one", 100.0 * s));
        Some(format!(
            "best: {} V {} N {}: {loss:.4}, {:.4} {word} the raw checkpoint{way}\n      ({:.1} steps old on average, {:.1} effective checkpoints)",
            best.rule,
            best.every,
            best.last,
            gain.abs(),
            best.mean_age,
            best.effective_count
        ))
    }

    fn cell_json(&self, cell: &SweepCell) -> serde_json::Value {
        let alpha = match cell.rule {
            MergeRule::Ema { alpha } | MergeRule::EmaNormalized { alpha } => Some(alpha),
            _ => None,
        };
        json!({
            "at": cell.at, "every": cell.every, "every_tokens": cell.every * self.tokens_per_step, "last": cell.last,
            "method": cell.rule.method().name(), "alpha": alpha, "loss": cell.loss.as_ref().ok(), "missing": cell.loss.as_ref().err(),
            "gain": self.found.gain(cell), "gap_closed": self.found.closed(cell), "mean_age": cell.mean_age,
            "mean_age_tokens": cell.mean_age * self.tokens_per_step as f64, "effective_count": cell.effective_count, "steps": cell.steps,
        })
    }

    fn json(&self) -> serde_json::Value {
        let raw: Vec<_> = self.found.raw.iter().map(|(step, loss)| json!({"at": step, "loss": loss})).collect();
        let cells: Vec<_> = self.found.cells.iter().map(|c| self.cell_json(c)).collect();
        let best: Vec<_> = self.grid.at.iter().filter_map(|at| self.found.best(*at)).map(|c| self.cell_json(c)).collect();
        json!({
            "run": self.run, "tokens_per_step": self.tokens_per_step, "eval_tokens": self.eval_tokens, "raw": raw,
            "annealed": self.found.annealed.map(|loss| json!({"model": self.annealed, "loss": loss})),
            "best": best, "cells": cells, "checkpoints_read": self.reads,
        })
    }

    /// A heat map for each method at the newest step; with several steps also the losses over them.
    fn svg(&self) -> String {
        let at = self.grid.at[self.grid.at.len() - 1];
        let best = self.found.best(at);
        let label = |name: &str| format!("{name} (steps; {} tokens each)", output::count(self.tokens_per_step));
        let [rows, columns] = [
            self.grid.every.iter().map(u64::to_string).collect::<Vec<_>>(),
            self.grid.last.iter().map(usize::to_string).collect::<Vec<_>>(),
        ];
        let gains: Vec<f64> = self.found.cells.iter().filter_map(|c| self.found.gain(c)).filter(|g| g.is_finite()).collect();
        // Up to the gain of the best merge: much worse ones must not dominate the colour scale.
        let most = gains.iter().copied().fold(0.0f64, f64::max);
        let most = if most > 0.0 { most } else { gains.iter().fold(1e-6f64, |m, g| m.max(g.abs())) };
        let mut all = Panels::new("Validation loss of merges, relative to the raw checkpoint", 2)
            .subtitle(&format!("{}. Blue: the merge is better.", self.head(at)))
            .footnote(&self.best(at).unwrap_or_default());
        for rule in &self.grid.rules {
            let at_rule = |every: u64, last: usize| {
                let is = |c: &&SweepCell| (c.at, c.every, c.last, &c.rule) == (at, every, last, rule);
                self.found.cells.iter().find(is).and_then(|c| self.found.gain(c)).map_or(f64::NAN, |g| -g)
            };
            let values: Vec<Vec<f64>> =
                self.grid.every.iter().map(|v| self.grid.last.iter().map(|n| at_rule(*v, *n)).collect()).collect();
            let mut map = Heatmap::new(&rule.to_string(), &rows, &columns).x("N (checkpoints)").y(&label("V"));
            map = map.values(&values).diverging().range(-most, most).bar("merged − raw (nats per token)");
            if let Some(best) = best.filter(|b| b.rule == *rule) {
                let place = |found: Option<usize>| found.unwrap_or(0);
                let row = place(self.grid.every.iter().position(|v| *v == best.every));
                map = map.highlight(row, place(self.grid.last.iter().position(|n| *n == best.last)));
            }
            all = all.panel(map);
        }
        all = all.panel(self.over_age(at, best));
        if self.grid.at.len() > 1 {
            all = all.panel(self.over_steps(best));
        }
        all.svg()
    }

    /// Gain of averaging against the mean age of the weights.
    fn over_age(&self, at: u64, best: Option<&SweepCell>) -> Chart {
        let place = |c: &SweepCell| (c.mean_age * self.tokens_per_step as f64, self.found.gain(c).map_or(f64::NAN, |g| -g));
        let mut chart = Chart::new("Against the merge's mean age").x("mean age (tokens)").y("merged − raw (nats per token)");
        for rule in &self.grid.rules {
            let cells = self.found.cells.iter().filter(|c| c.at == at && c.rule == *rule);
            chart = chart.scatter(&rule.to_string(), &cells.map(place).collect::<Vec<_>>());
        }
        chart = chart.hline(0.0, "raw checkpoint");
        best.map(place).into_iter().fold(chart, |chart, (x, y)| chart.mark(x, y, "best"))
    }

    /// Losses of the raw checkpoints, and of the finally best cell of each method.
    fn over_steps(&self, best: Option<&SweepCell>) -> Chart {
        let place = |at: u64| (at * self.tokens_per_step) as f64;
        let raw: Vec<_> = self.found.raw.iter().map(|(at, loss)| (place(*at), *loss)).collect();
        let mut chart = Chart::new("Over training").x("tokens trained").y("validation loss (nats per token)");
        chart = chart.add(Series::line("raw", &raw).marked().color(6));
        for (i, rule) in self.grid.rules.iter().enumerate() {
            let Some(best) = best else { break };
            let same = self.found.cells.iter().filter(|c| (c.every, c.last) == (best.every, best.last) && c.rule == *rule);
            let points: Vec<_> = same.map(|c| (place(c.at), c.loss.clone().unwrap_or(f64::NAN))).collect();
            chart = chart.add(Series::line(&format!("{rule}, V {} N {}", best.every, best.last), &points).marked().color(i));
        }
        self.found.annealed.into_iter().fold(chart, |chart, loss| chart.hline(loss, "annealed"))
    }
}
