//! What a frame of the window costs with long histories: the charts of two runs, drawn again and again.
//! A frame in which nothing is new, and one in which a run has made a step: all its curves are cut again.
//! `cargo bench --bench window` prints milliseconds of the processor's two parts (layout and shapes; triangles), and of the whole with
//! a software adapter. Then the whole window over a log on disk: the first frame, the first curve, the longest frame, and all of the log.

use eframe::egui;
use egui_kittest::Harness;
use lehr::app::panels::charts::Charts;
use lehr::app::state::{AppState, OpenRun};
use lehr::app::{Options, Window};
use lehr::backend::Native;
use lehr::event::{Event, Step};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn run(name: &str, index: usize, steps: u64) -> OpenRun {
    let mut run = OpenRun::new(Path::new(name), index);
    (1..=steps).for_each(|n| push(&mut run, n));
    run.loading = false;
    run
}

fn push(run: &mut OpenRun, n: u64) {
    run.files.history.push(event(n));
}

fn event(n: u64) -> Event {
    let noise = (n as f64 * 12.9898).sin();
    let loss = 2.0 + 3.0 / (1.0 + n as f64 / 1000.0) + 0.2 * noise;
    let grad_norm = 1.0 + noise.abs();
    Event::Step(Step {
        step: n,
        loss,
        grad_norm,
        learning_rate: 1e-3,
        entropy: 1.0,
        num_tokens: 768 * n,
        seconds: n as f64,
        ..Step::default()
    })
}

/// Milliseconds from opening a log of this number of steps to the first frame, to the first curve and to the end of the log; of the longest frame.
fn opened(steps: u64) -> [f64; 4] {
    let home = tempfile::tempdir().expect("a folder");
    let run = home.path().join("a");
    std::fs::create_dir(&run).expect("a folder");
    let mut log = BufWriter::new(File::create(run.join("events.jsonl")).expect("a file"));
    for n in 1..=steps {
        writeln!(log, "{}", serde_json::to_string(&event(n)).expect("JSON")).expect("a line");
    }
    log.into_inner().expect("a whole file");
    let program = std::env::current_exe().expect("this program");
    let draw = move |ui: &mut egui::Ui, window: &mut Option<Window>| {
        let window = window.get_or_insert_with(|| {
            let backend = Arc::new(Native::new(program.clone()));
            let mut window = Window::new(ui.ctx(), backend, "none".into(), None).expect("a window");
            window.open(Options { runs: vec![run.clone()], ..Options::default() });
            window
        });
        let ctx = ui.ctx().clone();
        window.advance(&ctx);
        window.draw(ui);
    };
    let begin = Instant::now();
    let since = |begin: Instant| begin.elapsed().as_secs_f64() * 1e3;
    let mut harness = Harness::builder().with_size([1360.0, 860.0]).with_max_steps(1).build_ui_state(draw, None);
    let (first, mut curve, mut longest) = (since(begin), None, 0f64);
    loop {
        let frame = Instant::now();
        harness.step();
        longest = longest.max(since(frame));
        let window = harness.state_mut().as_mut().expect("a window");
        let step = window.state().runs.first().map_or(0, |run| run.files.history.step);
        curve = curve.or((step > 0).then(|| since(begin)));
        if step == steps {
            return [first, curve.unwrap_or_default(), longest, since(begin)];
        }
    }
}

type Page<'a> = Harness<'a, (Charts, AppState)>;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!(
        "{:>10} {:>14} {:>14} {:>14} {:>14} {:>14} {:>14}",
        "steps", "events/s taken", "first frame ms", "frame ms", "new step ms", "triangles ms", "drawn ms"
    );
    for steps in [1_000, 100_000, 1_000_000] {
        let begin = Instant::now();
        let mut desk = AppState::default();
        desk.runs = vec![run("a", 0, steps), run("b", 1, steps)];
        desk.focus = Some("a".into());
        let rate = 2.0 * steps as f64 / begin.elapsed().as_secs_f64();
        let draw = |ui: &mut egui::Ui, (page, desk): &mut (Charts, AppState)| page.ui(ui, desk);
        let begin = Instant::now();
        let mut harness = Harness::builder().with_size([1360.0, 860.0]).build_ui_state(draw, (Charts::default(), desk));
        let first = begin.elapsed().as_secs_f64();
        let mut time = |what: &mut dyn FnMut(&mut Page<'_>)| {
            let one = |harness: &mut Page<'_>, what: &mut dyn FnMut(&mut Page<'_>)| {
                let begin = Instant::now();
                what(harness);
                begin.elapsed().as_secs_f64() * 1e3
            };
            median((0..15).map(|_| one(&mut harness, what)).collect())
        };
        let frame = time(&mut |h| h.step());
        let mut n = steps;
        let news = time(&mut |h| {
            n += 1;
            push(&mut h.state_mut().1.runs[0], n);
            h.step();
        });
        let triangles = time(&mut |h| {
            let output = h.output();
            std::hint::black_box(h.ctx.tessellate(output.shapes.clone(), output.pixels_per_point));
        });
        let drawn = time(&mut |h| {
            h.step();
            h.render().expect("an adapter");
        });
        println!("{steps:>10} {rate:>14.0} {:>14.1} {frame:>14.2} {news:>14.2} {triangles:>14.2} {drawn:>14.1}", first * 1e3);
    }
    println!(
        "\n{:>10} {:>14} {:>14} {:>16} {:>14}",
        "steps", "first frame ms", "first curve ms", "longest frame ms", "whole log ms"
    );
    for steps in [100_000, 1_000_000] {
        let [first, curve, longest, whole] = opened(steps);
        println!("{steps:>10} {first:>14.1} {curve:>14.1} {longest:>16.1} {whole:>14.0}");
    }
}
