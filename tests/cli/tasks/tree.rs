//! Claims as trees, and everything about them the slow way: one assignment at a time, by recursion.

use lehr::data::tasks::Draws;
use lehr::data::tasks::kk::claim::{Claim, ClaimNode};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    Knight(usize),
    Knave(usize),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
    If(Box<Tree>, Box<Tree>),
    Iff(Box<Tree>, Box<Tree>),
}

impl Tree {
    pub fn holds(&self, knights: &[bool]) -> bool {
        match self {
            Self::Knight(p) => knights[*p],
            Self::Knave(p) => !knights[*p],
            Self::Not(a) => !a.holds(knights),
            Self::And(all) => all.iter().all(|a| a.holds(knights)),
            Self::Or(all) => all.iter().any(|a| a.holds(knights)),
            Self::If(a, b) => b.holds(knights) || !a.holds(knights),
            Self::Iff(a, b) => a.holds(knights) == b.holds(knights),
        }
    }

    /// A random claim about `people`, at most `depth` operators deep.
    pub fn any(draws: &mut Draws, people: usize, depth: usize) -> Self {
        let part = |draws: &mut Draws| Self::any(draws, people, depth.saturating_sub(1));
        match if depth == 0 { draws.below(2) } else { draws.below(8) } {
            0 => Self::Knight(draws.below(people)),
            1 => Self::Knave(draws.below(people)),
            2 | 3 => Self::Not(Box::new(part(draws))),
            4 => Self::And((0..draws.below(3) + 1).map(|_| part(draws)).collect()),
            5 => Self::Or((0..draws.below(3) + 1).map(|_| part(draws)).collect()),
            6 => Self::If(Box::new(part(draws)), Box::new(part(draws))),
            _ => Self::Iff(Box::new(part(draws)), Box::new(part(draws))),
        }
    }

    /// The tree of a claim of the library.
    pub fn of(claim: &Claim) -> Self {
        fn part(nodes: &mut std::slice::Iter<'_, ClaimNode>) -> Tree {
            let node = *nodes.next().expect("a whole claim");
            let mut next = || Box::new(part(nodes));
            match node {
                ClaimNode::Knight(p) => Tree::Knight(p.into()),
                ClaimNode::Knave(p) => Tree::Knave(p.into()),
                ClaimNode::Not => Tree::Not(next()),
                ClaimNode::And(n) => Tree::And((0..n).map(|_| *next()).collect()),
                ClaimNode::Or(n) => Tree::Or((0..n).map(|_| *next()).collect()),
                ClaimNode::If => Tree::If(next(), next()),
                ClaimNode::Iff => Tree::Iff(next(), next()),
            }
        }
        part(&mut claim.nodes().iter())
    }

    /// With person `p` called `names[p]`, and the parts of `and`, `or` and `iff` in a fixed order.
    pub fn renamed(&self, names: &[usize]) -> Self {
        let sorted = |all: Vec<&Tree>| {
            let mut all: Vec<Tree> = all.into_iter().map(|a| a.renamed(names)).collect();
            all.sort();
            all
        };
        match self {
            Self::Knight(p) => Self::Knight(names[*p]),
            Self::Knave(p) => Self::Knave(names[*p]),
            Self::Not(a) => Self::Not(Box::new(a.renamed(names))),
            Self::And(all) => Self::And(sorted(all.iter().collect())),
            Self::Or(all) => Self::Or(sorted(all.iter().collect())),
            Self::If(a, b) => Self::If(Box::new(a.renamed(names)), Box::new(b.renamed(names))),
            Self::Iff(a, b) => {
                let mut both = sorted(vec![a, b]).into_iter();
                Self::Iff(Box::new(both.next().unwrap()), Box::new(both.next().unwrap()))
            }
        }
    }
}

/// As Python prints it.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, parts: Vec<&Tree>| {
            write!(f, "('{name}'")?;
            parts.into_iter().try_for_each(|part| write!(f, ", {part}"))?;
            write!(f, ")")
        };
        match self {
            Self::Knight(p) => write!(f, "('telling-truth', {p})"),
            Self::Knave(p) => write!(f, "('lying', {p})"),
            Self::Not(a) => list(f, "not", vec![a]),
            Self::And(all) => list(f, "and", all.iter().collect()),
            Self::Or(all) => list(f, "or", all.iter().collect()),
            Self::If(a, b) => list(f, "->", vec![a, b]),
            Self::Iff(a, b) => list(f, "<=>", vec![a, b]),
        }
    }
}

/// All ways to be knights and knaves.
pub fn assignments(people: usize) -> impl Iterator<Item = Vec<bool>> {
    (0..1usize << people).map(move |bits| (0..people).map(|p| bits >> p & 1 == 1).collect())
}

/// The assignments in which each role is consistent with its statement.
pub fn solutions(claims: &[Tree]) -> Vec<Vec<bool>> {
    let fits = |knights: &Vec<bool>| claims.iter().enumerate().all(|(p, claim)| claim.holds(knights) == knights[p]);
    assignments(claims.len()).filter(fits).collect()
}

/// All orders of 0..n.
pub fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    shorter.iter().flat_map(|order| (0..n).map(move |at| [&order[..at], &[n - 1], &order[at..]].concat())).collect()
}
