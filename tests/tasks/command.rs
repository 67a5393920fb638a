//! `lehr data` as others see it.

use super::common::{Place, json_lines, run};
use serde_json::Value;

#[test]
fn rows_of_puzzles() {
    let place = Place::new();
    let rows =
        json_lines(&mut place.lehr(["data", "kk", "--count", "20", "--people", "3-5", "--form", "compact", "--seed", "1"]));
    assert_eq!(rows.len(), 20);
    let fields = ["quiz", "names", "solution", "solution_text_format", "statements", "prompt", "completion", "text"];
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
        assert_eq!(row["names"].as_array().unwrap().len(), 3 + i % 3);
        assert_eq!(row["solution"].as_array().unwrap().len(), 3 + i % 3);
    }
    let again =
        json_lines(&mut place.lehr(["data", "kk", "--count=20", "--people=3,4,5", "--form=compact", "--seed=1", "--json"]));
    assert_eq!(again, rows);
    let said =
        run(&mut place.lehr(["data", "kk", "--count=20", "--people=3-5", "--form=compact", "--seed=1", "--out=rows.jsonl"]));
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
    let file = std::fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, rows);
    let other = json_lines(&mut place.lehr(["data", "kk", "--count=20", "--people=3-5", "--form=compact", "--seed=2"]));
    assert_ne!(other, rows);
    let eval =
        json_lines(&mut place.lehr(["data", "kk", "--count=20", "--people=3-5", "--form=compact", "--seed=1", "--split=eval"]));
    assert!(eval.iter().all(|row| !rows.contains(row)));
}

#[test]
fn puzzles_of_two_people_run_out() {
    let place = Place::new();
    let said = run(&mut place.lehr(["data", "kk", "--count=2000", "--people=2"]));
    assert_eq!(said.code, Some(0));
    let rows = said.out.lines().count();
    assert!((100..1000).contains(&rows), "{rows}");
    assert!(said.err.contains("there are no more different puzzles of 2 people; --repeat"), "{}", said.err);
    assert!(said.err.contains(&format!("--count 2000: {rows} rows written")), "{}", said.err);
    let repeated = run(&mut place.lehr(["data", "kk", "--count=2000", "--people=2", "--repeat"]));
    assert_eq!((repeated.out.lines().count(), repeated.err.as_str()), (2000, ""));
}

#[test]
fn bad_flags_are_told_in_one_line() {
    let place = Place::new();
    std::fs::write(place.path("there.jsonl"), "x").unwrap();
    for (args, code, says) in [
        (&["data"][..], 2, "Usage"),
        (&["data", "kk", "--people", "9"], 1, "--people 9: must be a number, a range or a list within 2 to 8"),
        (&["data", "kk", "--people", "1"], 1, "--people 1: must be a number"),
        (&["data", "kk", "--form", "short"], 2, "invalid value 'short'"),
        (&["data", "kk", "--split", "test"], 2, "invalid value 'test'"),
        (&["data", "kk", "--count", "-1"], 2, "--count"),
        (&["data", "kk", "--out", "there.jsonl"], 1, "--out there.jsonl: cannot be made"),
        (&["data", "kk", "--out", "no/where.jsonl"], 1, "--out no/where.jsonl: cannot be made"),
    ] {
        let said = run(&mut place.lehr(args));
        assert_eq!(said.code, Some(code), "{args:?}: {}", said.err);
        assert!(said.err.contains(says), "{args:?}: {}", said.err);
        assert!(code == 2 || said.err.trim_end().lines().count() == 1, "{args:?}: {}", said.err);
    }
    assert_eq!(std::fs::read_to_string(place.path("there.jsonl")).unwrap(), "x");
}
