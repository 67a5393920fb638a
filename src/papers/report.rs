//! Output of findings: `results.json` for programs, `README.md` for readers, figures. All text is generated from the data.

use super::finding::{ClaimFinding, ResultTable, number, with_interval};
use super::jobs::minutes;
use super::verdict::{CheckOutcome, ClaimCheck, ClaimVerdict, RULE, Requirement};
use super::{Paper, ReproduceOptions, seeds};
use crate::vfs::write_whole;
use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use web_time::Instant;

/// Origin of the numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportHeader {
    /// Display name of the paper.
    #[serde(skip)]
    title: &'static str,
    /// Address of the paper.
    paper: &'static str,
    /// The command that reproduces the results.
    command: String,
    /// Version, and the commit if known.
    lehr: String,
    /// Scale.
    scale: String,
    /// Seeds.
    seeds: Vec<u64>,
    /// The rule of verdicts.
    rule: &'static str,
    /// Facts that differ between papers.
    #[serde(flatten)]
    facts: PaperFacts,
}

/// Origin of the numbers of one paper.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PaperFacts {
    /// Adapter and driver.
    pub device: String,
    /// Notes for readers, one line each.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// Tables for readers.
    #[serde(skip)]
    pub tables: Vec<ResultTable>,
    /// The same as a JSON object.
    #[serde(flatten)]
    pub details: serde_json::Value,
}

/// A complete report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Origin of the numbers.
    pub header: ReportHeader,
    /// The claims.
    pub findings: Vec<ClaimFinding>,
}

impl ReportHeader {
    /// From options and facts.
    pub fn new(paper: &Paper, options: &ReproduceOptions, facts: PaperFacts) -> Self {
        let commit = options.commit.as_ref().map_or(String::new(), |c| format!(", commit {c}"));
        Self {
            title: paper.title,
            paper: paper.source,
            command: options.command.clone(),
            lehr: format!("{}{commit}", env!("CARGO_PKG_VERSION")),
            scale: options.scale.clone(),
            seeds: seeds(options),
            rule: RULE,
            facts,
        }
    }
}

impl Report {
    /// Evaluate the claims in order, and write the report into the folder `out` after each.
    ///
    /// # Errors
    /// Those of `find`, or the folder cannot be written.
    pub fn evaluate(
        &mut self,
        claims: &[&str],
        out: &Path,
        find: impl Fn(&str) -> anyhow::Result<ClaimFinding>,
        notify: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        for claim in claims {
            let begin = Instant::now();
            let found = find(claim)?;
            notify(&format!("{claim}: {} ({})", found.verdict.words(), minutes(begin.elapsed().as_secs_f64())));
            self.findings.push(found);
            self.write(out)?;
        }
        Ok(())
    }

    /// Write all files into a folder. The same findings give the same bytes.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, out: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(out).with_context(|| format!("--out {}: cannot be made", crate::vfs::display_path(out)))?;
        for (name, svg) in self.findings.iter().flat_map(|f| &f.pictures) {
            write_whole(&out.join(name), svg.as_bytes())?;
        }
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        write_whole(&out.join("results.json"), &json)?;
        write_whole(&out.join("README.md"), self.markdown().as_bytes())
    }

    /// One line per claim, for the terminal.
    pub fn lines(&self) -> Vec<String> {
        self.findings.iter().map(|f| format!("{:<6} {:<23} {}", f.id, f.verdict.words(), f.claim)).collect()
    }

    /// The Markdown page.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.summary(&mut out);
        for f in &self.findings {
            finding(&mut out, f);
        }
        out
    }

    fn head(&self, out: &mut String) {
        let h = &self.header;
        let seeds: Vec<String> = h.seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(out, "# The claims of {} ({}), at scale {}\n", h.title, h.paper, h.scale);
        let _ = writeln!(out, "Written by `lehr reproduce`; do not edit. Machine-readable: [results.json](results.json).\n");
        let _ = writeln!(out, "```\n{}\n```\n", h.command);
        let _ = writeln!(out, "- lehr {}, on {}", h.lehr, h.facts.device);
        let _ = writeln!(out, "- seeds {}", seeds.join(", "));
        for note in &h.facts.notes {
            let _ = writeln!(out, "- {note}");
        }
        out.push('\n');
        for t in &h.facts.tables {
            if !t.title.is_empty() {
                let _ = writeln!(out, "{}:\n", t.title);
            }
            table(out, t);
        }
        let _ = writeln!(out, "{}\n", h.rule);
    }

    fn summary(&self, out: &mut String) {
        let count = |v: ClaimVerdict| self.findings.iter().filter(|f| f.verdict == v).map(|f| f.id).collect::<Vec<_>>();
        for verdict in [ClaimVerdict::Holds, ClaimVerdict::Fails, ClaimVerdict::Undecided] {
            let which = count(verdict);
            if !which.is_empty() {
                let _ = writeln!(out, "- **{}**: {}", verdict.words(), which.join(", "));
            }
        }
        out.push('\n');
        let rows = self.findings.iter().map(|f| {
            vec![
                format!("[{}](#{})", f.id, anchor(f.id)),
                f.claim.to_string(),
                f.paper.to_string(),
                measured(f),
                format!("**{}**", f.verdict.words()),
            ]
        });
        let columns = ["", "claim", "the paper", "measured: mean [95 %], n", "verdict"].map(String::from).to_vec();
        table(out, &ResultTable { title: String::new(), columns, rows: rows.collect() });
    }
}

/// The decisive checks, in one cell.
fn measured(f: &ClaimFinding) -> String {
    let decisive = f.checks.iter().filter(|c| c.requirement != Requirement::Nothing);
    let lines: Vec<String> = decisive
        .map(|c| {
            let n = c.estimate.units.len();
            format!("{}: {} (n = {n}; needs {}: {})", c.what, with_interval(&c.estimate), c.requirement.words(), c.met.words())
        })
        .collect();
    if lines.is_empty() { "too little to decide".into() } else { lines.join("<br>") }
}

/// The decisive checks, in a sentence or two.
fn plain_summary(f: &ClaimFinding) -> String {
    let which = |met: CheckOutcome| -> Vec<&ClaimCheck> { f.checks.iter().filter(|c| c.met == met).collect() };
    let [yes, no, open] = [CheckOutcome::Yes, CheckOutcome::No, CheckOutcome::Unclear].map(which);
    let asked = yes.len() + no.len() + open.len();
    let list = |checks: &[&ClaimCheck]| {
        let each =
            checks.iter().map(|c| format!("{} is {}, needed {}", c.what, with_interval(&c.estimate), c.requirement.words()));
        each.collect::<Vec<_>>().join("; ")
    };
    if asked == 0 {
        return "There was too little to decide by.".into();
    }
    let mut out = format!("{} of {asked} checks are met.", yes.len());
    if !no.is_empty() {
        let _ = write!(out, " Contradicted: {}.", list(&no));
    }
    if !open.is_empty() {
        let _ = write!(out, " Unclear: {}.", list(&open));
    }
    out
}

/// GitHub's anchor for a heading.
fn anchor(id: &str) -> String {
    id.to_lowercase().chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}

fn finding(out: &mut String, f: &ClaimFinding) {
    let _ = writeln!(out, "## {}\n", f.id);
    let _ = writeln!(out, "**{}.** The paper: {}.\n", f.claim, f.paper);
    let _ = writeln!(out, "{}\n", f.design);
    let _ = writeln!(out, "**Verdict: {}.** {}\n", f.verdict.words(), plain_summary(f));
    let rows = f.checks.iter().map(|c| {
        let student = c.estimate.student.map_or("-".into(), |[l, h]| format!("[{}, {}]", number(l), number(h)));
        let [low, high] = c.estimate.bootstrap;
        vec![
            c.what.clone(),
            number(c.estimate.mean),
            format!("[{}, {}]", number(low), number(high)),
            student,
            c.estimate.units.len().to_string(),
            c.requirement.words(),
            c.met.words().into(),
        ]
    });
    let columns = ["measured", "mean", "bootstrap 95 %", "t 95 %", "n", "the claim needs", ""].map(String::from).to_vec();
    table(out, &ResultTable { title: String::new(), columns, rows: rows.collect() });
    for (name, _) in &f.pictures {
        let _ = writeln!(out, "![{}]({name})\n", f.claim);
    }
    for t in &f.tables {
        let _ = writeln!(out, "{}:\n", t.title);
        table(out, t);
    }
}

fn table(out: &mut String, t: &ResultTable) {
    let line =
        |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "));
    out.push_str(&line(&t.columns));
    out.push_str(&format!("|{}\n", "---|".repeat(t.columns.len())));
    for row in &t.rows {
        out.push_str(&line(row));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::papers::stats::Estimate;
    use crate::papers::verdict::{ClaimCheck, Requirement};

    #[test]
    fn a_results_page_states_its_findings() {
        let check = ClaimCheck::new("gain | nats", Estimate::of_values(&[0.1, 0.11, 0.12]), Requirement::Above(0.0));
        let f = ClaimFinding::new("P5/6+", "it helps", "Fig. 0", "Done so.".into(), vec![check])
            .table("Rows", &["a", "b"], vec![vec!["1".into(), "2".into()]])
            .with_figure("p0", "<svg/>".into());
        let paper = Paper { name: "pma", title: "PMA", source: "arXiv 0", claims: &[] };
        let options = ReproduceOptions {
            claims: Vec::new(),
            scale: "tiny".into(),
            seeds: 3,
            first_seed: 1,
            data: None,
            out: "out".into(),
            work: "work".into(),
            arms_only: false,
            device: crate::config::DeviceSettings::default(),
            command: "lehr reproduce pma".into(),
            commit: None,
            flops_per_second: 1.0,
        };
        let facts = PaperFacts {
            notes: vec!["a note".into()],
            tables: vec![ResultTable { title: "Sizes".into(), columns: vec!["size".into()], rows: vec![vec!["S".into()]] }],
            details: serde_json::json!({"tokens": 7}),
            ..PaperFacts::default()
        };
        let header = ReportHeader::new(&paper, &options, facts);
        let report = Report { header, findings: vec![f] };
        let page = report.markdown();
        for part in [
            "- **holds**: P5/6+",
            "## P5/6+",
            "(#p56)",
            "gain \\| nats",
            "0.1100",
            "p0.svg",
            "| 1 | 2 |",
            "- a note",
            "| S |",
            "- seeds 1, 2, 3",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        let dir = tempfile::tempdir().unwrap();
        report.write(dir.path()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("results.json")).unwrap()).unwrap();
        assert_eq!(json["findings"][0]["verdict"], "holds");
        assert_eq!((&json["header"]["tokens"], &json["header"]["paper"]), (&7.into(), &"arXiv 0".into()));
        assert!(dir.path().join("p0.svg").is_file());
    }
}
