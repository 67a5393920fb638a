//! Figures as PNG, with embedded fonts, so that they look the same on every machine.

use anyhow::{Context as _, Result};
use resvg::{tiny_skia, usvg};
use std::sync::{Arc, OnceLock};

/// Maximum width and height; larger figures are refused.
const MOST_PIXELS: f32 = 16_384.0;

/// The window's fonts: one for text, one as fallback.
fn fonts() -> &'static Arc<usvg::fontdb::Database> {
    static FONTS: OnceLock<Arc<usvg::fontdb::Database>> = OnceLock::new();
    FONTS.get_or_init(|| {
        let mut fonts = usvg::fontdb::Database::new();
        for font in [epaint_default_fonts::UBUNTU_LIGHT, epaint_default_fonts::HACK_REGULAR] {
            fonts.load_font_data(font.to_vec());
        }
        // The generic family names at the end of the charts' font lists.
        let family = fonts.faces().next().and_then(|face| face.families.first()).map(|f| f.0.clone()).unwrap_or_default();
        fonts.set_sans_serif_family(family);
        Arc::new(fonts)
    })
}

/// Render an SVG figure as a PNG file at a scale of `scale`.
///
/// # Errors
/// Invalid SVG, or an image without pixels or with more than 16,384 per side.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    drawn(svg, scale)?.encode_png().context("the picture cannot be written as PNG")
}

/// Pixels of an image: size, and four bytes per pixel, red, green, blue, alpha (premultiplied).
pub struct Pixels {
    /// Width and height.
    pub size: [usize; 2],
    /// By row.
    pub rgba: Vec<u8>,
}

/// Render an SVG figure as pixels at a scale of `scale`.
///
/// # Errors
/// As [`png`].
pub fn pixels(svg: &str, scale: f32) -> Result<Pixels> {
    let drawn = drawn(svg, scale)?;
    Ok(Pixels { size: [drawn.width() as usize, drawn.height() as usize], rgba: drawn.take() })
}

fn drawn(svg: &str, scale: f32) -> Result<tiny_skia::Pixmap> {
    let options = usvg::Options { fontdb: fonts().clone(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).context("the picture is not a valid SVG")?;
    let (w, h) = ((tree.size().width() * scale).ceil(), (tree.size().height() * scale).ceil());
    let sound = |side: f32| (1.0..=MOST_PIXELS).contains(&side);
    anyhow::ensure!(sound(w) && sound(h), "a picture of {w} x {h} pixels cannot be made; each side must have 1 to {MOST_PIXELS}");
    let mut pixels = tiny_skia::Pixmap::new(w as u32, h as u32).context("no memory for the picture")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Chart;

    /// Checks width and height in the header, and from the pixels that text is drawn, so the fonts are available.
    #[test]
    fn a_chart_becomes_pixels_with_text() {
        let lines = |title: &str| Chart::new(title).size(300.0, 200.0).line("", &[(0.0, 1.0), (1.0, 2.0)]).svg();
        let file = png(&lines("Loss of a run"), 2.0).unwrap();
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        let side = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!([side(16), side(20)], [600, 400]);
        let without = png(&lines(""), 2.0).unwrap();
        let top = |file: &[u8]| {
            let picture = tiny_skia::Pixmap::decode_png(file).unwrap();
            picture.pixels()[..600 * 60].iter().filter(|p| p.red() < 128).count()
        };
        assert!(top(&file) > top(&without) + 200, "{} {}", top(&file), top(&without));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        assert!(png("no svg", 1.0).unwrap_err().to_string().contains("is not a valid SVG"));
        for scale in [0.0, -1.0, f32::NAN, 1e9] {
            assert!(png(&Chart::new("").svg(), scale).is_err(), "{scale}");
        }
    }
}
