//! Choice of the checkpoints to merge: an evenly spaced trailing window of a run that ends at a given step.

use crate::model_files::checkpoint::{verify_model, verify_sizes};
use crate::run_folder::{self, checkpoints};
use crate::vfs::{Vfs, display_path};
use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Maximum number of checkpoints in a window.
pub const MAX_CHECKPOINTS: usize = 1000;

/// A distance along a run (V of the PMA paper): `500` or `500steps` are updates, `400ktok` and `4Mtok` are training tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Updates.
    Steps(u64),
    /// Training tokens.
    Tokens(u64),
}

impl FromStr for Interval {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let how = "give steps (500, or 500steps) or tokens (400ktok, 4Mtok, 1.5Gtok)";
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (prefix, unit) = match unit.chars().next() {
            Some('k' | 'K') => (1e3, &unit[1..]),
            Some('M') => (1e6, &unit[1..]),
            Some('G' | 'B') => (1e9, &unit[1..]),
            _ => (1.0, unit),
        };
        let Ok(number) = number.parse::<f64>() else { bail!("'{text}': {how}") };
        let value = (number * prefix).round();
        let whole = (number * prefix - value).abs() < 1e-6;
        ensure!(whole && (1.0..1e15).contains(&value), "'{text}': must be a whole number of at least 1: {how}");
        match unit.trim() {
            "" if prefix == 1.0 => Ok(Self::Steps(value as u64)),
            "" => bail!("'{text}': steps or tokens? Write {text}steps or {text}tok"),
            "step" | "steps" => Ok(Self::Steps(value as u64)),
            "tok" | "token" | "tokens" => Ok(Self::Tokens(value as u64)),
            _ => bail!("'{text}': {how}"),
        }
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Steps(n) => write!(f, "{n}"),
            Self::Tokens(n) => write!(f, "{n}tok"),
        }
    }
}

/// A requested window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSpec {
    /// Number of checkpoints (N of the PMA paper).
    pub last: usize,
    /// Their interval; if absent, the smallest for which `last` checkpoints exist.
    pub every: Option<Interval>,
    /// The step of the newest one; if absent, that of the newest valid checkpoint.
    pub at: Option<u64>,
}

impl Default for WindowSpec {
    fn default() -> Self {
        Self { last: 10, every: None, at: None }
    }
}

/// The checkpoints to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeWindow {
    /// The run folder.
    pub run: PathBuf,
    /// (step, folder), oldest first.
    pub checkpoints: Vec<(u64, PathBuf)>,
    /// Training tokens of one update.
    pub tokens_per_step: u64,
    /// Updates between checkpoints; 0 for a window of one.
    pub every_steps: u64,
    /// Damaged checkpoints newer than the window, which were skipped, one line each.
    pub skipped: Vec<String>,
}

impl MergeWindow {
    /// The folders, oldest first.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.checkpoints.iter().map(|(_, path)| path.clone()).collect()
    }

    /// The steps, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        self.checkpoints.iter().map(|(step, _)| *step).collect()
    }

    /// Training tokens between checkpoints.
    pub fn every_tokens(&self) -> u64 {
        self.every_steps.saturating_mul(self.tokens_per_step)
    }
}

/// Training tokens of one update of a run, from its `config.toml`.
///
/// # Errors
/// No run, or settings that cannot be read.
pub fn tokens_per_step(vfs: &dyn Vfs, run: &Path) -> Result<u64> {
    let config = run_folder::config(run);
    ensure!(vfs.is_dir(run)?, "{}: there is no such folder", display_path(run));
    ensure!(vfs.is_file(&config)?, "{}: holds no config.toml: not a run folder", display_path(run));
    let train = run_folder::settings(vfs, run)?.train;
    Ok(((train.batch_size as u64).saturating_mul(train.seq_len as u64)).max(1))
}

/// The checkpoints of a run in order, and the damaged ones with the reason.
struct RunCheckpoints {
    valid: BTreeMap<u64, PathBuf>,
    damaged: BTreeMap<u64, String>,
}

impl RunCheckpoints {
    /// Checks sizes only; hashes are checked when a checkpoint is read.
    fn of(vfs: &dyn Vfs, run: &Path) -> Result<Self> {
        let mut kept = Self { valid: BTreeMap::new(), damaged: BTreeMap::new() };
        for (step, path) in checkpoints::list(vfs, run)? {
            match verify_sizes(vfs, &path) {
                Ok(_) => drop(kept.valid.insert(step, path)),
                Err(e) => drop(kept.damaged.insert(step, format!("{e:#}"))),
            }
        }
        Ok(kept)
    }

    /// The steps of a window, oldest first, if all of them exist.
    fn steps(&self, end: u64, every: u64, last: usize) -> Option<Vec<u64>> {
        let steps = steps_of(end, every, last)?;
        steps.iter().all(|step| self.valid.contains_key(step)).then_some(steps)
    }

    /// The smallest spacing at which `last` checkpoints end at `end`.
    fn own_spacing(&self, end: u64, last: usize) -> Option<u64> {
        let before = self.valid.range(..end).rev().map(|(step, _)| end - step);
        before.into_iter().find(|every| self.steps(end, *every, last).is_some())
    }

    /// All steps as text, with evenly spaced ranges abbreviated.
    fn display(&self) -> String {
        match self.valid.len() {
            0 => "none".into(),
            _ => ranges(&self.valid.keys().copied().collect::<Vec<_>>()),
        }
    }
}

/// end - (last - 1) every, ..., end; `None` if that would begin before the first update.
fn steps_of(end: u64, every: u64, last: usize) -> Option<Vec<u64>> {
    let back = every.checked_mul(last as u64 - 1)?;
    let first = end.checked_sub(back)?;
    Some((0..last as u64).map(|i| first + i * every).collect())
}

/// `100, 200, ..., 900, 950`: three or more evenly spaced steps are abbreviated; at most a dozen parts.
pub fn ranges(steps: &[u64]) -> String {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < steps.len() {
        let gap = steps.get(at + 1).map_or(0, |next| next - steps[at]);
        let same = steps[at..].windows(2).take_while(|pair| pair[1] - pair[0] == gap).count();
        if same >= 3 {
            parts.push(format!("{}, {}, ..., {}", steps[at], steps[at + 1], steps[at + same]));
            at += same + 1;
        } else {
            parts.push(steps[at].to_string());
            at += 1;
        }
    }
    if parts.len() > 12 {
        let rest = parts.len() - 12;
        parts.truncate(12);
        parts.push(format!("and {rest} more"));
    }
    parts.join(", ")
}

/// Choose the checkpoints of `run` that `spec` requests. Checks their sizes, and the hashes of the last checkpoint if it was not given;
/// all hashes are checked when the checkpoints are opened for a merge.
///
/// # Errors
/// No run, no valid checkpoint, or a window with missing checkpoints; then the message lists the existing steps.
pub fn choose(vfs: &dyn Vfs, run: &Path, spec: &WindowSpec) -> Result<MergeWindow> {
    choose_from(vfs, run, spec, spec.last)
}

/// As [`choose`], but with fewer checkpoints, at least 2, if `spec.last` do not exist.
///
/// # Errors
/// As [`choose`].
pub fn choose_at_most(vfs: &dyn Vfs, run: &Path, spec: &WindowSpec) -> Result<MergeWindow> {
    choose_from(vfs, run, spec, 2.min(spec.last))
}

fn choose_from(vfs: &dyn Vfs, run: &Path, spec: &WindowSpec, least: usize) -> Result<MergeWindow> {
    let last = spec.last;
    ensure!((1..=MAX_CHECKPOINTS).contains(&last), "--last {last}: must lie between 1 and {MAX_CHECKPOINTS}");
    let tokens_per_step = tokens_per_step(vfs, run)?;
    let mut kept = RunCheckpoints::of(vfs, run)?;
    let (end, skipped) = match spec.at {
        Some(at) => (at, Vec::new()),
        None => newest(vfs, run, &mut kept)?,
    };
    let every = match spec.every {
        Some(Interval::Steps(steps)) => Some(steps),
        Some(Interval::Tokens(tokens)) => Some(((tokens + tokens_per_step / 2) / tokens_per_step).max(1)),
        None => None,
    };
    let fit = |last: usize| -> Option<(u64, Vec<u64>)> {
        let every = if last == 1 { 0 } else { every.or_else(|| kept.own_spacing(end, last))? };
        Some((every, kept.steps(end, every, last)?))
    };
    let Some((every, steps)) = (least..=last).rev().find_map(fit) else {
        return Err(match every {
            Some(every) => missing(run, &kept, end, every, last, spec),
            None if last == 1 => missing(run, &kept, end, 0, last, spec),
            None => no_spacing(run, &kept, end, last),
        });
    };
    let checkpoints = steps.into_iter().filter_map(|step| Some((step, kept.valid.get(&step)?.clone()))).collect();
    Ok(MergeWindow { run: run.to_owned(), checkpoints, tokens_per_step, every_steps: every, skipped })
}

/// The newest checkpoint with valid hashes; newer ones are moved to the damaged ones.
fn newest(vfs: &dyn Vfs, run: &Path, kept: &mut RunCheckpoints) -> Result<(u64, Vec<String>)> {
    while let Some((step, path)) = kept.valid.pop_last() {
        match verify_model(vfs, &path) {
            Ok(_) => {
                kept.valid.insert(step, path);
                let newer = kept.damaged.range(step..).map(|(_, why)| why.clone()).collect();
                return Ok((step, newer));
            }
            Err(e) => drop(kept.damaged.insert(step, format!("{e:#}"))),
        }
    }
    match kept.damaged.values().next_back() {
        Some(why) => bail!("{}: holds no valid checkpoint; {why}", display_path(run)),
        None => bail!("{}: holds no checkpoint yet: nothing to merge", display_path(run)),
    }
}

fn no_spacing(run: &Path, kept: &RunCheckpoints, end: u64, last: usize) -> anyhow::Error {
    let fits = (1..last).rev().find(|n| *n == 1 || kept.own_spacing(end, *n).is_some()).unwrap_or(1);
    if !kept.valid.contains_key(&end) {
        let there = kept.display();
        return anyhow::anyhow!(
            "{}: --at {end}: there is no valid checkpoint at that step; there are: {there}",
            display_path(run)
        );
    }
    let cure = format!("use --last {fits}, or train on with --save-every and --keep-every to keep more");
    anyhow::anyhow!(
        "{}: no {last} evenly spaced checkpoints end at step {end}; valid ones: {}: {cure}",
        display_path(run),
        kept.display()
    )
}

/// Why a window is not available, and which steps are.
fn missing(run: &Path, kept: &RunCheckpoints, end: u64, every: u64, last: usize, spec: &WindowSpec) -> anyhow::Error {
    let at = display_path(run);
    let there = kept.display();
    let Some(wanted) = steps_of(end, every, last) else {
        let fit = end / every.max(1) + 1;
        return anyhow::anyhow!(
            "{at}: {last} checkpoints every {every} steps up to step {end} would begin before the run; use --last {fit} or less"
        );
    };
    let gone: Vec<u64> = wanted.iter().copied().filter(|step| !kept.valid.contains_key(step)).collect();
    if let Some((step, why)) = gone.iter().find_map(|step| kept.damaged.get_key_value(step)) {
        return anyhow::anyhow!("step {step} of the window is damaged: {why}; valid ones: {there}");
    }
    let list = ranges(&gone);
    let end_that_works = kept.valid.keys().rev().find(|end| kept.steps(**end, every, last).is_some());
    let fewer = (1..last).rev().find(|n| kept.steps(end, every, *n).is_some());
    let cure = match (last, end_that_works, fewer) {
        (1, ..) => "choose --at from these".into(),
        (_, Some(end), _) => format!("--at {end} has them all"),
        (_, None, Some(fewer)) if fewer > 1 => format!("use --last {fewer}, or train with {}", keep_every(every)),
        _ => format!("choose --every to fit them, or train with {}", keep_every(every)),
    };
    let spacing = match spec.every {
        Some(Interval::Tokens(tokens)) => format!(" ({tokens} tokens are {every} steps)"),
        _ => String::new(),
    };
    anyhow::anyhow!("{at}: no checkpoint of step {list}{spacing}; valid ones: {there}: {cure}")
}

fn keep_every(every: u64) -> String {
    format!("--save-every {every} --keep-every {every} to keep them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_units_are_explicit() {
        for (text, want) in [
            ("500", Interval::Steps(500)),
            ("500steps", Interval::Steps(500)),
            ("1ksteps", Interval::Steps(1000)),
            ("1step", Interval::Steps(1)),
            ("300tok", Interval::Tokens(300)),
            ("400ktok", Interval::Tokens(400_000)),
            ("4Mtok", Interval::Tokens(4_000_000)),
            ("1.5Gtok", Interval::Tokens(1_500_000_000)),
            ("8Btokens", Interval::Tokens(8_000_000_000)),
            ("0.3ktok", Interval::Tokens(300)),
        ] {
            assert_eq!(text.parse::<Interval>().unwrap(), want, "{text}");
            assert_eq!(want.to_string().parse::<Interval>().unwrap(), want, "{text}");
        }
        for text in ["", "0", "-1", "4M", "1.5", "tok", "4Mbytes", "1e9", "nan", "1..2", "99999999999999999999"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_steps_are_abbreviated() {
        assert_eq!(ranges(&[1]), "1");
        assert_eq!(ranges(&[100, 200, 300]), "100, 200, 300");
        assert_eq!(ranges(&[100, 200, 300, 400, 401]), "100, 200, ..., 400, 401");
        assert_eq!(ranges(&[5, 10, 15, 20, 30, 40, 50, 60]), "5, 10, ..., 20, 30, 40, ..., 60");
        let irregular: Vec<u64> = (1..30).map(|i| i * i).collect();
        assert!(ranges(&irregular).ends_with("and 17 more"), "{}", ranges(&irregular));
    }
}
