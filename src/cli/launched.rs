//! Commands under a launcher that started several processes: which of them use all ranks, and which run in one process.

use crate::world::launch::{Launched, launched};
use clap::ArgMatches;

/// How a command uses the ranks of a launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RankUse {
    /// All ranks take part.
    All,
    /// Rank 0 runs it, the others exit.
    First,
    /// It is refused.
    None,
}

fn use_of(command: &str, typed: &ArgMatches) -> RankUse {
    let is_set = |flag: &str| typed.try_get_one::<bool>(flag).ok().flatten().is_some_and(|set| *set);
    match command {
        "pretrain" | "sft" | "grpo" if is_set("window") => RankUse::None,
        "pretrain" | "sft" | "grpo" | "reproduce" if is_set("dry_run") => RankUse::First,
        "pretrain" | "sft" | "grpo" | "reproduce" | "doctor" => RankUse::All,
        "merge" if typed.subcommand_name() == Some("sweep") => RankUse::All,
        _ => RankUse::None,
    }
}

/// The result of this process under a launcher, unless the command runs in it; `command` is empty without one.
pub fn result(command: &str, typed: &ArgMatches) -> Option<anyhow::Result<i32>> {
    launched().and_then(|launched| result_under(&launched, command, typed))
}

fn result_under(launched: &Launched, command: &str, typed: &ArgMatches) -> Option<anyhow::Result<i32>> {
    let is_first = launched.rank.is_none_or(|rank| rank == 0);
    match use_of(command, typed) {
        RankUse::All => None,
        RankUse::First if is_first => None,
        RankUse::None if launched.is_batch_script => None,
        RankUse::None if is_first => Some(Err(anyhow::anyhow!(launched.one_process(format!("lehr {command}").trim_end())))),
        // One line and one exit code, those of rank 0.
        RankUse::First | RankUse::None => Some(Ok(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result_of(rank: Option<usize>, words: &[&str]) -> Option<Result<i32, String>> {
        let matches = super::super::command().try_get_matches_from(words).unwrap();
        let (name, typed) = matches.subcommand().unwrap_or(("", &matches));
        let launched = Launched { by: "Open MPI", variable: "OMPI_COMM_WORLD_SIZE", size: Some(4), rank, is_batch_script: false };
        result_under(&launched, name, typed).map(|result| result.map_err(|e| e.to_string()))
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
            assert_eq!([Some(0), Some(3), None].map(|rank| result_of(rank, words)), [None, None, None], "{words:?}");
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
                let text = result_of(rank, words).unwrap().unwrap_err();
                assert!(text.contains(&name) && text.contains("one of 4") && !text.contains('\n'), "{text}");
            }
            assert_eq!(result_of(Some(2), words), Some(Ok(0)), "rank 0 reports it");
        }
        assert!(result_of(Some(0), &["lehr"]).unwrap().unwrap_err().contains("`lehr`"));
    }

    #[test]
    fn rank_0_makes_a_dry_run() {
        for words in [&["lehr", "pretrain", "--dry-run"][..], &["lehr", "reproduce", "lopti", "--dry-run"]] {
            assert_eq!((result_of(Some(0), words), result_of(Some(1), words)), (None, Some(Ok(0))), "{words:?}");
        }
    }
}
