//! `samples.jsonl`: completions of reinforcement learning with per-token numbers. The file may be large, so only its index is kept.

use crate::event::Completion;
use crate::vfs::{FileCursor, RealFs, Vfs as _, display_path};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The completions of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleStep {
    /// The step.
    pub step: u64,
    /// Number of completions.
    pub count: usize,
    /// Their mean reward.
    pub reward: f64,
    /// Their byte range in the file: from, to.
    bytes: (u64, u64),
}

/// Index of `samples.jsonl`. Copies share the index until one of them is updated.
#[derive(Clone, Debug)]
pub struct SampleLog {
    path: PathBuf,
    steps: Arc<Vec<SampleStep>>,
    offset: u64,
}

#[derive(Deserialize)]
struct SampleHead {
    step: u64,
    #[serde(default)]
    reward: serde_json::Value,
}

impl SampleLog {
    /// A log that may not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), steps: Arc::default(), offset: 0 }
    }

    /// Read new entries; true if there were any.
    ///
    /// # Errors
    /// The file exists but cannot be read.
    pub fn follow(&mut self) -> Result<bool> {
        let path = self.path.clone();
        let at = || format!("{}: cannot be read", display_path(&path));
        let file = match RealFs.open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            opened => opened.with_context(at)?,
        };
        let bytes = file.bytes();
        if bytes < self.offset {
            // Truncated by a resume.
            (self.steps, self.offset) = (Arc::default(), 0);
        }
        if bytes == self.offset {
            return Ok(false);
        }
        let mut reader = BufReader::new(FileCursor::new(file, self.offset));
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).with_context(at)?;
            if line.last() != Some(&b'\n') {
                return Ok(true);
            }
            let from = self.offset;
            self.offset += line.len() as u64;
            if let Ok(head) = serde_json::from_slice::<SampleHead>(&line) {
                self.take(&head, (from, self.offset));
            }
        }
    }

    fn take(&mut self, head: &SampleHead, bytes: (u64, u64)) {
        let reward = head.reward.as_f64().unwrap_or(f64::NAN);
        let steps = Arc::make_mut(&mut self.steps);
        match steps.last_mut().filter(|s| s.step == head.step) {
            Some(s) => {
                s.reward = (s.reward * s.count as f64 + reward) / (s.count + 1) as f64;
                s.count += 1;
                s.bytes.1 = bytes.1;
            }
            None => steps.push(SampleStep { step: head.step, count: 1, reward, bytes }),
        }
    }

    /// Steps with stored completions, oldest first.
    pub fn steps(&self) -> &[SampleStep] {
        &self.steps
    }

    /// The completions of an entry of [`Self::steps`], in file order; truncated lines are skipped.
    ///
    /// # Errors
    /// The file cannot be read, or has more than 256 MiB for the step.
    pub fn read(&self, step: &SampleStep) -> Result<Vec<Completion>> {
        let (from, to) = step.bytes;
        anyhow::ensure!(
            to - from <= 256 << 20,
            "{}: the completions of step {} are too large to show",
            display_path(&self.path),
            crate::number_format::count(step.step)
        );
        let at = || format!("{}: cannot be read", display_path(&self.path));
        let (text, _) = RealFs.read_at(&self.path, from, to - from).with_context(at)?;
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).filter(|c: &Completion| c.step == step.step).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn completions_are_found_by_step_in_growing_and_truncated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.jsonl");
        let mut log = SampleLog::new(&path);
        assert!(!log.follow().unwrap());
        let mut file = std::fs::File::create(&path).unwrap();
        let line = |step: u64, text: &str, reward: f64| {
            serde_json::to_string(&Completion { step, text: text.into(), reward, ..Completion::default() }).unwrap()
        };
        writeln!(file, "{}\n{}\n{{torn\n{}", line(1, "a", 1.0), line(1, "b", 0.0), line(3, "c", -1.0)).unwrap();
        write!(file, "{}", &line(3, "d", 0.5)[..20]).unwrap();
        assert!(log.follow().unwrap());
        let found: Vec<(u64, usize, f64)> = log.steps().iter().map(|s| (s.step, s.count, s.reward)).collect();
        assert_eq!(found, [(1, 2, 0.5), (3, 1, -1.0)]);
        writeln!(file, "{}", &line(3, "d", 0.5)[20..]).unwrap();
        assert!(log.follow().unwrap());
        let texts: Vec<String> = log.read(&log.steps()[1]).unwrap().into_iter().map(|c| c.text).collect();
        assert_eq!(texts, ["c", "d"]);
    }
}
