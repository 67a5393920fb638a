//! The pictures of the window in the documents, of real runs: `scripts/pictures` keeps what this writes to target/window.

use super::live::Live;
use eframe::egui;
use egui_kittest::kittest::Queryable as _;
use lehr::app::state::{Action, Page};
use lehr::event::{Command, LiveSettings};
use std::path::Path;

/// Around the window there is a margin of this width, which the script cuts off.
const MARGIN: f32 = 8.0;

fn window(width: f32, height: f32) -> Live {
    let mut live = Live::new();
    live.window().state().look.theme = egui::ThemePreference::Dark;
    live.h.set_size(egui::vec2(width, height) + egui::Vec2::splat(2.0 * MARGIN));
    live
}

fn save(live: &mut Live, name: &str) {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/window");
    std::fs::create_dir_all(&out).unwrap();
    // No pointer, and no message that passes.
    live.h.remove_cursor();
    live.h.run_steps(6);
    live.h.render().unwrap().save(out.join(name)).unwrap();
}

/// A run whose learning rate is changed while it trains.
#[test]
#[ignore = "writes the documents' pictures, which a person looks at: scripts/pictures"]
fn window_of_a_training_run() {
    let mut live = window(1360.0, 860.0);
    let run = live.run_path("pretrain-001");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/stories.txt");
    let more = ["--preset=nano", "--max-steps=400", "--eval-every=50", "--save-every=100"];
    let paths = [format!("--data={}", data.display()), format!("--run={}", run.display())];
    let args = std::iter::once("pretrain".to_owned()).chain(more.map(String::from)).chain(paths).collect();
    live.window().state().request(Action::Start { args, run: run.clone() });
    live.until(&run, "the first part", |r| r.files.history.step >= 140);
    let hyper = LiveSettings { learning_rate_scale: Some(0.3), ..LiveSettings::default() };
    live.window().state().request(Action::Send(run.clone(), Command::SetHyper(hyper)));
    live.until(&run, "the second part", |r| r.files.history.step >= 245);
    save(&mut live, "document-window.png");
    live.window().state().request(Action::Send(run.clone(), Command::Stop));
    live.until(&run, "the end", |r| r.files.state_label(r.live) == "stopped");
}

/// The first lesson after its run.
#[test]
#[ignore = "writes the documents' pictures, which a person looks at: scripts/pictures"]
fn lesson_with_its_answer() {
    let mut live = window(1100.0, 760.0);
    live.window().state().request(Action::Show(Page::Lessons));
    live.window().state().request(Action::Lesson("one-batch".into()));
    let has = |live: &Live, words: &str| live.h.query_all_by_label_contains(words).count() > 0;
    live.wait("the lesson", |live| has(live, "Run it without a prediction"));
    live.h.get_by_label("Run it without a prediction").click();
    live.wait("its answer", |live| has(live, "The answer"));
    let page = live.run_path("lessons/one-batch/page");
    live.until(&page, "its run on the other pages", |r| r.files.history.step == 300);
    // Below the chart, above the answer.
    live.h.get_by_label("Look at the texts").scroll_to_me();
    save(&mut live, "document-lesson.png");
}
