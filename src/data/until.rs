//! Where a generated text ends: at a token, or at a text.

/// Lets text through up to a text that ends it, and holds back what may become that.
#[derive(Debug)]
pub struct Until {
    end: Option<String>,
    held: String,
    ended: bool,
}

impl Until {
    /// `end` ends the text; without one all of it passes.
    pub fn new(end: Option<&str>) -> Self {
        Self { end: end.map(str::to_owned), held: String::new(), ended: false }
    }

    /// What may be shown by now, and whether the end has come.
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

    /// What was held back when no more comes.
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
    fn text_stops_before_its_end() {
        let run = |end: &str, pieces: &[&str]| {
            let mut until = Until::new(Some(end));
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
        assert_eq!(Until::new(None).push("<|end").0, "<|end");
    }
}
