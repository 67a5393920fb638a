//! Arithmetic problems, digit by digit: `4 7 + 3 8 =` and ` 8 5`.

use super::super::draws::Draws;
use super::spaced;

/// An arithmetic problem, its value, and a key that is the same for both orders of two terms or factors.
pub struct ArithmeticProblem {
    /// For example `4 7 + 3 8 =`.
    pub prompt: String,
    /// For example 85.
    pub value: i64,
    /// The key that identifies the problem.
    pub key: String,
}

/// A random problem of a difficulty grade: 1 one digit, + and -; 2 two digits; 3 three digits, or two digits times one; 4 three terms of
/// two digits, or two digits times two; 5 three digits times two, or `( a + b ) * c`.
pub fn sum(grade: usize, draws: &mut Draws) -> ArithmeticProblem {
    let number = |draws: &mut Draws, digits: u32| {
        let low = if digits == 1 { 0 } else { 10usize.pow(digits - 1) };
        (low + draws.below(10usize.pow(digits) - low)) as i64
    };
    let two = |a: i64, op: char, b: i64| {
        let (a, b) = if op == '-' && a < b { (b, a) } else { (a, b) };
        let value = match op {
            '+' => a + b,
            '-' => a - b,
            _ => a * b,
        };
        let key = if op == '-' { format!("{a}-{b}") } else { format!("{}{op}{}", a.min(b), a.max(b)) };
        ArithmeticProblem { prompt: format!("{} {op} {} =", spaced(a), spaced(b)), value, key }
    };
    let sign = if draws.flip() { '+' } else { '-' };
    let other = draws.flip();
    match (grade, other) {
        (..=1, _) => two(number(draws, 1), sign, number(draws, 1)),
        (2, _) => two(number(draws, 2), sign, number(draws, 2)),
        (3, false) => two(number(draws, 3), sign, number(draws, 3)),
        (3, true) => two(number(draws, 2), '*', number(draws, 1)),
        (4, false) => {
            let [a, b, c] = [2, 2, 2].map(|digits| number(draws, digits));
            let last = if draws.flip() { '+' } else { '-' };
            let with = |value: i64, op: char, next: i64| if op == '+' { value + next } else { value - next };
            ArithmeticProblem {
                prompt: format!("{} {sign} {} {last} {} =", spaced(a), spaced(b), spaced(c)),
                value: with(with(a, sign, b), last, c),
                key: format!("{a}{sign}{b}{last}{c}"),
            }
        }
        (4, true) => two(number(draws, 2), '*', number(draws, 2)),
        (_, false) => two(number(draws, 3), '*', number(draws, 2)),
        (_, true) => {
            let [a, b, c] = [2, 2, 1].map(|digits| number(draws, digits));
            ArithmeticProblem {
                prompt: format!("( {} + {} ) * {} =", spaced(a), spaced(b), spaced(c)),
                value: (a + b) * c,
                key: format!("({}+{})*{c}", a.min(b), a.max(b)),
            }
        }
    }
}
