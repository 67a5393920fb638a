//! Renders [`Scene`]s on the screen, in the window's theme.

use super::tooltip;
use crate::app::format::plain;
use crate::app::theme;
use crate::plot::{Anchor, Figure, Ink, Point, Scene, Shape, Style};
use eframe::egui::epaint::{Mesh, PathShape, TextShape};
use eframe::egui::{
    Color32, FontId, Painter, Pos2, Rect, Response, Role, Sense, Stroke, StrokeKind, Ui, Visuals, WidgetInfo, vec2,
};

/// A painted figure.
pub struct Painted {
    /// Its shapes; a pixel is a point of the screen, relative to the figure's corner.
    pub scene: Scene,
    /// Its response to the pointer.
    pub response: Response,
    /// Painter for drawing over it.
    pub painter: Painter,
}

impl Painted {
    /// Screen position of a point of the figure.
    pub fn at(&self, (x, y): Point) -> Pos2 {
        self.response.rect.min + vec2(x as f32, y as f32)
    }

    /// The pointer's position in the figure.
    pub fn pointer(&self) -> Option<Point> {
        let at = self.response.hover_pos()? - self.response.rect.min;
        Some((f64::from(at.x), f64::from(at.y)))
    }
}

/// Paint a figure in the available width, without its title, which the page shows; `make` receives the size. The tooltip of the part under
/// the pointer is shown. `name` is for screen readers.
pub fn figure(ui: &mut Ui, name: &str, height: f32, make: impl FnOnce(f64, f64) -> Figure) -> Painted {
    let width = ui.available_width().max(120.0);
    let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
    let scene = make(f64::from(width), f64::from(height)).scene();
    response.widget_info(|| {
        let parts: Vec<String> = scene.regions.iter().map(|region| region.lines.join(", ")).collect();
        let said = if parts.is_empty() { name.to_owned() } else { format!("{name}: {}", parts.join("; ")) };
        WidgetInfo::labeled(Role::Image, true, said)
    });
    let painter = ui.painter().with_clip_rect(ui.clip_rect().intersect(rect));
    paint(&painter, &scene, rect.min, ui.visuals());
    let painted = Painted { scene, response, painter };
    let under = painted.pointer().and_then(|(x, y)| painted.scene.regions.iter().find(|region| region.at.contains(x, y)));
    if let Some(region) = under {
        let place =
            Rect::from_two_pos(painted.at((region.at.x, region.at.y)), painted.at((region.at.right(), region.at.bottom())));
        painted.painter.rect_filled(place, 0.0, ui.visuals().weak_text_color().gamma_multiply(0.12));
        tooltip(&painted.response, region.lines.iter().map(|line| plain(line)));
    }
    painted
}

/// A colour in the window's theme: greys range from its text colour to its background.
fn color(ink: Ink, visuals: &Visuals) -> Color32 {
    match ink {
        Ink::Grey(level) => {
            let (text, ground) = (visuals.text_color(), visuals.panel_fill);
            let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * f32::from(level) / 255.0).round() as u8;
            Color32::from_rgb(mix(text.r(), ground.r()), mix(text.g(), ground.g()), mix(text.b(), ground.b()))
        }
        Ink::Series(i) => theme::readable(theme::series(i), visuals),
        Ink::Ramp(..) | Ink::Fixed(_) => {
            let [r, g, b] = ink.rgb();
            theme::readable(Color32::from_rgb(r, g, b), visuals)
        }
    }
}

// Length: one match arm per shape.
/// Paint shapes with the figure's corner at `origin`.
pub fn paint(painter: &Painter, scene: &Scene, origin: Pos2, visuals: &Visuals) {
    let at = |(x, y): Point| origin + vec2(x as f32, y as f32);
    let inked = |of: Option<(Ink, f64)>| {
        of.map_or(Color32::TRANSPARENT, |(ink, opacity)| color(ink, visuals).gamma_multiply(opacity as f32))
    };
    let stroke = |style: &Style| Stroke::new(if style.stroke.is_some() { style.width as f32 } else { 0.0 }, inked(style.stroke));
    let mut clips = vec![painter.clone()];
    for shape in &scene.shapes {
        let here = &clips[clips.len() - 1];
        match shape {
            Shape::Rect(r, style) => {
                let place = Rect::from_two_pos(at((r.x, r.y)), at((r.right(), r.bottom())));
                here.rect(place, 0.0, inked(style.fill), stroke(style), StrokeKind::Middle);
            }
            Shape::Line([from, to], style) => line(here, vec![at(*from), at(*to)], style, stroke(style)),
            Shape::Path { lines, closed: true, style } => {
                for points in lines.iter().flat_map(|points| segments(points)) {
                    let points = points.iter().map(|p| at(*p)).collect();
                    here.add(PathShape { points, closed: true, fill: inked(style.fill), stroke: stroke(style).into() });
                }
            }
            Shape::Path { lines, closed: false, style } => {
                for points in lines.iter().flat_map(|points| segments(points)) {
                    line(here, points.iter().map(|p| at(*p)).collect(), style, stroke(style));
                }
            }
            Shape::Area(pairs, style) => {
                let pairs: Vec<[Pos2; 2]> = pairs.iter().map(|pair| pair.map(at)).collect();
                area(here, &pairs, inked(style.fill));
                if style.stroke.is_some() {
                    let round = pairs.iter().map(|p| p[0]).chain(pairs.iter().rev().map(|p| p[1]));
                    here.add(PathShape::closed_line(round.collect(), stroke(style)));
                }
            }
            Shape::Circle(middle, radius, style) => {
                here.circle(at(*middle), *radius as f32, inked(style.fill), stroke(style));
            }
            Shape::Text { at: place, anchor, degrees, kind, text } => {
                // Slightly smaller than in SVG, since the window's font is wide.
                let font = FontId::proportional(0.94 * kind.size as f32);
                let galley = here.layout_no_wrap(plain(text), font, color(kind.ink, visuals));
                let left = match anchor {
                    Anchor::Start => 0.0,
                    Anchor::Middle => galley.size().x / 2.0,
                    Anchor::End => galley.size().x,
                };
                // From the anchor on the baseline to the upper left corner, rotated with the text.
                let corner = vec2(-left, -0.8 * galley.size().y);
                if kind.halo && *degrees == 0.0 {
                    let under = Rect::from_min_size(at(*place) + corner, galley.size());
                    here.rect_filled(under.shrink2(vec2(0.0, 1.0)), 2.0, color(Ink::PAPER, visuals).gamma_multiply(0.8));
                }
                let turn = eframe::egui::emath::Rot2::from_angle((*degrees as f32).to_radians());
                let shape = TextShape::new(at(*place) + turn * corner, galley, Color32::PLACEHOLDER);
                here.add(shape.with_angle((*degrees as f32).to_radians()));
            }
            Shape::Clip(r) => {
                let place = Rect::from_two_pos(at((r.x, r.y)), at((r.right(), r.bottom())));
                let inner = here.with_clip_rect(here.clip_rect().intersect(place));
                clips.push(inner);
            }
            Shape::EndClip => {
                clips.truncate(clips.len().saturating_sub(1).max(1));
            }
        }
    }
}

/// Segments of finite points.
fn segments(points: &[Point]) -> impl Iterator<Item = &[Point]> {
    points.split(|(x, y)| !x.is_finite() || !y.is_finite()).filter(|piece| !piece.is_empty())
}

fn line(painter: &Painter, points: Vec<Pos2>, style: &Style, stroke: Stroke) {
    if style.dash.is_empty() {
        painter.line(points, stroke);
        return;
    }
    let part = |first: usize| style.dash.iter().skip(first).step_by(2).map(|v| *v as f32).collect::<Vec<_>>();
    painter.extend(eframe::egui::Shape::dashed_line_with_offset(&points, stroke, &part(0), &part(1), 0.0));
}

/// The area between pairs of points, as a strip, since it may be concave.
fn area(painter: &Painter, pairs: &[[Pos2; 2]], fill: Color32) {
    let mut mesh = Mesh::default();
    for [a, b] in pairs {
        mesh.colored_vertex(*a, fill);
        mesh.colored_vertex(*b, fill);
    }
    for i in 0..pairs.len().saturating_sub(1) as u32 {
        mesh.add_triangle(2 * i, 2 * i + 1, 2 * i + 2);
        mesh.add_triangle(2 * i + 1, 2 * i + 2, 2 * i + 3);
    }
    painter.add(mesh);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Chart, Series};

    /// All shapes of a chart are painted, in the theme's colours, inside the figure.
    #[test]
    fn a_scene_is_painted_in_the_theme() {
        let chart = Chart::new("t").x("step").line("a", &[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 1.0)]);
        let chart = chart.add(Series::line("b", &[(0.0, 2.0), (3.0, 2.0)]).dashed().with_band(&[(1.0, 3.0), (1.5, 2.5)]));
        for visuals in [Visuals::dark(), Visuals::light()] {
            let [ground, text] = [Ink::PAPER, Ink::Grey(0)].map(|ink| color(ink, &visuals));
            assert_eq!((ground, text), (visuals.panel_fill, visuals.text_color()));
            let series = color(Ink::Series(1), &visuals);
            let context = eframe::egui::Context::default();
            let mut texts = Vec::new();
            let mut out = context.run_ui(eframe::egui::RawInput::default(), |ui| {
                *ui.visuals_mut() = visuals.clone();
                figure(ui, "name", 200.0, |w, h| chart.clone().size(w, h).into());
            });
            // Nothing is drawn.
            out.textures_delta.clear();
            let mut colored = 0;
            for clipped in &out.shapes {
                match &clipped.shape {
                    eframe::egui::Shape::Text(shape) => texts.push(shape.galley.text().to_owned()),
                    eframe::egui::Shape::LineSegment { stroke, .. } => colored += usize::from(stroke.color == series),
                    _ => {}
                }
            }
            assert!(texts.iter().any(|t| t == "step") && texts.iter().any(|t| t == "b"), "{texts:?}");
            assert!(colored > 3, "dashes of the second series");
        }
    }
}
