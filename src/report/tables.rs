//! Tables of events of the runs: merges, rescues, changes and warnings, evaluations, settings, lineage.

use super::html::{approximate_count, cells, count, excerpt, line, number, percent, plural};
use super::run::{ReportRun, merged_loss};
use super::run_facts::dot;
use super::section::{Section, table};
use crate::config::Settings;
use crate::event::{Merged, Score, TaskEval};
use crate::history::{Pin, PinKind, differences, family};
use std::collections::BTreeSet;

/// The first and last rows of a long table, and the number of omitted rows between.
fn ends<T>(rows: &[T], most: usize) -> (Vec<&T>, usize) {
    if rows.len() <= most {
        return (rows.iter().collect(), 0);
    }
    let head = most / 4;
    (rows[..head].iter().chain(&rows[rows.len() - (most - head)..]).collect(), rows.len() - most)
}

fn left_out(n: usize) -> String {
    if n == 0 {
        String::new()
    } else {
        format!("<p class=\"note\">{} between the first and the last ones are left out.</p>\n", plural(n as u64, "row"))
    }
}

/// A section with a part for each run that has content.
fn by_run(
    runs: &[ReportRun],
    id: &'static str,
    title: &'static str,
    intro: &str,
    part: impl Fn(&ReportRun) -> String,
) -> Option<Section> {
    let mut body = String::new();
    for run in runs {
        let text = part(run);
        if !text.is_empty() && runs.len() > 1 {
            body += &format!("<h3>{}{}</h3>\n", dot(run, runs.len()), line(&run.name));
        }
        body += &text;
    }
    (!body.is_empty()).then(|| Section { id, title, intro: intro.into(), body })
}

/// Merges compared with the run's own weights.
pub(super) fn merges(runs: &[ReportRun]) -> Option<Section> {
    let intro = "A merge is the average of recent checkpoints, scored on the same held-out tokens as the run's own weights; the run itself is not \
                 touched. At a constant learning rate the merge stands for what annealing would give.";
    by_run(runs, "merges", "Merges", intro, |run| {
        let (rows, left) = ends(&run.history().merges, 40);
        let of = |value: fn(&Merged) -> Option<f64>| cells(rows.iter().map(|m| value(m).unwrap_or(f64::NAN)));
        let (raw, merged, estimate) = (of(|m| m.eval_loss), of(merged_loss), of(|m| m.anneal_estimate));
        let gain = of(|m| Some(m.eval_loss? - merged_loss(m)?));
        let row = |(i, m): (usize, &&Merged)| {
            let span = match m.steps.as_slice() {
                [first, .., last] => format!("{}, steps {} to {}", m.steps.len(), count(*first), count(*last)),
                [one] => format!("1, step {}", count(*one)),
                [] => "0".into(),
            };
            let age =
                if m.mean_age_tokens.is_finite() { approximate_count(m.mean_age_tokens.max(0.0) as u64) } else { String::new() };
            let numbers = [&raw, &merged, &gain, &estimate].map(|column| column[i].clone());
            [count(m.step), line(&m.method), span, age].into_iter().chain(numbers).collect()
        };
        let rows: Vec<Vec<String>> = rows.iter().enumerate().map(row).collect();
        if rows.is_empty() {
            return String::new();
        }
        let columns =
            ["step", "method", "checkpoints", "mean age (tokens)", "raw loss", "merged loss", "gain", "estimate if annealed"];
        table("", &columns, rows) + &left_out(left)
    })
}

/// Rescues, changes during the run, warnings, starts and ends.
pub(super) fn events(runs: &[ReportRun]) -> Option<Section> {
    by_run(runs, "events", "What happened", "Starts, live changes, rescues, warnings and ends, in order.", |run| {
        let history = run.history();
        let saves = history.pins.iter().filter(|pin| pin.kind == PinKind::Save).count();
        let told_of: Vec<&Pin> = history.pins.iter().filter(|pin| pin.kind != PinKind::Save).collect();
        let (rows, left) = ends(&told_of, 60);
        let row = |pin: &&&Pin| vec![count(pin.step), kind(pin.kind).to_owned(), excerpt(&pin.text, 600)];
        let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
        if rows.is_empty() && saves == 0 {
            return String::new();
        }
        let mut out = if rows.is_empty() { String::new() } else { table("", &["step", "what", ""], rows) + &left_out(left) };
        for r in &history.rescues {
            if !r.note.is_empty() {
                out += &format!("<p>About the rescue at step {}: {}</p>\n", count(r.step), line(&r.note));
            }
        }
        if saves > 0 {
            out += &format!("<p class=\"note\">Saved {}.</p>\n", plural(saves as u64, "time"));
        }
        out
    })
}

fn kind(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Start => "start",
        PinKind::Save => "save",
        PinKind::Merge => "merge",
        PinKind::Rescue => "rescue",
        PinKind::LiveSettings => "live change",
        PinKind::Pause => "pause",
        PinKind::Warning => "warning",
        PinKind::End => "end",
    }
}

/// Evaluations on held-out questions, by level: the first and the last, greedy and sampled.
pub(super) fn task_evals(runs: &[ReportRun]) -> Option<Section> {
    let intro = "Share of held-out questions that are answered entirely right, with Wilson's interval at 95 %. Greedy answers take the most \
                 probable token each time; sampled ones are drawn at the given temperature.";
    by_run(runs, "accuracy", "Accuracy by level", intro, |run| {
        let task_evals = &run.history().task_evals;
        let mut ways: Vec<f64> = task_evals.iter().map(|e| e.temperature).collect();
        ways.sort_by(f64::total_cmp);
        ways.dedup();
        let mut picked: Vec<&TaskEval> = Vec::new();
        for way in ways {
            let all: Vec<&TaskEval> = task_evals.iter().filter(|e| e.temperature.total_cmp(&way).is_eq()).collect();
            picked.extend(all.first());
            if let [_, .., last] = all.as_slice() {
                picked.push(last);
            }
        }
        if picked.is_empty() {
            return String::new();
        }
        let how = |e: &&TaskEval| {
            let how = if e.temperature == 0.0 { "greedy".into() } else { format!("sampled at {}", number(e.temperature)) };
            format!("{how}, step {}", count(e.step))
        };
        let columns: Vec<String> = ["level".to_owned()].into_iter().chain(picked.iter().map(how)).collect();
        let levels: BTreeSet<u32> = picked.iter().flat_map(|e| e.levels.keys().copied()).take(100).collect();
        let mut rows = vec![["all".to_owned()].into_iter().chain(picked.iter().map(|e| score(&e.all))).collect::<Vec<String>>()];
        for level in levels {
            let cells = picked.iter().map(|e| e.levels.get(&level).map_or_else(String::new, score));
            rows.push([level.to_string()].into_iter().chain(cells).collect());
        }
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        table("", &columns, rows)
    })
}

fn score(s: &Score) -> String {
    let [low, high] = s.interval;
    let interval = format!("{:.1} to {:.1} %", 100.0 * low, 100.0 * high);
    format!("<b>{}</b> <small>{interval} of {}</small>", percent(s.accuracy), count(s.count))
}

/// Settings that differ, and all settings in a collapsed element.
pub(super) fn settings(runs: &[ReportRun]) -> Option<Section> {
    let known: Vec<Option<&Settings>> = runs.iter().map(|run| run.files.settings.as_ref()).collect();
    if known.iter().all(Option::is_none) {
        return None;
    }
    let columns: Vec<String> = [String::new()]
        .into_iter()
        .chain(runs.iter().map(|run| format!("{}{}", dot(run, runs.len()), line(&run.name))))
        .collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let rows = |found: Vec<crate::history::SettingDifference>| -> Vec<Vec<String>> {
        let row = |d: crate::history::SettingDifference| {
            let values = d.values.iter().take(runs.len()).map(|v| excerpt(v, 300));
            [format!("<code>{}</code>", line(&d.name))].into_iter().chain(values).collect()
        };
        found.into_iter().map(row).collect()
    };
    let mut body = String::new();
    if runs.len() > 1 {
        // A setting of a single run is not a difference; it is listed below.
        let shared = |d: &crate::history::SettingDifference| d.values.iter().filter(|v| !v.is_empty()).count() > 1;
        let found: Vec<_> = differences(&known).into_iter().filter(shared).collect();
        body += &match found.is_empty() {
            true => "<p>Settings that these runs share are the same.</p>\n".to_owned(),
            false => table("What differs", &columns, rows(found)),
        };
    }
    // Compared with a run without settings, every setting differs.
    let with_none: Vec<Option<&Settings>> = known.iter().copied().chain([None]).collect();
    let all = rows(differences(&with_none));
    body += &format!("<details><summary>All {} settings</summary>\n{}</details>\n", all.len(), table("", &columns, all));
    let intro = "As the runs' config.toml has them; names are those of the command line's flags and of the settings file.".into();
    Some(Section { id: "settings", title: "Settings", intro, body })
}

/// Lineage of the runs.
pub(super) fn lineage(runs: &[ReportRun]) -> Option<Section> {
    let files: Vec<_> = runs.iter().map(|run| &run.files).collect();
    let members = family(&files);
    if members.iter().all(|m| m.origin.is_empty()) {
        return None;
    }
    let mut body = String::from("<ul class=\"tree\">\n");
    for m in &members {
        let run = &runs[m.run];
        let from = if m.origin.is_empty() { String::new() } else { format!(" <small>from {}</small>", line(&m.origin)) };
        let merges = run.history().pins.iter().filter(|pin| pin.kind == PinKind::Merge).count();
        let merges =
            if merges > 0 { format!(" <small>· {} written</small>", plural(merges as u64, "merge")) } else { String::new() };
        let steps = format!(" <small>· {}</small>", plural(run.history().step, "step"));
        let name = format!("{}<b>{}</b>", dot(run, runs.len()), line(&run.name));
        body += &format!("<li style=\"--depth:{}\">{name}{from}{steps}{merges}</li>\n", m.depth.min(20));
    }
    body += "</ul>\n";
    let intro = "A run that stands below another one began from it: as a fork (run@step), from a merge of its checkpoints, or in the next stage.";
    Some(Section { id: "lineage", title: "Lineage", intro: intro.into(), body })
}
