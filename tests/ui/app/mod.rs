//! Recorded and made-up runs, and pages drawn without a window.

pub mod fixtures;

use crate::settle::settle;
use eframe::egui::{self, Theme, Vec2};
use egui_kittest::{Harness, HarnessBuilder};
use lehr::app::panels::PageSet;
use lehr::app::state::{AppState, OpenRun, Page};
use lehr::history::RunFiles;
use std::path::{Path, PathBuf};

/// What is drawn.
pub struct State {
    pub desk: AppState,
    pub panels: PageSet,
    pub page: Page,
}

/// The pages under test.
pub const PAGES: [Page; 4] = [Page::Tokens, Page::Samples, Page::Merge, Page::Inside];

/// A recorded run.
pub fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui/app").join(name)
}

pub fn opened(files: RunFiles) -> OpenRun {
    let mut run = OpenRun::new(&files.path.clone(), 0);
    (run.files, run.loading) = (files, false);
    run
}

pub fn read(name: &str) -> OpenRun {
    opened(RunFiles::read(&recorded(name)).unwrap())
}

/// A desk with one run on it, in focus.
pub fn desk(run: OpenRun) -> AppState {
    let focus = Some(run.files.path.clone());
    let mut desk = AppState::default();
    (desk.runs, desk.focus, desk.home) = (vec![run], focus, "runs".into());
    desk
}

/// The run as one that this window trains.
pub fn ours(mut run: OpenRun) -> OpenRun {
    (run.ours, run.live) = (true, true);
    run
}

/// A page, drawn until it rests.
pub fn harness(desk: AppState, page: Page, size: Vec2, theme: Theme) -> Harness<'static, State> {
    stand(Harness::builder(), desk, page, size, theme)
}

/// The same; what no font can draw is drawn as a box.
pub fn harness_for_any_text(desk: AppState, page: Page, size: Vec2, theme: Theme) -> Harness<'static, State> {
    stand(Harness::builder().allow_missing_glyphs(), desk, page, size, theme)
}

fn stand(builder: HarnessBuilder<State>, desk: AppState, page: Page, size: Vec2, theme: Theme) -> Harness<'static, State> {
    let state = State { desk, panels: PageSet::default(), page };
    let builder = builder.with_size(size).with_theme(theme).with_max_steps(12);
    let mut harness = builder.build_ui_state(
        |ui, state: &mut State| {
            lehr::app::theme::apply(ui.ctx());
            egui::CentralPanel::default().show(ui, |ui| state.panels.ui(state.page, ui, &mut state.desk));
        },
        state,
    );
    harness.run_ok();
    settle(&mut harness);
    harness
}
