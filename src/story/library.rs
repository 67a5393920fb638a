//! The included stories.

use super::location::is_complete;
use super::script::Story;
use crate::config::UsageError;
use crate::number_format::did_you_mean;
use crate::vfs::{RealFs, Vfs as _, display_path};
use anyhow::{Context as _, Result, bail};
use std::path::Path;

macro_rules! lessons {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../assets/lessons/", $name, ".toml")))),*] };
}

/// The demo, with all stages of training.
const DEMO: &str = include_str!("../../assets/demo.toml");
/// Lessons in learning order.
const LESSONS: &[(&str, &str)] = lessons![
    "one-batch",
    "learning-rate",
    "averaging",
    "merge-filter",
    "merge-or-anneal",
    "spike",
    "probabilities",
    "reward",
    "low-probability",
    "reading-gradient",
    "reweighting",
    "lopti",
];

/// The demo.
///
/// # Errors
/// Only if it is invalid, which a test checks.
pub fn demo() -> Result<Story> {
    Story::parse("demo", DEMO)
}

/// Names of the lessons, in learning order.
pub fn lesson_names() -> impl Iterator<Item = &'static str> {
    LESSONS.iter().map(|(name, _)| *name)
}

/// A lesson by its name or its number (from 1), or from a file: a path that ends in `.toml`.
///
/// # Errors
/// It does not exist (the message names the nearest), or the file is not a valid lesson.
pub fn lesson(name: &str) -> Result<Story> {
    if name.ends_with(".toml") {
        return from_file(Path::new(name));
    }
    let by_number = name.parse::<usize>().ok().and_then(|n| LESSONS.get(n.checked_sub(1)?));
    match by_number.or(LESSONS.iter().find(|(known, _)| *known == name)) {
        Some((name, text)) => Story::parse(name, text),
        None => {
            let hint = did_you_mean(name, lesson_names());
            bail!(UsageError(format!("{}: there is no such lesson{hint}", crate::vfs::clean(name))))
        }
    }
}

/// The first lesson after this one that is not completed below `root`; otherwise the first such lesson before it.
///
/// # Errors
/// Only if a lesson is invalid, which a test checks.
pub fn next_lesson(root: &Path, name: &str) -> Result<Option<Story>> {
    let at = LESSONS.iter().position(|(known, _)| *known == name).map_or(0, |at| at + 1);
    let (before, after) = LESSONS.split_at(at);
    for (name, text) in after.iter().chain(before) {
        let story = Story::parse(name, text)?;
        if !is_complete(root, &story) {
            return Ok(Some(story));
        }
    }
    Ok(None)
}

/// A lesson from a file.
fn from_file(path: &Path) -> Result<Story> {
    let at = || display_path(path);
    if !path.exists() {
        bail!(UsageError(format!("{}: there is no such file", at())));
    }
    let bytes = RealFs.read(path, 1 << 20).with_context(at)?;
    let text = String::from_utf8(bytes).with_context(at)?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    anyhow::ensure!(is_word, "{}: a lesson's file is named by letters, digits, - and _", at());
    Story::parse(&name, &text).with_context(at)
}
