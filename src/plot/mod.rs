//! Floor 0: charts of ours, plain numbers in and SVG text out.
//!
//! [`Chart`] (lines, dots, bands), [`Bars`], [`Boxes`], [`Violins`], [`Heatmap`], [`Contours`], and [`Panels`], a grid of any of them. The text is the same for
//! the same numbers, has no ids, scripts or outside references, a background of its own, colours that colour-blind readers can tell
//! apart, and leaves a gap where a number is none. Nothing here can fail.

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
mod boxes;
mod chart;
mod color;
mod contours;
mod frame;
mod heatmap;
mod isolines;
mod panels;
mod scale;
mod series;
mod slots;
mod svg;
mod text;
mod violin;

pub use bars::Bars;
pub use boxes::{Boxes, Quantiles};
pub use chart::Chart;
pub use color::SERIES;
pub use contours::{Contours, Mark};
pub use heatmap::Heatmap;
pub use isolines::{Field, Isoline};
pub use panels::{Figure, Panels};
pub use series::{DASHES, Series};
pub use violin::Violins;

#[cfg(test)]
mod tests;
