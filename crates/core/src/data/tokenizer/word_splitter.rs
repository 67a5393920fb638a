//! GPT-2's word splitter, written out: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
//!
//! The crate runs this as a backtracking regular expression and tracks the origin of every character; a loop over a table of character
//! classes finds the same words fifty times faster. Words repeat, so their ids are cached.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;
use tokenizers::utils::SysRegex;

/// Maximum number of cached words, and their maximum length: beyond that memory grows and hardly any repeat.
const MAX_REMEMBERED: usize = 1 << 17;
const MAX_REMEMBERED_BYTES: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    Letter,
    Number,
    Space,
    Other,
}

/// The class of every code point, computed with the crate's regular expressions so that both use the same Unicode version.
static CLASSES: LazyLock<Vec<CharacterClass>> = LazyLock::new(|| {
    let mut classes = vec![CharacterClass::Other; char::MAX as usize + 1];
    let all: String = ('\0'..=char::MAX).collect();
    for (pattern, class) in
        [(r"\p{L}+", CharacterClass::Letter), (r"\p{N}+", CharacterClass::Number), (r"\s+", CharacterClass::Space)]
    {
        if let Ok(regex) = SysRegex::new(pattern) {
            for (start, end) in regex.find_iter(&all) {
                all[start..end].chars().for_each(|c| classes[c as usize] = class);
            }
        }
    }
    classes
});

/// The words of a text, in order; joined they are the text.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let classes = CLASSES.as_slice();
    let mut rest = text;
    std::iter::from_fn(move || {
        let length = first_word(rest, classes)?;
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word)
    })
}

/// Length of the first word in bytes; `None` if the text is empty.
fn first_word(text: &str, classes: &[CharacterClass]) -> Option<usize> {
    let first = text.chars().next()?;
    if first == '\'' {
        let endings = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
        if let Some(ending) = endings.iter().find(|ending| text.starts_with(**ending)) {
            return Some(ending.len());
        }
    }
    let class_of = |c: char| classes[c as usize];
    let run = |text: &str, class: CharacterClass| text.find(|c| class_of(c) != class).unwrap_or(text.len());
    let after_space = text.strip_prefix(' ').and_then(|after| Some((after, class_of(after.chars().next()?))));
    if let Some((after, class)) = after_space.filter(|(_, class)| *class != CharacterClass::Space) {
        return Some(1 + run(after, class));
    }
    let class = class_of(first);
    let length = run(text, class);
    if class == CharacterClass::Space && length < text.len() {
        // The last white space belongs to the next word, unless it is the only one.
        let last = text[..length].char_indices().next_back().map_or(0, |(at, _)| at);
        return Some(if last == 0 { length } else { last });
    }
    Some(length)
}

/// Whether a `tokenizer.json` is byte-level BPE over these words, with at most an end-of-text token added: GPT-2's own, or one built by
/// `bpe:N`.
pub(super) fn is_gpt2_like(tokenizer: &Value) -> bool {
    let absent = |v: &Value, key: &str| v.get(key).is_none_or(Value::is_null);
    let off = |v: &Value, key: &str| v.get(key).is_none_or(|v| v.is_null() || *v == Value::Bool(false));
    let kind = |key: &str| tokenizer[key]["type"].as_str();
    let splitter = &tokenizer["pre_tokenizer"];
    let model = &tokenizer["model"];
    let added = tokenizer["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    absent(tokenizer, "normalizer")
        && (absent(tokenizer, "post_processor") || kind("post_processor") == Some("ByteLevel"))
        && kind("pre_tokenizer") == Some("ByteLevel")
        && off(splitter, "add_prefix_space")
        && splitter.get("use_regex").is_none_or(|v| *v == Value::Bool(true))
        && kind("model") == Some("BPE")
        && absent(model, "dropout")
        && added.iter().all(|t| t["content"] == super::END_OF_TEXT)
        && added.iter().all(|t| ["single_word", "lstrip", "rstrip"].iter().all(|key| off(t, key)))
}

/// Cache of the ids of words, for one tokenizer.
#[derive(Default)]
pub(in crate::data) struct WordMemory {
    places: HashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
}

impl WordMemory {
    /// Appends the ids of the word if it is cached.
    pub(super) fn append_cached(&self, word: &str, ids: &mut Vec<u32>) -> bool {
        let Some((start, length)) = self.places.get(word) else {
            return false;
        };
        ids.extend_from_slice(&self.ids[*start as usize..][..*length as usize]);
        true
    }

    pub(super) fn keep(&mut self, word: &str, ids: &[u32]) {
        if self.places.len() < MAX_REMEMBERED && word.len() <= MAX_REMEMBERED_BYTES {
            self.places.insert(word.into(), (self.ids.len() as u32, ids.len() as u32));
            self.ids.extend_from_slice(ids);
        }
    }
}
