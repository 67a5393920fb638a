//! How a puzzle is solved step by step: a search that assumes one role after another and goes back where a claim is contradicted. This is
//! the chain of thought that models are shown, with the order of people, the role that is tried first and the
//! contradicted claim that is named left to chance, so that a model which learns it is not certain of every word.

use super::super::draws::Draws;
use super::claim::{Claim, Table, constraints};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This role is assumed: with the roles assumed before it refutes no claim of those whose role is assumed, whatever the others are.
    Assume {
        /// Whose.
        person: usize,
        /// Which.
        knight: bool,
    },
    /// This role cannot be: with the roles assumed before, it refutes the claim of `since` (or makes a knave's true), whatever the others
    /// are.
    Refute {
        /// Whose.
        person: usize,
        /// Which.
        knight: bool,
        /// Whose claim; the person's own, or that of somebody whose role is assumed.
        since: usize,
    },
    /// Both roles of `from` failed: `to`, assumed last before, is looked at again.
    Back {
        /// Who has no role left.
        from: usize,
        /// Whose role is given up.
        to: usize,
    },
}

/// Somebody whose roles are tried.
struct Level {
    person: usize,
    first: bool,
    tried: usize,
    before: Table,
}

/// Who is looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Anybody whose role is not assumed.
    Any,
    /// Of these somebody whom the latest claims speak of, as in the public solutions: a contradiction shows earlier.
    Mentioned,
}

/// Steps that end with a role assumed for everybody: the solution, if there is exactly one. Without any, the steps end where all has
/// failed.
pub fn search(claims: &[Claim], next: Next, draws: &mut Draws) -> Vec<Step> {
    let people = claims.len();
    let constraints = constraints(claims);
    let mut steps = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut assumed = Table::all(people);
    while levels.len() < people {
        let free: Vec<usize> = (0..people).filter(|p| levels.iter().all(|level| level.person != *p)).collect();
        let latest = levels.iter().rev().map(|level| mentioned(&claims[level.person], &free)).find(|some| !some.is_empty());
        let among = latest.filter(|_| next == Next::Mentioned).unwrap_or(free);
        levels.push(Level { person: draws.pick(&among), first: draws.flip(), tried: 0, before: assumed.clone() });
        loop {
            let known: Vec<usize> = levels.iter().map(|level| level.person).collect();
            let Some(level) = levels.last_mut() else { return steps };
            if level.tried == 2 {
                let from = level.person;
                levels.pop();
                let Some(above) = levels.last() else { return steps };
                steps.push(Step::Back { from, to: above.person });
                continue;
            }
            let (person, knight) = (level.person, level.first == (level.tried == 0));
            level.tried += 1;
            let with = level.before.clone().and(&Table::role(person, knight, people));
            let refuted: Vec<usize> =
                known.into_iter().filter(|speaker| with.clone().and(&constraints[*speaker]).is_empty()).collect();
            if refuted.is_empty() {
                steps.push(Step::Assume { person, knight });
                assumed = with;
                break;
            }
            steps.push(Step::Refute { person, knight, since: draws.pick(&refuted) });
        }
    }
    steps
}

/// Those of `people` whom a claim speaks of.
fn mentioned(claim: &Claim, people: &[usize]) -> Vec<usize> {
    people.iter().copied().filter(|p| claim.nodes().iter().any(|node| node.person() == Some(*p))).collect()
}
