//! The start of the page: findings in sentences with 95 % intervals, and one line for each run.
//!
//! No value is based on a single batch: rewards and training losses are means over the first and the last tenth of a run's steps.

use super::html::{column, count, escape, line, list, percent, plural, with_code};
use super::run::{ReportRun, merged_loss};
use super::run_facts::{dot, sentence};
use crate::event::{Score, TaskEval};
use crate::history::{Axis, differences};
use crate::stats::{mean, series_interval, t_interval};
use std::collections::BTreeMap;

/// A sentence, and whether it reports an improvement or a deterioration.
struct Finding {
    verdict: Verdict,
    html: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// The interval contains zero.
    Open,
}

impl Verdict {
    /// By the 95 % interval of a difference.
    fn of([low, high]: [f64; 2], lower_is_better: bool) -> Self {
        match (low > 0.0, high < 0.0) {
            (true, _) if lower_is_better => Self::Worse,
            (true, _) => Self::Better,
            (_, true) if lower_is_better => Self::Better,
            (_, true) => Self::Worse,
            _ => Self::Open,
        }
    }

    /// The end of an interval's text.
    fn remark(self) -> &'static str {
        if self == Self::Open { "; the interval includes zero" } else { "" }
    }
}

/// Sentences that are always visible; the others are in a collapsed element.
const VISIBLE: usize = 8;
/// Differing settings that a sentence names.
const NAMED_SETTINGS: usize = 3;

/// Minimum number of values for an interval.
const FEWEST: usize = 5;

/// Scope of the intervals.
const SCOPE: &str = "Each interval is about these runs: the choice of held-out questions, the batches of the steps, or the spread of successive \
                     evaluations. Other seeds may differ by more.";
/// Sections of settings that do not change what is learned.
const WITHOUT_EFFECT: [&str; 4] = ["save", "eval", "merge", "device"];

/// The start of the page; `own` are additional sentences given by the user.
pub(super) fn head(runs: &[ReportRun], own: &[String]) -> String {
    let mut found = methods(runs);
    found.extend(validations(runs));
    found.extend(runs.iter().filter_map(merges));
    found.extend(runs.iter().filter_map(progress));
    let item = |f: &Finding| {
        let class = match f.verdict {
            Verdict::Better => " class=\"better\"",
            Verdict::Worse => " class=\"worse\"",
            Verdict::Open => "",
        };
        format!("<li{class}>{}</li>\n", f.html)
    };
    let mut out = String::new();
    if !found.is_empty() || !own.is_empty() {
        let own_items = own.iter().map(|text| format!("<li class=\"said\">{}</li>\n", with_code(&escape(text))));
        let (visible, more) = found.split_at(VISIBLE.saturating_sub(own.len()).min(found.len()));
        let items: String = own_items.chain(visible.iter().map(item)).collect();
        out += &format!("<ul class=\"findings\">\n{items}</ul>\n");
        if !more.is_empty() {
            let (summary, items) = (plural(more.len() as u64, "further finding"), more.iter().map(item).collect::<String>());
            out += &format!(
                "<details class=\"more\"><summary>{summary}</summary>\n<ul class=\"findings\">\n{items}</ul>\n</details>\n"
            );
        }
    }
    if !found.is_empty() {
        out += &format!("<p class=\"hint\">{SCOPE}</p>\n");
    }
    let lines: String = runs.iter().map(|run| format!("<li>{}{}</li>\n", dot(run, runs.len()), sentence(run))).collect();
    out += &format!("<ul class=\"runs\">\n{lines}</ul>\n");
    crate::number_format::keep_percent_signs(&out)
}

/// Runs of reinforcement learning compared with one that has the same questions and sampling: plain GRPO if there is one, else the first.
fn methods(runs: &[ReportRun]) -> Vec<Finding> {
    let mut firsts: Vec<(&ReportRun, &TaskEval)> = Vec::new();
    let mut found = Vec::new();
    let is_plain = |run: &ReportRun| {
        let grpo = run.files.settings.as_ref().and_then(|s| s.grpo.as_ref());
        grpo.is_some_and(|grpo| grpo.reweight_alpha == 0.0 && grpo.lopti_eta().is_none())
    };
    let mut ordered: Vec<&ReportRun> = runs.iter().collect();
    ordered.sort_by_key(|run| !is_plain(run));
    for (run, evaluation) in ordered.into_iter().filter_map(|run| Some((run, run.history().held_out()?))) {
        let is_same = |(first, other): &&(&ReportRun, &TaskEval)| {
            other.temperature.total_cmp(&evaluation.temperature).is_eq()
                && other.all.count == evaluation.all.count
                && task(first) == task(run)
        };
        match firsts.iter().find(is_same) {
            Some((first, other)) => found.push(method_comparison((run, evaluation), (first, other))),
            None => firsts.push((run, evaluation)),
        }
    }
    found
}

fn method_comparison((run, evaluation): (&ReportRun, &TaskEval), (first, other): (&ReportRun, &TaskEval)) -> Finding {
    let (difference, interval) = difference(&other.all, &evaluation.all);
    let [own, its] = [evaluation, other].map(|e| percent(e.all.accuracy));
    let between = compared_runs(run, first);
    share_difference(
        &format!("{between}: {own} of held-out questions answered correctly ({}), {its} with the other", evaluation.decoding()),
        difference,
        interval,
    )
}

fn task(run: &ReportRun) -> Option<&crate::config::TaskSettings> {
    run.files.settings.as_ref()?.task.as_ref()
}

/// A difference of shares as a sentence, with its verdict.
fn share_difference(what: &str, difference: f64, interval: [f64; 2]) -> Finding {
    let verdict = Verdict::of(interval, false);
    let ([low, high], open) = (interval.map(points), verdict.remark());
    let html = format!("{what}: {} percentage points (95 % interval {low} to {high}{open}).", points(difference));
    Finding { verdict, html }
}

/// 0.042 as +4.2.
fn points(share: f64) -> String {
    // As many decimals as the sign needs: an interval's end that is not zero must not look like zero.
    let mut texts = (1..4).map(|decimals| format!("{:+.decimals$}", 100.0 * share).replace('-', "−"));
    texts.find(|text| !is_zero(text)).unwrap_or_else(|| "0".into())
}

/// Whether a written number has no digit but zeros.
fn is_zero(text: &str) -> bool {
    !text.contains(|c| ('1'..='9').contains(&c))
}

/// Two runs, and the settings of their training in which they differ.
fn compared_runs(run: &ReportRun, first: &ReportRun) -> String {
    let names = [run, first].map(|run| format!("<b>{}</b>", line(&run.name)));
    let settings = [run, first].map(|run| run.files.settings.as_ref());
    let mut differ = differences(&settings);
    differ.retain(|d| d.name.split_once('.').is_none_or(|(section, _)| !WITHOUT_EFFECT.contains(&section)));
    let name = |d: &crate::history::SettingDifference| {
        let name = d.name.split_once('.').map_or(d.name.as_str(), |(_, name)| name);
        format!("<code>{}</code>", line(name))
    };
    let mut named: Vec<String> = differ.iter().take(NAMED_SETTINGS).map(name).collect();
    match differ.len().saturating_sub(NAMED_SETTINGS) {
        0 => {}
        more => named.push(format!("{more} more")),
    }
    let other = if named.is_empty() { String::new() } else { format!(" (different: {})", list(&named)) };
    format!("{} against {}{other}", names[0], names[1])
}

/// Newcombe's interval of the difference b - a of two shares with Wilson intervals (method 10 of Newcombe 1998); on the same questions it
/// is conservative.
fn difference(a: &Score, b: &Score) -> (f64, [f64; 2]) {
    let (p, q) = (a.accuracy, b.accuracy);
    let ([low_a, high_a], [low_b, high_b]) = (a.interval, b.interval);
    let d = q - p;
    (d, [d - (q - low_b).hypot(high_a - p), d + (high_b - q).hypot(p - low_a)])
}

/// Runs on text or rows compared with the first run that has the same validation data, at the evaluations of the second half of both.
fn validations(runs: &[ReportRun]) -> Vec<Finding> {
    let mut firsts: Vec<&ReportRun> = Vec::new();
    let mut found = Vec::new();
    for run in runs.iter().filter(|run| run.history().stage() != "grpo" && validation_data(run).is_some()) {
        match firsts.iter().find(|first| validation_data(first) == validation_data(run)) {
            Some(first) => found.extend(lower_loss(run, first)),
            None => firsts.push(run),
        }
    }
    found
}

/// Everything that decides the tokens of an evaluation.
fn validation_data(run: &ReportRun) -> Option<(u64, u64, &crate::config::DataSettings, usize, u64)> {
    let (started, settings) = (run.history().started.as_ref()?, run.files.settings.as_ref()?);
    Some((started.train_tokens, started.val_tokens, &settings.data, settings.train.seq_len, settings.eval.eval_tokens))
}

fn lower_loss(run: &ReportRun, first: &ReportRun) -> Option<Finding> {
    let evals = |run: &ReportRun| -> BTreeMap<u64, f64> {
        let h = run.history();
        let Some(curve) = h.curves.get("eval_loss") else { return BTreeMap::new() };
        let at = |row: &u32| h.clock.at(Axis::Steps, *row) as u64;
        curve.rows().iter().map(at).zip(curve.values().iter().copied()).filter(|(_, loss)| loss.is_finite()).collect()
    };
    let (own, others) = (evals(run), evals(first));
    let pairs: Vec<(f64, f64)> = own.iter().filter_map(|(step, loss)| Some((*loss, *others.get(step)?))).collect();
    let late = &pairs[pairs.len() / 2..];
    let (mean, half) = mean_and_half(series_interval, &late.iter().map(|(own, other)| own - other).collect::<Vec<_>>())?;
    let (a, b) = late.last()?;
    let ends = column(&[*a, *b]);
    let what = format!(
        "{}: validation loss {} and {} at their last common evaluation; over the last {} evaluations,",
        compared_runs(run, first),
        ends[0],
        ends[1],
        late.len()
    );
    Some(loss_difference(&what, mean, half))
}

/// A difference of losses as a sentence, with its verdict.
fn loss_difference(what: &str, mean: f64, half: f64) -> Finding {
    let verdict = Verdict::of([mean - half, mean + half], true);
    let ([mean, low, high], open) = (signed(mean, half), verdict.remark());
    Finding { verdict, html: format!("{what} {mean} on average (95 % interval {low} to {high}{open}).") }
}

/// The merge compared with the run's own weights, on the same held-out tokens at each evaluation of the run's second half.
fn merges(run: &ReportRun) -> Option<Finding> {
    let h = run.history();
    let pairs: Vec<f64> = h.merges.iter().filter_map(|m| Some(merged_loss(m)? - m.eval_loss?)).collect();
    let pairs: Vec<f64> = pairs.into_iter().filter(|d| d.is_finite()).collect();
    let late = &pairs[pairs.len() / 2..];
    let (mean, half) = mean_and_half(series_interval, late)?;
    let verdict = Verdict::of([mean - half, mean + half], true);
    let words = match verdict {
        Verdict::Better => "the merge has a lower validation loss than the run's own weights",
        Verdict::Worse => "the merge has a higher validation loss than the run's own weights",
        Verdict::Open => "merge and own weights cannot be told apart by their validation loss",
    };
    let [mean, low, high] = signed(mean, half);
    let html = format!(
        "<b>{}</b>: over its last {} evaluations {words}: {mean} on average (95 % interval {low} to {high}).",
        line(&run.name),
        late.len()
    );
    Some(Finding { verdict, html })
}

/// The end of a run compared with its start.
fn progress(run: &ReportRun) -> Option<Finding> {
    let h = run.history();
    let name = format!("<b>{}</b>", line(&run.name));
    if let Some(last) = h.held_out() {
        let first = h.task_evals.iter().find(|e| e.temperature.total_cmp(&last.temperature).is_eq() && e.step < last.step)?;
        let (d, interval) = difference(&first.all, &last.all);
        let what = format!(
            "{name}: {} of held-out questions answered correctly at step {} ({}), {} at step {}",
            percent(first.all.accuracy),
            count(first.step),
            last.decoding(),
            percent(last.all.accuracy),
            count(last.step)
        );
        return Some(share_difference(&what, d, interval));
    }
    let metric = if h.stage() == "grpo" { "reward" } else { "loss" };
    let (what, lower) = if h.stage() == "grpo" { ("mean reward", false) } else { ("training loss", true) };
    let (first, last) = (h.first_tenth(metric)?, h.last_tenth(metric)?);
    // Given the weights before it, the loss or reward of a step varies by its batch alone, so that steps count as independent; the trend
    // within a tenth makes the interval wider.
    let ((a, half_a), (b, half_b)) = (mean_and_half(t_interval, first)?, mean_and_half(t_interval, last)?);
    let (d, half) = (b - a, half_a.hypot(half_b));
    let verdict = Verdict::of([d - half, d + half], lower);
    let (ends, [d, low, high], open) = (column(&[a, b]), signed(d, half), verdict.remark());
    let html = format!(
        "{name}: {what} {} over the first {} steps, {} over the last: {d} (95 % interval {low} to {high}{open}).",
        ends[0],
        count(first.len() as u64),
        ends[1]
    );
    Some(Finding { verdict, html })
}

/// Mean of at least [`FEWEST`] values, and half of its 95 % interval; NaN is ignored.
fn mean_and_half(interval: fn(&[f64]) -> Option<[f64; 2]>, values: &[f64]) -> Option<(f64, f64)> {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let [_, high] = interval(&finite).filter(|_| finite.len() >= FEWEST)?;
    Some((mean(&finite), high - mean(&finite)))
}

/// A difference and the ends of its interval, with their signs and common decimals: as many as show two digits of the interval's half, and
/// the sign of each end.
fn signed(difference: f64, half: f64) -> [String; 3] {
    let values = [difference, difference - half, difference + half];
    if half == 0.0 {
        let mut texts = column(&values).into_iter();
        return values.map(|v| format!("{}{}", if v > 0.0 { "+" } else { "" }, texts.next().unwrap_or_default()));
    }
    let least = (1.0 - half.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let written = |decimals: usize| values.map(|v| format!("{v:+.decimals$}").replace('-', "−"));
    let shows_signs = |texts: &[String; 3]| !texts[1..].iter().any(|text| is_zero(text));
    let mut texts = (least..=12).map(written).find(shows_signs).unwrap_or_else(|| written(least));
    texts.iter_mut().filter(|text| is_zero(text)).for_each(|text| *text = text.trim_start_matches(['+', '−']).to_owned());
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_match_published_tables() {
        let (mean, half) = mean_and_half(t_interval, &[3.0, 1.0, 4.0, f64::NAN, 2.0, 5.0]).unwrap();
        // Standard deviation sqrt(2.5), standard error sqrt(0.5).
        assert!((mean - 3.0).abs() < 1e-12 && (half / (2.776 * 0.5f64.sqrt()) - 1.0).abs() < 0.02, "{mean} {half}");
        assert!(mean_and_half(t_interval, &[1.0, 2.0]).is_none());
        // Newcombe 1998, table II, example (a): 56/70 against 48/80, difference 0.2, interval 0.0524 to 0.3339.
        let score = |accuracy, interval| Score { accuracy, interval, ..Score::default() };
        let (d, [low, high]) = difference(&score(0.6, [0.4904, 0.7004]), &score(0.8, [0.6916, 0.8768]));
        assert!((d - 0.2).abs() < 1e-12 && (low - 0.0524).abs() < 1e-3 && (high - 0.3339).abs() < 1e-3, "{low} {high}");
    }

    #[test]
    fn differences_have_the_decimals_of_their_interval() {
        assert_eq!(signed(0.001473, 0.1485), ["0.00", "−0.15", "+0.15"]);
        assert_eq!(signed(-0.05863, 0.03812), ["−0.059", "−0.097", "−0.021"]);
        assert_eq!(signed(-1.838, 0.2), ["−1.84", "−2.04", "−1.64"]);
        // An end that is not zero does not look like zero.
        assert_eq!(signed(0.1003, 0.1), ["+0.1003", "+0.0003", "+0.2003"]);
        assert_eq!(signed(-250.0, 40.0), ["−250", "−290", "−210"]);
    }

    #[test]
    fn differences_of_shares_are_points_with_a_verdict() {
        let better = share_difference("x", 0.042, [0.01, 0.074]);
        assert_eq!(
            (better.verdict, better.html.as_str()),
            (Verdict::Better, "x: +4.2 percentage points (95 % interval +1.0 to +7.4).")
        );
        assert_eq!(share_difference("x", -0.1, [-0.2, -0.01]).verdict, Verdict::Worse);
        let open = share_difference("x", 0.0, [-0.05, 0.05]);
        assert!(
            open.verdict == Verdict::Open && open.html.contains(": 0 percentage points") && open.html.contains("includes zero")
        );
    }
}
