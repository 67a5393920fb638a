//! Words with numbers put in: `the loss fell to {raw.eval_loss|2}`.
//!
//! A place is `{FORMULA}` or `{FORMULA|FORMAT}`. Formats: a number of decimals (`3` when nothing is said), `+3` with a sign, `%` or `%1`
//! percent. What is no number but text (a sample) is put in as it is, control characters escaped. `{{` and `}}` are braces.

use super::formula::Formula;
use anyhow::{Context as _, Result, bail, ensure};

/// Something that a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A number.
    Number(f64),
    /// Text, not to be trusted.
    Text(String),
}

/// A piece of words.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Words(String),
    Place(Formula, Format),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Format {
    signed: bool,
    percent: bool,
    decimals: usize,
}

impl Format {
    fn parse(text: &str) -> Result<Self> {
        let bad = || format!("format {text:?}: must be decimals (2), with a sign (+2), or percent (%, %1)");
        let (percent, rest) = text.strip_prefix('%').map_or((false, text), |rest| (true, rest));
        let (signed, rest) = rest.strip_prefix('+').map_or((false, rest), |rest| (true, rest));
        let decimals = if rest.is_empty() && percent { 0 } else { rest.parse().with_context(bad)? };
        ensure!(decimals <= 9, bad());
        Ok(Self { signed, percent, decimals })
    }

    fn show(self, n: f64) -> String {
        if n.is_nan() {
            return "no number".into();
        }
        let (n, unit) = if self.percent { (100.0 * n, " %") } else { (n, "") };
        let shown = format!("{n:.*}", self.decimals);
        // No "-0.00".
        let shown = match shown.strip_prefix('-') {
            Some(rest) if !rest.chars().any(|c| ('1'..='9').contains(&c)) && n.is_finite() => rest.to_owned(),
            _ => shown,
        };
        let sign = if self.signed && !shown.starts_with('-') { "+" } else { "" };
        format!("{sign}{shown}{unit}")
    }
}

/// Words with places for numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Read words.
    ///
    /// # Errors
    /// A brace that is not closed, a place that is no formula.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut pieces, mut words) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            words.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                words.push_str(brace);
                rest = after;
                continue;
            }
            ensure!(brace == "{", "a brace is closed that was not opened; write }}}} for a brace");
            let Some(end) = after.find('}') else { bail!("a brace is not closed; write {{{{ for a brace") };
            let place = &after[..end];
            let (formula, format) = place.rsplit_once('|').unwrap_or((place, "3"));
            pieces.push(Piece::Words(std::mem::take(&mut words)));
            pieces.push(Piece::Place(Formula::parse(formula)?, Format::parse(format.trim())?));
            rest = &after[end + 1..];
        }
        words.push_str(rest);
        pieces.push(Piece::Words(words));
        Ok(Self(pieces))
    }

    /// The names in it.
    pub fn names(&self) -> Vec<&str> {
        let places = self.0.iter().filter_map(|p| if let Piece::Place(formula, _) = p { Some(formula) } else { None });
        places.flat_map(|formula| formula.names()).collect()
    }

    /// The words with everything put in.
    ///
    /// # Errors
    /// Those of `fact`, and text where a number is needed.
    pub fn fill(&self, fact: &dyn Fn(&str) -> Result<Fact>) -> Result<String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Words(words) => out.push_str(words),
                Piece::Place(formula, format) => match formula.name().map(fact).transpose()? {
                    Some(Fact::Text(text)) => out.push_str(&visible(&text)),
                    Some(Fact::Number(n)) => out.push_str(&format.show(n)),
                    None => out.push_str(&format.show(formula.value(&|name| number(name, fact(name)?))?)),
                },
            }
        }
        Ok(out)
    }
}

/// A fact as a number.
///
/// # Errors
/// It is text.
pub fn number(name: &str, fact: Fact) -> Result<f64> {
    match fact {
        Fact::Number(n) => Ok(n),
        Fact::Text(text) => bail!("{name}: is text ({}), not a number", crate::vfs::clean(&text)),
    }
}

/// Text with its control characters escaped, new lines kept.
fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A table with its numbers: head, rows.
pub type Filled = (Vec<String>, Vec<Vec<String>>);

/// A paragraph as it is to be shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Words that run on, on one line.
    Paragraph(String),
    /// Lines to be shown as they are, four spaces taken off.
    Lines(Vec<String>),
}

/// Cut words into paragraphs: empty lines part them; lines that begin with four spaces are kept as they are.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut out: Vec<Block> = Vec::new();
    let mut fresh = true;
    for line in text.lines() {
        if let Some(code) = line.strip_prefix("    ") {
            match out.last_mut() {
                Some(Block::Lines(lines)) => lines.push(code.to_owned()),
                _ => out.push(Block::Lines(vec![code.to_owned()])),
            }
            fresh = true;
        } else if line.trim().is_empty() {
            fresh = true;
        } else {
            match out.last_mut() {
                Some(Block::Paragraph(words)) if !fresh => {
                    words.push(' ');
                    words.push_str(line.trim());
                }
                _ => out.push(Block::Paragraph(line.trim().to_owned())),
            }
            fresh = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str) -> Result<Fact> {
        Ok(match name {
            "a.x" => Fact::Number(0.12345),
            "a.low" => Fact::Number(-0.0001),
            "a.sample" => Fact::Text("Once\u{1b}[2J\nupon".into()),
            _ => bail!("{name}: unknown"),
        })
    }

    #[test]
    fn places_are_filled_by_their_format() {
        let fill = |text: &str| Template::parse(text).unwrap().fill(&fact).unwrap();
        assert_eq!(fill("it is {a.x}, {a.x|1}, {a.x|+2}, {a.x|%}, {a.x|%1}."), "it is 0.123, 0.1, +0.12, 12 %, 12.3 %.");
        assert_eq!(fill("{a.x * 2 - 1|2} {a.low|2} {a.low|+2} {{x}}"), "-0.75 0.00 +0.00 {x}");
        assert_eq!(fill("{a.sample}"), "Once\\u{1b}[2J\nupon");
        assert_eq!(fill("{a.x / 0|1} {0 / 0}"), "inf no number");
        assert!(Template::parse("{a.sample + 1}").unwrap().fill(&fact).is_err());
        assert!(Template::parse("{gone}").unwrap().fill(&fact).is_err());
        for bad in ["{a", "a}", "{}", "{a|x}", "{a|10}", "{a +}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_become_paragraphs() {
        let found = blocks("One\nline.\n\nTwo.\n    lehr x\n      y\nThree.\n");
        let words = |text: &str| Block::Paragraph(text.into());
        assert_eq!(
            found,
            [words("One line."), words("Two."), Block::Lines(vec!["lehr x".into(), "  y".into()]), words("Three.")]
        );
    }
}
