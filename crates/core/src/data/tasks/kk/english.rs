//! Puzzles in English sentences, in the wording of the public rows.

use super::super::draws::Draws;
use super::claim::{Claim, ClaimNode};
use super::compact::role;
use super::search::SearchStep;

/// First names.
pub const NAMES: [&str; 51] = [
    "Abigail",
    "Aiden",
    "Alexander",
    "Amelia",
    "Aria",
    "Aurora",
    "Ava",
    "Avery",
    "Benjamin",
    "Charlotte",
    "Chloe",
    "Daniel",
    "David",
    "Elizabeth",
    "Ella",
    "Emily",
    "Emma",
    "Ethan",
    "Evelyn",
    "Grace",
    "Harper",
    "Henry",
    "Isabella",
    "Jack",
    "Jackson",
    "Jacob",
    "James",
    "Joseph",
    "Liam",
    "Lily",
    "Logan",
    "Lucas",
    "Luke",
    "Mason",
    "Matthew",
    "Mia",
    "Michael",
    "Noah",
    "Oliver",
    "Olivia",
    "Owen",
    "Penelope",
    "Riley",
    "Samuel",
    "Scarlett",
    "Sebastian",
    "Sofia",
    "Sophia",
    "Victoria",
    "William",
    "Zoey",
];

/// Wordings of a report: text before, between and after speaker (`N`) and claim (`C`).
pub const SPEECH: [&str; 18] = [
    "N said that C.",
    "N told you that C.",
    "N expressed that C.",
    "N said, \"C.\"",
    "N stated, \"C\".",
    "N noted, \"C\".",
    "N remarked, \"C\".",
    "N commented, \"C\".",
    "N asserted: \"C\".",
    "N was heard saying, \"C\".",
    "According to N, \"C\".",
    "In N's words: \"C\".",
    "In a statement by N: \"C\".",
    "As N put it, \"C\".",
    "\"C,\" N claimed.",
    "\"C,\" N declared.",
    "\"C,\" N mentioned.",
    "\"C\" - N.",
];

/// The first two sentences.
pub const INTRO: &str =
    "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves always lie.";
/// The last sentence.
pub const QUESTION: &str = "So who is a knight and who is a knave?";

/// The whole puzzle; the wording of each report is random.
pub fn quiz(claims: &[Claim], names: &[&str], draws: &mut Draws) -> String {
    let mut out = format!("{INTRO} You meet {} inhabitants: {}. ", names.len(), list(names));
    for (i, c) in claims.iter().enumerate() {
        out += &report(draws.pick(&SPEECH), names[i], &claim(c, names));
        out.push(' ');
    }
    out + QUESTION
}

/// `A and B`, `A, B, and C`.
pub fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first, second] => format!("{first} and {second}"),
        [others @ .., last] => format!("{}, and {last}", others.join(", ")),
    }
}

/// A claim in one of the forms of [`SPEECH`].
pub fn report(form: &str, name: &str, claim: &str) -> String {
    let mut out = String::new();
    for c in form.chars() {
        match c {
            'N' => out.push_str(name),
            'C' => out.push_str(claim),
            c => out.push(c),
        }
    }
    out
}

/// A claim in the wording of the public rows. Compound operands, which those rows do not have, are in brackets.
pub fn claim(claim: &Claim, names: &[&str]) -> String {
    let name = |node: ClaimNode| names.get(node.person().unwrap_or(0)).copied().unwrap_or("?");
    let is = |node: ClaimNode, word: &str| format!("{} {word} a {}", name(node), role(!matches!(node, ClaimNode::Knave(_))));
    // Leaves are kept, so that their negation can be worded as "is not".
    let leaf = |node: ClaimNode| (is(node, "is"), Some(node));
    let join = |node: ClaimNode, parts: Vec<(String, Option<ClaimNode>)>| {
        if let (ClaimNode::Not, [(_, Some(leaf))]) = (node, parts.as_slice()) {
            return (is(*leaf, "is not"), None);
        }
        let parts: Vec<String> =
            parts.into_iter().map(|(text, leaf)| if leaf.is_some() { text } else { format!("({text})") }).collect();
        let text = match node {
            ClaimNode::Not => format!("It is not the case that {}", parts.concat()),
            ClaimNode::And(_) => parts.join(" and "),
            ClaimNode::Or(_) => parts.join(" or "),
            ClaimNode::If => format!("If {}", parts.join(" then ")),
            _ => parts.join(" if and only if "),
        };
        (text, None)
    };
    claim.fold(leaf, join).0
}

/// The steps of a search in sentences, one per line. The wording is random, within a small vocabulary.
pub fn reasoning(steps: &[SearchStep], claims: &[Claim], names: &[&str], draws: &mut Draws) -> String {
    let mut out = draws
        .pick(&[
            "Let us go through the people one by one and see which roles lead to a contradiction.",
            "We try a role for each person in turn and look for a contradiction.",
            "Let us assume a role for one person after another and check what they claim.",
        ])
        .to_owned();
    // Current assumptions, latest last.
    let mut assumed: Vec<(usize, bool)> = Vec::new();
    for step in steps {
        out.push('\n');
        match *step {
            SearchStep::Assume { person, knight } => {
                let begin = draws.pick(&["Assume", "Suppose", "Let us say"]);
                let end = draws.pick(&["No contradiction is found in", "Nothing contradicts", "This fits with"]);
                let lie = if knight { "" } else { "false " };
                let (name, claim) = (names[person], claim(&claims[person], names));
                out += &format!("{begin} {name} is a {}. {end} their {lie}claim that {claim}.", role(knight));
                assumed.push((person, knight));
            }
            SearchStep::Refute { person, knight, since } => {
                let why = draws.pick(&["because this would contradict", "since this contradicts", "as this goes against"]);
                let honest = if since == person { knight } else { assumed.contains(&(since, true)) };
                let lie = if honest { "" } else { "false " };
                let whose = if since == person { "their own".into() } else { format!("the {lie}claim of {}", names[since]) };
                let own = if since == person { format!(" {lie}claim") } else { String::new() };
                let (name, claim) = (names[person], claim(&claims[since], names));
                out += &format!("{name} cannot be a {}, {why} {whose}{own} that {claim}.", role(knight));
            }
            SearchStep::Back { from, to } => {
                let (from, to) = (names[from], names[to]);
                out += &match draws.below(2) {
                    0 => format!("We have exhausted all possibilities for {from}, so let us go back and reconsider {to}."),
                    _ => format!("Neither role is left for {from}. Let us go back to {to}."),
                };
                assumed.pop();
            }
        }
    }
    out.push('\n');
    out + draws.pick(&["This leads to a solution.", "All claims fit, so this is the solution.", "Every role is found."])
}

/// `(1) Zoey is a knight`, one line per person: the solution format of the public rows.
pub fn solution(names: &[&str], is_knight: impl Fn(usize) -> bool) -> String {
    let lines: Vec<String> =
        names.iter().enumerate().map(|(i, name)| format!("({}) {name} is a {}", i + 1, role(is_knight(i)))).collect();
    lines.join("\n")
}
