//! The attention of each head.

use super::piece;
use crate::app::draw::{Heat, HeatLabels, card};
use crate::app::format::number;
use crate::app::theme;
use crate::model::inspect::Inspection;
use eframe::egui::{self, Color32, ColorImage, Rect, Sense, Stroke, StrokeKind, TextureHandle, TextureOptions, Ui, pos2, vec2};

/// See the module.
#[derive(Default)]
pub struct Attention {
    layer: usize,
    /// None for the mean of all heads.
    head: Option<usize>,
    heat: Heat,
    /// Small pictures of the layer's heads, and which inspection and layer they are of.
    small: Option<((u64, usize), Vec<TextureHandle>)>,
}

impl std::fmt::Debug for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attention(layer {}, head {:?})", self.layer, self.head)
    }
}

type Heads = [Vec<Vec<f32>>];

/// Attention of a query to a key; tokens after a query are masked.
fn at(heads: &Heads, head: Option<usize>, query: usize, key: usize) -> f64 {
    let of = |head: &Vec<Vec<f32>>| head.get(query).and_then(|row| row.get(key)).copied().map_or(f64::NAN, f64::from);
    match head {
        Some(head) => heads.get(head).map_or(f64::NAN, of),
        None => heads.iter().map(of).sum::<f64>() / heads.len() as f64,
    }
}

fn color(p: f64, behind: Color32) -> Color32 {
    // By the root: attention is spread over many keys, and most of it is small.
    if p.is_finite() { theme::probability(p.max(0.0).sqrt()) } else { behind }
}

impl Attention {
    /// Draw; returns the token that was clicked.
    pub fn ui(&mut self, ui: &mut Ui, it: &Inspection, count: u64) -> Option<usize> {
        let hint = "Each row is a query token, each column a key token: the share of the query's attention that the key gets; a row adds up to 1. A token attends only to itself and to \
                    earlier ones, so the upper right is empty. Colours go by the root, so that weak attention is seen. Click a small picture to see that head.";
        card(ui, "Attention", hint, |ui| {
            let Some(layer) = it.attention.get(self.layer.min(it.attention.len().saturating_sub(1))) else {
                ui.weak("This inspection has no attention.");
                return None;
            };
            self.layer = self.layer.min(it.attention.len() - 1);
            self.head = self.head.filter(|h| *h < layer.len());
            ui.horizontal_wrapped(|ui| {
                let label = ui.label("layer");
                egui::ComboBox::from_id_salt("layer")
                    .selected_text(self.layer.to_string())
                    .width(60.0)
                    .show_ui(ui, |ui| {
                        (0..it.attention.len()).for_each(|l| {
                            ui.selectable_value(&mut self.layer, l, l.to_string());
                        });
                    })
                    .response
                    .labelled_by(label.id);
                let name = |head: Option<usize>| head.map_or("mean of all".into(), |h| h.to_string());
                let label = ui.label("head");
                egui::ComboBox::from_id_salt("head")
                    .selected_text(name(self.head))
                    .width(90.0)
                    .show_ui(ui, |ui| {
                        [None].into_iter().chain((0..layer.len()).map(Some)).for_each(|h| {
                            ui.selectable_value(&mut self.head, h, name(h));
                        });
                    })
                    .response
                    .labelled_by(label.id);
            });
            let layer = &it.attention[self.layer];
            self.thumbnails(ui, layer, it.tokens.len(), count);
            self.large(ui, it, layer, count)
        })
    }

    fn large(&mut self, ui: &mut Ui, it: &Inspection, layer: &Heads, count: u64) -> Option<usize> {
        let n = it.tokens.len();
        let name = |i: usize| it.tokens.get(i).map_or(String::new(), |t| piece(&t.piece));
        let head = self.head;
        let who = head.map_or(format!("layer {}, mean of all heads", self.layer), |h| format!("layer {}, head {h}", self.layer));
        let words = HeatLabels {
            name: &format!("Attention, {who}"),
            y_label: "query token",
            x_label: "key token",
            row: &name,
            column: &name,
            cell: &|query, key| match at(layer, head, query, key) {
                p if p.is_finite() => {
                    format!("{who}\n'{}' ({query}) looks at '{}' ({key}): {}", name(query), name(key), number(p))
                }
                _ => format!("'{}' ({query}) cannot see '{}' ({key}), which comes later", name(query), name(key)),
            },
            inside: None,
            upward: false,
            smooth: false,
            row_height: (3.0, 30.0),
            column_width: 40.0,
        };
        let behind = ui.visuals().extreme_bg_color;
        let part = (self.layer as u64) << 20 | self.head.map_or(0, |h| h as u64 + 1) << 1 | u64::from(ui.visuals().dark_mode);
        let drawn = self.heat.ui(ui, count << 32 | part, (n, n), |q, k| color(at(layer, head, q, k), behind), &words)?;
        drawn.response.clicked().then(|| drawn.hovered()).flatten().map(|cell| cell.0)
    }

    fn thumbnails(&mut self, ui: &mut Ui, layer: &Heads, n: usize, count: u64) {
        let key = (count << 1 | u64::from(ui.visuals().dark_mode), self.layer);
        let behind = ui.visuals().extreme_bg_color;
        if self.small.as_ref().is_none_or(|s| s.0 != key) {
            let picture = |head: usize| {
                let pixels = (0..n * n).map(|i| color(at(layer, Some(head), i / n, i % n), behind)).collect();
                ui.ctx().load_texture("head", ColorImage::new([n, n], pixels), TextureOptions::LINEAR)
            };
            self.small = Some((key, (0..layer.len()).map(picture).collect()));
        }
        let Some((_, small)) = &self.small else { return };
        ui.horizontal_wrapped(|ui| {
            for (head, texture) in small.iter().enumerate() {
                let (rect, response) = ui.allocate_exact_size(vec2(56.0, 56.0), Sense::click());
                response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, format!("head {head}")));
                ui.painter().image(texture.id(), rect, Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0)), Color32::WHITE);
                let chosen = self.head == Some(head);
                let ink =
                    if chosen || response.hovered() { ui.visuals().strong_text_color() } else { ui.visuals().weak_text_color() };
                ui.painter().rect_stroke(rect, 2.0, Stroke::new(if chosen { 2.5 } else { 1.0 }, ink), StrokeKind::Outside);
                if response.on_hover_text(format!("head {head}")).clicked() {
                    self.head = if chosen { None } else { Some(head) };
                }
            }
        });
    }
}
