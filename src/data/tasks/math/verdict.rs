//! Grades a completion against the answer of its row.
//!
//! Only the text after the reasoning counts, at the place that is marked ([`find`]). A marked text must be one number as a whole (an
//! expression of numbers with powers, roots and products, optionally with a unit or currency), else there is no answer. After `####` the
//! first number counts; without a marker the last, unless it is one of several alternatives (`41 or 42`). Values are compared exactly.
//!
//! An answer that is not a number is compared as a list, item by item (pairs, intervals, sets), or as words.
//!
//! **Differences from math-verify 0.9** (`scripts/oracle/math_answers.py` compares both on thousands of answers):
//!
//! - *Position of the answer.* math-verify does not handle `<answer>`, `\fbox` or reasoning; it takes the last number after `####`, and
//!   both of two boxes; for the rules here see [`find`]. A box that is not closed at the end of the text counts here.
//! - *Unfinished calculations.* `\boxed{47+38}` is 85 there and no answer here, and so is a product, a power or a root whose numbers all
//!   occur in the question: repeating the question gets no reward.
//! - *Several answers.* `41 or 42` without a marker is 42 there and no answer here.
//! - *Numbers accepted only here:* mixed numbers with a slash (`2 1/2`), Indian grouping (`12,34,567`), groups with spaces (`1 234 567`),
//!   `½`, `５`, `5²`, `–5`, `1e3`, `0.1\overline{6}`, `5.`, `\frac{\text{1}}{\text{2}}`, ratios that are not in lowest terms.
//! - *Numbers accepted only there:* `2(3)`, `5!`, sets of one number, and a first number followed by other text with numbers
//!   (`\boxed{12 \text{ apples and 3 pears}}`).
//! - *Bases.* `101_2` is 101 there; here it is not a number, and equal only to itself.
//! - *Rounding.* There two numbers are equal when both are the same rounded to six places; here only a decimal number and a value without a
//!   finite decimal expansion (0.333333 and 1/3), and not if the result is zero.
//! - *Floating point.* `10.175 \times 10^2` is not 1017.5 there, nor `-5861.2\%` the same as -58.612.
//! - *Relations and matrices* are compared as words here.

use super::super::{Grade, Question};
use super::answer::{LocatedAnswer, after_reasoning, find};
use super::countdown::Countdown;
use super::expression::Quantity;
use super::reading::{ParsedAnswer, first_number, last_number, number, numbers_in, same_quantity};
use super::tokens::word_count;

/// Number of words from which on an unmarked text with numbers is a sentence, not an answer.
const SENTENCE: usize = 3;

/// Grades a completion: 1 if it is right, else 0.
pub fn grade(answer: &str, completion: &str) -> Grade {
    let question = Question { answer: answer.to_owned(), ..Question::default() };
    grade_question(&question, completion, false)
}

/// Grades a completion of a question. If the question was generated (`made`), only a plain number is an answer.
pub fn grade_question(question: &Question, completion: &str, made: bool) -> Grade {
    let text = after_reasoning(&question.prompt, completion);
    Grade::right_or_not(match Countdown::parse(&question.answer) {
        Some(countdown) => countdown.grade(find(text).text()),
        None => compared(question, find(text), made),
    })
}

fn compared(question: &Question, found: LocatedAnswer<'_>, made: bool) -> Result<(), String> {
    let another = |is: bool| if is { Ok(()) } else { Err("another answer".to_owned()) };
    match read(&question.answer) {
        None => Err("the row has no answer".into()),
        Some(ParsedAnswer::Quantity(_)) if is_same_word(&question.answer, found) => Ok(()),
        Some(ParsedAnswer::Quantity(answer)) => {
            let stated = stated(found).ok_or("no number")?;
            if stated.computed && answer.value.as_rational().is_some() && (made || is_repeated(&question.prompt, &stated)) {
                return Err("not worked out".into());
            }
            if same_quantity(&answer, &stated) { Ok(()) } else { Err("another number".into()) }
        }
        Some(answer @ ParsedAnswer::Words(_)) => {
            another(ParsedAnswer::in_words(found.text()).is_some_and(|stated| answer.same(&stated)))
        }
        Some(answer) => another(ParsedAnswer::of(found.text()).is_some_and(|stated| answer.same(&stated))),
    }
}

/// Whether answer and completion are the same word. A choice or a short word (`A`, `yes`) also reads as a product of variables, which
/// `\text{A}` and `Yes` are not.
fn is_same_word(answer: &str, found: LocatedAnswer<'_>) -> bool {
    match (ParsedAnswer::in_words(find(answer).text()), ParsedAnswer::in_words(found.text())) {
        (Some(ParsedAnswer::Words(a)), Some(ParsedAnswer::Words(b))) => a == b && a.chars().all(char::is_alphabetic),
        _ => false,
    }
}

fn stated(found: LocatedAnswer<'_>) -> Option<Quantity> {
    match found {
        LocatedAnswer::Marked(text) => number(text),
        LocatedAnswer::Hashes(line) => first_number(line, false),
        LocatedAnswer::Plain(text) => last_number(text),
    }
}

/// Whether all numbers of an expression occur in the question.
fn is_repeated(prompt: &str, stated: &Quantity) -> bool {
    let asked = numbers_in(prompt);
    !stated.numbers.is_empty() && stated.numbers.iter().all(|number| asked.contains(number))
}

/// Parses a row's answer.
fn read(answer: &str) -> Option<ParsedAnswer> {
    match find(after_reasoning("", answer)) {
        LocatedAnswer::Hashes(line) => match first_number(line, false) {
            Some(number) => Some(ParsedAnswer::Quantity(number)),
            None => ParsedAnswer::of(line),
        },
        LocatedAnswer::Marked(text) => ParsedAnswer::of(text),
        LocatedAnswer::Plain(text) => ParsedAnswer::of(text).filter(|reading| {
            let words = |reading: &ParsedAnswer| matches!(reading, ParsedAnswer::Words(_));
            let has_words = words(reading) || matches!(reading, ParsedAnswer::List { items, .. } if items.iter().any(words));
            !has_words || word_count(text) < SENTENCE || numbers_in(text).is_empty()
        }),
    }
}

/// The answer marked in a row's text, or the text itself if it is an answer; it must get the reward.
///
/// # Errors
/// The reason why it cannot be compared.
pub fn reference(own: &str) -> Result<String, String> {
    const CURE: &str = "write it alone, behind #### or in \\boxed{}";
    let found = find(after_reasoning("", own));
    let answer = match found {
        // A line with more than the number keeps its marker.
        LocatedAnswer::Hashes(line) if number(line).is_none() && first_number(line, false).is_some() => format!("#### {line}"),
        found => found.text().to_owned(),
    };
    if read(own).is_none() || read(&answer).is_none() {
        return Err(format!("holds no number and no short answer; {CURE}"));
    }
    let grade = grade(&answer, own);
    if grade.correct { Ok(answer) } else { Err(format!("is not right by itself ({}); {CURE}", grade.reason)) }
}
