//! A text that indents itself.

/// Lines of WGSL.
#[derive(Default)]
pub(super) struct Text {
    /// So far.
    pub text: String,
    depth: usize,
}

impl Text {
    /// One line; an empty one ends a paragraph.
    pub fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n("    ", self.depth));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    /// `head {`, and what follows is inside.
    pub fn open(&mut self, head: &str) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
    }

    /// `}`
    pub fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }
}
