//! Graders of the task `custom`, external programs included.

use lehr::config::{Grader, TaskSettings};
use lehr::data::tasks::Question;
use lehr::data::tasks::custom::RowGrader;

fn question(answer: &str) -> Question {
    Question { prompt: "q".into(), answer: answer.into(), level: 0 }
}

fn settings(grader: Grader) -> TaskSettings {
    TaskSettings { grader, ..TaskSettings::default() }
}

fn right(grader: Grader, answer: &str, output: &str) -> bool {
    let question = question(answer);
    let grade = RowGrader::new(&settings(grader)).unwrap().grade(&[(&question, output)]).unwrap().remove(0);
    assert_eq!(grade.reward, f64::from(u8::from(grade.correct)));
    grade.correct
}

#[test]
fn exact_number_and_regex_graders_match_a_table() {
    for (grader, answer, output, verdict) in [
        (Grader::Exact, "Paris", " Paris\n", true),
        (Grader::Exact, "Paris", "paris", false),
        (Grader::Exact, "a b", "a  b", false),
        (Grader::Number, "1,000", "It is 1000.", true),
        (Grader::Number, "#### 5", "\\boxed{5}", true),
        (Grader::Number, "5", "five", false),
        (Grader::Number, "5", "5 or 6", false),
        (Grader::Number, "6", "5 or 6", false),
        (Grader::Number, "5", "\\boxed{\\text{none of 1 to 5}}", false),
        (Grader::Regex, r"(?i)\bparis\b", "It is PARIS!", true),
        (Grader::Regex, r"^paris$", "It is paris", false),
        (Grader::Regex, r"(a*)*b", &"a".repeat(100_000), false),
    ] {
        assert_eq!(right(grader, answer, output), verdict, "{grader:?} {answer}");
    }
    let row_grader = |grader| RowGrader::new(&settings(grader)).unwrap();
    let error = row_grader(Grader::Regex).check("(").unwrap_err().to_string();
    assert_eq!(error, "answer: \"(\" is not a regular expression: error: unclosed group");
    let error = row_grader(Grader::Regex).check(r"\w{1000}{1000}").unwrap_err().to_string();
    assert!(error.contains("is not a regular expression") && !error.contains('\n'), "{error}");
    let error = row_grader(Grader::Number).check("five of them, that is 5, or so they say").unwrap_err().to_string();
    assert!(error.starts_with("answer: \"five of them") && error.contains("holds no number and no short answer"), "{error}");
    assert!(row_grader(Grader::Exact).check("(").is_ok());
    let error = RowGrader::new(&settings(Grader::Process)).err().unwrap().to_string();
    assert_eq!(error, "--grader process: needs --grader-command, the program that grades");
}

/// Programs of a few lines of shell.
#[cfg(unix)]
mod programs {
    use super::*;

    fn row_grader(script: &str, timeout: f64) -> (tempfile::TempDir, RowGrader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grader with space.sh");
        std::fs::write(&path, script).unwrap();
        let settings = TaskSettings {
            grader: Grader::Process,
            grader_command: Some(format!("sh '{}'", path.display())),
            grader_timeout: timeout,
            ..TaskSettings::default()
        };
        (dir, RowGrader::new(&settings).unwrap())
    }

    /// The error of a program that is asked twice at once.
    fn error(script: &str, timeout: f64) -> String {
        let (_dir, mut row_grader) = row_grader(script, timeout);
        let question = question("a");
        let error = format!("{:#}", row_grader.grade(&[(&question, "x"), (&question, "y")]).unwrap_err());
        assert!(error.starts_with("--grader-command sh '") && !error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn a_program_grades_several_batches() {
        // It answers in pairs, the second first, and counts its lines: it is the same program all the time.
        let (_dir, mut row_grader) = row_grader(
            r#"n=0
while read -r a && read -r b; do
  n=$((n + 2))
  id() { printf '%s' "$1" | sed 's/.*"id":\([0-9]*\).*/\1/'; }
  echo "{\"id\": $(id "$b"), \"reward\": $n, \"reason\": \"line $n\", \"parts\": {\"style\": 0.5}}"
  echo "{\"id\": $(id "$a"), \"reward\": 0.25, \"correct\": true}"
done"#,
            60.0,
        );
        let question = question("a\n\"b\"");
        for batch in 1..4 {
            let grades = row_grader.grade(&[(&question, "x\u{0}y"), (&question, "new\nline")]).unwrap();
            assert_eq!((grades[0].reward, grades[0].correct), (0.25, true));
            assert_eq!((grades[1].reward, grades[1].correct), (f64::from(2 * batch), true));
            assert_eq!(grades[1].reason, format!("line {}", 2 * batch));
            assert_eq!(grades[1].parts["style"], 0.5);
        }
        assert!(row_grader.grade(&[]).unwrap().is_empty());
    }

    #[test]
    fn large_input_and_output_do_not_deadlock() {
        let (_dir, mut row_grader) = row_grader(
            r#"read -r line; sleep 0.2; head -c 300000 /dev/zero | tr '\0' 'e' >&2
i=0; while [ $i -lt 200 ]; do echo "{\"id\": $i, \"reward\": 1, \"reason\": \"$(printf '%01000d' 0)\"}"; i=$((i + 1)); done; cat > /dev/null"#,
            60.0,
        );
        let (question, long) = (question("a"), "x".repeat(20_000));
        let answers: Vec<(&Question, &str)> = (0..200).map(|_| (&question, long.as_str())).collect();
        assert_eq!(row_grader.grade(&answers).unwrap().len(), 200);
    }

    #[test]
    fn grader_errors_include_the_command_and_its_stderr() {
        let output = error("echo 'no module named wise' >&2; exit 3", 60.0);
        assert!(
            output.contains("ended (exit status: 3) with 0 of 2 answers graded; standard error: no module named wise"),
            "{output}"
        );
        let output = error("read -r a; kill -9 $$", 60.0);
        assert!(output.contains("with 0 of 2 answers graded") && output.contains("signal"), "{output}");
        let output = error("echo hello; cat > /dev/null", 60.0);
        assert!(output.contains("wrote \"hello\", expected {\"id\": 0, \"reward\": 1.0}"), "{output}");
        let output = error("echo '{\"id\": 7, \"reward\": 1}'; cat > /dev/null", 60.0);
        assert!(output.contains("answered id 7, expected 0 to 1"), "{output}");
        let output = error("echo '{\"id\": 0}'; cat > /dev/null", 60.0);
        assert!(output.contains("missing field `reward`"), "{output}");
        let output = error("echo waiting for godot >&2; exec sleep 600", 0.3);
        assert!(output.contains("0 of 2 answers graded after 0.3 s. Raise --grader-timeout"), "{output}");
        assert!(output.contains("standard error: waiting for godot"), "{output}");
    }

    /// A program that fails on completions with `bad`, in several ways; `{}` is what it does then.
    fn picky(then: &str) -> String {
        format!(
            r#"while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in *bad*) {then};; *) echo "{{\"id\": $id, \"reward\": 1}}";; esac
done"#
        )
    }

    #[test]
    fn one_failing_completion_is_ungraded_and_the_others_are_graded() {
        for (then, says) in [
            ("echo odd >&2; exit 1", "ended (exit status: 1)"),
            ("echo nonsense", "nonsense"),
            (r#"echo "{\"id\": $id, \"reward\": null}""#, "gave no reward"),
            (r#"echo "{\"id\": $id, \"reward\": NaN}""#, "gave no reward"),
        ] {
            let (_dir, mut row_grader) = row_grader(&picky(then), 60.0);
            let question = question("a");
            for _ in 0..2 {
                let output = ["x", "bad", "y", "bad", "z"].map(|output| (&question, output));
                let grades = row_grader.grade(&output).unwrap();
                let ungraded: Vec<bool> = grades.iter().map(|grade| grade.ungraded).collect();
                assert_eq!(ungraded, [false, true, false, true, false], "{then}");
                assert!(grades[1].reason.contains(says), "{then}: {}", grades[1].reason);
                assert!(grades.iter().all(|grade| grade.correct != grade.ungraded));
            }
        }
    }

    #[test]
    fn a_grader_is_given_up_after_three_failed_batches() {
        let (_dir, mut row_grader) = row_grader(&picky("exit 1"), 60.0);
        let question = question("a");
        assert!(row_grader.grade(&[(&question, "x")]).unwrap()[0].correct);
        for _ in 0..2 {
            assert!(row_grader.grade(&[(&question, "bad")]).unwrap()[0].ungraded);
        }
        let error = row_grader.grade(&[(&question, "bad")]).unwrap_err();
        assert!(error.is::<lehr::data::tasks::GraderGone>() && error.to_string().contains("0 of 1"), "{error:#}");
    }

    #[test]
    fn a_grader_that_fails_once_grades_all() {
        // It dies at its third line, whatever that is.
        let (_dir, mut row_grader) = row_grader(
            r#"n=0; while read -r line; do n=$((n + 1)); [ $n -gt 2 ] && exit 1
  echo "{\"id\": $(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/'), \"reward\": 0.5}"
done"#,
            60.0,
        );
        let question = question("a");
        let grades = row_grader.grade(&[(&question, "x"); 4]).unwrap();
        assert!(grades.iter().all(|grade| !grade.ungraded && grade.reward == 0.5), "{grades:?}");
    }

    #[test]
    fn a_missing_command_is_refused() {
        let row_grader = |command: &str, timeout: f64| {
            RowGrader::new(&TaskSettings {
                grader_command: Some(command.into()),
                grader_timeout: timeout,
                ..TaskSettings::default()
            })
        };
        let message = |command: &str, timeout: f64| row_grader(command, timeout).err().unwrap().to_string();
        assert_eq!(message(" ", 1.0), "--grader-command: empty. Name a program, such as \"python3 grader.py\"");
        assert_eq!(message("sh 'x", 1.0), "--grader-command sh 'x: a quote is not closed");
        assert!(message("sh", 0.0).starts_with("--grader-timeout 0: must be above 0"));
        assert!(message("sh", f64::NAN).starts_with("--grader-timeout NaN"));
        let error = row_grader("/no/such/program", 1.0).unwrap().grade(&[(&question("a"), "x")]).unwrap_err();
        assert!(format!("{error:#}").starts_with("--grader-command /no/such/program: cannot be started"), "{error:#}");
    }
}
