//! Merges of one run over a grid, compared by one measure: interval V x number N x method (PMA, arXiv 2505.12082, Figures 5 and 6).
//!
//! Independent of files and devices: checkpoints come from one closure, losses from another.

use super::MergeRule;
use super::ring::average_in_f64;
use crate::world::World;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The grid: every combination is tried.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepGrid {
    /// Steps of the newest checkpoint of a window.
    pub at: Vec<u64>,
    /// Updates between checkpoints (V).
    pub every: Vec<u64>,
    /// Checkpoints in a window (N).
    pub last: Vec<usize>,
    /// Merge rules.
    pub rules: Vec<MergeRule>,
}

/// A merge and its loss.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepCell {
    /// Step of the newest checkpoint.
    pub at: u64,
    /// Updates between checkpoints.
    pub every: u64,
    /// Number of checkpoints.
    pub last: usize,
    /// The merge rule.
    pub rule: MergeRule,
    /// Steps of the checkpoints, oldest first; empty if the window would begin before the run.
    pub steps: Vec<u64>,
    /// Lag of the merge behind its newest checkpoint, in updates.
    pub mean_age: f64,
    /// 1 / sum w^2.
    pub effective_count: f64,
    /// The measured loss, or why it is missing.
    pub loss: Result<f64, String>,
}

/// All cells and the losses that they are compared with.
#[derive(Clone, Debug, Default)]
pub struct SweepResult {
    /// Loss of the checkpoint at each `at`.
    pub raw: BTreeMap<u64, f64>,
    /// Loss of the annealed model, if given.
    pub annealed: Option<f64>,
    /// In the order of [`SweepGrid::windows`], and by rule within each window.
    pub cells: Vec<SweepCell>,
}

/// Returns the weights of the checkpoint at a step.
pub type ReadWeights<'a> = dyn FnMut(u64) -> Result<Arc<Vec<f32>>> + 'a;
/// Returns the loss of weights.
pub type Evaluate<'a> = dyn FnMut(&[f32]) -> Result<f64> + 'a;

impl SweepGrid {
    /// (at, every, last) of every window; windows that share checkpoints are adjacent.
    pub fn windows(&self) -> Vec<(u64, u64, usize)> {
        let each = |at: u64| self.every.iter().flat_map(move |every| self.last.iter().map(move |last| (at, *every, *last)));
        self.at.iter().flat_map(|at| each(*at)).collect()
    }

    /// Number of losses to measure, given the existing checkpoints: one for each raw checkpoint, and one for each complete window and rule.
    pub fn evaluations(&self, there: &BTreeSet<u64>) -> usize {
        let whole = self.windows().into_iter().filter(|w| steps_of(*w, there).is_ok()).count();
        self.at.len() + whole * self.rules.len()
    }

    /// The checkpoints that complete windows and raw losses need.
    pub fn required_checkpoints(&self, there: &BTreeSet<u64>) -> BTreeSet<u64> {
        let windows = self.windows().into_iter().filter_map(|w| steps_of(w, there).ok());
        windows.flatten().chain(self.at.iter().copied()).collect()
    }
}

/// The steps of a window, oldest first, or why it is not available.
fn steps_of((at, every, last): (u64, u64, usize), there: &BTreeSet<u64>) -> Result<Vec<u64>, String> {
    let back = every.checked_mul(last.saturating_sub(1) as u64).and_then(|back| at.checked_sub(back));
    let Some(first) = back else { return Err("begins before the run".into()) };
    let steps: Vec<u64> = (0..last as u64).map(|i| first + i * every).collect();
    let gone: Vec<u64> = steps.iter().copied().filter(|step| !there.contains(step)).collect();
    if gone.is_empty() { Ok(steps) } else { Err(format!("no checkpoint of step {}", super::window::ranges(&gone))) }
}

/// Losses of a window by rule, or of a raw checkpoint; a text if a checkpoint cannot be read.
type Losses = Vec<Result<f64, String>>;

/// Measure every cell. `there` holds the steps of existing checkpoints; if `read` fails for a checkpoint, its cells are missing, with the
/// reason. `done` is called after every loss. Rank r of N measures every N-th raw checkpoint or window; all ranks return all losses.
///
/// # Errors
/// A raw checkpoint that cannot be read, an error from `evaluate`, or a lost rank.
pub fn sweep(
    world: &World,
    grid: &SweepGrid,
    there: &BTreeSet<u64>,
    read: &mut ReadWeights<'_>,
    evaluate: &mut Evaluate<'_>,
    done: &mut dyn FnMut(),
) -> Result<SweepResult> {
    let (windows, raw) = (grid.windows(), grid.at.len());
    let mut own: Vec<(usize, Losses)> = Vec::new();
    for i in (world.rank()..raw + windows.len()).step_by(world.size()) {
        let losses = match i.checked_sub(raw) {
            None => {
                let loss = evaluate(&read(grid.at[i])?)?;
                done();
                vec![Ok(loss)]
            }
            Some(i) => losses_of(&grid.rules, windows[i], there, (&mut *read, &mut *evaluate, &mut *done))?,
        };
        own.push((i, losses));
    }
    world.wait_for_all()?;
    let mut all: BTreeMap<usize, Losses> = world.all_gather_values(&own)?.into_iter().flatten().collect();
    let mut found = SweepResult::default();
    for (i, at) in grid.at.iter().enumerate() {
        found.raw.extend(all.remove(&i).into_iter().flatten().filter_map(Result::ok).map(|loss| (*at, loss)));
    }
    for (window, losses) in windows.into_iter().zip(all.into_values()) {
        let (at, every, last) = window;
        for (rule, loss) in grid.rules.iter().zip(losses) {
            let weights = rule.weights(last)?;
            found.cells.push(SweepCell {
                at,
                every,
                last,
                rule: rule.clone(),
                steps: steps_of(window, there).unwrap_or_default(),
                mean_age: MergeRule::mean_age(&weights) * every as f64,
                effective_count: MergeRule::effective_count(&weights),
                loss,
            });
        }
    }
    Ok(found)
}

fn losses_of(
    rules: &[MergeRule],
    window: (u64, u64, usize),
    there: &BTreeSet<u64>,
    (read, evaluate, done): (&mut ReadWeights<'_>, &mut Evaluate<'_>, &mut dyn FnMut()),
) -> Result<Losses> {
    let steps = steps_of(window, there);
    let parts = steps.and_then(|steps| {
        let parts: Result<Vec<_>> = steps.iter().map(|step| read(*step)).collect();
        parts.map_err(|e| format!("{e:#}"))
    });
    let parts = match parts {
        Ok(parts) => parts,
        Err(why) => return Ok(vec![Err(why); rules.len()]),
    };
    let parts: Vec<&[f32]> = parts.iter().map(|p| p.as_slice()).collect();
    let loss = |rule: &MergeRule| -> Result<Result<f64, String>> {
        let loss = evaluate(&average_in_f64(&parts, &rule.weights(window.2)?))?;
        done();
        Ok(Ok(loss))
    };
    rules.iter().map(loss).collect()
}

impl SweepResult {
    /// The cell with the lowest loss among those that end at a step; the first of equals.
    pub fn best(&self, at: u64) -> Option<&SweepCell> {
        let measured = self.cells.iter().filter(|c| c.at == at && c.loss.as_ref().is_ok_and(|l| l.is_finite()));
        measured.min_by(|a, b| a.loss.as_ref().unwrap_or(&f64::NAN).total_cmp(b.loss.as_ref().unwrap_or(&f64::NAN)))
    }

    /// Loss of the newest checkpoint minus that of the merge, in nats.
    pub fn gain(&self, cell: &SweepCell) -> Option<f64> {
        Some(self.raw.get(&cell.at)? - cell.loss.as_ref().ok()?)
    }

    /// Share of the gap between the raw checkpoint and the annealed model that a merge closes; `None` if the annealed model is no better.
    pub fn closed(&self, cell: &SweepCell) -> Option<f64> {
        let gap = self.raw.get(&cell.at)? - self.annealed?;
        Some(self.gain(cell)? / gap).filter(|_| gap > 0.0)
    }
}

/// Cache of recently used checkpoints, so that each is read once if memory allows.
pub struct CheckpointCache<'a> {
    read: Box<ReadWeights<'a>>,
    most: usize,
    /// Least recently used first.
    held: Vec<(u64, Arc<Vec<f32>>)>,
    /// Number of reads.
    pub reads: usize,
}

impl<'a> CheckpointCache<'a> {
    /// A cache of at most `most` checkpoints.
    pub fn new(most: usize, read: Box<ReadWeights<'a>>) -> Self {
        Self { read, most: most.max(1), held: Vec::new(), reads: 0 }
    }

    /// The weights at a step.
    ///
    /// # Errors
    /// Reading fails.
    pub fn get(&mut self, step: u64) -> Result<Arc<Vec<f32>>> {
        if let Some(i) = self.held.iter().position(|(s, _)| *s == step) {
            let found = self.held.remove(i);
            self.held.push(found);
        } else {
            if self.held.len() >= self.most {
                self.held.remove(0);
            }
            self.reads += 1;
            self.held.push((step, (self.read)(step)?));
        }
        Ok(self.held[self.held.len() - 1].1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> SweepGrid {
        SweepGrid { at: vec![100, 60], every: vec![10, 20, 40], last: vec![1, 3, 6], rules: vec![MergeRule::Sma, MergeRule::Wma] }
    }

    /// The checkpoint at step s has the weights (s, -s); the loss is the distance of the first from 70.
    fn run(grid: &SweepGrid, there: &BTreeSet<u64>, most: usize) -> (SweepResult, usize, usize) {
        run_in(&World::solo(), grid, there, most)
    }

    fn run_in(world: &World, grid: &SweepGrid, there: &BTreeSet<u64>, most: usize) -> (SweepResult, usize, usize) {
        let read = Box::new(|step: u64| {
            anyhow::ensure!(step != 20, "step 20 is damaged");
            Ok(Arc::new(vec![step as f32, -(step as f32)]))
        });
        let mut kept = CheckpointCache::new(most, read);
        let mut evaluate = |w: &[f32]| Ok((f64::from(w[0]) - 70.0).abs());
        let mut losses = 0;
        let found = sweep(world, grid, there, &mut |step| kept.get(step), &mut evaluate, &mut || losses += 1).unwrap();
        (found, losses, kept.reads)
    }

    #[test]
    fn sweep_cells_match_single_merges() {
        let there: BTreeSet<u64> = (1..=10).map(|i| i * 10).filter(|s| *s != 50).collect();
        let (mut found, losses, reads) = run(&grid(), &there, 100);
        assert_eq!(found.cells.len(), 2 * 3 * 3 * 2);
        for cell in &found.cells {
            let wanted: Option<Vec<u64>> =
                (0..cell.last as u64).rev().map(|i| cell.at.checked_sub(i * cell.every)).collect::<Option<_>>();
            let whole = wanted.as_ref().is_some_and(|w| w.iter().all(|s| there.contains(s) && *s != 20));
            assert_eq!(cell.loss.is_ok(), whole, "{cell:?}");
            let (Some(steps), true) = (wanted, whole) else { continue };
            let n = steps.len() as f64;
            let mean = match cell.rule {
                MergeRule::Sma => steps.iter().sum::<u64>() as f64 / n,
                _ => steps.iter().enumerate().map(|(i, s)| (i + 1) as f64 * *s as f64).sum::<f64>() / (n * (n + 1.0) / 2.0),
            };
            assert!((cell.loss.clone().unwrap() - (mean - 70.0).abs()).abs() < 1e-4, "{cell:?}");
            assert!((cell.mean_age - (cell.at as f64 - mean)).abs() < 1e-9, "{cell:?}");
        }
        let missing =
            |at, every, last| found.cells.iter().find(|c| (c.at, c.every, c.last) == (at, every, last)).unwrap().loss.clone();
        assert_eq!(missing(60, 40, 3).unwrap_err(), "begins before the run");
        assert_eq!(missing(100, 10, 6).unwrap_err(), "no checkpoint of step 50");
        assert_eq!(missing(100, 40, 3).unwrap_err(), "step 20 is damaged");
        let measured = found.cells.iter().filter(|c| c.loss.is_ok()).count();
        assert_eq!(losses, measured + 2, "and the two raw ones");
        assert!(reads <= there.len() + 4, "each once, the damaged one again and again: {reads}");
        let best = found.best(100).unwrap().clone();
        assert_eq!((best.every, best.last, found.gain(&best)), (20, 3, Some(30.0 - best.loss.clone().unwrap())));
        assert_eq!(found.closed(&best), None);
        found.annealed = Some(0.0);
        assert_eq!(found.closed(&best), Some(found.gain(&best).unwrap() / 30.0));
        found.annealed = Some(31.0);
        assert_eq!(found.closed(&best), None, "an annealed model that is worse closes nothing");
    }

    /// Every rank returns the sweep of a single process, and each loss is measured once.
    #[test]
    fn ranks_share_the_losses() {
        let there: BTreeSet<u64> = (1..=10).map(|i| i * 10).filter(|s| *s != 50).collect();
        let (alone, losses, _) = run(&grid(), &there, 100);
        for ranks in [2, 3, 30] {
            let work = |world: World| run_in(&world, &grid(), &there, 100);
            let all = World::on_threads(ranks, work).unwrap();
            assert!(all.iter().all(|(found, ..)| found.cells == alone.cells && found.raw == alone.raw), "{ranks} ranks");
            assert_eq!(all.iter().map(|(_, losses, _)| losses).sum::<usize>(), losses);
            assert!(all.iter().take(2).all(|(_, own, _)| *own < losses));
        }
    }

    #[test]
    fn losses_do_not_depend_on_memory() {
        let there: BTreeSet<u64> = (1..=10).map(|i| i * 10).collect();
        let (much, _, once) = run(&grid(), &there, 100);
        let (little, _, often) = run(&grid(), &there, 1);
        assert_eq!(much.cells, little.cells);
        assert!(often > once);
        let one = SweepGrid { at: vec![100], every: vec![40], last: vec![3, 6], rules: vec![MergeRule::Sma] };
        assert_eq!(one.required_checkpoints(&there), [20, 60, 100].into());
        assert_eq!(grid().evaluations(&BTreeSet::new()), 2);
    }
}
