//! The demo and every lesson with made-up results: all combinations of better, worse and inconclusive are shown, and every guess is answered.

use super::facts::{Facts, StepOutcome};
use super::library::{demo, lesson, lesson_names};
use super::player::{GuessReply, checked, chosen};
use super::script::{ConditionalText, Story};
use super::templates::{self, FactName, fact_names, names_of_expression};
use super::{ComparisonVerdict, PairedDifference};
use crate::rng::Rng;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const VERDICTS: [ComparisonVerdict; 3] = [ComparisonVerdict::Better, ComparisonVerdict::Worse, ComparisonVerdict::Inconclusive];

fn texts_in(story: &Story) -> impl Iterator<Item = &ConditionalText> {
    story.scenes.iter().flat_map(|s| s.question.iter().flat_map(|q| &q.answer).chain(&s.results).chain(&s.closing))
}

/// All facts that the texts and conditions of a story name: step and path.
fn facts_named(story: &Story) -> BTreeSet<(String, String)> {
    let steps: BTreeSet<&str> = story.steps().map(|s| s.name.as_str()).collect();
    let mut found: Vec<FactName> = Vec::new();
    for conditional in texts_in(story) {
        let texts =
            [&conditional.say, &conditional.otherwise, &conditional.better, &conditional.worse, &conditional.inconclusive];
        texts.into_iter().flatten().for_each(|text| found.extend(fact_names(text).unwrap()));
        conditional.when.iter().for_each(|text| found.extend(names_of_expression(text).unwrap()));
    }
    let cells = story.scenes.iter().flat_map(|s| &s.table).flat_map(|t| t.rows.iter().flatten());
    cells.for_each(|cell| found.extend(fact_names(cell).unwrap()));
    let reasons = story.scenes.iter().flat_map(|s| &s.question).flat_map(|q| &q.reasons);
    reasons.for_each(|text| found.extend(fact_names(text).unwrap()));
    let rights = story.scenes.iter().flat_map(|s| &s.question).flat_map(|q| &q.right);
    rights.chain(story.values.values()).for_each(|text| found.extend(names_of_expression(text).unwrap()));
    found.into_iter().filter(|n| steps.contains(n.root.as_str())).map(|n| (n.root, n.path)).collect()
}

/// Pairs whose difference has this verdict.
fn lists(verdict: ComparisonVerdict, lower_is_better: bool, n: usize) -> [Vec<f64>; 2] {
    let sign = if lower_is_better { -0.1 } else { 0.1 };
    let by = |i: usize| match verdict {
        ComparisonVerdict::Better => sign * (1.0 + 0.1 * (i % 3) as f64),
        ComparisonVerdict::Worse => -sign * (1.0 + 0.1 * (i % 3) as f64),
        ComparisonVerdict::Inconclusive => sign * if i.is_multiple_of(2) { 1.0 } else { -1.0 },
    };
    let before: Vec<f64> = (0..n).map(|i| 0.4 + 0.01 * (i % 5) as f64).collect();
    let after = before.iter().enumerate().map(|(i, b)| b + by(i)).collect();
    [before, after]
}

/// Results of every step: numbers drawn by `case`, and lists that lead to these verdicts. None if the verdicts contradict each other, as
/// where two comparisons share a list.
fn facts(story: &Story, verdicts: &BTreeMap<&str, ComparisonVerdict>, case: u64) -> Option<Facts> {
    let rng = Rng::new(case, "outcomes");
    let mut printed: BTreeMap<&str, Map<String, Value>> = story.steps().map(|s| (s.name.as_str(), Map::new())).collect();
    for (i, (step, path)) in facts_named(story).into_iter().enumerate() {
        let last = path.rsplit('.').next().and_then(|last| last.split('@').next()).unwrap_or_default();
        let is_text = ["text", "cause", "path", "checkpoint"].contains(&last);
        let number = 0.05 + 0.9 * f64::from(rng.uniform(case, i as u64));
        let value = match path.as_str() {
            "rescues" => json!(case % 3),
            _ if is_text => json!("words"),
            _ => json!(number),
        };
        let results = printed.get_mut(step.as_str()).unwrap();
        nested(results, &path, &value);
        results.insert(path, value);
    }
    // Comparisons may share a list: the second one extends the result of the first.
    let mut known: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, comparison) in &story.compare {
        let [before, after] = lists(verdicts[name.as_str()], comparison.lower_is_better, 60);
        let by: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let moved = |list: &[f64], sign: f64| list.iter().zip(&by).map(|(x, by)| x + sign * by).collect();
        let [from, to] = [comparison.before.as_str(), comparison.after.as_str()];
        match (known.get(from).cloned(), known.get(to).cloned()) {
            (None, Some(to)) => known.extend([(from, moved(&to, -1.0))]),
            (list, None) => {
                let list = list.unwrap_or(before);
                known.extend([(to, moved(&list, 1.0)), (from, list)]);
            }
            (Some(_), Some(_)) => {}
        }
    }
    for (place, list) in known {
        let (step, path) = place.split_once('.').unwrap();
        printed.get_mut(step).unwrap().insert(path.to_owned(), json!(list));
    }
    let parameters = story.parameters.iter().map(|(name, p)| (name.clone(), p.value.clone()));
    let mut facts = Facts::new(&story.values, &story.compare, parameters);
    printed.into_iter().for_each(|(step, results)| facts.add(step, StepOutcome::Printed(Value::Object(results))));
    let fits = |(name, wanted): (&&str, &ComparisonVerdict)| facts.difference(name).unwrap().verdict == *wanted;
    verdicts.iter().all(fits).then_some(facts)
}

/// Store a value under the names of a path, each in the one before.
fn nested(results: &mut Map<String, Value>, path: &str, value: &Value) {
    match path.split_once('.') {
        None => {
            results.entry(path).or_insert_with(|| value.clone());
        }
        Some((name, rest)) => {
            if let Value::Object(inner) = results.entry(name).or_insert_with(|| json!({})) {
                nested(inner, rest, value);
            }
        }
    }
}

/// Every combination of verdicts of the story's comparisons.
fn combinations(story: &Story) -> Vec<BTreeMap<&str, ComparisonVerdict>> {
    let mut all: Vec<BTreeMap<&str, ComparisonVerdict>> = vec![BTreeMap::new()];
    for name in story.compare.keys() {
        let mut longer = Vec::new();
        for (known, verdict) in all.iter().flat_map(|known| VERDICTS.map(|verdict| (known, verdict))) {
            let mut with = known.clone();
            with.insert(name, verdict);
            longer.push(with);
        }
        all = longer;
    }
    all
}

#[test]
fn every_outcome_has_a_reply() {
    let stories = lesson_names().map(|name| lesson(name).unwrap()).chain([demo().unwrap()]);
    for story in stories {
        let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (verdicts, case) in combinations(&story).iter().flat_map(|v| (0..4).map(move |case| (v, case))) {
            let Some(facts) = facts(&story, verdicts, case) else { continue };
            for (name, verdict) in verdicts {
                seen.entry(*name).or_default().insert(verdict.name());
            }
            for conditional in texts_in(&story) {
                let Some(text) = chosen(conditional, &facts).unwrap_or_else(|e| panic!("{}: {e:#}", story.name)) else {
                    continue;
                };
                let filled = templates::fill(text, &facts).unwrap_or_else(|e| panic!("{}: {e:#}", story.name));
                let is_infinite = filled.split(|c: char| !c.is_alphanumeric()).any(|word| word == "inf");
                let is_odd = ["no number", "{{", "--0", "+-", "rose by -", "sank by -", "fell by -", "lower by -", "higher by -"]
                    .iter()
                    .any(|part| filled.contains(part));
                assert!(!is_infinite && !is_odd, "{}: {filled}", story.name);
            }
            for cell in story.scenes.iter().flat_map(|s| &s.table).flat_map(|t| t.rows.iter().flatten()) {
                templates::fill(cell, &facts).unwrap_or_else(|e| panic!("{}: {e:#}", story.name));
            }
            for question in story.scenes.iter().filter_map(|s| s.question.as_ref()).filter(|q| !q.choices.is_empty()) {
                let replies: Vec<_> =
                    (0..question.choices.len()).map(|i| checked(question, i, &facts).unwrap().unwrap()).collect();
                assert!(replies.iter().filter(|r| r.is_right).count() <= 1, "{}: {}", story.name, question.ask);
                // A wrong guess is answered with the reason, except where the run leaves the question open.
                let is_answered = |reply: &GuessReply| {
                    let reason = reply.text.strip_prefix("Not quite. ").unwrap_or_default();
                    reply.is_right
                        || reply.text == "This run does not decide the question."
                        || reason.len() > 20 && !reason.contains('{')
                };
                assert!(replies.iter().all(is_answered), "{}: {}: {replies:?}", story.name, question.ask);
            }
        }
        // Every outcome of a comparison has been shown.
        assert!(seen.len() == story.compare.len() && seen.values().all(|of| of.len() == 3), "{}: {seen:?}", story.name);
    }
}

#[test]
fn the_lists_have_their_verdicts() {
    for (verdict, lower_is_better) in VERDICTS.into_iter().flat_map(|v| [(v, false), (v, true)]) {
        let [before, after] = lists(verdict, lower_is_better, 60);
        assert_eq!(PairedDifference::of(&before, &after, lower_is_better).verdict, verdict);
    }
}
