//! `lehr data`: rows of the tasks that lehr makes itself, and what it thinks of other people's.

use super::output;
use crate::config::{Form, TaskSettings};
use crate::data::Notices;
use crate::data::tasks::Split;
use crate::data::tasks::kk::{self, Distinct, generate::PEOPLE};
use anyhow::Context as _;
use clap::ValueEnum;
use std::io::Write;
use std::path::PathBuf;

/// Flags of `lehr data`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Write Knights and Knaves puzzles with their solution step by step, a JSON object a line.
    Kk(KkArgs),
}

/// Which questions.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitName {
    /// To learn from.
    Train,
    /// To be judged by; these never occur in training, whatever the seed.
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

/// How many rows, which, and where to.
#[derive(clap::Args, Debug)]
struct Rows {
    /// Rows to write.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Seed of the questions and of their wording.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Questions of training or of evaluation.
    #[arg(long, value_enum, default_value = "train")]
    split: SplitName,
    /// Write here in place of standard output; an existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Rows are JSON with and without this flag.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct KkArgs {
    /// Numbers of people, mixed evenly: 3, or 3-5, or 2,3,7.
    #[arg(long, default_value = "3", value_name = "LIST")]
    people: String,
    /// How questions are written.
    #[arg(long, value_enum, default_value = "natural")]
    form: Form,
    /// Also write puzzles that occur among the rows before, in other words and with other steps.
    #[arg(long)]
    repeat: bool,
    #[command(flatten)]
    rows: Rows,
}

/// Where rows go.
pub(super) struct Out {
    writer: Box<dyn Write>,
    name: Option<String>,
}

impl Out {
    /// A new file, or standard output.
    ///
    /// # Errors
    /// A file that exists already or cannot be made.
    pub(super) fn open(path: Option<&PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self { writer: Box::new(std::io::BufWriter::new(std::io::stdout().lock())), name: None });
        };
        let name = crate::vfs::shown(path);
        let file = std::fs::File::create_new(path).with_context(|| format!("--out {name}: cannot be made"))?;
        Ok(Self { writer: Box::new(std::io::BufWriter::new(file)), name: Some(name) })
    }

    /// One row.
    ///
    /// # Errors
    /// A full disk, a closed pipe.
    pub(super) fn row(&mut self, row: &impl serde::Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(row)?;
        let written = writeln!(self.writer, "{line}");
        self.told(written)
    }

    /// The last of it.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.writer.flush();
        self.told(flushed)
    }

    fn told(&self, result: std::io::Result<()>) -> anyhow::Result<()> {
        match &self.name {
            Some(name) => result.with_context(|| format!("--out {name}: cannot be written")),
            None => Ok(result?),
        }
    }
}

/// Write rows.
pub fn run(args: &Args) -> anyhow::Result<i32> {
    match &args.what {
        What::Kk(args) => kk(args),
    }
}

fn kk(args: &KkArgs) -> anyhow::Result<i32> {
    let people = TaskSettings::list("people", &args.people, PEOPLE)?;
    let (seed, split) = (args.rows.seed, args.rows.split.into());
    let mut out = Out::open(args.rows.out.as_ref())?;
    if args.repeat {
        for n in 0..args.rows.count {
            let puzzle = kk::made(people[(n % people.len() as u64) as usize], seed, split, n)?;
            out.row(&kk::row(args.form, &puzzle, seed, n))?;
        }
        out.finish()?;
        return Ok(0);
    }
    let mut distinct = Distinct::new(people, seed, split);
    let (mut written, mut notices) = (0, Notices::new());
    while written < args.rows.count {
        let Some((n, puzzle)) = distinct.draw()? else { break };
        out.row(&kk::row(args.form, &puzzle, seed, n))?;
        written += 1;
    }
    out.finish()?;
    for people in distinct.exhausted() {
        notices.push(format!("there are no more different puzzles of {people} people; --repeat writes some of them again"));
    }
    if written < args.rows.count {
        notices.push(format!("--count {}: {written} rows written", args.rows.count));
    }
    notices.lines().iter().for_each(|line| output::note(&format!("note: {line}")));
    Ok(0)
}
