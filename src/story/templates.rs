//! Texts with numbers filled in, and conditions: minijinja over the results of a story's steps.
//!
//! `{{ raw.eval_loss|fixed(2) }}` is a fact of the step `raw`; a name that is not an identifier is written in brackets,
//! `{{ raw["merge/sma/eval_loss@600"] }}`. Filters: `fixed(n)` and `signed(n)` decimals, `percent(n)`, and `points(n)` for a difference of
//! shares in percentage points. A number without a filter has three decimals. An unknown name is an error, never an empty string.

use super::facts::Facts;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use minijinja::machinery::ast::{CallArg, Expr, Stmt};
use minijinja::machinery::{parse, parse_expr};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};
use std::sync::OnceLock;

/// Filters available in texts.
const FILTERS: &[&str] = &["fixed", "signed", "percent", "points", "abs", "int", "min", "max"];
/// Functions available in texts.
pub(super) const FUNCTIONS: &[&str] = &["exp"];

/// A name in a text: a step or a value of the story, and the fact, joined by dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactName {
    /// The step or value.
    pub root: String,
    /// `eval_loss`, `sampled.interval.0`; empty for the value itself.
    pub path: String,
}

/// Fill in the template.
///
/// # Errors
/// An error in the template, or a fact that is not available.
pub fn fill(text: &str, facts: &Facts) -> Result<String> {
    environment().render_str(text, facts.value()).map_err(|e| one_line_error(&e, text))
}

/// Whether a condition is true.
///
/// # Errors
/// As [`fill`].
pub fn condition_holds(text: &str, facts: &Facts) -> Result<bool> {
    Ok(evaluate(text, facts.value()).map_err(|e| one_line_error(&e, text))?.is_true())
}

/// The value of an expression as text, such as the letter of the right answer.
///
/// # Errors
/// As [`fill`].
pub fn text(expression: &str, facts: &Facts) -> Result<String> {
    Ok(evaluate(expression, facts.value()).map_err(|e| one_line_error(&e, expression))?.to_string())
}

/// The value of an expression.
pub(super) fn evaluate(expression: &str, facts: Value) -> Result<Value, Error> {
    environment().compile_expression(expression)?.eval(facts)
}

/// The names in a text.
///
/// # Errors
/// An error in the template, or syntax that stories do not support.
pub fn fact_names(text: &str) -> Result<Vec<FactName>> {
    let template = parse(text, "text", SyntaxConfig::default()).map_err(|e| one_line_error(&e, text))?;
    let mut out = Vec::new();
    statement(&template, &mut out).with_context(|| format!("{text:?}"))?;
    Ok(out)
}

/// The names in an expression.
///
/// # Errors
/// As [`names`].
pub fn names_of_expression(text: &str) -> Result<Vec<FactName>> {
    let parsed = parse_expr(text).map_err(|e| one_line_error(&e, text))?;
    let mut out = Vec::new();
    expression(&parsed, &mut out).with_context(|| format!("{text:?}"))?;
    Ok(out)
}

fn statement(statement_: &Stmt<'_>, out: &mut Vec<FactName>) -> Result<()> {
    let mut all = |list: &[Stmt<'_>]| list.iter().try_for_each(|s| statement(s, out));
    match statement_ {
        Stmt::Template(s) => all(&s.children),
        Stmt::EmitRaw(_) => Ok(()),
        Stmt::EmitExpr(s) => expression(&s.expr, out),
        Stmt::IfCond(s) => {
            all(&s.true_body)?;
            all(&s.false_body)?;
            expression(&s.expr, out)
        }
        _ => bail!("words hold {{{{ ... }}}} and {{% if ... %}} only"),
    }
}

fn expression(whole: &Expr<'_>, out: &mut Vec<FactName>) -> Result<()> {
    match whole {
        Expr::Const(_) => Ok(()),
        Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) => {
            out.push(chain(whole)?);
            Ok(())
        }
        Expr::UnaryOp(s) => expression(&s.expr, out),
        Expr::BinOp(s) => {
            expression(&s.left, out)?;
            expression(&s.right, out)
        }
        Expr::Compare(s) => {
            expression(&s.expr, out)?;
            s.ops.iter().try_for_each(|op| expression(&op.expr, out))
        }
        Expr::IfExpr(s) => {
            expression(&s.test_expr, out)?;
            expression(&s.true_expr, out)?;
            s.false_expr.iter().try_for_each(|e| expression(e, out))
        }
        Expr::Filter(s) => {
            ensure!(FILTERS.contains(&s.name), "|{}: is not a filter of stories; known: {}", s.name, FILTERS.join(", "));
            s.expr.iter().try_for_each(|e| expression(e, out))?;
            arguments(&s.args, out)
        }
        Expr::Call(s) => {
            let known = matches!(&s.expr, Expr::Var(v) if FUNCTIONS.contains(&v.id));
            ensure!(known, "stories call {} only", FUNCTIONS.join(", "));
            arguments(&s.args, out)
        }
        Expr::List(s) => s.items.iter().try_for_each(|e| expression(e, out)),
        _ => bail!("stories use numbers, names, operators, comparisons, conditions and filters only"),
    }
}

fn arguments(args: &[CallArg<'_>], out: &mut Vec<FactName>) -> Result<()> {
    args.iter().try_for_each(|arg| match arg {
        CallArg::Pos(e) => expression(e, out),
        _ => bail!("arguments are given by their place"),
    })
}

fn chain(whole: &Expr<'_>) -> Result<FactName> {
    let joined = |inner: &Expr<'_>, key: &str| -> Result<FactName> {
        let FactName { root, path } = chain(inner)?;
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        Ok(FactName { root, path })
    };
    match whole {
        Expr::Var(s) => Ok(FactName { root: s.id.to_owned(), path: String::new() }),
        Expr::GetAttr(s) => joined(&s.expr, s.name),
        Expr::GetItem(s) => match &s.subscript_expr {
            Expr::Const(key) => joined(&s.expr, &key.value.to_string()),
            _ => bail!("what stands in brackets is a name in quotes or a number"),
        },
        _ => bail!("only steps and values have facts"),
    }
}

fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_formatter(|out, state, value| match f64::try_from(value.clone()) {
            Ok(n) if value.is_number() && !value.is_integer() => Ok(write!(out, "{}", fixed(n, Some(3)))?),
            _ => minijinja::escape_formatter(out, state, value),
        });
        env.add_filter("fixed", fixed);
        env.add_filter("signed", signed);
        env.add_filter("percent", |share: f64, decimals: Option<usize>| {
            format!("{} %", fixed(100.0 * share, Some(decimals.unwrap_or(0))))
        });
        env.add_filter("points", |share: f64, decimals: Option<usize>| {
            format!("{} percentage points", signed(100.0 * share, Some(decimals.unwrap_or(1))))
        });
        env.add_function("exp", f64::exp);
        env
    })
}

fn fixed(n: f64, decimals: Option<usize>) -> String {
    if n.is_nan() {
        return "no number".into();
    }
    let shown = format!("{n:.*}", decimals.unwrap_or(3).min(9));
    match shown.strip_prefix('-') {
        // What rounds to zero has no sign.
        Some(rest) if n.is_finite() && !rest.contains(|c| ('1'..='9').contains(&c)) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => shown,
    }
}

/// With its sign, and as many more decimals as the sign needs: an interval's end that is not zero must not look like zero.
fn signed(n: f64, decimals: Option<usize>) -> String {
    let least = decimals.unwrap_or(3);
    let is_zero = |shown: &String| !shown.contains(|c| ('1'..='9').contains(&c));
    let mut shown = (least..least + 3).map(|decimals| fixed(n, Some(decimals)));
    let shown = shown.find(|shown| !is_zero(shown)).unwrap_or_else(|| fixed(n, Some(least)));
    if shown.starts_with('−') || !n.is_finite() || is_zero(&shown) { shown } else { format!("+{shown}") }
}

/// An error of the engine as one line.
fn one_line_error(error: &Error, text: &str) -> anyhow::Error {
    let line = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    let text = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    anyhow!("{:?}: {}{cause}", crate::vfs::clean(&text), line.replace('\n', " "))
}

/// A filled table: heading, rows.
pub type FilledTable = (Vec<String>, Vec<Vec<String>>);

/// A paragraph to show.
#[derive(Clone, Debug, PartialEq)]
pub enum TextBlock {
    /// Flowing text, on one line.
    Paragraph(String),
    /// Preformatted lines, without their four spaces.
    Lines(Vec<String>),
}

/// Split a text into paragraphs at empty lines; lines that begin with four spaces are kept as they are.
pub fn blocks(text: &str) -> Vec<TextBlock> {
    let mut out: Vec<TextBlock> = Vec::new();
    let mut fresh = true;
    for line in text.lines() {
        if let Some(code) = line.strip_prefix("    ") {
            match out.last_mut() {
                Some(TextBlock::Lines(lines)) => lines.push(code.to_owned()),
                _ => out.push(TextBlock::Lines(vec![code.to_owned()])),
            }
            fresh = true;
        } else if line.trim().is_empty() {
            fresh = true;
        } else {
            match out.last_mut() {
                Some(TextBlock::Paragraph(words)) if !fresh => {
                    words.push(' ');
                    words.push_str(line.trim());
                }
                _ => out.push(TextBlock::Paragraph(line.trim().to_owned())),
            }
            fresh = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::facts::StepOutcome;
    use serde_json::json;

    fn facts() -> Facts {
        let printed = json!({
            "x": 0.12345, "low": -0.0001, "count": 3, "sample": "Once\u{1b}[2J\nupon", "list": [1.5, null], "by": {"pass@": {"4": 0.5}},
        });
        let mut facts = Facts::default();
        facts.add("a", StepOutcome::Printed(printed));
        facts.name("twice", "a.x * 2");
        facts
    }

    #[test]
    fn places_are_filled_by_their_filter() {
        let fill = |text: &str| fill(text, &facts()).unwrap();
        assert_eq!(
            fill("{{ a.x }}, {{ a.x|fixed(1) }}, {{ a.x|signed(2) }}, {{ a.x|percent }}, {{ a.x|percent(1) }}, {{ a.x|points }}"),
            "0.123, 0.1, +0.12, 12 %, 12.3 %, +12.3 percentage points"
        );
        assert_eq!(
            fill("{{ (twice - 1)|fixed(2) }} {{ a.low|fixed(2) }} {{ a.low|signed(2) }} {{ a.count }}"),
            "−0.75 0.00 −0.0001 3"
        );
        assert_eq!(fill("{{ a.sample }}"), "Once\\u{1b}[2J\nupon");
        assert_eq!(
            fill("{{ a.list[0] }} {{ a['list.0'] }} {{ a.list[1] }} {{ a.by['pass@']['4']|fixed(1) }}"),
            "1.500 1.500 no number 0.5"
        );
        assert_eq!(fill("{% if a.x > 0.1 %}more{% else %}{{ a.gone }}{% endif %}"), "more");
        assert_eq!(fill("{{ exp(0)|fixed(0) }}"), "1");
    }

    #[test]
    fn what_is_not_there_is_an_error_in_one_line() {
        for bad in ["{{ a.gone }}", "{{ gone }}", "{{ a.sample|fixed(1) }}", "{{ a", "{{ a.x|nosuch }}"] {
            let error = format!("{:#}", fill(bad, &facts()).unwrap_err());
            assert_eq!(error.lines().count(), 1, "{bad}: {error}");
        }
        assert!(condition_holds("a.x > 0.1 and a.low < 0", &facts()).unwrap() && !condition_holds("a.x > 1", &facts()).unwrap());
        assert!(condition_holds("gone > 0", &facts()).is_err());
        assert_eq!(text("'b' if a.x > 1 else ''", &facts()).unwrap(), "");
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let found = fact_names("{{ a.x }} {% if b['c/d@2'] > 1 %}{{ exp(e.f[0])|fixed(2) }}{% endif %}").unwrap();
        let mut found: Vec<String> = found.iter().map(|n| format!("{}:{}", n.root, n.path)).collect();
        found.sort();
        assert_eq!(found, ["a:x", "b:c/d@2", "e:f.0"]);
        for bad in ["{% for x in y %}{% endfor %}", "{{ f(1) }}", "{{ a|upper }}", "{{ a[b] }}", "{{ a"] {
            assert!(fact_names(bad).is_err(), "{bad}");
        }
        assert_eq!(names_of_expression("x - y.z * 2").unwrap().len(), 2);
    }

    #[test]
    fn words_become_paragraphs() {
        let found = blocks("One\nline.\n\nTwo.\n    lehr x\n      y\nThree.\n");
        let words = |text: &str| TextBlock::Paragraph(text.into());
        assert_eq!(
            found,
            [words("One line."), words("Two."), TextBlock::Lines(vec!["lehr x".into(), "  y".into()]), words("Three.")]
        );
    }
}
