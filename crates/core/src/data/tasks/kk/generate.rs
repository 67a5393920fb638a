//! Generated puzzles, by the rules of the public generator: each claim is, with equal probability, a leaf, or `not`, `and`, `or`, `->` or
//! `<=>` of leaves; no person claims to be a knave; the two operands of an operator differ; exactly one assignment of roles is consistent.
//!
//! **Training and evaluation never overlap.** The split of a puzzle is a function of its claims alone (one puzzle in [`BUCKETS`] is for
//! evaluation), for every seed. The function is invariant to names, the order of people, and the order of the operands of `and`, `or` and
//! `<=>`: no variant of an evaluation puzzle occurs in training either.

use super::super::Split;
use super::super::draws::Draws;
use super::claim::{Claim, ClaimNode, solutions};
use anyhow::{Result, anyhow};

/// One in this many puzzles is for evaluation.
pub const BUCKETS: u64 = 4;
/// Number of people in generated puzzles.
pub const PEOPLE: std::ops::RangeInclusive<usize> = 2..=8;
/// About one draw in twelve is an evaluation puzzle, so this many draws are never needed.
const MOST_DRAWS: usize = 100_000;

/// A puzzle with exactly one solution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// The claim of each person.
    pub claims: Vec<Claim>,
    /// Bit `i` is set if person `i` is a knight.
    pub solution: u32,
}

impl Puzzle {
    /// Whether this person is a knight.
    pub fn is_knight(&self, person: usize) -> bool {
        self.solution >> person & 1 == 1
    }

    /// Number of people.
    pub fn people(&self) -> usize {
        self.claims.len()
    }
}

/// A puzzle for a split, with this many people.
///
/// # Errors
/// No puzzle is found, which is ruled out for the numbers of people in [`PEOPLE`].
pub fn puzzle(people: usize, split: Split, draws: &mut Draws) -> Result<Puzzle> {
    for _ in 0..MOST_DRAWS {
        let claims: Vec<Claim> = (0..people).map(|speaker| claim(speaker, people, draws)).collect();
        let fits = solutions(&claims);
        if fits.count() == 1 && split_of(&claims) == split {
            let solution = fits.assignments().first().copied().unwrap_or(0);
            return Ok(Puzzle { claims, solution });
        }
    }
    Err(anyhow!("--people {people}: no puzzle with one solution in {MOST_DRAWS} draws"))
}

/// A random claim by the public rules.
pub fn claim(speaker: usize, people: usize, draws: &mut Draws) -> Claim {
    let operator = match draws.below(6) {
        0 => None,
        1 => Some(ClaimNode::Not),
        2 => Some(ClaimNode::And(2)),
        3 => Some(ClaimNode::Or(2)),
        4 => Some(ClaimNode::If),
        _ => Some(ClaimNode::Iff),
    };
    let mut nodes: Vec<ClaimNode> = operator.into_iter().collect();
    let parts = operator.map_or(1, ClaimNode::parts);
    while nodes.len() < parts as usize + operator.iter().len() {
        let leaf = leaf(speaker, people, draws);
        if parts < 2 || nodes.last() != Some(&leaf) {
            nodes.push(leaf);
        }
    }
    Claim::new(nodes).unwrap_or_else(|| unreachable!("an operator and its parts"))
}

fn leaf(speaker: usize, people: usize, draws: &mut Draws) -> ClaimNode {
    loop {
        let (knight, person) = (draws.flip(), draws.below(people));
        if knight {
            return ClaimNode::Knight(person as u8);
        }
        if person != speaker {
            return ClaimNode::Knave(person as u8);
        }
    }
}

/// The split of a puzzle, as described above.
pub fn split_of(claims: &[Claim]) -> Split {
    if fingerprint(claims).is_multiple_of(BUCKETS) { Split::Eval } else { Split::Train }
}

/// A hash that is equal for puzzles that differ only by renaming or reordering people, or by the order of the operands of `and`, `or` and
/// `<=>`. Each person gets a colour, refined once per person by the colours that their claim refers to (Weisfeiler-Lehman); the sorted
/// colours are hashed.
pub fn fingerprint(claims: &[Claim]) -> u64 {
    let people = claims.len();
    let mut colours = vec![people as u64; people];
    for _ in 0..people {
        let colour = |speaker: usize| {
            let leaf = |node: ClaimNode| {
                let person = node.person().unwrap_or(0);
                let kind = u64::from(matches!(node, ClaimNode::Knave(_)));
                hash(&[kind, u64::from(person == speaker), colours.get(person).copied().unwrap_or(0)])
            };
            let join = |node, mut parts: Vec<u64>| {
                let kind = match node {
                    ClaimNode::Not => 2,
                    ClaimNode::And(_) => 3,
                    ClaimNode::Or(_) => 4,
                    ClaimNode::If => 5,
                    _ => 6,
                };
                if node != ClaimNode::If {
                    parts.sort_unstable();
                }
                parts.push(kind);
                hash(&parts)
            };
            hash(&[colours[speaker], claims[speaker].fold(leaf, join)])
        };
        colours = (0..people).map(colour).collect();
    }
    colours.sort_unstable();
    hash(&colours)
}

/// Splitmix64's finalizer over each word: the same on every machine and in every version.
fn hash(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |state, word| {
        let mut z = (state ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}
