//! Step-by-step solutions: a search that assumes one role after another and backtracks when a claim is contradicted. It is the chain of
//! thought in training data. The order of people, the role that is tried first and the contradicted claim that is named are random, so that
//! a model trained on it is not certain of every word.

use super::super::draws::Draws;
use super::claim::{Claim, TruthTable, constraints};

/// A step of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchStep {
    /// Assumes a role: it contradicts no claim of the people with an assumed role, for any roles of the others.
    Assume {
        /// The person.
        person: usize,
        /// The assumed role.
        knight: bool,
    },
    /// Rejects a role: together with the assumed ones it contradicts the claim of `since` (or makes a knave's claim true), for any roles of
    /// the others.
    Refute {
        /// The person.
        person: usize,
        /// The rejected role.
        knight: bool,
        /// Whose claim is contradicted: the person's own, or that of a person with an assumed role.
        since: usize,
    },
    /// Backtracks: both roles of `from` failed, so the previous assumption, that of `to`, is revised.
    Back {
        /// The person with no role left.
        from: usize,
        /// The person whose role is revised.
        to: usize,
    },
}

/// A person whose roles are being tried.
struct SearchLevel {
    person: usize,
    first: bool,
    tried: usize,
    before: TruthTable,
}

/// The order in which persons are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchOrder {
    /// Any person whose role is not assumed.
    Any,
    /// Preferably one named in the latest claims, as in the public solutions: contradictions appear earlier.
    Mentioned,
}

/// Steps that end with a role assumed for everyone: the solution, if it is unique. If there is no solution, the steps end when all
/// assumptions have failed.
pub fn search(claims: &[Claim], next: SearchOrder, draws: &mut Draws) -> Vec<SearchStep> {
    let people = claims.len();
    let constraints = constraints(claims);
    let mut steps = Vec::new();
    let mut levels: Vec<SearchLevel> = Vec::new();
    let mut assumed = TruthTable::all(people);
    while levels.len() < people {
        let free: Vec<usize> = (0..people).filter(|p| levels.iter().all(|level| level.person != *p)).collect();
        let latest = levels.iter().rev().map(|level| named_people(&claims[level.person], &free)).find(|some| !some.is_empty());
        let among = latest.filter(|_| next == SearchOrder::Mentioned).unwrap_or(free);
        levels.push(SearchLevel { person: draws.pick(&among), first: draws.flip(), tried: 0, before: assumed.clone() });
        loop {
            let known: Vec<usize> = levels.iter().map(|level| level.person).collect();
            let Some(level) = levels.last_mut() else { return steps };
            if level.tried == 2 {
                let from = level.person;
                levels.pop();
                let Some(above) = levels.last() else { return steps };
                steps.push(SearchStep::Back { from, to: above.person });
                continue;
            }
            let (person, knight) = (level.person, level.first == (level.tried == 0));
            level.tried += 1;
            let with = level.before.clone().and(&TruthTable::role(person, knight, people));
            let refuted: Vec<usize> =
                known.into_iter().filter(|speaker| with.clone().and(&constraints[*speaker]).is_empty()).collect();
            if refuted.is_empty() {
                steps.push(SearchStep::Assume { person, knight });
                assumed = with;
                break;
            }
            steps.push(SearchStep::Refute { person, knight, since: draws.pick(&refuted) });
        }
    }
    steps
}

/// The people of this list whom a claim names.
fn named_people(claim: &Claim, people: &[usize]) -> Vec<usize> {
    people.iter().copied().filter(|p| claim.nodes().iter().any(|node| node.person() == Some(*p))).collect()
}
