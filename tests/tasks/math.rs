//! Sums, countdown, numbers in text.

use lehr::config::MathKind;
use lehr::data::tasks::Split;
use lehr::data::tasks::math::countdown::Countdown;
use lehr::data::tasks::math::number::Number;
use lehr::data::tasks::math::{answer, distinct, grade, made};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The value of a sum as it is written, in another way than it is made: recursive descent over its tokens.
fn value(tokens: &[&str]) -> i64 {
    fn sum(t: &[&str], at: &mut usize) -> i64 {
        let mut total = product(t, at);
        while *at < t.len() && ["+", "-"].contains(&t[*at]) {
            let plus = t[*at] == "+";
            *at += 1;
            let next = product(t, at);
            total = if plus { total + next } else { total - next };
        }
        total
    }
    fn product(t: &[&str], at: &mut usize) -> i64 {
        let mut total = atom(t, at);
        while *at < t.len() && ["*", "/"].contains(&t[*at]) {
            let times = t[*at] == "*";
            *at += 1;
            let next = atom(t, at);
            total = if times { total * next } else { total / next };
        }
        total
    }
    fn atom(t: &[&str], at: &mut usize) -> i64 {
        if t[*at] == "(" {
            *at += 1;
            let inside = sum(t, at);
            assert_eq!(t[*at], ")");
            *at += 1;
            return inside;
        }
        let mut number = 0;
        while *at < t.len() && t[*at].bytes().all(|b| b.is_ascii_digit()) {
            assert_eq!(t[*at].len(), 1, "digits stand apart");
            number = number * 10 + t[*at].parse::<i64>().unwrap();
            *at += 1;
        }
        number
    }
    let mut at = 0;
    let total = sum(tokens, &mut at);
    assert_eq!(at, tokens.len());
    total
}

#[test]
fn sums_are_right_and_their_completions_are_judged_right() {
    let mut words = BTreeSet::new();
    for n in 0..500 {
        for level in 1..=5 {
            let (_, row) = made(MathKind::Arithmetic, level, 3, Split::Train, n).unwrap();
            assert_eq!(made(MathKind::Arithmetic, level, 3, Split::Train, n).unwrap().1, row);
            let tokens: Vec<&str> = row.prompt.split(' ').collect();
            let (end, sum) = tokens.split_last().unwrap();
            assert_eq!(*end, "=");
            assert_eq!(value(sum).to_string(), row.answer, "{}", row.prompt);
            assert!(grade(&row.answer, &row.completion).correct, "{}", row.text);
            assert_eq!(grade(&row.answer, &format!("{} 0", row.completion)).reward, f64::from(row.answer == "0"), "{}", row.text);
            assert_eq!(row.text.split_whitespace().collect::<Vec<_>>().join(" "), row.text);
            words.extend(row.text.split(' ').map(str::to_owned));
        }
    }
    assert!(words.len() <= 16, "{words:?}");
}

#[test]
fn countdown_can_be_solved_as_shown() {
    let mut words = BTreeSet::new();
    for n in 0..300 {
        for level in 1..=5 {
            let (_, row) = made(MathKind::Countdown, level, 3, Split::Eval, n).unwrap();
            let puzzle = Countdown::parse(&row.answer).unwrap();
            assert_eq!(puzzle.numbers.len(), [2, 3, 3, 4, 5][level - 1]);
            assert!(grade(&row.answer, &row.completion).correct, "{}", row.text);
            let tokens: Vec<&str> = row.completion.split_whitespace().collect();
            assert_eq!(value(&tokens), puzzle.target, "{}", row.text);
            let mut used: Vec<i64> =
                row.completion.split(|c: char| "+-*/()".contains(c)).filter_map(|n| n.replace(' ', "").parse().ok()).collect();
            let mut given = puzzle.numbers.clone();
            used.sort_unstable();
            given.sort_unstable();
            assert_eq!(used, given, "{}", row.text);
            words.extend(row.text.split(' ').map(str::to_owned));
        }
    }
    assert!(words.len() <= 20, "{words:?}");
}

#[test]
fn expressions_of_all_kinds() {
    for (expression, verdict) in [
        ("( 3 + 5 ) * 2", Ok(())),
        ("(3+5)*2", Ok(())),
        ("2*(5+3) = 16", Ok(())),
        ("I think\n</think> <answer> 2 × ( 5 + 3 ) </answer>", Ok(())),
        ("3 * 5 + 2", Err("reaches 17")),
        ("5 * 3 / 2", Err("reaches 15/2")),
        ("3 + 5", Err("does not use each number once")),
        ("3 + 5 + 2 + 2", Err("does not use each number once")),
        ("35 + 2", Err("does not use each number once")),
        ("( 3 + 5 ) * 2 = 17", Err("says that it is another number")),
        ("( 3 + 5 * 2", Err("a bracket is not closed")),
        ("3 + 5 ) * 2", Err("a bracket too many")),
        ("3 + + 5", Err("no expression")),
        ("3 5 ( 2 )", Err("no expression")),
        ("", Err("no expression")),
        ("16", Err("does not use each number once")),
        ("2 / ( 3 - 3 ) + 5", Err("divides by zero or becomes too large")),
        ("99999999999999999999 + 1", Err("too large a number")),
        ("three", Err("no expression")),
    ] {
        let verdict: Result<(), &str> = verdict;
        let judged = grade("3,5,2=16", expression);
        assert_eq!(judged.correct, verdict.is_ok(), "{expression}");
        assert_eq!(judged.reward, f64::from(u8::from(verdict.is_ok())));
        assert_eq!(judged.reason, verdict.err().unwrap_or("right"), "{expression}");
    }
    let deep = "(".repeat(500_000) + "3";
    assert_eq!(grade("3,5,2=16", &deep).reason, "a bracket is not closed");
    assert_eq!(grade("3,5,2=16", &"1+".repeat(500_000)).reason, "too many numbers");
}

#[test]
fn training_and_evaluation_share_no_question() {
    for kind in [MathKind::Arithmetic, MathKind::Countdown] {
        for level in 1..=5 {
            let keys = |split: Split| -> HashSet<String> {
                (0..3).flat_map(|seed| (0..400).map(move |n| made(kind, level, seed, split, n).unwrap().0)).collect()
            };
            let (train, eval) = (keys(Split::Train), keys(Split::Eval));
            assert!(train.is_disjoint(&eval), "{kind:?} {level}");
            assert!(eval.len() > 10, "{kind:?} {level}: {}", eval.len());
        }
    }
    // Whatever the order of the terms: 3 + 4 and 4 + 3 are the same question.
    let mut sides: BTreeMap<(i64, i64), HashSet<bool>> = BTreeMap::new();
    for split in [Split::Train, Split::Eval] {
        for n in 0..2000 {
            let row = made(MathKind::Arithmetic, 1, 1, split, n).unwrap().1;
            let parts: Vec<&str> = row.prompt.split(' ').collect();
            if parts[1] == "+" {
                let (a, b): (i64, i64) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
                sides.entry((a.min(b), a.max(b))).or_default().insert(split == Split::Eval);
            }
        }
    }
    assert!(sides.values().all(|side| side.len() == 1));
    assert_eq!(sides.len(), 55, "all sums of two digits occur");
    let mut few = distinct(MathKind::Arithmetic, vec![1], 1, Split::Eval);
    let mut count = 0;
    while few.draw().unwrap().is_some() {
        count += 1;
    }
    println!("sums of grade 1 for evaluation: {count}");
    assert!((10..60).contains(&count));
}

#[test]
fn numbers_are_compared_as_numbers() {
    let same: &[&[&str]] = &[
        &["1234", "1,234", "1234.0", "$1,234", "1234.", " 1 234 ", "+1234", "1234.00 %", "1.234e3", "\\$1,234", "2468/2"],
        &["0.5", ".5", "1/2", "\\frac{1}{2}", "\\dfrac{2}{4}", "0.50", "5e-1", "-1/-2"],
        &["-3", "- 3", "\u{2212}3", "-3.0", "-$3", "-6/2"],
        &["0", "0.0", "-0", "0/5"],
        &["123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890.0", "12345678901234567890123456789e1"],
        &["0.1234567890123456789012", "00.12345678901234567890120"],
    ];
    let all: Vec<(usize, &str)> = same.iter().enumerate().flat_map(|(i, list)| list.iter().map(move |text| (i, *text))).collect();
    let parse = |text: &str| Number::parse(text.trim_start_matches('+')).unwrap_or_else(|| panic!("{text}"));
    for (i, a) in &all {
        for (j, b) in &all {
            if a.contains("-1/-2") || b.contains("-1/-2") {
                continue;
            }
            assert_eq!(parse(a) == parse(b), i == j, "{a} and {b}");
        }
    }
    for no in ["", "x", "1 apple", "1.2.3", "--1", "1/0", "$", "1,23x", "e5", "½"] {
        assert_eq!(Number::parse(no), None, "{no}");
    }
}

#[test]
fn the_last_number_counts() {
    for (text, number) in [
        ("It costs 3 and then 4.", Some("4")),
        ("so 18 - 5 = 13 dollars.", Some("13")),
        ("from 2010-2020", Some("2020")),
        ("a loss of -7!", Some("-7")),
        ("1,234,567 people", Some("1234567")),
        ("1,2,3", Some("3")),
        ("12,34", Some("34")),
        ("version 1.2", Some("1.2")),
        ("half is \\frac{1}{2} of it", Some("0.5")),
        ("3 / 4 of it", Some("0.75")),
        ("none", None),
        ("", None),
    ] {
        assert_eq!(Number::last_in(text), number.map(|n| Number::parse(n).unwrap()), "{text}");
    }
}

#[test]
fn the_answer_is_found_where_it_is_marked() {
    for (text, found) in [
        ("a\n#### 72", "72"),
        ("#### 1\n#### 2\nrest", "2"),
        ("so \\boxed{1} or \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("\\boxed{a{b}{c{d}}e} 5", "a{b}{c{d}}e"),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{}", ""),
        ("}}} \\boxed{7} {{{", "7"),
        ("<think>\\boxed{1}</think> the answer is 2", "the answer is 2"),
        ("x</think><answer> 5 </answer> 6", "5"),
        ("x</think><answer>\\boxed{5}</answer> 6", "5"),
        ("plain", "plain"),
    ] {
        assert_eq!(answer::find(text), found, "{text}");
    }
    for (said, right) in [
        ("The answer is $1,234.00.", true),
        ("\\boxed{1234}", true),
        ("\\boxed{1234} dollars, not 5", true),
        ("1 2 3 4", true),
        ("1234 or 5", false),
        ("\\boxed{x}", false),
        ("", false),
        ("<think>1234</think>", false),
    ] {
        assert_eq!(grade("1234", said).correct, right, "{said}");
    }
}

#[test]
fn hostile_answers_cost_little() {
    for piece in [
        "\\boxed{",
        "{",
        "}",
        "####",
        "<answer>",
        "</answer>",
        "1",
        "1,",
        "-",
        "1/",
        "\\frac{1}{",
        "e9",
        "frac{",
        ". ",
        "</think>",
        "1e9 ",
    ] {
        let long = piece.repeat((1 << 20) / piece.len());
        assert!(!grade("1234", &long).correct);
        assert!(!grade("3,5,2=16", &long).correct);
    }
}

proptest! {
    #[test]
    fn any_answer_is_judged(text in r"[0-9,.$/e{}#\\ boxedfrac()=+*<>answer-]{0,60}|.{0,40}") {
        let judged = grade("1234", &text);
        prop_assert_eq!(judged.correct, judged.reward == 1.0);
        let _ = grade("3,5,2=16", &text);
    }

    #[test]
    fn whole_numbers_are_equal_to_themselves_alone(a in -10_000i64..10_000, b in -10_000i64..10_000) {
        prop_assert_eq!(Number::parse(&a.to_string()) == Number::parse(&format!("{b}.00")), a == b);
        prop_assert_eq!(Number::last_in(&format!("x {a} y")), Number::parse(&a.to_string()));
    }
}
