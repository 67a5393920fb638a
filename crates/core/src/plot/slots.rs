//! Common parts of grouped charts: captions, a vertical axis, and a named slot for each group.

use super::frame::{AXIS, Captions, GRID, LegendEntry, captions, foot, left_margin, x_name, y_name};
use super::scale::{AxisSpec, Scale};
use super::scene::{Anchor, Rect, Scene, TextStyle};
use super::text::{shorten, visible};

/// An open frame: draw into `area`, then close it.
pub(super) struct SlotFrame {
    /// The data area.
    pub area: Rect,
    /// The vertical axis.
    pub scale: Scale,
    names: CategoryNames,
    x: String,
    y: String,
    left: f64,
    bottom: f64,
}

impl SlotFrame {
    /// Draw captions, legend (for several series), grid and labels of the vertical axis. `axes` are the horizontal axis label, the vertical
    /// axis and its range.
    pub fn open(
        scene: &mut Scene,
        at: &Rect,
        (words, panel): (&Captions, bool),
        legend: &[LegendEntry],
        (x, y, span): (&str, &AxisSpec, (f64, f64)),
        groups: &[String],
    ) -> Self {
        let inner = captions(scene, at, words, if legend.len() > 1 { legend } else { &[] }, panel);
        let names = CategoryNames::new(groups, inner.w - 60.0);
        let bottom = foot(x) + names.height - TextStyle::TICK.size;
        let height = (inner.h - bottom - 8.0).max(1.0);
        let scale = Scale::new(false, span, (inner.y + 8.0 + height, inner.y + 8.0));
        let ticks = scale.column(y.values);
        let left = left_margin(ticks.major.iter().map(|(_, l)| l.as_str()), &y.label).max(names.overhang);
        let area = Rect::new(inner.x + left, inner.y + 8.0, (inner.w - left - 6.0).max(1.0), height);
        for (v, label) in &ticks.major {
            scene.line((area.x, scale.at(*v)), (area.right(), scale.at(*v)), GRID);
            scene.text(area.x - 7.0, scale.at(*v) + TextStyle::TICK.size * 0.35, Anchor::End, TextStyle::TICK, label);
        }
        Self { area, scale, names, x: x.into(), y: y.label.clone(), left: inner.x, bottom }
    }

    /// The part of the area for the i-th of `groups` groups.
    pub fn column(&self, i: usize, groups: usize) -> Rect {
        let step = self.area.w / groups.max(1) as f64;
        Rect::new(self.area.x + step * i as f64, self.area.y, step, self.area.h)
    }

    /// Draw axes and names; the horizontal line is at the pixel `floor`.
    pub fn close(&self, scene: &mut Scene, floor: f64) {
        let area = &self.area;
        scene.line((area.x, area.y), (area.x, area.bottom()), AXIS);
        scene.line((area.x, floor), (area.right(), floor), AXIS);
        self.names.draw(scene, area);
        x_name(scene, area, &self.x, self.bottom - 3.0);
        y_name(scene, self.left, area, &self.y);
    }
}

/// Category names below the axis: horizontal if they fit, otherwise slanted.
pub(super) struct CategoryNames {
    names: Vec<String>,
    aslant: bool,
    /// Write every n-th name.
    every: usize,
    /// Height below the axis in pixels.
    pub height: f64,
    /// Pixels that the first name extends to the left of the area.
    pub overhang: f64,
}

const SLANT: f64 = 35.0;

impl CategoryNames {
    /// For an area of about this width.
    pub fn new(names: &[String], width: f64) -> Self {
        let step = width / names.len().max(1) as f64;
        let names: Vec<String> = names.iter().map(|n| shorten(&visible(n), TextStyle::TICK.size, 170.0)).collect();
        let widest = names.iter().map(|n| TextStyle::TICK.width(n)).fold(0.0, f64::max);
        let aslant = widest + 8.0 > step;
        let (sin, cos) = SLANT.to_radians().sin_cos();
        let height = if aslant { widest * sin + TextStyle::TICK.size } else { TextStyle::TICK.size };
        let overhang = if aslant { names.first().map_or(0.0, |n| TextStyle::TICK.width(n) * cos - step / 2.0) } else { 0.0 };
        let every = if aslant { (1.3 * TextStyle::TICK.size / step).ceil().max(1.0) as usize } else { 1 };
        Self { names, aslant, every, height, overhang: overhang.max(0.0) + if aslant { 6.0 } else { 0.0 } }
    }

    pub fn draw(&self, scene: &mut Scene, area: &Rect) {
        let step = area.w / self.names.len().max(1) as f64;
        for (i, name) in self.names.iter().enumerate().step_by(self.every) {
            let x = area.x + step * (i as f64 + 0.5);
            let y = area.bottom() + 7.0 + TextStyle::TICK.size * 0.85;
            if self.aslant {
                scene.rotated_text(x + 4.0, y, -SLANT, Anchor::End, TextStyle::TICK, name);
            } else {
                scene.text(x, y, Anchor::Middle, TextStyle::TICK, name);
            }
        }
    }
}
