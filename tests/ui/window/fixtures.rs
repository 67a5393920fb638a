//! Histories made for tests.

pub use crate::settle::settle;

use eframe::egui;
use egui_kittest::Harness;
use lehr::app::state::{AppState, OpenRun};
use lehr::config::{Settings, SettingsLayers, Stage};
use lehr::event::{Eval, Event, Merged, Number, Rescue, SavedCheckpoint, Started, Step, TaskEval};
use std::collections::BTreeMap;
use std::path::Path;

pub fn started(stage: &str, max_steps: u64) -> Event {
    Event::Started(Started {
        stage: stage.into(),
        run: "runs/made".into(),
        step: 0,
        max_steps,
        parameters: 811_776,
        tokens_per_step: 768,
        train_tokens: 400_000,
        val_tokens: 40_000,
        adapter: "an adapter".into(),
        driver: "a driver".into(),
        startup_seconds: 1.0,
        version: "0".into(),
        parent: None,
        time: 1.0e9,
    })
}

/// A loss that falls, with noise of its own.
pub fn step(step: u64) -> Step {
    let s = step as f64;
    let noise = (s * 12.9898).sin() * 0.2;
    Step {
        step,
        loss: 1.5 + 3.0 / (1.0 + s / 40.0) + noise,
        grad_norm: 0.8 + 0.3 * noise.abs(),
        learning_rate: 1e-3,
        entropy: 1.4,
        mean_token_accuracy: 0.4,
        num_tokens: 768 * step,
        epoch: s / 500.0,
        tokens_per_second: 2800.0 + 100.0 * noise,
        mfu: 0.7,
        seconds: 0.27 * s,
        device_bytes: 45_000_000,
        ..Step::default()
    }
}

fn eval(step: u64, eval_loss: f64) -> Event {
    let (perplexity, eval_mean_token_accuracy) = (eval_loss.exp(), 0.4);
    Event::Eval(Eval { step, eval_loss, perplexity, eval_mean_token_accuracy, eval_tokens: 4096, eval_seconds: 0.5 })
}

/// A pre-training run with everything that such a run can have.
pub fn pretraining(steps: u64) -> Vec<Event> {
    let mut events = vec![started("pretrain", steps)];
    for n in 1..=steps {
        events.push(Event::Step(step(n)));
        if n.is_multiple_of((steps / 8).max(1)) {
            let loss = 1.6 + 3.0 / (1.0 + n as f64 / 40.0);
            events.push(eval(n, loss));
            let metrics = BTreeMap::from([("merge/sma/eval_loss".to_owned(), Number(loss - 0.08))]);
            let merged =
                Merged { step: n, method: "sma".into(), metrics, anneal_estimate: Some(loss - 0.1), ..Merged::default() };
            events.push(Event::Merged(merged));
            let path = format!("runs/made/checkpoints/step-{n:08}").into();
            events.push(Event::Checkpoint(SavedCheckpoint { step: n, path, bytes: 9_000_000, save_seconds: 0.2 }));
        }
    }
    events.push(Event::HyperChanged { step: steps / 2, name: "learning_rate_scale".into(), before: 1.0, after: 0.5 });
    events.push(Event::Rescue(Rescue {
        step: steps,
        to_step: steps - steps / 8,
        method: "rollback".into(),
        cause: "the loss rose".into(),
        ..Rescue::default()
    }));
    events
}

/// A GRPO run.
pub fn reinforcement(steps: u64) -> Vec<Event> {
    let mut events = vec![started("grpo", steps)];
    for n in 1..=steps {
        let s = n as f64;
        let names = [
            "reward",
            "accuracy",
            "accuracy/2",
            "accuracy/3",
            "clip_ratio/region_mean",
            "policy_loss",
            "completions/mean_length",
        ];
        let values = [s / 50.0 - 0.2, s / 200.0, s / 150.0, s / 300.0, 0.02, 0.001, 30.0 + (s / 3.0).sin()];
        let metrics = names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), Number(value))).collect();
        events.push(Event::Step(Step { metrics, mean_token_accuracy: f64::NAN, ..step(n) }));
    }
    events.push(Event::TaskEval(TaskEval { step: steps, task: "kk".into(), ..TaskEval::default() }));
    events
}

/// A run whose every other number is none.
pub fn broken(steps: u64) -> Vec<Event> {
    let mut events = vec![started("pretrain", steps)];
    for n in 1..=steps {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 1e300][(n % 6) as usize];
        events.push(Event::Step(Step {
            loss: odd,
            grad_norm: odd,
            learning_rate: odd,
            seconds: odd,
            tokens_per_second: odd,
            ..step(n)
        }));
    }
    events.push(Event::Failed { text: "the device was lost: \u{202e}resume with --resume".into() });
    events
}

pub fn settings(stage: Stage) -> Settings {
    SettingsLayers::of(stage).unwrap().settings().unwrap()
}

/// A desk with one run of these events in focus, trained by this window if `ours`.
pub fn desk(name: &str, stage: Stage, events: Vec<Event>, ours: bool) -> AppState {
    let mut desk = AppState::default();
    add(&mut desk, name, stage, events);
    let run = &mut desk.runs[0];
    (run.ours, run.live) = (ours, ours);
    desk
}

pub fn add(desk: &mut AppState, name: &str, stage: Stage, events: Vec<Event>) {
    let mut run = OpenRun::new(Path::new(name), desk.runs.len());
    run.files.settings = Some(settings(stage));
    run.loading = false;
    events.into_iter().for_each(|e| run.files.history.push(e));
    desk.focus.get_or_insert_with(|| name.into());
    desk.runs.push(run);
}

/// A page over a desk.
pub struct Stand<P> {
    pub page: P,
    pub desk: AppState,
}

/// A page over a desk in a window of this size; dark or light.
pub fn harness<P: 'static>(
    size: [f32; 2],
    dark: bool,
    page: P,
    desk: AppState,
    draw: impl Fn(&mut P, &mut egui::Ui, &mut AppState) + 'static,
) -> Harness<'static, Stand<P>> {
    let builder = Harness::builder().with_size(size).with_max_steps(8).with_step_dt(0.1);
    let mut harness = builder.build_ui_state(
        move |ui, stand: &mut Stand<P>| {
            lehr::app::theme::apply(ui.ctx());
            ui.ctx().set_theme(if dark { egui::Theme::Dark } else { egui::Theme::Light });
            draw(&mut stand.page, ui, &mut stand.desk);
        },
        Stand { page, desk },
    );
    harness.run_steps(2);
    settle(&mut harness);
    harness
}
