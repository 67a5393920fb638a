//! Layer 2: charts. Numbers are converted to a [`Scene`] of shapes, which is written as SVG here and drawn on the screen by the window.
//!
//! [`Chart`] (lines, dots, bands), [`Bars`], [`Violins`] (and boxes), [`Heatmap`], [`Contours`], and [`Panels`], a grid of any of them. The
//! same numbers give the same text, without ids, scripts or external references. Colour-blind readers can distinguish the colours. Missing
//! numbers are gaps. Nothing here can fail.

/// Setters for texts and size that all charts share, and for the names of the axes; `builders!(Chart, x.label)` says where that of the
/// horizontal axis is.
macro_rules! builders {
    ($kind:ident $(, $($x:ident).+)?) => {
        impl $kind {
            $(
                /// Name of the horizontal axis, with its unit.
                pub fn x(mut self, label: &str) -> Self {
                    self.$($x).+ = label.into();
                    self
                }

                /// Name of the vertical axis, with its unit.
                pub fn y(mut self, label: &str) -> Self {
                    self.y.label = label.into();
                    self
                }
            )?

            /// Context for the title: model, data, comparison.
            pub fn subtitle(mut self, text: &str) -> Self {
                self.words.subtitle = text.into();
                self
            }

            /// Small print: the command that produced the numbers, caveats.
            pub fn footnote(mut self, text: &str) -> Self {
                self.words.footnote = text.into();
                self
            }

            /// Omit the visible title, which the page shows; screen readers still read it.
            pub fn untitled(mut self) -> Self {
                self.words.untitled = true;
                self
            }

            /// Omit title and legend, which the page shows.
            pub fn without_captions(mut self) -> Self {
                (self.words.untitled, self.words.no_legend) = (true, true);
                self
            }

            /// Width and height in pixels.
            pub fn size(mut self, width: f64, height: f64) -> Self {
                self.words.size = Some((width, height));
                self
            }

            /// The chart as SVG text.
            pub fn svg(&self) -> String {
                $crate::plot::Figure::from(self.clone()).svg()
            }
        }
    };
}
use builders;

mod bars;
mod chart;
mod color;
mod contours;
mod frame;
mod heatmap;
mod isolines;
mod panels;
mod scale;
mod scene;
mod series;
mod slots;
mod svg;
mod text;
mod violin;

pub use bars::Bars;
pub use chart::Chart;
pub use color::{Ink, Ramp, SERIES, SERIES_DARK};
pub use contours::{Contours, Mark};
pub use heatmap::Heatmap;
pub use isolines::{Field, Isoline};
pub use panels::{Figure, Panels};
pub use scale::{Scale, Ticks, Values};
pub use scene::{Anchor, Axes, Point, Rect, Region, Scene, Shape, Style, TextStyle};
pub use series::{Series, dash};
pub use violin::{Distribution, Histogram, Quantiles, Violins};

#[cfg(test)]
mod tests;
