//! Chat data for fine-tuning: rows of messages, chat templates, loss masks, packing, mixtures.
//!
//! `read_rows` parses and checks a row; [`ChatTemplate`] renders its messages as text; the encoder tokenizes the text and computes the loss
//! mask; [`ChatSource`] packs examples into batches as separate documents. All tokens are kept in memory, four bytes each.

mod examples;
mod messages;
mod pack;
mod python;
mod rows;
mod source;
mod spans;
mod template;

pub use examples::{Encoder, Example, LossOn};
pub use messages::template_kwargs;
pub use pack::best_fit;
pub use rows::{ChatRow, MixturePart, prompt_chat, question_chat, read_rows, row_files};
pub use source::{ChatRows, ChatSource, ExampleStore};
pub use spans::AssistantSpan;
pub use template::{Chat, ChatTemplate, PLAIN, Rendered};

use super::{Notices, Tokenizer, shown_path};
use crate::config::{DataSettings, SftSettings};
use crate::progress::Progress;
use crate::rng::{Permutation, Rng};
use crate::vfs::Vfs;
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Seconds since 1970 at the start of a day, written as 2026-11-25.
pub fn parse_date(text: &str) -> Option<i64> {
    python::parse_date(text)
}

/// The date of a time in seconds since 1970, written as 2026-11-25.
pub fn date(seconds: i64) -> String {
    python::strftime("%Y-%m-%d", seconds)
}

/// The text of a template file, `--chat-template`.
///
/// # Errors
/// A file that cannot be read, is larger than 1 MiB, or is not text.
pub fn read_template(vfs: &dyn Vfs, path: &Path) -> Result<String> {
    let at = || format!("--chat-template {}", shown_path(path));
    let bytes = vfs.read(path, 1 << 20).with_context(at)?;
    String::from_utf8(bytes).with_context(at)
}

/// The tokenizer with the chat template to use (that given, else its own, else the plain one), and that template, compiled; `strftime_now`
/// uses `date`.
///
/// # Errors
/// A template that is not valid Jinja.
pub fn template_of(tokenizer: &Tokenizer, given: Option<String>, date: i64) -> Result<(Tokenizer, ChatTemplate)> {
    let own = tokenizer.chat_template()?;
    let source = given.or_else(|| own.clone()).unwrap_or_else(|| PLAIN.to_owned());
    let template = ChatTemplate::new(&source, tokenizer.special_tokens(), date)?;
    let tokenizer = if own.as_ref() == Some(&source) { tokenizer.clone() } else { tokenizer.with_chat_template(&source) };
    Ok((tokenizer, template))
}

/// Inputs of [`load`] other than settings.
pub struct ChatInput<'a> {
    /// The files.
    pub vfs: &'a dyn Vfs,
    /// The model's tokenizer, with its chat template.
    pub tokenizer: &'a Tokenizer,
    /// The template.
    pub template: &'a ChatTemplate,
    /// Maximum tokens per row.
    pub seq_len: usize,
    /// Seed of the training order.
    pub seed: u64,
}

/// Reads all rows of `--data` and of the validation data into a source of batches. `progress` receives (bytes done, total bytes) of a file.
///
/// # Errors
/// The first invalid row, with its place and the remedy; no row left to train on.
pub fn load(
    data: &DataSettings,
    sft: &SftSettings,
    from: &ChatInput<'_>,
    notices: &mut Notices,
    progress: &mut Progress<'_>,
) -> Result<ChatSource> {
    ensure!(
        !data.data.is_empty(),
        "--data: no rows named. Give --data PATH, a JSONL file with messages, or prompt and completion"
    );
    let loss_on = LossOn { assistant_only: sft.assistant_only_loss, completion_only: sft.completion_only_loss };
    let encoder = Encoder { tokenizer: from.tokenizer, template: from.template, loss_on };
    encoder.check_template()?;
    let parts: Vec<MixturePart> =
        data.data.iter().map(|spec| MixturePart::parse(from.vfs, spec, notices)).collect::<Result<_>>()?;
    let valid: Vec<PathBuf> = match &data.val_data {
        Some(path) => {
            let named = row_files(from.vfs, path, notices).map_err(|e| anyhow!("--val-data {e:#}"))?;
            if named.validation.is_empty() { named.train } else { named.validation }
        }
        None => parts.iter().flat_map(|part| part.validation.clone()).collect(),
    };
    let kwargs = template_kwargs(&sft.chat_template_kwargs)?;
    let mut reader = ExampleReader { vfs: from.vfs, encoder, kwargs, seq_len: from.seq_len, notices, progress };
    let fraction = if valid.is_empty() { data.val_fraction } else { 0.0 };
    let mut rows = ChatRows { store: ExampleStore::default(), train: Vec::new(), val: Vec::new() };
    for part in &parts {
        let mut examples = Vec::new();
        for file in &part.files {
            examples.extend(reader.read(file)?);
        }
        let held_out = held_out(examples.len(), fraction);
        let start = rows.store.len();
        for (example, _) in examples.iter().zip(&held_out).filter(|(_, held)| !**held) {
            rows.store.push(example)?;
        }
        let end = rows.store.len();
        ensure!(end > start, "{}: no row is left to learn from", shown_path(&part.path));
        rows.train.push((start..end, part.weight));
        for (example, _) in examples.iter().zip(&held_out).filter(|(_, held)| **held) {
            rows.val.push(rows.store.push(example)?);
        }
    }
    for path in &valid {
        for example in reader.read(path)? {
            rows.val.push(rows.store.push(&example)?);
        }
        ensure!(!rows.val.is_empty(), "{}: no row is left for validation", shown_path(path));
    }
    ChatSource::new(rows, from.seq_len, from.seed, sft.packing)
}

/// Which of n rows are held out: round(n * fraction), but never all. The same for all seeds, so that runs can be compared.
fn held_out(n: usize, fraction: f64) -> Vec<bool> {
    let count = ((n as f64 * fraction).round() as usize).min(n.saturating_sub(1));
    let mut out = vec![false; n];
    if n > 0 {
        let order = Permutation::new(n as u64, Rng::new(0, "held-out rows"), 0);
        (0..count as u64).for_each(|i| out[order.at(i) as usize] = true);
    }
    out
}

struct ExampleReader<'a> {
    vfs: &'a dyn Vfs,
    encoder: Encoder<'a>,
    /// Default template variables; the row's own take precedence.
    kwargs: Map<String, Value>,
    seq_len: usize,
    notices: &'a mut Notices,
    progress: &'a mut Progress<'a>,
}

/// Counts of the rows of a file.
#[derive(Default)]
struct RowCounts {
    kept: u64,
    cut: u64,
    /// Rows without a target token: none at all, or none left after truncation. (count, place of the first)
    nothing: Option<(u64, String)>,
    cut_off: Option<(u64, String)>,
}

impl ExampleReader<'_> {
    /// The examples of a file, truncated to the length of a row; those without a target are dropped and counted.
    fn read(&mut self, path: &Path) -> Result<Vec<Example>> {
        let (mut examples, mut counts) = (Vec::new(), RowCounts::default());
        let (encoder, seq_len, kwargs) = (&self.encoder, self.seq_len, &self.kwargs);
        // The first token has no predecessor, so it is never a target.
        let learns = |example: &Example| example.scored.iter().skip(1).any(|scored| *scored);
        read_rows(self.vfs, path, self.progress, |place, row| {
            let row = row.with_kwargs(kwargs);
            let mut example = encoder.encode(&row).with_context(|| place.to_owned())?;
            let anything = learns(&example);
            if example.tokens.len() > seq_len {
                example.tokens.truncate(seq_len);
                example.scored.truncate(seq_len);
                counts.cut += 1;
            }
            if learns(&example) {
                counts.kept += 1;
                examples.push(example);
            } else {
                let list = if anything { &mut counts.cut_off } else { &mut counts.nothing };
                list.get_or_insert_with(|| (0, format!("{place}{}", if anything { String::new() } else { row.roles() }))).0 += 1;
            }
            Ok(())
        })?;
        counts.report(&shown_path(path), seq_len, self.notices)?;
        Ok(examples)
    }
}

impl RowCounts {
    fn report(self, name: &str, seq_len: usize, notices: &mut Notices) -> Result<()> {
        let dropped = |list: &Option<(u64, String)>| list.as_ref().map_or(0, |(n, _)| *n);
        let all = self.kept + dropped(&self.nothing) + dropped(&self.cut_off);
        ensure!(all > 0, "{name}: holds no row. A row is {{\"messages\": [...]}}, one a line");
        if self.cut > 0 {
            notices.push(format!("{name}: {} of {all} rows cut: longer than --seq-len {seq_len}", self.cut));
        }
        if let Some((n, first)) = self.cut_off {
            notices.push(format!(
                "{name}: {n} of {all} rows dropped, the first at {first}: no token to learn (of the assistant, or of the completion) among \
                 their first {seq_len}; a longer --seq-len keeps them"
            ));
        }
        if let Some((n, first)) = self.nothing {
            notices.push(format!(
                "{name}: {n} of {all} rows dropped, the first at {first}: nothing to learn: no message of the assistant counts"
            ));
        }
        Ok(())
    }
}
