//! Generated WGSL with indentation.

/// Lines of WGSL.
#[derive(Default)]
pub(super) struct WgslText {
    /// The lines so far.
    pub text: String,
    depth: usize,
}

impl WgslText {
    /// Append a line. `{` at its end indents the next ones, `}` at its start ends that.
    pub fn line(&mut self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if line.starts_with('}') {
            self.depth -= 1;
        }
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n("    ", self.depth));
            self.text.push_str(line);
        }
        self.text.push('\n');
        if line.ends_with('{') {
            self.depth += 1;
        }
    }

    /// Append `head {`.
    pub fn open(&mut self, head: &str) {
        self.line(format!("{head} {{"));
    }

    /// Append `}`.
    pub fn close(&mut self) {
        self.line("}");
    }
}
