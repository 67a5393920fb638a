//! `lehr grpo` and `lehr eval --task` with an external grader: one that fails on a completion, and one that has ended.

use crate::common::{CommandOutput, Place, json_lines, kind, run, step_numbers};
use crate::reinforce::runs::{base, weights};
use lehr::run_folder::checkpoints;
use lehr::vfs::RealFs;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;

/// A grader. Its reward is a function of question and completion; `seen` counts the lines it has read over all of its starts. `fault` is run
/// with each line, before the reward is printed, with its number in `$n` and the graded text, without the id, in `$rest`.
fn grader(place: &Place, fault: &str) {
    let script = format!(
        r#"#!/bin/sh
while read -r line; do
  echo x >> seen
  n=$(wc -l < seen)
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  rest=$(printf '%s' "$line" | sed 's/"id":[0-9]*//')
  {fault}
  echo "{{\"id\": $id, \"reward\": $((${{#rest}} % 3))}}"
done
"#
    );
    std::fs::write(place.path("grader.sh"), script).unwrap();
    std::fs::set_permissions(place.path("grader.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Questions in the words that the model knows.
fn questions(place: &Place) {
    let rows = std::fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let own = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{}\n", json!({"prompt": row["prompt"], "answer": "x"}))
    };
    std::fs::write(place.path("own.jsonl"), rows.lines().map(own).collect::<String>()).unwrap();
}

const TASK: &[&str] = &["--task=custom", "--grader=process", "--grader-command=./grader.sh"];
/// Answers of the evaluation before the first step: six, greedy and sampled.
const EXAM: usize = 12;
/// Completions of a step.
const STEP: usize = 8;

fn grpo(place: &Place, name: &str, max_steps: u64) -> std::process::Command {
    let mut command = place.lehr(["grpo", "--init=base", "--data=own.jsonl", "--json", "--eval-questions=6", "--eval-every=0"]);
    command.args(["--batch-size=8", "--num-generations=4", "--max-completion-length=24", "--max-prompt-length=60"]);
    command.args(["--learning-rate=1e-3", "--log-completions=1", "--run", name]).args(TASK);
    command.arg(format!("--max-steps={max_steps}"));
    // Each run has its own count of lines.
    let _ = std::fs::remove_file(place.path("seen"));
    command
}

fn place() -> Place {
    let place = Place::new();
    // Before the model is made, so that nothing has the script open when it is started.
    grader(&place, ":");
    base(&place);
    questions(&place);
    place
}

/// The error of a failed run, one line; and its events.
fn failed(output: &CommandOutput) -> (String, Vec<Value>) {
    assert_eq!(output.code, Some(1), "{}", output.err);
    let errors: Vec<&str> = output.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", output.err);
    (errors[0].to_owned(), output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// A grader that cannot be restarted ends the run at once; one that no longer answers ends it after three steps. What was learned
/// before is saved, and once the grader is repaired the run is resumed to the bits of a run that was never interrupted.
#[test]
fn a_dead_grader_ends_the_run_after_a_save() {
    let place = place();
    json_lines(&mut grpo(&place, "straight", 6));
    let last = EXAM + 2 * STEP;
    let mut after_two = Vec::new();
    for (name, fault, saved) in [
        ("removed", format!("if [ $n -gt {last} ]; then rm -f grader.sh; exit 1; fi"), 2),
        ("silent", format!("if [ $n -gt {last} ]; then echo 'no module named wise' >&2; exit 3; fi"), 4),
    ] {
        grader(&place, &fault);
        let (error, events) = failed(&run(&mut grpo(&place, name, 6)));
        assert_eq!(kind(&events, "TaskEval").iter().map(|e| e["count"].as_u64()).collect::<Vec<_>>(), [Some(6); 2]);
        assert!(error.contains(&format!("the run was saved after step {saved}")), "{error}");
        assert!(error.contains(&format!("--resume {name}")) && error.contains("--grader-command ./grader.sh: "), "{error}");
        assert!(name != "removed" || error.contains("cannot be started"), "{error}");
        assert!(name != "silent" || error.contains("standard error: no module named wise"), "{error}");
        assert_eq!(kind(&events, "Failed").len(), 1);
        assert_eq!(step_numbers(&events), (1..=saved).collect::<Vec<_>>());
        // Steps of which nothing was graded are reported as that.
        for step in kind(&events, "Step") {
            let nothing = step["step"].as_u64() > Some(2);
            assert_eq!(step["completions/ungraded"].as_f64(), nothing.then_some(STEP as f64), "{step}");
        }
        let newest = checkpoints::newest_valid(&RealFs, &place.path(name)).unwrap();
        assert!(newest.skipped.is_empty());
        assert_eq!(newest.found.unwrap().step(), saved);
        // Steps of which nothing was graded have changed nothing.
        if saved == 2 {
            after_two = weights(&place, name, 2);
        }
        assert!(weights(&place, name, saved) == after_two, "{name}: other weights");

        grader(&place, ":");
        json_lines(&mut place.lehr(["grpo", "--json", "--resume", name]));
        assert_eq!(step_numbers(&place.events(name)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(weights(&place, name, 6) == weights(&place, "straight", 6), saved == 2, "{name}");
    }
}

/// The grader fails on the first completion of each step: it is graded again, then left out, and the run continues.
#[test]
fn a_completion_that_crashes_the_grader_is_retried_and_masked() {
    let place = place();
    let first = EXAM + 1;
    grader(
        &place,
        &format!(
            r#"[ $n -eq {first} ] && printf '%s' "$rest" > bad
  if [ "$rest" = "$(cat bad 2> /dev/null)" ]; then echo x >> tries; echo 'too odd' >&2; exit 3; fi"#
        ),
    );
    let events = json_lines(&mut grpo(&place, "run", 3));
    assert_eq!(kind(&events, "TaskEval").iter().map(|e| e["count"].as_u64()).collect::<Vec<_>>()[..2], [Some(6); 2]);
    assert_eq!(step_numbers(&events), [1, 2, 3]);
    let tries = std::fs::read_to_string(place.path("tries")).unwrap().lines().count();
    assert!(tries >= 2, "tried {tries} times");
    let step = kind(&events, "Step")[0];
    let ungraded = step["completions/ungraded"].as_f64().unwrap();
    // A completion that came out twice fails twice.
    assert!((1.0..STEP as f64).contains(&ungraded), "{step}");
    let warned = kind(&events, "Warning").iter().any(|e| {
        let text = e["text"].as_str().unwrap();
        text.starts_with(&format!("step 1: {ungraded} completion")) && text.contains("standard error: too odd")
    });
    assert!(warned, "{:?}", kind(&events, "Warning"));
    let samples = std::fs::read_to_string(place.path("run/samples.jsonl")).unwrap();
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert!(first["reason"].as_str().unwrap().contains("too odd"), "{first}");
    assert!(first["advantages"].as_array().unwrap().iter().all(|a| a.as_f64() == Some(0.0)), "{first}");
}

/// An evaluation counts the graded answers, and reports the others.
#[test]
fn evaluation_lists_ungraded_answers() {
    let place = place();
    let fault = r#"[ $n -eq 1 ] && printf '%s' "$rest" > bad
  if [ "$rest" = "$(cat bad)" ]; then echo 'too odd' >&2; exit 3; fi"#;
    let eval = |json: bool| {
        grader(&place, fault);
        let _ = std::fs::remove_file(place.path("seen"));
        let mut command = place.lehr(["eval", "--model=base", "--data=own.jsonl", "--count=6", "--samples=0"]);
        command.args(["--max-completion-length=24"]).args(TASK).args(json.then_some("--json"));
        run(&mut command)
    };
    let output = eval(true);
    assert_eq!(output.code, Some(0), "{}", output.err);
    let report: Value = serde_json::from_str(&output.out).unwrap();
    let (ungraded, count) = (report["greedy"]["ungraded"].as_u64().unwrap(), report["greedy"]["count"].as_u64().unwrap());
    assert!(ungraded >= 1 && ungraded + count == 6, "{report}");
    let note = format!("note: {ungraded} of 6 answers without a reward");
    for output in [output, eval(false)] {
        assert!(
            output.err.lines().any(|line| line.starts_with(&note) && line.contains("standard error: too odd")),
            "{}",
            output.err
        );
    }

    // The same in a run, as a warning.
    grader(&place, fault);
    let events = json_lines(&mut grpo(&place, "run", 1));
    let evaluation = kind(&events, "TaskEval")[0];
    assert!(
        evaluation["ungraded"].as_u64() >= Some(1) && evaluation["ungraded_reason"].as_str().unwrap().contains("too odd"),
        "{evaluation}"
    );
    let warned = kind(&events, "Warning").iter().any(|e| e["text"].as_str().unwrap().starts_with("evaluation after step 0: "));
    assert!(warned, "{:?}", kind(&events, "Warning"));
}
