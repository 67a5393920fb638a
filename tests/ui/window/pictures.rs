//! Pictures of the main pages, compared with those that are kept. To renew them after a change that was meant, and looked at:
//! `UPDATE_SNAPSHOTS=1 cargo test --test ui window::pictures`. To see the whole window on every page with one to ten runs:
//! `cargo test --test ui look -- --ignored`, which writes PNGs to target/window.

use super::fixtures;
use eframe::egui;
use egui_kittest::{Harness, SnapshotOptions, SnapshotResults};
use lehr::app::Window;
use lehr::app::panels::{charts::Charts, controls::Controls, new_run::NewRun, runs::Runs};
use lehr::app::state::{AppState, OpenRun, Page};
use lehr::config::Stage;
use lehr::event::Event;
use lehr::history::RunFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text is drawn a little otherwise by other drivers.
fn options() -> SnapshotOptions {
    SnapshotOptions::new().threshold(1.2).max_failed_pixels(600usize)
}

fn two_runs() -> AppState {
    let mut desk = fixtures::desk("runs/base", Stage::Pretrain, fixtures::pretraining(400), true);
    fixtures::add(&mut desk, "runs/warm", Stage::Pretrain, fixtures::pretraining(300));
    let child = desk.runs[1].files.settings.as_mut().unwrap();
    child.start.parent = Some("base@200".into());
    child.train.learning_rate = 2e-3;
    desk
}

#[test]
fn main_pages_look_as_they_did() {
    let mut results = SnapshotResults::new();
    for (dark, name) in [(true, "dark"), (false, "light")] {
        let desk = || fixtures::desk("runs/base", Stage::Pretrain, fixtures::pretraining(400), true);
        let mut h = fixtures::harness([900.0, 640.0], dark, Charts::default(), desk(), Charts::ui);
        results.add(h.try_snapshot_options(format!("charts-{name}"), &options()));
        let mut h = fixtures::harness([900.0, 640.0], dark, Charts::default(), two_runs(), Charts::ui);
        results.add(h.try_snapshot_options(format!("charts-two-runs-{name}"), &options()));
        let mut h = fixtures::harness([360.0, 520.0], dark, Runs::default(), two_runs(), Runs::ui);
        results.add(h.try_snapshot_options(format!("runs-{name}"), &options()));
        let mut h = fixtures::harness([320.0, 520.0], dark, Controls::default(), desk(), Controls::ui);
        results.add(h.try_snapshot_options(format!("controls-{name}"), &options()));
        let mut h = fixtures::harness([860.0, 560.0], dark, NewRun::default(), AppState::default(), NewRun::ui);
        results.add(h.try_snapshot_options(format!("new-run-{name}"), &options()));
    }
}

/// The pages in the middle; those of the runs and the controls are beside each of them.
const ALL_PAGES: [Page; 7] = [Page::Charts, Page::Tokens, Page::Samples, Page::Merge, Page::Inside, Page::NewRun, Page::Lessons];

/// Runs of several stages with curves of this number of points; the first one trains.
fn many_runs(count: usize, points: u64) -> Vec<OpenRun> {
    const NAMES: [&str; 10] = [
        "base",
        "grpo-plain",
        "a-run-with-a-rather-long-name-2026-11-30",
        "annealed",
        "grpo-lopti",
        "base-lr-3e-3",
        "sft-merged",
        "grpo-ar",
        "base-seed-2",
        "grpo-both",
    ];
    let mut state = AppState::default();
    for (i, name) in NAMES.iter().enumerate().take(count) {
        let is_grpo = name.starts_with("grpo");
        let mut events = if is_grpo { fixtures::reinforcement(points) } else { fixtures::pretraining(points) };
        for event in &mut events {
            if let Event::Step(step) = event {
                step.loss += 0.15 * i as f64;
                step.metrics.values_mut().for_each(|v| v.0 *= 1.0 - 0.07 * i as f64);
            }
        }
        fixtures::add(&mut state, &format!("runs/{name}"), if is_grpo { Stage::Grpo } else { Stage::Pretrain }, events);
        let recorded =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/app").join(if is_grpo { "puzzles" } else { "stories" });
        let recorded = RunFiles::read(&recorded).unwrap();
        let files = &mut state.runs[i].files;
        files.history.tokens = recorded.history.tokens;
        files.history.predictions = recorded.history.predictions;
        files.history.samples = recorded.history.samples;
        files.history.norms = recorded.history.norms;
        files.completions = recorded.completions;
        if i > 1 {
            let settings = files.settings.as_mut().unwrap();
            settings.train.learning_rate *= i as f64;
            settings.start.parent = Some(format!("base@{}", points / 8 * 8 / 2));
        }
    }
    (state.runs[0].ours, state.runs[0].live) = (true, true);
    state.runs
}

/// Pictures of the whole window, to be looked at.
#[test]
#[ignore = "writes PNGs to target/window for people"]
fn look() {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/window");
    std::fs::create_dir_all(&out).unwrap();
    // A page, and a part of a picture's name, such as small-10x2000-light.
    let (only, part) = (std::env::var("PAGE").unwrap_or_default(), std::env::var("PART").unwrap_or_default());
    // The projector's size is that of 1920 x 1080 pixels, two for a point.
    let sizes: [(&str, [f32; 2], f32); 3] =
        [("desk", [1360.0, 860.0], 1.0), ("small", [1100.0, 700.0], 1.0), ("projector", [960.0, 540.0], 2.0)];
    for (count, points) in [(1, 20), (1, 2000), (3, 20), (3, 2000), (10, 20), (10, 2000)] {
        for (dark, (name, size, zoom)) in [true, false].into_iter().flat_map(|dark| sizes.map(|size| (dark, size))) {
            let end = format!("{name}-{count}x{points}-{}", if dark { "dark" } else { "light" });
            if !end.contains(&part) {
                continue;
            }
            let draw = move |ui: &mut egui::Ui, window: &mut Option<Window>| {
                let window = window.get_or_insert_with(|| {
                    let backend = Arc::new(lehr::backend::Native::new(PathBuf::from(env!("CARGO_BIN_EXE_lehr"))));
                    let mut window = Window::new(ui.ctx(), backend, "none".into(), None).unwrap();
                    let state = window.state();
                    state.runs = many_runs(count, points);
                    state.label_runs();
                    state.focus = Some(state.runs[0].files.path.clone());
                    state.look.theme = if dark { egui::ThemePreference::Dark } else { egui::ThemePreference::Light };
                    window
                });
                let ctx = ui.ctx().clone();
                window.advance(&ctx);
                window.draw(ui);
            };
            let mut h =
                Harness::builder().with_size(size).with_pixels_per_point(zoom).with_max_steps(4).build_ui_state(draw, None);
            for page in ALL_PAGES {
                let title = page.title().to_lowercase().replace(' ', "-");
                if !only.is_empty() && title != only {
                    continue;
                }
                let window = h.state_mut().as_mut().unwrap();
                window.show(page);
                // Pages about reinforcement learning show a run that has it.
                let at = usize::from(count > 1 && matches!(page, Page::Tokens | Page::Samples));
                let state = window.state();
                state.focus = Some(state.runs[at].files.path.clone());
                h.run_steps(4);
                fixtures::settle(&mut h);
                h.render().unwrap().save(out.join(format!("{title}-{end}.png"))).unwrap();
            }
        }
    }
}
