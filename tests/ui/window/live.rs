//! The whole window over real trainers: start from an order, watch, pause, continue, stop; a trainer that is killed; one that cannot begin; a lesson.

use super::common::{PATIENCE, TINY, text};
use eframe::egui;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use lehr::app::Window;
use lehr::app::state::{Action, OpenRun};
use lehr::event::Command;
use lehr::history::RunState;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub struct Live {
    pub h: Harness<'static, Option<Window>>,
    dir: tempfile::TempDir,
}

impl Live {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text.txt"), text(6000)).unwrap();
        let (home, memory) = (dir.path().join("runs"), dir.path().join("window.json"));
        let draw = move |ui: &mut egui::Ui, window: &mut Option<Window>| {
            let window = window.get_or_insert_with(|| {
                let program = PathBuf::from(env!("CARGO_BIN_EXE_lehr"));
                let backend = Arc::new(lehr::backend::Native::new(program));
                Window::new(ui.ctx(), backend, home.clone(), Some(memory.clone())).unwrap()
            });
            let ctx = ui.ctx().clone();
            window.advance(&ctx);
            window.draw(ui);
        };
        let mut h = Harness::builder().with_size([1300.0, 800.0]).with_max_steps(4).build_ui_state(draw, None);
        h.run_steps(2);
        Self { h, dir }
    }

    pub fn run_path(&self, name: &str) -> PathBuf {
        self.dir.path().join("runs").join(name)
    }

    fn start(&mut self, name: &str, more: &[&str]) -> PathBuf {
        let run = self.run_path(name);
        let data = self.dir.path().join("text.txt").display().to_string();
        let mut args = vec!["pretrain".to_owned(), "--data".into(), data, "--run".into(), run.display().to_string()];
        args.extend(TINY.iter().chain(more).map(|a| (*a).to_owned()));
        self.window().state().request(Action::Start { args, run: run.clone() });
        run
    }

    pub fn window(&mut self) -> &mut Window {
        self.h.state_mut().as_mut().unwrap()
    }

    /// Frames until this holds of the window.
    pub fn wait(&mut self, what: &str, fits: impl Fn(&mut Self) -> bool) {
        let begin = Instant::now();
        loop {
            self.h.step();
            if fits(self) {
                return;
            }
            let talk = &self.window().state().chat;
            assert!(begin.elapsed() <= PATIENCE, "{what}: not within {PATIENCE:?}; the conversation: {talk:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Frames until this holds of the run.
    pub fn until(&mut self, run: &Path, what: &str, fits: impl Fn(&OpenRun) -> bool) {
        let begin = Instant::now();
        loop {
            self.h.step();
            if self.window().state().run(run).is_some_and(&fits) {
                return;
            }
            if begin.elapsed() > PATIENCE {
                let said = self.window().state().run(run).and_then(|r| Some(r.trainer.as_ref()?.messages()));
                panic!("{what}: not within {PATIENCE:?}; the trainer said {said:?}");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_run_is_started_paused_changed_resumed_and_stopped_from_the_window() {
    let mut live = Live::new();
    let run = live.start("a", &["--max-steps=100000", "--save-every=0"]);
    live.until(&run, "steps", |r| r.files.history.step >= 3);
    live.h.get_by_label("Pause").click();
    live.until(&run, "a pause", |r| r.files.history.state == RunState::Paused);
    let step = live.window().state().run(&run).unwrap().files.history.step;
    live.h.get_by_label("One step").click();
    live.until(&run, "one step", |r| r.files.history.step == step + 1);
    live.h.get_by_label("Continue").click();
    live.until(&run, "continued", |r| r.files.history.state == RunState::Running && r.files.history.step > step + 2);
    let hyper = lehr::event::LiveSettings { learning_rate_scale: Some(0.5), ..lehr::event::LiveSettings::default() };
    live.window().state().request(Action::Send(run.clone(), Command::SetHyper(hyper)));
    live.until(&run, "a changed rate", |r| r.files.history.hyper.get("learning_rate_scale") == Some(&0.5));
    live.h.get_by_label("Stop and save").click();
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "stopped");
    assert!(live.window().state().run(&run).unwrap().newest_checkpoint().is_some());
}

#[test]
fn a_killed_trainer_leaves_the_window_on_its_history_with_a_way_to_go_on() {
    let mut live = Live::new();
    let run = live.start("a", &["--max-steps=100000", "--save-every=2"]);
    live.until(&run, "a checkpoint", |r| r.files.history.checkpoints.len() >= 2);
    let pid = live.window().state().run(&run).unwrap().trainer.as_ref().unwrap().pid().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    live.until(&run, "the cut", |r| !r.live && r.files.state_label(r.live) == "cut off");
    // A fast trainer has written more than the window has read: listed checkpoints may have been removed.
    live.until(&run, "the end of the log", |r| r.newest_checkpoint().is_some());
    live.h.run_steps(2);
    live.h.get_by_label_contains("ended by signal 9");
    let step = live.window().state().run(&run).unwrap().files.history.step;
    live.h.get_by_label_contains("Resume from step").click();
    live.until(&run, "new steps", |r| r.live && r.files.history.step > step + 1);
    live.window().state().request(Action::Send(run.clone(), Command::Stop));
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "stopped");
}

#[test]
fn a_trainer_that_refuses_its_settings_says_why_in_the_window() {
    let mut live = Live::new();
    let run = live.start("a", &["--hidden-size=17", "--max-steps=3"]);
    live.until(&run, "the refusal", |r| !r.live);
    live.h.run_steps(3);
    live.h.get_by_label_contains("--hidden-size");
}

#[test]
fn closing_asks_what_becomes_of_a_run_and_stops_and_saves_it_if_told() {
    let mut live = Live::new();
    let run = live.start("a", &["--max-steps=100000", "--save-every=0"]);
    live.until(&run, "steps", |r| r.files.history.step >= 2);
    let root = live.h.input_mut().viewports.get_mut(&egui::ViewportId::ROOT).unwrap();
    root.events.push(egui::ViewportEvent::Close);
    live.h.step();
    live.h.input_mut().viewports.get_mut(&egui::ViewportId::ROOT).unwrap().events.clear();
    live.h.run_steps(2);
    assert!(live.window().state().run(&run).unwrap().live, "nothing has been decided yet");
    live.h.get_by_label("Stop and save, then close").click();
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "stopped");
    assert!(live.window().state().run(&run).unwrap().newest_checkpoint().is_some());
}

#[test]
fn a_run_that_starts_is_the_only_one_that_is_drawn() {
    let mut live = Live::new();
    let first = live.start("a", &["--max-steps=4"]);
    live.until(&first, "the end", |r| r.files.state_label(r.live) == "finished");
    let second = live.start("b", &["--max-steps=4"]);
    live.until(&second, "the end", |r| r.files.state_label(r.live) == "finished");
    let drawn: Vec<(bool, usize)> = live.window().state().runs.iter().map(|run| (run.visible, run.hue)).collect();
    assert_eq!(drawn.iter().map(|run| run.0).collect::<Vec<_>>(), [false, true]);
    assert_ne!(drawn[0].1, drawn[1].1, "two runs of one colour");
}

#[test]
fn somebody_talks_to_a_checkpoint_from_the_window() {
    use lehr::app::chat_process::ChatState;
    use lehr::model::conversation::ChatRequest;
    let mut live = Live::new();
    let more = ["--max-steps=4", "--save-every=2", "--tokenizer=bytes", "--max-position-embeddings=256"];
    let run = live.start("a", &more);
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "finished");
    let say = |text: &str| Action::SendChat(ChatRequest::Say { text: text.into(), temperature: Some(0.0) });
    let begin = |model: String| Action::StartChat { model, system: String::new(), tokens: 8 };
    let desk = live.window().state();
    desk.request(begin(format!("{}@2", run.display())));
    desk.request(say("glass"));
    let ready = |live: &mut Live| live.window().state().chat.as_ref().is_some_and(|talk| talk.state == ChatState::Ready);
    let turns = |live: &mut Live| -> Vec<bool> {
        live.window().state().chat.as_ref().unwrap().turns.iter().map(|turn| turn.by_model).collect()
    };
    live.wait("the reply", ready);
    assert_eq!(turns(&mut live), [false, true]);
    let about = live.window().state().chat.as_ref().unwrap().about.clone().unwrap();
    assert!(about.model.ends_with("step-00000002") && !about.template && about.context == 256, "{about:?}");
    // What does not fit is refused, and the conversation continues.
    live.window().state().request(say(&"glass ".repeat(100)));
    live.wait("the refusal", |live| ready(live) && turns(live).len() == 3);
    let talk = live.window().state().chat.as_ref().unwrap();
    assert!(talk.turns[2].refused && talk.turns[2].note.contains("too long"), "{:?}", talk.turns);
    live.window().state().request(Action::SendChat(ChatRequest::Reset { system: None }));
    live.wait("a new conversation", |live| turns(live).is_empty());
    live.window().state().request(say("kiln"));
    live.wait("a reply", |live| ready(live) && turns(live).len() == 2);
    live.window().state().request(begin("nowhere".into()));
    let ended = |live: &mut Live| match live.window().state().chat.as_ref().map(|talk| talk.state.clone()) {
        Some(ChatState::Ended(why)) => why.contains("no such folder"),
        _ => false,
    };
    live.wait("the reason", ended);
    live.window().state().request(Action::EndChat);
    live.wait("the end", |live| live.window().state().chat.is_none());
}

/// What asks for a decision goes away undecided.
#[test]
fn escape_cancels_a_question() {
    let mut live = Live::new();
    let run = live.start("a", &["--max-steps=4"]);
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "finished");
    live.h.get_by_label("Delete").click();
    live.h.run_steps(3);
    assert!(live.h.query_by_label("Delete it").is_some());
    live.h.key_press(egui::Key::Escape);
    live.h.run_steps(3);
    assert!(live.h.query_by_label("Delete it").is_none() && run.is_dir());
    // Confirmed, it is deleted in a thread.
    live.h.get_by_label("Delete").click();
    live.h.run_steps(3);
    live.h.get_by_label("Delete it").click();
    live.wait("the deletion", |live| live.window().state().runs.is_empty());
    assert!(!run.exists());
}

/// Whoever starts a lesson's run sees its chart without scrolling.
#[test]
fn a_lesson_that_runs_is_shown_from_its_chart_on() {
    let mut live = Live::new();
    live.h.set_size(egui::vec2(1100.0, 700.0));
    live.window().state().request(Action::Show(lehr::app::state::Page::Lessons));
    live.window().state().request(Action::Lesson("one-batch".into()));
    let has = |live: &Live, words: &str| live.h.query_all_by_label_contains(words).count() > 0;
    live.wait("the lesson", |live| has(live, "Run it without a prediction"));
    live.h.get_by_label("Run it without a prediction").scroll_to_me();
    live.h.run_steps(4);
    live.h.get_by_label("Run it without a prediction").click();
    live.wait("its answer", |live| has(live, "The answer"));
    live.h.run_steps(30);
    let title = live.h.get_by_label("Loss").rect();
    assert!((40.0..200.0).contains(&title.top()), "the chart begins at {}", title.top());
}

/// A lesson is run, then its trainer again by hand: a setting is changed with a prediction, and the result is measured.
#[test]
fn a_lesson_is_run_and_tried_by_hand() {
    let mut live = Live::new();
    // The whole page is inside the window.
    live.h.set_size(egui::vec2(1300.0, 6000.0));
    let before = live.start("before", &["--max-steps=4", "--save-every=0"]);
    live.until(&before, "the end", |r| r.files.state_label(r.live) == "finished");
    let ticked = |live: &mut Live| -> Vec<PathBuf> {
        let runs = &live.window().state().runs;
        runs.iter().filter(|run| run.visible).map(|run| run.files.path.clone()).collect()
    };
    live.window().state().request(Action::Show(lehr::app::state::Page::Lessons));
    live.window().state().request(Action::Lesson("one-batch".into()));
    let has = |live: &Live, words: &str| live.h.query_all_by_label_contains(words).count() > 0;
    live.wait("the lesson", |live| has(live, "Run it without a prediction"));
    live.h.get_by_label("Run it without a prediction").click();
    live.wait("its answer", |live| has(live, "The answer"));
    let page = live.run_path("lessons/one-batch/page");
    live.until(&page, "its run on the other pages", |r| r.files.history.step == 300);
    assert_eq!(ticked(&mut live), [page], "only the lesson's runs");
    live.h.get_by_label("Start an experiment").click();
    let run = live.run_path("lessons/one-batch/experiment-1");
    live.until(&run, "updates", |r| r.files.history.step >= 40);
    assert_eq!(ticked(&mut live), std::slice::from_ref(&run), "a starting run is the only one");
    // The page of the lesson stays; the controls at its right have the same field.
    let field = |live: &Live| {
        let all = live.h.query_all_by_role_and_label(egui::accesskit::Role::SpinButton, "learning rate ×");
        all.min_by(|a, b| a.rect().left().total_cmp(&b.rect().left())).map(|field| field.set_value_accesskit(0.5))
    };
    field(&live).expect("the setting");
    live.wait("the question", |live| has(live, "what will the loss be"));
    live.h.get_by_label("Lower").click();
    live.until(&run, "the change", |r| r.files.history.hyper.get("learning_rate_scale") == Some(&0.5));
    live.wait("what happened", |live| has(live, "95 % interval of the difference"));
    live.window().state().request(Action::Send(run.clone(), Command::Stop));
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "stopped");
}

/// The first frame comes before the runs, which are read by a thread.
#[test]
fn the_runs_of_the_home_folder_are_opened_and_exports_are_written() {
    let mut live = Live::new();
    let run = live.start("a", &["--max-steps=4", "--save-every=0"]);
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "finished");
    let mut other = Live::new();
    let options = lehr::app::Options { home: live.dir.path().join("runs"), ..lehr::app::Options::default() };
    other.window().open(options);
    assert!(other.window().state().runs.is_empty(), "nothing is read before a frame");
    other.until(&run, "its log", |r| r.files.history.step == 4);
    let (svg, png, to) =
        ("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"4\" height=\"4\"/>", run.join("a.png"), run.join("a.csv"));
    other.window().state().request(Action::Picture(png.clone(), svg.into()));
    other.window().state().request(Action::Csv { run: run.clone(), metrics: vec!["loss".into()], to: to.clone() });
    other.wait("the files", |_| png.is_file() && to.is_file());
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(std::fs::read_to_string(&to).unwrap().lines().count(), 5, "a head and four steps");
}

/// From a finished run to a fork of it, with nothing but the mouse and the keyboard.
#[test]
fn a_finished_run_is_forked_from_the_window() {
    use egui::accesskit::Role;
    let mut live = Live::new();
    let parent = live.start("a", &["--max-steps=4", "--save-every=2"]);
    live.until(&parent, "the end", |r| r.files.state_label(r.live) == "finished");
    for words in ["Fork", "2"] {
        // The controls stand right of the charts.
        let buttons = live.h.query_all_by_role_and_label(Role::Button, words);
        buttons.max_by(|a, b| a.rect().left().total_cmp(&b.rect().left())).unwrap_or_else(|| panic!("no button {words}")).click();
        live.h.run_steps(3);
    }
    let from = format!("{}@2", parent.display());
    live.wait("the form", |live| live.h.query_all_by_value(&from).count() > 0);
    // What the parent was told to do is read by a thread, and shown.
    let steps = |live: &Live| live.h.get_by_role_and_label(Role::TextInput, "max steps").value();
    live.wait("the parent's settings", |live| steps(live).as_deref() == Some("4"));
    let folder = live.run_path("forked").display().to_string();
    for (label, text) in [("max steps", "9"), ("learning rate", "0.004"), ("folder", &folder)] {
        let field = live.h.get_by_role_and_label(Role::TextInput, label);
        field.focus();
        live.h.run_steps(2);
        live.h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
        live.h.event(egui::Event::Text(text.into()));
        live.h.run_steps(2);
    }
    live.h.get_by_role_and_label(Role::Button, "Start").click();
    let fork = live.run_path("forked");
    live.until(&fork, "the end of the fork", |r| r.files.state_label(r.live) == "finished");
    // What its files say, read without lehr's readers.
    let log = std::fs::read_to_string(fork.join("events.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let started = of("Started").next().unwrap();
    assert_eq!((&started["parent"], &started["step"]), (&"a@2".into(), &2.into()), "{started}");
    assert_eq!(of("Step").map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(), (3..=9).collect::<Vec<_>>());
    let config: toml::Table = std::fs::read_to_string(fork.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["train"]["learning_rate"].as_float(), Some(0.004));
    assert_eq!(config["train"]["max_steps"].as_integer(), Some(9));
    assert!(config["start"].to_string().contains(&from), "{}", config["start"]);
    // What was not changed is as in the parent.
    let parent: toml::Table = std::fs::read_to_string(parent.join("config.toml")).unwrap().parse().unwrap();
    for section in ["model", "data"] {
        assert_eq!(config[section], parent[section], "{section}");
    }
}
