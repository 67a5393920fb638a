//! Arithmetic on what came out of runs: `raw.eval_loss - raw.merge/sma/eval_loss`, `exp ( some.logprob )`, and comparisons of such.
//!
//! Names hold slashes, dots and dashes, so that operators, comparisons and brackets stand between spaces.

use anyhow::{Context as _, Result, bail, ensure};

/// An expression of numbers, names, `+ - * /`, brackets and `exp ( ... )`.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Name(String),
    Exp(Box<Node>),
    Two(char, Box<Node>, Box<Node>),
}

/// A deeper nest of brackets is a mistake.
const DEEPEST: usize = 16;

impl Formula {
    /// Read an expression.
    ///
    /// # Errors
    /// Text that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words: Vec<&str> = text.split_whitespace().rev().collect();
        let node = sum(&mut words, 0).with_context(|| format!("{text:?}"))?;
        ensure!(words.is_empty(), "{text:?}: {:?} stands where an operator should", words[words.len() - 1]);
        Ok(Self(node))
    }

    /// Its value; `value` knows the names.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn value(&self, value: &dyn Fn(&str) -> Result<f64>) -> Result<f64> {
        fn of(node: &Node, value: &dyn Fn(&str) -> Result<f64>) -> Result<f64> {
            Ok(match node {
                Node::Number(n) => *n,
                Node::Name(name) => value(name)?,
                Node::Exp(inner) => of(inner, value)?.exp(),
                Node::Two(operator, a, b) => {
                    let (a, b) = (of(a, value)?, of(b, value)?);
                    match operator {
                        '+' => a + b,
                        '-' => a - b,
                        '*' => a * b,
                        _ => a / b,
                    }
                }
            })
        }
        of(&self.0, value)
    }

    /// The names in it.
    pub fn names(&self) -> Vec<&str> {
        fn of<'a>(node: &'a Node, out: &mut Vec<&'a str>) {
            match node {
                Node::Number(_) => {}
                Node::Name(name) => out.push(name),
                Node::Exp(inner) => of(inner, out),
                Node::Two(_, a, b) => {
                    of(a, out);
                    of(b, out);
                }
            }
        }
        let mut out = Vec::new();
        of(&self.0, &mut out);
        out
    }

    /// The name, if the expression is nothing else.
    pub fn name(&self) -> Option<&str> {
        if let Node::Name(name) = &self.0 { Some(name) } else { None }
    }
}

fn sum(words: &mut Vec<&str>, depth: usize) -> Result<Node> {
    let mut left = product(words, depth)?;
    while let Some(operator) = words.pop_if(|w| matches!(*w, "+" | "-")) {
        let right = product(words, depth)?;
        left = two(operator, left, right);
    }
    Ok(left)
}

fn product(words: &mut Vec<&str>, depth: usize) -> Result<Node> {
    let mut left = atom(words, depth)?;
    while let Some(operator) = words.pop_if(|w| matches!(*w, "*" | "/")) {
        let right = atom(words, depth)?;
        left = two(operator, left, right);
    }
    Ok(left)
}

fn two(operator: &str, left: Node, right: Node) -> Node {
    Node::Two(operator.chars().next().unwrap_or('+'), Box::new(left), Box::new(right))
}

fn atom(words: &mut Vec<&str>, depth: usize) -> Result<Node> {
    let Some(word) = words.pop() else { bail!("ends where a number or a name should stand") };
    if word == "exp" {
        ensure!(words.last() == Some(&"("), "exp needs a bracket");
        return Ok(Node::Exp(Box::new(atom(words, depth)?)));
    }
    if word == "(" {
        ensure!(depth < DEEPEST, "too many brackets");
        let inner = sum(words, depth + 1)?;
        ensure!(words.pop() == Some(")"), "a bracket is not closed");
        return Ok(inner);
    }
    if let Ok(number) = word.parse::<f64>() {
        return Ok(Node::Number(number));
    }
    ensure!(word.starts_with(|c: char| c.is_ascii_lowercase()), "{word:?}: is neither a number nor a name");
    Ok(Node::Name(word.to_owned()))
}

/// Comparisons that must all hold: `a < b and c >= 0.1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition(Vec<(Formula, Order, Formula)>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Condition {
    /// Read comparisons.
    ///
    /// # Errors
    /// Text that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let comparison = |part: &str| -> Result<(Formula, Order, Formula)> {
            let words: Vec<&str> = part.split_whitespace().collect();
            let order = |w: &str| match w {
                "<" => Some(Order::Less),
                "<=" => Some(Order::AtMost),
                ">" => Some(Order::More),
                ">=" => Some(Order::AtLeast),
                _ => None,
            };
            let found: Vec<usize> = (0..words.len()).filter(|&i| order(words[i]).is_some()).collect();
            let (&[at], Some(order)) = (&found[..], found.first().and_then(|&i| order(words[i]))) else {
                bail!("{part:?}: needs one of < <= > >= between spaces");
            };
            Ok((Formula::parse(&words[..at].join(" "))?, order, Formula::parse(&words[at + 1..].join(" "))?))
        };
        Ok(Self(text.split(" and ").map(comparison).collect::<Result<_>>()?))
    }

    /// Whether all hold; one with a value that is no number does not.
    ///
    /// # Errors
    /// Those of `value`.
    pub fn holds(&self, value: &dyn Fn(&str) -> Result<f64>) -> Result<bool> {
        for (a, order, b) in &self.0 {
            let (a, b) = (a.value(value)?, b.value(value)?);
            let holds = match order {
                Order::Less => a < b,
                Order::AtMost => a <= b,
                Order::More => a > b,
                Order::AtLeast => a >= b,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names in it.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().flat_map(|(a, _, b)| a.names().into_iter().chain(b.names())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Result<f64> {
        Ok(match name {
            "a.x/y" => 2.0,
            "b-1.z" => 5.0,
            "nan" => f64::NAN,
            _ => bail!("{name}: unknown"),
        })
    }

    #[test]
    fn products_bind_before_sums_and_from_the_left() {
        for (text, want) in [
            ("1 - 2 - 3", -4.0),
            ("1 + a.x/y * b-1.z", 11.0),
            ("( 1 + a.x/y ) * b-1.z", 15.0),
            ("8 / a.x/y / 2", 2.0),
            ("-3 + 1e1", 7.0),
            ("2 * exp ( a.x/y - 2 ) + 1", 3.0),
        ] {
            assert_eq!(Formula::parse(text).unwrap().value(&value).unwrap(), want, "{text}");
        }
        assert_eq!(Formula::parse("1 + a.x/y * b-1.z").unwrap().names(), ["a.x/y", "b-1.z"]);
        assert!(Formula::parse("c").unwrap().value(&value).is_err());
        for bad in ["", "exp 1", "1 +", "( 1", "1 )", "1 2", "* 2", "A", &"( ".repeat(40)] {
            assert!(Formula::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_hold_all_together() {
        for (text, want) in [
            ("a.x/y < b-1.z", true),
            ("a.x/y < b-1.z and a.x/y >= 2.5", false),
            ("a.x/y <= 2 and 1 > 0", true),
            ("nan < 1", false),
            ("nan >= 1", false),
        ] {
            assert_eq!(Condition::parse(text).unwrap().holds(&value).unwrap(), want, "{text}");
        }
        for bad in ["a.x/y", "1 < 2 < 3", "1 <", "a <b"] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
    }
}
