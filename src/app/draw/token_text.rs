//! Text with coloured tokens, and a tooltip with a token's exact numbers. Laid out once; long text is truncated.

use crate::app::format::number;
use crate::app::theme;
use eframe::egui::text::{LayoutJob, TextFormat, TextWrapping};
use eframe::egui::{
    Color32, Galley, Id, Pos2, Rect, RichText, Role, Sense, Stroke, StrokeKind, TextStyle, Ui, WidgetInfo, pos2, vec2,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The number that a token's colour shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TokenColor {
    /// Its probability.
    #[default]
    Probability,
    /// Entropy of the distribution that it was sampled from.
    Entropy,
    /// Its advantage.
    Advantage,
    /// Nothing.
    Plain,
}

/// Tokens with their numbers; missing numbers at the end of a list are allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoredTokens<'a> {
    /// Text of each token.
    pub pieces: &'a [String],
    /// log p, in nats.
    pub logprobs: &'a [f32],
    /// Entropy, in nats.
    pub entropy: &'a [f32],
    /// Advantage.
    pub advantages: &'a [f32],
    /// Entropy and |advantage| with the strongest colour.
    pub most: [f64; 2],
}

impl ScoredTokens<'_> {
    fn number(list: &[f32], i: usize) -> f64 {
        list.get(i).copied().map_or(f64::NAN, f64::from)
    }

    /// The colour of a token, if it has the number.
    pub fn color(&self, i: usize, how: TokenColor) -> Option<Color32> {
        let of = |list: &[f32], f: &dyn Fn(f64) -> Color32| Some(Self::number(list, i)).filter(|x| x.is_finite()).map(f);
        let [entropy, advantage] = self.most.map(|m| if m > 0.0 { m } else { 1.0 });
        match how {
            TokenColor::Plain => None,
            TokenColor::Probability => of(self.logprobs, &|x| theme::probability(x.exp())),
            TokenColor::Entropy => of(self.entropy, &|x| theme::probability(x / entropy)),
            TokenColor::Advantage => of(self.advantages, &|x| theme::signed(x / advantage)),
        }
    }

    /// A token's numbers, as lines.
    pub fn lines_of(&self, i: usize) -> Vec<String> {
        let logp = Self::number(self.logprobs, i);
        // What was not recorded is not a number.
        let number = |x: f64| if x.is_nan() { "–".into() } else { number(x) };
        let mut lines = vec![
            format!(
                "token {} of {}: '{}'",
                i + 1,
                self.pieces.len(),
                self.pieces.get(i).map_or(String::new(), |p| crate::vfs::clean(p))
            ),
            format!("probability {}", number(logp.exp())),
            format!("log p {} nats", number(logp)),
        ];
        if !self.entropy.is_empty() {
            lines.push(format!("entropy {} nats", number(Self::number(self.entropy, i))));
        }
        if !self.advantages.is_empty() {
            lines.push(format!("advantage {}", number(Self::number(self.advantages, i))));
        }
        lines
    }
}

/// A text with its layout.
#[derive(Clone, Debug, Default)]
pub struct TokenText {
    laid: Option<(u64, Arc<Galley>)>,
    /// Number of characters before each shown token.
    starts: Vec<usize>,
    all: bool,
}

/// Maximum number of characters shown, at first and when expanded.
const SHOWN: [usize; 2] = [4_000, 60_000];

impl TokenText {
    /// Draw; `id` distinguishes texts. Returns the token under the pointer.
    pub fn ui(&mut self, ui: &mut Ui, id: Id, it: &ScoredTokens<'_>, how: TokenColor) -> Option<usize> {
        let width = ui.available_width().max(60.0);
        let font = TextStyle::Monospace.resolve(ui.style());
        let mut hasher = std::hash::DefaultHasher::new();
        let scale = ui.ctx().pixels_per_point();
        (id, how, width.to_bits(), font.size.to_bits(), scale.to_bits(), ui.visuals().dark_mode, self.all).hash(&mut hasher);
        (it.pieces.len(), it.most.map(f64::to_bits)).hash(&mut hasher);
        let key = hasher.finish();
        if self.laid.as_ref().is_none_or(|laid| laid.0 != key) {
            let job = self.job(ui, it, how, width);
            self.laid = Some((key, ui.fonts_mut(|f| f.layout_job(job))));
        }
        let (_, galley) = self.laid.clone()?;
        let (rect, response) = ui.allocate_exact_size(vec2(width, galley.size().y), Sense::hover());
        response.widget_info(|| WidgetInfo::labeled(Role::Paragraph, true, galley.text().chars().take(400).collect::<String>()));
        ui.painter().galley(rect.min, galley.clone(), ui.visuals().text_color());
        let under = response.hover_pos().and_then(|at| self.token_at(&galley, at - rect.min.to_vec2()));
        if let Some((token, place)) = under {
            let place = place.translate(rect.min.to_vec2()).expand(1.0);
            ui.painter().rect_stroke(place, 2.0, Stroke::new(1.5, ui.visuals().strong_text_color()), StrokeKind::Outside);
            super::tooltip(&response, it.lines_of(token));
        }
        if self.starts.len() < it.pieces.len() {
            let rest = it.pieces.len() - self.starts.len();
            if self.all {
                ui.weak(format!("… {rest} more tokens are too many to show"));
            } else if ui.small_button(format!("… {rest} more tokens")).clicked() {
                self.all = true;
            }
        }
        under.map(|u| u.0)
    }

    fn job(&mut self, ui: &Ui, it: &ScoredTokens<'_>, how: TokenColor, width: f32) -> LayoutJob {
        let font = TextStyle::Monospace.resolve(ui.style());
        let plain = ui.visuals().text_color();
        let mut job = LayoutJob { wrap: TextWrapping { max_width: width, ..TextWrapping::default() }, ..LayoutJob::default() };
        let most = SHOWN[usize::from(self.all)];
        let mut count = 0;
        self.starts.clear();
        for (i, piece) in it.pieces.iter().enumerate() {
            if count >= most {
                break;
            }
            let text = match piece.is_empty() {
                true if i + 1 == it.pieces.len() => "[end]".into(),
                true => "[]".into(),
                false => printable(piece, most - count, true),
            };
            self.starts.push(count);
            count += text.chars().count();
            let mut format = TextFormat::simple(font.clone(), plain);
            if let Some(color) = it.color(i, how) {
                (format.background, format.color, format.expand_bg) = (color, theme::ink_on(color), 0.5);
            }
            job.append(&text, 0.0, format);
        }
        job
    }

    /// The token at a position of the galley, and the area of its characters in that row.
    fn token_at(&self, galley: &Galley, at: Pos2) -> Option<(usize, Rect)> {
        let mut count = 0;
        for row in &galley.rows {
            let place = Rect::from_min_size(row.pos, row.row.size);
            let chars = row.row.glyphs.len();
            if place.y_range().contains(at.y) {
                let x = at.x - row.pos.x;
                let column = row.row.glyphs.iter().position(|g| (g.pos.x..g.pos.x + g.advance_width).contains(&x))?;
                let token = self.starts.partition_point(|s| *s <= count + column).checked_sub(1)?;
                let first = self.starts[token].saturating_sub(count);
                let end = self.starts.get(token + 1).map_or(chars, |s| (s - count).min(chars));
                let (from, to) = (row.row.glyphs.get(first)?, row.row.glyphs.get(end.checked_sub(1)?)?);
                let range = row.pos.x + from.pos.x..=row.pos.x + to.pos.x + to.advance_width;
                return Some((token, Rect::from_x_y_ranges(range, place.y_range())));
            }
            count += chars + usize::from(row.ends_with_newline);
        }
        None
    }
}

/// A legend of token colours; `most` as in [`ScoredTokens`].
pub fn key_to(ui: &mut Ui, how: TokenColor, most: [f64; 2]) {
    let (name, from, to, color): (_, _, _, fn(f64) -> Color32) = match how {
        TokenColor::Plain => return,
        TokenColor::Probability => ("probability", "0".into(), "1".into(), theme::probability),
        TokenColor::Entropy => ("entropy", "0".into(), format!("{} nats", number(most[0])), theme::probability),
        TokenColor::Advantage => ("advantage", number(-most[1]), number(most[1]), |t| theme::signed(2.0 * t - 1.0)),
    };
    ui.label(RichText::new(format!("{name} {from}")).small());
    let height = ui.text_style_height(&TextStyle::Small);
    let (rect, _) = ui.allocate_exact_size(vec2(120.0, height), Sense::hover());
    let n = 24;
    for i in 0..n {
        let at = |i: usize| rect.left() + rect.width() * i as f32 / n as f32;
        let piece = Rect::from_min_max(pos2(at(i), rect.top()), pos2(at(i + 1), rect.bottom()));
        ui.painter().rect_filled(piece, 0.0, color((i as f64 + 0.5) / n as f64));
    }
    ui.label(RichText::new(to).small());
}

/// Untrusted text with unprintable characters escaped, truncated to `most` characters; `marks` shows line ends.
pub fn printable(text: &str, most: usize, marks: bool) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i >= most {
            out.push('…');
            break;
        }
        match c {
            '\n' if marks => out.push_str("\\n\n"),
            '\n' => out.push('\n'),
            '\t' => out.push_str("    "),
            // Directional and joining marks would reorder the surrounding text.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                out.extend(c.escape_unicode())
            }
            c if c.is_control() => out.extend(c.escape_debug()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_print_is_escaped_and_length_is_bounded() {
        assert_eq!(printable("a\tb\n\u{7}\u{202e}é", 99, false), "a    b\n\\u{7}\\u{202e}é");
        assert_eq!(printable("ab\nc", 3, true), "ab\\n\n…");
        assert_eq!(printable(&"x".repeat(1 << 20), 5, false), "xxxxx…");
    }

    #[test]
    fn torn_lists_have_no_colour_and_no_number() {
        let pieces = ["a".to_owned(), "b".to_owned()];
        let it = ScoredTokens { pieces: &pieces, logprobs: &[f32::NAN], most: [f64::NAN, 0.0], ..ScoredTokens::default() };
        assert_eq!(
            [it.color(0, TokenColor::Probability), it.color(1, TokenColor::Entropy), it.color(9, TokenColor::Advantage)],
            [None; 3]
        );
        assert_eq!(it.lines_of(1)[1], "probability –");
        let sure = ScoredTokens { logprobs: &[0.0], ..it };
        assert_eq!(sure.color(0, TokenColor::Probability), Some(theme::probability(1.0)));
    }
}
