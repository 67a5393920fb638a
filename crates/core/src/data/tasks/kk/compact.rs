//! Puzzles in a few dozen words, for models with a million parameters:
//!
//! ```text
//! A says B knave . B says if A knight then C knave . C says not A knight . <think>
//!  try A knight ok . B not knight since A . say B knave fine . ... </think> <answer> A knight B knave C knight </answer>
//! ```
//!
//! The first line is a prompt, the second its completion. Words are separated by single spaces, so that `--tokenizer words` has one token
//! per word.

use super::super::draws::Draws;
use super::claim::{Claim, ClaimNode, MOST_PEOPLE};
use super::search::SearchStep;

const NAMES: [&str; MOST_PEOPLE] = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P"];

/// The name of a person.
pub fn name(person: usize) -> &'static str {
    NAMES.get(person).copied().unwrap_or("?")
}

/// `knight` or `knave`.
pub fn role(knight: bool) -> &'static str {
    if knight { "knight" } else { "knave" }
}

/// All claims: the prompt without `<think>`.
pub fn quiz(claims: &[Claim]) -> String {
    let statements: Vec<String> = claims.iter().enumerate().map(|(i, c)| format!("{} says {} .", name(i), claim(c))).collect();
    statements.join(" ")
}

/// A claim: `B knave`, `not B knave`, `P and Q`, `P or Q`, `if P then Q`, `P iff Q`; compound operands are in brackets.
pub fn claim(claim: &Claim) -> String {
    let leaf =
        |node: ClaimNode| (format!("{} {}", name(node.person().unwrap_or(0)), role(!matches!(node, ClaimNode::Knave(_)))), true);
    let join = |node: ClaimNode, parts: Vec<(String, bool)>| {
        let parts: Vec<String> = parts.into_iter().map(|(text, bare)| if bare { text } else { format!("( {text} )") }).collect();
        let text = match node {
            ClaimNode::Not => format!("not {}", parts.concat()),
            ClaimNode::And(_) => parts.join(" and "),
            ClaimNode::Or(_) => parts.join(" or "),
            ClaimNode::If => format!("if {}", parts.join(" then ")),
            _ => parts.join(" iff "),
        };
        (text, false)
    };
    claim.fold(leaf, join).0
}

/// Words that begin and that end an assumption. There are six of each: with three, the model's token probabilities are about a third,
/// whereas those of the paper's models are below a quarter or near 1 (arXiv 2505.12929, Fig. 1 a).
const BEGIN: [&str; 6] = ["try", "suppose", "say", "assume", "let", "maybe"];
const END: [&str; 6] = ["ok", "fine", "holds", "good", "works", "yes"];

/// The steps of a search, each preceded by a space. The words that begin and end an assumption are random.
pub fn reasoning(steps: &[SearchStep], draws: &mut Draws) -> String {
    let mut out = String::new();
    for step in steps {
        out += &match *step {
            SearchStep::Assume { person, knight } => {
                let (begin, end) = (draws.pick(&BEGIN), draws.pick(&END));
                format!(" {begin} {} {} {end} .", name(person), role(knight))
            }
            SearchStep::Refute { person, knight, since } => {
                format!(" {} not {} since {} .", name(person), role(knight), name(since))
            }
            SearchStep::Back { to, .. } => format!(" back to {} .", name(to)),
        };
    }
    out
}

/// `A knight B knave`
pub fn answer(people: usize, is_knight: impl Fn(usize) -> bool) -> String {
    let roles: Vec<String> = (0..people).map(|i| format!("{} {}", name(i), role(is_knight(i)))).collect();
    roles.join(" ")
}
