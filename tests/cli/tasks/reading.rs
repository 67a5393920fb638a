//! Puzzles in words read back.

use super::tree::Tree;
use lehr::config::PuzzleForm;
use lehr::data::tasks::kk::claim::Claim;
use lehr::data::tasks::kk::english::{self, NAMES, SPEECH};
use lehr::data::tasks::kk::reading::{ParsedPuzzle, read};
use lehr::data::tasks::kk::{self, compact, generate_puzzle, notation, row};
use lehr::data::tasks::{Draws, Split};
use proptest::prelude::*;

#[test]
fn generated_claims_are_read_back() {
    for n in 0..1200 {
        let puzzle = generate_puzzle(2 + (n % 7) as usize, 2, Split::Train, n).unwrap();
        for form in [PuzzleForm::Natural, PuzzleForm::Compact] {
            let row = row(form, &puzzle, 2, n);
            for text in [&row.quiz, &row.prompt] {
                let back = read(text).unwrap_or_else(|e| panic!("{text}: {e:#}"));
                assert_eq!(back, ParsedPuzzle { names: row.names.clone(), claims: puzzle.claims.clone() }, "{text}");
            }
        }
    }
}

#[test]
fn nested_claims_keep_their_meaning() {
    let names = ["Ann", "Anna", "Bob"];
    for n in 0..400 {
        let mut draws = Draws::new(1, "reading", n);
        let trees: Vec<Tree> = (0..3).map(|_| Tree::any(&mut draws, 3, 3)).collect();
        let inside: Vec<String> = trees.iter().map(Tree::to_string).collect();
        let claims: Vec<Claim> = notation::parse(&format!("({})", inside.join(", "))).unwrap();
        let english = english::quiz(&claims, &names, &mut draws);
        let back = read(&english).unwrap_or_else(|e| panic!("{english}: {e:#}")).claims;
        let compact = read(&compact::quiz(&claims)).unwrap().claims;
        for (i, claim) in claims.iter().enumerate() {
            // `and` of one part is that part in words.
            assert_eq!(back[i].table(3), claim.table(3), "{english}");
            assert_eq!(compact[i].table(3), claim.table(3), "{}", compact::quiz(&claims));
        }
    }
}

#[test]
fn every_form_of_reported_speech_is_read() {
    for form in SPEECH {
        let output = [
            english::report(form, "Mia", "If Noah is a knave then Mia is a knight"),
            english::report(form, "Noah", "Mia is not a knave"),
        ];
        let quiz = format!("{} You meet 2 inhabitants: Mia and Noah. {} {}", english::INTRO, output.join(" "), english::QUESTION);
        let back = read(&quiz).unwrap_or_else(|e| panic!("{quiz}: {e:#}"));
        assert_eq!(back.names, ["Mia", "Noah"]);
        assert_eq!(notation::print(&back.claims), "(('->', ('lying', 1), ('telling-truth', 0)), ('not', ('lying', 0)))");
    }
    let mut sorted = NAMES.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, NAMES);
}

#[test]
fn speakers_are_found_by_name() {
    let quiz = "You meet 2 inhabitants: Mia and Noah. Quite loudly, Noah shouted: \"Mia is a knight\". \"Noah is a knave!\" Mia cried. So who is who?";
    let back = read(quiz).unwrap();
    assert_eq!(notation::print(&back.claims), "(('lying', 1), ('telling-truth', 0))");
}

#[test]
fn unparsed_sentences_are_reported() {
    for (quiz, says) in [
        ("", "holds no \"You meet ... inhabitants: ...\""),
        ("You meet 2 inhabitants: A and B", "the list of inhabitants does not end"),
        ("You meet 2 inhabitants: Mia and Noah. Mia says hello. So who is who?", "not understood: \"Mia says hello.\": no claim"),
        (
            "You meet 2 inhabitants: Mia and Noah. \"Mia is a knight\" So who is",
            "not understood: \"\\\"Mia is a knight\\\"\": the sentence does not end",
        ),
        ("You meet 2 inhabitants: Mia and Noah. \"Mia is a knight\". So who is", "0 people speak in one sentence"),
        ("You meet 2 inhabitants: Mia and Noah. Noah and Mia say Mia is a knight. So who is", "2 people speak in one sentence"),
        ("You meet 2 inhabitants: Mia and Noah. Noah said that Mia is a knight. So who is", "Mia says nothing"),
        (
            "You meet 2 inhabitants: Mia and Noah. Noah said that Mia is a knight. Noah said that Mia is a knave. So who is",
            "Noah says two things",
        ),
        ("A says B knight .", "the claim of A is about a person without a claim"),
        ("A says A knight . B says A tall .", "not understood: \"B says A tall\"; expected B says ..."),
        ("A says A knight . C says A knight .", "not understood: \"C says A knight\"; expected B says ..."),
    ] {
        let error = format!("{:#}", read(quiz).expect_err(quiz));
        assert!(error.contains(says), "{quiz}: {error}");
        assert!(!error.contains('\n'));
    }
}

proptest! {
    #[test]
    fn readers_never_panic(parts in prop::collection::vec(
        prop_oneof![
            Just("You meet 2 inhabitants: "), Just("Mia"), Just(" and "), Just("Noah"), Just(". "), Just(" is a knight"), Just("If "), Just(" then "),
            Just("("), Just(")"), Just("A says "), Just("( "), Just("not "), Just("B knave"), Just(" . "), Just("\""), Just("é\u{0}"),
        ], 0..30)) {
        let text = parts.concat();
        let _ = read(&text);
        let _ = read(&format!("You meet 2 inhabitants: Mia and Noah. {text}"));
        let _ = read(&format!("A says {text}"));
        let _ = notation::parse(&text);
    }

    #[test]
    fn the_notation_parser_never_panics(text in "[()\\[\\],' a-z0-9<=>-]{0,60}") {
        let _ = notation::parse(&text);
    }
}

#[test]
fn long_texts_are_read_quickly() {
    for piece in ["(", "If ", "( ", "not ", "Mia is a knight and ", "Mia ", "\"", "if A knight then "] {
        let long = piece.repeat((1 << 20) / piece.len());
        let _ = read(&format!("You meet 2 inhabitants: Mia and Noah. {long}"));
        let _ = read(&format!("A says {long}"));
    }
    let _ = kk::reward::roles(&"a".repeat(1 << 20));
}
