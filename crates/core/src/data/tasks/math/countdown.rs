//! Countdown: reach a target from given numbers with + - * /, each used exactly once.
//!
//! `numbers 3 , 5 , 2 target 1 6 =` and ` ( 3 + 5 ) * 2`. Puzzles are generated from a solution, so there always is one.

use super::super::draws::Draws;
use super::spaced;
use num_rational::BigRational;
use num_traits::Zero;

/// A puzzle with a solution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Countdown {
    /// The numbers, each to be used once.
    pub numbers: Vec<i64>,
    /// The target.
    pub target: i64,
    /// A solution.
    pub solution: String,
}

/// Maximum of intermediate results.
const MOST: i64 = 999;

impl Countdown {
    /// A random puzzle of a difficulty grade: 1 two numbers, + and -; 2 three; 3 three with *; 4 four with *; 5 five with * and /.
    pub fn draw(grade: usize, draws: &mut Draws) -> Self {
        let (count, most, operators): (_, _, &[char]) = match grade {
            ..=1 => (2, 9, &['+', '-']),
            2 => (3, 9, &['+', '-']),
            3 => (3, 12, &['+', '-', '*']),
            4 => (4, 20, &['+', '-', '*']),
            _ => (5, 25, &['+', '-', '*', '/']),
        };
        loop {
            let numbers: Vec<i64> = (0..count).map(|_| 1 + draws.below(most) as i64).collect();
            let mut pool: Vec<(i64, String, bool)> = numbers.iter().map(|n| (*n, spaced(*n), true)).collect();
            while pool.len() > 1 {
                let a = pool.swap_remove(draws.below(pool.len()));
                let b = pool.swap_remove(draws.below(pool.len()));
                let operator = draws.pick(operators);
                let Some(value) = apply(operator, a.0, b.0) else {
                    pool.clear();
                    break;
                };
                let text = |part: (i64, String, bool)| if part.2 { part.1 } else { format!("( {} )", part.1) };
                pool.push((value, format!("{} {operator} {}", text(a), text(b)), false));
            }
            if let [(target, solution, _)] = &pool[..]
                && !numbers.contains(target)
            {
                return Self { numbers, target: *target, solution: solution.clone() };
            }
        }
    }

    /// The prompt: `numbers 3 , 5 , 2 target 1 6 =`.
    pub fn prompt(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(|n| spaced(*n)).collect();
        format!("numbers {} target {} =", numbers.join(" , "), spaced(self.target))
    }

    /// The answer in the grader's format: `3,5,2=16`.
    pub fn answer(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(i64::to_string).collect();
        format!("{}={}", numbers.join(","), self.target)
    }

    /// The key that identifies the puzzle, for any order of the numbers.
    pub fn key(&self) -> String {
        let mut sorted = self.numbers.clone();
        sorted.sort_unstable();
        format!("{sorted:?}={}", self.target)
    }

    /// Parses the format of [`Self::answer`].
    pub fn parse(answer: &str) -> Option<Self> {
        let (numbers, target) = answer.split_once('=')?;
        let numbers: Option<Vec<i64>> = numbers.split(',').map(|n| n.trim().parse().ok()).collect();
        Some(Self { numbers: numbers?, target: target.trim().parse().ok()?, solution: String::new() })
    }

    /// Checks that an expression reaches the target with each number used once.
    ///
    /// # Errors
    /// The reason why it does not, in a few words.
    pub fn grade(&self, expression: &str) -> Result<(), String> {
        let (expression, stated) = match expression.split_once('=') {
            Some((left, right)) => (left, Some(right)),
            None => (expression, None),
        };
        let (value, mut used) = evaluate(expression)?;
        let mut given = self.numbers.clone();
        given.sort_unstable();
        used.sort_unstable();
        if used != given {
            return Err("does not use each number once".into());
        }
        if value != BigRational::from_integer(self.target.into()) {
            return Err(format!("reaches {value}"));
        }
        let right = |stated: &str| stated.split_whitespace().collect::<String>() == self.target.to_string();
        if stated.is_some_and(|stated| !right(stated)) {
            return Err("says that it is another number".into());
        }
        Ok(())
    }
}

/// The result, if it is a positive integer and not too large.
fn apply(operator: char, a: i64, b: i64) -> Option<i64> {
    let value = match operator {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        _ if a % b == 0 => a / b,
        _ => return None,
    };
    (1..=MOST).contains(&value).then_some(value)
}

/// Value and numbers of an expression of integers, + - * / and brackets; digits separated by spaces are one number. An explicit stack, so
/// that deep nesting cannot overflow the call stack.
fn evaluate(text: &str) -> Result<(BigRational, Vec<i64>), String> {
    const MOST_NUMBERS: usize = 64;
    let (mut values, mut operators, mut used): (Vec<BigRational>, Vec<char>, Vec<i64>) = (Vec::new(), Vec::new(), Vec::new());
    let mut wants_value = true;
    let mut chars = text.chars().filter(|c| !c.is_whitespace()).peekable();
    while let Some(c) = chars.next() {
        match c {
            '0'..='9' if wants_value => {
                let mut value = i64::from(c as u32 - u32::from('0'));
                while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                    value = value.checked_mul(10).and_then(|v| v.checked_add(digit.into())).ok_or("too large a number")?;
                    chars.next();
                }
                if used.len() == MOST_NUMBERS {
                    return Err("too many numbers".into());
                }
                used.push(value);
                values.push(BigRational::from_integer(value.into()));
                wants_value = false;
            }
            '(' if wants_value => operators.push('('),
            ')' if !wants_value => loop {
                match operators.pop() {
                    Some('(') => break,
                    Some(operator) => combine(operator, &mut values)?,
                    None => return Err("a bracket too many".into()),
                }
            },
            '+' | '-' | '*' | '/' | '×' | '÷' if !wants_value => {
                let operator = match c {
                    '×' => '*',
                    '÷' => '/',
                    c => c,
                };
                while operators.last().is_some_and(|before| rank(*before) >= rank(operator)) {
                    combine(operators.pop().unwrap_or('('), &mut values)?;
                }
                operators.push(operator);
                wants_value = true;
            }
            _ => return Err("no expression".into()),
        }
    }
    if wants_value {
        return Err("no expression".into());
    }
    while let Some(operator) = operators.pop() {
        combine(operator, &mut values)?;
    }
    values.pop().map(|value| (value, used)).ok_or_else(|| "no expression".into())
}

fn rank(operator: char) -> u8 {
    match operator {
        '(' => 0,
        '+' | '-' => 1,
        _ => 2,
    }
}

fn combine(operator: char, values: &mut Vec<BigRational>) -> Result<(), String> {
    if operator == '(' {
        return Err("a bracket is not closed".into());
    }
    let (Some(b), Some(a)) = (values.pop(), values.pop()) else { return Err("no expression".into()) };
    values.push(match operator {
        '+' => a + b,
        '-' => a - b,
        '*' => a * b,
        _ if b.is_zero() => return Err("divides by zero".into()),
        _ => a / b,
    });
    Ok(())
}
