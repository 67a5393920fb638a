//! `lehr data solve` and `lehr data grade`: rows of external datasets.

use super::data::RowOutput;
use crate::cli::output;
use crate::config::{PuzzleForm, TaskKind, TaskSettings};
use crate::data::tasks::custom::{self, RowGrader};
use crate::data::tasks::kk::{reward, rows};
use crate::data::tasks::{Grade, Question, math};
use crate::data::{Object, read_objects};
use crate::number_format::counted;
use crate::progress::silent;
use crate::vfs::RealFs;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of `lehr data solve`.
#[derive(clap::Args, Debug)]
pub(super) struct SolveArgs {
    /// The task of the rows; only puzzles are solved.
    #[arg(long, value_enum, default_value = "kk")]
    task: TaskKind,
    /// JSONL rows with statements or quiz, and optionally solution.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
}

/// Solve; exit code 1 if a row has a different solution.
pub(super) fn solve(args: &SolveArgs) -> anyhow::Result<i32> {
    ensure!(args.task == TaskKind::Kk, "--task: only kk has puzzles to solve");
    let mut counts = AgreementCounts::default();
    read_objects(&RealFs, &args.file, rows::EXAMPLE, &mut silent, |place, row| {
        let given = rows::from_row(&row).with_context(|| place.to_owned())?;
        let solved = rows::solve(&given).with_context(|| place.to_owned())?;
        counts.add(&solved);
        let line = place.rsplit([':', ' ']).next().and_then(|n| n.parse::<u64>().ok());
        if args.json {
            return output::json_line(&json!({
                "line": line,
                "names": solved.names,
                "solutions": solved.solutions,
                "solution": solved.solution,
                "solution_text_format": solved.text(),
                "agrees": solved.agrees,
                "quiz_agrees": solved.quiz_agrees,
            }));
        }
        output::line(&format!("{place}: {}", output::visible(&in_words(&solved)).replace('\n', ", ")))
    })?;
    ensure!(counts.rows > 0, "{}: holds no row", crate::vfs::display_path(&args.file));
    if args.json {
        output::json_line(&json!({"summary": counts}))?;
    } else {
        output::line(&counts.in_words())?;
    }
    Ok(i32::from(counts.disagree + counts.quiz_disagrees > 0))
}

fn in_words(solved: &rows::SolvedRow) -> String {
    let found = match solved.text() {
        Some(text) => text,
        None => format!("{} solutions", solved.solutions),
    };
    let verdict = match solved.agrees {
        None => "",
        Some(true) => "; agrees",
        Some(false) => "; DISAGREES with solution",
    };
    let quiz = if solved.quiz_agrees == Some(false) { "; the quiz contradicts the statements" } else { "" };
    format!("{found}{verdict}{quiz}")
}

/// Counts of the results.
#[derive(Default, serde::Serialize)]
struct AgreementCounts {
    rows: u64,
    one_solution: u64,
    agree: u64,
    disagree: u64,
    quiz_agrees: u64,
    quiz_disagrees: u64,
}

impl AgreementCounts {
    fn add(&mut self, solved: &rows::SolvedRow) {
        self.rows += 1;
        self.one_solution += u64::from(solved.solution.is_some());
        self.agree += u64::from(solved.agrees == Some(true));
        self.disagree += u64::from(solved.agrees == Some(false));
        self.quiz_agrees += u64::from(solved.quiz_agrees == Some(true));
        self.quiz_disagrees += u64::from(solved.quiz_agrees == Some(false));
    }

    fn in_words(&self) -> String {
        let compared = self.agree + self.disagree;
        let quiz = match self.quiz_agrees + self.quiz_disagrees {
            0 => String::new(),
            both => format!("; in {} of {both} the quiz agrees with the statements", self.quiz_agrees),
        };
        format!(
            "{}, {} with exactly one solution; {} of {compared} solutions agree{quiz}",
            counted(self.rows, "row"),
            self.one_solution,
            self.agree
        )
    }
}

/// Flags of `lehr data grade`.
#[derive(clap::Args, Debug)]
pub(super) struct GradeArgs {
    /// Task and grader.
    #[command(flatten)]
    task: TaskSettings,
    /// JSONL rows with response, and the fields that the task needs (kk: solution_text_format or a puzzle; else answer).
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// kk: the prompt, which is not in the rows, ended in <think>.
    #[arg(long)]
    think_open: bool,
    /// Output file, instead of standard output; an existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accepted for consistency: rows are always JSON.
    #[arg(long)]
    json: bool,
}

/// Rows graded at once: a grader process gets a batch.
const BATCH: usize = 256;

/// Grade; rows are returned with the result, a summary goes to standard error.
pub(super) fn grade(args: &GradeArgs) -> anyhow::Result<i32> {
    let mut grader = GradedRows {
        args,
        grader: None,
        out: RowOutput::open(args.out.as_ref())?,
        waiting: Vec::new(),
        count: 0,
        ungraded: 0,
        correct: 0,
        reward: 0.0,
    };
    if args.task.task == TaskKind::Custom || args.task.grader_command.is_some() {
        grader.grader = Some(RowGrader::new(&args.task)?);
    }
    let example = r#"{"quiz": "...", "solution_text_format": "...", "response": "..."}"#;
    read_objects(&RealFs, &args.file, example, &mut silent, |place, row| grader.take(place, row))?;
    grader.flush()?;
    grader.out.finish()?;
    ensure!(grader.count > 0, "{}: holds no row", crate::vfs::display_path(&args.file));
    let graded = (grader.count - grader.ungraded) as f64;
    let ungraded = match grader.ungraded {
        0 => String::new(),
        n => format!("; {n} not counted: the grader failed on them twice"),
    };
    output::note(&format!(
        "{}, {} correct ({:.1} %), mean reward {:.3}{ungraded}",
        counted(grader.count, "row"),
        grader.correct,
        100.0 * grader.correct as f64 / graded,
        grader.reward / graded
    ));
    Ok(0)
}

struct GradedRows<'a> {
    args: &'a GradeArgs,
    grader: Option<RowGrader>,
    out: RowOutput,
    waiting: Vec<(Object, Question, String)>,
    count: u64,
    /// Number of these that could not be graded.
    ungraded: u64,
    correct: u64,
    reward: f64,
}

impl GradedRows<'_> {
    fn take(&mut self, place: &str, row: Object) -> anyhow::Result<()> {
        let response = match row.get("response").or_else(|| row.get("completion")) {
            Some(Value::String(text)) => text.clone(),
            Some(_) => anyhow::bail!("{place}: response: must be a string"),
            None => anyhow::bail!("{place}: response: missing. Give the model's response"),
        };
        if self.args.task.task == TaskKind::Kk && self.grader.is_none() {
            let (form, question) = kk_question(&row, self.args.think_open).with_context(|| place.to_owned())?;
            let roles = reward::roles(&question.answer).with_context(|| place.to_owned())?;
            // The wording cannot be detected inside of a chat template.
            let form = if self.args.task.form == PuzzleForm::Compact { PuzzleForm::Compact } else { form };
            let grade = reward::grade(form, &roles, &question.prompt, &response);
            return self.write_row(row, &grade);
        }
        let question = self.question(&row).with_context(|| place.to_owned())?;
        self.waiting.push((row, question, response));
        if self.waiting.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn question(&self, row: &Object) -> anyhow::Result<Question> {
        match (&self.grader, self.args.task.task) {
            (None, _) => math::row_question(row),
            (Some(_), TaskKind::Kk) => Ok(kk_question(row, self.args.think_open)?.1),
            (Some(grader), _) => {
                let prompt = row.get("prompt").and_then(Value::as_str).unwrap_or_default().to_owned();
                let answer = custom::row_answer(row)?;
                grader.check(&answer)?;
                Ok(Question { prompt, answer, level: 0 })
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let answers: Vec<(&Question, &str)> = waiting.iter().map(|(_, question, answer)| (question, answer.as_str())).collect();
        let grades = match &mut self.grader {
            Some(grader) => grader.grade(&answers)?,
            None => answers
                .iter()
                .map(|(question, answer)| math::verdict::grade_question(question, answer, math::GradingRules::default()))
                .collect(),
        };
        for ((row, ..), grade) in waiting.into_iter().zip(&grades) {
            self.write_row(row, grade)?;
        }
        Ok(())
    }

    fn write_row(&mut self, mut row: Object, grade: &Grade) -> anyhow::Result<()> {
        self.count += 1;
        self.ungraded += u64::from(grade.ungraded);
        self.correct += u64::from(grade.correct);
        self.reward += grade.reward;
        row.insert("reward".into(), if grade.ungraded { Value::Null } else { json!(grade.reward) });
        if let Some(format) = grade.parts.get("format") {
            row.insert("format".into(), json!(*format > 0.0));
        }
        row.insert("correct".into(), json!(grade.correct));
        row.insert("reason".into(), json!(grade.reason));
        self.out.row(&row)
    }
}

/// A puzzle row as a question, and its wording. The prompt shows where reasoning was opened.
fn kk_question(row: &Object, think_open: bool) -> anyhow::Result<(PuzzleForm, Question)> {
    let asked = rows::prompt_fields(row)?;
    let mut prompt = asked.prompt.or(asked.quiz).unwrap_or_default();
    if think_open {
        prompt.push_str("<think>");
    }
    Ok((asked.form, Question { prompt, answer: asked.answer, level: asked.people as u32 }))
}
