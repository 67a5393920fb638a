//! The painted shapes: no value where a run has none, labels at every zoom, one meaning per colour, numbers that are
//! they are of.

use super::fixtures;
use eframe::egui::{self, Color32, Rect, Shape, epaint::ColorMode};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use lehr::app::Window;
use lehr::app::chart::{Frame, chart_ui};
use lehr::app::panels::{charts::Charts, runs::Runs};
use lehr::app::state::{AppState, Page};
use lehr::app::theme;
use lehr::config::Stage;
use lehr::event::{Event, Number, Step};
use lehr::history::Axis;
use std::path::Path;
use std::sync::Arc;

type Stand<P> = Harness<'static, fixtures::Stand<P>>;

/// Everything that was painted, in order.
fn shapes<S>(h: &Harness<'_, S>) -> Vec<Shape> {
    fn flat(shape: &Shape, out: &mut Vec<Shape>) {
        match shape {
            Shape::Vec(parts) => parts.iter().for_each(|part| flat(part, out)),
            other => out.push(other.clone()),
        }
    }
    let mut out = Vec::new();
    h.output().shapes.iter().for_each(|clipped| flat(&clipped.shape, &mut out));
    out
}

/// Painted texts with their places.
fn texts<S>(h: &Harness<'_, S>) -> Vec<(String, Rect)> {
    let text =
        |shape| if let Shape::Text(t) = shape { Some((t.galley.text().to_owned(), t.visual_bounding_rect())) } else { None };
    shapes(h).into_iter().filter_map(text).collect()
}

/// Texts to the right of the text `name`, in its row; for each place where that stands.
fn rows(texts: &[(String, Rect)], name: &str) -> Vec<Vec<String>> {
    let heads = texts.iter().filter(|(text, _)| text == name);
    let row = |head: &Rect| {
        let beside = |r: &Rect| (r.center().y - head.center().y).abs() < 3.0 && r.left() >= head.right();
        texts.iter().filter(|(text, rect)| beside(rect) && !text.is_empty()).map(|(text, _)| text.clone()).collect()
    };
    heads.map(|(_, head)| row(head)).collect()
}

/// Titles of all charts but that of the losses.
fn all_but_losses() -> Vec<String> {
    let titles = lehr::history::chart_spec::CHARTS.iter().map(|spec| spec.title.to_owned());
    titles.filter(|title| title != "Loss").collect()
}

/// A run whose log begins behind `from`.
fn between(from: u64, to: u64) -> Vec<Event> {
    [fixtures::started("pretrain", to)].into_iter().chain((from + 1..=to).map(|n| Event::Step(fixtures::step(n)))).collect()
}

fn early_and_late() -> AppState {
    let mut desk = fixtures::desk("runs/early-run", Stage::Pretrain, between(0, 400), false);
    fixtures::add(&mut desk, "runs/late-run", Stage::Pretrain, between(800, 1200));
    desk.look.columns = 1;
    desk
}

#[test]
fn the_cross_hair_says_where_it_is_and_nothing_where_a_run_has_nothing() {
    for (at, title, there, gone) in
        [(287.2, "step 287", "early-run", "late-run"), (1000.0, "step 1,000", "late-run", "early-run")]
    {
        let h =
            fixtures::harness([900.0, 1300.0], true, Charts::default(), early_and_late(), move |page: &mut Charts, ui, desk| {
                desk.cursor = Some(at);
                page.ui(ui, desk);
            });
        let texts = texts(&h);
        assert!(texts.iter().any(|(text, _)| text == title), "{title}: {texts:?}");
        let (there, gone) = (rows(&texts, there), rows(&texts, gone));
        assert!(!there.is_empty() && !gone.is_empty());
        assert!(gone.iter().flatten().all(|cell| cell == "–"), "{gone:?}");
        assert!(there.iter().flatten().all(|cell| cell != "–"), "{there:?}");
        // The loss, in the first chart: what was measured thereabouts.
        let loss: f64 = there[0][0].parse().unwrap();
        let near = (-10i64..=10).map(|d| fixtures::step((at as i64 + d) as u64).loss);
        let (low, high) = near.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        assert!((low..=high).contains(&loss), "{loss} of {low} to {high}");
    }
}

/// Held-out losses are far apart: between two of them the nearer one is named with its step.
#[test]
fn a_value_that_was_measured_elsewhere_says_where() {
    let mut desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(400), false);
    desk.look.hidden_charts = all_but_losses();
    let history = &desk.runs[0].files.history;
    let curve = &history.curves["eval_loss"];
    let steps: Vec<f64> = curve.rows().iter().map(|row| history.clock.at(Axis::Steps, *row)).collect();
    let i = steps.windows(2).position(|w| w[1] - w[0] > 10.0).expect("evaluations that are apart");
    let (here, value) = (steps[i], lehr::app::format::number(curve.values()[i]));
    let between = here + 0.4 * (steps[i + 1] - here);
    for (at, words) in [(here, format!("validation loss {value}")), (between, format!("validation loss {value} at {here}"))] {
        let h = fixtures::harness([900.0, 700.0], true, Charts::default(), desk, move |page: &mut Charts, ui, desk| {
            desk.cursor = Some(at);
            page.ui(ui, desk);
        });
        let texts = texts(&h);
        assert!(texts.iter().any(|(text, _)| *text == words), "{words}: {texts:?}");
        desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(400), false);
        desk.look.hidden_charts = all_but_losses();
    }
}

/// Two charts on any page: the pointer over the lower one, away, over it again, and then it is not drawn any more.
#[test]
fn the_cross_hair_leaves_with_the_pointer() {
    let draw = |shown: &mut usize, ui: &mut egui::Ui, desk: &mut AppState| {
        let runs = [Path::new("runs/a").to_owned()];
        let frame = Frame { view: None, runs: &runs, log_x: false, only: &[], raw: true };
        for spec in lehr::history::chart_spec::CHARTS.iter().filter(|s| ["Loss", "Gradient norm"].contains(&s.title)).take(*shown)
        {
            chart_ui(ui, desk, spec, &frame, false, 240.0);
        }
    };
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(400), false);
    let mut h = fixtures::harness([700.0, 800.0], true, 2, desk, draw);
    let heads = |h: &Stand<usize>| -> Vec<String> {
        let of = |(text, _): (String, Rect)| (text == "newest" || text.starts_with("step ")).then_some(text);
        texts(h).into_iter().filter_map(of).collect()
    };
    let none = vec!["newest"; 2];
    assert_eq!(heads(&h), none);
    let lower = texts(&h).iter().filter(|(text, _)| text == "newest").map(|(_, r)| r.top()).next().unwrap() + 120.0;
    for _ in 0..2 {
        h.hover_at(egui::pos2(400.0, lower));
        h.run_steps(3);
        assert!(heads(&h).len() == 2 && heads(&h).iter().all(|head| head.starts_with("step ")), "{:?}", heads(&h));
        h.hover_at(egui::pos2(400.0, 795.0));
        h.run_steps(3);
        assert_eq!(heads(&h), none);
    }
    h.hover_at(egui::pos2(400.0, lower));
    h.run_steps(3);
    h.state_mut().page = 1;
    h.run_steps(3);
    assert_eq!(heads(&h), ["newest"]);
}

#[test]
fn without_a_cross_hair_the_newest_values_are_named_so() {
    let h = fixtures::harness([900.0, 1300.0], false, Charts::default(), early_and_late(), Charts::ui);
    let texts = texts(&h);
    assert!(texts.iter().any(|(text, _)| text == "newest"));
    assert!(rows(&texts, "late-run").iter().flatten().all(|cell| cell != "–"));
}

/// Labels of the horizontal axis: times end in their unit.
fn times<P>(h: &Stand<P>, below: f32) -> Vec<(String, Rect)> {
    let is_time = |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && (text.ends_with(" s") || text.ends_with(" min"));
    texts(h).into_iter().filter(|(text, r)| is_time(text) && r.top() > below).collect()
}

#[test]
fn the_axis_keeps_its_labels_when_somebody_zooms() {
    for width in [420.0, 640.0, 900.0, 1300.0] {
        let mut desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(400), false);
        desk.look.columns = 1;
        desk.look.hidden_charts = all_but_losses();
        desk.look.axis = Axis::Relative;
        let mut h = fixtures::harness([width, 900.0], true, Charts::default(), desk, Charts::ui);
        for zoom in 0..4 {
            let title = h.get_by_label("Loss").rect();
            let labels = times(&h, title.bottom());
            assert!(!labels.is_empty(), "{width} wide, zoomed {zoom} times: no label");
            for (text, rect) in &labels {
                assert!(rect.left() >= 0.0 && rect.right() <= width, "{text} sticks out: {rect:?} in {width}");
            }
            for pair in labels.windows(2) {
                assert!(pair[0].1.right() < pair[1].1.left(), "{pair:?} in {width}");
            }
            let (a, b) = (egui::pos2(0.45 * width, title.bottom() + 90.0), egui::pos2(0.8 * width, title.bottom() + 95.0));
            h.hover_at(a);
            h.run_steps(1);
            h.drag_at(a);
            h.run_steps(1);
            h.hover_at(a + 0.5 * (b - a));
            h.run_steps(1);
            h.hover_at(b);
            h.run_steps(1);
            h.drop_at(b);
            h.run_steps(2);
            // The cross-hair's time is no label.
            h.remove_cursor();
            h.run_steps(2);
            assert!(h.query_by_label("Show all").is_some(), "{width} wide: dragging has not zoomed");
        }
    }
}

/// Widths and colours of painted curves, in order.
fn curves<P>(h: &Stand<P>) -> Vec<(f32, Color32)> {
    let curve = |shape: &Shape| match shape {
        Shape::Path(path) if !path.closed && path.points.len() > 10 => match path.stroke.color {
            ColorMode::Solid(color) => Some((path.stroke.width, color)),
            ColorMode::UV(_) => None,
        },
        // Dense curves are painted as bands between least and greatest, as wide as the line where they are flat.
        Shape::Band(band) => Some((band.points.iter().map(|point| point.y.span()).fold(f32::MAX, f32::min), band.fill)),
        _ => None,
    };
    shapes(h).iter().filter_map(curve).collect()
}

#[test]
fn the_selected_run_lies_on_top_and_colours_are_those_of_the_list() {
    for (dark, visuals) in [(true, egui::Visuals::dark()), (false, egui::Visuals::light())] {
        for focus in ["runs/early-run", "runs/late-run"] {
            let mut desk = early_and_late();
            desk.focus = Some(focus.into());
            desk.look.hidden_charts = all_but_losses();
            let colors =
                |desk: &AppState| -> Vec<Color32> { desk.runs.iter().map(|r| theme::readable(r.color, &visuals)).collect() };
            let (own, selected) = (colors(&desk), theme::readable(desk.run(Path::new(focus)).unwrap().color, &visuals));
            let h = fixtures::harness([900.0, 700.0], dark, Charts::default(), desk, Charts::ui);
            // What was measured is paler than the runs' colours.
            let painted = curves(&h);
            let strong: Vec<_> = painted.iter().copied().filter(|(_, color)| own.contains(color)).collect();
            assert_eq!(strong.len(), 2, "{painted:?} of {own:?}");
            assert_eq!(strong[1].1, selected, "drawn last");
            assert!(strong[1].0 > strong[0].0 && own.contains(&strong[0].1) && strong[0].1 != selected);
            let list = fixtures::harness([500.0, 400.0], dark, Runs::default(), early_and_late(), Runs::ui);
            let dots: Vec<Color32> =
                shapes(&list).iter().filter_map(|s| if let Shape::Circle(c) = s { Some(c.fill) } else { None }).collect();
            assert!(own.iter().all(|color| dots.contains(color)), "{own:?} in {dots:?}");
        }
    }
}

#[test]
fn ten_runs_have_ten_colours_whatever_the_order() {
    let desk_of = |names: Vec<u32>| -> Vec<(String, Color32)> {
        let mut desk = AppState::default();
        names.iter().for_each(|i| fixtures::add(&mut desk, &format!("runs/{i}"), Stage::Pretrain, Vec::new()));
        desk.label_runs();
        let mut found: Vec<_> = desk.runs.iter().map(|run| (run.name(), run.color)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let found = desk_of((0..10).collect());
    for (name, color) in &found {
        assert_eq!(found.iter().filter(|other| other.1 == *color).count(), 1, "{name}");
    }
    assert_eq!(desk_of(vec![7, 3, 9, 0, 1, 8, 2, 6, 5, 4]), found);
}

#[test]
fn equal_names_of_runs_are_told_apart() {
    let mut desk = AppState::default();
    ["a/base", "b/base", "b/other"].iter().for_each(|path| fixtures::add(&mut desk, path, Stage::Pretrain, Vec::new()));
    desk.label_runs();
    let h = fixtures::harness([500.0, 500.0], true, Runs::default(), desk, Runs::ui);
    ["a/base", "b/base", "other"].iter().for_each(|name| assert!(h.query_all_by_label(name).next().is_some(), "{name}"));
}

#[test]
fn only_this_run_unticks_the_others() {
    let mut h = fixtures::harness([900.0, 700.0], true, Charts::default(), early_and_late(), Charts::ui);
    h.get_by_label("Only this run").click();
    h.run_steps(2);
    let visible: Vec<bool> = h.state().desk.runs.iter().map(|run| run.visible).collect();
    assert_eq!(visible, [true, false]);
    assert!(h.query_by_label("Only this run").is_none());
}

#[test]
fn the_list_quotes_no_single_batch() {
    let mut events = between(0, 200);
    // The last batch is an easy one.
    events.push(Event::Step(Step { loss: 0.001, ..fixtures::step(201) }));
    let losses: Vec<f64> = (182..=200).map(|n| fixtures::step(n).loss).chain([0.001]).collect();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    let desk = fixtures::desk("runs/a", Stage::Pretrain, events, false);
    let h = fixtures::harness([700.0, 500.0], true, Runs::default(), desk, Runs::ui);
    h.get_by_label_contains(&format!("training loss {} (mean of 20 steps)", lehr::app::format::number(mean)));
    // Nor does a smoothed curve's legend.
    let mut events = between(0, 400);
    events.push(Event::Step(Step { loss: 0.001, ..fixtures::step(401) }));
    let losses = (362..=400).map(|n| fixtures::step(n).loss).chain([0.001]);
    let words = format!("training loss (mean) {}", lehr::app::format::number(losses.sum::<f64>() / 40.0));
    let mut desk = fixtures::desk("runs/a", Stage::Pretrain, events, false);
    desk.look.hidden_charts = all_but_losses();
    let h = fixtures::harness([900.0, 400.0], true, Charts::default(), desk, Charts::ui);
    assert!(texts(&h).iter().any(|(text, _)| *text == words), "{words}: {:?}", texts(&h));
    let desk = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(40), false);
    let h = fixtures::harness([700.0, 500.0], true, Runs::default(), desk, Runs::ui);
    h.get_by_label_contains(" at step 40");
    let desk = fixtures::desk("runs/g", Stage::Grpo, fixtures::reinforcement(40), false);
    let h = fixtures::harness([700.0, 500.0], true, Runs::default(), desk, Runs::ui);
    h.get_by_label_contains("reward ");
    assert!(h.query_by_label_contains("training loss").is_none());
}

/// The loss of the policy is no cross-entropy, and its run has no line in the chart of losses.
#[test]
fn charts_do_not_mix_units() {
    let mut desk = fixtures::desk("runs/text-run", Stage::Pretrain, fixtures::pretraining(40), false);
    let mut policy = fixtures::reinforcement(40);
    policy.push(Event::Step(Step {
        loss: -0.5,
        metrics: [("policy_loss".to_owned(), Number(-0.5))].into(),
        ..fixtures::step(41)
    }));
    fixtures::add(&mut desk, "runs/policy-run", Stage::Grpo, policy);
    desk.look.columns = 1;
    let h = fixtures::harness([900.0, 4000.0], true, Charts::default(), desk, Charts::ui);
    let (title, next) = (h.get_by_label("Loss").rect(), h.get_by_label("Reward").rect());
    let texts = texts(&h);
    let inside = |name: &str, from: f32, to: f32| texts.iter().any(|(text, r)| text == name && r.top() > from && r.bottom() < to);
    assert!(inside("text-run", title.bottom(), next.top()));
    assert!(!inside("policy-run", title.bottom(), next.top()), "the policy's loss among cross-entropies");
    let own = h.get_by_label("Policy loss").rect();
    assert!(inside("policy-run", own.bottom(), own.bottom() + 300.0));
}

/// A run of another stage is not squeezed into the range of a longer one.
#[test]
fn a_chart_spans_its_own_runs() {
    let mut desk = fixtures::desk("runs/text-run", Stage::Pretrain, fixtures::pretraining(4000), false);
    fixtures::add(&mut desk, "runs/policy-run", Stage::Grpo, fixtures::reinforcement(40));
    desk.look.columns = 1;
    let titles = lehr::history::chart_spec::CHARTS.iter().map(|spec| spec.title.to_owned());
    desk.look.hidden_charts = titles.filter(|title| title != "Reward").collect();
    let h = fixtures::harness([900.0, 400.0], true, Charts::default(), desk, Charts::ui);
    let steps: Vec<u32> = texts(&h).iter().filter_map(|(text, _)| text.parse().ok()).collect();
    assert!(steps.contains(&40) || steps.contains(&30), "{steps:?}");
    assert!(steps.iter().all(|step| *step <= 40), "{steps:?}");
}

/// A curve of one point has a dot; a long one has none.
#[test]
fn a_single_point_is_painted() {
    for (steps, dots) in [(1, true), (400, false)] {
        let mut desk = fixtures::desk("runs/a", Stage::Pretrain, between(0, steps), false);
        desk.look.hidden_charts = all_but_losses();
        let color = theme::readable(theme::series(0), &egui::Visuals::dark());
        let h = fixtures::harness([900.0, 400.0], true, Charts::default(), desk, Charts::ui);
        let is_dot = |shape: &Shape| matches!(shape, Shape::Circle(circle) if circle.fill == color && circle.radius > 2.0);
        assert_eq!(shapes(&h).iter().any(is_dot), dots, "{steps} steps");
    }
}

/// Colours of runs and lines differ in both themes.
#[test]
fn colours_differ_on_dark_backgrounds_too() {
    for visuals in [egui::Visuals::dark(), egui::Visuals::light()] {
        let colors: Vec<Color32> = (0..10).map(|i| theme::readable(theme::series(i), &visuals)).collect();
        for (i, a) in colors.iter().enumerate() {
            for b in &colors[..i] {
                let apart = (0..3).map(|c| (f64::from(a[c]) - f64::from(b[c])).powi(2)).sum::<f64>().sqrt();
                assert!(apart > 50.0, "{a:?} and {b:?}, dark: {}", visuals.dark_mode);
            }
        }
    }
}

/// A narrow window wraps: no text beyond its right edge, the bar at the top and the toolbar of the charts included.
#[test]
fn a_narrow_window_wraps() {
    for width in [300.0, 360.0, 420.0, 760.0] {
        let draw = move |ui: &mut egui::Ui, window: &mut Option<Window>| {
            let window = window.get_or_insert_with(|| {
                let backend = Arc::new(lehr::backend::Native::new("lehr".into()));
                let mut window = Window::new(ui.ctx(), backend, "none".into(), None).unwrap();
                *window.state() = early_and_late();
                window.show(Page::Charts);
                window
            });
            window.draw(ui);
        };
        let mut h = Harness::builder().with_size([width, 900.0]).with_max_steps(4).build_ui_state(draw, None);
        h.run_steps(4);
        let beyond: Vec<_> =
            texts(&h).into_iter().filter(|(text, r)| !text.trim().is_empty() && r.right() > width + 1.0).collect();
        // The tabs of a narrow window scroll, and so do legends with a column for each metric.
        let is_tab = |text: &str| ["Samples", "Merge", "Inside", "New run", "Lessons", "Tokens", "Charts"].contains(&text);
        assert!(
            beyond.iter().all(|(text, _)| is_tab(text)),
            "{width}: {beyond:?} {:?}",
            texts(&h).iter().filter(|(_, r)| r.top() < 120.0).collect::<Vec<_>>()
        );
    }
}
