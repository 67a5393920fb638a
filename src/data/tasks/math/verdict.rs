//! Whether a completion gives the answer of its row.
//!
//! What is said counts behind the reasoning only, and where it is marked ([`find`]). In a mark the whole text must be one number (an
//! expression of numbers with powers, roots and products; a unit or a currency may stand beside it), else there is no answer. Behind `####`
//! the first number counts; without a mark the last, unless it is offered beside another (`41 or 42`). Values are compared exactly.
//!
//! An answer that is no number is compared as a list whose parts are compared so (pairs, intervals, sets), or as words.
//!
//! **Against math-verify 0.9** (`scripts/oracle/math_answers.py` compares both on thousands of answers) the verdicts are the same but for:
//!
//! - *Where the answer is.* math-verify has no `<answer>`, `\fbox` or reasoning; it takes the last number behind `####` and of two boxes
//!   both; here see [`find`]. A box that is not closed at the end of the text counts here.
//! - *Undone sums.* `\boxed{47+38}` is 85 there and no answer here, and so is a product, a power or a root whose numbers all stand in the
//!   question: repeating the question earns nothing.
//! - *Several answers.* `41 or 42` without a mark is 42 there and no answer here.
//! - *Numbers read here and not there:* mixed numbers with a slash (`2 1/2`), Indian grouping (`12,34,567`), groups with spaces
//!   (`1 234 567`), `½`, `５`, `5²`, `–5`, `1e3`, `0.1\overline{6}`, `5.`, `\frac{\text{1}}{\text{2}}`, ratios that are not in lowest terms.
//! - *Numbers read there and not here:* `2(3)`, `5!`, sets of one number, and a first number that other text with numbers follows
//!   (`\boxed{12 \text{ apples and 3 pears}}`).
//! - *Bases.* `101_2` is 101 there; here it is no number, and equal to itself only.
//! - *Rounding.* There two numbers are equal when both are the same rounded to six places, here only a decimal number and one without an
//!   end as a decimal (0.333333 and 1/3), and not where that is zero.
//! - *Floating point.* `10.175 \times 10^2` is not 1017.5 there, nor `-5861.2\%` the same as -58.612.
//! - *Relations and matrices* are compared as words here.

use super::super::{Grade, Question};
use super::answer::{Found, behind_reasoning, find};
use super::countdown::Countdown;
use super::expression::Quantity;
use super::reading::{Reading, first_number, last_number, number, numbers_in, same_quantity};
use super::tokens::word_count;

/// Words beside a number from which on a text without a mark is no answer, but a sentence.
const SENTENCE: usize = 3;

/// 1 if the completion is right, else 0.
pub fn grade(answer: &str, completion: &str) -> Grade {
    let question = Question { answer: answer.to_owned(), ..Question::default() };
    judge(&question, completion, false)
}

/// The same of a question. To one that was `made`, only a number as it stands is an answer.
pub fn judge(question: &Question, completion: &str, made: bool) -> Grade {
    let text = behind_reasoning(&question.prompt, completion);
    Grade::right_or_not(match Countdown::parse(&question.answer) {
        Some(countdown) => countdown.judge(find(text).text()),
        None => compared(question, find(text), made),
    })
}

fn compared(question: &Question, found: Found<'_>, made: bool) -> Result<(), String> {
    let another = |is: bool| if is { Ok(()) } else { Err("another answer".to_owned()) };
    match read(&question.answer) {
        None => Err("the row has no answer".into()),
        Some(Reading::Quantity(answer)) => {
            let said = said(found).ok_or("no number")?;
            if said.computed && answer.value.as_rational().is_some() && (made || is_repeated(&question.prompt, &said)) {
                return Err("not worked out".into());
            }
            if same_quantity(&answer, &said) { Ok(()) } else { Err("another number".into()) }
        }
        Some(answer @ Reading::Words(_)) => another(Reading::in_words(found.text()).is_some_and(|said| answer.same(&said))),
        Some(answer) => another(Reading::of(found.text()).is_some_and(|said| answer.same(&said))),
    }
}

fn said(found: Found<'_>) -> Option<Quantity> {
    match found {
        Found::Marked(text) => number(text),
        Found::Hashes(line) => first_number(line, false),
        Found::Plain(text) => last_number(text),
    }
}

/// Whether all numbers of an expression are those of the question.
fn is_repeated(prompt: &str, said: &Quantity) -> bool {
    let asked = numbers_in(prompt);
    !said.numbers.is_empty() && said.numbers.iter().all(|number| asked.contains(number))
}

/// A row's answer as it is compared.
fn read(answer: &str) -> Option<Reading> {
    match find(behind_reasoning("", answer)) {
        Found::Hashes(line) => match first_number(line, false) {
            Some(number) => Some(Reading::Quantity(number)),
            None => Reading::of(line),
        },
        Found::Marked(text) => Reading::of(text),
        Found::Plain(text) => Reading::of(text).filter(|reading| {
            let words = |reading: &Reading| matches!(reading, Reading::Words(_));
            let has_words = words(reading) || matches!(reading, Reading::List { items, .. } if items.iter().any(words));
            !has_words || word_count(text) < SENTENCE || numbers_in(text).is_empty()
        }),
    }
}

/// The answer that a row's text marks, or the text itself if it is one; it earns the reward.
///
/// # Errors
/// Why it cannot be compared.
pub fn reference(own: &str) -> Result<String, String> {
    const CURE: &str = "write it alone, behind #### or in \\boxed{}";
    let found = find(behind_reasoning("", own));
    let answer = match found {
        // Of a line that holds more than the number, the mark is needed.
        Found::Hashes(line) if number(line).is_none() && first_number(line, false).is_some() => format!("#### {line}"),
        found => found.text().to_owned(),
    };
    if read(own).is_none() || read(&answer).is_none() {
        return Err(format!("holds no number and no short answer; {CURE}"));
    }
    let grade = grade(&answer, own);
    if grade.correct { Ok(answer) } else { Err(format!("is not right by itself ({}); {CURE}", grade.reason)) }
}
