//! RL task: generated puzzles and sums, or rows of a file; and how completions are graded.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// An RL task: a kind of question with a grader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Knights and Knaves: generated, or the public JSONL rows given by --data.
    #[default]
    Kk,
    /// Arithmetic and countdown: generated, or GSM8K rows given by --data.
    Math,
    /// Rows of `prompt` and `answer` given by --data, with a grader.
    Custom,
}

/// Wording of `kk` questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PuzzleForm {
    /// English sentences, as in the public rows.
    #[default]
    Natural,
    /// A few dozen words, for very small models.
    Compact,
}

/// How completions for `custom` rows are graded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Grader {
    /// The completion, trimmed, equals the answer.
    #[default]
    Exact,
    /// The last number of the completion (or its last `\boxed{}`, or the text after `####`) equals the answer as a number.
    Number,
    /// The answer is a regular expression that the completion must match.
    Regex,
    /// The program of --grader-command grades.
    Process,
}

/// Kind of math question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MathKind {
    /// Additions, subtractions, products.
    #[default]
    Arithmetic,
    /// Countdown: reach a number from given ones, each used once.
    Countdown,
}

/// Settings of the RL task.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Task")]
pub struct TaskSettings {
    /// RL task.
    #[arg(long, value_enum, default_value = "kk")]
    pub task: TaskKind,
    /// kk: numbers of people, evenly mixed: 3, or 3-5, or 2,3,7.
    #[arg(long, default_value = "3", value_name = "LIST")]
    pub people: String,
    /// kk: wording of questions.
    #[arg(long, value_enum, default_value = "natural")]
    pub form: PuzzleForm,
    /// math: kind of question.
    #[arg(long, value_enum, default_value = "arithmetic")]
    pub math: MathKind,
    /// math: levels of difficulty, evenly mixed: 1 (small) to 5.
    #[arg(long, default_value = "1", value_name = "LIST")]
    pub difficulty: String,
    /// Format prompts with the model's chat template, with the task's system message.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub chat: bool,
    /// With --chat, NAME=VALUE for the chat template, such as enable_thinking=false; a row's own chat_template_kwargs take precedence. May
    /// be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub chat_template_kwargs: Vec<String>,
    /// custom: how completions are graded.
    #[arg(long, value_enum, default_value = "exact")]
    pub grader: Grader,
    /// Grader program: one JSON object per line in, one out (docs/tasks.md).
    #[arg(long, value_name = "COMMAND")]
    pub grader_command: Option<String>,
    /// Time limit of the grader program for a batch of answers, in seconds.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub grader_timeout: f64,
    /// Number of held-out questions. Generated ones never occur in training; of rows the last are held out, unless --val-data is set.
    #[arg(long, default_value_t = 200)]
    pub eval_questions: usize,
    /// Date returned by a chat template's strftime_now (2026-11-25); lehr writes the day the run began.
    #[arg(long, hide = true)]
    pub date: Option<String>,
}

impl TaskSettings {
    /// Parse a list of numbers such as `3`, `3-5` or `2,3,7`; ascending, without duplicates.
    ///
    /// # Errors
    /// Names `flag` when the text is not such a list or a number is outside `allowed`.
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
    fn number_lists_are_parsed() {
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
