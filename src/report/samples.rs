//! Generated text: samples over time, and completions with every token coloured by its numbers.

use super::html::{count, escape, excerpt, line, number, plural};
use super::run::ReportRun;
use super::run_facts::dot;
use super::section::Section;
use crate::event::{Completion, Sample};
use anyhow::Result;
use std::fmt::Write as _;

/// Maximum samples per run.
const MOST_SAMPLES: usize = 12;
/// Maximum characters of a sample, a prompt, an answer.
const MOST_CHARACTERS: usize = 1500;
/// Maximum questions of a step, completions of a question, tokens of a completion.
const MOST_GROUPS: usize = 2;
const MOST_COMPLETIONS: usize = 4;
const MOST_TOKENS: usize = 300;

/// Indices into a list of `n`: the first, the last, and evenly spaced ones between.
fn evenly_spaced(n: usize, most: usize) -> Vec<usize> {
    match (n, most) {
        (0, _) | (_, 0) => Vec::new(),
        (n, most) if n <= most => (0..n).collect(),
        (_, 1) => vec![n - 1],
        (n, most) => (0..most).map(|i| i * (n - 1) / (most - 1)).collect(),
    }
}

/// Samples generated during training.
pub(super) fn samples(runs: &[ReportRun]) -> Option<Section> {
    let mut body = String::new();
    for run in runs {
        let all = &run.history().samples;
        if all.is_empty() {
            continue;
        }
        if runs.len() > 1 {
            body += &format!("<h3>{}{}</h3>\n", dot(run, runs.len()), line(&run.name));
        }
        let picked = evenly_spaced(all.len(), MOST_SAMPLES);
        picked.iter().for_each(|i| body += &sample(&all[*i]));
        if picked.len() < all.len() {
            body += &format!("<p class=\"note\">{} of {} samples, evenly over the run.</p>\n", picked.len(), all.len());
        }
    }
    let colored = body.contains("data-n=");
    let intro = match colored {
        true => {
            "The same model, asked at different times. What it was given is grey; the colour of a token is the probability that it had."
        }
        false => "The same model, asked at different times. What it was given is grey.",
    };
    let legend = if colored { LEGEND } else { "" };
    (!body.is_empty()).then(|| Section {
        id: "samples",
        title: "Samples over time",
        intro: intro.into(),
        body: legend.to_owned() + &body,
    })
}

fn sample(s: &Sample) -> String {
    let how = match s.temperature {
        None => String::new(),
        Some(0.0) => ", greedy".into(),
        Some(t) => format!(", temperature {}", signed(t)),
    };
    let mut out = format!(
        "<div class=\"sample\"><h4>step {}{how}</h4><p class=\"said tokens\" tabindex=\"0\" dir=\"auto\"><span class=\"given\">{}{}</span>",
        count(s.step),
        excerpt(&s.prompt, MOST_CHARACTERS),
        if s.chat { "\n" } else { "" }
    );
    match s.pieces.is_empty() {
        true => out += &excerpt(&s.text, MOST_CHARACTERS),
        false => tokens(&s.pieces, [&s.logprobs, &[], &[]], &mut out),
    }
    out + "</p></div>\n"
}

/// Completions of reinforcement learning: a few groups of the first, the middle and the last stored step.
///
/// # Errors
/// samples.jsonl cannot be read.
pub(super) fn completions(runs: &[ReportRun]) -> Result<Option<Section>> {
    let mut body = String::new();
    // Fewer per run if there are many.
    let most_steps = if runs.len() > 4 { 2 } else { 3 };
    for run in runs {
        let log = &run.files.completions;
        let steps = log.steps();
        if steps.is_empty() {
            continue;
        }
        if runs.len() > 1 {
            body += &format!("<h3>{}{}</h3>\n", dot(run, runs.len()), line(&run.name));
        }
        let picked = evenly_spaced(steps.len(), most_steps);
        for (n, &at) in picked.iter().enumerate() {
            let found = log.read(&steps[at])?;
            let open = if n + 1 == picked.len() { " open" } else { "" };
            body += &format!(
                "<details{open}><summary>step {} <small>{}, mean reward {}</small></summary>\n",
                count(steps[at].step),
                plural(steps[at].count as u64, "completion"),
                number(steps[at].reward)
            );
            body += &groups(&found);
            body += "</details>\n";
        }
        if picked.len() < steps.len() {
            body += &format!("<p class=\"note\">{} of {} steps whose completions were kept.</p>\n", picked.len(), steps.len());
        }
    }
    let intro = format!(
        "What the model answered, token by token. The colour is the probability that the token had when it was drawn; touch a token, or \
         move through a completion with the arrow keys, for its exact numbers. At most {MOST_GROUPS} questions a step with \
         {MOST_COMPLETIONS} completions each are shown."
    );
    Ok((!body.is_empty()).then(|| Section { id: "completions", title: "Completions", intro, body: LEGEND.to_owned() + &body }))
}

/// Filled by the script, which can also colour by other numbers.
const LEGEND: &str = "<div class=\"shade\"><span class=\"scale p\"><span>0</span><i class=\"ramp\"></i><span>1</span></span> \
                      <output aria-live=\"polite\">probability of the token</output></div>\n";

fn groups(all: &[Completion]) -> String {
    let mut order: Vec<u32> = Vec::new();
    for c in all {
        if !order.contains(&c.group) {
            order.push(c.group);
        }
    }
    let mut out = String::new();
    for group in order.iter().take(MOST_GROUPS) {
        let members: Vec<&Completion> = all.iter().filter(|c| c.group == *group).collect();
        let Some(first) = members.first() else { continue };
        let _ = writeln!(
            out,
            "<div class=\"group\"><p class=\"question\" dir=\"auto\"><b>Question{}</b> {}</p><p class=\"question\" dir=\"auto\"><b>Right \
             answer</b> {}</p><div class=\"answers\">",
            if first.level > 0 { format!(" (level {})", first.level) } else { String::new() },
            excerpt(&first.prompt, MOST_CHARACTERS),
            excerpt(&first.answer, MOST_CHARACTERS)
        );
        members.iter().take(MOST_COMPLETIONS).for_each(|c| completion(c, &mut out));
        out += "</div>";
        if members.len() > MOST_COMPLETIONS {
            let _ = writeln!(out, "<p class=\"note\">{MOST_COMPLETIONS} of {} completions.</p>", members.len());
        }
        out += "</div>\n";
    }
    if order.len() > MOST_GROUPS {
        let _ = writeln!(out, "<p class=\"note\">{MOST_GROUPS} of {} questions.</p>", order.len());
    }
    out
}

fn completion(c: &Completion, out: &mut String) {
    let parts: Vec<String> = c.rewards.iter().take(8).map(|(name, v)| format!("{} {}", line(name), signed(*v))).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let cut = if c.truncated { ", cut at the limit" } else { "" };
    let verdict = if c.correct { "<span class=\"right\">✓ right</span>" } else { "<span class=\"wrong\">✗</span>" };
    let reason = if c.reason.is_empty() { String::new() } else { format!(" · {}", excerpt(&c.reason, 300)) };
    let _ = write!(
        out,
        "<div class=\"answer\"><p class=\"verdict\">{verdict} <b>reward {}</b>{parts}{cut}{reason}</p><p class=\"tokens\" tabindex=\"0\" dir=\"auto\">",
        signed(c.reward)
    );
    tokens(&c.pieces, [&c.logprobs, &c.entropy, &c.advantages], out);
    *out += "</p></div>\n";
}

/// Tokens with their numbers, in the script's order: log-probability, entropy, advantage.
fn tokens(pieces: &[String], numbers: [&[f32]; 3], out: &mut String) {
    for (i, piece) in pieces.iter().enumerate().take(MOST_TOKENS) {
        let [logprob, entropy, advantage] = numbers.map(|values| values.get(i).copied().filter(|v| v.is_finite()));
        let text = match piece.is_empty() {
            false => cut_piece(piece),
            true if i + 1 == pieces.len() => "<span class=\"end\">⟨end⟩</span>".to_owned(),
            // It completes no character.
            true => "<span class=\"end\">⋯</span>".to_owned(),
        };
        let shade =
            logprob.map_or(String::new(), |l| format!(" class=\"p{}\"", (f64::from(l).exp() * 10.0).clamp(0.0, 9.0) as u8));
        let numbers = [logprob, entropy, advantage].map(|v| v.map_or_else(String::new, |v| short(f64::from(v))));
        let _ = write!(out, "<b{shade} data-n=\"{}\">{text}</b>", numbers.join(" "));
    }
    if pieces.len() > MOST_TOKENS {
        let _ = write!(out, " <span class=\"cut\">… {} more tokens</span>", count((pieces.len() - MOST_TOKENS) as u64));
    }
}

fn cut_piece(piece: &str) -> String {
    // A line break alone would be invisible, and so would its colour.
    let piece = piece.replace('\n', "↵\n");
    if piece.chars().count() > 80 { excerpt(&piece, 80) } else { escape(&piece) }
}

/// A reward, which is often a round number.
fn signed(v: f64) -> String {
    if v.is_finite() { short(v).replace('-', "−") } else { number(v) }
}

/// Four digits, for the script.
fn short(v: f64) -> String {
    let text = format!("{v:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_first_the_last_and_between() {
        assert_eq!(evenly_spaced(0, 3), [0; 0]);
        assert_eq!(evenly_spaced(2, 3), [0, 1]);
        assert_eq!(evenly_spaced(9, 3), [0, 4, 8]);
        assert_eq!(evenly_spaced(9, 1), [8]);
    }

    #[test]
    fn a_token_with_markup_is_text_and_numbers_may_lack() {
        let c = Completion {
            pieces: vec!["</script><b>".into(), "\u{202e}x".into(), String::new()],
            logprobs: vec![0.55f32.ln(), f32::NAN],
            ..Completion::default()
        };
        let mut out = String::new();
        completion(&c, &mut out);
        assert!(out.contains("<b class=\"p5\" data-n=\"-0.5978  \">&lt;/script&gt;&lt;b&gt;</b>"), "{out}");
        assert!(out.contains("<b data-n=\"  \">\\u{202e}x</b><b data-n=\"  \"><span class=\"end\">⟨end⟩</span></b>"), "{out}");
    }
}
