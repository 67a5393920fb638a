//! Layer 10: the commands. Results go to standard output, progress to standard error; an error is one line.

#[cfg(feature = "app")]
mod app;
mod devices;
mod evaluation;
mod generation;
mod held_out_text;
mod launched;
mod manuals;
mod merging;
mod open;
mod output;
mod stories;
mod training;

use crate::config::{Settings, Stage, UsageError};
use crate::data::tasks::GraderGone;
use crate::session::starting_point::settings_of_fork;
use crate::vfs::RealFs;
use crate::world::OtherRankFailed;
use clap::parser::ValueSource::CommandLine;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use devices::{bench, doctor};
use evaluation::{evaluate, inspect, replay, score};
use generation::{chat, generate};
use merging::{export, landscape, merge};
use std::any::TypeId;
use stories::{demo, lesson, report, reproduce};
use training::{data, grpo, pretrain, sft};

/// Train small language models on a GPU or a CPU, and watch, merge and understand them while they train.
#[derive(Parser, Debug)]
#[command(name = "lehr", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Commands>,
}

#[derive(Subcommand, Debug)]
enum Commands {
    /// Open the window: runs, charts, tokens, samples, merging, live controls.
    #[cfg(feature = "app")]
    App(app::Args),
    /// Train a model on text.
    Pretrain(Box<pretrain::Args>),
    /// Fine-tune a model on conversations, or on prompts and completions.
    Sft(Box<sft::Args>),
    /// Train a model with GRPO on questions whose answers can be checked.
    Grpo(Box<grpo::Args>),
    /// Generate rows of puzzles and sums; solve and grade external datasets.
    Data(Box<data::Args>),
    /// Loss and perplexity of a model on text, or its accuracy on a task.
    Eval(Box<evaluate::Args>),
    /// Average checkpoints of a training run.
    Merge(Box<merge::Args>),
    /// Write a model as a GGUF file, for llama.cpp, Ollama and LM Studio.
    Export(export::Args),
    /// The loss on the plane through three checkpoints, and whether merging them improves it.
    Landscape(Box<landscape::Args>),
    /// Generate text from a prompt, streamed.
    Generate(generate::Args),
    /// Chat with a model in the terminal.
    Chat(chat::Args),
    /// Log-probability of every token of given texts or token ids, and gradients.
    Score(score::Args),
    /// Inspect a model on one text: attention of each head, logit lens, next-token predictions.
    Inspect(inspect::Args),
    /// One GRPO step on recorded completions: losses, gradients, probability changes.
    Replay(Box<replay::Args>),
    /// List adapters and check every kernel on this device.
    Doctor(doctor::Args),
    /// Measure tokens per second and the matmul rate.
    Bench(Box<bench::Args>),
    /// Check the claims of a paper: experiments, intervals, verdicts, figures.
    Reproduce(Box<reproduce::Args>),
    /// Short lessons, each with its own runs: what training is, why merging works, what a reward does.
    Lesson(lesson::Args),
    /// All stages of a model in minutes: pre-training, merging, fine-tuning, reinforcement learning, and a report.
    Demo(demo::Args),
    /// One HTML page about runs, readable without lehr.
    Report(report::Args),
    /// Print shell completions on standard output.
    Completions(manuals::CompletionsArgs),
    /// Manual pages of all commands.
    Man(manuals::ManArgs),
}

/// The command line, with each command's defaults and help.
pub fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("sft", sft::command)
        .mut_subcommand("grpo", grpo::command)
        .mut_subcommand("replay", replay::command)
        .mut_subcommand("eval", evaluate::command)
        .mut_subcommands(with_dashed_values)
}

/// Flags with free text as value, which may begin with a dash.
const FREE_TEXT: &[&str] = &["prompt", "system", "text", "sample_prompt", "stop"];

/// Allows negative numbers, so that the check names their flag, and free text that begins with a dash.
fn with_dashed_values(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let parsed = arg.get_value_parser().type_id();
        // Clap does not parse `-1e-3` as a number.
        let is_number = parsed == TypeId::of::<f64>() || parsed == TypeId::of::<f32>();
        let is_text = FREE_TEXT.contains(&arg.get_id().as_str());
        match arg.get_action().takes_values() && !arg.is_positional() {
            true if is_text || is_number => arg.allow_hyphen_values(true),
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    });
    command.mut_subcommands(with_dashed_values)
}

/// A stage's command: flags without effect are hidden, others have its defaults and help.
fn with_stage_defaults(
    mut command: clap::Command,
    hidden: &[&'static str],
    defaults: &[(&'static str, &'static str)],
    help: &[(&'static str, &'static str)],
) -> clap::Command {
    for name in hidden {
        command = command.mut_arg(name, |arg| arg.hide(true));
    }
    for (name, value) in defaults {
        command = command.mut_arg(name, |arg| arg.default_value(*value));
    }
    for (name, text) in help {
        command = command.mut_arg(name, |arg| arg.help(*text).long_help(*text));
    }
    command
}

/// Whether a flag was given explicitly.
fn is_typed(typed: &ArgMatches, name: &str) -> bool {
    typed.value_source(name) == Some(CommandLine)
}

/// An error if one of these flags was given.
fn refuse(typed: &ArgMatches, names: &[&str], why: &str) -> anyhow::Result<()> {
    match names.iter().find(|name| is_typed(typed, name)) {
        Some(name) => anyhow::bail!("--{}: {why}; leave the flag out", name.replace('_', "-")),
        None => Ok(()),
    }
}

/// An error if the run of `--fork` has another stage.
fn check_fork(typed: &ArgMatches, wanted: Stage) -> anyhow::Result<()> {
    let Ok(Some(fork)) = typed.try_get_one::<String>("fork") else { return Ok(()) };
    let stage = Settings::read(&RealFs, &settings_of_fork(&RealFs, fork)?)?.stage();
    anyhow::ensure!(
        stage == wanted,
        "--fork {}: is a run of lehr {}, which has other data; start from its weights with --init",
        fork.escape_debug(),
        stage.name()
    );
    Ok(())
}

/// Run the command line; returns the exit code.
pub fn main() -> i32 {
    let started = web_time::Instant::now();
    let parsed = command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let parsed = match parsed {
        Err(error) if is_help(&error) => {
            // A closed pipe is not an error.
            let _ = error.print();
            return error.exit_code();
        }
        parsed => parsed.map_err(|error| refused(&error)),
    };
    let result = launched::agree(parsed).and_then(|line| line.map_or(Ok(0), |(cli, matches)| execute(cli, &matches, started)));
    let code = exit_code(crate::world::report(result));
    crate::world::finalize(code)
}

/// Execute a command; returns the exit code.
fn execute(cli: Cli, matches: &ArgMatches, started: web_time::Instant) -> anyhow::Result<i32> {
    let typed = matches.subcommand().map_or(matches, |(_, typed)| typed);
    let Some(command) = cli.command else { return without_command() };
    match command {
        #[cfg(feature = "app")]
        Commands::App(args) => app::run(&args),
        Commands::Pretrain(args) => pretrain::run(&args, typed, started),
        Commands::Sft(args) => sft::run(&args, typed, started),
        Commands::Grpo(args) => grpo::run(&args, typed, started),
        Commands::Data(args) => data::run(&args),
        Commands::Eval(args) => evaluate::run(&args, typed),
        Commands::Merge(args) => merge::run(&args),
        Commands::Export(args) => export::run(&args),
        Commands::Landscape(args) => landscape::run(&args),
        Commands::Generate(args) => generate::run(&args),
        Commands::Chat(args) => chat::run(&args),
        Commands::Score(args) => score::run(&args),
        Commands::Inspect(args) => inspect::run(&args),
        Commands::Replay(args) => replay::run(&args, typed),
        Commands::Doctor(args) => doctor::run(&args),
        Commands::Bench(args) => bench::run(&args),
        Commands::Reproduce(args) => reproduce::run(&args),
        Commands::Lesson(args) => lesson::run(&args),
        Commands::Demo(args) => demo::run(&args),
        Commands::Report(args) => report::run(&args),
        Commands::Completions(args) => manuals::completions(&args),
        Commands::Man(args) => manuals::man(&args),
    }
}

fn exit_code(result: anyhow::Result<i32>) -> i32 {
    match result {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => 0,
        Err(error) if error.is::<OtherRankFailed>() => 1,
        Err(error) => {
            output::error_line(&error);
            if is_usage_error(&error) { USAGE_ERROR } else { 1 }
        }
    }
}

/// Whether the command line is at fault: a [`UsageError`], or a message that begins with a flag, as checks of values do.
fn is_usage_error(error: &anyhow::Error) -> bool {
    let is_about_flag = error.to_string().starts_with("--") && !error.is::<GraderGone>();
    is_about_flag || error.chain().any(|cause| cause.is::<UsageError>())
}

/// Exit code of an invalid command line.
const USAGE_ERROR: i32 = 2;

/// Whether clap's error is help or the version, which it prints.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// Clap's error, in one line.
fn refused(error: &clap::Error) -> anyhow::Error {
    let first = std::env::args_os().nth(1).unwrap_or_default();
    UsageError(one_line(&error.to_string(), &first.to_string_lossy())).into()
}

/// Clap's error message in one line: the error, its tips, and the command whose help to read.
fn one_line(text: &str, first: &str) -> String {
    let is_end = |line: &str| line.starts_with("Usage: ") || line.starts_with("For more information");
    let lines = text.lines().map(str::trim).take_while(|line| !is_end(line));
    let mut out = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if !out.is_empty() {
            out.push_str(if line.starts_with("tip: ") { "; " } else { " " });
        }
        out.push_str(line.trim_start_matches("error: ").trim_start_matches("tip: "));
    }
    // The words of Rust's own parsers.
    let out = out
        .replace("invalid digit found in string", "must be a whole number, not below 0")
        .replace("invalid float literal", "must be a number")
        .replace("number too large to fit in target type", "is too large");
    match Cli::command().find_subcommand(first) {
        Some(command) => format!("{out}; see `lehr {} --help`", command.get_name()),
        None => format!("{out}; see `lehr --help`"),
    }
}

/// `lehr` without arguments: the window if there is a display, else help.
fn without_command() -> anyhow::Result<i32> {
    #[cfg(feature = "app")]
    if crate::app::has_display() {
        return app::run(&app::Args::default());
    }
    let _ = Cli::command().print_help();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(words: &[&str]) -> String {
        let error = command().try_get_matches_from(words).expect_err("is refused");
        assert!(error.use_stderr() && error.exit_code() == USAGE_ERROR, "{words:?}");
        one_line(&error.to_string(), words[1])
    }

    #[test]
    fn clap_errors_become_one_line() {
        for (words, parts) in [
            (
                &["lehr", "pretrain", "--seed", "-1"][..],
                &["'-1'", "--seed", "must be a whole number", "see `lehr pretrain --help`"][..],
            ),
            (&["lehr", "pretrain", "--no-such-flag"], &["--no-such-flag"]),
            (&["lehr", "pretrain", "--lr-scheduler=cosin"], &["cosin", "cosine", "--lr-scheduler"]),
            (&["lehr", "generate", "--prompt", "a"], &["--model", "see `lehr generate --help`"]),
            (&["lehr", "pretrian"], &["pretrian", "pretrain", "see `lehr --help`"]),
        ] {
            let text = refusal(words);
            assert!(text.lines().count() == 1 && parts.iter().all(|part| text.contains(part)), "{words:?}: {text}");
            assert!(!text.contains("error:") && !text.contains("Usage"), "{text}");
        }
    }

    #[test]
    fn values_may_start_with_a_dash() {
        for words in [
            &["lehr", "generate", "--model", "m", "--prompt", "- item"][..],
            &["lehr", "generate", "--model", "m", "--prompt", "--"],
            &["lehr", "pretrain", "--sample-prompt", "-1 and more"],
            &["lehr", "pretrain", "--learning-rate", "-0.5"],
            &["lehr", "grpo", "--entropy-coef", "-1e-3"],
            &["lehr", "score", "--model", "m", "--text", "-x"],
        ] {
            command().try_get_matches_from(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        }
    }
}
