//! Generated puzzles: valid by the rules, solved step by step, never in both splits.

use super::tree::{Tree, assignments, orders, solutions};
use lehr::config::PuzzleForm;
use lehr::data::tasks::kk::generate::{Puzzle, fingerprint, split_of};
use lehr::data::tasks::kk::search::{SearchOrder, SearchStep, search};
use lehr::data::tasks::kk::{self, claim, distinct, generate_puzzle, row};
use lehr::data::tasks::{Draws, Split};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Assumed roles, and the (person, role) that contradicts a statement under them.
type Failure = (Vec<(usize, bool)>, usize, bool);

fn trees(puzzle: &Puzzle) -> Vec<Tree> {
    puzzle.claims.iter().map(Tree::of).collect()
}

fn knights(puzzle: &Puzzle) -> Vec<bool> {
    (0..puzzle.people()).map(|p| puzzle.is_knight(p)).collect()
}

#[test]
fn generated_puzzles_follow_the_rules() {
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..1500 {
        for split in [Split::Train, Split::Eval] {
            let people = 2 + (n % 7) as usize;
            let puzzle = generate_puzzle(people, 5, split, n).unwrap();
            assert_eq!(puzzle, generate_puzzle(people, 5, split, n).unwrap(), "a function of its number");
            assert_eq!(puzzle.people(), people);
            let trees = trees(&puzzle);
            assert_eq!(solutions(&trees), [knights(&puzzle)], "{trees:?}");
            for (speaker, claim) in trees.iter().enumerate() {
                let leaf = |tree: &Tree| match tree {
                    Tree::Knight(_) => true,
                    Tree::Knave(p) => *p != speaker,
                    _ => false,
                };
                let (name, good) = match claim {
                    Tree::Not(a) => ("not", leaf(a)),
                    Tree::And(all) => ("and", all.len() == 2 && all.iter().all(leaf) && all[0] != all[1]),
                    Tree::Or(all) => ("or", all.len() == 2 && all.iter().all(leaf) && all[0] != all[1]),
                    Tree::If(a, b) => ("if", leaf(a) && leaf(b) && a != b),
                    Tree::Iff(a, b) => ("iff", leaf(a) && leaf(b) && a != b),
                    bare => ("leaf", leaf(bare)),
                };
                assert!(good, "{claim} said by {speaker}");
                *operators.entry(name).or_default() += 1;
            }
        }
    }
    let all: usize = operators.values().sum();
    for (name, count) in &operators {
        let share = *count as f64 / all as f64;
        assert!((0.12..0.21).contains(&share), "{name}: {share}");
    }
    assert_eq!(operators.len(), 6);
}

/// The shares of draws with exactly one solution of the public generator's rules, for 2 to 8 people.
#[test]
fn the_share_of_unique_draws_matches_the_reference() {
    for (people, share) in (2..=8).zip([0.41, 0.38, 0.36, 0.35, 0.34, 0.33, 0.33]) {
        let (mut unique, mut eval, all) = (0, 0, 6000);
        for n in 0..all {
            let mut draws = Draws::new(6, "shares", n);
            let claims: Vec<claim::Claim> = (0..people).map(|speaker| kk::generate::claim(speaker, people, &mut draws)).collect();
            if claim::solutions(&claims).count() == 1 {
                unique += 1;
                eval += u64::from(split_of(&claims) == Split::Eval);
            }
        }
        let found = f64::from(unique) / all as f64;
        println!(
            "{people} people: {found:.3} have one solution, {:.3} of them are for evaluation",
            eval as f64 / f64::from(unique)
        );
        // Five standard errors of the difference, and the two digits given.
        assert!((found - share).abs() < 0.03, "{people} people: {found}");
    }
}

#[test]
fn every_solution_step_holds_and_the_last_ones_are_the_solution() {
    let mut kinds = [0; 3];
    for n in 0..700 {
        let people = 2 + (n % 6) as usize;
        let puzzle = generate_puzzle(people, 9, Split::Train, n).unwrap();
        let trees = trees(&puzzle);
        // Whether the claim of `speaker` can fit these roles, whatever the others are.
        let open = |roles: &[(usize, bool)], speaker: usize| {
            assignments(people).any(|knights| {
                roles.iter().all(|(p, knight)| knights[*p] == *knight) && trees[speaker].holds(&knights) == knights[speaker]
            })
        };
        let mut assumed: Vec<(usize, bool)> = Vec::new();
        // Roles that failed, each with the roles under which it did.
        let mut failed: HashSet<Failure> = HashSet::new();
        for step in
            search(&puzzle.claims, [SearchOrder::Any, SearchOrder::Mentioned][(n % 2) as usize], &mut Draws::new(3, "steps", n))
        {
            match step {
                SearchStep::Assume { person, knight } => {
                    kinds[0] += 1;
                    assert!(assumed.iter().all(|(p, _)| *p != person));
                    assert!(!failed.contains(&(assumed.clone(), person, knight)), "assumed although it failed");
                    assumed.push((person, knight));
                    assert!(assumed.iter().all(|(speaker, _)| open(&assumed, *speaker)), "{assumed:?} {trees:?}");
                }
                SearchStep::Refute { person, knight, since } => {
                    kinds[1] += 1;
                    let mut with = assumed.clone();
                    with.push((person, knight));
                    assert!(with.iter().any(|(p, _)| *p == since), "a person whose role is assumed");
                    assert!(!open(&with, since), "{with:?} does not refute {since}: {trees:?}");
                    failed.insert((assumed.clone(), person, knight));
                }
                SearchStep::Back { from, to } => {
                    kinds[2] += 1;
                    assert!([true, false].iter().all(|knight| failed.contains(&(assumed.clone(), from, *knight))));
                    let given_up = assumed.pop().unwrap();
                    assert_eq!(given_up.0, to);
                    failed.insert((assumed.clone(), given_up.0, given_up.1));
                }
            }
        }
        assumed.sort_unstable();
        let expected: Vec<(usize, bool)> = knights(&puzzle).into_iter().enumerate().collect();
        assert_eq!(assumed, expected, "{trees:?}");
    }
    assert!(kinds.iter().all(|count| *count > 200), "{kinds:?}");
}

#[test]
fn the_search_ends_with_no_or_many_solutions() {
    let mut seen = [0; 2];
    for n in 0..300 {
        let mut draws = Draws::new(2, "free", n);
        let claims: Vec<claim::Claim> = (0..4).map(|p| kk::generate::claim(p, 4, &mut draws)).collect();
        let all = solutions(&claims.iter().map(Tree::of).collect::<Vec<_>>());
        let mut assumed = BTreeMap::new();
        for step in search(&claims, SearchOrder::Any, &mut draws) {
            match step {
                SearchStep::Assume { person, knight } => drop(assumed.insert(person, knight)),
                SearchStep::Back { to, .. } => drop(assumed.remove(&to)),
                SearchStep::Refute { .. } => {}
            }
        }
        let end: Vec<bool> = assumed.values().copied().collect();
        if all.is_empty() {
            assert!(end.is_empty());
            seen[0] += 1;
        } else {
            assert!(all.contains(&end));
            seen[1] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

/// A puzzle in a form that neither names nor the order of people nor the order of parts can change: the least of all renamings.
fn canonical(claims: &[Tree]) -> Vec<Tree> {
    let people = claims.len();
    let renamed = |names: &Vec<usize>| {
        let mut out = claims.to_vec();
        for (p, claim) in claims.iter().enumerate() {
            out[names[p]] = claim.renamed(names);
        }
        out
    };
    orders(people).iter().map(renamed).min().unwrap()
}

#[test]
fn training_and_evaluation_puzzles_are_disjoint_up_to_renaming() {
    for (people, count) in [(2, 400), (3, 1200), (4, 250)] {
        let of = |split: Split| {
            let mut all = BTreeSet::new();
            for seed in 0..3 {
                for n in 0..count {
                    all.insert(canonical(&trees(&generate_puzzle(people, seed, split, n).unwrap())));
                }
            }
            all
        };
        let (train, eval) = (of(Split::Train), of(Split::Eval));
        assert!(train.is_disjoint(&eval), "{people} people");
        assert!(eval.len() > 10 && train.len() > eval.len(), "{people} people: {} and {}", train.len(), eval.len());
    }
}

#[test]
fn fingerprints_are_invariant_to_renaming_only() {
    let mut known: BTreeMap<u64, Vec<Tree>> = BTreeMap::new();
    for n in 0..400 {
        let puzzle = generate_puzzle(3 + (n % 2) as usize, 11, Split::Train, n).unwrap();
        let trees = trees(&puzzle);
        let mark = fingerprint(&puzzle.claims);
        for names in orders(trees.len()) {
            let mut other = trees.clone();
            for (p, claim) in trees.iter().enumerate() {
                other[names[p]] = claim.renamed(&names);
            }
            let text = other.iter().map(Tree::to_string).collect::<Vec<_>>().join(", ");
            let claims = kk::notation::parse(&format!("({text})")).unwrap();
            assert_eq!(fingerprint(&claims), mark, "{text}");
            assert_eq!(split_of(&claims), Split::Train);
        }
        let canonical = canonical(&trees);
        assert_eq!(known.entry(mark).or_insert_with(|| canonical.clone()), &canonical, "two puzzles, one fingerprint");
    }
    assert!(known.len() > 350);
}

#[test]
fn distinct_puzzles_do_not_repeat_and_are_finite() {
    let mut all = distinct(vec![2, 3], 4, Split::Eval);
    let mut seen: BTreeMap<usize, HashSet<Vec<Tree>>> = BTreeMap::new();
    while all.exhausted().is_empty() {
        let (n, puzzle) = all.draw().unwrap().unwrap();
        assert_eq!(puzzle, generate_puzzle(puzzle.people(), 4, Split::Eval, n).unwrap());
        assert!(seen.entry(puzzle.people()).or_default().insert(trees(&puzzle)));
    }
    // Every puzzle of two people with one solution that evaluation may have, counted out.
    let leaves = |speaker: usize| [Tree::Knight(0), Tree::Knight(1), Tree::Knave(1 - speaker)];
    let claims = |speaker: usize| {
        let leaves = leaves(speaker);
        let mut all: Vec<Tree> = leaves.to_vec();
        all.extend(leaves.iter().map(|a| Tree::Not(Box::new(a.clone()))));
        for (a, b) in leaves.iter().flat_map(|a| leaves.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            all.push(Tree::And(vec![a.clone(), b.clone()]));
            all.push(Tree::Or(vec![a.clone(), b.clone()]));
            all.push(Tree::If(Box::new(a.clone()), Box::new(b.clone())));
            all.push(Tree::Iff(Box::new(a.clone()), Box::new(b.clone())));
        }
        all
    };
    let (first, second) = (claims(0), claims(1));
    let both = first.iter().flat_map(|a| second.iter().map(move |b| [a.clone(), b.clone()]));
    let mut of = [0, 0];
    for trees in both.filter(|trees| solutions(trees).len() == 1) {
        let claims = kk::notation::parse(&format!("({}, {})", trees[0], trees[1])).unwrap();
        of[usize::from(split_of(&claims) == Split::Eval)] += 1;
    }
    println!("two people: {} puzzles to train on, {} for evaluation", of[0], of[1]);
    assert_eq!(all.exhausted(), BTreeSet::from([2]));
    assert_eq!(seen[&2].len(), of[1], "all of them were found");
}

#[test]
fn compact_rows_use_few_words_and_single_spaces() {
    let mut words = BTreeSet::new();
    let mut lengths = Vec::new();
    for n in 0..800 {
        let row = row(PuzzleForm::Compact, &generate_puzzle(3, 1, Split::Train, n).unwrap(), 1, n);
        assert_eq!(row.text, format!("{}{}", row.prompt, row.completion));
        assert_eq!(row.prompt, format!("{} <think>", row.quiz));
        assert!(row.completion.starts_with(' ') && row.completion.ends_with(" </answer>"));
        assert_eq!(row.text.split_whitespace().collect::<Vec<_>>().join(" "), row.text);
        words.extend(row.text.split(' ').map(str::to_owned));
        lengths.push(row.completion.split_whitespace().count());
        let answer: Vec<String> = ["A", "B", "C"]
            .iter()
            .zip(&row.solution)
            .map(|(name, knight)| format!("{name} {}", if *knight { "knight" } else { "knave" }))
            .collect();
        assert!(row.completion.ends_with(&format!(" . </think> <answer> {} </answer>", answer.join(" "))), "{}", row.completion);
    }
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    println!("{} words, completions of {mean:.1} words on average, {} at most", words.len(), lengths.iter().max().unwrap());
    assert!((20.0..60.0).contains(&mean));
    assert!(words.len() <= 36, "{words:?}");
}

#[test]
fn claims_have_both_wordings() {
    let claims = "(('<=>', ('telling-truth', 2), ('lying', 0)), ('->', ('lying', 0), ('telling-truth', 2)), \
                  ('and', ('not', ('lying', 1)), ('or', ('telling-truth', 0), ('telling-truth', 1))), ('not', ('lying', 0)), \
                  ('not', ('and', ('lying', 0), ('lying', 1))))";
    let claims = kk::notation::parse(claims).unwrap();
    let names = ["Ann", "Bob", "Cy", "Di", "Ed"];
    let natural: Vec<String> = claims.iter().map(|c| kk::english::claim(c, &names)).collect();
    assert_eq!(
        natural,
        [
            "Cy is a knight if and only if Ann is a knave",
            "If Ann is a knave then Cy is a knight",
            "(Bob is not a knave) and (Ann is a knight or Bob is a knight)",
            "Ann is not a knave",
            "It is not the case that (Ann is a knave and Bob is a knave)",
        ]
    );
    assert_eq!(
        kk::compact::quiz(&claims),
        "A says C knight iff A knave . B says if A knave then C knight . C says ( not B knave ) and ( A knight or B knight ) . \
         D says not A knave . E says not ( A knave and B knave ) ."
    );
}
