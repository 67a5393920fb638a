//! Recorded completions of a replay: JSON lines, checked field by field. Rows of a run's `samples.jsonl` are accepted too: they have other
//! names for tokens and log-probabilities, and their advantages are recomputed.

use crate::train::reinforce::Rollout;
use crate::vfs::{clean, display_path};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::Path;

/// Maximum length of a line.
const MAX_LINE: usize = 64 << 20;
/// Log-probabilities may be above 0 by rounding error only.
const ABOVE_ZERO: f64 = 1e-3;

/// Limits of the model.
#[derive(Clone, Copy, Debug)]
pub struct ModelLimits {
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Maximum tokens of prompt and completion.
    pub context: usize,
}

/// Read all rows of a file, or of standard input for `-`; only those of `step` if there are several.
///
/// # Errors
/// One line with file, row, field and cause.
pub fn read(path: &Path, limits: ModelLimits, step: Option<u64>) -> Result<Vec<Rollout>> {
    let stdin = path == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { display_path(path) };
    let reader: Box<dyn BufRead> = match stdin {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::io::BufReader::new(std::fs::File::open(path).with_context(|| name.clone())?)),
    };
    let (mut rows, mut steps) = (Vec::new(), BTreeSet::new());
    for (i, line) in reader.lines().enumerate() {
        let at = || format!("{name}:{}", i + 1);
        let line = line.with_context(at)?;
        if line.trim().is_empty() {
            continue;
        }
        ensure!(line.len() <= MAX_LINE, "{}: a line of {} MiB; split it", at(), line.len() >> 20);
        let (of, row) = row(line.trim_start_matches('\u{feff}'), limits).with_context(at)?;
        steps.insert(of);
        if step.is_none() || step == of {
            rows.push(row);
        }
    }
    let known = || steps.iter().flatten().map(u64::to_string).collect::<Vec<_>>().join(", ");
    ensure!(!steps.is_empty(), "{name}: holds no row");
    ensure!(!rows.is_empty(), "{name}: holds no row of step {}; its steps: {}", step.unwrap_or_default(), known());
    ensure!(step.is_some() || steps.len() == 1, "{name}: holds rows of several steps ({}); choose one with --step", known());
    let given = rows.iter().filter(|r| !r.advantages.is_empty()).count();
    ensure!(
        given == 0 || given == rows.len(),
        "{name}: {given} of {} rows have \"advantages\"; give them for all rows, or rewards for all",
        rows.len()
    );
    Ok(rows)
}

/// One row and its step. Unused fields, such as the text of a completion, are allowed.
fn row(line: &str, limits: ModelLimits) -> Result<(Option<u64>, Rollout)> {
    let fields: Map<String, Value> = match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => bail!("needs an object such as {{\"group\":0,\"prompt\":[1],\"completion\":[2],\"reward\":1.0}}"),
        Err(e) => bail!("is not JSON: {e}"),
    };
    let of_run = fields.contains_key("prompt_tokens");
    let [prompt, completion, old_logprobs] = match of_run {
        true => ["prompt_tokens", "tokens", "logprobs"],
        false => ["prompt", "completion", "old_logprobs"],
    };
    let prompt = tokens(&fields, prompt, limits.vocab_size)?;
    let completion = tokens(&fields, completion, limits.vocab_size)?;
    let n = completion.len();
    ensure!(
        prompt.len() + n <= limits.context,
        "\"completion\": {} tokens with the prompt; the model's context is {}",
        prompt.len() + n,
        limits.context
    );
    let advantages = if of_run { Vec::new() } else { numbers(&fields, "advantages", n, f64::MAX)? };
    // Without advantages, a reward needs a group.
    let needed = advantages.is_empty();
    let rollout = Rollout {
        group: match fields.get("group") {
            None if !needed => 0,
            None => bail!("\"group\": is missing; completions of one prompt share a number"),
            Some(value) => {
                whole(value).with_context(|| format!("\"group\": {} is not a whole number below 2^32", short(value)))?
            }
        },
        reward: match fields.get("reward") {
            None if !needed => 0.0,
            None => bail!("\"reward\": is missing; give a number, or \"advantages\""),
            Some(value) => number(value).with_context(|| format!("\"reward\": {} is not a finite number", short(value)))?,
        },
        truncated: match fields.get("truncated") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(truncated)) => *truncated,
            Some(other) => bail!("\"truncated\": {} is neither true nor false", short(other)),
        },
        old_logprobs: numbers(&fields, old_logprobs, n, ABOVE_ZERO)?,
        ref_logprobs: numbers(&fields, "ref_logprobs", n, ABOVE_ZERO)?,
        advantages,
        prompt,
        completion,
        ..Rollout::default()
    };
    Ok((fields.get("step").and_then(Value::as_u64), rollout))
}

fn tokens(fields: &Map<String, Value>, name: &str, vocab_size: usize) -> Result<Vec<u32>> {
    let Some(value) = fields.get(name) else { bail!("\"{name}\": is missing; give a list of token ids") };
    let Some(list) = value.as_array() else { bail!("\"{name}\": {} is not a list of token ids", short(value)) };
    ensure!(!list.is_empty(), "\"{name}\": is empty; it needs at least one token");
    let token = |value: &Value| {
        let token = whole(value).with_context(|| format!("\"{name}\": {} is not a token id", short(value)))?;
        ensure!((token as usize) < vocab_size, "\"{name}\": token {token}: the model's vocabulary ends at {}", vocab_size - 1);
        Ok(token)
    };
    list.iter().map(token).collect()
}

/// One number per token of the completion, or none if the field is missing, null or empty.
fn numbers(fields: &Map<String, Value>, name: &str, n: usize, most: f64) -> Result<Vec<f32>> {
    let list = match fields.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => bail!("\"{name}\": {} is not a list of numbers", short(other)),
    };
    ensure!(list.is_empty() || list.len() == n, "\"{name}\": {} numbers for {n} tokens of the completion", list.len());
    let one = |value: &Value| {
        let x = number(value).with_context(|| format!("\"{name}\": {} is not a finite number", short(value)))?;
        ensure!(x <= most, "\"{name}\": {x} is above 0; log-probabilities are not");
        Ok(x as f32)
    };
    list.iter().map(one).collect()
}

fn whole(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// A number in the range of single precision.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| (*x as f32).is_finite())
}

/// A value for an error line.
fn short(value: &Value) -> String {
    let text: String = value.to_string().chars().take(40).collect();
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ModelLimits = ModelLimits { vocab_size: 10, context: 6 };

    #[test]
    fn a_complete_row_is_read() {
        let got = row(
            r#"{"group":3,"prompt":[1,2],"completion":[4,9],"reward":-0.5,"truncated":true,"old_logprobs":[-0.5,-1],"text":"x"}"#,
            LIMITS,
        )
        .unwrap();
        let want = Rollout {
            group: 3,
            prompt: vec![1, 2],
            completion: vec![4, 9],
            reward: -0.5,
            truncated: true,
            old_logprobs: vec![-0.5, -1.0],
            ..Rollout::default()
        };
        assert_eq!(got, (None, want));
        let (_, got) = row(r#"{"prompt":[1],"completion":[4],"advantages":[0.25],"old_logprobs":null}"#, LIMITS).unwrap();
        assert_eq!((got.group, got.reward, got.advantages), (0, 0.0, vec![0.25]));
    }

    /// A row as a run writes it.
    #[test]
    fn a_row_of_samples_jsonl_is_read() {
        let completion = crate::event::Completion {
            step: 20,
            group: 2,
            prompt: "who?".into(),
            prompt_tokens: vec![1, 2],
            tokens: vec![3],
            logprobs: vec![-0.25],
            advantages: vec![0.5],
            reward: 3.0,
            ..crate::event::Completion::default()
        };
        let (step, got) = row(&serde_json::to_string(&completion).unwrap(), LIMITS).unwrap();
        let want = Rollout {
            group: 2,
            prompt: vec![1, 2],
            completion: vec![3],
            old_logprobs: vec![-0.25],
            reward: 3.0,
            ..Rollout::default()
        };
        assert_eq!((step, got), (Some(20), want));
    }

    #[test]
    fn errors_name_the_field() {
        for (line, says) in [
            ("{", "is not JSON"),
            ("[1]", "needs an object"),
            (r#"{"completion":[1]}"#, "\"prompt\": is missing"),
            (r#"{"prompt":"a","completion":[1]}"#, "\"prompt\": \"a\" is not a list of token ids"),
            (r#"{"prompt":[],"completion":[1]}"#, "\"prompt\": is empty"),
            (r#"{"prompt":[1.5],"completion":[1]}"#, "\"prompt\": 1.5 is not a token id"),
            (r#"{"prompt":[-1],"completion":[1]}"#, "\"prompt\": -1 is not a token id"),
            (r#"{"prompt":[1],"completion":[10]}"#, "\"completion\": token 10: the model's vocabulary ends at 9"),
            (
                r#"{"prompt":[1,2,3],"completion":[1,2,3,4]}"#,
                "\"completion\": 7 tokens with the prompt; the model's context is 6",
            ),
            (r#"{"prompt":[1],"completion":[1],"reward":1}"#, "\"group\": is missing"),
            (r#"{"prompt":[1],"completion":[1],"group":-1,"reward":1}"#, "\"group\": -1 is not a whole number"),
            (r#"{"prompt":[1],"completion":[1],"group":0}"#, "\"reward\": is missing"),
            (r#"{"prompt":[1],"completion":[1],"group":0,"reward":"1"}"#, "\"reward\": \"1\" is not a finite number"),
            (r#"{"prompt":[1],"completion":[1],"group":0,"reward":1e39}"#, "\"reward\": 1e+39 is not a finite number"),
            (
                r#"{"prompt":[1],"completion":[1],"group":0,"reward":1,"old_logprobs":[-1,-2]}"#,
                "\"old_logprobs\": 2 numbers for 1 tokens",
            ),
            (r#"{"prompt":[1],"completion":[1],"group":0,"reward":1,"ref_logprobs":[0.5]}"#, "\"ref_logprobs\": 0.5 is above 0"),
            (r#"{"prompt":[1],"completion":[1],"group":0,"reward":1,"truncated":1}"#, "\"truncated\": 1 is neither"),
        ] {
            let error = format!("{:#}", row(line, LIMITS).unwrap_err());
            assert!(error.contains(says), "{line}: {error}, not {says}");
            assert!(!error.contains('\n'));
        }
    }
}
