//! Descriptions of the runs: sentences generated from their facts, and a table.

use super::html::{approximate_count, capital, column, count, duration, line, list, number, percent, plural, time};
use super::run::{ReportRun, merged_loss};
use super::section::{Section, table};
use crate::config::{MathKind, TaskKind};
use crate::history::{Axis, FigureBasis, History, RunState, SummaryFigure};

/// A run in two or three sentences, as HTML.
pub(super) fn sentence(run: &ReportRun) -> String {
    let h = run.history();
    let name = format!("<b>{}</b>", line(&run.name));
    let Some(s) = &h.started else {
        return match h.bad_lines {
            0 => format!("{name} has not begun: its log holds no event yet."),
            n => format!("The log of {name} cannot be read: none of its {} is an event.", plural(n as u64, "line")),
        };
    };
    let size = format!("a model of {} parameters", approximate_count(s.parameters));
    let what = match s.stage.as_str() {
        "pretrain" => format!("pre-trains {size} on {} tokens of text", approximate_count(s.train_tokens)),
        "sft" => format!("fine-tunes {size} on {} tokens of examples", approximate_count(s.train_tokens)),
        "grpo" => format!("trains {size} with GRPO on {}{} completions per step", questions(run), count(s.tokens_per_step)),
        other => format!("trains {size} ({})", line(other)),
    };
    let from = s.parent.as_ref().map_or(String::new(), |p| format!(", starting from {}", line(p)));
    let last = match results(h).as_slice() {
        [] => String::new(),
        found => format!(" {}.", capital(&list(found))),
    };
    format!("{name} {what}{from}. {}{last}", ending(run))
}

fn questions(run: &ReportRun) -> String {
    let task = run.files.settings.as_ref().and_then(|s| s.task.as_ref()).map(|t| match t.task {
        TaskKind::Kk => "Knights-and-Knaves puzzles, ",
        TaskKind::Math if t.math == MathKind::Countdown => "countdown problems, ",
        TaskKind::Math => "arithmetic problems, ",
        _ => "questions from a file, ",
    });
    task.unwrap_or_default().into()
}

/// The end of a run, as a sentence.
fn ending(run: &ReportRun) -> String {
    let h = run.history();
    let steps = format!("{} of {} steps", count(h.step), count(h.max_steps()));
    let took = duration(h.seconds());
    match (&h.state, run.files.state_label(run.files.is_live())) {
        (RunState::Finished(f), _) if f.reason == "completed" && f.step == 1 => format!("It made its one step in {took}."),
        (RunState::Finished(f), _) if f.reason == "completed" => format!("It made all {} steps in {took}.", count(f.step)),
        (RunState::Finished(f), _) => format!("It was {} after {steps}, in {took}.", line(&f.reason)),
        (RunState::Failed(text), _) => format!("It failed after {steps}: {}.", line(text.trim_end_matches('.'))),
        (_, "running") => format!("It is still running: {steps} so far, in {took}."),
        (_, "paused") => format!("It is paused after {steps}, {took} of training."),
        _ => format!("It was cut off after {steps}, {took} of training: the log does not tell why."),
    }
}

/// Results, as parts of a sentence: means of the first and last steps, and held-out results with their step.
fn results(h: &History) -> Vec<String> {
    let mut out = Vec::new();
    let mut mean = |metric: &str, name: &str| {
        let Some((late, of_late)) = h.newest_mean(metric).filter(|(_, n)| *n > 1) else { return };
        out.push(match h.oldest_mean(metric) {
            Some((early, of_early)) => {
                let (ends, [first, last]) = (column(&[early, late]), [of_early, of_late].map(|n| count(n as u64)));
                format!("{name} went from {} over its first {first} steps to {} over its last {last}", ends[0], ends[1])
            }
            None => format!("{name} is {} on average", number(late)),
        });
    };
    if h.stage() == "grpo" {
        mean("reward", "the mean reward");
        if let Some(e) = h.held_out() {
            let [low, high] = e.all.interval.map(percent);
            let share = percent(e.all.accuracy);
            out.push(format!(
                "{share} of the held-out questions are answered correctly at step {} ({}, 95 % interval {low} to {high})",
                count(e.step),
                e.decoding()
            ));
        }
    } else {
        mean("loss", "the training loss");
        let last = h.curves.get("eval_loss").and_then(|c| Some((*c.rows().last()?, c.last().filter(|v| v.is_finite())?)));
        if let Some((row, loss)) = last {
            let step = h.clock.at(Axis::Steps, row).max(0.0) as u64;
            out.push(format!("the validation loss is {} at step {}", number(loss), count(step)));
        }
    }
    if let Some((step, merged, raw)) = best_merge(h) {
        let losses = column(&[merged, raw]);
        out.push(format!(
            "the best merge, at step {}, has a validation loss of {} where the run's own weights have {}",
            count(step),
            losses[0],
            losses[1]
        ));
    }
    if !h.rescues.is_empty() {
        out.push(format!(
            "it diverged and was rescued {}, which discarded {}",
            times(h.rescues.len()),
            plural(h.discarded_steps(), "step")
        ));
    }
    out
}

fn times(n: usize) -> String {
    match n {
        1 => "once".into(),
        2 => "twice".into(),
        n => format!("{n} times"),
    }
}

/// Step, merged loss and raw loss of the best merge.
fn best_merge(h: &History) -> Option<(u64, f64, f64)> {
    let all = h.merges.iter().filter_map(|m| Some((m.step, merged_loss(m)?, m.eval_loss?)));
    all.filter(|(_, merged, raw)| merged.is_finite() && raw.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// A table of facts with a column per run.
pub(super) fn facts(runs: &[ReportRun]) -> Section {
    let mut columns = vec![String::new()];
    columns.extend(runs.iter().map(|run| format!("{}{}", dot(run, runs.len()), line(&run.name))));
    let mean = |metric: &'static str, of_policy: bool| {
        move |run: &ReportRun| {
            let of_stage = (run.history().stage() == "grpo") == of_policy;
            let (value, n) = run.history().newest_mean(metric).filter(|(_, n)| of_stage && *n > 1)?;
            Some(format!("{} (mean of the last {})", number(value), plural(n as u64, "step")))
        }
    };
    type Fact<'a> = (&'a str, Says);
    let rows: Vec<Fact> = vec![
        ("state", Box::new(|t| Some(t.files.state_label(t.files.is_live()).to_owned()))),
        ("stage", started(|s| stage(&s.stage))),
        ("began from", Box::new(|t| t.history().started.as_ref()?.parent.as_ref().map(|p| line(p)))),
        ("parameters", started(|s| count(s.parameters))),
        ("training tokens in the data", started(|s| if s.train_tokens > 0 { count(s.train_tokens) } else { String::new() })),
        ("steps", Box::new(|t| Some(format!("{} of {}", count(t.history().step), count(t.history().max_steps()))))),
        ("tokens seen", Box::new(|t| Some(t.history().num_tokens()).filter(|n| *n > 0).map(count))),
        ("time of training", Box::new(|t| Some(t.history().seconds()).filter(|s| *s > 0.0).map(duration))),
        ("training loss", Box::new(mean("loss", false))),
        ("validation loss", Box::new(|t| t.history().figures().iter().find(|f| f.name == "validation loss").map(held_out))),
        ("validation loss, best merge", Box::new(|t| best_merge(t.history()).map(|m| number(m.1)))),
        ("reward", Box::new(mean("reward", true))),
        ("held-out accuracy, greedy", Box::new(|t| evaluation(t.history(), true))),
        ("held-out accuracy, sampled", Box::new(|t| evaluation(t.history(), false))),
        ("rescues", Box::new(|t| Some(t.history().rescues.len()).filter(|n| *n > 0).map(|n| n.to_string()))),
        ("steps discarded by rescues", Box::new(|t| Some(t.history().discarded_steps()).filter(|n| *n > 0).map(count))),
        ("adapter", started(|s| line(&s.adapter))),
        ("driver", started(|s| line(&s.driver))),
        ("lehr", started(|s| line(&s.version))),
        ("newest start", Box::new(|t| time(t.history().started.as_ref()?.time))),
        ("unreadable lines of the log", Box::new(|t| Some(t.history().bad_lines).filter(|n| *n > 0).map(|n| n.to_string()))),
    ];
    let mut body = Vec::new();
    for (name, value) in &rows {
        let values: Vec<String> = runs.iter().map(|run| value(run).unwrap_or_default()).collect();
        if values.iter().any(|v| !v.is_empty()) {
            body.push([(*name).to_owned()].into_iter().chain(values).collect());
        }
    }
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    Section { id: "facts", title: "Runs in full", intro: String::new(), body: table("", &columns, body) }
}

/// A held-out result and its step.
fn held_out(figure: &SummaryFigure) -> String {
    match figure.of {
        FigureBasis::Step(step) => format!("{} at step {}", number(figure.value), count(step)),
        FigureBasis::Steps(_) => number(figure.value),
    }
}

/// The newest evaluation of a kind, with its interval.
fn evaluation(h: &History, greedy: bool) -> Option<String> {
    let evaluation = h.task_evals.iter().rev().find(|e| (e.temperature == 0.0) == greedy && e.all.accuracy.is_finite())?;
    let ([low, high], accuracy) = (evaluation.all.interval, evaluation.all.accuracy);
    Some(format!("{} ({} to {}) at step {}", percent(accuracy), percent(low), percent(high), count(evaluation.step)))
}

/// The value of a fact for a run.
type Says = Box<dyn Fn(&ReportRun) -> Option<String>>;

fn started(value: impl Fn(&crate::event::Started) -> String + 'static) -> Says {
    Box::new(move |run| run.history().started.as_ref().map(&value))
}

pub(super) fn stage(stage: &str) -> String {
    match stage {
        "pretrain" => "pre-training".into(),
        "sft" => "fine-tuning".into(),
        "grpo" => "reinforcement learning (GRPO)".into(),
        other => line(other),
    }
}

/// The run's colour, if there are several.
pub(super) fn dot(run: &ReportRun, of: usize) -> String {
    if of < 2 { String::new() } else { format!("<i class=\"dot\" style=\"--c:var(--s{})\"></i>", run.hue) }
}
