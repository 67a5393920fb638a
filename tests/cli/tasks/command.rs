//! `lehr data` as a command.

use super::common::{Place, json_lines, run};
use serde_json::Value;

#[test]
fn puzzle_rows_are_written() {
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
    let output =
        run(&mut place.lehr(["data", "kk", "--count=20", "--people=3-5", "--form=compact", "--seed=1", "--out=rows.jsonl"]));
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (Some(0), "", ""));
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
fn the_supply_of_two_person_puzzles_is_finite() {
    let place = Place::new();
    let output = run(&mut place.lehr(["data", "kk", "--count=2000", "--people=2"]));
    assert_eq!(output.code, Some(0));
    let rows = output.out.lines().count();
    assert!((100..1000).contains(&rows), "{rows}");
    assert!(output.err.contains("there are no more distinct questions of --people 2; --repeat"), "{}", output.err);
    assert!(output.err.contains(&format!("--count 2000: {rows} rows written")), "{}", output.err);
    let repeated = run(&mut place.lehr(["data", "kk", "--count=2000", "--people=2", "--repeat"]));
    assert_eq!((repeated.out.lines().count(), repeated.err.as_str()), (2000, ""));
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    let place = Place::new();
    std::fs::write(place.path("there.jsonl"), "x").unwrap();
    for (args, code, says) in [
        (&["data"][..], 2, "Usage"),
        (&["data", "kk", "--people", "9"], 2, "--people 9: must be a number, a range or a list within 2 to 8"),
        (&["data", "kk", "--people", "1"], 2, "--people 1: must be a number"),
        (&["data", "kk", "--form", "short"], 2, "invalid value 'short'"),
        (&["data", "kk", "--split", "test"], 2, "invalid value 'test'"),
        (&["data", "kk", "--count", "x"], 2, "--count"),
        (&["data", "kk", "--out", "there.jsonl"], 2, "--out there.jsonl: cannot be made"),
        (&["data", "kk", "--out", "no/where.jsonl"], 2, "--out no/where.jsonl: cannot be made"),
    ] {
        let output = run(&mut place.lehr(args));
        assert_eq!(output.code, Some(code), "{args:?}: {}", output.err);
        assert!(output.err.contains(says), "{args:?}: {}", output.err);
        assert!(says == "Usage" || output.err.trim_end().lines().count() == 1, "{args:?}: {}", output.err);
    }
    assert_eq!(std::fs::read_to_string(place.path("there.jsonl")).unwrap(), "x");
}

/// A public row, and what solving says of it.
const PUBLIC: &str = r#"{"quiz": "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves always lie. You meet 2 inhabitants: Mia and Noah. \"Noah is a knave,\" Mia claimed. Noah said that Mia is a knight if and only if Noah is a knight. So who is a knight and who is a knave?", "names": ["Mia", "Noah"], "solution": [true, false], "solution_text_format": "(1) Mia is a knight\n(2) Noah is a knave", "statements": "(('lying', 1), ('<=>', ('telling-truth', 0), ('telling-truth', 1)))"}"#;

#[test]
fn rows_are_solved_and_compared() {
    let place = Place::new();
    let mut row: Value = serde_json::from_str(PUBLIC).unwrap();
    let mut rows = vec![row.clone()];
    // From the text alone; from the statements alone; with two solutions.
    row.as_object_mut().unwrap().remove("statements");
    rows.push(row.clone());
    rows.push(serde_json::json!({"statements": "(('lying', 1), ('<=>', ('telling-truth', 0), ('telling-truth', 1)))"}));
    rows.push(serde_json::json!({"statements": [["lying", 1], ["lying", 0]]}));
    let write = |rows: &[Value]| {
        std::fs::write(place.path("rows.jsonl"), rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
    };
    write(&rows);
    let output = run(&mut place.lehr(["data", "solve", "--task", "kk", "rows.jsonl"]));
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""), "{}", output.out);
    let lines: Vec<&str> = output.out.lines().collect();
    assert_eq!(
        lines,
        [
            "rows.jsonl:1: (1) Mia is a knight, (2) Noah is a knave; agrees",
            "rows.jsonl:2: (1) Mia is a knight, (2) Noah is a knave; agrees",
            "rows.jsonl:3: (1) Person1 is a knight, (2) Person2 is a knave",
            "rows.jsonl:4: 2 solutions",
            "4 rows, 3 with exactly one solution; 2 of 2 solutions agree; in 1 of 1 the quiz agrees with the statements",
        ]
    );
    // One that is wrong, and one whose text is another puzzle.
    rows[1]["solution"] = serde_json::json!([true, true]);
    rows[0]["statements"] = Value::from("(('lying', 1), ('and', ('lying', 0), ('lying', 1)))");
    write(&rows);
    let output = run(&mut place.lehr(["data", "solve", "--json", "rows.jsonl"]));
    assert_eq!(output.code, Some(1));
    let lines: Vec<Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["quiz_agrees"], &lines[1]["agrees"], &lines[1]["line"]), (&false.into(), &false.into(), &2.into()));
    assert_eq!(lines[1]["solution"], serde_json::json!([true, false]));
    assert_eq!(lines[1]["solution_text_format"], "(1) Mia is a knight\n(2) Noah is a knave");
    assert_eq!((&lines[4]["summary"]["rows"], &lines[4]["summary"]["disagree"]), (&4.into(), &1.into()));
    for (row, says) in [
        (r#"{"statements": "(('lying', 1),"}"#, "rows.jsonl:1: statements: byte 15: expected ( before a claim, found the end"),
        (r#"{"names": ["A"]}"#, "rows.jsonl:1: holds neither statements nor quiz"),
        (r#"{"statements": "(('lying', 0),)", "names": ["A", "B"]}"#, "rows.jsonl:1: names: 2 people, but 1 claims"),
        (r#"{"statements": "(('lying', 0),)", "solution": ["A"]}"#, "rows.jsonl:1: solution: must be a list of true and false"),
        ("", "rows.jsonl: holds no row"),
    ] {
        std::fs::write(place.path("rows.jsonl"), row).unwrap();
        let output = run(&mut place.lehr(["data", "solve", "rows.jsonl"]));
        assert_eq!((output.code, output.err.trim_end().lines().count()), (Some(1), 1), "{}", output.err);
        assert!(output.err.contains(says), "{row}: {}", output.err);
    }
    let made = run(&mut place.lehr(["data", "kk", "--people=2-8", "--count=300", "--out=made.jsonl"]));
    assert_eq!(made.code, Some(0));
    let output = run(&mut place.lehr(["data", "solve", "made.jsonl"]));
    assert_eq!(output.code, Some(0));
    assert!(
        output.out.ends_with("300 of 300 solutions agree; in 300 of 300 the quiz agrees with the statements\n"),
        "{}",
        output.out
    );
}

#[test]
fn responses_are_graded() {
    let place = Place::new();
    let row: Value = serde_json::from_str(PUBLIC).unwrap();
    let with = |response: &str, more: &[(&str, &str)]| {
        let mut row = row.clone();
        row["response"] = response.into();
        for (key, value) in more {
            row[*key] = (*value).into();
        }
        row.to_string() + "\n"
    };
    let good = "x</think><answer>(1) Mia is a knight\n(2) Noah is a knave</answer>";
    let hostile = format!("<think>{}\u{0}</answer>", "<answer>".repeat(100_000));
    let rows = [
        with(&format!("<think>{good}"), &[]),
        with(good, &[]),
        with(good, &[("prompt", "<|im_start|>assistant\n<think>")]),
        with(&good.replace("knave<", "knight<"), &[("prompt", "q <think>")]),
        with("<think></think><answer>?</answer>", &[]),
        with(&hostile, &[]),
    ];
    std::fs::write(place.path("rows.jsonl"), rows.concat()).unwrap();
    let graded = json_lines(&mut place.lehr(["data", "grade", "--task", "kk", "rows.jsonl"]));
    let rewards: Vec<f64> = graded.iter().map(|row| row["reward"].as_f64().unwrap()).collect();
    assert_eq!(rewards, [3.0, -3.0, 3.0, -0.5, -1.0, -3.0]);
    let of = |key: &str| graded.iter().map(|row| row[key].as_bool().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("format"), [true, false, true, true, true, false]);
    assert_eq!(of("correct"), [true, false, true, false, false, false]);
    assert_eq!(graded[0]["quiz"], row["quiz"], "rows keep what they had");
    std::fs::write(place.path("one.jsonl"), &rows[1]).unwrap();
    let open = json_lines(&mut place.lehr(["data", "grade", "--think-open", "one.jsonl"]));
    assert_eq!(open[0]["reward"], 3.0);
    let output = run(&mut place.lehr(["data", "grade", "rows.jsonl", "--out", "out.jsonl"]));
    assert_eq!(output.err, "6 rows, 2 correct (33.3 %), mean reward -0.250\n");
    assert_eq!(std::fs::read_to_string(place.path("out.jsonl")).unwrap().lines().count(), 6);

    // Compact rows, recognised by their vocabulary; sums; a custom task.
    let compact = r#"{"prompt": "A says B knave . B says A knave . <think>", "solution_text_format": "(1) A is a knight\n(2) B is a knave", "response": "</think> <answer> A knight B knave </answer>"}"#;
    let sums = r#"{"question": "1 + 1?", "answer": "2", "response": "\\boxed{2.0}"}"#;
    for (text, args, reward) in [
        (compact, &["--task=kk"][..], 3.0),
        (sums, &["--task=math"], 1.0),
        (sums, &["--task=custom", "--grader=exact"], 0.0),
        (sums, &["--task=custom", "--grader=number"], 1.0),
        (sums, &["--task=custom", "--grader=regex"], 1.0),
    ] {
        std::fs::write(place.path("row.jsonl"), text).unwrap();
        let graded = json_lines(place.lehr(["data", "grade", "row.jsonl"]).args(args));
        assert_eq!(graded[0]["reward"], reward, "{args:?}");
    }
    std::fs::write(place.path("row.jsonl"), r#"{"quiz": "x"}"#).unwrap();
    let output = run(&mut place.lehr(["data", "grade", "row.jsonl"]));
    assert_eq!(
        (output.code, output.err.as_str()),
        (Some(1), "error: row.jsonl:1: response: missing. Give the model's response\n")
    );
}

#[test]
fn arithmetic_rows_are_written() {
    let place = Place::new();
    for kind in ["arithmetic", "countdown"] {
        let rows =
            json_lines(&mut place.lehr(["data", "math", "--math", kind, "--difficulty", "1-5", "--count", "50", "--seed", "3"]));
        assert_eq!(rows.len(), 50);
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row["level"], 1 + i % 5);
            let text = format!("{}{}", row["prompt"].as_str().unwrap(), row["completion"].as_str().unwrap());
            assert_eq!(row["text"], text);
        }
    }
    let output = run(&mut place.lehr(["data", "math", "--difficulty", "6"]));
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("--difficulty 6: must be a number, a range or a list within 1 to 5"), "{}", output.err);
}
