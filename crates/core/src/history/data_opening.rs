//! The first words of a run's training data: a text that its model has seen.

use crate::config::Settings;
use crate::data::chat::row_files;
use crate::data::{Corpus, Notices, read_objects};
use crate::progress::silent;
use crate::run_folder;
use crate::vfs::{RealFs, Vfs as _};
use anyhow::{Result, bail};
use serde_json::Value;
use std::path::Path;

/// Maximum number of characters.
const MOST: usize = 80;
/// Bytes read of a line of `samples.jsonl`.
const MOST_LINE: u64 = 1 << 20;
/// Fields of a row that hold the user's message, or the whole text.
const FIELDS: [&str; 9] =
    ["messages", "conversations", "prompt", "question", "problem", "instruction", "input", "text", "completion"];

/// The first words of a run's data: of its text, its first row, or the first logged prompt. Reads files, so call it on a separate thread.
/// None if the data can no longer be read.
pub fn opening_text(run: &Path, settings: &Settings) -> Option<String> {
    let rows = settings.sft.is_some() || settings.grpo.is_some();
    let data = settings.data.data.first();
    let found = match (data, rows) {
        (Some(path), false) => first_text(path).ok(),
        (Some(path), true) => first_row(path).ok(),
        (None, _) => None,
    };
    found.or_else(|| first_prompt(run)).map(|text| first_words(&text)).filter(|text| !text.is_empty())
}

fn first_text(path: &Path) -> Result<String> {
    // Standard input is not available here.
    if path.as_os_str() == "-" {
        bail!("standard input");
    }
    let mut notices = Notices::new();
    let corpus = Corpus::open(&RealFs, &[path.to_owned()], &mut notices)?;
    let mut pieces = corpus.pieces();
    while let Some(piece) = pieces.next_piece(&mut notices)? {
        if !piece.text.trim().is_empty() {
            return Ok(piece.text);
        }
    }
    bail!("no text")
}

fn first_row(path: &Path) -> Result<String> {
    let file = row_files(&RealFs, path, &mut Notices::new())?.train.into_iter().next();
    let mut found = None;
    if let Some(file) = file {
        // Reading stops at the first row with text.
        let _ = read_objects(&RealFs, &file, "", &mut silent, |_, row| {
            found = FIELDS.iter().find_map(|field| content_of(row.get(*field)?));
            if found.is_some() { bail!("enough") } else { Ok(()) }
        });
    }
    match found {
        Some(text) => Ok(text),
        None => bail!("no row"),
    }
}

/// A text, or the first user message of a conversation.
fn content_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
        Value::Array(turns) => {
            let role = |turn: &Value| ["role", "from"].iter().find_map(|key| turn.get(*key)?.as_str().map(str::to_owned));
            let is_user = |turn: &&Value| matches!(role(turn).as_deref(), Some("user" | "human"));
            let turn = turns.iter().find(is_user).or(turns.first())?;
            ["content", "value"].iter().find_map(|key| content_of(turn.get(*key)?))
        }
        _ => None,
    }
}

fn first_prompt(run: &Path) -> Option<String> {
    let (bytes, _) = RealFs.read_at(&run_folder::samples(run), 0, MOST_LINE).ok()?;
    let json: Value = serde_json::from_slice(bytes.split(|b| *b == b'\n').next()?).ok()?;
    Some(json.get("prompt")?.as_str()?.to_owned())
}

/// The first words, up to the end of a sentence or line if one is near.
fn first_words(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let cut: String = line.chars().take(MOST).collect();
    if cut.len() == line.len() {
        return cut.trim_end().to_owned();
    }
    // Cut between words, except in scripts without spaces.
    let end = cut.rfind([' ', '\t']).filter(|end| *end > 0).unwrap_or(cut.len());
    cut[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opening_is_the_first_words_of_the_user_message_or_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut settings = Settings::default();
        settings.data.data = vec![file("text.txt", "\n\nA fox sat by the lake. It was still.\nMore.\n")];
        assert_eq!(opening_text(dir.path(), &settings).as_deref(), Some("A fox sat by the lake. It was still."));
        settings.data.data = vec![file("long.txt", &"word ".repeat(100))];
        assert_eq!(opening_text(dir.path(), &settings).unwrap(), "word ".repeat(16).trim_end());
        settings.sft = Some(Default::default());
        let row = r#"{"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "Who are you?"}]}"#;
        settings.data.data = vec![file("rows.jsonl", &format!("{row}\n{{broken"))];
        assert_eq!(opening_text(dir.path(), &settings).as_deref(), Some("Who are you?"));
        settings.data.data = vec![dir.path().join("gone.jsonl")];
        assert_eq!(opening_text(dir.path(), &settings), None);
        file("samples.jsonl", "{\"step\": 1, \"prompt\": \"A says: B lies.\"}\n");
        assert_eq!(opening_text(dir.path(), &settings).as_deref(), Some("A says: B lies."));
    }
}
