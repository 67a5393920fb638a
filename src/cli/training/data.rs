//! `lehr data`: rows of the generated tasks, and solving and grading of external datasets.

use super::data_rows;
use crate::cli::output;
use crate::config::{MathKind, PuzzleForm, TaskSettings};
use crate::data::tasks::kk::{self, generate::PEOPLE};
use crate::data::tasks::{Distinct, Split, math};
use crate::number_format::counted;
use anyhow::Context as _;
use clap::ValueEnum;
use std::io::Write;
use std::path::PathBuf;

/// Flags of `lehr data`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: DataCommand,
}

#[derive(clap::Subcommand, Debug)]
enum DataCommand {
    /// Write Knights and Knaves puzzles with step-by-step solutions, as JSON lines.
    Kk(KkArgs),
    /// Write sums or countdown puzzles with their answers, as JSON lines.
    Math(MathArgs),
    /// Solve puzzles from their statements or text, and compare with the solutions in the rows.
    Solve(data_rows::SolveArgs),
    /// Grade responses: each row is returned with reward, format (if the task checks it) and correct.
    Grade(Box<data_rows::GradeArgs>),
}

/// A split of the questions.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitName {
    /// For training.
    Train,
    /// For evaluation; these never occur in training, whatever the seed.
    Eval,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Eval => Self::Eval,
        }
    }
}

/// Number of rows, split and output.
#[derive(clap::Args, Debug)]
struct RowArgs {
    /// Number of rows to write.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Seed of the questions and their wording.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Split: training or evaluation.
    #[arg(long, value_enum, default_value = "train")]
    split: SplitName,
    /// Output file, instead of standard output; an existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accepted for consistency: rows are always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct KkArgs {
    /// Numbers of people, evenly mixed: 3, or 3-5, or 2,3,7.
    #[arg(long, default_value = "3", value_name = "LIST")]
    people: String,
    /// Wording of questions.
    #[arg(long, value_enum, default_value = "natural")]
    form: PuzzleForm,
    /// Also write duplicates of earlier puzzles, with other wording and steps.
    #[arg(long)]
    repeat: bool,
    #[command(flatten)]
    rows: RowArgs,
}

#[derive(clap::Args, Debug)]
struct MathArgs {
    /// Kind of question.
    #[arg(long, value_enum, default_value = "arithmetic")]
    math: MathKind,
    /// Levels of difficulty, evenly mixed: 1 (small) to 5.
    #[arg(long, default_value = "1", value_name = "LIST")]
    difficulty: String,
    /// Also write duplicates of earlier questions.
    #[arg(long)]
    repeat: bool,
    #[command(flatten)]
    rows: RowArgs,
}

/// Output of rows.
pub(super) struct RowOutput {
    writer: Box<dyn Write>,
    name: Option<String>,
}

impl RowOutput {
    /// A new file, or standard output.
    ///
    /// # Errors
    /// A file that exists already or cannot be created.
    pub(super) fn open(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self { writer: Box::new(std::io::BufWriter::new(std::io::stdout().lock())), name: None });
        };
        let name = crate::vfs::display_path(path);
        let file = std::fs::File::create_new(path).with_context(|| format!("--out {name}: cannot be made"))?;
        Ok(Self { writer: Box::new(std::io::BufWriter::new(file)), name: Some(name) })
    }

    /// Write one row.
    ///
    /// # Errors
    /// A full disk, a closed pipe.
    pub(super) fn row(&mut self, row: &impl serde::Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(row)?;
        let written = writeln!(self.writer, "{line}");
        self.with_name(written)
    }

    /// Flush the output.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.writer.flush();
        self.with_name(flushed)
    }

    fn with_name(&self, result: std::io::Result<()>) -> anyhow::Result<()> {
        match &self.name {
            Some(name) => result.with_context(|| format!("--out {name}: cannot be written")),
            None => Ok(result?),
        }
    }
}

/// Write rows.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    match &args.what {
        DataCommand::Kk(args) => kk(args),
        DataCommand::Math(args) => math(args),
        DataCommand::Solve(args) => data_rows::solve(args),
        DataCommand::Grade(args) => data_rows::grade(args),
    }
}

fn kk(args: &KkArgs) -> anyhow::Result<i32> {
    let people = TaskSettings::list("people", &args.people, PEOPLE)?;
    let (form, seed, split) = (args.form, args.rows.seed, args.rows.split.into());
    let row = move |puzzle: &_, n| kk::row(form, puzzle, seed, n);
    if args.repeat {
        let levels = people.clone();
        return write_all(&args.rows, |n| {
            Ok(row(&kk::generate_puzzle(levels[(n % levels.len() as u64) as usize], seed, split, n)?, n))
        });
    }
    write_distinct(&args.rows, kk::distinct(people, seed, split), "--people", |puzzle, n| row(&puzzle, n))
}

fn math(args: &MathArgs) -> anyhow::Result<i32> {
    let grades = TaskSettings::list("difficulty", &args.difficulty, math::GRADES)?;
    let (kind, seed, split) = (args.math, args.rows.seed, args.rows.split.into());
    if args.repeat {
        return write_all(&args.rows, |n| {
            Ok(math::generate_problem(kind, grades[(n % grades.len() as u64) as usize], seed, split, n)?.1)
        });
    }
    write_distinct(&args.rows, math::distinct(kind, grades, seed, split), "--difficulty", |row, _| row)
}

/// Questions by number, duplicates included.
fn write_all<R: serde::Serialize>(rows: &RowArgs, make: impl Fn(u64) -> anyhow::Result<R>) -> anyhow::Result<i32> {
    let mut out = RowOutput::open(rows.out.as_ref())?;
    for n in 0..rows.count {
        out.row(&make(n)?)?;
    }
    out.finish()?;
    Ok(0)
}

/// Distinct questions, as far as there are any.
fn write_distinct<T, R: serde::Serialize>(
    rows: &RowArgs,
    mut questions: Distinct<T>,
    what: &str,
    row: impl Fn(T, u64) -> R,
) -> anyhow::Result<i32> {
    let mut out = RowOutput::open(rows.out.as_ref())?;
    let mut written = 0;
    while written < rows.count {
        let Some((n, question)) = questions.draw()? else { break };
        out.row(&row(question, n))?;
        written += 1;
    }
    out.finish()?;
    for level in questions.exhausted() {
        output::note(&format!(
            "note: there are no more distinct questions of {what} {level}; --repeat writes some of them again"
        ));
    }
    if written < rows.count {
        output::note(&format!("note: --count {}: {} written", rows.count, counted(written, "row")));
    }
    Ok(0)
}
