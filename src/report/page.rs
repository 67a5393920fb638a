//! The page: its frame, its sections, its charts with legends.

use super::charts::{Plot, ReportLine};
use super::data::data;
use super::html::{column, count, escape, json, line, number};
use super::run::ReportRun;
use super::section::Section;
use super::{findings, run_facts, samples, tables, tokens};
use crate::history::{Axis, PinKind};
use crate::plot::{SERIES, SERIES_DARK, dash};
use anyhow::Result;
use std::fmt::Write as _;

/// First lines of every report, used to recognize lehr's files.
pub(super) const MARK: &str = "<!doctype html>\n<!-- written by lehr report -->\n";

const STYLE: &str = include_str!("../../assets/report/report.css");
const SCRIPT: &str = include_str!("../../assets/report/report.js");

/// Colours of the figures for the page: variables of both themes and of print, and rules that adapt figures to the theme.
fn palette() -> (String, String) {
    let variables =
        |colors: &[&str]| -> String { colors.iter().enumerate().map(|(i, color)| format!("--s{i}: {color}; ")).collect() };
    let (variables, dark) = (variables(&SERIES), variables(&SERIES_DARK));
    let rules: String = SERIES
        .iter()
        .enumerate()
        .map(|(i, c)| {
            format!("figure svg [fill=\"{c}\"] {{ fill: var(--s{i}); }} figure svg [stroke=\"{c}\"] {{ stroke: var(--s{i}); }}\n")
        })
        .collect();
    let themes = format!(
        ":root {{ {variables}}}\n@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=\"light\"]) {{ {dark}}} }}\n\
         :root[data-theme=\"dark\"] {{ {dark}}}\n"
    );
    (themes, format!("{rules}@media print {{ :root, :root[data-theme] {{ {variables}}} }}\n"))
}

/// The whole page.
pub(super) fn page(
    title: &str,
    own: &[String],
    runs: &[ReportRun],
    plots: &[Plot],
    pictures: &[(usize, Vec<tokens::Named>)],
) -> Result<String> {
    let sections: Vec<Section> = [
        charts(runs, plots),
        tables::task_evals(runs),
        tokens::section(runs, pictures),
        tables::merges(runs),
        samples::samples(runs),
        samples::completions(runs)?,
        tables::events(runs),
        tables::lineage(runs),
        Some(run_facts::facts(runs)),
        tables::settings(runs),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut out = String::from(MARK);
    let (themes, rules) = palette();
    let title = escape(title);
    // No external resource may be loaded, whatever a text contains.
    let _ = write!(
        out,
        "<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         img-src data:\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"lehr {}\">\n\
         <title>{title}</title>\n<style>\n{themes}{STYLE}{rules}</style>\n</head>\n<body>\n",
        env!("CARGO_PKG_VERSION")
    );
    let _ = write!(out, "<header>\n<h1>{title}</h1>\n{}", findings::head(runs, own));
    out += "<nav aria-label=\"Sections\">";
    for s in &sections {
        let _ = write!(out, "<a href=\"#{}\">{}</a>", s.id, s.title);
    }
    out += "</nav>\n</header>\n<main>\n";
    for s in &sections {
        let _ = write!(out, "<section id=\"{}\">\n<h2>{}</h2>\n", s.id, s.title);
        if !s.intro.is_empty() {
            let _ = writeln!(out, "<p class=\"intro\">{}</p>", s.intro);
        }
        let _ = writeln!(out, "<div class=\"body\">\n{}</div>\n</section>", s.body);
    }
    let _ = write!(
        out,
        "</main>\n<footer><p>Written by lehr {}. This file needs no network and nothing beside it.</p></footer>\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        json(&data(runs, plots))?
    );
    Ok(out)
}

fn charts(runs: &[ReportRun], plots: &[Plot]) -> Option<Section> {
    let mut body = String::from("<div class=\"toolbar\" id=\"toolbar\"></div>\n<div class=\"charts\">\n");
    for (i, plot) in plots.iter().enumerate() {
        body += &chart(i, plot, runs);
    }
    body += "</div>\n";
    body += &marks(runs);
    let intro = "Pale: every value (where there are more than can be drawn, the least and the greatest of each stretch). Strong: smoothed. The \
                 values below a chart are those at the end, of single batches the mean of the last tenth, or those at the cross-hair."
        .into();
    (!plots.is_empty()).then_some(Section { id: "charts", title: "Charts", intro, body })
}

fn chart(index: usize, plot: &Plot, runs: &[ReportRun]) -> String {
    let id = plot.id();
    let smooth = if plot.window > 1 { format!(" Smoothed over about {} values.", plot.window) } else { String::new() };
    let mut out = format!(
        "<figure class=\"chart\" id=\"chart-{id}\" data-chart=\"{index}\">\n<figcaption><h3>{}</h3><span class=\"unit\">{}</span></figcaption>\n\
         <div class=\"plot\">{}</div>\n<p class=\"hint\">{}{smooth}</p>\n<div class=\"scroll\"><table class=\"legend\"><thead><tr><th scope=\"col\" \
         class=\"where\">end</th><th scope=\"col\">value</th>",
        escape(plot.spec.title),
        escape(plot.spec.y),
        plot.chart(runs, false).svg(),
        escape(plot.spec.hint)
    );
    let smoothed = plot.lines.iter().any(|line| line.smooth.is_some());
    if smoothed {
        out += "<th scope=\"col\">smoothed</th>";
    }
    out += "</tr></thead><tbody>\n";
    let ends: Vec<Option<f64>> = plot.lines.iter().map(|l| l.end.or(l.raw.values.last().copied())).collect();
    let mut texts = column(&ends.iter().flatten().copied().collect::<Vec<f64>>()).into_iter();
    for (l, end) in plot.lines.iter().zip(&ends) {
        let dash: Vec<String> = dash(l.dash).iter().map(f64::to_string).collect();
        let (color, dash) = (l.color % SERIES.len(), dash.join(" "));
        let _ = write!(
            out,
            "<tr><th scope=\"row\"><button type=\"button\" aria-pressed=\"true\"><svg class=\"key\" width=\"26\" height=\"8\" \
             aria-hidden=\"true\"><line x1=\"0\" y1=\"4\" x2=\"26\" y2=\"4\" style=\"stroke:var(--s{color})\" stroke-width=\"2.5\" \
             stroke-dasharray=\"{dash}\"/></svg>{}</button></th><td>{}{}</td>",
            line(&l.label),
            end.and_then(|_| texts.next()).unwrap_or_default(),
            earlier(l, &runs[l.run]).map_or(String::new(), |step| format!(" at {}", count(step)))
        );
        if smoothed {
            let end = l.smooth.as_ref().and_then(|smooth| smooth.values.last().copied()).filter(|value| value.is_finite());
            let _ = write!(out, "<td>{}</td>", end.map_or("–".into(), number));
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n</figure>\n"
}

/// The step of a line's last value, if that is not the run's last step: of what was measured seldom.
fn earlier(line: &ReportLine, run: &ReportRun) -> Option<u64> {
    let history = if line.derived { &run.derived } else { run.history() };
    let step = history.clock.at(Axis::Steps, *line.raw.rows.last()?) as u64;
    (line.smooth.is_none() && line.end.is_none() && step < run.history().step).then_some(step)
}

/// Explanation of the marks on the axis, as far as they occur.
fn marks(runs: &[ReportRun]) -> String {
    let known = [
        (PinKind::Save, "save", "checkpoint saved"),
        (PinKind::Merge, "merge", "merge written"),
        (PinKind::Rescue, "rescue", "rescue"),
        (PinKind::LiveSettings, "changed", "setting changed"),
        (PinKind::Warning, "warning", "warning"),
    ];
    let there = |kind: PinKind| runs.iter().any(|run| run.history().pins.iter().any(|pin| pin.kind == kind));
    let items: Vec<String> = known
        .into_iter()
        .filter(|(kind, ..)| there(*kind))
        .map(|(_, class, words)| {
            format!("<span><svg class=\"pin {class}\" width=\"10\" height=\"10\" aria-hidden=\"true\"><path d=\"M5 0L10 10H0Z\"/></svg>{words}</span>")
        })
        .collect();
    format!("<p class=\"marks\" hidden>Marks on the axis: {}</p>\n", items.join(" "))
}
