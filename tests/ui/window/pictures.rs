//! Pictures of the main pages, compared with those that are kept. To renew them after a change that was meant, and looked at:
//! `UPDATE_SNAPSHOTS=1 cargo test --test ui window pictures`.

use super::made;
use egui_kittest::{SnapshotOptions, SnapshotResults};
use lehr::app::panels::{charts::Charts, controls::Controls, new_run::NewRun, runs::Runs};
use lehr::app::state::AppState;
use lehr::config::Stage;

/// Text is drawn a little otherwise by other drivers.
fn options() -> SnapshotOptions {
    SnapshotOptions::new().threshold(1.2).max_failed_pixels(600usize)
}

fn two_runs() -> AppState {
    let mut desk = made::desk("runs/base", Stage::Pretrain, made::pretraining(400), true);
    made::add(&mut desk, "runs/warm", Stage::Pretrain, made::pretraining(300));
    let child = desk.runs[1].files.settings.as_mut().unwrap();
    child.start.parent = Some("base@200".into());
    child.train.learning_rate = 2e-3;
    desk
}

#[test]
fn main_pages_look_as_they_did() {
    let mut results = SnapshotResults::new();
    for (dark, name) in [(true, "dark"), (false, "light")] {
        let desk = || made::desk("runs/base", Stage::Pretrain, made::pretraining(400), true);
        let mut h = made::harness([900.0, 640.0], dark, Charts::default(), desk(), Charts::ui);
        results.add(h.try_snapshot_options(format!("charts-{name}"), &options()));
        let mut h = made::harness([900.0, 640.0], dark, Charts::default(), two_runs(), Charts::ui);
        results.add(h.try_snapshot_options(format!("charts-two-runs-{name}"), &options()));
        let mut h = made::harness([360.0, 520.0], dark, Runs::default(), two_runs(), Runs::ui);
        results.add(h.try_snapshot_options(format!("runs-{name}"), &options()));
        let mut h = made::harness([320.0, 520.0], dark, Controls::default(), desk(), Controls::ui);
        results.add(h.try_snapshot_options(format!("controls-{name}"), &options()));
        let mut h = made::harness([860.0, 560.0], dark, NewRun::default(), AppState::default(), NewRun::ui);
        results.add(h.try_snapshot_options(format!("new-run-{name}"), &options()));
    }
}
