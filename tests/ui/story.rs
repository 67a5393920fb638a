//! Lessons and demo from the terminal: completed, stopped and resumed, refused where the folder is in use.

use crate::common;

use common::{PATIENCE, Place, run};
use lehr::backend::Native;
use lehr::story::{
    Host, Player, PlayerOptions, Story, StoryAction, StoryLocation, StoryPhase, StoryView, demo, lesson, lesson_names,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A story of two short trainings and what comes of them.
const SMALL: &str = r#"
title = "Small"
about = "For tests."
[values]
gain = "one['loss@first'] - one.loss"
[compare.rise]
before = "before.windows"
after = "after.windows"
lower_is_better = true
[[scene]]
title = "First"
text = "Words."
[scene.question]
ask = "Up or down?"
choices = ["up", "down"]
right = "'b' if gain > 0 else 'a'"
reasons = ["The gradient points downhill.", ""]
[[scene.question.answer]]
when = "gain > 0"
say = "Down, by {{ gain|fixed(2) }}."
otherwise = "Up, by {{ gain|fixed(2) }}."
[[scene.step]]
name = "rows"
doing = "making rows"
seconds = 0.5
run = ["data", "math", "--count", "60", "--difficulty", "1-2", "--seed", "{seed}"]
[[scene.step]]
name = "one"
doing = "training"
seconds = 1.0
run = ["pretrain", "--data", "{rows}", "--hidden-size", "16", "--intermediate-size", "32", "--num-hidden-layers", "1",
  "--num-attention-heads", "2", "--seq-len", "16", "--batch-size", "4", "--learning-rate", "1e-2", "--warmup-steps", "3",
  "--max-steps", "2000", "--eval-every", "0", "--save-every", "10", "--keep-every", "10", "--eval-tokens", "64", "--seed", "{seed}"]
quick = { "--max-steps" = "20" }
[[scene.step]]
name = "asked"
doing = "asking"
seconds = 1.0
run = ["score", "--model", "{one}", "--text", "1 + 1 = 2"]
[[scene.step]]
name = "before"
doing = "scoring the model at update 10"
seconds = 0.5
run = ["eval", "--model", "{one}/checkpoints/step-00000010", "--data", "{rows}", "--seq-len", "16", "--windows"]
[[scene.step]]
name = "after"
doing = "scoring the model at its end"
seconds = 0.5
run = ["eval", "--model", "{one}", "--data", "{rows}", "--seq-len", "16", "--windows"]
[[scene.watch]]
chart = "Loss"
[[scene]]
title = "Second"
[[scene.results]]
say = "The first row: {{ rows['0.text'] }}. The loss: {{ asked.loss|fixed(2) }} of {{ one.vocab_size }} tokens."
[[scene.results]]
by = "rise"
better = "Better, by {{ rise.difference|fixed(3) }}."
worse = "Worse, by {{ rise.difference|fixed(3) }}."
inconclusive = "No difference: {{ rise.low|fixed(3) }} to {{ rise.high|fixed(3) }}."
"#;

fn options(dir: &Path, seed: u64) -> PlayerOptions {
    let backend = Arc::new(Native::new(PathBuf::from(env!("CARGO_BIN_EXE_lehr"))));
    PlayerOptions { place: StoryLocation::In(dir.to_owned()), seed, device: Default::default(), backend }
}

/// Poll until a condition holds.
fn wait(player: &mut Player, what: &str, until: impl Fn(&Player) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !until(player) {
        assert!(Instant::now() < end, "waiting for {what}: {:?}", player.phase());
        assert!(!matches!(player.phase(), StoryPhase::Failed(_)), "{:?}", player.phase());
        if !player.poll() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn words(blocks: &[lehr::story::TextBlock]) -> String {
    format!("{blocks:?}")
}

#[test]
fn a_story_runs_scene_by_scene_and_puts_in_what_came_out() {
    let dir = tempfile::tempdir().unwrap();
    let story = Story::parse("small", SMALL).unwrap().quick();
    let mut player = Player::open(story, options(dir.path(), 3)).unwrap();
    assert_eq!(player.phase(), &StoryPhase::Reading);
    // Before the run there are no numbers, and nothing runs by itself.
    assert!(!player.poll() && player.answer().is_err() && player.step().is_none());
    player.run_scene();
    wait(&mut player, "the training", |p| p.step().is_some_and(|s| s.name == "one"));
    wait(&mut player, "the end", |p| *p.phase() == StoryPhase::Results);
    let run = player.run("one").unwrap();
    assert_eq!(run.history.step, 20);
    let loss = &run.history.curves["loss"];
    let gain = loss.values()[0] - loss.last().unwrap();
    assert!(gain > 0.3, "{gain}");
    assert!(words(&player.answer().unwrap()).contains(&format!("Down, by {gain:.2}.")), "{:?}", player.answer());
    assert!(player.check_prediction(1).unwrap().unwrap().is_right);
    let wrong = player.check_prediction(0).unwrap().unwrap();
    assert_eq!((wrong.is_right, wrong.text.as_str()), (false, "Not quite. The gradient points downhill."));
    player.next();
    assert_eq!((player.phase(), player.scene_number()), (&StoryPhase::Reading, 1));
    player.run_scene();
    wait(&mut player, "the second scene", |p| *p.phase() == StoryPhase::Results);
    let rows = std::fs::read_to_string(dir.path().join("small/rows.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert!(words(&player.results().unwrap()).contains(first["text"].as_str().unwrap()), "{:?}", player.results());
    // Ten more updates at this rate lower the loss of every window of the text that is learned from by far more than chance.
    let windows = |step: &str| -> Vec<f64> {
        let printed = std::fs::read_to_string(dir.path().join(format!("small/{step}.json"))).unwrap();
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let windows: Vec<f64> = printed["windows"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
        let mean = windows.iter().sum::<f64>() / windows.len() as f64;
        assert!((mean / printed["eval_loss"].as_f64().unwrap() - 1.0).abs() < 0.05, "windows are nearly all of one length");
        windows
    };
    let (before, after) = (windows("before"), windows("after"));
    let mean = after.iter().zip(&before).map(|(a, b)| a - b).sum::<f64>() / before.len() as f64;
    let seen = words(&player.results().unwrap());
    assert!(mean < 0.0 && seen.contains(&format!("Better, by −{:.3}.", -mean)), "{mean}: {seen}");
    player.next();
    assert_eq!(player.phase(), &StoryPhase::Done);
}

#[test]
fn a_story_that_is_stopped_saves_and_goes_on_with_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let text = SMALL.replace("\"2000\"", "\"300\"");
        Player::open(Story::parse(name, &text).unwrap(), options(dir.path(), 3)).unwrap()
    };
    let mut whole = open("whole");
    whole.run_scene();
    wait(&mut whole, "the end", |p| *p.phase() == StoryPhase::Results);
    let mut player = open("cut");
    player.run_scene();
    wait(&mut player, "some updates", |p| p.run("one").is_some_and(|r| r.history.step >= 5));
    player.stop();
    wait(&mut player, "the stop", |p| *p.phase() == StoryPhase::Stopped);
    let saved = player.run("one").unwrap().history.step;
    assert!((5..300).contains(&saved), "{saved}");
    drop(player);
    // Another process, later.
    let mut player = open("cut");
    assert!(player.dir().ends_with("cut"), "{:?}", player.dir());
    player.run_scene();
    wait(&mut player, "the end", |p| *p.phase() == StoryPhase::Results);
    assert_eq!(player.run("one").unwrap().history.step, 300);
    let loss = |p: &Player| format!("{:?}", p.fact("asked.loss").unwrap());
    assert_eq!(loss(&player), loss(&whole));
    // A finished story is shown again without being run again.
    let again = open("cut");
    assert!(again.dir().ends_with("cut-2"), "{:?}", again.dir());
}

#[test]
fn a_training_is_paused_stepped_and_continued() {
    let dir = tempfile::tempdir().unwrap();
    let mut player = Player::open(Story::parse("held", SMALL).unwrap(), options(dir.path(), 3)).unwrap();
    assert!(!player.can_pause() && player.pause(true).is_err());
    player.run_scene();
    wait(&mut player, "some updates", |p| p.run("one").is_some_and(|r| r.history.step >= 3));
    player.pause(true).unwrap();
    wait(&mut player, "the pause", Player::is_paused);
    let at = player.run("one").unwrap().history.step;
    assert!(at < 2000 && player.can_pause());
    player.send(&lehr::event::Command::Step).unwrap();
    wait(&mut player, "one update", |p| p.run("one").is_some_and(|r| r.history.step > at));
    assert_eq!(player.run("one").unwrap().history.step, at + 1);
    player.pause(false).unwrap();
    wait(&mut player, "more updates", |p| p.run("one").is_some_and(|r| r.history.step > at + 3));
    player.stop();
    wait(&mut player, "the stop", |p| *p.phase() == StoryPhase::Stopped);
}

/// A host's story once something is so.
fn shown(host: &mut Host, what: &str, fits: impl Fn(&StoryView) -> bool) -> StoryView {
    let end = Instant::now() + PATIENCE;
    loop {
        host.poll();
        assert!(host.error().is_none() && Instant::now() < end, "waiting for {what}: {:?}", host.error());
        if let Some(shown) = host.view().filter(|shown| fits(shown)) {
            return shown.clone();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A story in the window: everything drawn arrives as a value, and training runs are saved when the window closes.
#[test]
fn a_hosted_story_shows_its_results_and_is_saved_when_it_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, text: &str, automatic: bool| {
        Host::start(Story::parse(name, text).unwrap(), options(dir.path(), 3), automatic, Arc::new(|| {})).unwrap()
    };
    let short = SMALL.replace("\"2000\"", "\"20\"");
    let mut host = open("hosted", &short, false);
    let first = shown(&mut host, "the text", |s| s.phase == StoryPhase::Reading);
    assert!(first.after.is_none() && first.runs.is_empty() && first.experiment.is_none(), "{first:?}");
    assert!(first.commands.iter().any(|line| line.starts_with("lehr pretrain ")), "{:?}", first.commands);
    host.perform(StoryAction::Set("none".into(), "1".into()));
    let refused = shown(&mut host, "the refusal", |s| s.refused.is_some()).refused.unwrap();
    assert!(refused.contains("not a parameter"), "{refused}");
    host.perform(StoryAction::Run);
    let seen = shown(&mut host, "the results", |s| s.phase == StoryPhase::Results);
    let Some(Ok(after)) = &seen.after else { panic!("{:?}", seen.after) };
    assert!(words(&after.answer).contains("Down, by ") && after.checked.len() == 2, "{after:?}");
    assert!(seen.runs["one"].join("events.jsonl").is_file());
    // The same trainer by hand: twenty times as long, in a folder of its own.
    let experiment = seen.experiment.unwrap();
    let at = experiment.args.iter().position(|arg| arg == "--max-steps").unwrap();
    assert_eq!(experiment.args[at + 1], "400");
    assert_eq!(experiment.run(|_| false), dir.path().join("hosted/experiment-1"));
    host.perform(StoryAction::Next);
    assert_eq!(shown(&mut host, "the second scene", |s| s.number == 1).phase, StoryPhase::Reading);
    let mut host = open("automatic", &short, true);
    let over = shown(&mut host, "the end", |s| s.is_over);
    assert!(over.is_last() && over.before.len() == 1 && over.before[0].0 == "First", "{:?}", over.before);
    let mut host = open("left", SMALL, false);
    host.perform(StoryAction::Run);
    shown(&mut host, "updates", |s| s.can_pause && s.progress.share > 0.0);
    drop(host);
    let log = dir.path().join("left/one/events.jsonl");
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"reason\":\"stopped\"")) {
        assert!(Instant::now() < end, "the trainer was not stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_command_that_fails_is_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = SMALL.replace("\"--seq-len\", \"16\"", "\"--seq-len\", \"0\"");
    let mut player = Player::open(Story::parse("bad", &text).unwrap(), options(dir.path(), 1)).unwrap();
    player.run_scene();
    let end = Instant::now() + PATIENCE;
    while !matches!(player.phase(), StoryPhase::Failed(_)) && Instant::now() < end {
        player.poll();
        std::thread::sleep(Duration::from_millis(5));
    }
    let StoryPhase::Failed(text) = player.phase() else { panic!("{:?}", player.phase()) };
    assert!(text.starts_with("training: ") && text.contains("seq-len") && text.lines().count() == 1, "{text}");
}

#[test]
fn stories_with_mistakes_are_refused_by_name() {
    for (from, to, says) in [
        ("{{ gain|fixed(2) }}", "{{ gian|fixed(2) }}", "gian"),
        ("{{ asked.loss|", "{{ askd.loss|", "askd"),
        ("loss@first", "lost@first", "lost"),
        ("loss@first", "loss@begin", "begin"),
        ("chart = \"Loss\"", "chart = \"Lost\"", "Lost"),
        ("\"{rows}\"", "\"{row}\"", "row"),
        ("text = \"Words.\"", "text = \"{{ one.loss }}\"", "before the run"),
        ("name = \"asked\"", "name = \"one\"", "taken"),
        ("when = \"gain > 0\"", "when = \"gain >\"", "gain"),
        ("|fixed(2) }}", "|fixd(2) }}", "fixd"),
        ("by = \"rise\"", "by = \"rose\"", "rose"),
        ("worse = \"Worse", "other = \"Worse", "other"),
        ("inconclusive = ", "say = ", "better, worse and inconclusive"),
        ("after = \"after.windows\"", "after = \"one.windows\"", "not a list"),
        ("reasons = [", "reasons = [\"one too many\", ", "3 reasons for 2 choices"),
        ("title = \"Second\"", "titel = \"Second\"", "titel"),
        ("quick = { \"--max-steps\"", "quick = { \"--max-step\"", "--max-step"),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let error = Story::parse("small", &SMALL.replace(from, to)).expect_err(to);
        let text = format!("{error:#}");
        assert!(text.contains(says) && text.lines().count() == 1, "{to}: {text}");
    }
}

#[test]
fn everything_that_ships_is_sound() {
    assert!(lesson_names().count() >= 12);
    for name in lesson_names() {
        let story = lesson(name).unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!(story.name, name);
        assert!(story.scenes.iter().any(|s| s.question.as_ref().is_some_and(|q| !q.answer.is_empty())), "{name} asks nothing");
        assert!(story.seconds() <= 20.0, "{name}: {} s", story.seconds());
        // A guess is answered, and a wrong one with the reason.
        for question in story.scenes.iter().filter_map(|s| s.question.as_ref()).filter(|q| !q.choices.is_empty()) {
            assert!(question.right.is_some() && question.reasons.len() == question.choices.len(), "{name}: {}", question.ask);
        }
    }
    assert_eq!(lesson("1").unwrap().name, lesson_names().next().unwrap());
    let error = lesson("learning-rat").unwrap_err().to_string();
    assert!(error.contains("did you mean learning-rate"), "{error}");
    demo().unwrap_or_else(|e| panic!("{e:#}"));
}

#[test]
fn lessons_are_listed_and_the_first_is_told_to_its_end() {
    let place = Place::new();
    let listed = run(&mut place.lehr(["lesson"]));
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    for name in lesson_names() {
        assert!(listed.out.contains(name), "{name}\n{}", listed.out);
    }
    let said = run(&mut place.lehr(["lesson", "1", "--no-window", "--out", "lessons", "--commands"]));
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    let story = lesson("1").unwrap();
    for part in [story.title.as_str(), "? Before it runs", "! The answer", "a) ", "$ lehr pretrain", "Loss (nats per token)"] {
        assert!(said.out.contains(part), "{part}\n{}", said.out);
    }
    assert!(!said.out.contains('{') && said.err.contains("left"), "{}\n{}", said.out, said.err);
    assert!(place.path("lessons/one-batch/page/events.jsonl").is_file());
    // What is done and what comes next.
    let second = lesson_names().nth(1).unwrap();
    assert!(said.out.contains(&format!("Next: lehr lesson {second}")), "{}", said.out);
    let listed = run(&mut place.lehr(["lesson", "--out", "lessons"]));
    let done: Vec<&str> = listed.out.lines().filter(|line| line.contains(" done")).collect();
    assert!(done.len() == 1 && done[0].contains("one-batch") && listed.err.contains(second), "{}{}", listed.out, listed.err);
    assert!(listed.out.lines().all(|line| line.chars().count() <= 80), "{}", listed.out);
    let refused = run(&mut place.lehr(["lesson", "merge-filter", "--no-window", "--set", "last=3"]));
    assert!(refused.code == Some(2) && refused.err.contains("must be one of 2, 4, 8, 12"), "{}", refused.err);
    let unknown = run(&mut place.lehr(["lesson", "zzz", "--no-window"]));
    assert_eq!((unknown.code, unknown.err.lines().count()), (Some(2), 1), "{}", unknown.err);
}

#[test]
fn the_demo_goes_through_the_whole_life_and_is_the_same_twice() {
    let place = Place::new();
    let rehearse = |out: &str| run(&mut place.lehr(["demo", "--quick", "--seed", "5", "--out", out]));
    let said = rehearse("a");
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    for part in ["PRE-TRAINING", "ANNEALING", "FINE-TUNING", "REINFORCEMENT", "THE EVALUATION", "then GRPO", "Did merging help?"]
    {
        assert!(said.out.contains(part), "{part}\n{}", said.out);
    }
    let page = std::fs::read_to_string(place.path("a/report.html")).unwrap();
    assert!(page.contains("<html") || page.contains("<!doctype html>"), "{}", &page[..page.len().min(200)]);
    for run in ["base", "annealed", "sft", "grpo", "lopti"] {
        assert!(place.path("a").join(run).join("events.jsonl").is_file(), "{run}");
    }
    // A foreign folder is left alone; a story's own folder is shown again without training.
    std::fs::create_dir(place.path("mine")).unwrap();
    std::fs::write(place.path("mine/x"), "mine").unwrap();
    let refused = rehearse("mine");
    assert!(refused.code == Some(1) && refused.err.contains("something else"), "{}", refused.err);
    let told = |out: &str| out.lines().filter(|l| !l.contains("it took")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(told(&rehearse("a").out), told(&said.out));
    // And again from an empty folder.
    let again = rehearse("b");
    let renamed = again.out.replace("b/", "a/").replace("in b;", "in a;");
    assert_eq!(told(&renamed), told(&said.out));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_children_cleanly() {
    let place = Place::new();
    let mut command: Command = place.lehr(["lesson", "learning-rate", "--no-window", "--out", "lessons"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let events = place.path("lessons/learning-rate/small/events.jsonl");
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&events).is_ok_and(|text| text.contains("\"step\":3,")) {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "the lesson does not train");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let text = std::fs::read_to_string(&events).unwrap();
    assert!(text.lines().last().unwrap().contains("\"reason\":\"stopped\""), "{}", text.lines().last().unwrap());
}
