//! Colours and sizes. Series colours are those of the report, so that a run looks the same in both.

use crate::plot::{SERIES, SERIES_DARK};
use eframe::egui;
use eframe::egui::Color32;

/// Sizes and colours of text.
pub fn apply(ctx: &egui::Context) {
    ctx.all_styles_mut(|style| {
        let text = if style.visuals.dark_mode { Color32::from_gray(208) } else { Color32::from_gray(40) };
        style.visuals.widgets.noninteractive.fg_stroke.color = text;
        // Secondary text must be readable too, also from the last row of a class.
        style.visuals.weak_text_color =
            Some(if style.visuals.dark_mode { Color32::from_gray(168) } else { Color32::from_gray(92) });
        if !style.visuals.dark_mode {
            // A white field would be invisible on white.
            style.visuals.text_edit_bg_color = Some(Color32::from_gray(232));
        }
        for (kind, size) in [(egui::TextStyle::Small, 11.5), (egui::TextStyle::Body, 13.5), (egui::TextStyle::Button, 13.5)] {
            if let Some(font) = style.text_styles.get_mut(&kind) {
                font.size = size;
            }
        }
    });
}

/// Small type for command lines and numbers in a column.
pub fn small_mono() -> egui::FontId {
    egui::FontId::monospace(11.5)
}

/// Colour of the i-th run or line, distinguishable for colour-blind readers too.
pub fn series(i: usize) -> Color32 {
    Color32::from_hex(SERIES[i % SERIES.len()]).unwrap_or(Color32::GRAY)
}

/// A colour made pale, for raw curves behind smoothed ones.
pub fn lighten(color: Color32, visuals: &egui::Visuals) -> Color32 {
    color.gamma_multiply(if visuals.dark_mode { 0.55 } else { 0.5 })
}

/// The lines of a chart's grid: fainter than any curve, the pale ones too.
pub fn grid(visuals: &egui::Visuals) -> Color32 {
    Color32::from_gray(if visuals.dark_mode { 36 } else { 230 })
}

/// Good, such as a reward that rose.
pub fn success_color(visuals: &egui::Visuals) -> Color32 {
    if visuals.dark_mode { Color32::from_rgb(0x5f, 0xc9, 0x8a) } else { Color32::from_rgb(0x0b, 0x7a, 0x3e) }
}

/// Bad, such as a failure.
pub fn error_color(visuals: &egui::Visuals) -> Color32 {
    if visuals.dark_mode { Color32::from_rgb(0xff, 0x8a, 0x80) } else { Color32::from_rgb(0xb3, 0x26, 0x1e) }
}

/// Colour of a probability, from 0 (violet) over 0.5 (blue-green) to 1 (yellow-green): lightness rises with it.
pub fn probability(p: f64) -> Color32 {
    const STOPS: [[f64; 3]; 5] =
        [[94.0, 60.0, 153.0], [59.0, 110.0, 175.0], [38.0, 150.0, 140.0], [100.0, 190.0, 90.0], [200.0, 215.0, 60.0]];
    blend(&STOPS, p)
}

/// Colour of a signed number, -1 (red) over 0 (grey) to 1 (blue).
pub fn signed(x: f64) -> Color32 {
    const STOPS: [[f64; 3]; 3] = [[202.0, 70.0, 60.0], [150.0, 150.0, 150.0], [50.0, 120.0, 200.0]];
    blend(&STOPS, 0.5 + 0.5 * x)
}

fn blend<const N: usize>(stops: &[[f64; 3]; N], t: f64) -> Color32 {
    let t = if t.is_finite() { t.clamp(0.0, 1.0) } else { 0.0 } * (N - 1) as f64;
    let i = (t as usize).min(N - 2);
    let [r, g, b] = std::array::from_fn(|c| stops[i][c] + (t - i as f64) * (stops[i + 1][c] - stops[i][c]));
    Color32::from_rgb(r as u8, g as u8, b as u8)
}

/// Text that is read on top of a colour.
pub fn ink_on(color: Color32) -> Color32 {
    let [r, g, b, _] = color.to_array().map(f64::from);
    if 0.299 * r + 0.587 * g + 0.114 * b > 140.0 { Color32::BLACK } else { Color32::WHITE }
}

/// A colour that can be seen on the background; a series colour has a counterpart for dark backgrounds, the same as in the report.
pub fn readable(color: Color32, visuals: &egui::Visuals) -> Color32 {
    if visuals.dark_mode
        && let Some(hex) = (0..SERIES.len()).find(|i| series(*i) == color).map(|i| SERIES_DARK[i])
    {
        return Color32::from_hex(hex).unwrap_or(color);
    }
    let [r, g, b, _] = color.to_array();
    let light = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    match visuals.dark_mode {
        true if light < 110.0 => {
            let lift = |c: u8| (f32::from(c) * 0.55 + 110.0) as u8;
            Color32::from_rgb(lift(r), lift(g), lift(b))
        }
        false if light > 170.0 => color.gamma_multiply(0.8),
        _ => color,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured values must be easier to see than the grid.
    #[test]
    fn pale_curves_are_stronger_than_the_grid() {
        for visuals in [egui::Visuals::dark(), egui::Visuals::light()] {
            let ground = visuals.extreme_bg_color;
            let far = |color: Color32| {
                let seen = ground.blend(color);
                [0, 1, 2].map(|c| f64::from(seen[c]) - f64::from(ground[c])).iter().map(|d| d * d).sum::<f64>().sqrt()
            };
            for i in 0..SERIES.len() {
                let curve = lighten(readable(series(i), &visuals), &visuals);
                assert!(far(curve) > 1.5 * far(grid(&visuals)), "series {i}, dark: {}", visuals.dark_mode);
            }
        }
    }
}
