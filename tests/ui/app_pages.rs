//! The pages about tokens, samples, merging and the inside, drawn from recorded and from made-up histories, without a window.
//!
//! Length: every page in every state, with what the tables of states need beside it.
//!
//! Snapshots lie in tests/snapshots. To renew them after a change of looks (look at them before they are committed):
//! `UPDATE_SNAPSHOTS=true cargo test --test ui app_pages snapshots`. To see every page in every state:
//! `cargo test --test ui app_pages look -- --ignored`, which writes PNGs to target/pages.

#![cfg(feature = "app")]

use crate::app;

use app::fixtures::{self, Kind};
use app::{PAGES, State, desk, harness, harness_for_any_text, ours, read, recorded};
use eframe::egui::{self, Theme, vec2};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use egui_kittest::{Harness, SnapshotOptions, SnapshotResults};
use lehr::app::chat_process::{ChatProcess, ChatState};
use lehr::app::child::{Job, JobState};
use lehr::app::state::{Action, AppState, Page};
use lehr::event::{Command, Event, LiveSettings};
use lehr::model::conversation::{ChatEvent, ChatRequest, ReplyEnd};
use std::path::Path;

fn sent(harness: &mut Harness<'_, State>) -> Vec<Command> {
    let actions = harness.state_mut().desk.take_orders();
    actions.into_iter().map(|order| if let Action::Send(_, command) = order { command } else { panic!("{order:?}") }).collect()
}

fn hyper(alpha: Option<f64>, eta: Option<f64>) -> Command {
    Command::SetHyper(LiveSettings { reweight_alpha: alpha, lopti_eta: eta, ..LiveSettings::default() })
}

/// As if the trainer had answered.
fn say(run: &mut lehr::app::state::OpenRun, name: &str, after: f64) {
    let step = run.files.history.step;
    run.files.history.push(Event::HyperChanged { step, name: name.into(), before: 0.0, after });
}

#[test]
fn the_switch_of_methods_has_four_states_and_says_what_is_active() {
    for (label, alpha, eta, words) in [
        ("GRPO", 0.0, 0.0, "Active: plain GRPO."),
        ("+ AR", 0.3, 0.0, "Active: GRPO + AR with alpha 0.3."),
        ("+ Lopti", 0.0, 0.5, "Active: GRPO + Lopti with eta 0.5."),
        ("+ both", 0.3, 0.5, "Active: GRPO + AR with alpha 0.3 + Lopti with eta 0.5."),
    ] {
        // From another state than the one that is asked for.
        let mut run = ours(read("puzzles"));
        run.files.history.hyper.clear();
        if label == "GRPO" {
            say(&mut run, "reweight_alpha", 0.2);
        }
        let mut harness = harness(desk(run), Page::Tokens, vec2(1000.0, 700.0), Theme::Dark);
        harness.get_by_label(label).click();
        harness.run_ok();
        assert_eq!(sent(&mut harness), [hyper(Some(alpha), Some(eta))], "{label}");
        assert!(harness.query_by_label_contains("Requested: ").is_some(), "{label}");
        assert!(harness.query_by_label_contains("from the next step on").is_some(), "{label}");
        let run = &mut harness.state_mut().desk.runs[0];
        say(run, "reweight_alpha", alpha);
        say(run, "lopti_eta", eta);
        harness.run_ok();
        assert!(harness.query_by_label(words).is_some(), "{label}: {words}");
        assert!(harness.query_by_label_contains("Requested").is_none(), "{label}");
    }
}

#[test]
fn a_new_alpha_is_sent_once_and_alone() {
    let mut harness = harness(desk(ours(read("puzzles"))), Page::Tokens, vec2(1000.0, 700.0), Theme::Light);
    assert!(harness.query_by_label("Active: GRPO + AR with alpha 0.3 + Lopti with eta 0.5.").is_some());
    harness.get_by_role_and_label(egui::Role::SpinButton, "alpha").set_value_accesskit(0.15);
    harness.run_ok();
    assert_eq!(sent(&mut harness), [hyper(Some(0.15), None)]);
    harness.run_ok();
    assert_eq!(sent(&mut harness), []);
    assert!(harness.query_by_label_contains("AR with alpha 0.15").is_some());
}

#[test]
fn a_run_of_somebody_else_takes_no_commands_and_says_so() {
    let mut run = read("puzzles");
    run.live = true;
    let mut harness = harness(desk(run), Page::Tokens, vec2(1000.0, 700.0), Theme::Light);
    harness.get_by_label("+ AR").click();
    harness.run_ok();
    assert_eq!(sent(&mut harness), []);
    assert!(harness.query_by_label_contains("takes no commands from this window").is_some());
}

#[test]
fn bars_say_the_exact_numbers_of_the_log() {
    let run = read("puzzles");
    let newest = run.files.history.tokens.last().unwrap();
    let (count, share) = (newest.quartiles.all.count[0], newest.quartiles.all.share[0].0);
    let harness = harness(desk(run), Page::Tokens, vec2(1200.0, 2000.0), Theme::Dark);
    let words = format!("probability 0–0.25, {count} tokens, share of tokens: {:.1} %", 100.0 * share);
    assert!(harness.query_all_by_label_contains(&words).count() >= 1, "{words}");
}

#[test]
fn the_slider_goes_back_and_the_newest_is_followed_until_then() {
    let run = read("puzzles");
    let tokens: Vec<(u64, u64)> = run.files.history.tokens.iter().map(|t| (t.step, t.tokens)).collect();
    let mut harness = harness(desk(run), Page::Tokens, vec2(1200.0, 900.0), Theme::Dark);
    let newest = tokens[tokens.len() - 1];
    let told = |count: u64| format!("response tokens: {}", lehr::app::format::count(count));
    assert!(harness.query_by_label(&told(newest.1)).is_some());
    // A new step is shown at once.
    let mut more = harness.state().desk.runs[0].files.history.tokens[0].clone();
    (more.step, more.tokens) = (newest.0 + 2, 98_765);
    harness.state_mut().desk.runs[0].files.history.push(Event::Tokens(Box::new(more.clone())));
    harness.run_ok();
    assert!(harness.query_by_label(&told(98_765)).is_some());
    // Moved, the slider stays.
    harness.get_by_label("The step before").click();
    harness.run_ok();
    assert!(harness.query_by_label(&told(newest.1)).is_some());
    harness.state_mut().desk.runs[0].files.history.push(Event::Tokens(Box::new(more)));
    harness.run_ok();
    assert!(harness.query_by_label(&told(98_765)).is_none());
}

#[test]
fn hovering_a_token_shows_its_numbers() {
    let run = read("puzzles");
    let completion = run.files.completions.read(run.files.completions.steps().last().unwrap()).unwrap().remove(0);
    let mut harness = harness(desk(run), Page::Samples, vec2(1200.0, 900.0), Theme::Dark);
    let text: String = completion.pieces.concat();
    let start: String = text.chars().take(20).collect();
    let place =
        harness.query_all_by_label_contains(&start).find(|n| n.accesskit_node().role() == egui::Role::Paragraph).unwrap().rect();
    harness.hover_at(place.left_top() + vec2(6.0, 6.0));
    harness.run_steps(4);
    let p = f64::from(completion.logprobs[0]).exp();
    let entropy = f64::from(completion.entropy[0]);
    for words in [
        format!("token 1 of {}: '{}'", completion.pieces.len(), completion.pieces[0]),
        format!("probability {}", lehr::app::format::number(p)),
        format!("entropy {} nats", lehr::app::format::number(entropy)),
        format!("advantage {}", lehr::app::format::number(f64::from(completion.advantages[0]))),
    ] {
        assert!(harness.query_by_label_contains(&words).is_some(), "{words}");
    }
}

#[test]
fn only_right_answers_are_shown_when_asked_for() {
    let mut harness = harness(desk(read("puzzles")), Page::Samples, vec2(1200.0, 900.0), Theme::Dark);
    assert!(harness.query_all_by_label("Answer 1").count() == 1);
    harness.get_by_role_and_label(egui::Role::Button, "right").click();
    harness.run_ok();
    // In the newest step of the recording one answer is right, the fourth of the second question.
    assert!(harness.query_by_label("question 1 of 1").is_some());
    let answers = harness.query_all_by_label_contains("Answer ").count();
    assert_eq!(answers, 1);
    assert!(harness.query_by_label("Answer 12").is_some());
}

#[test]
fn sample_now_sends_the_prompt() {
    let mut harness = harness(desk(ours(read("stories"))), Page::Samples, vec2(1000.0, 700.0), Theme::Dark);
    harness.get_by_role_and_label(egui::Role::MultilineTextInput, "prompt").focus();
    harness.run_ok();
    harness.get_by_role_and_label(egui::Role::MultilineTextInput, "prompt").type_text("The cat");
    harness.run_ok();
    harness.get_by_role_and_label(egui::Role::SpinButton, "temperature").set_value_accesskit(0.5);
    harness.run_ok();
    harness.get_by_role_and_label(egui::Role::Button, "Sample now").click();
    harness.run_ok();
    let commands = sent(&mut harness);
    let wanted = Command::SampleNow { prompt: "The cat".into(), temperature: Some(0.5), tokens: Some(200), chat: false };
    assert_eq!(commands, [wanted]);
}

#[test]
fn a_finished_run_is_sampled_from_its_newest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let path = run.files.path.display().to_string();
    let mut harness = harness(desk(run), Page::Samples, vec2(1000.0, 700.0), Theme::Dark);
    for seed in 1..=2 {
        harness.get_by_role_and_label(egui::Role::Button, "Sample now").click();
        harness.run_ok();
        let [Action::Job(key, args)] = &harness.state_mut().desk.take_orders()[..] else { panic!("one job") };
        let (model, seed) = (format!("--model={path}"), format!("--seed={seed}"));
        assert_eq!(*key, format!("sample {path}"));
        assert_eq!(args[..], ["generate", &model, "--prompt=", "--temperature=0.8", "--max-new-tokens=200", &seed]);
    }
    // The text that the job has written, and a way to stop one that still writes.
    let key = format!("sample {path}");
    let job = |harness: &mut Harness<'_, State>, state| {
        harness.state_mut().desk.jobs.insert(key.clone(), Job::ended(&[], state));
        harness.run_steps(2);
    };
    job(&mut harness, JobState::Done("Once upon a time\n".into()));
    assert!(harness.query_by_label("Once upon a time").is_some());
    job(&mut harness, JobState::Running(String::new()));
    harness.get_by_label("Cancel").click();
    harness.run_steps(2);
    assert_eq!(harness.state_mut().desk.take_orders(), [Action::Cancel(format!("sample {path}"))]);
}

fn send_from_chat(harness: &mut Harness<'_, State>, text: &str) -> Vec<Action> {
    harness.get_by_role_and_label(egui::Role::MultilineTextInput, "message").focus();
    harness.run_steps(2);
    harness.get_by_role_and_label(egui::Role::MultilineTextInput, "message").type_text(text);
    harness.run_steps(2);
    harness.get_by_role_and_label(egui::Role::Button, "Send").click();
    harness.run_steps(2);
    harness.state_mut().desk.take_orders()
}

fn message(text: &str) -> Action {
    Action::SendChat(ChatRequest::Say { text: text.into(), temperature: None })
}

#[test]
fn a_message_loads_the_newest_checkpoint_and_is_said_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let path = run.files.path.display().to_string();
    let mut harness = harness(desk(run), Page::Samples, vec2(1000.0, 900.0), Theme::Dark);
    harness.get_by_label("Chat").click();
    harness.run_steps(2);
    let begun = Action::StartChat { model: path, system: String::new(), tokens: 0 };
    assert_eq!(send_from_chat(&mut harness, "Hello"), [begun, message("Hello")]);
}

#[test]
fn chat_works_without_any_run_on_a_model_folder() {
    let mut harness = harness(AppState::default(), Page::Samples, vec2(1000.0, 900.0), Theme::Light);
    assert!(harness.query_by_label("Name a model folder or a GGUF file.").is_some());
    harness.get_by_role_and_label(egui::Role::TextInput, "model folder").focus();
    harness.run_steps(2);
    harness.get_by_role_and_label(egui::Role::TextInput, "model folder").type_text("models/small.gguf");
    harness.run_steps(2);
    let begun = Action::StartChat { model: "models/small.gguf".into(), system: String::new(), tokens: 0 };
    assert_eq!(send_from_chat(&mut harness, "Hello"), [begun, message("Hello")]);
}

#[test]
fn a_conversation_shows_its_turns_stops_and_starts_over() {
    let mut talk = ChatProcess::made("runs/a", Vec::new(), ChatState::Ready);
    talk.receive(ChatEvent::Ready { model: "runs/a".into(), template: false, context: 64, temperature: 0.7 });
    talk.send(ChatRequest::Say { text: "Who sat by the lake?".into(), temperature: None });
    talk.receive(ChatEvent::Piece { text: "A fox".into() });
    let mut state = desk(read("stories"));
    state.chat = Some(talk);
    let mut harness = harness(state, Page::Samples, vec2(1000.0, 900.0), Theme::Dark);
    harness.get_by_label("Chat").click();
    harness.run_steps(2);
    for words in ["Who sat by the lake?", "A fox"] {
        assert!(harness.query_by_label(words).is_some(), "{words}");
    }
    assert!(harness.query_by_label_contains("no chat template of its own").is_some());
    // While it replies there is nothing to send, but it can be stopped.
    assert_eq!(send_from_chat(&mut harness, "And then?"), []);
    harness.get_by_label("Stop").click();
    harness.run_steps(2);
    assert_eq!(harness.state_mut().desk.take_orders(), [Action::SendChat(ChatRequest::Stop)]);
    harness.state_mut().desk.chat.as_mut().unwrap().receive(ChatEvent::Replied { end: ReplyEnd::Stopped, left_out: 0 });
    harness.run_steps(2);
    assert!(harness.query_by_label("stopped").is_some());
    harness.get_by_role_and_label(egui::Role::SpinButton, "temperature").set_value_accesskit(0.25);
    harness.run_steps(2);
    harness.get_by_role_and_label(egui::Role::Button, "Send").click();
    harness.run_steps(2);
    let wanted = ChatRequest::Say { text: "And then?".into(), temperature: Some(0.25) };
    assert_eq!(harness.state_mut().desk.take_orders(), [Action::SendChat(wanted)]);
    harness.get_by_label("Start over").click();
    harness.run_steps(2);
    assert_eq!(harness.state_mut().desk.take_orders(), [Action::SendChat(ChatRequest::Reset { system: None })]);
    harness.state_mut().desk.chat = Some(ChatProcess::made("runs/a", Vec::new(), ChatState::Ended("the device was lost".into())));
    harness.run_steps(2);
    assert!(harness.query_by_label_contains("The conversation has ended: the device was lost").is_some());
}

#[test]
fn merge_now_sends_merge_now() {
    let mut harness = harness(desk(ours(read("stories"))), Page::Merge, vec2(1000.0, 900.0), Theme::Dark);
    harness.get_by_label("Merge now").click();
    harness.run_ok();
    assert_eq!(sent(&mut harness), [Command::MergeNow]);
}

#[test]
fn pma_init_fills_the_form_with_this_merge() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let path = run.files.path.clone();
    let mut harness = harness(desk(run), Page::Merge, vec2(1000.0, 1200.0), Theme::Dark);
    harness.get_by_role_and_label(egui::Role::SpinButton, "checkpoints").set_value_accesskit(3.0);
    harness.run_ok();
    harness.get_by_label("PMA-init from here").click();
    harness.run_ok();
    let spec = format!("merge:{}?last=3&method=sma", path.display());
    let wanted = Action::NewRun("pretrain".into(), vec![("start.init".into(), spec)]);
    assert_eq!(harness.state_mut().desk.take_orders(), [wanted]);
}

#[test]
fn a_sweep_is_asked_for_shown_and_its_best_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let path = run.files.path.clone();
    let mut harness = harness(desk(run), Page::Merge, vec2(1000.0, 1900.0), Theme::Light);
    harness.get_by_role_and_label(egui::Role::Button, "Sweep").click();
    harness.run_ok();
    let actions = harness.state_mut().desk.take_orders();
    let [Action::Job(key, args)] = &actions[..] else { panic!("{actions:?}") };
    let run = path.display().to_string();
    let wanted = ["merge", "sweep", &run, "--every", "20,40,80", "--last", "2,3,5,8", "--methods", "sma,ema,wma", "--json"];
    assert_eq!(args, &wanted);
    fixtures::finish(harness.state_mut(), key, &fixtures::text("sweep.json"));
    harness.run_ok();
    assert!(harness.query_by_label_contains("Best: wma, V 100, N 5: 1.58").is_some());
    assert!(harness.query_by_label_contains("V 100, N 5, loss 1.5801, 0.06546 below the raw checkpoint").is_some());
    harness.get_by_label("Take it above").click();
    harness.run_ok();
    assert!(harness.query_by_label(&format!("merge:{run}?last=5&every=100&at=2000&method=wma")).is_some());
}

#[test]
fn a_landscape_is_asked_for_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let path = run.files.path.display().to_string();
    let mut harness = harness(desk(run), Page::Merge, vec2(1000.0, 1900.0), Theme::Light);
    harness.get_by_label("Measure").click();
    harness.run_ok();
    let actions = harness.state_mut().desk.take_orders();
    let [Action::Job(key, args)] = &actions[..] else { panic!("{actions:?}") };
    let steps = [20, 120, 200].map(|step| format!("{path}@{step}"));
    assert_eq!(args, &["landscape", &steps[0], &steps[1], &steps[2], "--grid", "11", "--json"]);
    fixtures::finish(harness.state_mut(), key, &fixtures::text("landscape.json"));
    harness.run_ok();
    assert!(
        harness
            .query_by_label_contains("Noise reduction 0.08124, lag 0.02471: the mean is 0.05653 below the latest checkpoint")
            .is_some()
    );
}

#[test]
fn a_job_that_fails_says_why_and_one_that_runs_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let run = fixtures::with_checkpoints(read("stories"), dir.path());
    let key = format!("sweep {}", run.files.path.display());
    let mut harness = harness(desk(run), Page::Merge, vec2(1000.0, 1900.0), Theme::Light);
    fixtures::set_job(harness.state_mut(), &key, lehr::app::child::JobState::Running("3 of 9 evaluations".into()));
    harness.run_ok();
    assert!(harness.query_by_label("3 of 9 evaluations").is_some());
    harness.get_by_label("Cancel").click();
    harness.run_ok();
    assert_eq!(harness.state_mut().desk.take_orders(), [Action::Cancel(key.clone())]);
    fixtures::set_job(harness.state_mut(), &key, lehr::app::child::JobState::Failed("no room on the disk".into()));
    harness.run_ok();
    assert!(harness.query_by_label("no room on the disk").is_some());
    fixtures::finish(harness.state_mut(), &key, "{\"torn\": ");
    harness.run_ok();
    assert!(harness.query_by_label_contains("the result cannot be read").is_some());
}

#[test]
fn an_inspection_is_asked_for_and_every_number_can_be_read() {
    let run = read("stories");
    let path = run.files.path.display().to_string();
    let mut harness = harness(desk(run), Page::Inside, vec2(1200.0, 2200.0), Theme::Dark);
    harness.get_by_label("Look inside").click();
    harness.run_ok();
    let actions = harness.state_mut().desk.take_orders();
    let [Action::Job(key, args)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(args, &["inspect", "--model", &path, "--text=Once upon a time", "--top", "12", "--json"]);
    let found = fixtures::inspection(6, 2, 3);
    fixtures::finish(harness.state_mut(), key, &serde_json::to_string(&found).unwrap());
    harness.run_ok();
    // The last token is picked; then another one.
    let after = |i: usize| {
        format!(
            "{} {}",
            found.tokens[i].next[0].piece.replace('\n', "\\n"),
            lehr::app::format::percent(f64::from(found.tokens[i].next[0].probability))
        )
    };
    assert!(harness.query_by_label(&after(5)).is_some(), "{}", after(5));
    harness.get_by_role_and_label(egui::Role::Button, &found.tokens[2].piece).click();
    harness.run_ok();
    assert!(harness.query_by_label(&after(2)).is_some(), "{}", after(2));
    // Mean of the heads, then one of them.
    let mean: f64 = (0..3).map(|h| f64::from(found.attention[0][h][1][0])).sum::<f64>() / 3.0;
    let looks = |p: f64| {
        format!("'{}' (1) looks at '{}' (0): {}", found.tokens[1].piece, found.tokens[0].piece, lehr::app::format::number(p))
    };
    assert!(harness.query_by_label_contains(&looks(mean)).is_some(), "{}", looks(mean));
    harness.get_by_label("head 2").click();
    harness.run_ok();
    let one = looks(f64::from(found.attention[0][2][1][0]));
    assert!(harness.query_by_label_contains(&one).is_some(), "{one}");
}

#[test]
fn a_text_that_the_model_does_not_know_is_warned_of() {
    let mut harness = harness(desk(read("stories")), Page::Inside, vec2(1200.0, 2200.0), Theme::Dark);
    let mut found = fixtures::inspection(6, 2, 3);
    let key = format!("inspect {}", harness.state().desk.focus.as_ref().unwrap().display());
    fixtures::finish(harness.state_mut(), &key, &serde_json::to_string(&found).unwrap());
    harness.run_ok();
    assert!(harness.query_by_label_contains("<unk>").is_none());
    found.tokens[2].piece = "<unk>".into();
    found.tokens[4].piece = "<unk>".into();
    fixtures::set_job(harness.state_mut(), &key, lehr::app::child::JobState::Running(String::new()));
    harness.run_ok();
    fixtures::finish(harness.state_mut(), &key, &serde_json::to_string(&found).unwrap());
    harness.run_ok();
    assert!(harness.query_by_label_contains("2 of 6 tokens are <unk>").is_some());
}

/// What must be read on a page, for a kind of history.
fn words(page: Page, kind: Kind) -> &'static [&'static str] {
    match (page, kind) {
        (Page::Tokens, Kind::Empty) => &["No token statistics yet"],
        (Page::Tokens, _) => &["Tokens by probability", "Gradient against tokens", "Method", "Gradient norm over the steps"],
        (Page::Samples, Kind::Empty) => &["No text in the log"],
        (Page::Samples, _) => &["Question", "Answer 1", "Rollouts"],
        (Page::Merge, Kind::Empty) => &["Merged against raw", "A merge of checkpoints", "Sweep", "Landscape"],
        (Page::Merge, _) => &["Merged against raw", "A merge of checkpoints"],
        _ => &["A text through the model", "Norms by part of the model"],
    }
}

#[test]
fn every_page_is_drawn_in_every_state() {
    let dir = tempfile::tempdir().unwrap();
    for kind in [Kind::Empty, Kind::Small, Kind::Nan, Kind::Torn, Kind::Huge] {
        let path = dir.path().join(format!("{kind:?}"));
        fixtures::write(kind, &path);
        for page in PAGES {
            for (theme, width) in [(Theme::Light, 1280.0), (Theme::Dark, 1280.0), (Theme::Dark, 380.0), (Theme::Light, 1.0)] {
                let mut run = ours(app::opened(fixtures::files(kind, &path)));
                run.loading = kind == Kind::Empty;
                let mut desk = desk(run);
                fixtures::jobs(kind, &mut desk);
                let mut harness = harness_for_any_text(desk, page, vec2(width, 900.0), theme);
                for tall in [3000.0, 1.0] {
                    harness.set_size(vec2(width, tall));
                    harness.run_ok();
                    if width > 1.0 && tall > 1.0 {
                        for word in words(page, kind) {
                            assert!(harness.query_all_by_label(word).count() > 0, "{page:?}, {kind:?}, {theme:?}: no '{word}'");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn without_a_run_pages_say_how_to_get_one() {
    for page in PAGES {
        let mut harness = harness(lehr::app::state::AppState::default(), page, vec2(800.0, 600.0), Theme::Dark);
        if page == Page::Samples {
            // There are models to talk to without a run.
            harness.get_by_label("Generated text").click();
            harness.run_ok();
        }
        assert!(harness.query_by_label("No run is open").is_some(), "{page:?}");
        harness.get_by_label("Start a new run").click();
        harness.run_ok();
        assert_eq!(harness.state_mut().desk.take_orders(), [Action::Show(Page::NewRun)], "{page:?}");
    }
}

#[test]
fn an_idle_page_asks_for_no_frame() {
    for page in PAGES {
        let mut harness = harness(desk(read("puzzles")), page, vec2(1280.0, 800.0), Theme::Dark);
        // Panics when frames are still asked for after the builder's greatest number of steps.
        harness.run();
        harness.run();
    }
}

#[test]
fn snapshots() {
    // Drivers round differently at edges and in text.
    let options = SnapshotOptions::new().threshold(1.5).max_failed_pixels(600);
    let mut results = SnapshotResults::new();
    for page in PAGES {
        for theme in [Theme::Light, Theme::Dark] {
            let name = if matches!(page, Page::Tokens | Page::Samples) { "puzzles" } else { "stories" };
            // A path that is the same on every machine.
            let mut run = ours(read(name));
            run.files.path = Path::new("runs").join(name);
            let mut desk = desk(run);
            fixtures::jobs(Kind::Small, &mut desk);
            let mut harness = harness(desk, page, vec2(1280.0, 800.0), theme);
            let file = format!("{}-{theme:?}", page.title()).to_lowercase();
            results.add(harness.try_snapshot_options(file, &options));
        }
    }
}

/// Pictures of everything, to be looked at.
#[test]
#[ignore = "writes PNGs to target/pages for people"]
fn look() {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pages");
    std::fs::create_dir_all(&out).unwrap();
    let only = std::env::var("PAGE").unwrap_or_default();
    let dir = tempfile::tempdir().unwrap();
    let mut one = harness_for_any_text(desk(ours(read("puzzles"))), Page::Tokens, vec2(1280.0, 1000.0), Theme::Dark);
    one.get_by_label("tenths").click();
    one.get_by_label("near").click();
    one.run_ok();
    one.hover_at(egui::pos2(100.0, 400.0));
    one.run_steps(4);
    one.render().unwrap().save(out.join("tokens-tenths.png")).unwrap();
    let mut one = harness_for_any_text(desk(ours(read("puzzles"))), Page::Samples, vec2(1280.0, 700.0), Theme::Dark);
    one.get_by_label("entropy").click();
    one.run_ok();
    one.hover_at(egui::pos2(80.0, 318.0));
    one.run_steps(4);
    one.render().unwrap().save(out.join("samples-hover.png")).unwrap();
    for page in PAGES.into_iter().filter(|p| only.is_empty() || p.title().to_lowercase() == only) {
        for (theme, size) in
            [(Theme::Dark, vec2(1280.0, 1700.0)), (Theme::Light, vec2(1280.0, 1700.0)), (Theme::Dark, vec2(380.0, 3000.0))]
        {
            for name in ["puzzles", "stories"].into_iter().filter(|n| recorded(n).is_dir()) {
                let mut run = ours(read(name));
                if name == "stories" {
                    run = fixtures::with_checkpoints(run, &dir.path().join("there"));
                }
                let mut desk = desk(run);
                fixtures::jobs(Kind::Small, &mut desk);
                let mut harness = harness(desk, page, size, theme);
                let image = harness.render().unwrap();
                let file = format!("{}-{name}-{theme:?}-{}.png", page.title(), size.x);
                image.save(out.join(file.to_lowercase())).unwrap();
            }
        }
    }
}
