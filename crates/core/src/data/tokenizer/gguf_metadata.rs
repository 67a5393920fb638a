//! Conversion of a tokenizer to GGUF metadata.
//!
//! llama.cpp does not use `tokenizer.json`: it has a few kinds of tokenizers with fixed rules. Unsupported features are rejected by name,
//! and the result is read back and compared with the original.

use super::Tokenizer;
use crate::model_files::char_of;
use crate::model_files::gguf::{
    GgufTokenizer, MAX_TOKEN, Metadata, MetadataValue, PreTokenizer, TokenType, bytes_of, escape, fillers, tokenizer_files,
};
use crate::vfs::clean;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Texts that must give the same tokens: scripts, numbers, whitespace, code, emoji, marks.
const SAMPLES: [&str; 12] = [
    "Hello, world! It's 10:45; I've paid $1,234.56 (or 7%) for it. THEY'LL say: don't.",
    "a  b   c\n\n\nd\t\te \n f\r\n  g   \n   12  345 6789\n\n  7",
    "fn main() { let x_1 = vec![1, 2, 3]; println!(\"{:?}\", x_1); } // x != y && z >= 0xFF",
    "Grüße aus Köln, façade, naïve, Ærø, İstanbul, ½ ² Ⅷ ١٢٣ १२३",
    "Привет, мир! Как дела? Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم",
    "你好，世界！今天是2024年。こんにちは世界、カタカナ。안녕하세요 세계",
    "สวัสดีชาวโลก नमस्ते दुनिया வணக்கம் উলক",
    "😀👍🏽👨‍👩‍👧 ❤️ 🇩🇪 … — – “quoted” ‘single’ «guillemets» ™ ©",
    "e\u{301}a\u{308}o\u{302} n\u{303} \u{200b}\u{a0}\u{3000}x\u{2028}y",
    "<|endoftext|> <s> </s> <unk> [INST] <pad> <0x0A> ▁ Ġ Ċ",
    " leading and trailing \n",
    "'S 'T 'RE 's't're x'Ll y'D",
];

/// The metadata of this tokenizer for a model with a vocabulary of `vocab_size`.
///
/// # Errors
/// Rules that llama.cpp does not support, by name.
pub fn gguf_metadata(tokenizer: &Tokenizer, vocab_size: usize) -> Result<GgufTokenizer> {
    let rules: Value = serde_json::from_slice(&tokenizer.rules()?)?;
    let mut table = TokenTable::new(&rules, tokenizer, vocab_size)?;
    let mut out = GgufTokenizer { metadata: Metadata::default(), notes: Vec::new() };
    let (model, pre_tokenizer) = (&rules["model"], &rules["pre_tokenizer"]);
    let compared = match model["type"].as_str().unwrap_or_default() {
        "WordLevel" if pre_tokenizer["pattern"]["Regex"] == "[\\s\\S]" => {
            table.single(&mut out, |token| Some(token.as_bytes().to_vec()))?;
            Compared::Vocabulary
        }
        "WordLevel" => {
            bail!("a word tokenizer: llama.cpp has none; train the model with --tokenizer bpe:N, chars or bytes")
        }
        "BPE" if model["merges"].as_array().is_some_and(Vec::is_empty) && table.normal().count() == 256 => {
            table.single(&mut out, |token| bytes_of(token).filter(|bytes| bytes.len() == 1))?;
            Compared::Everything
        }
        "BPE" if model["byte_fallback"] == true => {
            table.sentencepiece(&rules, &mut out)?;
            Compared::Nothing
        }
        "BPE" => {
            table.byte_level(&rules, &mut out)?;
            if rules["normalizer"].is_null() { Compared::Everything } else { Compared::Composed }
        }
        other => bail!("a tokenizer of type {}: llama.cpp is given byte-level BPE or SentencePiece's BPE only", clean(other)),
    };
    table.finish(tokenizer, &mut out)?;
    compare(tokenizer, &table, &out.metadata, compared)?;
    Ok(out)
}

/// The parts compared after reading back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Everything,
    /// All but text with combining marks, which the tokenizer normalises.
    Composed,
    /// Only text in the vocabulary, which the tokenizer is limited to.
    Vocabulary,
    /// lehr reads such a file like transformers, which differs from llama.cpp; the rules have been compared instead.
    Nothing,
}

/// The vocabulary by id.
struct TokenTable {
    /// Text and kind; `None` for rows of the model without a token.
    tokens: Vec<Option<(String, TokenType)>>,
    begin: Option<u32>,
    end: Option<u32>,
}

impl TokenTable {
    fn new(rules: &Value, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self> {
        let frame = tokenizer.frame()?;
        let one = |ids: &[u32], role: Option<u32>, what: &str| match ids {
            [] => Ok(None),
            [id] if role == Some(*id) => Ok(Some(*id)),
            _ => bail!("post_processor: puts more than the {what} token around a text: llama.cpp does not"),
        };
        let (begin, end) = (one(&frame.begin, tokenizer.bos_id(), "begin")?, one(&frame.end, tokenizer.eos_id(), "end")?);
        let mut table = Self { tokens: vec![None; vocab_size], begin, end };
        let vocab = &rules["model"]["vocab"];
        for (token, id) in vocab.as_object().into_iter().flatten() {
            table.put(id.as_u64().unwrap_or(u64::MAX), token, TokenType::Normal)?;
        }
        for added in rules["added_tokens"].as_array().into_iter().flatten() {
            let content = added["content"].as_str().unwrap_or_default();
            for flag in ["lstrip", "rstrip", "single_word"] {
                ensure!(added[flag] != true, "the added token {:?} has {flag}: llama.cpp has no such tokens", clean(content));
            }
            let kind = if added["special"] == true { TokenType::Control } else { TokenType::UserDefined };
            table.put(added["id"].as_u64().unwrap_or(u64::MAX), content, kind)?;
        }
        Ok(table)
    }

    fn put(&mut self, id: u64, token: &str, kind: TokenType) -> Result<()> {
        let rows = self.tokens.len();
        let place = usize::try_from(id).ok().and_then(|id| self.tokens.get_mut(id));
        *place.with_context(|| format!("token {:?} has id {id}, but the model has {rows} rows", clean(token)))? =
            Some((token.to_owned(), kind));
        Ok(())
    }

    /// Tokens that are not added tokens.
    fn normal(&self) -> impl Iterator<Item = (usize, &str)> {
        let used = self.tokens.iter().enumerate().filter_map(|(id, token)| Some((id, token.as_ref()?)));
        used.filter(|(_, (_, kind))| *kind == TokenType::Normal).map(|(id, (token, _))| (id, token.as_str()))
    }

    /// lehr's own tokenizers of characters and bytes. Written as BPE that merges only the bytes of a character; without an EOS token, as
    /// RWKV's longest match, because llama.cpp then uses token 11 of a BPE as EOS.
    fn single(&mut self, out: &mut GgufTokenizer, text_of: impl Fn(&str) -> Option<Vec<u8>>) -> Result<()> {
        let bpe = self.tokens.iter().flatten().any(|(_, kind)| *kind == TokenType::Control);
        // Two bytes that are never adjacent in a text: llama.cpp requires at least one merge.
        let mut merges = BTreeSet::from([format!("{} {}", char_of(0xff), char_of(0xfe))]);
        for (token, kind) in self.tokens.iter_mut().flatten().filter(|(_, kind)| *kind == TokenType::Normal) {
            let text = text_of(token).with_context(|| format!("token {:?} is not a single character or byte", clean(token)))?;
            debug_assert_eq!(*kind, TokenType::Normal);
            let spelled: Vec<char> = text.iter().map(|byte| char_of(*byte)).collect();
            for at in 1..spelled.len() {
                merges.insert(format!("{} {}", spelled[..at].iter().collect::<String>(), spelled[at]));
            }
            *token = if bpe { spelled.into_iter().collect() } else { escape(&text) };
        }
        let set =
            |out: &mut GgufTokenizer, name: &str, value: &str| out.metadata.set(name, MetadataValue::Text(value.to_owned()));
        if bpe {
            set(out, "tokenizer.ggml.model", "gpt2");
            set(out, "tokenizer.ggml.pre", "gpt-2");
            out.metadata.set("tokenizer.ggml.merges", MetadataValue::Texts(merges.into_iter().collect()));
        } else {
            set(out, "tokenizer.ggml.model", "rwkv");
        }
        Ok(())
    }

    fn byte_level(&mut self, rules: &Value, out: &mut GgufTokenizer) -> Result<()> {
        let model = &rules["model"];
        for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = &model[key];
            ensure!(value.is_null() || *value == "", "model.{key} = {}: llama.cpp has no such BPE", clean(&value.to_string()));
        }
        match rules["normalizer"]["type"].as_str() {
            None => {}
            Some("NFC") => {
                out.notes.push("normalizer NFC: llama.cpp does not normalise; only text that is NFC has the same tokens".into())
            }
            Some(other) => bail!("normalizer {}: llama.cpp does not normalise", clean(other)),
        }
        let pre = PreTokenizer::name_of(&rules["pre_tokenizer"], model["ignore_merges"] == true)?;
        let merges = merges(model)?;
        let mut list: Vec<String> = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        if list.is_empty() {
            list.push(format!("{} {}", char_of(0xff), char_of(0xfe)));
        }
        out.metadata.set("tokenizer.ggml.model", MetadataValue::Text("gpt2".into()));
        out.metadata.set("tokenizer.ggml.pre", MetadataValue::Text(pre.into()));
        out.metadata.set("tokenizer.ggml.merges", MetadataValue::Texts(list));
        Ok(())
    }

    /// SentencePiece's BPE, with scores that give the order of merges.
    fn sentencepiece(&mut self, rules: &Value, out: &mut GgufTokenizer) -> Result<()> {
        let model = &rules["model"];
        ensure!(model["ignore_merges"] != true, "model.ignore_merges = true: llama.cpp has no such SentencePiece");
        let prefix = space_prefix(rules)?;
        for byte in 0..=255u8 {
            let name = format!("<0x{byte:02X}>");
            let found = self.tokens.iter_mut().flatten().find(|(token, _)| *token == name);
            found.with_context(|| format!("model.byte_fallback: the vocabulary has no token {name}"))?.1 = TokenType::Byte;
        }
        if let Some(unknown) = model["unk_token"].as_str() {
            let found = self.tokens.iter_mut().enumerate().find(|(_, t)| t.as_ref().is_some_and(|(token, _)| token == unknown));
            if let Some((id, Some(token))) = found {
                token.1 = TokenType::Unknown;
                out.metadata.set("tokenizer.ggml.unknown_token_id", MetadataValue::U32(id as u32));
            }
        }
        let scores = self.scores(&merges(model)?)?;
        out.metadata.set("tokenizer.ggml.model", MetadataValue::Text("llama".into()));
        out.metadata.set("tokenizer.ggml.pre", MetadataValue::Text("default".into()));
        out.metadata.set("tokenizer.ggml.scores", MetadataValue::F32s(scores));
        out.metadata.set("tokenizer.ggml.add_space_prefix", MetadataValue::Bool(prefix));
        Ok(())
    }

    /// llama.cpp merges any two pieces that form a piece, the best score first: the merges must be those of the vocabulary, in its order.
    fn scores(&self, merges: &[(&str, &str)]) -> Result<Vec<f32>> {
        let ids: HashMap<&str, usize> = self.normal().map(|(id, token)| (token, id)).collect();
        let pairs: HashSet<(&str, &str)> = merges.iter().copied().collect();
        for (id, token) in self.normal() {
            ensure!(token.len() <= MAX_TOKEN, "token {id} has {} bytes, more than {MAX_TOKEN}", token.len());
            for (at, _) in token.char_indices().skip(1) {
                let pair = token.split_at(at);
                let both = ids.contains_key(pair.0) && ids.contains_key(pair.1);
                ensure!(
                    !both || pairs.contains(&pair),
                    "model.merges: {:?} and {:?} are not merged; in llama.cpp they would be",
                    pair.0,
                    pair.1
                );
            }
        }
        let mut scores = vec![0.0; self.tokens.len()];
        let (mut last, mut made) = (None, 0u32);
        for (left, right) in merges {
            let whole = format!("{left}{right}");
            let id = ids.get(whole.as_str()).copied();
            let id = id.with_context(|| format!("model.merges: {:?} is not a token", clean(&whole)))?;
            if last != Some(id) {
                ensure!(
                    scores[id] == 0.0,
                    "model.merges: {:?} is made at two places; llama.cpp has one score for it",
                    clean(&whole)
                );
                made += 1;
                scores[id] = -(made as f32);
                last = Some(id);
            }
        }
        Ok(scores)
    }

    /// Shared by all kinds.
    fn finish(&mut self, tokenizer: &Tokenizer, out: &mut GgufTokenizer) -> Result<()> {
        let used: HashSet<&str> = self.tokens.iter().flatten().map(|(token, _)| token.as_str()).collect();
        let mut filler = fillers(&used);
        let rows =
            self.tokens.iter().enumerate().map(|(id, token)| token.clone().unwrap_or_else(|| (filler(id), TokenType::Unused)));
        let (tokens, kinds): (Vec<String>, Vec<i32>) = rows.map(|(token, kind)| (token, kind as i32)).unzip();
        let mut distinct = HashSet::new();
        for token in &tokens {
            ensure!(distinct.insert(token.as_str()), "two tokens would be spelled {:?}", clean(token));
        }
        let unused = kinds.iter().position(|kind| *kind == TokenType::Unused as i32);
        let m = &mut out.metadata;
        m.set("tokenizer.ggml.tokens", MetadataValue::Texts(tokens));
        m.set("tokenizer.ggml.token_type", MetadataValue::I32s(kinds));
        if let Some(bos) = tokenizer.bos_id() {
            m.set("tokenizer.ggml.bos_token_id", MetadataValue::U32(bos));
        }
        let mut ends: Vec<u32> = tokenizer.eos_id().into_iter().collect();
        ends.extend(tokenizer.end_tokens().ids().iter().copied().filter(|id| Some(*id) != tokenizer.eos_id()));
        if ends.is_empty() && m.text("tokenizer.ggml.model")? != Some("rwkv") {
            // Without one llama.cpp uses a text token.
            ends.push(unused.context("no end-of-text token: llama.cpp would choose one of the vocabulary")? as u32);
        }
        for (name, id) in ["eos", "eot", "eom"].into_iter().zip(&ends) {
            m.set(format!("tokenizer.ggml.{name}_token_id"), MetadataValue::U32(*id));
        }
        if ends.len() > 3 {
            out.notes.push(format!("{} tokens end a text; a GGUF file names three: the Modelfile names all", ends.len()));
        }
        if let Some(pad) = tokenizer.pad_id() {
            m.set("tokenizer.ggml.padding_token_id", MetadataValue::U32(pad));
        }
        m.set("tokenizer.ggml.add_bos_token", MetadataValue::Bool(self.begin.is_some()));
        m.set("tokenizer.ggml.add_eos_token", MetadataValue::Bool(self.end.is_some()));
        if let Some(template) = tokenizer.chat_template()? {
            m.set("tokenizer.chat_template", MetadataValue::Text(template));
        }
        Ok(())
    }
}

/// Whether a space is prepended. llama.cpp prepends one to every piece of text between special tokens, or none.
fn space_prefix(rules: &Value) -> Result<bool> {
    let steps = match rules["normalizer"]["type"].as_str() {
        Some("Sequence") => rules["normalizer"]["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default(),
        Some(_) => std::slice::from_ref(&rules["normalizer"]),
        None => &[],
    };
    let replaces = |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "▁";
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "▁";
    let pre = &rules["pre_tokenizer"];
    match (steps, pre["type"].as_str()) {
        ([first, second], None) if prepends(first) && replaces(second) => Ok(true),
        ([only], None) if replaces(only) => Ok(false),
        ([], Some("Metaspace")) if pre["prepend_scheme"] == "never" && pre["split"] == false && pre["replacement"] == "▁" => {
            Ok(false)
        }
        ([], Some("Metaspace")) => bail!(
            "pre_tokenizer Metaspace with prepend_scheme = {}, split = {}: llama.cpp puts a blank before every text behind a special token",
            clean(&pre["prepend_scheme"].to_string()),
            clean(&pre["split"].to_string())
        ),
        _ => bail!("normalizer and pre_tokenizer: llama.cpp only has SentencePiece's blanks (Prepend and Replace)"),
    }
}

/// The pairs of `model.merges`, in either format.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>> {
    let list = model["merges"].as_array().context("model.merges is missing")?;
    fn pair(merge: &Value) -> Option<(&str, &str)> {
        match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(parts) => Some((parts.first()?.as_str()?, parts.get(1)?.as_str()?)),
            _ => None,
        }
    }
    list.iter().map(|merge| pair(merge).context("model.merges: not a list of pairs")).collect()
}

/// Read the metadata back and compare tokens.
fn compare(tokenizer: &Tokenizer, table: &TokenTable, metadata: &Metadata, what: Compared) -> Result<()> {
    if what == Compared::Nothing {
        return Ok(());
    }
    let back = Tokenizer::from_gguf_settings(tokenizer_files(metadata)?)?;
    let same = |text: &str| -> Result<()> {
        let (wanted, found) = (tokenizer.encode_text(text)?, back.encode_text(text)?);
        ensure!(wanted == found, "{:?} would have the tokens {found:?} in llama.cpp, not {wanted:?}", clean(text));
        Ok(())
    };
    let composed = |text: &str| !text.contains(|c| ('\u{300}'..'\u{370}').contains(&c));
    for text in SAMPLES {
        if what == Compared::Everything || what == Compared::Composed && composed(text) {
            same(text)?;
        }
    }
    for (id, _) in table.normal() {
        let text = tokenizer.decode(&[id as u32])?;
        // An incomplete character is not text.
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            same(&text)?;
        }
    }
    Ok(())
}
