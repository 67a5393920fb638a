//! The rule reward: its totals on a table of malformed answers, by the public rules, and its run time on hostile ones.

use lehr::config::PuzzleForm;
use lehr::data::tasks::Grade;
use lehr::data::tasks::kk::reward::{grade, roles};
use proptest::prelude::*;
use std::fmt::Write;

const SOLUTION: &str = "(1) Zoey is a knight\n(2) Oliver is a knave";
/// A prompt that opens `<think>` itself, and names the tags before.
const PROMPT: &str = "<|im_start|>system\nReason inside <think> </think>, answer inside <answer> </answer>.<|im_end|>\n\
                      <|im_start|>user\nWho is who?<|im_end|>\n<|im_start|>assistant\n<think>";
const RIGHT: f64 = 3.0;
const WRONG: f64 = -0.5;
const UNREADABLE: f64 = -1.0;
const BROKEN: f64 = -3.0;

fn graded(prompt: &str, response: &str) -> Grade {
    grade(PuzzleForm::Natural, &roles(SOLUTION).unwrap(), prompt, response)
}

/// (what follows `<think>`, total)
const TABLE: &[(&str, f64)] = &[
    // Correct answers.
    ("x</think><answer>(1) Zoey is a knight\n(2) Oliver is a knave</answer>", RIGHT),
    ("</think><answer>(1) Zoey is a knight (2) Oliver is a knave</answer>", RIGHT),
    ("x</think> between <answer>Oliver is a knave, Zoey is a knight</answer> behind <|im_end|>", RIGHT),
    ("x</think><answer>zoey IS A KNIGHT; OLIVER is a Knave</answer>", RIGHT),
    ("x</think><answer>Zoey  is\n\ta   knight Oliver is a\u{a0}knave</answer>", RIGHT),
    ("x</think><answer>\n\n **Zoey is a knight** and **Oliver is a knave**.\n</answer>", RIGHT),
    ("Zoey is a knave? <b>no</b></think><answer>Zoey is a knight Oliver is a knave</answer>", RIGHT),
    ("\u{0}\u{7}\u{1b}[2J</think><answer>Zoey is a knight\u{0}Oliver is a knave</answer>", RIGHT),
    ("x</think><answer>Zoey is a \u{212A}night. Oliver is a knave</answer>", RIGHT),
    // Wrong ones.
    ("x</think><answer>Zoey is a knave Oliver is a knave</answer>", WRONG),
    ("x</think><answer>Zoey is a knave\nOliver is a knight</answer>", WRONG),
    ("x</think><answer>Zoey is a knight Oliver is a knight</answer>", WRONG),
    // The tags are right, the answer cannot be read.
    ("x</think><answer></answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight Oliver is not a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight Oliver is the knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight, not a knave. Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight Zoey is a knave Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knight Oliver is a knave knightknave</answer>", UNREADABLE),
    ("x</think><answer>Zoey is a knights Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>AZoey is a knight Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey_ is a knight Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoey isa knight Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>Zoe y is a knight Oliver is a knave</answer>", UNREADABLE),
    ("x</think><answer>knight knave</answer>", UNREADABLE),
    ("x</think><answer>I do not know</answer>", UNREADABLE),
    // The tags are not right.
    ("", BROKEN),
    ("Zoey is a knight Oliver is a knave", BROKEN),
    ("<answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("x</think>Zoey is a knight Oliver is a knave", BROKEN),
    ("x</think><answer>Zoey is a knight Oliver is a knave", BROKEN),
    ("x</think>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("<think>x</think><answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("x</think></think><answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("x</think><answer><answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("x</think><answer>Zoey is a knight Oliver is a knave</answer></answer>", BROKEN),
    ("x</think><answer>no</answer><answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("<answer>Zoey is a knight Oliver is a knave</answer></think>", BROKEN),
    ("x</think></answer>Zoey is a knight Oliver is a knave<answer>", BROKEN),
    ("x<answer></think>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("x</THINK><ANSWER>Zoey is a knight Oliver is a knave</ANSWER>", BROKEN),
    ("x< /think>< answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
    ("the tag <answer> comes soon</think><answer>Zoey is a knight Oliver is a knave</answer>", BROKEN),
];

#[test]
fn rewards_of_malformed_answers() {
    for (response, total) in TABLE {
        let verdict = graded(PROMPT, response);
        assert_eq!(verdict.reward, *total, "{response:?}: {}", verdict.reason);
        assert_eq!(verdict.correct, *total == RIGHT, "{response:?}");
        let format = if *total == BROKEN { -1.0 } else { 1.0 };
        assert_eq!(verdict.parts["format"], format, "{response:?}");
        assert_eq!(verdict.parts["format"] + verdict.parts["answer"], *total);
        assert!(!verdict.reason.is_empty() && !verdict.reason.contains('\n'));
        // Prompts without a template, also with the tag in the response.
        assert_eq!(graded("Who is who? <think>\n", response).reward, *total, "{response:?}");
        if !response.contains("<think>") {
            assert_eq!(graded("Who is who?", &format!("<think>{response}")).reward, *total, "{response:?}");
            assert_eq!(graded("Use <think> please.", &format!("<think>{response}")).reward, *total, "{response:?}");
            assert_eq!(graded("Who is who?", response).reward, BROKEN, "there is no <think>");
        }
    }
    assert!(TABLE.len() > 30);
}

#[test]
fn grading_starts_at_the_response_mark() {
    let good = "x</think><answer>Zoey is a knight Oliver is a knave</answer>";
    assert_eq!(graded("User: who? Assistant: <think>", good).reward, RIGHT);
    assert_eq!(graded("Assistant: <think></think> User: again <think>", good).reward, BROKEN);
    // The marker of the other template takes precedence at any position, and removes the prompt's <think>.
    assert_eq!(graded("<|im_start|>assistant\n<think>", good).reward, RIGHT);
    assert_eq!(graded("<|im_start|>assistant\n<think>", &format!("Assistant: {good}")).reward, BROKEN);
    assert_eq!(graded("", &format!("<answer></answer> Assistant: <think>{good}")).reward, RIGHT);
}

#[test]
fn reward_reasons_are_readable() {
    let reason = |response: &str| graded(PROMPT, response).reason;
    assert_eq!(reason("x"), "no </think>");
    assert_eq!(reason("x</think></think>"), "2 times </think>");
    assert_eq!(reason("<answer></think></answer>"), "</think> behind <answer>");
    assert_eq!(reason("</think><answer>Zoey is a knight</answer>"), "1 roles for 2 people");
    assert_eq!(reason("</think><answer>Zoey is a knight, she is a knight</answer>"), "no role of Oliver");
    assert_eq!(reason("</think><answer>Zoey is a knight Oliver is a knight</answer>"), "wrong about Oliver");
    assert_eq!(reason("</think><answer>Zoey is a knight Oliver is a knave</answer>"), "right");
}

#[test]
fn solutions_are_printed() {
    let of = |text: &str| roles(text).map_err(|e| e.to_string());
    let pair = |a: &str, b: bool| (a.to_owned(), b);
    assert_eq!(of(SOLUTION).unwrap(), [pair("Zoey", true), pair("Oliver", false)]);
    assert_eq!(of("(1) Zoey is a KNAVE\r\n\n  (2) Al2 is Bob, a knight\n()").unwrap(), [pair("Zoey", false), pair("Al2", true)]);
    let names = ["José", "Jean-Luc", "Mary Ann", "R2", "Иван", "O'Neil", "Ann", "Luc", "Dr. No", "李雷"];
    let solution = |roles: &dyn Fn(usize) -> &'static str| {
        let line = |(i, name): (usize, &&str)| format!("({}) {name} is a {}", i + 1, roles(i));
        names.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    };
    let right = solution(&|i| ["knight", "knave"][i % 2]);
    let known = roles(&right).unwrap();
    assert_eq!(known.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    let graded =
        |answer: &str| grade(PuzzleForm::Natural, &known, "<think>", &format!("x</think><answer>{answer}</answer>")).reward;
    assert_eq!(graded(&right), RIGHT);
    assert_eq!(graded(&right.to_uppercase()), RIGHT);
    for wrong in 0..names.len() {
        assert_eq!(graded(&solution(&|i| ["knight", "knave"][(i + usize::from(i == wrong)) % 2])), WRONG, "{}", names[wrong]);
    }
    assert!(lehr::data::tasks::kk::reward::check(PuzzleForm::Natural, &right).is_ok());
    let knight = lehr::data::tasks::kk::reward::check(PuzzleForm::Natural, "(1) Sir Knight is a knave").unwrap_err();
    assert!(knight.to_string().contains("is not right by itself"), "{knight}");
    assert!(of("").unwrap_err().contains("names no person"));
    assert!(of("knight").unwrap_err().contains("names no person"));
    let many: String = (0..100).fold(String::new(), |mut all, i| {
        let _ = writeln!(all, "{} is a knight", "a".repeat(i + 1));
        all
    });
    assert!(of(&many).unwrap_err().contains("more than 64"));
}

#[test]
fn compact_answers_follow_the_same_rules() {
    let roles = roles("(1) A is a knight\n(2) B is a knave\n(3) C is a knight").unwrap();
    for (response, total) in [
        (" try A knight ok . </think> <answer> A knight B knave C knight </answer>", RIGHT),
        ("</think><answer>C knight B knave A knight</answer>", RIGHT),
        ("</think> <answer> A knight B knave C knave </answer>", WRONG),
        ("</think> <answer> A knight B knave </answer>", UNREADABLE),
        ("</think> <answer> A knight B knave knight </answer>", UNREADABLE),
        ("</think> <answer> A is a knight B is a knave C is a knight </answer>", UNREADABLE),
        ("</think> <answer> A knight A knave B knave C knight </answer>", UNREADABLE),
        (" A knight B knave C knight </answer>", BROKEN),
        ("</think> <answer> A knight B knave C knight", BROKEN),
    ] {
        let verdict = grade(PuzzleForm::Compact, &roles, "A says B knave . <think>", response);
        assert_eq!(verdict.reward, total, "{response:?}: {}", verdict.reason);
    }
}

#[test]
fn hostile_answers_are_graded_quickly() {
    // Were any of it quadratic, this would take hours.
    let megabyte = 1 << 20;
    for piece in
        ["<answer>", "<answer></answer>", "</answer>", "<", "Zoey ", "Zoey is a ", "knight", " ", "\u{0}", "é", "𝕏", "<think>"]
    {
        let inside = piece.repeat(megabyte / piece.len());
        for response in [
            inside.clone(),
            format!("</think><answer>{inside}</answer>"),
            format!("</think><answer>Zoey is a {inside} knight Oliver is a knave</answer>"),
        ] {
            let verdict = graded(PROMPT, &response);
            assert!([RIGHT, WRONG, UNREADABLE, BROKEN].contains(&verdict.reward));
        }
    }
}

proptest! {
    #[test]
    fn any_answer_gets_one_of_four_rewards(parts in prop::collection::vec(
        prop_oneof![
            Just("<think>"), Just("</think>"), Just("<answer>"), Just("</answer>"), Just("Zoey is a knight "), Just("Oliver is a knave "),
            Just("Oliver is a knight"), Just("knave"), Just("\n"), Just("<"), Just("\u{212A}night"), Just("Assistant:"), Just("İ"),
        ], 0..14), tail in ".{0,20}") {
        let response = parts.concat() + &tail;
        for prompt in ["", PROMPT, "q <think>"] {
            let verdict = graded(prompt, &response);
            prop_assert!([RIGHT, WRONG, UNREADABLE, BROKEN].contains(&verdict.reward));
            prop_assert_eq!(verdict.correct, verdict.reward == RIGHT);
        }
    }
}
