//! Results of a claim's experiment: checks, tables, figures.

use super::stats::Estimate;
use super::verdict::{ClaimCheck, ClaimVerdict};
use serde::Serialize;

/// A table of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultTable {
    /// Its title.
    pub title: String,
    /// Column headings.
    pub columns: Vec<String>,
    /// Cells, formatted.
    pub rows: Vec<Vec<String>>,
}

/// A claim and its result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimFinding {
    /// Identifier: P1 ...
    pub id: &'static str,
    /// The claim.
    pub claim: &'static str,
    /// Where the paper states it, with its numbers.
    pub paper: &'static str,
    /// Design of the experiment.
    pub design: String,
    /// Measurements, with the values that the claim requires.
    pub checks: Vec<ClaimCheck>,
    /// The verdict, from the checks.
    pub verdict: ClaimVerdict,
    /// Details.
    pub tables: Vec<ResultTable>,
    /// (file name, SVG)
    #[serde(skip)]
    pub pictures: Vec<(String, String)>,
}

impl ClaimFinding {
    /// A finding without tables and figures.
    pub fn new(id: &'static str, claim: &'static str, paper: &'static str, design: String, checks: Vec<ClaimCheck>) -> Self {
        let verdict = ClaimVerdict::of(&checks);
        Self { id, claim, paper, design, checks, verdict, tables: Vec::new(), pictures: Vec::new() }
    }

    /// Add a table.
    pub fn table(mut self, title: impl Into<String>, columns: &[&str], rows: Vec<Vec<String>>) -> Self {
        let columns = columns.iter().map(|c| c.to_string()).collect();
        self.tables.push(ResultTable { title: title.into(), columns, rows });
        self
    }

    /// Add a figure.
    pub fn with_figure(mut self, name: &str, svg: String) -> Self {
        self.pictures.push((format!("{name}.svg"), svg));
        self
    }
}

/// A number for display, with about four significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        a if a.is_infinite() => if value > 0.0 { "∞" } else { "-∞" }.into(),
        0.0 => "0".into(),
        a if a >= 1000.0 => format!("{value:.0}"),
        a if a >= 100.0 => format!("{value:.1}"),
        a if a >= 10.0 => format!("{value:.2}"),
        a if a >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// mean [low, high]
pub fn with_interval(e: &Estimate) -> String {
    let [low, high] = e.interval();
    if low.is_infinite() { number(e.mean) } else { format!("{} [{}, {}]", number(e.mean), number(low), number(high)) }
}
