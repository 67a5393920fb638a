//! `tasks::open`: where questions come from, in what order, in whose chat template.

use lehr::config::{DataSettings, Grader, MathKind, PuzzleForm, TaskKind, TaskSettings};
use lehr::data::tasks::{Split, Task, kk, open};
use lehr::data::{Notices, Tokenizer};
use lehr::vfs::RealFs;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

fn settings(task: TaskKind) -> TaskSettings {
    TaskSettings { task, eval_questions: 30, ..TaskSettings::default() }
}

fn opened(settings: &TaskSettings, data: &DataSettings, notices: &mut Notices) -> anyhow::Result<Box<dyn Task>> {
    open(&RealFs, settings, data, 7, None, 0, notices)
}

fn data(path: &Path) -> DataSettings {
    DataSettings { data: vec![path.to_owned()], ..DataSettings::default() }
}

fn write(dir: &Path, name: &str, rows: &[serde_json::Value]) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
    path
}

/// Rows as the public ones are: without prompt and completion.
fn public_rows(count: u64) -> Vec<serde_json::Value> {
    (0..count)
        .map(|n| {
            let row = kk::row(PuzzleForm::Natural, &kk::generate_puzzle(5, 1, Split::Train, n).unwrap(), 1, n);
            let mut row = serde_json::to_value(row).unwrap();
            for field in ["prompt", "completion", "text"] {
                row.as_object_mut().unwrap().remove(field);
            }
            row
        })
        .collect()
}

#[test]
fn generated_questions_depend_only_on_seed_and_number() {
    for (task, form, math) in [
        (TaskKind::Kk, PuzzleForm::Natural, MathKind::Arithmetic),
        (TaskKind::Kk, PuzzleForm::Compact, MathKind::Arithmetic),
        (TaskKind::Math, PuzzleForm::Natural, MathKind::Arithmetic),
        (TaskKind::Math, PuzzleForm::Natural, MathKind::Countdown),
    ] {
        let settings = TaskSettings { form, math, people: "3-5".into(), difficulty: "3-5".into(), ..settings(task) };
        let mut notices = Notices::new();
        let (mut a, b) = (
            opened(&settings, &DataSettings::default(), &mut notices).unwrap(),
            opened(&settings, &DataSettings::default(), &mut notices).unwrap(),
        );
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(a.eval_questions(), 30);
        let mut prompts = HashSet::new();
        for split in [Split::Eval, Split::Train] {
            for n in 0..30 {
                let question = a.question(split, n).unwrap();
                assert_eq!(question, b.question(split, n).unwrap());
                assert_eq!(question.level, 3 + (n % 3) as u32);
                prompts.insert(question.prompt.clone());
                let verdicts = a.grade(&[(&question, "nonsense"), (&question, "")]).unwrap();
                assert!(verdicts.iter().all(|grade| !grade.correct) && verdicts.len() == 2);
            }
        }
        assert!(prompts.len() > 55, "{}", prompts.len());
        assert_eq!(a.question(Split::Eval, 30).unwrap(), a.question(Split::Eval, 0).unwrap());
        let other = open(&RealFs, &settings, &DataSettings::default(), 8, None, 0, &mut notices).unwrap();
        assert_ne!(other.question(Split::Train, 0).unwrap(), a.question(Split::Train, 0).unwrap());
    }
}

#[test]
fn too_few_evaluation_questions_are_reported() {
    let mut notices = Notices::new();
    let settings = TaskSettings { people: "2".into(), eval_questions: 500, ..settings(TaskKind::Kk) };
    let task = opened(&settings, &DataSettings::default(), &mut notices).unwrap();
    assert!((50..120).contains(&task.eval_questions()));
    let says = format!(
        "--eval-questions 500: there are no more distinct questions of --people 2 that are kept from training; {} questions in all",
        task.eval_questions()
    );
    assert_eq!(notices.lines(), [says]);
}

#[test]
fn puzzle_rows_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows = public_rows(100);
    let path = write(dir.path(), "rows.jsonl", &rows);
    let mut notices = Notices::new();
    let mut task = opened(&settings(TaskKind::Kk), &data(&path), &mut notices).unwrap();
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(task.eval_questions(), 30);
    let quiz = |row: &serde_json::Value| format!("{}\n<think>", row["quiz"].as_str().unwrap());
    for n in 0..30 {
        assert_eq!(task.question(Split::Eval, n).unwrap().prompt, quiz(&rows[70 + n as usize]));
    }
    let epoch = |k: u64| (0..70).map(|n| task.question(Split::Train, 70 * k + n).unwrap().prompt).collect::<Vec<_>>();
    let (first, second) = (epoch(0), epoch(1));
    let all: BTreeSet<String> = rows[..70].iter().map(quiz).collect();
    assert_eq!(first.iter().cloned().collect::<BTreeSet<_>>(), all);
    assert_eq!(second.iter().cloned().collect::<BTreeSet<_>>(), all);
    assert_ne!(first, second);
    let question = task.question(Split::Train, 3).unwrap();
    let good = format!("because</think><answer>{}</answer>", question.answer);
    let verdicts = task.grade(&[(&question, &good), (&question, "?")]).unwrap();
    assert_eq!((verdicts[0].reward, verdicts[1].reward), (3.0, -3.0));

    // Questions of the evaluation are not trained on, nor paraphrases with other words or names.
    let twin = kk::row(PuzzleForm::Natural, &kk::generate_puzzle(5, 1, Split::Train, 80).unwrap(), 99, 5);
    let mut more = rows[..70].to_vec();
    more.push(serde_json::json!({"quiz": twin.quiz, "solution_text_format": twin.solution_text_format}));
    let train = write(dir.path(), "train.jsonl", &more);
    let val = write(dir.path(), "val.jsonl", &rows[70..]);
    let both = DataSettings { val_data: Some(val), ..data(&train) };
    let task = opened(&settings(TaskKind::Kk), &both, &mut notices).unwrap();
    assert_eq!(notices.lines().len(), 1);
    assert!(notices.lines()[0].ends_with("1 of 71 rows left out of training: evaluation asks the same"), "{notices:?}");
    assert!((0..70).all(|n| task.question(Split::Train, n).unwrap().prompt != twin.prompt));
}

#[test]
fn unusable_rows_are_reported_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    let kk = TaskKind::Kk;
    for (task, row, says) in [
        (kk, r#"{"quiz": "x"}"#, "rows.jsonl:2: quiz: holds no \"You meet ... inhabitants: ...\""),
        (kk, r#"{"quiz": 5}"#, "rows.jsonl:2: quiz: must be a string"),
        (kk, r#"{"statements": "(", "quiz": "x"}"#, "rows.jsonl:2: statements: byte 2: expected ( before a claim, found the end"),
        (kk, r#"{"solution_text_format": "?", "quiz": "x"}"#, "rows.jsonl:2: solution_text_format: \"?\" names no person"),
        (
            kk,
            r#"{"statements": "(('lying', 1), ('lying', 0))", "quiz": "x"}"#,
            "rows.jsonl:2: holds no solution_text_format, and its puzzle has 2 solutions",
        ),
        (kk, "5", "rows.jsonl:2: not a JSON object"),
        (kk, "{", "rows.jsonl:2: not JSON"),
        (
            kk,
            r#"{"prompt": "A says A knight . <think>", "solution_text_format": "(1) A is a knight"}"#,
            "rows.jsonl:2: is written in the compact form; use --form compact",
        ),
        (TaskKind::Math, r#"{"question": "x"}"#, "rows.jsonl:2: answer: missing"),
        (
            TaskKind::Math,
            r#"{"question": "x", "answer": "they are many, that is 12 or more"}"#,
            "rows.jsonl:2: answer: \"they are many, that is 12 or more\" holds no number and no short answer; write it alone",
        ),
        (TaskKind::Math, r#"{"answer": "1"}"#, "rows.jsonl:2: question: missing"),
        (TaskKind::Custom, r#"{"prompt": "x"}"#, "rows.jsonl:2: answer: missing"),
        (
            TaskKind::Custom,
            r#"{"prompt": [{"role": "user", "content": "x"}], "answer": "x"}"#,
            "rows.jsonl:2: prompt: is a list of messages, which needs --chat",
        ),
        (TaskKind::Custom, r#"{"answer": "x"}"#, "rows.jsonl:2: prompt: missing"),
    ] {
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, format!("\n{row}\n")).unwrap();
        let error = opened(&settings(task), &data(&path), &mut Notices::new()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains(says) && !error.contains('\n'), "{row}: {error}");
        cases.push(error);
    }
    let path = write(dir.path(), "few.jsonl", &public_rows(30));
    let error = opened(&settings(kk), &data(&path), &mut Notices::new()).err().unwrap().to_string();
    assert!(error.contains("30 rows, of which --eval-questions 30 leaves none to train on"), "{error}");
    let error = opened(&settings(TaskKind::Custom), &DataSettings::default(), &mut Notices::new()).err().unwrap().to_string();
    assert!(error.contains("--task custom: needs --data"), "{error}");
    let chat = TaskSettings { chat: true, ..settings(kk) };
    let error = opened(&chat, &DataSettings::default(), &mut Notices::new()).err().unwrap().to_string();
    assert!(error.contains("--chat: the chat template is the model's"), "{error}");
}

#[test]
fn a_bad_row_is_skipped_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::chars(('a'..='z').chain('0'..='9').chain(" ?".chars()), true).unwrap();
    let row = |prompt: &str, answer: &str| serde_json::json!({"prompt": prompt, "answer": answer});
    let mut rows: Vec<serde_json::Value> = (0..60).map(|n| row(&format!("q{n} ?"), &n.to_string())).collect();
    rows[3] = row("café", "1");
    rows[7] = row("", "1");
    rows[9] = serde_json::json!({"prompt": "q"});
    rows[59] = row("what ?", "there are 3 of 4 in all of them");
    let path = write(dir.path(), "rows.jsonl", &rows);
    let number = TaskSettings { grader: Grader::Number, ..settings(TaskKind::Custom) };
    let mut notices = Notices::new();
    let task = open(&RealFs, &number, &data(&path), 7, Some(&tokenizer), 0, &mut notices).unwrap();
    let reported = notices.lines().join("\n");
    for says in [
        "rows.jsonl: 4 unusable rows of 60 left out: ",
        "rows.jsonl:4: the question: ",
        "rows.jsonl:8: the question holds no",
        "rows.jsonl:10: answer: missing",
        "; and 1 more",
    ] {
        assert!(reported.contains(says), "{says}: {reported}");
    }
    let asked: BTreeSet<String> = (0..26).map(|n| task.question(Split::Train, n).unwrap().prompt).collect();
    assert_eq!((task.eval_questions(), asked.len()), (30, 26));
    assert!(!asked.contains("café") && !asked.contains(""));
}

#[test]
fn arithmetic_and_custom_rows_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<serde_json::Value> =
        (0..60).map(|n| serde_json::json!({"question": format!("How many are {n} and 1?"), "answer": format!("So <<{n}+1={}>> it is.\n#### {}", n + 1, n + 1)})).collect();
    let path = write(dir.path(), "gsm.jsonl", &rows);
    let mut task = opened(&settings(TaskKind::Math), &data(&path), &mut Notices::new()).unwrap();
    let question = task.question(Split::Eval, 0).unwrap();
    assert_eq!((question.prompt.as_str(), question.answer.as_str()), ("How many are 30 and 1?\n", "31"));
    let verdicts = task.grade(&[(&question, "It is \\boxed{31.0}."), (&question, "#### 30")]).unwrap();
    assert_eq!((verdicts[0].reward, verdicts[1].reward), (1.0, 0.0));

    let rows: Vec<serde_json::Value> =
        (0..60).map(|n| serde_json::json!({"prompt": format!("p{n}"), "answer": n, "level": n % 4})).collect();
    let path = write(dir.path(), "own.jsonl", &rows);
    let custom = TaskSettings { grader: Grader::Number, ..settings(TaskKind::Custom) };
    let mut task = opened(&custom, &data(&path), &mut Notices::new()).unwrap();
    let question = task.question(Split::Eval, 1).unwrap();
    assert_eq!((question.prompt.as_str(), question.answer.as_str(), question.level), ("p31", "31", 3));
    assert!(task.grade(&[(&question, "31")]).unwrap()[0].correct);
}

#[test]
fn questions_use_the_models_chat_template() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let without_system = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]<think>\n{% endif %}";
    let bytes = Tokenizer::bytes(true).unwrap();
    let settings = TaskSettings { chat: true, ..settings(TaskKind::Kk) };
    let asked = |template: &str| {
        let tokenizer = bytes.with_chat_template(template);
        let mut task = open(&RealFs, &settings, &DataSettings::default(), 7, Some(&tokenizer), 0, &mut Notices::new()).unwrap();
        let question = task.question(Split::Train, 4).unwrap();
        let good = format!("x</think><answer>{}</answer>", question.answer);
        assert_eq!(task.grade(&[(&question, &good)]).unwrap()[0].reward, 3.0, "{}", question.prompt);
        assert_eq!(task.grade(&[(&question, &format!("<think>{good}"))]).unwrap()[0].reward, -3.0);
        question.prompt
    };
    let prompt = asked(template);
    assert!(prompt.starts_with("<|im_start|>system\n") && prompt.contains("<|im_start|>user\nA very special island"), "{prompt}");
    assert!(prompt.ends_with("knave?<|im_end|>\n<|im_start|>assistant\n<think>"), "{prompt}");
    let prompt = asked(without_system);
    assert!(prompt.starts_with("[user]You are") && prompt.ends_with("[assistant]<think>\n"), "{prompt}");
    assert_eq!(prompt.matches("<think>").count(), 2, "in the instruction and at the end: {prompt}");

    // Rows with messages, and a sum.
    let tokenizer = bytes.with_chat_template(template);
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<serde_json::Value> =
        (0..40).map(|n| serde_json::json!({"prompt": [{"role": "user", "content": format!("q{n}")}], "answer": "a"})).collect();
    let path = write(dir.path(), "messages.jsonl", &rows);
    let custom = TaskSettings { chat: true, ..self::settings(TaskKind::Custom) };
    let task = open(&RealFs, &custom, &data(&path), 7, Some(&tokenizer), 0, &mut Notices::new()).unwrap();
    assert_eq!(task.question(Split::Eval, 0).unwrap().prompt, "<|im_start|>user\nq10<|im_end|>\n<|im_start|>assistant\n");
    let math = TaskSettings { chat: true, ..self::settings(TaskKind::Math) };
    let task = open(&RealFs, &math, &DataSettings::default(), 7, Some(&tokenizer), 0, &mut Notices::new()).unwrap();
    assert!(task.question(Split::Eval, 0).unwrap().prompt.contains("\\boxed{}"));
}

/// `tools` and `chat_template_kwargs` of a row reach the template for every task, and are checked as those of fine-tuning are.
#[test]
fn rows_may_have_tools_and_template_arguments() {
    use serde_json::{Value, json};
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}\
                    |{% if tools %}{{ tools[0].name }}{% else %}none{% endif %}|{{ style }}|";
    let tokenizer = Tokenizer::bytes(true).unwrap().with_chat_template(template);
    let dir = tempfile::tempdir().unwrap();
    for (kind, plain) in [
        (TaskKind::Kk, public_rows(1).remove(0)),
        (TaskKind::Math, json!({"question": "What are 2 and 2?", "answer": "#### 4"})),
        (TaskKind::Custom, json!({"prompt": "What are 2 and 2?", "answer": "4"})),
    ] {
        let with = |more: &Value| {
            let mut row = plain.clone();
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            row
        };
        let ask = |row: Value, notices: &mut Notices| -> anyhow::Result<String> {
            let path = write(dir.path(), "rows.jsonl", &[plain.clone(), row]);
            let data = DataSettings { val_data: Some(path), ..DataSettings::default() };
            let settings = TaskSettings { chat: true, chat_template_kwargs: vec!["style=long".into()], ..settings(kind) };
            let task = open(&RealFs, &settings, &data, 7, Some(&tokenizer), 0, notices)?;
            Ok(task.question(Split::Eval, task.eval_questions() - 1)?.prompt)
        };
        for (more, tail) in [
            (json!({}), "|none|long|"),
            (json!({"tools": null, "chat_template_kwargs": null}), "|none|long|"),
            (json!({"tools": ""}), "|none|long|"),
            (json!({"tools": [{"name": "calc"}]}), "|calc|long|"),
            (json!({"tools": "[{\"name\": \"calc\"}]"}), "|calc|long|"),
            (json!({"tools": [{"name": "calc"}], "chat_template_kwargs": {"style": "short"}}), "|calc|short|"),
        ] {
            let mut notices = Notices::new();
            let prompt = ask(with(&more), &mut notices).unwrap();
            assert!(prompt.trim_end_matches("<think>").ends_with(tail), "{kind:?} {more}: {prompt}");
            assert!(notices.is_empty(), "{notices:?}");
        }
        for (more, says) in [
            (json!({"tools": 3}), "rows.jsonl:2: tools: must be a list"),
            (json!({"tools": "{"}), "rows.jsonl:2: tools: "),
            (json!({"tools": {"name": "calc"}}), "rows.jsonl:2: tools: must be a list"),
            (json!({"chat_template_kwargs": [1]}), "rows.jsonl:2: chat_template_kwargs: must be an object"),
        ] {
            let mut notices = Notices::new();
            // The row before it is valid, so that this one is left out and reported.
            let prompt = ask(with(&more), &mut notices).unwrap();
            assert!(prompt.trim_end_matches("<think>").ends_with("|none|long|"), "{kind:?} {more}: {prompt}");
            assert!(notices.lines().len() == 1 && notices.lines()[0].contains(says), "{kind:?} {more}: {notices:?}");
        }
    }
}

#[test]
fn evaluation_rows_may_be_given_separately() {
    let dir = tempfile::tempdir().unwrap();
    // All puzzles of two people but a few: what is made must be one of those few.
    let mut all = kk::distinct(vec![2], 1, Split::Train);
    let mut rows = Vec::new();
    while let Some((n, puzzle)) = all.draw().unwrap() {
        rows.push(serde_json::to_value(kk::row(PuzzleForm::Natural, &puzzle, 1, n)).unwrap());
    }
    let left = rows.split_off(rows.len() - 5);
    let settings = TaskSettings { people: "2".into(), eval_questions: 1000, ..settings(TaskKind::Kk) };
    let alone = |rows: &[serde_json::Value]| DataSettings {
        val_data: Some(write(dir.path(), "val.jsonl", rows)),
        ..DataSettings::default()
    };
    let task = opened(&settings, &alone(&rows[..100]), &mut Notices::new()).unwrap();
    assert_eq!(task.eval_questions(), 100);
    assert_eq!(task.question(Split::Eval, 101).unwrap().prompt, rows[1]["prompt"].as_str().unwrap());
    let marks = |rows: &[serde_json::Value]| -> HashSet<u64> {
        let claims = rows.iter().map(|row| kk::notation::parse(row["statements"].as_str().unwrap()).unwrap());
        claims.map(|claims| kk::generate::fingerprint(&claims)).collect()
    };
    let kept = marks(&rows[..100]);
    for n in 0..300 {
        let prompt = task.question(Split::Train, n).unwrap().prompt;
        let claims = kk::reading::read(prompt.trim_end_matches("\n<think>")).unwrap().claims;
        assert!(!kept.contains(&kk::generate::fingerprint(&claims)));
    }
    let everything = [&rows[..], &left[..]].concat();
    let task = opened(&settings, &alone(&everything), &mut Notices::new()).unwrap();
    assert!(task.question(Split::Train, 0).unwrap_err().to_string().contains("--val-data: asks all that could be made"));
    assert!(rows.len() > 200);

    let sums = [serde_json::json!({"question": "1 + 1?", "answer": "2"})];
    let task = opened(&self::settings(TaskKind::Math), &alone(&sums), &mut Notices::new()).unwrap();
    assert_eq!((task.eval_questions(), task.question(Split::Eval, 3).unwrap().answer.as_str()), (1, "2"));
    assert!(task.question(Split::Train, 0).unwrap().prompt.ends_with(" ="));
    let own = [serde_json::json!({"prompt": "x", "answer": "y"})];
    let task = opened(&self::settings(TaskKind::Custom), &alone(&own), &mut Notices::new()).unwrap();
    assert_eq!(task.question(Split::Eval, 0).unwrap().answer, "y");
    assert!(task.question(Split::Train, 0).unwrap_err().to_string().contains("--task custom: needs --data"));
    let error = opened(&self::settings(TaskKind::Custom), &alone(&[]), &mut Notices::new()).err().unwrap().to_string();
    assert!(error.contains("val.jsonl: holds no row"), "{error}");
}
