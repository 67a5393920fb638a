//! Pictures as PNG, with fonts that lehr brings along, so that they look the same on every machine.

use anyhow::{Context as _, Result};
use resvg::{tiny_skia, usvg};
use std::sync::{Arc, OnceLock};

/// A wider or higher picture is refused: it would be a mistake.
const MOST_PIXELS: f32 = 16_384.0;

/// The window's fonts: one for text, one for what that lacks.
fn fonts() -> &'static Arc<usvg::fontdb::Database> {
    static FONTS: OnceLock<Arc<usvg::fontdb::Database>> = OnceLock::new();
    FONTS.get_or_init(|| {
        let mut fonts = usvg::fontdb::Database::new();
        for font in [epaint_default_fonts::UBUNTU_LIGHT, epaint_default_fonts::HACK_REGULAR] {
            fonts.load_font_data(font.to_vec());
        }
        // The generic names that charts end their list of fonts with.
        let family = fonts.faces().next().and_then(|face| face.families.first()).map(|f| f.0.clone()).unwrap_or_default();
        fonts.set_sans_serif_family(family);
        Arc::new(fonts)
    })
}

/// An SVG picture as the bytes of a PNG file, `scale` pixels for each of its own.
///
/// # Errors
/// The text is no SVG, or the picture would have no pixels or more than 16,384 a side.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>> {
    drawn(svg, scale)?.encode_png().context("the picture cannot be written as PNG")
}

/// Pixels of a picture: width, height, and four bytes for each, red, green, blue, alpha (by which the others are multiplied).
pub struct Pixels {
    /// Width and height.
    pub size: [usize; 2],
    /// Row by row.
    pub rgba: Vec<u8>,
}

/// An SVG picture as pixels, `scale` for each of its own.
///
/// # Errors
/// As [`png`].
pub fn pixels(svg: &str, scale: f32) -> Result<Pixels> {
    let drawn = drawn(svg, scale)?;
    Ok(Pixels { size: [drawn.width() as usize, drawn.height() as usize], rgba: drawn.take() })
}

fn drawn(svg: &str, scale: f32) -> Result<tiny_skia::Pixmap> {
    let options = usvg::Options { fontdb: fonts().clone(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).context("the picture is no sound SVG")?;
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

    /// Of the header: width and height. Of the pixels: text is drawn, so the fonts are there.
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
        assert!(png("no svg", 1.0).unwrap_err().to_string().contains("no sound SVG"));
        for scale in [0.0, -1.0, f32::NAN, 1e9] {
            assert!(png(&Chart::new("").svg(), scale).is_err(), "{scale}");
        }
    }
}
