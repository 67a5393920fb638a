//! The loss on the plane through three checkpoints, with their mean and a merge.

use super::results::{Grid, Landscape, MarkedPoint};
use super::{difference, key};
use crate::app::child::JobState;
use crate::app::draw::{DrawnGrid, Heat, HeatLabels, card};
use crate::app::format::number;
use crate::app::panels::shared::{Found, progress};
use crate::app::paths::{PathField, PathKind, path_ui};
use crate::app::state::{Action, OpenRun};
use crate::app::theme;
use crate::plot::{Field, Isoline};
use eframe::egui::{self, Color32, DragValue, Pos2, RichText, Stroke, TextStyle, Ui, pos2, vec2};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Debug)]
pub struct LandscapePart {
    /// Steps of the three, until chosen: oldest, middle, newest.
    steps: Option<[u64; 3]>,
    of: PathBuf,
    grid: usize,
    merged: String,
    results: HashMap<PathBuf, Found<Landscape>>,
    heat: Heat,
    /// Lines of equal loss of a result.
    rings: Option<((PathBuf, u64), Vec<Isoline>)>,
}

impl Default for LandscapePart {
    fn default() -> Self {
        Self {
            steps: None,
            of: PathBuf::new(),
            grid: 11,
            merged: String::new(),
            results: HashMap::new(),
            heat: Heat::default(),
            rings: None,
        }
    }
}

impl LandscapePart {
    /// Draw.
    pub fn ui(&mut self, ui: &mut Ui, run: &OpenRun, steps: &[u64], job: Option<&JobState>, actions: &mut Vec<Action>) {
        let path = run.files.path.clone();
        if self.of != path {
            (self.of, self.steps, self.merged) = (path.clone(), None, String::new());
        }
        self.results.entry(path.clone()).or_default().take(job);
        let hint = "Three checkpoints span a plane in the space of all weights; its points are mixtures of the three. Darker is lower. If the \
                    checkpoints sit on the walls of a bowl, their mean (yellow) lies nearer to its bottom.";
        card(ui, "Landscape", hint, |ui| {
            if steps.len() < 3 {
                ui.weak("A landscape needs three checkpoints on disk.");
            } else {
                self.form(ui, &path, steps, job, actions);
            }
            progress(ui, &key("landscape", &path), job, actions);
            let Some(found) = self.results.get(&path) else { return };
            match &found.value {
                None => {}
                Some(Err(why)) => {
                    ui.colored_label(theme::error_color(ui.visuals()), why);
                }
                Some(Ok(land)) => {
                    let mark = (path.clone(), found.count);
                    if self.rings.as_ref().is_none_or(|r| r.0 != mark) {
                        self.rings = Some((mark, rings(&land.grid)));
                    }
                    show(ui, land, found.count, &mut self.heat, self.rings.as_ref().map_or(&[], |r| r.1.as_slice()));
                }
            }
        });
    }

    fn form(&mut self, ui: &mut Ui, run: &Path, there: &[u64], job: Option<&JobState>, actions: &mut Vec<Action>) {
        let mut chosen = self.steps.unwrap_or([there[0], there[there.len() / 2], there[there.len() - 1]]);
        ui.horizontal_wrapped(|ui| {
            for (i, name) in ["A", "B", "C"].into_iter().enumerate() {
                let label = ui.label(name);
                let combo = egui::ComboBox::from_id_salt(name)
                    .selected_text(format!("step {}", crate::app::format::count(chosen[i])))
                    .width(90.0);
                let shown = combo.show_ui(ui, |ui| {
                    there.iter().take(500).for_each(|step| {
                        if ui.selectable_value(&mut chosen[i], *step, step.to_string()).changed() {
                            self.steps = Some(chosen);
                        }
                    });
                });
                shown.response.labelled_by(label.id);
            }
            let label = ui.label("points a side");
            ui.add(DragValue::new(&mut self.grid).range(3..=41).speed(0.05)).labelled_by(label.id);
        });
        ui.horizontal_wrapped(|ui| {
            let label = ui.label("mark this merge");
            let field = PathField { kind: PathKind::Folder, label: "merge", hint: "none", width: 240.0 };
            path_ui(ui, &mut self.merged, field).labelled_by(label.id);
            let running = matches!(job, Some(JobState::Running(_)));
            let differ = chosen[0] != chosen[1] && chosen[1] != chosen[2] && chosen[0] != chosen[2];
            let button = ui.add_enabled(!running && differ, egui::Button::new("Measure"));
            if button.on_disabled_hover_text("Three different checkpoints, one measurement at a time").clicked() {
                let mut args = vec!["landscape".to_owned()];
                args.extend(chosen.map(|step| format!("{}@{step}", run.display())));
                args.extend(["--grid".into(), self.grid.to_string()]);
                if !self.merged.trim().is_empty() {
                    args.extend(["--merged".into(), self.merged.trim().into()]);
                }
                args.push("--json".into());
                self.results.entry(run.to_owned()).or_default().await_new();
                actions.push(Action::Job(key("landscape", run), args));
            }
            ui.weak(format!("{} evaluations", self.grid * self.grid + 4));
        });
    }
}

/// Lines of equal loss, nearer to each other at the bottom.
fn rings(grid: &Grid) -> Vec<Isoline> {
    let values = grid.loss.iter().map(|row| row.iter().map(|v| v.unwrap_or(f64::NAN)).collect()).collect();
    let field = Field { xs: grid.x.clone(), ys: grid.y.clone(), values };
    let sound = field.values.len() == field.ys.len() && field.values.iter().all(|row: &Vec<f64>| row.len() == field.xs.len());
    let Some((low, high)) = field.extent().filter(|(low, high)| sound && high > low) else { return Vec::new() };
    let field = field.refined(4);
    (1..10).flat_map(|i| field.isolines(low + (high - low) * (f64::from(i) / 10.0).powi(2))).collect()
}

fn show(ui: &mut Ui, land: &Landscape, count: u64, heat: &mut Heat, rings: &[Isoline]) {
    let t = &land.test;
    let [noise, lag, gain] = [t.noise_reduction, t.lag, t.gain].map(|v| v.unwrap_or(f64::NAN));
    let text = format!(
        "Noise reduction {}, lag {}: the mean is {} the latest checkpoint. On {} tokens.",
        number(noise),
        number(lag),
        difference(gain),
        land.eval_tokens
    );
    ui.label(RichText::new(text).strong());
    let grid = &land.grid;
    let at = |row: usize, column: usize| grid.loss.get(row).and_then(|r| r.get(column)).copied().flatten().unwrap_or(f64::NAN);
    let all = grid.loss.iter().flatten().flatten().copied().filter(|v| v.is_finite());
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    // By the root, so that the bottom, where the checkpoints are, has most of the colours.
    let color = |row: usize, column: usize| match at(row, column) {
        v if v.is_finite() && high > low => theme::probability(((v - low) / (high - low)).sqrt()),
        _ => Color32::GRAY,
    };
    let words = HeatLabels {
        name: "Landscape",
        y_label: "distance across",
        x_label: "distance between weights, from A towards C",
        row: &|row| grid.y.get(row).map_or(String::new(), |v| number((v * 100.0).round() / 100.0)),
        column: &|column| grid.x.get(column).map_or(String::new(), |v| number((v * 100.0).round() / 100.0)),
        cell: &|row, column| format!("loss {:.4} nats per token", at(row, column)),
        inside: None,
        upward: true,
        smooth: true,
        row_height: (14.0, 44.0),
        column_width: 52.0,
    };
    let key = count << 1 | u64::from(ui.visuals().dark_mode);
    let Some(drawn) = heat.ui(ui, key, (grid.y.len(), grid.x.len()), color, &words) else { return };
    ui.weak(format!("Lowest of the grid {}, highest {} nats per token; darker is lower.", number(low), number(high)));
    let Some(place) = Place::new(&drawn, grid) else { return };
    let painter = ui.painter().with_clip_rect(drawn.area.intersect(ui.clip_rect()));
    for ring in rings {
        painter.line(ring.iter().map(|(x, y)| place.at(*x, *y)).collect(), Stroke::new(1.0, Color32::from_white_alpha(110)));
    }
    let path: Vec<Pos2> = land.checkpoints.iter().filter_map(|p| place.point(p)).collect();
    painter.line(path, Stroke::new(1.5, Color32::WHITE));
    mark(ui, &painter, &place, land);
}

/// Checkpoints, their mean and the merge, with their losses.
fn mark(ui: &Ui, painter: &egui::Painter, place: &Place, land: &Landscape) {
    let font = TextStyle::Small.resolve(ui.style());
    let marked = land.checkpoints.iter().map(|p| (p, 4.0)).chain([(&land.mean, 6.5)]).chain(land.merged.iter().map(|p| (p, 5.0)));
    for (point, radius) in marked {
        let Some(at) = place.point(point) else { continue };
        let text = format!("{} {}", point.letter, point.loss.map_or("–".into(), number));
        let galley = painter.layout_no_wrap(text, font.clone(), Color32::WHITE);
        let corner = at + vec2(10.0, -galley.size().y / 2.0);
        let back = egui::Rect::from_min_size(corner, galley.size()).expand(2.0);
        painter.rect_filled(back, 3.0, Color32::from_black_alpha(150));
        painter.galley(corner, galley, Color32::WHITE);
        painter.circle(
            at,
            radius,
            if radius > 6.0 { Color32::from_rgb(0xff, 0xd1, 0x4a) } else { Color32::WHITE },
            Stroke::new(1.5, Color32::BLACK),
        );
    }
}

/// From the plane to the picture: grid points are the centres of cells.
struct Place {
    area: egui::Rect,
    x: (f64, f64),
    y: (f64, f64),
    half: egui::Vec2,
}

impl Place {
    fn new(drawn: &DrawnGrid, grid: &Grid) -> Option<Self> {
        let ends = |list: &[f64]| Some((*list.first()?, *list.last()?)).filter(|(a, b)| b > a);
        let half = drawn.cell(0, 0).size() / 2.0;
        Some(Self { area: drawn.area, x: ends(&grid.x)?, y: ends(&grid.y)?, half })
    }

    fn at(&self, x: f64, y: f64) -> Pos2 {
        let inner = self.area.shrink2(self.half);
        let part = |v: f64, (from, to): (f64, f64)| ((v - from) / (to - from)) as f32;
        pos2(inner.left() + inner.width() * part(x, self.x), inner.bottom() - inner.height() * part(y, self.y))
    }

    fn point(&self, p: &MarkedPoint) -> Option<Pos2> {
        Some(self.at(p.x.filter(|x| x.is_finite())?, p.y.filter(|y| y.is_finite())?))
    }
}
