//! There is one tooltip at a time: wherever the pointer rests, and on its way from one place to the next.

use super::fixtures;
use eframe::egui;
use egui_kittest::{Harness, kittest::NodeT};
use lehr::app::Window;
use lehr::app::state::Page;
use lehr::config::Stage;
use std::path::PathBuf;
use std::sync::Arc;

/// The tooltips that the last two frames have drawn.
fn tooltips(ctx: &egui::Context) -> Vec<egui::LayerId> {
    let visible = ctx.memory(|memory| memory.areas().visible_layer_ids());
    visible.into_iter().filter(|layer| layer.order == egui::Order::Tooltip).collect()
}

pub(super) fn window() -> Harness<'static, Option<Window>> {
    let draw = |ui: &mut egui::Ui, window: &mut Option<Window>| {
        let window = window.get_or_insert_with(|| {
            let backend = Arc::new(lehr::backend::Native::new(PathBuf::from(env!("CARGO_BIN_EXE_lehr"))));
            let mut window = Window::new(ui.ctx(), backend, "none".into(), None).unwrap();
            let made = fixtures::desk("runs/a", Stage::Pretrain, fixtures::pretraining(40), true);
            (window.state().runs, window.state().focus) = (made.runs, made.focus);
            window
        });
        let ctx = ui.ctx().clone();
        window.advance(&ctx);
        window.draw(ui);
    };
    Harness::builder().with_size([1360.0, 860.0]).with_max_steps(4).with_step_dt(0.25).build_ui_state(draw, None)
}

/// The middle of everything on the page that has a name or takes the pointer, without those that share one.
fn places(h: &Harness<'_, Option<Window>>) -> Vec<egui::Pos2> {
    let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(1360.0, 860.0)).shrink(2.0);
    let mut places: Vec<egui::Pos2> = Vec::new();
    for node in h.root().children_recursive() {
        let Some(bounds) = node.accesskit_node().bounding_box() else { continue };
        let rect = egui::Rect::from_min_max(
            egui::pos2(bounds.x0 as f32, bounds.y0 as f32),
            egui::pos2(bounds.x1 as f32, bounds.y1 as f32),
        );
        let Some(at) = (rect.is_positive() && rect.height() < 60.0).then(|| rect.center()) else { continue };
        if screen.contains(at) && places.iter().all(|other| other.distance(at) > 6.0) {
            places.push(at);
        }
    }
    places
}

#[test]
fn there_is_one_tooltip_at_a_time() {
    let mut h = window();
    h.run_steps(4);
    let mut seen = 0;
    for page in [Page::NewRun, Page::Charts, Page::Runs, Page::Merge] {
        h.state_mut().as_mut().unwrap().show(page);
        h.run_steps(4);
        let places = places(&h);
        assert!(places.len() > 20, "{page:?}: {} places", places.len());
        for at in places {
            h.hover_at(at);
            // The delay of a tooltip is half a second, and what is counted is what the last two frames have drawn.
            let mut shown = Vec::new();
            for _ in 0..6 {
                h.step();
                shown.push(tooltips(&h.ctx).len());
            }
            assert!(shown[2..].iter().all(|count| *count <= 1), "{page:?}, pointer at {at:?}: {shown:?} tooltips");
            seen += usize::from(shown[5] == 1);
        }
    }
    assert!(seen > 40, "{seen} tooltips: the pointer has not rested long enough, or not on what has one");
}

/// The check above counts what is drawn: two tooltips of one place are two.
#[test]
fn two_tooltips_of_one_place_are_counted() {
    let draw = |ui: &mut egui::Ui, count: &mut usize| {
        let response = ui.button("a button");
        for which in 0..*count {
            let id = egui::Id::unique(("forced", which));
            let tooltip = egui::Tooltip::always_open(ui.ctx().clone(), ui.layer_id(), id, &response);
            tooltip.show(|ui| ui.label(format!("tooltip {which}")));
        }
    };
    let mut h = Harness::builder().with_size([200.0, 100.0]).build_ui_state(draw, 0);
    for count in [0, 1, 2] {
        *h.state_mut() = count;
        h.run_steps(3);
        assert_eq!(tooltips(&h.ctx).len(), count);
    }
}
