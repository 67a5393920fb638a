//! Pre-tokenizers of byte-level tokenizers: llama.cpp's names (`tokenizer.ggml.pre`) and the rules of a `tokenizer.json` (llama-vocab.cpp,
//! `llm_tokenizer_bpe`).

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// One splitting step; each splits the pieces of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SplitStep {
    /// Each digit separately.
    Digits,
    /// GPT-2's splitting.
    Gpt2,
    /// Matches of the expression, and the text between them.
    Regex(String),
}

/// A pre-tokenizer that llama.cpp has a name for.
#[derive(Clone, Debug)]
pub(crate) struct PreTokenizer {
    steps: Vec<SplitStep>,
    /// Whether words that are tokens are not merged.
    pub ignore_merges: bool,
    /// Whether a text begins with the BOS token unless the file says otherwise.
    pub adds_bos: bool,
}

struct PreTokenizerEntry {
    /// The first is used for writing.
    names: &'static [&'static str],
    steps: fn() -> Vec<SplitStep>,
    ignore_merges: bool,
    adds_bos: bool,
    /// Whether llama.cpp splits exactly by the expression; otherwise no such file is written.
    exact: bool,
}

fn regex(pattern: &str) -> Vec<SplitStep> {
    vec![SplitStep::Regex(pattern.to_owned())]
}

const ROWS: [PreTokenizerEntry; 9] = [
    PreTokenizerEntry {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ],
        steps: || vec![SplitStep::Gpt2],
        ignore_merges: false,
        adds_bos: false,
        exact: true,
    },
    PreTokenizerEntry {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        steps: || vec![SplitStep::Digits, SplitStep::Gpt2],
        ignore_merges: false,
        adds_bos: false,
        exact: true,
    },
    PreTokenizerEntry {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"],
        steps: || regex(QWEN2),
        ignore_merges: false,
        adds_bos: false,
        exact: true,
    },
    PreTokenizerEntry {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        steps: || regex(LLAMA3),
        ignore_merges: true,
        adds_bos: true,
        exact: true,
    },
    PreTokenizerEntry {
        names: &["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"],
        steps: || regex(LLAMA3),
        ignore_merges: false,
        adds_bos: false,
        exact: true,
    },
    PreTokenizerEntry { names: &["tekken"], steps: || regex(TEKKEN), ignore_merges: true, adds_bos: true, exact: false },
    PreTokenizerEntry {
        names: &["gpt-4o", "llama4", "kanana2", "talkie"],
        steps: || regex(GPT4O),
        ignore_merges: false,
        adds_bos: false,
        exact: false,
    },
    PreTokenizerEntry { names: &["seed-coder"], steps: || regex(SEED_CODER), ignore_merges: false, adds_bos: false, exact: true },
    PreTokenizerEntry {
        names: &["deepseek-coder"],
        steps: || {
            let mut steps: Vec<SplitStep> =
                [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"].map(|p| SplitStep::Regex(p.into())).into();
            steps.push(SplitStep::Digits);
            steps
        },
        ignore_merges: false,
        adds_bos: false,
        exact: true,
    },
];

impl PreTokenizer {
    /// From llama.cpp's name.
    ///
    /// # Errors
    /// A missing or unknown name.
    pub(super) fn from_name(name: Option<&str>) -> Result<Self> {
        let name = name.filter(|name| *name != "default");
        let name = name.context(
            "tokenizer.ggml.pre is missing: the file does not say how words are split, and its model would see other tokens than in \
             training; take a newer file",
        )?;
        let row = ROWS.iter().find(|row| row.names.contains(&name));
        let row = row.with_context(|| {
            let known: Vec<&str> = ROWS.iter().flat_map(|row| row.names).copied().collect();
            format!("tokenizer.ggml.pre = \"{}\": lehr knows {}", crate::vfs::clean(name), known.join(", "))
        })?;
        Ok(Self { steps: (row.steps)(), ignore_merges: row.ignore_merges, adds_bos: row.adds_bos })
    }

    /// llama.cpp's name for the `pre_tokenizer` of a `tokenizer.json`.
    ///
    /// # Errors
    /// Rules that llama.cpp has no name for.
    pub(crate) fn name_of(pre_tokenizer: &Value, ignore_merges: bool) -> Result<&'static str> {
        let steps = steps_of(pre_tokenizer)?;
        let mut fitting = ROWS.iter().filter(|row| (row.steps)() == steps);
        let first =
            fitting.next().with_context(|| format!("pre_tokenizer: llama.cpp has no such rules: {}", short(pre_tokenizer)))?;
        let row = std::iter::once(first).chain(fitting).find(|row| row.ignore_merges == ignore_merges);
        let row = row.with_context(|| {
            format!("model.ignore_merges = {ignore_merges}: with these splitting rules llama.cpp has only the opposite")
        })?;
        ensure!(row.exact, "pre_tokenizer: llama.cpp only comes near to these rules, as \"{}\"", row.names[0]);
        Ok(row.names[0])
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let byte_level =
            |words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": words});
        let words = self.steps.last() == Some(&SplitStep::Gpt2);
        let steps = self.steps.iter().filter(|step| **step != SplitStep::Gpt2);
        let mut parts: Vec<Value> = steps
            .map(|step| match step {
                SplitStep::Digits => json!({"type": "Digits", "individual_digits": true}),
                SplitStep::Regex(pattern) => {
                    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
                }
                SplitStep::Gpt2 => Value::Null,
            })
            .collect();
        if parts.is_empty() {
            return byte_level(words);
        }
        parts.push(byte_level(words));
        json!({"type": "Sequence", "pretokenizers": parts})
    }
}

/// The steps of a `pre_tokenizer` that ends in the byte-level alphabet.
fn steps_of(pre_tokenizer: &Value) -> Result<Vec<SplitStep>> {
    let parts = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().context("pre_tokenizer: a Sequence without parts")?.as_slice()
        }
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let mut steps = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match part["type"].as_str() {
            Some("ByteLevel") if i + 1 == parts.len() => {
                ensure!(
                    part["add_prefix_space"] != true,
                    "pre_tokenizer: add_prefix_space: llama.cpp puts no space before a text"
                );
                if part["use_regex"] != false {
                    steps.push(SplitStep::Gpt2);
                }
            }
            Some("Digits") if part["individual_digits"] == true => steps.push(SplitStep::Digits),
            Some("Split") => {
                let kept = matches!(
                    (part["behavior"].as_str(), part["invert"].as_bool()),
                    (Some("Isolated"), Some(false) | None) | (Some("Removed"), Some(true))
                );
                let pattern = part["pattern"]["Regex"].as_str().filter(|_| kept);
                let pattern = pattern.with_context(|| format!("pre_tokenizer: llama.cpp has no such rule: {}", short(part)))?;
                steps.push(if pattern == r"\p{N}" { SplitStep::Digits } else { SplitStep::Regex(normalised_pattern(pattern)) });
            }
            _ => bail!("pre_tokenizer: llama.cpp has no such rule: {}", short(part)),
        }
    }
    Ok(steps)
}

/// The expression as in the table: some write case-insensitive endings letter by letter.
fn normalised_pattern(pattern: &str) -> String {
    pattern.replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
}

fn short(value: &Value) -> String {
    crate::vfs::clean(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pre_tokenizer_names_are_unambiguous_and_round_trip() {
        let mut seen = std::collections::BTreeSet::new();
        for row in &ROWS {
            for name in row.names {
                assert!(seen.insert(*name), "{name}");
                let pre = PreTokenizer::from_name(Some(name)).unwrap();
                let found = PreTokenizer::name_of(&pre.json(), pre.ignore_merges);
                match row.exact {
                    true => assert_eq!(found.unwrap(), row.names[0]),
                    false => assert!(found.unwrap_err().to_string().contains("comes near")),
                }
            }
        }
        for missing in [None, Some("default"), Some("kimi-k2")] {
            assert!(PreTokenizer::from_name(missing).unwrap_err().to_string().contains("tokenizer.ggml.pre"));
        }
    }

    #[test]
    fn unnamed_rules_are_refused() {
        for (rules, why) in [
            (json!({"type": "Whitespace"}), "Whitespace"),
            (json!({"type": "ByteLevel", "add_prefix_space": true}), "add_prefix_space"),
            (json!({"type": "Split", "pattern": {"Regex": "."}, "behavior": "Removed", "invert": false}), "Removed"),
            (json!({"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false}), "no such rules"),
            (Value::Null, "no such rule"),
        ] {
            assert!(format!("{:#}", PreTokenizer::name_of(&rules, false).unwrap_err()).contains(why), "{rules}");
        }
        let llama3 = PreTokenizer::from_name(Some("llama-bpe")).unwrap().json();
        assert_eq!(PreTokenizer::name_of(&llama3, false).unwrap(), "smaug-bpe");
        let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false});
        assert!(PreTokenizer::name_of(&gpt2, true).unwrap_err().to_string().contains("ignore_merges"));
    }
}
