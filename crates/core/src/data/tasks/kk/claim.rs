//! Claims about people's roles, and truth tables over all assignments of roles.

/// Maximum people in one puzzle: a truth table has 2^people bits.
pub const MOST_PEOPLE: usize = 16;

/// A node of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClaimNode {
    /// This person is a knight.
    Knight(u8),
    /// This person is a knave.
    Knave(u8),
    /// The next operand is false.
    Not,
    /// All of the next n operands are true.
    And(u32),
    /// At least one of the next n operands is true.
    Or(u32),
    /// If the first of the next two operands is true, so is the second.
    If,
    /// The next two operands are both true or both false.
    Iff,
}

impl ClaimNode {
    /// Number of operands.
    pub fn parts(self) -> u32 {
        match self {
            Self::Knight(_) | Self::Knave(_) => 0,
            Self::Not => 1,
            Self::And(n) | Self::Or(n) => n,
            Self::If | Self::Iff => 2,
        }
    }

    /// The person of a leaf.
    pub fn person(self) -> Option<usize> {
        match self {
            Self::Knight(p) | Self::Knave(p) => Some(p.into()),
            _ => None,
        }
    }
}

/// A claim in Polish notation (operators before operands), so that deep nesting cannot overflow the stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    nodes: Vec<ClaimNode>,
}

impl Claim {
    /// A claim from its nodes; `None` unless they form exactly one complete claim.
    pub fn new(nodes: Vec<ClaimNode>) -> Option<Self> {
        let mut wanted = 1u64;
        for (i, node) in nodes.iter().enumerate() {
            // Each node is one of the operands still missing.
            wanted = (wanted - 1) + u64::from(node.parts());
            if wanted == 0 && i + 1 < nodes.len() {
                return None;
            }
        }
        (wanted == 0 && !nodes.is_empty()).then_some(Self { nodes })
    }

    /// Its nodes, operators before operands.
    pub fn nodes(&self) -> &[ClaimNode] {
        &self.nodes
    }

    /// The largest index of a person in the claim.
    pub fn last_person(&self) -> Option<usize> {
        self.nodes.iter().filter_map(|node| node.person()).max()
    }

    /// Evaluates the claim from the leaves up: `leaf` for a leaf, `join` for an operator and the results of its operands.
    pub fn fold<T>(&self, leaf: impl Fn(ClaimNode) -> T, join: impl Fn(ClaimNode, Vec<T>) -> T) -> T {
        let mut done: Vec<T> = Vec::new();
        for node in self.nodes.iter().rev() {
            let value = match node.parts() as usize {
                0 if node.person().is_some() => leaf(*node),
                parts => {
                    let parts = done.split_off(done.len() - parts);
                    // Reading backwards, the first operand comes last.
                    join(*node, parts.into_iter().rev().collect())
                }
            };
            done.push(value);
        }
        done.swap_remove(0)
    }

    /// Its truth value for every assignment of roles to `people`.
    pub fn table(&self, people: usize) -> TruthTable {
        let leaf = |node| match node {
            ClaimNode::Knave(p) => TruthTable::knight(p.into(), people).inverse(),
            _ => TruthTable::knight(node.person().unwrap_or(0), people),
        };
        self.fold(leaf, |node, parts| {
            let mut parts = parts.into_iter();
            let mut next = || parts.next().unwrap_or_else(|| TruthTable::all(people));
            match node {
                ClaimNode::Not => next().inverse(),
                ClaimNode::If => {
                    let premise = next().inverse();
                    premise.or(&next())
                }
                ClaimNode::Iff => {
                    let first = next();
                    first.same(&next())
                }
                ClaimNode::Or(_) => parts.fold(TruthTable::all(people).inverse(), |all, part| all.or(&part)),
                _ => parts.fold(TruthTable::all(people), |all, part| all.and(&part)),
            }
        })
    }
}

/// A truth table over assignments; bit `p` of an assignment's number is set if person `p` is a knight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruthTable {
    words: Vec<u64>,
    people: usize,
}

impl TruthTable {
    /// True for all assignments.
    pub fn all(people: usize) -> Self {
        let last = if people >= 6 { u64::MAX } else { (1 << (1u32 << people)) - 1 };
        Self { words: vec![last; 1 << people.saturating_sub(6)], people }
    }

    /// True where this person is a knight.
    pub fn knight(person: usize, people: usize) -> Self {
        const PATTERNS: [u64; 6] = [
            0xAAAA_AAAA_AAAA_AAAA,
            0xCCCC_CCCC_CCCC_CCCC,
            0xF0F0_F0F0_F0F0_F0F0,
            0xFF00_FF00_FF00_FF00,
            0xFFFF_0000_FFFF_0000,
            0xFFFF_FFFF_0000_0000,
        ];
        let mut table = Self::all(people);
        for (i, word) in table.words.iter_mut().enumerate() {
            *word &= match PATTERNS.get(person) {
                Some(pattern) => *pattern,
                None if i >> (person - 6) & 1 == 1 => u64::MAX,
                None => 0,
            };
        }
        table
    }

    /// True where this person has this role.
    pub fn role(person: usize, knight: bool, people: usize) -> Self {
        let table = Self::knight(person, people);
        if knight { table } else { table.inverse() }
    }

    /// Negation.
    #[must_use]
    pub fn inverse(mut self) -> Self {
        let all = Self::all(self.people);
        self.words.iter_mut().zip(&all.words).for_each(|(word, all)| *word = !*word & all);
        self
    }

    /// Conjunction.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
        self
    }

    /// Disjunction.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        self
    }

    /// Equivalence.
    #[must_use]
    pub fn same(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word ^= other);
        self.inverse()
    }

    /// Whether it is false for all assignments.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The assignments for which it is true, ascending.
    pub fn assignments(&self) -> Vec<u32> {
        let bits = |(i, word): (usize, &u64)| {
            let (i, word) = (i as u32, *word);
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit)
        };
        self.words.iter().enumerate().flat_map(bits).collect()
    }

    /// Number of assignments for which it is true.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

/// Constraints of the claims: person `i` is a knight if and only if claim `i` is true.
pub fn constraints(claims: &[Claim]) -> Vec<TruthTable> {
    let people = claims.len();
    claims.iter().enumerate().map(|(i, claim)| TruthTable::knight(i, people).same(&claim.table(people))).collect()
}

/// All assignments of roles consistent with all claims. There is one claim per person, at most [`MOST_PEOPLE`], and claims refer only to
/// these people.
pub fn solutions(claims: &[Claim]) -> TruthTable {
    constraints(claims).iter().fold(TruthTable::all(claims.len()), |all, constraint| all.and(constraint))
}
