//! Tokenizer files: reading untrusted `tokenizer.json` and its companion files, and writing them so that `AutoTokenizer` opens them.

use super::classes::{ClassParts, ClassSource};
use super::companions::{self, Companions, merge_map};
use super::ends::Generation;
use super::stream::{DecoderRules, is_byte_token};
use super::{BuiltinTokenizer, CharTable, END_OF_TEXT, TokenSpelling, Tokenizer, build, growth, guarded, word_splitter};
use crate::config::Architecture;
use crate::data::{display_text, shown_path};
use crate::model_files::adapter::folder_containing;
use crate::model_files::gguf::is_gguf;
use crate::model_files::hf_config::names;
use crate::model_files::snapshot;
use crate::vfs::Vfs;
use anyhow::{Context, Result, anyhow, ensure};
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use tokenizers::AddedToken;

/// Maximum size of `tokenizer.json` in bytes; with 250,000 tokens it has 20 MiB.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Maximum size of the small files next to it, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Ids may have gaps (reserved tokens), but an id this far above the number of tokens would only waste model memory.
const MAX_ID_GAP: u64 = 4096;
/// Maximum characters per word in WordPiece, whose time grows with their cube. BERT has 100.
const MAX_WORD_CHARS: u64 = 1000;
/// Files that are kept and written again unchanged.
const EXTRA_FILES: [&str; 3] = ["chat_template.jinja", "special_tokens_map.json", "added_tokens.json"];

impl Tokenizer {
    /// Reads a folder with `tokenizer.json` (for an adapter without one, that of its base model), such a file, or a GGUF file. Special
    /// tokens and their roles come from `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` in the same folder, as
    /// in `transformers`; if these name no role, the ids in `generation_config.json` or `config.json` give the tokens that end and begin a
    /// text.
    ///
    /// Text is split by the rules of the folder's `tokenizer_class` where `transformers` 5 has some: [`Self::class_note`].
    ///
    /// Errors name the file and what is wrong with it: larger than 64 MiB, not JSON, a duplicate token, ids that repeat, are negative or
    /// far beyond the number of tokens, an end token outside the model's vocabulary, merges that are left out at random.
    pub fn from_folder(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let path = &folder_containing(vfs, &snapshot(vfs, path)?, "tokenizer.json")?;
        if is_gguf(vfs, path)? {
            return Self::from_gguf(vfs, path);
        }
        let file = if vfs.is_dir(path)? { path.join("tokenizer.json") } else { path.to_owned() };
        let name = shown_path(&file);
        if !vfs.exists(&file)? {
            return Err(no_tokenizer(vfs, path, &name)?);
        }
        let json = read_bounded(vfs, &file, MAX_JSON_BYTES)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut config = read_config(vfs, &folder.join("tokenizer_config.json"))?;
        merge_map(&mut config, read_config(vfs, &folder.join("special_tokens_map.json"))?);
        let mut extra = Vec::new();
        for file in EXTRA_FILES {
            let path = folder.join(file);
            if vfs.is_file(&path)? {
                extra.push((file.to_owned(), read_bounded(vfs, &path, MAX_CONFIG_BYTES)?));
            }
        }
        let model = read_config(vfs, &folder.join("config.json"))?;
        let most = model.get("vocab_size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
        let generation = Generation::new(read_config(vfs, &folder.join("generation_config.json"))?, &model)?;
        let added = read_config(vfs, &folder.join("added_tokens.json"))?;
        Self::from_bytes(&name, json, Companions { config, added, extra, most, generation, model })
    }

    /// The files with which `AutoTokenizer.from_pretrained` opens this tokenizer: (name, content). Context length in tokens.
    ///
    /// transformers 5 builds some classes by rules of their own, and for a Qwen2 model a `Qwen2Tokenizer` whatever `tokenizer_class` says. If
    /// these rules are not this tokenizer's, another class and an `auto_map` without a slow class make it use tokenizer.json unchanged.
    pub fn files(&self, model_max_length: usize, architecture: Architecture) -> Result<Vec<(String, Vec<u8>)>> {
        let mut config = (*self.config).clone();
        let model = Map::from_iter([("model_type".to_owned(), json!(names(architecture).1))]);
        let (source, rules) = (ClassSource::of(&config, &model), ClassParts::of(&self.json)?);
        let added = self.inner.get_added_tokens_decoder();
        let is_lossy = source.lost_tokens(&rules, added.values().map(|token| token.content.as_str())).is_some();
        let has_other_rules = is_lossy || source.replaced(&rules, self.has_bytes())?.0.is_some();
        if has_other_rules {
            config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        }
        if architecture == Architecture::Qwen2 && (has_other_rules || !config.contains_key("tokenizer_class")) {
            config.insert("auto_map".into(), json!({"AutoTokenizer": [null, "unused.Unused"]}));
        }
        config.insert("model_max_length".into(), json!(model_max_length));
        config.entry("tokenizer_class").or_insert(json!("PreTrainedTokenizerFast"));
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        let mut files = vec![
            ("tokenizer.json".to_owned(), self.json.to_vec()),
            ("tokenizer_config.json".to_owned(), serde_json::to_vec_pretty(&config)?),
        ];
        files.extend(self.extra.iter().cloned());
        Ok(files)
    }

    /// Checks and loads a `tokenizer.json` with its companion files. `name` is for messages.
    pub(super) fn from_bytes(name: &str, json: Vec<u8>, files: Companions) -> Result<Self> {
        let read = |json: &[u8]| -> Result<TokenizerFile> {
            serde_json::from_slice(json).map_err(|e| anyhow!("{name}: {}", display_text(&e.to_string())))
        };
        let mut file = read(&json)?;
        check_ids(name, &file)?;
        let (json, class_note) = by_class(json, &file, &files).with_context(|| name.to_owned())?;
        if class_note.is_some() {
            file = read(&json)?;
        }
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&json))
            .map_err(|e| anyhow!("{name}: cannot be used: {}", display_text(&e)))?;
        growth::check(name, &inner)?;
        inner.set_encode_special_tokens(files.config.get("split_special_tokens") == Some(&json!(true)));
        if let tokenizers::models::ModelWrapper::BPE(model) = inner.get_model() {
            let dropout = model.dropout.unwrap_or(0.0);
            ensure!(dropout <= 0.0, "{name}: model.dropout = {dropout}: leaves out merges at random; set it to null");
        }
        // Batch settings of the file, which would truncate or pad the text.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| anyhow!("{name}: {e}"))?;
        for t in &file.added_tokens {
            let got = inner.token_to_id(&t.content).unwrap_or_default();
            let token = display_text(&t.content);
            ensure!(
                i64::from(got) == t.id,
                "{name}: added token {token:?} has id {}, but {got} by its place. Correct the id",
                t.id
            );
        }
        companions::add_tokens(&mut inner, &files)?;
        growth::check_ids(name, &inner)?;
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let role = |role: &str| companions::content(&files.config, role).and_then(|token| vocab.get(token).copied());
        let (eos, bos, pad) = (role("eos_token"), role("bos_token"), role("pad_token"));
        let added = inner.get_added_tokens_decoder();
        let Companions { config, extra, generation, .. } = files;
        let rules = DecoderRules::of(file.decoder.as_ref().unwrap_or(&Value::Null));
        let mut tokenizer = Self {
            direct: BuiltinTokenizer::Off,
            spelling: if file.has_byte_level_decoder() { TokenSpelling::ByteLevel } else { TokenSpelling::Other(rules) },
            json: json.into(),
            extra: Arc::new(extra),
            special: Arc::new(added.iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect()),
            vocab_size,
            eos: eos.or_else(|| generation.eos.iter().copied().find(|id| inner.id_to_token(*id).is_some())),
            bos: bos.or_else(|| generation.bos.filter(|id| inner.id_to_token(*id).is_some())),
            pad,
            inner: Arc::new(inner),
            config: Arc::new(config),
            generation: Arc::new(generation),
            ends: Arc::default(),
            class_note: class_note.map(Into::into),
        };
        tokenizer.name_roles();
        tokenizer.detect_direct(&vocab, added);
        Ok(tokenizer)
    }

    /// What differs between the folder's `tokenizer.json` and the rules of its `tokenizer_class`, if anything does: a line for the user.
    pub fn class_note(&self) -> Option<&str> {
        self.class_note.as_deref()
    }

    /// Refuses a tokenizer with tokens that a model with this vocabulary does not have.
    ///
    /// # Errors
    /// As above, naming both sizes.
    pub fn check_model(&self, vocab_size: usize) -> Result<()> {
        let own = self.vocab_size();
        ensure!(
            own <= vocab_size,
            "the tokenizer has {own} tokens, but the model's vocab_size (config.json) is {vocab_size}; they belong to different models"
        );
        Ok(())
    }

    /// Whether every byte is a token, as `byte_fallback` needs.
    fn has_bytes(&self) -> bool {
        (0..=255u8).all(|byte| self.inner.token_to_id(&format!("<0x{byte:02X}>")).is_some())
    }

    /// If no file names the end and begin tokens, and there is no chat template that relies on them, uses the ids of the model's
    /// configuration.
    fn name_roles(&mut self) {
        if matches!(self.chat_template(), Ok(None)) {
            let mut config = (*self.config).clone();
            for (role, id) in [("eos_token", self.eos), ("bos_token", self.bos)] {
                if let (false, Some(token)) = (config.contains_key(role), id.and_then(|id| self.inner.id_to_token(id))) {
                    config.insert(role.into(), json!(token));
                }
            }
            self.config = Arc::new(config);
        }
    }

    /// The tokenizer's rules in canonical form: equivalent files give the same value. Batch settings are left out.
    ///
    /// # Errors
    /// A `tokenizer.json` that is invalid.
    pub fn rules_of(json: &[u8]) -> Result<Value> {
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(|e| anyhow!("{}", display_text(&e)))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?;
        Ok(serde_json::to_value(&inner)?)
    }

    /// Uses the direct implementation if all fields equal those of [`Self::bytes`] or [`Self::chars`], or if words are split as in GPT-2.
    fn detect_direct(&mut self, vocab: &HashMap<String, u32>, added: impl IntoIterator<Item = (u32, AddedToken)>) {
        let (end, words): (Vec<_>, Vec<_>) = vocab.iter().partition(|(token, _)| *token == END_OF_TEXT);
        let chars: Option<Vec<(char, u32)>> = words.iter().map(|(token, id)| Some((only_char(token)?, **id))).collect();
        let Ok(mut mine) = serde_json::from_slice::<Value>(&self.json) else {
            return;
        };
        // Including those that only the companion files name.
        let added: BTreeMap<u32, AddedToken> = added.into_iter().collect();
        mine["added_tokens"] = added.iter().map(|(id, token)| build::added_token(*id, token)).collect();
        // The direct implementation reads the marker as a token.
        if self.eos.is_some() == end.is_empty() || self.inner.get_encode_special_tokens() {
            return;
        }
        let Some(chars) = chars else {
            if word_splitter::is_gpt2_like(&mine) {
                self.direct = BuiltinTokenizer::Words;
            }
            return;
        };
        let same = |parts: Result<Value>| parts.is_ok_and(|parts| parts == mine);
        if same(build::bytes_json(!end.is_empty())) {
            self.direct = BuiltinTokenizer::Bytes;
        } else if same(build::chars_json(chars.iter().map(|(c, _)| *c), !end.is_empty())) {
            self.direct = BuiltinTokenizer::Chars(Arc::new(CharTable::new(chars)));
            self.spelling = TokenSpelling::Verbatim;
        }
    }
}

/// A `tokenizer.json` with the rules of the folder's class, and a note if they are others.
fn by_class(json: Vec<u8>, file: &TokenizerFile, files: &Companions) -> Result<(Vec<u8>, Option<String>)> {
    let bytes = file.model.vocab.0.iter().filter(|(token, _)| is_byte_token(token)).count();
    let source = ClassSource::of(&files.config, &files.model);
    let rules = ClassParts::of(&json)?;
    let (parts, note) = source.replaced(&rules, bytes == 256)?;
    let lost = source.lost_tokens(&rules, file.added_tokens.iter().map(|token| token.content.as_str()));
    let notes: Vec<String> = note.into_iter().chain(lost).collect();
    let json = match parts {
        Some(parts) => parts.put_into(&json)?,
        None => json,
    };
    Ok((json, (!notes.is_empty()).then(|| notes.join(". "))))
}

/// Why there is no tokenizer, and the remedy.
fn no_tokenizer(vfs: &dyn Vfs, path: &Path, name: &str) -> Result<anyhow::Error> {
    const SLOW: [&str; 4] = ["tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"];
    let mut there = Vec::new();
    for file in SLOW {
        if vfs.is_file(&path.join(file))? {
            there.push(file);
        }
    }
    if there.is_empty() {
        return Ok(anyhow!(
            "tokenizer = {name}: no such file. Use bytes, chars, words, bpe:N, or a path to a tokenizer.json or its folder"
        ));
    }
    let folder = shown_path(path);
    Ok(anyhow!(
        "{folder}: holds {}, but no tokenizer.json, which is what lehr reads. Make it with transformers: \
         AutoTokenizer.from_pretrained({folder:?}).save_pretrained({folder:?})",
        there.join(" and ")
    ))
}

fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn read_bounded(vfs: &dyn Vfs, path: &Path, most: u64) -> Result<Vec<u8>> {
    let name = shown_path(path);
    vfs.read(path, most).map_err(|e| match e.kind() {
        ErrorKind::FileTooLarge => anyhow!("{name}: more than {} MiB. Is it the right file?", most >> 20),
        _ => anyhow!("{name}: cannot be read: {e}"),
    })
}

/// A small JSON object next to the tokenizer; empty if the file does not exist.
fn read_config(vfs: &dyn Vfs, path: &Path) -> Result<Map<String, Value>> {
    if !vfs.is_file(path)? {
        return Ok(Map::new());
    }
    let name = shown_path(path);
    serde_json::from_slice(&read_bounded(vfs, path, MAX_CONFIG_BYTES)?)
        .map_err(|e| anyhow!("{name}: {}", display_text(&e.to_string())))
}

/// The parts of a `tokenizer.json` that are checked before the crate, which does not validate them, reads it.
#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelPart,
    #[serde(default)]
    added_tokens: Vec<AddedPart>,
    #[serde(default)]
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct ModelPart {
    vocab: Vocab,
    /// Of WordPiece, which tries every substring of a word.
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
}

#[derive(Deserialize)]
struct AddedPart {
    id: i64,
    content: String,
}

/// Tokens and ids in file order; for Unigram, whose vocabulary is a list, the id is the index.
struct Vocab(Vec<(String, i64)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from token to id, or a list of [token, score]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(token) = map.next_key::<String>()? {
                    let id = map
                        .next_value::<i64>()
                        .map_err(|e| de::Error::custom(format!("token {:?}: {e}", display_text(&token))))?;
                    entries.push((token, id));
                }
                Ok(Vocab(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some((token, _)) = list.next_element::<(String, IgnoredAny)>()? {
                    let id = entries.len() as i64;
                    entries.push((token, id));
                }
                Ok(Vocab(entries))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

impl TokenizerFile {
    /// Whether token texts are in GPT-2's byte alphabet.
    fn has_byte_level_decoder(&self) -> bool {
        let is = |decoder: &Value, kind: &str| decoder.get("type").and_then(Value::as_str) == Some(kind);
        self.decoder.as_ref().is_some_and(|decoder| {
            let only = decoder.get("decoders").and_then(Value::as_array).filter(|list| list.len() == 1).map(|list| &list[0]);
            is(decoder, "ByteLevel") || (is(decoder, "Sequence") && only.is_some_and(|d| is(d, "ByteLevel")))
        })
    }
}

fn check_ids(name: &str, file: &TokenizerFile) -> Result<()> {
    let vocab = &file.model.vocab.0;
    ensure!(!vocab.is_empty() || !file.added_tokens.is_empty(), "{name}: model.vocab is empty");
    let most = file.model.max_input_chars_per_word.unwrap_or(0);
    ensure!(
        most <= MAX_WORD_CHARS,
        "{name}: model.max_input_chars_per_word = {most}: lehr reads at most {MAX_WORD_CHARS}, words so long take hours"
    );
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    for (token, id) in vocab {
        ensure!(tokens.insert(token.as_str()), "{name}: model.vocab has the token {:?} twice", display_text(token));
        ensure!(ids.insert(*id), "{name}: model.vocab: token {:?} has id {id}, which another token has too", display_text(token));
    }
    let count = vocab.len() + file.added_tokens.iter().filter(|t| !tokens.contains(t.content.as_str())).count();
    let most = 2 * count as u64 + MAX_ID_GAP;
    let added = file.added_tokens.iter().map(|t| (&t.content, t.id));
    for (token, id) in vocab.iter().map(|(token, id)| (token, *id)).chain(added) {
        let fits = u64::try_from(id).is_ok_and(|id| id < most);
        ensure!(
            fits,
            "{name}: token {:?} has id {id}, but there are {count} tokens. Correct or regenerate the file",
            display_text(token)
        );
    }
    Ok(())
}
