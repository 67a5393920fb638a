//! Extreme histories, derived from the recorded ones.

use super::{State, recorded};
use lehr::app::child::{Job, JobState};
use lehr::app::state::{AppState, OpenRun};
use lehr::event::{Completion, Event, Merged, Norms, Number, Sample, SavedCheckpoint, Tokens};
use lehr::history::RunFiles;
use lehr::model::inspect::{InspectedToken, Inspection, Lens, LensPrediction, PredictedToken};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No file.
    Empty,
    /// As recorded.
    Small,
    /// Every number that may be none is none, or infinite.
    Nan,
    /// Lists that are too short or missing, lines that are cut.
    Torn,
    /// Thousands of events, texts of a megabyte with control characters.
    Huge,
}

fn lines(run: &str, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(recorded(run).join(file)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every number that may be none becomes NaN or infinite, by turns.
fn poison(value: &mut Value, turn: &mut usize) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|v| poison(v, turn)),
        Value::Object(map) => {
            let exact = ["from", "count", "step", "seconds", "time", "advantages", "logprobs", "entropy", "interval", "rewards"];
            map.iter_mut().filter(|(key, _)| !exact.contains(&key.as_str())).for_each(|(_, v)| poison(v, turn));
        }
        Value::Number(n) if n.is_f64() => {
            *turn += 1;
            *value = ["NaN", "Infinity", "-Infinity"][*turn % 3].into();
        }
        _ => {}
    }
}

/// Lists lose their ends, each another number of entries.
fn tear(value: &mut Value, turn: &mut usize) {
    match value {
        Value::Array(list) => {
            *turn += 1;
            list.truncate(list.len().saturating_sub(*turn % 5));
            list.iter_mut().for_each(|v| tear(v, turn));
        }
        Value::Object(map) => map.iter_mut().filter(|(key, _)| *key != "interval").for_each(|(_, v)| tear(v, turn)),
        _ => {}
    }
}

/// Write a run of this kind.
pub fn write(kind: Kind, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    if kind == Kind::Empty {
        return;
    }
    let mut turn = 0;
    for (file, second) in [("events.jsonl", true), ("samples.jsonl", false)] {
        let mut out = std::fs::File::create(dir.join(file)).unwrap();
        // The supervised run first, so that the result is a GRPO run with every event.
        let all = if second { [lines("stories", file), lines("puzzles", file)].concat() } else { lines("puzzles", file) };
        for mut value in all {
            match kind {
                Kind::Nan => poison(&mut value, &mut turn),
                Kind::Torn => tear(&mut value, &mut turn),
                _ => {}
            }
            writeln!(out, "{value}").unwrap();
            if kind == Kind::Torn {
                writeln!(out, "{}\n\u{0}\u{1}{{}}", &value.to_string()[..9]).unwrap();
            }
        }
        if kind == Kind::Huge && !second {
            let piece = |i: usize| ["\u{7}", "\u{202e}abc", "word ", "\n", "漢字", "x\u{301}"][i % 6].to_owned();
            let pieces: Vec<String> = (0..200_000).map(piece).collect();
            let text = pieces.concat();
            let logprobs = vec![-0.5; pieces.len()];
            let huge = Completion {
                step: 99,
                text: text.clone(),
                reason: text.clone(),
                prompt: text.clone(),
                answer: text,
                pieces,
                logprobs,
                ..Completion::default()
            };
            writeln!(out, "{}", serde_json::to_string(&huge).unwrap()).unwrap();
            // One token of a megabyte.
            let long = Completion { step: 99, pieces: vec!["y".repeat(1 << 20)], logprobs: vec![-1.0], ..Completion::default() };
            writeln!(out, "{}", serde_json::to_string(&long).unwrap()).unwrap();
        }
    }
}

/// The run's files, read.
pub fn files(kind: Kind, dir: &Path) -> RunFiles {
    if kind == Kind::Empty {
        return RunFiles::new(dir);
    }
    let mut files = RunFiles::read(dir).unwrap();
    assert!(!files.history.tokens.is_empty() && !files.history.merges.is_empty(), "{kind:?}: the made run holds too little");
    if kind == Kind::Huge {
        enlarge(&mut files);
    }
    files
}

fn enlarge(files: &mut RunFiles) {
    let tokens: Tokens = files.history.tokens[0].clone();
    let merged: Merged = files.history.merges[0].clone();
    let parts: Vec<String> = (0..40).map(|i| format!("layers.{i}")).collect();
    for step in 100..4100u64 {
        files.history.push(Event::Tokens(Box::new(Tokens { step, ..tokens.clone() })));
        files.history.push(Event::Merged(Merged { step, ..merged.clone() }));
        let norm = |i: usize| Number((step as f64).sin().abs() * 10f64.powi(i as i32 % 7 - 3));
        let norms: Vec<Number> = (0..parts.len()).map(norm).collect();
        files.history.push(Event::Norms(Norms { step, parts: parts.clone(), weights: norms.clone(), gradients: norms }));
        if step % 8 == 0 {
            let text = "\u{1b}[31mlong ".repeat(if step % 800 == 0 { 1 << 17 } else { 10 });
            files.history.push(Event::Sample(Sample { step, prompt: "\u{202e}p".into(), text, ..Sample::default() }));
            let path = format!("runs/huge/checkpoints/step-{step:08}").into();
            files.history.push(Event::Checkpoint(SavedCheckpoint { step, path, bytes: 1, save_seconds: 0.0 }));
        }
    }
}

/// The run, moved to a folder with checkpoints on disk: empty ones, every 20 steps to 200.
pub fn with_checkpoints(mut run: OpenRun, dir: &Path) -> OpenRun {
    run.files.path = dir.join("stories");
    run.files.history.checkpoints.clear();
    for step in (1..=10).map(|i| 20 * i) {
        let path = run.files.path.join(format!("checkpoints/step-{step:08}"));
        std::fs::create_dir_all(&path).unwrap();
        run.files.history.push(Event::Checkpoint(SavedCheckpoint { step, path, bytes: 1, save_seconds: 0.0 }));
    }
    run
}

/// A recorded file.
pub fn text(name: &str) -> String {
    std::fs::read_to_string(recorded(name)).unwrap()
}

pub fn set_job(state: &mut State, key: &str, job: JobState) {
    state.desk.jobs.insert(key.to_owned(), Job::ended(&[], job));
}

/// The job has printed this.
pub fn finish(state: &mut State, key: &str, output: &str) {
    set_job(state, key, JobState::Done(output.to_owned()));
}

/// Results of all jobs, as good as the run is.
pub fn jobs(kind: Kind, desk: &mut AppState) {
    let Some(path) = desk.focus.clone() else { return };
    let (mut sweep, mut landscape, mut inspection): (Value, Value, Value) = (
        serde_json::from_str(&text("sweep.json")).unwrap(),
        serde_json::from_str(&text("landscape.json")).unwrap(),
        serde_json::to_value(inspection(12, 3, 4)).unwrap(),
    );
    let mut turn = 0;
    for value in [&mut sweep, &mut landscape, &mut inspection] {
        match kind {
            Kind::Empty => *value = Value::Object(serde_json::Map::new()),
            Kind::Nan => nulls(value),
            Kind::Torn => tear(value, &mut turn),
            _ => {}
        }
    }
    if kind == Kind::Huge {
        inspection = serde_json::to_value(super::fixtures::inspection(200, 2, 16)).unwrap();
    }
    for (what, value) in [("sweep", sweep), ("landscape", landscape), ("inspect", inspection)] {
        desk.jobs.insert(format!("{what} {}", path.display()), Job::ended(&[], JobState::Done(value.to_string())));
    }
}

/// JSON has no NaN: programs write null.
fn nulls(value: &mut Value) {
    match value {
        Value::Array(list) if list.iter().all(Value::is_f64) && list.len() < 11 => {}
        Value::Array(list) => list.iter_mut().for_each(nulls),
        Value::Object(map) => map
            .iter_mut()
            .filter(|(key, _)| !["x", "y", "probability", "entropy"].contains(&key.as_str()))
            .for_each(|(_, v)| nulls(v)),
        v if v.is_f64() => *v = Value::Null,
        _ => {}
    }
}

/// A made-up inspection.
pub fn inspection(n: usize, layers: usize, heads: usize) -> Inspection {
    let words = ["Once", " upon", " a", " time", " there", " was", " a\n", " cat", " who", " sat", ".", " <b>"];
    let word = |i: usize| words[i % words.len()].to_owned() + &"'".repeat(i / words.len());
    let guess = |i: usize, k: usize| PredictedToken {
        id: (i + k) as u32,
        piece: word(i + k),
        probability: 0.6 / (1 + k * k + i % 3) as f32,
    };
    let next = |i: usize| (0..12).map(|k| guess(i + 1, k)).collect::<Vec<_>>();
    let row = |l: usize, h: usize, q: usize| {
        let raw: Vec<f32> = (0..=q).map(|k| (((l + 2) * (h + 3) * (k + 1) + q) % 7) as f32 + 0.5).collect();
        let sum: f32 = raw.iter().sum();
        raw.into_iter().map(|x| x / sum).collect::<Vec<f32>>()
    };
    let token = |i: usize| InspectedToken {
        id: i as u32,
        piece: word(i),
        logprob: (i > 0).then_some(-0.3 * (1 + i % 5) as f32),
        rank: (i > 0).then_some(1 + i as u32 % 4),
        entropy: 1.5,
        next: next(i),
    };
    let glimpse =
        |l: usize, i: usize| LensPrediction { entropy: 2.0, actual: Some(0.25), rank: Some(2), next: next(i + layers - l) };
    let part = |l: usize| if l == 0 { "embed".to_owned() } else { format!("layers.{}", l - 1) };
    let lens = |l: usize| Lens { part: part(l), positions: (0..n).map(|i| glimpse(l, i)).collect() };
    Inspection {
        model: "runs/stories/checkpoints/step-00000200".into(),
        tokens: (0..n).map(token).collect(),
        attention: (0..layers).map(|l| (0..heads).map(|h| (0..n).map(|q| row(l, h, q)).collect()).collect()).collect(),
        lens: (0..=layers).map(lens).collect(),
    }
}
