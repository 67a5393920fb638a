//! Layer 0: charts. Plain numbers in; a [`Scene`] of shapes out, which is written as SVG text here and drawn on the screen by the window.
//!
//! [`Chart`] (lines, dots, bands), [`Bars`], [`Violins`] (and boxes), [`Heatmap`], [`Contours`], and [`Panels`], a grid of any of them. The
//! same numbers give the same text, without ids, scripts or outside references; colours are such that colour-blind readers can tell them
//! apart; where a number is missing there is a gap. Nothing here can fail.

/// The words around a picture and its size, as every kind has them.
macro_rules! builders {
    ($kind:ident) => {
        impl $kind {
            /// What the title needs to be understood: model, data, what is compared.
            pub fn subtitle(mut self, text: &str) -> Self {
                self.words.subtitle = text.into();
                self
            }

            /// Small print: the command that made the numbers, caveats.
            pub fn footnote(mut self, text: &str) -> Self {
                self.words.footnote = text.into();
                self
            }

            /// Leave the title to the page around the picture; readers of screens still hear it.
            pub fn untitled(mut self) -> Self {
                self.words.untitled = true;
                self
            }

            /// Leave title and legend to the page around the picture.
            pub fn bare(mut self) -> Self {
                (self.words.untitled, self.words.no_legend) = (true, true);
                self
            }

            /// Width and height in pixels.
            pub fn size(mut self, width: f64, height: f64) -> Self {
                self.words.size = Some((width, height));
                self
            }

            /// The picture.
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
pub use color::{Ink, Ramp, SERIES};
pub use contours::{Contours, Mark};
pub use heatmap::Heatmap;
pub use isolines::{Field, Isoline};
pub use panels::{Figure, Panels};
pub use scale::{Scale, Ticks, Values};
pub use scene::{Anchor, Axes, Point, Rect, Region, Scene, Shape, Style, Type};
pub use series::{Series, dash};
pub use violin::{Histogram, Quantiles, Spread, Violins};

#[cfg(test)]
mod tests;
