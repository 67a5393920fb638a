//! Pages over made histories: what they say, what they ask for, that nothing makes them fall over.

use super::fixtures;
use eframe::egui;
use egui_kittest::kittest::Queryable as _;
use lehr::app::panels::{charts::Charts, controls::Controls, new_run::NewRun, runs::Runs};
use lehr::app::paths::{Choose, Chosen, set_dialog};
use lehr::app::state::{Action, AppState, Page};
use lehr::config::Stage;
use lehr::event::{Command, Event, LiveSettings};
use std::path::PathBuf;
use std::sync::Arc;

const SIZE: [f32; 2] = [900.0, 700.0];

fn orders_after_click(desk: AppState, label: &str) -> Vec<Action> {
    let mut h = fixtures::harness(SIZE, true, Controls::default(), desk, Controls::ui);
    h.get_by_label(label).click();
    h.run_steps(2);
    h.state_mut().desk.take_orders()
}

#[test]
fn each_button_sends_its_command_to_the_run_in_focus() {
    let cases = [
        ("Pause", Command::Pause),
        ("Stop and save", Command::Stop),
        ("Save now", Command::SaveNow),
        ("Merge now", Command::MergeNow),
        ("Evaluate now", Command::EvalNow),
    ];
    for (label, command) in cases {
        let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(20), true);
        assert_eq!(orders_after_click(desk, label), [Action::Send("runs/a".into(), command)], "{label}");
    }
    for (label, command) in [("Continue", Command::Resume), ("One step", Command::Step)] {
        let events = fixtures::pretraining(20).into_iter().chain([Event::Paused { step: 20 }]).collect();
        let desk = fixtures::desk("runs/a", Stage::Pretrain, events, true);
        assert_eq!(orders_after_click(desk, label), [Action::Send("runs/a".into(), command)], "{label}");
    }
}

#[test]
fn a_run_that_somebody_else_trains_takes_no_commands_from_here() {
    let mut desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(20), false);
    desk.runs[0].live = true;
    let mut h = fixtures::harness(SIZE, true, Controls::default(), desk, Controls::ui);
    h.get_by_label("Pause").click();
    h.run_steps(2);
    assert_eq!(h.state_mut().desk.take_orders(), []);
    h.get_by_label_contains("can be watched from here");
}

/// Type a number into the field that this label names.
fn typed(h: &mut egui_kittest::Harness<'_, fixtures::Stand<Controls>>, label: &str, text: &str) {
    h.get_by_role_and_label(egui::accesskit::Role::SpinButton, label).click();
    h.run_steps(2);
    h.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::A);
    h.event(egui::Event::Text(text.into()));
    h.run_steps(2);
    h.key_press(egui::Key::Enter);
    h.run_steps(3);
}

#[test]
fn changing_a_live_setting_sends_just_that_setting() {
    let cases = [
        (Stage::Grpo, "Lopti eta", "0.5", LiveSettings { lopti_eta: Some(0.5), ..LiveSettings::default() }),
        (Stage::Grpo, "reweighting alpha", "0.3", LiveSettings { reweight_alpha: Some(0.3), ..LiveSettings::default() }),
        (Stage::Grpo, "temperature", "0.7", LiveSettings { temperature: Some(0.7), ..LiveSettings::default() }),
        (Stage::Pretrain, "learning rate ×", "0.25", LiveSettings { learning_rate_scale: Some(0.25), ..LiveSettings::default() }),
        (Stage::Pretrain, "clip gradients at", "2", LiveSettings { max_grad_norm: Some(2.0), ..LiveSettings::default() }),
    ];
    for (stage, label, text, hyper) in cases {
        let events = if stage == Stage::Grpo { fixtures::reinforcement(20) } else { fixtures::pretraining(20) };
        let desk = fixtures::desk("runs/a", stage, events, true);
        let mut h = fixtures::harness(SIZE, false, Controls::default(), desk, Controls::ui);
        typed(&mut h, label, text);
        let actions = h.state_mut().desk.take_orders();
        assert_eq!(actions, [Action::Send("runs/a".into(), Command::SetHyper(hyper))], "{label}");
    }
}

#[test]
fn a_supervised_run_shows_no_grpo_settings() {
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(20), true);
    let h = fixtures::harness(SIZE, false, Controls::default(), desk, Controls::ui);
    assert!(h.query_by_label("Lopti eta").is_none());
}

#[test]
fn a_run_that_was_cut_off_says_so_and_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("cut");
    std::fs::create_dir_all(run.join("checkpoints/step-00000016")).unwrap();
    let name = run.display().to_string();
    let desk = fixtures::desk(&name, Stage::Pretrain, fixtures::pretraining(16), false);
    let mut h = fixtures::harness(SIZE, true, Controls::default(), desk, Controls::ui);
    h.get_by_label_contains("ended without a message");
    h.get_by_label("Resume from step 16").click();
    h.run_steps(2);
    let args = vec!["pretrain".to_owned(), "--resume".into(), name];
    assert_eq!(h.state_mut().desk.take_orders(), [Action::Start { args, run }]);
}

#[test]
fn charts_draw_whatever_a_log_holds_in_any_size_dark_and_light() {
    type Made = fn() -> Vec<Event>;
    let histories: [(&str, Made); 5] = [
        ("empty", Vec::new),
        ("begun", || vec![fixtures::started("pretrain", 9)]),
        ("small", || fixtures::pretraining(40)),
        ("broken", || fixtures::broken(500)),
        ("reinforcement", || fixtures::reinforcement(60)),
    ];
    for (name, events) in histories {
        for (size, dark) in [([1.0, 1.0], true), ([380.0, 300.0], false), (SIZE, true), ([5000.0, 3000.0], false)] {
            for log_x in [false, true] {
                let mut desk = fixtures::desk("runs/a", Stage::Pretrain, events(), false);
                desk.look.log_x = log_x;
                desk.look.log_y_flipped = vec!["Loss".into()];
                fixtures::harness(size, dark, Charts::default(), desk, Charts::ui);
            }
            println!("{name} in {size:?}");
        }
    }
}

#[test]
fn charts_name_what_they_draw_with_the_newest_value() {
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(40), false);
    let last = desk.runs[0].files.history.last("merge/sma/eval_loss").unwrap();
    let h = fixtures::harness([900.0, 2600.0], true, Charts::default(), desk, Charts::ui);
    for title in ["Loss", "Gradient norm", "Learning rate", "Speed", "Device memory"] {
        h.get_by_label(title);
    }
    // With the decimals of the training loss beside it.
    h.get_by_label(&format!("merged (sma) {last:.3}"));
    assert!(h.query_by_label("Reward").is_none(), "a pre-training run has no reward");
}

#[test]
fn a_million_steps_are_drawn_in_few_points_and_no_spike_is_lost() {
    let steps = 1_000_000;
    let events = (1..=steps).map(|n| {
        let mut step = fixtures::step(n);
        if n == 777_777 {
            step.loss = 50.0;
        }
        Event::Step(step)
    });
    let desk = fixtures::desk("runs/a", Stage::Pretrain, events.collect(), false);
    let curve = &desk.runs[0].files.history.curves["loss"];
    let clock = &desk.runs[0].files.history.clock;
    let cut =
        lehr::history::CurveView { axis: lehr::history::Axis::Steps, from: 0.0, to: steps as f64, columns: 800, log: false };
    let lines = curve.lines(clock, &cut);
    let points: Vec<[f64; 2]> = lines.into_iter().flatten().collect();
    assert!(points.len() <= 1700, "{}", points.len());
    assert!(points.iter().any(|p| p[1] == 50.0));
    fixtures::harness(SIZE, true, Charts::default(), desk, Charts::ui);
}

#[test]
fn runs_are_a_tree_and_what_differs_is_listed() {
    let mut desk = fixtures::desk("runs/base", Stage::Pretrain, fixtures::pretraining(16), false);
    fixtures::add(&mut desk, "runs/child", Stage::Pretrain, fixtures::pretraining(16));
    let child = desk.runs[1].files.settings.as_mut().unwrap();
    child.start.parent = Some("base@16".into());
    child.train.learning_rate = 0.125;
    let mut h = fixtures::harness(SIZE, true, Runs::default(), desk, Runs::ui);
    h.get_by_label_contains("from base@16");
    h.get_by_label("learning rate");
    h.get_by_label("0.125");
    h.get_by_role_and_label(egui::accesskit::Role::Button, "child").click();
    h.run_steps(2);
    assert_eq!(h.state_mut().desk.take_orders(), [Action::Focus("runs/child".into())]);
}

#[test]
fn a_run_is_continued_from_the_page_of_its_controls() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("done").display().to_string();
    let desk = || fixtures::desk(&run, Stage::Pretrain, fixtures::pretraining(16), false);
    let after = |label: &str, choice: Option<&str>| {
        let mut h = fixtures::harness(SIZE, true, Controls::default(), desk(), Controls::ui);
        for words in [Some(label), choice].into_iter().flatten() {
            h.get_by_role_and_label(egui::accesskit::Role::Button, words).click();
            h.run_steps(3);
        }
        h.state_mut().desk.take_orders()
    };
    let args = vec!["pretrain".to_owned(), "--resume".into(), run.clone()];
    assert_eq!(after("Resume", None), [Action::Start { args, run: run.clone().into() }]);
    let fork = vec![("start.fork".to_owned(), format!("{run}@16"))];
    assert_eq!(after("Fork", Some("16")), [Action::NewRun("pretrain".into(), fork)]);
    let init = vec![("start.init".to_owned(), run.clone())];
    assert_eq!(after("Continue with", Some("Train it with GRPO")), [Action::NewRun("grpo".into(), init)]);
}

/// What a page lacks is a setting away.
#[test]
fn a_run_like_another_one_begins_with_its_settings() {
    let mut form = NewRun::default();
    form.fill("pretrain", &[("config".into(), "runs/a/config.toml".into()), ("eval.norms_every".into(), "25".into())]);
    assert_eq!(form.args(), ["pretrain", "--config", "runs/a/config.toml", "--norms-every=25"]);
    form.fill("pretrain", &[]);
    assert_eq!(form.args(), ["pretrain", "--preset", "nano"]);
}

/// What a form shows is what the run would have.
#[test]
fn the_form_shows_fitted_defaults_and_the_settings_of_a_forked_run() {
    let shows = |form: NewRun, value: &str| {
        let mut h = fixtures::harness([860.0, 1800.0], true, form, AppState::default(), NewRun::ui);
        fixtures::settle(&mut h);
        h.query_all_by_value(value).count() > 0
    };
    let mut form = NewRun::default();
    form.fill("pretrain", &[("train.max_steps".into(), "88".into())]);
    assert!(shows(form, "22"), "an evaluation every quarter of the run");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "[train]\nmax_steps = 777\nbatch_size = 5\n").unwrap();
    let mut form = NewRun::default();
    form.fill("pretrain", &[("start.fork".into(), format!("{}@5", dir.path().display()))]);
    assert!(shows(form, "777"));
}

#[test]
fn live_settings_are_told_in_words() {
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(16), true);
    let h = fixtures::harness(SIZE, true, Controls::default(), desk, Controls::ui);
    h.get_by_label("learning rate ×: 1 to 0.5, from step 9 on");
    assert!(h.query_by_label_contains("learning_rate_scale").is_none());
}

#[test]
fn a_run_is_deleted_only_after_a_second_word() {
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(16), false);
    let mut h = fixtures::harness(SIZE, true, Runs::default(), desk, Runs::ui);
    h.get_by_label("Delete").click();
    h.run_steps(2);
    assert_eq!(h.state_mut().desk.take_orders(), []);
    h.get_by_label("Delete it").click();
    h.run_steps(2);
    assert_eq!(h.state_mut().desk.take_orders(), [Action::Delete("runs/a".into())]);
}

#[test]
fn the_form_stands_for_a_command_line_and_starts_it() {
    let mut desk = AppState::default();
    desk.home = PathBuf::from("nowhere");
    let mut form = NewRun::default();
    let init = "merge:runs/a?last=4".to_owned();
    form.fill("grpo", &[("start.init".into(), init), ("grpo.lopti_eta".into(), "0.5".into()), ("train.seed".into(), "7".into())]);
    assert_eq!(form.args(), ["grpo", "--seed=7", "--init=merge:runs/a?last=4", "--lopti-eta=0.5"]);
    let mut h = fixtures::harness([900.0, 1400.0], false, form, desk, NewRun::ui);
    h.get_by_label_contains("lehr grpo --seed=7");
    h.get_by_label("Start").click();
    h.run_steps(2);
    let actions = h.state_mut().desk.take_orders();
    let run = PathBuf::from("nowhere/grpo-001");
    let started =
        actions.iter().find_map(|o| if let Action::Start { args, run: r } = o { Some((args.clone(), r.clone())) } else { None });
    let (args, path) = started.expect("a start");
    assert_eq!(path, run);
    assert_eq!(args[args.len() - 2..], ["--run".to_owned(), run.display().to_string()]);
}

#[test]
fn the_form_holds_every_setting_and_says_what_is_missing() {
    let mut h = fixtures::harness([900.0, 1300.0], true, NewRun::default(), AppState::default(), NewRun::ui);
    h.get_by_label_contains("name a text file");
    h.get_by_label("All settings").click();
    h.run_steps(3);
    let schema = lehr::config::schema::schema(Stage::Pretrain);
    // What lies below the edge is not in the tree of names; the first section is.
    for field in &schema[0].fields {
        assert!(h.query_all_by_label(&field.name.replace('_', " ")).count() > 0, "{}", field.name);
    }
}

#[test]
fn an_empty_desk_says_what_to_do() {
    let mut h = fixtures::harness(SIZE, true, Charts::default(), AppState::default(), Charts::ui);
    h.get_by_label("Start a new run").click();
    h.run_steps(2);
    assert_eq!(h.state_mut().desk.take_orders(), [Action::Show(Page::NewRun)]);
}

/// The button that resets a field moves nothing and hides nothing.
#[test]
fn help_stands_beside_each_field_whether_it_was_changed_or_not() {
    let schema = lehr::config::schema::schema(Stage::Pretrain);
    let fields = || schema.iter().flat_map(|section| &section.fields);
    let help = |name: &str| {
        let all = fields().find(|field| field.name == name).unwrap().help.clone();
        all.replace('`', "").split(". ").next().unwrap().trim_end_matches('.').to_owned()
    };
    let place = |changed: bool| {
        let mut form = NewRun::default();
        let typed = ("train.max_steps".to_owned(), "7".to_owned());
        form.fill("pretrain", if changed { std::slice::from_ref(&typed) } else { &[] });
        let h = fixtures::harness([860.0, 1800.0], true, form, AppState::default(), NewRun::ui);
        assert_eq!(h.query_by_label("reset").is_some(), changed);
        let reset = h.query_by_label("reset").map(|button| button.rect());
        // The name, its field and the button stand on one line.
        let name = h.get_by_label("max steps").rect().center().y;
        let value = if changed { "7" } else { "2000" };
        let field = h.get_all_by_value(value).next().unwrap().rect().center().y;
        let button = reset.map_or(name, |rect| rect.center().y);
        assert!([field, button].iter().all(|y| (y - name).abs() < 1.5), "{name}, {field} and {button}");
        (reset, ["max_steps", "seed", "data"].map(|name| h.get_by_label(&help(name)).rect()))
    };
    let ((_, before), (reset, after)) = (place(false), place(true));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.x_range(), after.x_range());
        assert!((before.top() - after.top()).abs() < 0.1, "{before:?} and {after:?}");
    }
    for rect in after {
        assert!(rect.right() <= 860.0 && rect.left() > reset.unwrap().right(), "{rect:?} beside {reset:?}");
    }
}

#[test]
fn help_stands_below_the_fields_of_a_narrow_form() {
    let h = fixtures::harness([560.0, 1800.0], true, NewRun::default(), AppState::default(), NewRun::ui);
    let (field, help) = (h.get_all_by_value("2000").next().unwrap().rect(), h.get_by_label("Number of steps").rect());
    assert!(help.top() >= field.bottom() && help.left() >= field.left() - 1.0 && help.right() <= 560.0, "{help:?} of {field:?}");
}

#[test]
fn a_path_is_chosen_in_a_dialog_or_typed() {
    let mut h = fixtures::harness([900.0, 1800.0], true, NewRun::default(), AppState::default(), NewRun::ui);
    let dialog = |choose: Choose, _: Option<PathBuf>| match choose {
        Choose::Files => Chosen::Paths(vec!["a.txt".into(), "b.txt".into()]),
        Choose::File => Chosen::Paths(vec!["own.toml".into()]),
        Choose::Folder => Chosen::Nothing,
    };
    set_dialog(&h.ctx, Arc::new(dialog));
    let choose = |h: &mut egui_kittest::Harness<'static, fixtures::Stand<NewRun>>, labels: &[&str]| {
        for label in labels {
            h.get_by_label(label).click();
            h.run_steps(3);
        }
        fixtures::settle(h);
    };
    choose(&mut h, &["Browse for data", "Files"]);
    choose(&mut h, &["Browse for config file"]);
    let args = ["pretrain", "--preset", "nano", "--config", "own.toml", "--data=a.txt", "--data=b.txt"];
    assert_eq!(h.state().page.args(), args);
    // A dialog that was dismissed changes nothing.
    choose(&mut h, &["Browse for data", "A folder"]);
    assert_eq!(h.state().page.args(), args);
    // Without one the path can be typed, and the page says why.
    set_dialog(&h.ctx, Arc::new(|_, _| Chosen::Unavailable("There is no file dialog here: type the path.".into())));
    choose(&mut h, &["Browse for config file"]);
    assert!(h.query_by_label_contains("There is no file dialog here").is_some());
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "config file").focus();
    h.run_steps(2);
    h.get_by_role_and_label(egui::accesskit::Role::TextInput, "config file").type_text("x");
    h.run_steps(2);
    assert!(h.state().page.args().iter().any(|arg| arg.contains('x') && arg.contains("own.toml")), "{:?}", h.state().page.args());
    assert!(h.query_by_label_contains("There is no file dialog here").is_none());
}

#[test]
fn a_list_without_runs_offers_ways_to_get_one() {
    let mut h = fixtures::harness(SIZE, true, Runs::default(), AppState::default(), Runs::ui);
    h.get_by_label("Start a new run").click();
    h.run_steps(2);
    h.get_by_label("Take a lesson").click();
    h.run_steps(2);
    let actions = h.state_mut().desk.take_orders();
    assert_eq!(actions, [Action::Show(Page::NewRun), Action::Show(Page::Lessons)]);
}

/// What is written is made by a thread: the page asks for it.
#[test]
fn charts_are_exported_by_orders() {
    let mut desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(40), false);
    desk.look.hidden_charts = lehr::history::chart_spec::CHARTS
        .iter()
        .map(|spec| spec.title.to_owned())
        .filter(|title| title != "Gradient norm")
        .collect();
    let mut h = fixtures::harness(SIZE, true, Charts::default(), desk, Charts::ui);
    let mut save = |words: &str| {
        h.get_by_label("…").click();
        h.run_steps(3);
        h.get_by_label(words).click();
        h.run_steps(3);
        h.state_mut().desk.take_orders()
    };
    let png = save("Save as PNG");
    let [Action::Picture(to, svg)] = &png[..] else { panic!("{png:?}") };
    assert!(to.ends_with("runs/a/exports/gradient-norm.png") && svg.contains("<svg"), "{to:?}");
    let csv = save("Save as CSV");
    let [Action::Csv { run, metrics, to }] = &csv[..] else { panic!("{csv:?}") };
    assert_eq!((run.to_str(), &metrics[..]), (Some("runs/a"), &["grad_norm".to_owned()][..]));
    assert!(to.ends_with("runs/a/exports/gradient-norm.csv"));
}

/// A run too short for a smoothed line is quoted as in the list of runs: by the mean of its last steps, not by a single batch.
#[test]
fn a_short_run_is_quoted_by_its_mean() {
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(20), false);
    let h = fixtures::harness([900.0, 2600.0], true, Charts::default(), desk, Charts::ui);
    let mean = (13..=20).map(|n| fixtures::step(n).loss).sum::<f64>() / 8.0;
    h.get_by_label(&format!("training loss (mean) {mean:.3}"));
}

/// A teacher who makes the type larger stays in the lesson, and so does one who makes it smaller again.
#[test]
fn a_window_that_becomes_narrow_stays_on_its_page() {
    let mut h = super::tooltips::window();
    h.run_steps(3);
    let tab = |h: &egui_kittest::Harness<'_, Option<lehr::app::Window>>, name: &str| h.get_by_label(name).click();
    let is_shown = |h: &mut egui_kittest::Harness<'_, Option<lehr::app::Window>>, words: &str| {
        h.run_steps(4);
        h.query_all_by_label_contains(words).count() > 0
    };
    tab(&h, "Lessons");
    assert!(is_shown(&mut h, "Each lesson is a text to read"));
    h.set_size(egui::vec2(600.0, 500.0));
    assert!(is_shown(&mut h, "Each lesson is a text to read"), "the narrow window has another page");
    tab(&h, "Inside");
    assert!(is_shown(&mut h, "A text through the model"));
    h.set_size(egui::vec2(1360.0, 860.0));
    assert!(is_shown(&mut h, "A text through the model"), "the wide window has another page");
}
