//! A grid of charts.

use super::frame::{Captions, captions};
use super::scene::{Rect, Scene};
use super::{Bars, Chart, Contours, Heatmap, Violins};

/// Any kind of chart.
#[derive(Clone, Debug)]
pub enum Figure {
    /// Lines, dots, bands.
    Chart(Box<Chart>),
    /// Grouped bars.
    Bars(Box<Bars>),
    /// Coloured cells.
    Heatmap(Box<Heatmap>),
    /// Contour lines.
    Contours(Box<Contours>),
    /// Violins and boxes of quantiles.
    Violins(Box<Violins>),
    /// A grid of charts.
    Panels(Box<Panels>),
}

macro_rules! figures {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Figure {
            fn from(figure: $kind) -> Self {
                Self::$kind(Box::new(figure))
            }
        })*

        impl Figure {
            fn words(&self) -> &Captions {
                match self { $(Self::$kind(figure) => &figure.words),* }
            }

            fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
                match self { $(Self::$kind(figure) => figure.draw(scene, at, panel)),* }
            }
        }
    };
}
figures!(Chart, Bars, Heatmap, Contours, Violins, Panels);

/// Default size in pixels.
const SIZE: (f64, f64) = (760.0, 440.0);
const PANEL: (f64, f64) = (400.0, 300.0);

impl Figure {
    /// The chart as SVG text.
    pub fn svg(&self) -> String {
        super::svg::svg(&self.scene())
    }

    /// The chart as shapes, for another renderer.
    pub fn scene(&self) -> Scene {
        let (w, h) = self.size(SIZE);
        let mut scene = Scene { size: (w, h), title: self.words().title.clone(), ..Scene::default() };
        self.draw(&mut scene, &Rect::new(0.0, 0.0, w, h), false);
        scene
    }

    fn size(&self, unless: (f64, f64)) -> (f64, f64) {
        let asked = self.words().size.filter(|(w, h)| w.is_finite() && h.is_finite());
        let (w, h) = match (asked, self) {
            (Some(size), _) => size,
            (None, Self::Panels(panels)) => panels.natural(),
            (None, Self::Contours(contours)) => contours.natural(unless),
            (None, _) => unless,
        };
        (w.clamp(120.0, 20_000.0), h.clamp(90.0, 20_000.0))
    }
}

/// A grid of charts under one title.
///
/// ```
/// use lehr_core::plot::{Chart, Panels};
/// let panel = |name: &str| Chart::new(name).line("", &[(0.0, 1.0), (1.0, 2.0)]);
/// let svg = Panels::new("Two seeds", 2).panel(panel("seed 1")).panel(panel("seed 2")).svg();
/// assert!(svg.contains("seed 2"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Panels {
    pub(super) words: Captions,
    columns: usize,
    panels: Vec<Figure>,
}

super::builders!(Panels);

impl Panels {
    /// An empty grid with this number of columns.
    pub fn new(title: &str, columns: usize) -> Self {
        Self { words: Captions { title: title.into(), ..Captions::default() }, columns: columns.max(1), panels: Vec::new() }
    }

    /// Add a chart, row by row.
    pub fn panel(mut self, figure: impl Into<Figure>) -> Self {
        self.panels.push(figure.into());
        self
    }

    fn grid(&self) -> (usize, usize) {
        let columns = self.columns.min(self.panels.len()).max(1);
        (columns, self.panels.len().div_ceil(columns).max(1))
    }

    /// Natural size, with the size of the largest panel for each cell.
    fn natural(&self) -> (f64, f64) {
        let (columns, rows) = self.grid();
        let cell = self.panels.iter().map(|p| p.size(PANEL)).fold((0.0f64, 0.0f64), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        let cell = if self.panels.is_empty() { PANEL } else { cell };
        let words = [&self.words.title, &self.words.subtitle, &self.words.footnote].iter().filter(|w| !w.is_empty()).count();
        (cell.0 * columns as f64 + 28.0, cell.1 * rows as f64 + 32.0 + 24.0 * words as f64)
    }

    pub(super) fn draw(&self, scene: &mut Scene, at: &Rect, panel: bool) {
        let inner = captions(scene, at, &self.words, &[], panel);
        let (columns, rows) = self.grid();
        let (w, h) = (inner.w / columns as f64, inner.h / rows as f64);
        for (i, figure) in self.panels.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            figure.draw(scene, &Rect::new(inner.x + w * column as f64, inner.y + h * row as f64, w, h), true);
        }
    }
}
