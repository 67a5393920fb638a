//! WGSL text with indentation.

/// Lines of WGSL.
#[derive(Default)]
pub(super) struct Text {
    /// The lines so far.
    pub text: String,
    depth: usize,
}

impl Text {
    /// Append a line, indented.
    pub fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n("    ", self.depth));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    /// Append `head {`; later lines are indented by one level more.
    pub fn open(&mut self, head: &str) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
    }

    /// Append `}`.
    pub fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }
}
