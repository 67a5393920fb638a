//! The corpora of the experiments, all in one vocabulary of characters: the base text, the shifted text, the task.

use super::arm::TrainingText;
use super::task::{CHARACTERS, TaskRows};
use crate::data::{Corpus, Dataset, Notices, Source, TextSource, TokenFile, Tokenizer};
use crate::papers::store::digest;
use crate::rng::Rng;
use crate::vfs::{RealFs, display_path};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The included text.
const STORIES: &str = include_str!("../../../assets/stories.txt");
/// Characters of the generated text.
const GENERATED: usize = 400_000;
/// Validation share.
const VAL_FRACTION: f64 = 0.1;

/// The corpora.
pub struct Corpora {
    base: Dataset,
    shifted: Dataset,
    task_ids: Vec<u32>,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// (purpose, description, training tokens)
    pub described: Vec<(&'static str, String, u64)>,
    /// Identifies the corpora in keys.
    pub digest: String,
}

impl Corpora {
    /// With `data`, that text is the base and the stories are the shifted text. Otherwise the stories are the base, and generated
    /// arithmetic is the shifted text.
    ///
    /// # Errors
    /// A text that cannot be read or is too short.
    pub fn open(data: Option<&Path>) -> anyhow::Result<Self> {
        let stories = ("the stories that ship with lehr".to_string(), STORIES.to_string());
        let [base, shifted] = match data {
            Some(path) => {
                let name = path.file_name().map_or_else(|| display_path(path), |n| crate::vfs::clean(&n.to_string_lossy()));
                [(name, read(path)?), stories]
            }
            None => [stories, ("made-up sums".to_string(), sums(GENERATED))],
        };
        let characters: BTreeSet<char> = [base.1.as_str(), &shifted.1, CHARACTERS].iter().flat_map(|t| t.chars()).collect();
        let tokenizer = Tokenizer::chars(characters, false)?;
        let dataset = |text: &str| -> anyhow::Result<Dataset> {
            let ids = tokenizer.encode(text)?;
            Dataset::split(Arc::new(TokenFile::from_tokens(&ids, &[ids.len() as u64], tokenizer.vocab_size())?), VAL_FRACTION)
        };
        let task_ids = tokenizer.encode(CHARACTERS)?;
        let texts = digest(&[&base.1, &shifted.1]);
        let (base_data, shifted_data) = (dataset(&base.1)?, dataset(&shifted.1)?);
        let task = TaskRows { ids: task_ids.clone(), seed: 0, seq_len: 64 };
        Ok(Self {
            described: vec![
                ("base", base.0, base_data.train.len()),
                ("shifted (P7)", shifted.0, shifted_data.train.len()),
                ("task (P8)", "words of four letters written backwards".into(), task.tokens().0),
            ],
            base: base_data,
            shifted: shifted_data,
            task_ids,
            vocab: tokenizer.vocab_size(),
            digest: texts,
        })
    }

    /// The task, with its rows in a separate order for every seed.
    pub fn task(&self, seq_len: usize, seed: u64) -> TaskRows {
        TaskRows { ids: self.task_ids.clone(), seed, seq_len }
    }

    /// Batches of a text.
    ///
    /// # Errors
    /// Too little text for one window.
    pub fn source(&self, text: TrainingText, seq_len: usize, seed: u64) -> anyhow::Result<Box<dyn Source>> {
        Ok(match text {
            TrainingText::Base => Box::new(TextSource::new(self.base.clone(), seq_len, seed)?),
            TrainingText::Shifted => Box::new(TextSource::new(self.shifted.clone(), seq_len, seed)?),
            TrainingText::Task => Box::new(self.task(seq_len, seed)),
        })
    }
}

/// All text of a file or folder.
fn read(path: &Path) -> anyhow::Result<String> {
    let mut notices = Notices::new();
    let corpus = Corpus::open(&RealFs, &[path.to_path_buf()], &mut notices)?;
    let mut pieces = corpus.pieces();
    let mut out = String::new();
    while let Some(piece) = pieces.next_piece(&mut notices)? {
        out.push_str(&piece.text);
    }
    Ok(out)
}

/// Lines of generated sums, some in words, unlike a story.
fn sums(characters: usize) -> String {
    let rng = Rng::new(1, "sums");
    let mut out = String::new();
    for i in 0.. {
        let [a, b] = [0, 1].map(|k| rng.below(i, k, 100));
        let line = match rng.below(i, 2, 4) {
            0 => format!("{a} + {b} = {}\n", a + b),
            1 => format!("{a} * {b} = {}\n", a * b),
            2 => format!("{} - {a} = {b}\n", a + b),
            _ => format!("add {a} to {b}: {}\n", a + b),
        };
        if out.len() + line.len() > characters {
            break;
        }
        out.push_str(&line);
    }
    out
}
