//! Colours that colour-blind readers can distinguish, and that print well.

/// Series colours in order of use: the set of Okabe and Ito (2008) without yellow, which is invisible on white, then four more hues. None
/// is grey, which is used for grids and axes.
pub const SERIES: [&str; 10] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#7f8c00", "#8c4a2f", "#c2185b"];

/// The same colours on a dark background.
pub const SERIES_DARK: [&str; SERIES.len()] =
    ["#4fa9e4", "#ff7043", "#2fc596", "#e7a3cb", "#f3b63f", "#9ad6f7", "#a98be6", "#b7cc4b", "#d39a7c", "#f06a9b"];

/// Red, green, blue of `#rrggbb`.
fn parse(hex: &str) -> [u8; 3] {
    let number = u32::from_str_radix(&hex[1..], 16).unwrap_or_default();
    [16, 8, 0].map(|shift| (number >> shift) as u8)
}

/// A colour by its role: each painter has its own theme.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ink {
    /// From 0, the text colour, to 255, the background.
    Grey(u8),
    /// The i-th series.
    Series(usize),
    /// A position on a ramp, from 0 to 1.
    Ramp(Ramp, f64),
    /// Red, green, blue, the same in every theme.
    Fixed([u8; 3]),
}

impl Ink {
    /// The background.
    pub const PAPER: Self = Self::Grey(255);

    /// Red, green and blue on white paper.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Grey(level) => [level; 3],
            Self::Series(i) => parse(SERIES[i % SERIES.len()]),
            Self::Ramp(ramp, t) => ramp.rgb(t).map(|c| (c * 255.0).round() as u8),
            Self::Fixed(rgb) => rgb,
        }
    }

    /// As `#rrggbb`.
    pub(super) fn hex(self) -> String {
        let [r, g, b] = self.rgb();
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}

/// A mapping from numbers between 0 and 1 to colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ramp {
    /// Dark blue to yellow with uniform lightness (matplotlib's viridis, sampled at nine points).
    Sequential,
    /// Blue through green to pale yellow, as a background for lines and text.
    Pale,
    /// Blue through white to orange; the middle is zero.
    Diverging,
}

const VIRIDIS: [u32; 9] = [0x440154, 0x472d7b, 0x3b528b, 0x2c728e, 0x21918c, 0x28ae80, 0x5ec962, 0xaddc30, 0xfde725];
const PALE: [u32; 6] = [0x3a85bd, 0x56b1c8, 0x86d0bf, 0xc0e7b8, 0xe8f6b6, 0xffffdc];
const DIVERGING: [u32; 7] = [0x08519c, 0x3f8fc4, 0xa6cde4, 0xf7f7f7, 0xfdc99a, 0xe8833a, 0xa63c06];

impl Ramp {
    /// Red, green and blue from 0 to 1 at `t`, clamped to 0 and 1.
    pub(super) fn rgb(self, t: f64) -> [f64; 3] {
        let t = if t.is_finite() { t.clamp(0.0, 1.0) } else { 0.5 };
        let stops: &[u32] = match self {
            Self::Sequential => &VIRIDIS,
            Self::Pale => &PALE,
            Self::Diverging => &DIVERGING,
        };
        let at = t * (stops.len() - 1) as f64;
        let i = (at as usize).min(stops.len() - 2);
        let (a, b) = (split(stops[i]), split(stops[i + 1]));
        std::array::from_fn(|c| a[c] + (b[c] - a[c]) * (at - i as f64))
    }

    /// Black or white, whichever has the higher contrast with the colour at `t` (relative luminance and contrast of WCAG 2).
    pub(super) fn ink(self, t: f64) -> Ink {
        Ink::Fixed(if luminance(self.rgb(t)) > 0.18 { [0x11; 3] } else { [0xff; 3] })
    }
}

fn split(rgb: u32) -> [f64; 3] {
    [16, 8, 0].map(|shift| f64::from(rgb >> shift & 255) / 255.0)
}

fn luminance(rgb: [f64; 3]) -> f64 {
    let linear = rgb.map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contrast(a: f64, b: f64) -> f64 {
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read_on_every_colour() {
        for ramp in [Ramp::Sequential, Ramp::Pale, Ramp::Diverging] {
            for i in 0..=100 {
                let t = f64::from(i) / 100.0;
                let ink = if ramp.ink(t) == Ink::Fixed([0xff; 3]) { 1.0 } else { luminance([1.0 / 15.0; 3]) };
                let found = contrast(ink, luminance(ramp.rgb(t)));
                assert!(found >= 4.0, "{ramp:?} at {t}: contrast {found}");
            }
        }
    }

    #[test]
    fn the_sequential_ramps_rise_in_lightness() {
        for ramp in [Ramp::Sequential, Ramp::Pale] {
            let light: Vec<f64> = (0..=64).map(|i| luminance(ramp.rgb(f64::from(i) / 64.0))).collect();
            assert!(light.windows(2).all(|w| w[1] > w[0]), "{ramp:?}: {light:?}");
        }
    }

    #[test]
    fn series_are_told_apart_from_each_other_and_from_the_grid() {
        for palette in [SERIES, SERIES_DARK] {
            let colors = palette.map(|hex| parse(hex).map(|c| f64::from(c) / 255.0));
            for (i, a) in colors.iter().enumerate() {
                let (least, most) = a.iter().fold((1.0, 0.0), |(l, m): (f64, f64), c| (l.min(*c), m.max(*c)));
                assert!(most - least > 0.25, "{}: nearly grey", palette[i]);
                for (j, b) in colors.iter().enumerate().skip(i + 1) {
                    let apart: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(apart > 0.2, "{} and {}: {apart}", palette[i], palette[j]);
                }
            }
        }
    }

    #[test]
    fn lines_stand_out_from_white() {
        for (i, hex) in SERIES.iter().enumerate() {
            let rgb = Ink::Series(i).rgb().map(|c| f64::from(c) / 255.0);
            assert!(contrast(1.0, luminance(rgb)) > 2.0, "{hex}");
            assert_eq!(&Ink::Series(i).hex(), hex);
        }
    }
}
