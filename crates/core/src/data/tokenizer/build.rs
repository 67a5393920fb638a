//! Building tokenizers: bytes, characters, words, BPE. Each is built as a `tokenizer.json` and then loaded like any other.

use super::companions::Companions;
use super::{END_OF_TEXT, Tokenizer, TokenizerKind, UNKNOWN, word_splitter};
use crate::data::{Corpus, Notices};
use crate::model_files::char_of;
use crate::vfs::Vfs;
use anyhow::{Result, anyhow, ensure};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Trainer};

/// Maximum amount of text for BPE training; more hardly changes the merges and takes hours.
const MAX_BPE_TRAINING_BYTES: usize = 512 << 20;
/// Longer words are cut for BPE training: text without spaces would be one word, and every merge would scan all of it.
const MAX_WORD_BYTES: usize = 256;
/// Maximum vocabulary of `words` (the most frequent words); maximum number of distinct words that are counted.
const MAX_WORDS: usize = 1 << 16;
const MAX_COUNTED_WORDS: usize = 1 << 22;
/// Maximum mean length of a word in characters: text with spaces has less than ten.
const MAX_MEAN_WORD: u64 = 40;
/// Pairs that occur only once are not merged.
const MIN_PAIR_COUNT: u64 = 2;

impl Tokenizer {
    /// Builds the tokenizer of this kind. In all of them the text of [`END_OF_TEXT`] ends a document. `chars` uses the characters of both
    /// corpora, so that validation text always has tokens; `bpe:N` is trained on `train` alone.
    pub fn build(
        vfs: &dyn Vfs,
        kind: &TokenizerKind,
        train: &Corpus<'_>,
        val: Option<&Corpus<'_>>,
        notices: &mut Notices,
    ) -> Result<Self> {
        let corpora: Vec<&Corpus<'_>> = std::iter::once(train).chain(val).collect();
        let several = corpora.iter().any(|corpus| corpus.may_have_several_documents());
        match kind {
            TokenizerKind::Bytes => {
                let mut ends = several;
                for corpus in corpora {
                    ends = ends || corpus.contains(END_OF_TEXT, notices)?;
                }
                Self::bytes(ends)
            }
            TokenizerKind::Chars => {
                let (mut seen, mut ends) = (vec![false; char::MAX as usize + 1], several);
                for corpus in corpora {
                    ends |= collect_chars(corpus, &mut seen, notices)?;
                }
                Self::chars(('\0'..=char::MAX).filter(|c| seen[*c as usize]), ends)
            }
            TokenizerKind::Words => {
                let mut counts = HashMap::new();
                for corpus in corpora {
                    count_words(corpus, &mut counts, notices)?;
                }
                check_words(&counts)?;
                let mut words: Vec<(String, u64)> = counts.into_iter().collect();
                if words.len() > MAX_WORDS {
                    notices.push(format!(
                        "tokenizer = words: the text has {} different words; all but the {MAX_WORDS} most frequent become {UNKNOWN}. \
                         bpe:N suits such text better",
                        words.len()
                    ));
                    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                    words.truncate(MAX_WORDS);
                }
                Self::words(words.into_iter().map(|(word, _)| word))
            }
            TokenizerKind::Bpe(vocab_size) => {
                let tokenizer = train_bpe(train, *vocab_size, notices)?;
                if tokenizer.vocab_size() < *vocab_size {
                    let got = tokenizer.vocab_size();
                    notices.push(format!("tokenizer = bpe:{vocab_size}: the text has patterns for {got} tokens only"));
                }
                Ok(tokenizer)
            }
            TokenizerKind::Path(path) => Self::from_folder(vfs, path),
        }
    }

    /// One token per byte: the id is the byte. With `end_of_text`, id 256 ends documents.
    pub fn bytes(end_of_text: bool) -> Result<Self> {
        Self::from_value(&bytes_json(end_of_text)?, end_of_text)
    }

    /// One token per character, ids in the order of code points. With `end_of_text`, the last id ends documents.
    pub fn chars(chars: impl IntoIterator<Item = char>, end_of_text: bool) -> Result<Self> {
        Self::from_value(&chars_json(chars, end_of_text)?, end_of_text)
    }

    /// One token per word, ids in the order of the words' code points, then `<unk>` and [`END_OF_TEXT`]. White space only separates words:
    /// decoding joins words with one space.
    ///
    /// # Errors
    /// There are no words.
    pub fn words(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut roles = end_of_text_roles();
        roles.insert("unk_token".into(), json!(UNKNOWN));
        Self::from_bytes("tokenizer", serde_json::to_vec_pretty(&words_json(words)?)?, Companions::of(roles))
    }

    fn from_value(tokenizer: &Value, end_of_text: bool) -> Result<Self> {
        let config = if end_of_text { end_of_text_roles() } else { Map::new() };
        Self::from_bytes("tokenizer", serde_json::to_vec_pretty(tokenizer)?, Companions::of(config))
    }
}

/// `tokenizer.json` of [`Tokenizer::bytes`].
pub(super) fn bytes_json(end_of_text: bool) -> Result<Value> {
    let vocab = (0..=255u8).map(|b| (char_of(b).to_string(), json!(b))).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": null, "merges": []});
    Ok(with_model(byte_level.clone(), byte_level, model, vocab, end_of_text))
}

/// `tokenizer.json` of [`Tokenizer::chars`].
pub(super) fn chars_json(chars: impl IntoIterator<Item = char>, end_of_text: bool) -> Result<Value> {
    let chars: BTreeSet<char> = chars.into_iter().collect();
    ensure!(!chars.is_empty(), "tokenizer = chars: the text has no characters. Name a file with text in it");
    let vocab = chars.into_iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    Ok(with_model(
        // A class of all characters, because "." differs between regex engines.
        json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false}),
        json!({"type": "Fuse"}),
        // No token is called [UNK], so an unknown character is an error and is never lost silently.
        json!({"type": "WordLevel", "vocab": null, "unk_token": "[UNK]"}),
        vocab,
        end_of_text,
    ))
}

/// `tokenizer.json` of [`Tokenizer::words`]. Without a decoder, tokens are joined by spaces.
fn words_json(words: impl IntoIterator<Item = String>) -> Result<Value> {
    let special = |word: &String| word == UNKNOWN || word == END_OF_TEXT;
    let words: BTreeSet<String> = words.into_iter().filter(|word| !special(word)).collect();
    ensure!(!words.is_empty(), "tokenizer = words: the text has no words. Name a file with text in it");
    let mut vocab: Map<String, Value> = words.into_iter().enumerate().map(|(id, word)| (word, json!(id))).collect();
    let unknown = vocab.len();
    vocab.insert(UNKNOWN.into(), json!(unknown));
    let model = json!({"type": "WordLevel", "vocab": null, "unk_token": UNKNOWN});
    let mut tokenizer = with_model(json!({"type": "WhitespaceSplit"}), Value::Null, model, vocab, true);
    if let Some(added) = tokenizer["added_tokens"].as_array_mut() {
        added.insert(0, special_token(unknown, UNKNOWN));
    }
    Ok(tokenizer)
}

fn with_model(pre_tokenizer: Value, decoder: Value, mut model: Value, mut vocab: Map<String, Value>, end_of_text: bool) -> Value {
    let mut added = Vec::new();
    if end_of_text {
        let id = vocab.len();
        vocab.insert(END_OF_TEXT.into(), json!(id));
        added.push(special_token(id, END_OF_TEXT));
    }
    model["vocab"] = Value::Object(vocab);
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model})
}

/// An added token in the format of `tokenizer.json`.
pub(super) fn added_token(id: u32, token: &AddedToken) -> Value {
    json!({"id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip,
        "normalized": token.normalized, "special": token.special})
}

fn special_token(id: usize, content: &str) -> Value {
    added_token(id as u32, &AddedToken::from(content, true))
}

/// One token has all roles, as in GPT-2.
fn end_of_text_roles() -> Map<String, Value> {
    ["bos_token", "eos_token", "pad_token"].into_iter().map(|role| (role.to_owned(), json!(END_OF_TEXT))).collect()
}

/// Marks the characters of the text; returns whether it contains the end-of-text token, whose characters are not marked.
fn collect_chars(corpus: &Corpus, seen: &mut [bool], notices: &mut Notices) -> Result<bool> {
    let (mut pieces, mut ends) = (corpus.pieces(), false);
    while let Some(piece) = pieces.next_piece(notices)? {
        for (i, part) in piece.text.split(END_OF_TEXT).enumerate() {
            ends |= i > 0;
            part.chars().for_each(|c| seen[c as usize] = true);
        }
    }
    Ok(ends)
}

/// Refuses text without spaces between words.
fn check_words(counts: &HashMap<String, u64>) -> Result<()> {
    let count = counts.values().sum::<u64>().max(1);
    let characters: u64 = counts.iter().map(|(word, times)| word.chars().count() as u64 * times).sum();
    ensure!(
        characters / count < MAX_MEAN_WORD,
        "tokenizer = words: what stands between spaces is a word, and those of this text have {} characters on average: it is not written \
         in words. Use chars, bytes or bpe:N",
        characters / count
    );
    Ok(())
}

fn count_words(corpus: &Corpus, counts: &mut HashMap<String, u64>, notices: &mut Notices) -> Result<()> {
    let mut pieces = corpus.pieces();
    while let Some(piece) = pieces.next_piece(notices)? {
        for word in piece.text.split(END_OF_TEXT).flat_map(str::split_whitespace) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    ensure!(
                        counts.len() < MAX_COUNTED_WORDS,
                        "tokenizer = words: more than {MAX_COUNTED_WORDS} different words. Use bpe:N"
                    );
                    counts.insert(word.to_owned(), 1);
                }
            }
        }
    }
    Ok(())
}

/// Learns merges from a corpus. The trainer counts words first, so memory grows only with the number of distinct words.
fn train_bpe(corpus: &Corpus, vocab_size: usize, notices: &mut Notices) -> Result<Tokenizer> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_PAIR_COUNT)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut pieces = corpus.pieces();
    let (mut bytes, mut failure) = (0, None);
    let texts = std::iter::from_fn(|| {
        if bytes > MAX_BPE_TRAINING_BYTES {
            let mib = MAX_BPE_TRAINING_BYTES >> 20;
            notices.push(format!("tokenizer = bpe:{vocab_size}: trained on the first {mib} MiB of the text"));
            return None;
        }
        match pieces.next_piece(notices) {
            Ok(piece) => piece.map(|piece| {
                bytes += piece.text.len();
                piece.text
            }),
            Err(error) => {
                failure = Some(error);
                None
            }
        }
    });
    let fed = trainer.feed(texts, words_of);
    if let Some(error) = failure {
        return Err(error);
    }
    fed.map_err(training_failed)?;
    let mut model = BPE::default();
    let special = trainer.train(&mut model).map_err(training_failed)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    tokenizer.add_special_tokens(special).map_err(training_failed)?;
    let json = tokenizer.to_string(true).map_err(training_failed)?.into_bytes();
    Tokenizer::from_bytes("tokenizer", json, Companions::of(end_of_text_roles()))
}

/// The words of a text as byte-level BPE splits it. The special token is already a token and is not learned from.
fn words_of(text: &str) -> tokenizers::Result<Vec<String>> {
    let words = text.split(END_OF_TEXT).flat_map(word_splitter::split);
    let parts = words.flat_map(|word| word.as_bytes().chunks(MAX_WORD_BYTES));
    Ok(parts.map(|part| part.iter().map(|b| char_of(*b)).collect()).collect())
}

fn training_failed(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("tokenizer: BPE training failed: {error}")
}
