//! End of generated text: an end token, or a stop string.

/// Passes text through up to a stop string, and holds back what may be the start of one.
#[derive(Debug)]
pub struct StopStringFilter {
    end: Option<String>,
    held: String,
    ended: bool,
}

impl StopStringFilter {
    /// `end` is the stop string; without one all text passes.
    pub fn new(end: Option<&str>) -> Self {
        Self { end: end.map(str::to_owned), held: String::new(), ended: false }
    }

    /// The text that can be shown now, and whether the stop string was found.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        let Some(end) = &self.end else { return (piece.to_owned(), false) };
        self.held.push_str(piece);
        if let Some(at) = self.held.find(end.as_str()) {
            self.ended = true;
            return (self.held[..at].to_owned(), true);
        }
        let keep = end.char_indices().map(|(at, _)| at).filter(|at| self.held.ends_with(&end[..*at])).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text held back, when no more follows.
    pub fn finish(mut self, rest: &str) -> String {
        if self.ended {
            return String::new();
        }
        self.held.push_str(rest);
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stops_before_the_stop_string() {
        let run = |end: &str, pieces: &[&str]| {
            let mut until = StopStringFilter::new(Some(end));
            let mut shown = Vec::new();
            for piece in pieces {
                let (text, ended) = until.push(piece);
                shown.push(text);
                if ended {
                    break;
                }
            }
            shown.push(until.finish(""));
            shown
        };
        assert_eq!(run("\n\n", &["a\n", "b", "\n", "\n", "c"]), ["a", "\nb", "", "", ""]);
        assert_eq!(run("\n\n", &["a", "\n"]), ["a", "", "\n"]);
        assert_eq!(run("abab", &["xaba", "abab!"]), ["x", "aba", ""]);
        assert_eq!(StopStringFilter::new(None).push("<|end").0, "<|end");
    }
}
