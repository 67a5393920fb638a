//! Lineage of runs: forks, merges and fine-tuning as a tree.

use super::RunFiles;
use std::path::Path;

/// A run in the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyMember {
    /// Index into the given runs.
    pub run: usize,
    /// Number of ancestors among them.
    pub depth: usize,
    /// Its origin, such as `from a@500` or `sma of a@100,200`; empty for a run from random weights.
    pub origin: String,
}

/// Runs as a tree, listed from top to bottom.
pub type Family = Vec<FamilyMember>;

/// Order runs so that each follows its parent. A parent that is not among them is still named.
pub fn family(runs: &[&RunFiles]) -> Family {
    let names: Vec<String> = runs.iter().map(|run| run.name()).collect();
    let origins: Vec<String> = runs.iter().map(|run| origin(run)).collect();
    let parent = |i: usize| {
        let name = parent_name(&origins[i])?;
        let nearness = |p: usize| shared_folders(&runs[i].path, &runs[p].path);
        let named = || (0..runs.len()).filter(|&p| p != i && names[p] == name);
        let nearest = named().max_by_key(|&p| nearness(p))?;
        // Of two that are equally near, neither is known to be the parent.
        (named().filter(|&p| nearness(p) == nearness(nearest)).count() == 1).then_some(nearest)
    };
    let parents: Vec<Option<usize>> = (0..runs.len()).map(parent).collect();
    let mut family = Vec::new();
    let mut seen = vec![false; runs.len()];
    let roots = (0..runs.len()).filter(|&i| parents[i].is_none());
    // Cyclic names have no root; they are listed as well.
    for i in roots.chain(0..runs.len()) {
        add_descendants(i, 0, &parents, &origins, &mut seen, &mut family);
    }
    family
}

/// Number of folders that two paths begin with alike: a log has only the name of its parent, and several runs may have that name.
fn shared_folders(a: &Path, b: &Path) -> usize {
    a.components().zip(b.components()).take_while(|(a, b)| a == b).count()
}

fn add_descendants(
    run: usize,
    depth: usize,
    parents: &[Option<usize>],
    origins: &[String],
    seen: &mut [bool],
    family: &mut Family,
) {
    if std::mem::replace(&mut seen[run], true) {
        return;
    }
    family.push(FamilyMember { run, depth, origin: origins[run].clone() });
    for child in (0..parents.len()).filter(|&c| parents[c] == Some(run)) {
        add_descendants(child, depth + 1, parents, origins, seen, family);
    }
}

fn origin(run: &RunFiles) -> String {
    let logged = run.history.started.as_ref().and_then(|s| s.parent.clone());
    logged.or_else(|| run.settings.as_ref().and_then(|s| s.start.parent.clone())).unwrap_or_default()
}

/// `a` of `a@500` and of `sma of a@100,200`.
fn parent_name(origin: &str) -> Option<&str> {
    let run = origin.rsplit_once(" of ").map_or(origin, |(_, run)| run);
    let name = run.split_once('@').map_or(run, |(name, _)| name);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn run(name: &str, parent: Option<&str>) -> RunFiles {
        let mut run = RunFiles::new(Path::new(name));
        let mut settings = Settings::default();
        settings.start.parent = parent.map(str::to_owned);
        run.settings = Some(settings);
        run
    }

    #[test]
    fn children_are_listed_below_their_parents() {
        let runs =
            [run("sft", Some("sma of base@10,20")), run("base", None), run("rl", Some("sft@5")), run("lost", Some("gone@1"))];
        let found = family(&runs.iter().collect::<Vec<_>>());
        let shape: Vec<(usize, usize)> = found.iter().map(|m| (m.run, m.depth)).collect();
        assert_eq!(shape, [(1, 0), (0, 1), (2, 2), (3, 0)]);
        // Of two runs with the parent's name, the nearer one; of two equally near ones, neither.
        let runs = [run("runs/base", None), run("runs/lesson/base", None), run("runs/lesson/pupil", Some("base@5"))];
        let found = family(&runs.iter().collect::<Vec<_>>());
        assert_eq!(found.iter().map(|m| (m.run, m.depth)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 1)]);
        let runs = [run("x/base", None), run("y/base", None), run("z/pupil", Some("base@5"))];
        assert!(family(&runs.iter().collect::<Vec<_>>()).iter().all(|m| m.depth == 0));
        let circle = [run("a", Some("b@1")), run("b", Some("a@1"))];
        assert_eq!(family(&circle.iter().collect::<Vec<_>>()).len(), 2);
    }
}
