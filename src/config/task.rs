//! What is practised: puzzles and sums that are made on the spot, or rows of a file; and how answers are judged.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// A kind of question with a grader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Knights and Knaves: made on the spot, or the public JSONL rows given by --data.
    #[default]
    Kk,
    /// Sums and countdown: made on the spot, or GSM8K rows given by --data.
    Math,
    /// Rows of `prompt` and `answer` given by --data, and a grader.
    Custom,
}

/// How questions of `kk` are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// English sentences, as in the public rows.
    #[default]
    Natural,
    /// A few dozen words, for very small models.
    Compact,
}

/// How answers of `custom` rows are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Grader {
    /// The completion, spaces at its ends left out, is the answer.
    #[default]
    Exact,
    /// The last number of the completion (or its last `\boxed{}`, or what follows `####`) equals the answer as a number.
    Number,
    /// The answer is a regular expression that the completion must match.
    Regex,
    /// The program of --grader-command decides.
    Process,
}

/// What sums are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MathKind {
    /// Additions, subtractions, products.
    #[default]
    Arithmetic,
    /// Reach a number from given ones, each used once.
    Countdown,
}

/// See the module.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Task")]
pub struct TaskSettings {
    /// What is practised.
    #[arg(long, value_enum, default_value = "kk")]
    pub task: TaskKind,
    /// kk: numbers of people, mixed evenly: 3, or 3-5, or 2,3,7.
    #[arg(long, default_value = "3", value_name = "LIST")]
    pub people: String,
    /// kk: how questions are written.
    #[arg(long, value_enum, default_value = "natural")]
    pub form: Form,
    /// math: what the sums are about.
    #[arg(long, value_enum, default_value = "arithmetic")]
    pub math: MathKind,
    /// math: grades of difficulty, mixed evenly: 1 (small) to 5.
    #[arg(long, default_value = "1", value_name = "LIST")]
    pub difficulty: String,
    /// Write the question through the model's chat template, with the task's system message.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub chat: bool,
    /// With --chat, NAME=VALUE for the chat template, such as enable_thinking=false; a row's own chat_template_kwargs go first. May be
    /// repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub chat_template_kwargs: Vec<String>,
    /// custom: how answers are judged.
    #[arg(long, value_enum, default_value = "exact")]
    pub grader: Grader,
    /// A program that judges: one JSON object a line in, one out (docs/tasks.md).
    #[arg(long, value_name = "COMMAND")]
    pub grader_command: Option<String>,
    /// Seconds that the program may take for a batch of answers.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub grader_timeout: f64,
    /// Questions held out for evaluation. Made ones never occur in training; of rows the last are taken, unless --val-data names others.
    #[arg(long, default_value_t = 200)]
    pub eval_questions: usize,
    /// The day that a chat template's strftime_now says (2026-11-25); lehr writes the day the run began.
    #[arg(long, hide = true)]
    pub date: Option<String>,
}

impl TaskSettings {
    /// The numbers of a list such as `3`, `3-5` or `2,3,7`, ascending, each once.
    ///
    /// # Errors
    /// Names `flag` when the text is no such list or a number lies outside of `allowed`.
    pub fn list(flag: &str, text: &str, allowed: std::ops::RangeInclusive<usize>) -> anyhow::Result<Vec<usize>> {
        let bad = || {
            let (least, most) = (allowed.start(), allowed.end());
            anyhow::anyhow!(
                "--{flag} {}: must be a number, a range or a list within {least} to {most}, such as 3-5",
                text.escape_debug()
            )
        };
        let mut numbers = std::collections::BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let [first, last] = [first, last].map(|n| n.trim().parse::<usize>().ok().filter(|n| allowed.contains(n)));
            let (Some(first), Some(last)) = (first, last) else { return Err(bad()) };
            anyhow::ensure!(first <= last, bad());
            numbers.extend(first..=last);
        }
        Ok(numbers.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        let list = |text: &str| TaskSettings::list("people", text, 2..=8).ok();
        assert_eq!(list("3"), Some(vec![3]));
        assert_eq!(list("7, 3-5,4"), Some(vec![3, 4, 5, 7]));
        for bad in ["", "x", "5-3", "1", "9", "3-", "-3", "3--4"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        let error = TaskSettings::list("people", "9\n", 2..=8).unwrap_err().to_string();
        assert_eq!(error, r"--people 9\n: must be a number, a range or a list within 2 to 8, such as 3-5");
    }
}
