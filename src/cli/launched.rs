//! Commands under a launcher that started several processes: all ranks open the world first and agree on the command; which commands use all
//! ranks, and which run in one process.

use super::{Cli, is_typed};
use crate::world::launch::{Launched, launched};
use crate::world::{NotConnected, World, check_timeout};
use anyhow::{Result, anyhow};
use clap::ArgMatches;

/// Use of the ranks of a launcher by a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RankUse {
    /// All ranks take part.
    All,
    /// Rank 0 runs it, the others exit.
    First,
    /// It runs in one process, and is refused.
    None,
    /// It is refused with `--window`.
    Windowless,
}

/// The name of a command, without its parts; empty for `lehr` by itself.
fn name_of(typed: &ArgMatches) -> &str {
    typed.subcommand_name().unwrap_or_default()
}

fn rank_use(typed: &ArgMatches) -> RankUse {
    let (command, typed) = typed.subcommand().unwrap_or(("", typed));
    let is_set = |flag: &str| typed.try_contains_id(flag).is_ok() && is_typed(typed, flag);
    match command {
        "pretrain" | "sft" | "grpo" if is_set("window") => RankUse::Windowless,
        "pretrain" | "sft" | "grpo" | "reproduce" if is_set("dry_run") => RankUse::First,
        "doctor" if is_set("write_shaders") => RankUse::First,
        "pretrain" | "sft" | "grpo" | "reproduce" | "doctor" => RankUse::All,
        "merge" if typed.subcommand_name() == Some("sweep") => RankUse::All,
        _ => RankUse::None,
    }
}

/// The command in words, with the flags that change its use of ranks.
fn command_name(typed: &ArgMatches) -> String {
    let part = typed.subcommand().and_then(|(_, typed)| typed.subcommand_name());
    let flag = match rank_use(typed) {
        RankUse::First if name_of(typed) == "doctor" => Some("--write-shaders"),
        RankUse::First => Some("--dry-run"),
        RankUse::Windowless => Some("--window"),
        RankUse::All | RankUse::None => None,
    };
    let words = ["lehr", name_of(typed)].into_iter().chain(part).chain(flag).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Why a command is refused under a launcher.
fn refusal(launched: &Launched, typed: &ArgMatches) -> Option<anyhow::Error> {
    match rank_use(typed) {
        RankUse::All | RankUse::First => None,
        RankUse::None => Some(anyhow!(launched.one_process(format!("lehr {}", name_of(typed)).trim_end()))),
        RankUse::Windowless => Some(anyhow!(launched.without_window())),
    }
}

/// A valid command line.
pub type CommandLine = (Cli, ArgMatches);

/// The command line if this process executes it; `None` if that is left to rank 0. Under a launcher, MPI starts here, before anything that can
/// fail on one rank only, and all ranks must have the same command.
///
/// # Errors
/// That of `parsed`, a command that is refused, ranks that differ or do not start. Rank 0 reports what all have in common.
pub fn agree(parsed: Result<CommandLine>) -> Result<Option<CommandLine>> {
    match launched() {
        None => parsed.map(Some),
        Some(launched) => agree_under(&launched, parsed),
    }
}

fn agree_under(launched: &Launched, parsed: Result<CommandLine>) -> Result<Option<CommandLine>> {
    let rank_use = parsed.as_ref().map_or(RankUse::All, |(_, typed)| rank_use(typed));
    if launched.is_batch_script && rank_use != RankUse::All {
        return parsed.map(Some);
    }
    let world = match World::open() {
        Ok(world) if world.is_solo() => return parsed.map(Some),
        Ok(world) => world,
        Err(error) if rank_use == RankUse::All || error.is::<NotConnected>() => return Err(error),
        Err(_) => return without_world(launched, parsed?),
    };
    let (cli, typed) = world.check_all(parsed.and_then(|parsed| check_timeout().map(|()| parsed)))?;
    world.ensure_equal(&[("version", env!("CARGO_PKG_VERSION").to_owned()), ("command", command_name(&typed))])?;
    if let Some(error) = refusal(launched, &typed) {
        return world.check_all(Err(error));
    }
    if rank_use == RankUse::First {
        world.leave();
        return Ok(world.is_root().then_some((cli, typed)));
    }
    world.start_setup();
    Ok(Some((cli, typed)))
}

/// As [`agree`], for a command that needs no communication, where there is none: one line and one exit code, those of rank 0.
fn without_world(launched: &Launched, (cli, typed): CommandLine) -> Result<Option<CommandLine>> {
    if launched.rank.is_some_and(|rank| rank > 0) {
        return Ok(None);
    }
    refusal(launched, &typed).map_or(Ok(Some((cli, typed))), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn line(words: &[&str]) -> CommandLine {
        let typed = super::super::command().try_get_matches_from(words).unwrap();
        (Cli::from_arg_matches(&typed).unwrap(), typed)
    }

    /// Whether this rank executes the command where there is no communication, or its error.
    fn result_of(rank: Option<usize>, words: &[&str]) -> Result<bool, String> {
        let launched = Launched { by: "Open MPI", variable: "OMPI_COMM_WORLD_SIZE", size: Some(4), rank, is_batch_script: false };
        without_world(&launched, line(words)).map(|line| line.is_some()).map_err(|e| e.to_string())
    }

    #[test]
    fn commands_use_all_ranks_or_are_refused_by_name() {
        for words in [
            &["lehr", "pretrain", "--data", "a"][..],
            &["lehr", "sft"],
            &["lehr", "grpo"],
            &["lehr", "doctor"],
            &["lehr", "reproduce", "pma"],
            &["lehr", "merge", "sweep", "run", "--every", "5"],
        ] {
            assert_eq!(rank_use(&line(words).1), RankUse::All, "{words:?}");
        }
        for words in [
            &["lehr", "generate", "--model", "m", "--prompt", "a"][..],
            &["lehr", "eval", "--model", "m"],
            &["lehr", "merge", "run", "--out", "m"],
            &["lehr", "bench"],
            &["lehr", "lesson"],
            &["lehr", "demo"],
            &["lehr", "report", "run"],
        ] {
            let name = format!("`lehr {}`", words[1]);
            for rank in [Some(0), None] {
                let text = result_of(rank, words).unwrap_err();
                assert!(text.contains(&name) && text.contains("one of 4") && !text.contains('\n'), "{text}");
            }
            assert_eq!(result_of(Some(2), words), Ok(false), "rank 0 reports it");
        }
        assert!(result_of(Some(0), &["lehr"]).unwrap_err().contains("`lehr`"));
    }

    #[cfg(feature = "app")]
    #[test]
    fn a_window_is_refused_by_its_flag() {
        let text = result_of(Some(0), &["lehr", "pretrain", "--window"]).unwrap_err();
        assert!(text.starts_with("--window: ") && !text.contains("one process"), "{text}");
    }

    #[test]
    fn rank_0_makes_a_dry_run() {
        for words in [&["lehr", "pretrain", "--dry-run"][..], &["lehr", "reproduce", "lopti", "--dry-run"]] {
            assert_eq!((result_of(Some(0), words), result_of(Some(1), words)), (Ok(true), Ok(false)), "{words:?}");
        }
    }

    #[test]
    fn commands_differ_in_what_changes_their_ranks() {
        let of = |words_of: &[&str]| command_name(&line(words_of).1);
        assert_eq!(of(&["lehr", "pretrain", "--seed", "1"]), of(&["lehr", "pretrain", "--seed", "2"]));
        assert_eq!(of(&["lehr", "merge", "sweep", "run", "--every", "5"]), "lehr merge sweep");
        assert_eq!(of(&["lehr", "pretrain", "--dry-run"]), "lehr pretrain --dry-run");
    }
}
