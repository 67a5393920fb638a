//! Limits on how much longer a tokenizer can make a text. A file of a few hundred bytes could double its input sixty times (a series of
//! `Replace`), or add a million tokens to every text: this would abort the process instead of failing.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

/// Maximum number of output bytes per input byte. NFKC makes at most 11, SentencePiece's space marker three.
const MAX_GROWTH: f64 = 1024.0;
/// Maximum number of tokens added around a text.
const MAX_AROUND: usize = 1024;

/// Refuses a tokenizer whose steps make a text much longer. `name` is for messages.
///
/// # Errors
/// The offending part, by name.
pub(super) fn check(name: &str, inner: &tokenizers::Tokenizer) -> Result<()> {
    let (normalizer, pre) = (json(inner.get_normalizer())?, json(inner.get_pre_tokenizer())?);
    let (decoder, post) = (json(inner.get_decoder())?, json(inner.get_post_processor())?);
    for (part, growth) in [("normalizer and pre_tokenizer", growth(&normalizer) * growth(&pre)), ("decoder", growth(&decoder))] {
        ensure!(growth <= MAX_GROWTH, "{name}: {part}: could make a text more than {MAX_GROWTH} times as long");
    }
    let (copies, tokens) = post_processor_growth(&post);
    ensure!(
        copies <= 1 && tokens <= MAX_AROUND,
        "{name}: post_processor: puts {tokens} tokens around {copies} copies of a text; lehr reads one copy and at most {MAX_AROUND}"
    );
    Ok(())
}

/// Refuses a post-processor that adds an id without a token, which no model has a row for. `name` is for messages.
///
/// # Errors
/// The id.
pub(super) fn check_ids(name: &str, inner: &tokenizers::Tokenizer) -> Result<()> {
    for id in added_ids(&json(inner.get_post_processor())?) {
        let is_token = u32::try_from(id).is_ok_and(|id| inner.id_to_token(id).is_some());
        ensure!(is_token, "{name}: post_processor: adds the token id {id}, but the tokenizer has no such token. Correct the id");
    }
    Ok(())
}

/// The ids that a post-processor can add.
fn added_ids(part: &Value) -> Vec<u64> {
    match part["type"].as_str().unwrap_or_default() {
        "Sequence" => steps(part, &["processors"]).flat_map(added_ids).collect(),
        "TemplateProcessing" => {
            let tokens = part["special_tokens"].as_object().into_iter().flat_map(serde_json::Map::values);
            tokens.filter_map(|token| token["ids"].as_array()).flatten().filter_map(Value::as_u64).collect()
        }
        _ => ["sep", "cls"].iter().filter_map(|role| part[role][1].as_u64()).collect(),
    }
}

fn json(part: Option<&impl Serialize>) -> Result<Value> {
    Ok(serde_json::to_value(part)?)
}

/// The steps of a sequence, stored under one of these names.
fn steps<'a>(part: &'a Value, names: &[&str]) -> impl Iterator<Item = &'a Value> {
    names.iter().find_map(|name| part.get(name)?.as_array()).into_iter().flatten()
}

/// Maximum number of output bytes per input byte, of a step or of all steps of a sequence.
fn growth(part: &Value) -> f64 {
    if part["type"] == "Sequence" {
        return steps(part, &["normalizers", "pretokenizers", "decoders"]).map(growth).product();
    }
    let length = |value: &Value| value.as_str().map_or(0, str::len) as f64;
    match part["type"].as_str().unwrap_or_default() {
        "Replace" => match length(&part["pattern"]["String"]) {
            // A regular expression, which may match one byte or the empty string.
            0.0 => length(&part["content"]) + 1.0,
            pattern => (length(&part["content"]) / pattern).max(1.0),
        },
        "Prepend" => length(&part["prepend"]) + 1.0,
        "Precompiled" => longest_text(part["precompiled_charsmap"].as_str().unwrap_or_default()),
        "NFKC" | "NFKD" => 11.0,
        "NFC" | "NFD" => 4.0,
        "BertNormalizer" | "Lowercase" => 4.0,
        // A byte becomes a character of two bytes; a space may be prepended.
        "ByteLevel" => 3.0,
        // The same with a character of up to four bytes.
        "Metaspace" => 5.0,
        _ => 1.0,
    }
}

/// Bytes of the longest text in SentencePiece's character map: the length of the index, the index itself, then zero-terminated texts.
fn longest_text(base64: &str) -> f64 {
    let bytes = decoded(base64);
    let index = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let texts = bytes.get(4usize.saturating_add(index)..).unwrap_or(&bytes);
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1) as f64
}

/// Decodes base64 without padding; other characters are skipped.
fn decoded(text: &str) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// Number of repetitions of a text by a post-processor, and number of tokens that it adds.
fn post_processor_growth(part: &Value) -> (usize, usize) {
    if part["type"] == "Sequence" {
        let all = steps(part, &["processors"]).map(post_processor_growth);
        return all
            .fold((1, 0), |(copies, tokens), (c, t)| (copies.saturating_mul(c), tokens.saturating_mul(c).saturating_add(t)));
    }
    if part["type"] != "TemplateProcessing" {
        return (1, 2);
    }
    let pieces = part["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = |piece: &Value| {
        let special = part["special_tokens"].get(piece["SpecialToken"]["id"].as_str()?)?;
        special["ids"].as_array().map(Vec::len)
    };
    let tokens = pieces.iter().filter_map(ids).fold(0usize, usize::saturating_add);
    (pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count(), tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn growth_in_published_tokenizers_is_far_below_the_limit() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]});
        assert_eq!(growth(&llama), 12.0);
        let qwen = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s"}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel"}]});
        assert_eq!(growth(&qwen) * growth(&json!({"type": "NFC"})), 12.0);
        assert_eq!(growth(&Value::Null), 1.0);
        assert_eq!((growth(&replace("ab", "c")), growth(&replace("", "ab")), growth(&replace("a", "bcd"))), (1.0, 3.0, 3.0));
    }

    #[test]
    fn growth_factors_multiply() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let inner = json!({"type": "Sequence", "normalizers": vec![double; 10]});
        assert_eq!(growth(&inner), 1024.0);
        assert_eq!(growth(&json!({"type": "Sequence", "normalizers": [inner, inner]})), 1024.0 * 1024.0);
        assert_eq!(growth(&json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 2]})), 9.0);
    }

    #[test]
    fn growth_of_table_entries_is_measured() {
        // An index of four bytes, then the texts "ab", "" and "cdefg".
        assert_eq!(decoded("BAAAAAECAwRhYgAAY2RlZmcA"), b"\x04\0\0\0\x01\x02\x03\x04ab\0\0cdefg\0");
        assert_eq!(longest_text("BAAAAAECAwRhYgAAY2RlZmcA"), 5.0);
        assert_eq!((longest_text(""), longest_text("////////")), (1.0, 6.0));
    }

    #[test]
    fn added_ids_are_found() {
        let template = json!({"type": "TemplateProcessing", "single": [], "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1, 99_999], "tokens": ["a", "b"]}}});
        let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 7], "cls": ["[CLS]", 8]});
        assert_eq!(added_ids(&json!({"type": "Sequence", "processors": [template, bert]})), [1, 99_999, 7, 8]);
        assert_eq!(added_ids(&Value::Null), [0u64; 0]);
    }

    #[test]
    fn prefixes_and_suffixes_are_counted() {
        let piece = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let template = |single: Vec<Value>| {
            json!({"type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1, 2], "tokens": ["a", "b"]}}})
        };
        let once = template(vec![piece("<s>"), text.clone(), piece("<s>"), piece("?")]);
        assert_eq!(post_processor_growth(&once), (1, 4));
        let twice = template(vec![text.clone(), text]);
        assert_eq!(post_processor_growth(&json!({"type": "Sequence", "processors": [once, twice, twice]})), (4, 16));
        assert_eq!(post_processor_growth(&Value::Null), (1, 2));
    }
}
