//! The report without a browser: the contents of the page for any contents of the runs' files. `scripts/check-report` opens it in one.

mod fixtures;

use fixtures::Made;
use lehr::event::{Event, Sample, Step};
use lehr::report::{ReportOptions, Summary, write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn report(runs: &[PathBuf]) -> (String, Summary) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report.html");
    let summary = write(runs, &out, &ReportOptions::default()).unwrap();
    let page = std::fs::read_to_string(&out).unwrap();
    assert_eq!(summary.bytes, page.len() as u64);
    sound(&page);
    (page, summary)
}

/// What holds for every page: elements are closed in order, ids are unique, there are no network requests, the numbers are JSON.
fn sound(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let body = without_raw_text(page);
    for tag in body.split('<').skip(1).map(|t| t.split('>').next().unwrap()) {
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        if tag.starts_with('!') || tag.ends_with('/') || ["meta", "br"].contains(&name) {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes what was not opened last");
            continue;
        }
        open.push(name);
        if let Some(id) = tag.split(" id=\"").nth(1) {
            *ids.entry(id.split('"').next().unwrap()).or_default() += 1;
        }
    }
    assert_eq!(open, [""; 0], "left open");
    assert!(ids.values().all(|n| *n == 1), "{ids:?}");
    for outside in ["https://", "src=", "url(", "@import", "<link", "<img", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let addresses: Vec<&str> =
        page.match_indices("http://").map(|(at, _)| page[at..].split(['"', ';']).next().unwrap()).collect();
    assert!(addresses.iter().all(|a| *a == "http://www.w3.org/2000/svg"), "{addresses:?}");
    data(page);
}

/// The page with scripts' and style's text taken out, which is no markup.
fn without_raw_text(page: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some((name, at)) =
        ["script", "style"].into_iter().filter_map(|n| Some((n, rest.find(&format!("<{n}"))?))).min_by_key(|f| f.1)
    {
        let begin = at + rest[at..].find('>').unwrap() + 1;
        let end = begin + rest[begin..].find(&format!("</{name}>")).unwrap();
        out += &rest[..begin];
        rest = &rest[end..];
        // The end tag stays.
        let close = rest.find('>').unwrap() + 1;
        out += &rest[..close];
        rest = &rest[close..];
    }
    out + rest
}

fn data(page: &str) -> serde_json::Value {
    let begin = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    serde_json::from_str(page[begin..].split("</script>").next().unwrap()).unwrap()
}

fn chart<'a>(data: &'a serde_json::Value, id: &str) -> &'a serde_json::Value {
    data["charts"].as_array().unwrap().iter().find(|c| c["id"] == id).unwrap_or_else(|| panic!("no chart {id}"))
}

/// (step, value) of a chart's line, as the script sees them.
fn points(data: &serde_json::Value, id: &str, line: usize) -> Vec<(u64, Option<f64>)> {
    let line = &chart(data, id)["lines"][line];
    let steps = data["clocks"][line["clock"].as_u64().unwrap() as usize]["step"].as_array().unwrap();
    let grid = data["grids"][line["grid"].as_u64().unwrap() as usize].as_array().unwrap();
    let step = |i: &serde_json::Value| steps[i.as_u64().unwrap() as usize].as_u64().unwrap();
    grid.iter().map(step).zip(line["raw"].as_array().unwrap().iter().map(serde_json::Value::as_f64)).collect()
}

#[test]
fn a_run_that_tells_everything_is_shown_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (page, summary) = report(&[fixtures::pretrain(dir.path(), "base", 200)]);
    assert_eq!(summary.runs, ["base"]);
    for title in [
        "Loss",
        "Gradient norm",
        "Weights by part",
        "Gradients by part",
        "Unexpected held-out tokens",
        "Held-out tokens by probability",
    ] {
        assert!(summary.charts.iter().any(|c| c == title), "{title}: {:?}", summary.charts);
    }
    // Every chart is drawn without a script: a picture with a line in it.
    let figures: Vec<&str> = page.split("<figure").skip(1).collect();
    assert_eq!(figures.len(), summary.charts.len());
    for figure in &figures {
        assert!(figure.contains("<svg xmlns") && (figure.contains("<path d=\"M") || figure.contains("fill-opacity")), "{figure}");
    }
    for text in [
        "pre-trains a model of 812 k parameters on 1.00 M tokens of text",
        "It made all 200 steps",
        "an adapter",
        "a driver 1.2",
        "merged (sma)",
        "estimate if annealed",
        "learning rate ×: 1 to 0.5, from step 101 on",
        "the loss rose: back to step 199 (pma)",
        "two checkpoints were gone",
        "grad_norm is 9, usual is 1",
        "upon a time, at step 20",
        "train.max_steps",
        "2026-11-25, 14:34 UTC",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // The page begins with what was found: the merge lies 0.05 lower at each of the last five evaluations.
    let head = page.split("</header>").next().unwrap().replace('\u{a0}', " ");
    let found = "over its last 5 evaluations the merge has a lower validation loss than the run's own weights: −0.05000 on average (95 % \
                 interval −0.05000 to −0.05000)";
    assert!(head.contains("<h1>Pre-training: base</h1>") && head.contains(found), "{head}");
    // No single batch is quoted: the last tenth of 201 losses about 2 + 2 / step.
    assert!(head.contains("The training loss went from") && head.contains("over its first 20 steps"), "{head}");
    let data = data(&page);
    let loss = points(&data, "loss", 0);
    assert_eq!(loss.len(), 201);
    assert_eq!(loss[9], (10, Some(((2.2 + 0.1 * 7f64.sin()) * 1e6).round() / 1e6)));
    assert_eq!(chart(&data, "loss")["lines"].as_array().unwrap().len(), 4);
}

/// A run has the colour that the window gives it, whatever the order of the runs.
#[test]
fn runs_keep_their_colours_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a-run", "b-run", "c-run"].map(String::from);
    let runs: Vec<_> = names.iter().map(|name| fixtures::pretrain(dir.path(), name, 20)).collect();
    let run_colors = lehr::history::run_colors(&names);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let (page, _) = report(&order.map(|i| runs[i].clone()));
        let data = data(&page);
        for (place, run) in order.into_iter().enumerate() {
            let dot = format!("--c:var(--s{})\"></i><b><bdi>{}</bdi></b>", run_colors[run], names[run]);
            assert!(page.contains(&dot), "{dot}");
            let lines = chart(&data, "gradient-norm")["lines"].as_array().unwrap();
            let own: Vec<_> = lines.iter().filter(|line| line["run"] == place).collect();
            assert!(!own.is_empty() && own.iter().all(|line| line["color"] == run_colors[run]), "{lines:?}");
        }
    }
}

#[test]
fn grpo_has_its_tokens_evaluations_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    let (page, summary) = report(&[fixtures::grpo(dir.path(), "rl", 60, Some("base@200"))]);
    let wanted =
        ["Reward", "KL divergence", "Improbable tokens", "Moved in the right direction", "Change of probability in a step"];
    assert!(wanted.iter().all(|w| summary.charts.iter().any(|c| c == w)), "{:?}", summary.charts);
    for text in [
        "low-probability pass",
        "Knights-and-Knaves puzzles, 768 completions per step, starting from <bdi>base@200</bdi>",
        "<b>50.0 %</b> <small>45.0 to 56.0 % of 50</small>",
        "<b class=\"p1\" data-n=\"-2 1.2 -0.7\"> is</b>",
        "reward 0.5",
        "wrong about A",
        "2 of 3 questions",
        "from <bdi>base@200</bdi>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Violins of both signs where the log has counts, boxes where it has quantiles only, nothing where there were no tokens.
    let figure = page.split("<figure").find(|f| f.contains("<h3>Change of probability in a step</h3>")).unwrap();
    let drawn = ["fill-opacity=\"0.4\"", "fill-opacity=\"0.45\"", ">n/a<"].map(|part| figure.matches(part).count());
    assert_eq!(drawn, [4, 2, 2], "{figure}");
    // Newcombe's interval from those of 10 % [5, 16] and 40 % [35, 46]: 30 -+ sqrt(5^2 + 6^2).
    let found = "10.0 % of held-out questions answered correctly at step 0 (greedy), 40.0 % at step 60: +30.0 percentage points (95 % interval +22.2 to +37.8)";
    let head = page.split("</header>").next().unwrap().replace('\u{a0}', " ");
    assert!(head.contains(found), "{head}");
    // The share of the lowest quarter: 4 / (1 + 2 + 3 + 4).
    assert_eq!(points(&data(&page), "improbable-tokens", 1)[0], (1, Some(0.4)));
}

/// Methods are compared with plain GRPO, whatever the order; runs on the same text by their losses at the same steps, others not at all.
#[test]
fn runs_of_one_kind_are_compared_with_their_baseline() {
    let dir = tempfile::tempdir().unwrap();
    let graded = |name: &str, alpha: f64, accuracy: f64| {
        let mut run = Made::new(dir.path(), name);
        run.settings(|s| {
            s.task = Some(Default::default());
            s.grpo = Some(lehr::config::GrpoSettings { reweight_alpha: alpha, ..Default::default() });
        });
        run.started(lehr::config::Stage::Grpo, 10, None);
        run.event(&Event::TaskEval(fixtures::task_eval(10, accuracy)));
        run.path
    };
    let head = |runs: &[PathBuf]| report(runs).0.split("</header>").next().unwrap().replace('\u{a0}', " ");
    let (ar, plain) = (graded("ar", 0.3, 0.5), graded("plain", 0.0, 0.4));
    let found = head(&[ar, plain]);
    let wanted = "<b><bdi>ar</bdi></b> against <b><bdi>plain</bdi></b> (different: <code><bdi>reweight_alpha</bdi></code>): 50.0 % of held-out questions answered correctly (greedy), 40.0 %";
    assert!(found.contains(wanted) && !found.contains("plain</bdi></b> against"), "{found}");

    let trained = |name: &str, fraction: f64, offset: f64| {
        let mut run = Made::new(dir.path(), name);
        run.settings(|s| s.data.val_fraction = fraction);
        run.started(lehr::config::Stage::Pretrain, 100, None);
        for step in (10..=100).step_by(10) {
            let eval_loss = 2.0 + 1.0 / step as f64 + offset;
            run.event(&Event::Eval(lehr::event::Eval {
                step,
                eval_loss,
                perplexity: eval_loss.exp(),
                eval_mean_token_accuracy: 0.4,
                eval_tokens: 1,
                eval_seconds: 1.0,
            }));
        }
        run.path
    };
    let found = head(&[trained("a", 0.1, 0.0), trained("b", 0.1, -0.25), trained("c", 0.2, -0.5)]);
    // 2.01 and 1.76; a difference without scatter has an interval of no width.
    let wanted = "<b><bdi>b</bdi></b> against <b><bdi>a</bdi></b>: validation loss 1.760 and 2.010 at their last common evaluation; over the \
                  last 5 evaluations, −0.25 on average (95 % interval −0.25 to −0.25)";
    assert!(found.contains(wanted), "{found}");
    assert!(!found.contains("<bdi>c</bdi></b> against"), "{found}");
}

#[test]
fn two_runs_share_charts_and_differ_in_settings() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = [(1, "x"), (2, "y")].map(|(i, folder)| fixtures::pretrain(&dir.path().join(folder), "same", 40 * i));
    let rl = fixtures::grpo(dir.path(), "rl", 30, Some("same@40"));
    let (page, summary) = report(&[a.clone(), b, rl, a]);
    assert_eq!(summary.runs, ["x/same", "y/same", "rl"]);
    let data = data(&page);
    let runs: Vec<u64> =
        chart(&data, "gradient-norm")["lines"].as_array().unwrap().iter().map(|l| l["run"].as_u64().unwrap()).collect();
    assert_eq!(runs, [0, 1, 2, 2, 2]);
    assert!(
        page.contains("What differs")
            && page.contains("<code><bdi>train.learning_rate</bdi></code></th><td>0.001</td><td>0.001</td><td>0.0003</td>")
    );
    // A folder of runs is all of them.
    assert_eq!(report(&[dir.path().join("x"), dir.path().to_owned()]).1.runs, ["same", "rl"]);
}

#[test]
fn a_page_is_the_same_for_the_same_files_and_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Made::new(dir.path(), "long");
    for step in 1..=60_000 {
        run.step(step, &[]);
    }
    let (page, _) = report(&[run.path.clone()]);
    assert!(page.len() < 2_000_000, "{}", page.len());
    assert_eq!(page, report(&[run.path]).0);
    let loss = points(&data(&page), "loss", 0);
    assert!(loss.len() <= 1502, "{}", loss.len());
    assert_eq!(loss.iter().filter_map(|p| p.1).fold(0.0, f64::max), 4.064422, "the highest loss, that of step 1, is there");
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}\u{0}\u{1b}[31m\"'&";
    let mut run = Made::new(dir.path(), "a<b>&'\u{202e}c");
    run.started(lehr::config::Stage::Pretrain, 5, Some(evil));
    run.step(1, &[(evil, 1.0), (&format!("rewards/{evil}"), 2.0), (&format!("norms/weights/{evil}"), 2.0)]);
    for text in [evil.to_owned(), "x".repeat(1_000_000), "שלום עולם".into(), "}\u{2028}{".into()] {
        run.event(&Event::Sample(Sample { step: 1, prompt: text.clone(), text: text.clone(), ..Sample::default() }));
        run.event(&Event::Warning { text: text.clone() });
        run.event(&Event::HyperChanged { step: 1, name: text, before: f64::NAN, after: 1.0 });
    }
    let mut c = fixtures::completion(1, 0);
    (c.prompt, c.answer, c.reason) = (evil.into(), evil.into(), evil.into());
    (c.pieces, c.logprobs) = (vec![evil.into(), "x".repeat(1_000_000)], vec![f32::NAN]);
    c.rewards = [(evil.to_owned(), f64::NAN)].into();
    std::fs::write(run.path.join("samples.jsonl"), format!("{}\n", serde_json::to_string(&c).unwrap())).unwrap();
    run.event(&Event::Failed { text: evil.into() });
    let out = dir.path().join("r.html");
    let options = ReportOptions { title: Some(evil.into()), png: Some(dir.path().join("png")), findings: vec![evil.into()] };
    let summary = write(&[run.path.clone()], &out, &options).unwrap();
    let page = std::fs::read_to_string(&out).unwrap();
    // Two scripts, lehr's own; `src=` occurs in escaped text only.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script>").count(), 2);
    sound(&page.replace("src=x", ""));
    assert!(!page.contains("<img") && !page.contains('\u{202e}') && !page.contains('\u{1b}') && !page.contains('\u{0}'));
    assert!(page.contains("שלום עולם"));
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(!summary.pictures.is_empty() && summary.pictures.iter().all(|p| std::fs::read(p).unwrap().starts_with(b"\x89PNG")));
}

#[test]
fn empty_torn_and_numberless_runs_are_reports_too() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Made::new(dir.path(), "empty");
    let (page, summary) = report(std::slice::from_ref(&empty.path));
    assert!(page.contains("has not begun") && summary.charts.is_empty() && !summary.notes.is_empty());
    let mut torn = Made::new(dir.path(), "torn");
    torn.started(lehr::config::Stage::Pretrain, 100, None);
    torn.step(1, &[]);
    torn.line("{\"event\":\"Step\",\"step\":2,\"lo");
    torn.line("no JSON \u{7}");
    torn.step(3, &[]);
    torn.torn("{\"event\":\"St");
    let (page, summary) = report(&[torn.path]);
    assert!(page.contains("It was cut off after 3 of 100 steps"), "{page}");
    assert!(summary.notes[0].contains("2 lines of its log cannot be read"), "{:?}", summary.notes);
    let mut nan = Made::new(dir.path(), "nan");
    nan.started(lehr::config::Stage::Pretrain, 100, None);
    for step in 1..=50 {
        let loss = if step % 2 == 0 { f64::NAN } else { f64::INFINITY };
        nan.event(&Event::Step(Step { step, loss, grad_norm: if step == 7 { 1e300 } else { f64::NAN }, ..Step::default() }));
    }
    let (page, summary) = report(&[nan.path, empty.path]);
    assert!(!summary.charts.contains(&"Loss".to_owned()), "a chart of no numbers is none");
    assert!(summary.charts.contains(&"Gradient norm".to_owned()));
    assert_eq!(points(&data(&page), "gradient-norm", 0)[6], (7, Some(1e300)));
}

#[test]
fn only_a_report_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::pretrain(dir.path(), "base", 20);
    let out = dir.path().join("out.html");
    std::fs::write(&out, "<!doctype html>\nmine").unwrap();
    let refused = |out: &Path| write(std::slice::from_ref(&run), out, &ReportOptions::default()).unwrap_err().to_string();
    assert!(refused(&out).contains("is not a report of lehr"));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "<!doctype html>\nmine");
    assert!(refused(dir.path()).contains("is a folder"));
    assert!(refused(&dir.path().join("gone/report.html")).contains("no such folder"));
    std::fs::remove_file(&out).unwrap();
    for _ in 0..2 {
        write(std::slice::from_ref(&run), &out, &ReportOptions::default()).unwrap();
    }
    let none = |path: &Path| write(&[path.to_owned()], &out, &ReportOptions::default()).unwrap_err().to_string();
    std::fs::create_dir(dir.path().join("nothing")).unwrap();
    assert!(none(&dir.path().join("nothing")).contains("holds no run"));
    assert!(none(&dir.path().join("gone")).contains("no such folder"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| ["base", "out.html", "nothing"].contains(&n.to_str().unwrap())), "{left:?}");
}

#[test]
fn the_command_tells_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    fixtures::pretrain(dir.path(), "base", 20);
    let lehr = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lehr"));
        command.current_dir(dir.path()).args(["report"]).args(args).output().unwrap()
    };
    let done = lehr(&["base", "--json", "--png", "pictures", "-o", "r.html"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&told["report"], &told["runs"][0]), (&"r.html".into(), &"base".into()));
    assert_eq!(told["pictures"].as_array().unwrap().len(), told["charts"].as_array().unwrap().len());
    let again = lehr(&["base", "--png", "pictures", "-o", "r.html"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("r.html: 1 run, "));
    assert!(String::from_utf8_lossy(&again.stderr).contains("of the same name replaced"));
    let failed = lehr(&["gone"]);
    assert_eq!(failed.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&failed.stderr), "error: gone: there is no such folder\n");
}

/// For `scripts/check-report`: pages, and the runs whose numbers they must show.
#[test]
fn pages_for_a_browser() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let base = fixtures::pretrain(&dir, "base", 200);
    let rl = fixtures::grpo(&dir, "rl", 60, Some("base@200"));
    let long = fixtures::pretrain(&dir, "long", 9000);
    let empty = Made::new(&dir, "empty").path;
    let page = |name: &str, runs: &[PathBuf]| write(runs, &dir.join(name), &ReportOptions::default()).unwrap();
    page("one.html", std::slice::from_ref(&base));
    page("three.html", &[base.clone(), rl.clone(), long.clone()]);
    let merged = fixtures::pretrain(&dir, "annealed", 1200);
    let [ar, lopti] = ["ar", "lopti"].map(|name| fixtures::grpo(&dir, name, 60, Some("base@200")));
    page("six.html", &[base, rl, long, merged, ar, lopti]);
    page("empty.html", &[empty]);
}
