//! Sums, countdown, numbers in text.

use lehr::config::MathKind;
use lehr::data::tasks::math::answer::{LocatedAnswer, after_reasoning, find};
use lehr::data::tasks::math::countdown::Countdown;
use lehr::data::tasks::math::reading::{ParsedAnswer, last_number, number};
use lehr::data::tasks::math::{GradingRules, distinct, generate_problem, grade, row_question, verdict};
use lehr::data::tasks::{Question, Split};
use lehr::data::{Corpus, Notices, Tokenizer, TokenizerKind};
use lehr::vfs::RealFs;
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
fn arithmetic_solutions_are_graded_correct() {
    let mut words = BTreeSet::new();
    for n in 0..500 {
        for level in 1..=5 {
            let (_, row) = generate_problem(MathKind::Arithmetic, level, 3, Split::Train, n).unwrap();
            assert_eq!(generate_problem(MathKind::Arithmetic, level, 3, Split::Train, n).unwrap().1, row);
            let tokens: Vec<&str> = row.prompt.split(' ').collect();
            let (end, sum) = tokens.split_last().unwrap();
            assert_eq!(*end, "=");
            assert_eq!(value(sum).to_string(), row.answer, "{}", row.prompt);
            let question = Question { prompt: row.prompt.clone(), answer: row.answer.clone(), level: 0 };
            for rules in [GradingRules::default(), GradingRules { made: true, ..GradingRules::default() }] {
                let graded = |completion: &str| verdict::grade_question(&question, completion, rules);
                assert!(graded(&row.completion).correct, "{}", row.text);
                assert_eq!(graded(&format!("{} 0", row.completion)).reward, f64::from(row.answer == "0"), "{}", row.text);
            }
            assert_eq!(row.text.split_whitespace().collect::<Vec<_>>().join(" "), row.text);
            words.extend(row.text.split(' ').map(str::to_owned));
        }
    }
    assert!(words.len() <= 16, "{words:?}");
}

#[test]
fn countdown_solutions_are_correct() {
    let mut words = BTreeSet::new();
    for n in 0..300 {
        for level in 1..=5 {
            let (_, row) = generate_problem(MathKind::Countdown, level, 3, Split::Eval, n).unwrap();
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
fn expressions_are_evaluated() {
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
        ("2 / ( 3 - 3 ) + 5", Err("divides by zero")),
        ("99999999999999999999 + 1", Err("too large a number")),
        ("three", Err("no expression")),
    ] {
        let verdict: Result<(), &str> = verdict;
        let graded = grade("3,5,2=16", expression);
        assert_eq!(graded.correct, verdict.is_ok(), "{expression}");
        assert_eq!(graded.reward, f64::from(u8::from(verdict.is_ok())));
        assert_eq!(graded.reason, verdict.err().unwrap_or("right"), "{expression}");
    }
    let deep = "(".repeat(500_000) + "3";
    assert_eq!(grade("3,5,2=16", &deep).reason, "a bracket is not closed");
    assert_eq!(grade("3,5,2=16", &"1+".repeat(500_000)).reason, "too many numbers");
}

#[test]
fn training_and_evaluation_questions_are_disjoint() {
    for kind in [MathKind::Arithmetic, MathKind::Countdown] {
        for level in 1..=5 {
            let keys = |split: Split| -> HashSet<String> {
                (0..3).flat_map(|seed| (0..400).map(move |n| generate_problem(kind, level, seed, split, n).unwrap().0)).collect()
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
            let row = generate_problem(MathKind::Arithmetic, 1, 1, split, n).unwrap().1;
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
// Length: one table.
fn numbers_are_compared_as_numbers() {
    let same: &[&[&str]] = &[
        &[
            "1234",
            "1,234",
            "1234.0",
            "$1,234",
            "1234.",
            " 1 234 ",
            "+1234",
            "1.234e3",
            "\\$1,234",
            "2468/2",
            "1{,}234",
            "1,\\!234",
            "1\\,234",
            "１２３４",
            "1234 dollars",
            "1234\\text{ m}^3",
            "x = 1234",
            "1234_{10}",
            "1.234 \\times 10^{3}",
            "01234",
        ],
        &[
            "0.5",
            ".5",
            "1/2",
            "\\frac{1}{2}",
            "\\dfrac{2}{4}",
            "0.50",
            "5e-1",
            "\\frac12",
            "\\cfrac{ 1 }{ 2 }",
            "½",
            "50\\%",
            "1:2",
            "\\frac{\\text{1}}{\\text{2}}",
            "\\frac{-1}{-2}",
            "2^{-1}",
            "\\sqrt{\\frac{1}{4}}",
            "1 \\div 2",
            "50 percent",
        ],
        &["-3", "- 3", "\u{2212}3", "–3", "-3.0", "-$3", "-6/2", "-\\frac{6}{2}", "－３"],
        &["0", "0.0", "-0", "0/5", "0.000"],
        &["2.5", "2\\frac{1}{2}", "2 1/2", "2½", "\\frac{5}{2}", "2 \\frac12 \\text{ cups}"],
        &["-1.25", "-1\\frac{1}{4}", "-1 1/4"],
        &["1234567", "1,234,567", "12,34,567", "1 234 567", "#### 1,234,567.00 dollars"],
        &[
            "25",
            "5²",
            "5^2",
            "5^{2}",
            "\\sqrt{625}",
            "√625",
            "5 \\times 5",
            "5 \\cdot 5",
            "5**2",
            "\\sqrt[3]{15625}",
            "25^\\circ",
            "25^{\\circ}",
        ],
        &["\\frac{1}{6}", "0.1\\overline{6}", "0.166667"],
        &["\\frac{2\\pi}{3}", "\\frac{2}{3}\\pi", "2π/3"],
        &["2\\sqrt{2}", "\\sqrt{8}", "2\\sqrt2", "\\frac{4}{\\sqrt{2}}"],
        &["x^2+2x+1", "(x+1)^2", "1 + 2x + x^2"],
        &["123456789012345678901234567890", "123,456,789,012,345,678,901,234,567,890.0", "12345678901234567890123456789e1"],
        &["0.1234567890123456789012", "00.12345678901234567890120"],
        &["5000000", "5 million", "$5 million dollars"],
    ];
    let read = |text: &str| {
        let text = text.strip_prefix("#### ").map_or(text, |line| line.trim_end_matches(" dollars"));
        number(text, false).map(ParsedAnswer::Quantity)
    };
    let all: Vec<(usize, &str)> = same.iter().enumerate().flat_map(|(i, list)| list.iter().map(move |text| (i, *text))).collect();
    for (i, a) in &all {
        let first = read(a).unwrap_or_else(|| panic!("{a}"));
        for (j, b) in &all {
            assert_eq!(first.same(&read(b).unwrap()), i == j, "{a} and {b}");
        }
    }
    for no in [
        "",
        "1.2.3",
        "1/0",
        "$",
        "5!",
        "47 + 38",
        "5 - 3",
        "2(3)",
        "41 or 42",
        "1, 2",
        "\\text{none of 1 to 5}",
        "101_2",
        "0^{-1}",
        "\\sqrt{-4}",
        "12 apples and 3 pears",
        "10^{10^{10}}",
        "\\frac{1}{0}",
        "5 \\pm 1",
        "(5",
        "{5",
        "2^",
        "\\frac{1}",
    ] {
        assert_eq!(number(no, false), None, "{no}");
    }
}

#[test]
fn the_last_number_is_the_answer() {
    for (text, wanted) in [
        ("It costs 3 and then 4.", Some("4")),
        ("so 18 - 5 = 13 dollars.", Some("13")),
        ("a loss of -7!", Some("-7")),
        ("1,234,567 people", Some("1234567")),
        ("1,2,3", Some("3")),
        ("12,34", Some("34")),
        ("version 1.2", Some("1.2")),
        ("half is \\frac{1}{2} of it", Some("0.5")),
        ("3 / 4 of it", Some("0.75")),
        ("The answer is $9{,}500$.", Some("9500")),
        ("an area of 5 m^2.", Some("5")),
        ("she buys 42 a week", Some("42")),
        ("The answer is **42**.", Some("42")),
        ("the answer - 42", Some("42")),
        ("it is $-\\$3$.", Some("-3")),
        ("(which is 5)", Some("5")),
        ("It could be 41 or 42", None),
        ("from 2010-2020", None),
        ("none", None),
        ("", None),
    ] {
        let found = last_number(text, false).map(ParsedAnswer::Quantity);
        let wanted = wanted.map(|wanted| ParsedAnswer::Quantity(number(wanted, false).unwrap()));
        assert_eq!(found.is_some(), wanted.is_some(), "{text}: {found:?}");
        assert!(found.zip(wanted).is_none_or(|(found, wanted)| found.same(&wanted)), "{text}");
    }
    // A part of an expression is not a number.
    for text in ["The answer is $\\frac{2\\pi}{3}$.", "It is 2\\sqrt{3}", "so 2x + 3", "x^3"] {
        assert!(!grade("3", text).correct, "{text}");
    }
}

// Length: a table.
#[test]
fn marked_answers_are_found() {
    use LocatedAnswer::{Hashes, Marked, Plain};
    for (text, found) in [
        ("a\n#### 72", Hashes("72")),
        ("#### 1\n#### 2\nrest", Hashes("1")),
        ("#### Solution\n#### 5 apples", Hashes("5 apples")),
        ("so \\boxed{1} or \\boxed{\\frac{3}{4}}.", Marked("\\frac{3}{4}")),
        ("\\boxed{a{b}{c{d}}e} 5", Marked("a{b}{c{d}}e")),
        ("\\boxed{1} and \\boxed{2", Marked("1")),
        ("so \\boxed{2", Marked("2")),
        ("\\boxed 7 it is", Marked("7")),
        ("\\fbox{7}", Marked("7")),
        ("\\boxed{\\{1, 2\\}}", Marked("\\{1, 2\\}")),
        ("\\boxed{\\boxed{7}}", Marked("7")),
        ("\\boxed{}", Marked("")),
        ("}}} \\boxed{7} {{{", Marked("7")),
        ("<think>\\boxed{1}</think> the answer is 2", Plain("the answer is 2")),
        ("x</think><answer> 5 </answer> 6", Marked("5")),
        ("x</think><answer> 5", Marked("5")),
        ("x</think><answer>\\boxed{5}</answer> 6", Marked("5")),
        ("plain", Plain("plain")),
    ] {
        assert_eq!(find(after_reasoning("", text)), found, "{text}");
    }
    for (output, right) in [
        ("The answer is $1,234.00.", true),
        ("\\boxed{1234}", true),
        ("\\boxed{1234} dollars, not 5", true),
        ("1 234", true),
        ("1 2 3 4", true),
        ("1234 or 5", false),
        ("5 or 1234", false),
        ("\\boxed{x}", false),
        ("\\boxed{1200 + 34}", false),
        ("\\boxed{it is 1234, I think, or 5}", false),
        ("#### 1234 dollars for 3 days", true),
        ("#### 3 days, 1234 dollars", false),
        ("", false),
        ("<think>1234</think>", false),
        ("<think>1234", false),
        ("1234 <think> or 5", true),
    ] {
        assert_eq!(grade("1234", output).correct, right, "{output}");
    }
    // The prompt may have opened the reasoning; a question is not its own answer.
    let asked = |prompt: &str| Question { prompt: prompt.into(), answer: "1234".into(), level: 0 };
    assert!(!verdict::grade_question(&asked("q <think>\n"), "it is 1234", GradingRules::default()).correct);
    assert!(verdict::grade_question(&asked("q <think>\n"), "x</think>it is 1234", GradingRules::default()).correct);
    let product = |prompt: &str, made: bool| {
        verdict::grade_question(&asked(prompt), "\\boxed{617 \\times 2}", GradingRules { made, ..GradingRules::default() })
    };
    assert!(product("How much?", false).correct);
    assert_eq!(product("What is 2 times 617?", false).reason, "not worked out");
    assert_eq!(product("How much?", true).reason, "not worked out");
    // Digits with spaces are a number only where lehr or its vocabulary writes numbers so.
    let apart = |prompt: &str, rules: GradingRules| verdict::grade_question(&asked(prompt), "\\boxed{1 2 3 4}", rules).correct;
    let made = GradingRules { made: true, digits_apart: false };
    let digits_apart = GradingRules { made: false, digits_apart: true };
    assert!(apart("617 * 2 =", made) && apart("How much?", digits_apart) && apart("6 1 7 * 2 =", GradingRules::default()));
    assert!(!apart("617 * 2 =", GradingRules::default()) && !apart("How much?", GradingRules::default()));
    let built = |kind: TokenizerKind, text: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), text).unwrap();
        let corpus = Corpus::open(&RealFs, &[dir.path().join("a.txt")], &mut Notices::new()).unwrap();
        Tokenizer::build(&RealFs, &kind, &corpus, None, &mut Notices::new()).unwrap()
    };
    assert!(verdict::splits_digits(&built(TokenizerKind::Words, "4 7 + 1 2 = 5 9")));
    for kind in [TokenizerKind::Bytes, TokenizerKind::Chars] {
        assert!(!verdict::splits_digits(&built(kind.clone(), "4 7 + 1 2 = 5 9")), "{kind:?}");
    }
    for (answer, output) in [("42", "\\boxed{4 2}"), ("357", "\\boxed{3 5 7}"), ("3 5 7", "\\boxed{357}")] {
        assert!(!grade(answer, output).correct, "{answer}: {output}");
    }
    assert!(grade("3 5 7", "\\boxed{3 5 7}").correct && grade("12", "1 2").correct && !grade("12", "It is 1 2").correct);
}

/// The verdicts of math-verify, which does not read `<answer>` and `####`.
#[test]
fn choices_and_short_words_are_answers() {
    for (answer, output, right) in [
        ("A", "\\boxed{\\text{A}}", true),
        ("A", "\\boxed{(A)}", true),
        ("A", "\\boxed{\\text{(A)}}", true),
        ("(A)", "\\boxed{\\textbf{A}}", true),
        ("A", "<answer> a </answer>", true),
        ("#### A", "#### A", true),
        ("A", "\\boxed{B}", false),
        ("A", "\\boxed{A, B}", false),
        ("A", "\\boxed{A \\text{ or } B}", false),
        ("A", "The answer is A or B", false),
        ("yes", "\\boxed{Yes}", true),
        ("no", "\\boxed{\\mathrm{no}}", true),
        ("yes", "\\boxed{no}", false),
        ("yes", "\\boxed{\\text{not yes}}", false),
        ("ab", "\\boxed{ba}", true),
        // Not words: braces are not compared.
        ("\\frac{a}{bc}", "\\boxed{\\frac{ab}{c}}", false),
        ("-x", "\\boxed{x}", false),
        ("12", "\\boxed{\\text{twelve}}", false),
    ] {
        assert_eq!(grade(answer, output).correct, right, "{answer}: {output}");
    }
}

/// Rows on which math-verify and lehr agree (`scripts/oracle/math_answers.py --golden`).
#[test]
fn verdicts_match_math_verify() {
    let rows = include_str!("math_answers.jsonl");
    let mut right = 0;
    for line in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let answer = verdict::reference(row["answer"].as_str().unwrap()).unwrap();
        let graded = grade(&answer, row["response"].as_str().unwrap());
        assert_eq!(graded.correct, row["right"] == true, "{line}: {}", graded.reason);
        right += u32::from(graded.correct);
    }
    assert!(rows.lines().count() > 100 && right > 30, "{right}");
}

#[test]
fn gsm8k_and_math_rows_are_read() {
    let row = |text: &str| {
        let row: serde_json::Value = serde_json::from_str(text).unwrap();
        row_question(row.as_object().unwrap()).map_err(|e| e.to_string())
    };
    let answer = |text: &str| row(text).unwrap().answer;
    assert_eq!(answer(r##"{"question": "q", "answer": "20+52=<<20+52=72>>72\n#### 72"}"##), "72");
    assert_eq!(answer(r#####"{"question": "q", "answer": "#### 72 dollars for 3 days"}"#####), "#### 72 dollars for 3 days");
    let math =
        row(r#"{"problem": "p", "solution": "So $\\boxed{\\frac{3}{4}}$.", "level": "Level 5", "type": "Algebra"}"#).unwrap();
    assert_eq!((math.prompt.as_str(), math.answer.as_str(), math.level), ("p\n", "\\frac{3}{4}", 5));
    assert_eq!(answer(r#"{"problem": "p", "solution": "long \\boxed{1}", "answer": "2"}"#), "2");
    for (text, output, right) in [
        (r#"{"problem": "p", "answer": "\\text{(C)}"}"#, "\\boxed{C}", true),
        (r#"{"problem": "p", "answer": "\\text{(C)}"}"#, "\\boxed{B}", false),
        (r#"{"problem": "p", "answer": "(1, 2)"}"#, "so \\boxed{(1,\\frac{4}{2})}", true),
        (r#"{"problem": "p", "answer": "(1, 2)"}"#, "so \\boxed{(2,1)}", false),
        (r#"{"problem": "p", "answer": "[0, 1)"}"#, "so \\boxed{[0,1]}", false),
        (r#"{"problem": "p", "answer": "\\{1, 2\\}"}"#, "so \\boxed{\\{2,1\\}}", true),
        (r#"{"problem": "p", "answer": "x^2+1"}"#, "so \\boxed{1+x^2}", true),
        (r#"{"problem": "p", "answer": "no solution"}"#, "so \\boxed{\\text{No solution}}", true),
    ] {
        assert_eq!(
            verdict::grade_question(&row(text).unwrap(), output, GradingRules::default()).correct,
            right,
            "{text} {output}"
        );
    }
    for (text, says) in [
        (r#"{"question": "q", "answer": "They have 5 apples, so they have 10 apples in all"}"#, "answer: \"They have"),
        (
            r#"{"question": "q", "answer": ""}"#,
            "holds no number and no short answer; write it alone, behind #### or in \\boxed{}",
        ),
        (r#"{"question": "q"}"#, "answer: missing"),
        (r#"{"question": 5, "answer": "1"}"#, "question: must be a string"),
    ] {
        let error = row(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn hostile_answers_are_graded_quickly() {
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
    fn any_answer_gets_a_grade(text in r"[0-9,.$/e{}#\\ boxedfrac()=+*<>answer-]{0,60}|.{0,40}") {
        let graded = grade("1234", &text);
        prop_assert_eq!(graded.correct, graded.reward == 1.0);
        let _ = grade("3,5,2=16", &text);
    }

    #[test]
    fn distinct_integers_are_unequal(a in -10_000i64..10_000, b in -10_000i64..10_000) {
        prop_assert_eq!(grade(&a.to_string(), &format!("\\boxed{{{b}.00}}")).correct, a == b);
        let verdict = grade(&a.to_string(), &format!("so it is {a} yes"));
        prop_assert!(verdict.correct);
    }
}
