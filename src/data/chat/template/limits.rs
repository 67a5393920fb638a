//! What a template may cost. It is a program of whoever made the model: it must neither end the process nor hang it.
//!
//! MiniJinja charges fuel for instructions and for what they produce. It does not bound: how deep an operator chain recurses while it is
//! parsed and compiled; lists that are computed as they are read (`a + a`, `[a] * n`, slices), which cost nothing until one step walks
//! them; values nested in values, which are printed, compared and dropped by recursion; what is folded into a constant while compiling.
//! Hence: [`check_source`] before parsing, the guards of `guard` around whatever makes or takes a value, `bound` in the guards.

use anyhow::{Result, ensure};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

/// Bytes of a template.
pub(super) const SOURCE: usize = 1 << 20;
/// What recurses, and how deep it may: that depends on the stack.
#[derive(Clone, Copy)]
pub(super) struct Recursion {
    /// Operators, brackets, filters and dots in one tag: each may be one more frame of the parser's stack.
    operators: usize,
    /// `elif` branches of a template, for the same reason.
    branches: usize,
    /// Calls of macros, and of loops by themselves.
    pub calls: usize,
}

impl Recursion {
    /// On a stack of 64 MiB, of which this needs a tenth.
    #[cfg(not(target_arch = "wasm32"))]
    pub const ON_A_THREAD: Self = Self { operators: 4000, branches: 500, calls: 500 };
    /// On the caller's stack, which has 1 MiB where there are no threads.
    #[cfg(any(test, target_arch = "wasm32"))]
    pub const IN_LINE: Self = Self { operators: 120, branches: 25, calls: 50 };
}

/// Values in values.
pub(super) const DEPTH: usize = 100;
/// Values in one value.
pub(super) const ITEMS: usize = 1_000_000;
/// Bytes of the texts in one value, and of what one step writes.
pub(super) const TEXT: usize = 32 << 20;
/// Bytes of a rendering.
pub(super) const OUTPUT: usize = 64 << 20;
/// Steps of the engine for one rendering; 64 bytes made or 2 values looked at are one.
const STEPS: u64 = 2_000_000;
/// More of them for each message.
const STEPS_A_MESSAGE: u64 = 2000;

/// Steps for a chat of so many messages and bytes.
pub(super) fn steps(messages: usize, bytes: usize) -> u64 {
    STEPS + STEPS_A_MESSAGE * messages as u64 + bytes as u64 / 4
}

/// An error inside the template that names a limit.
pub(super) fn over(limit: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("over a limit: {limit}"))
}

/// Whether the template is short and flat enough to be parsed.
pub(super) fn check_source(source: &str, syntax: &SyntaxConfig, most: Recursion) -> Result<()> {
    ensure!(
        source.len() <= SOURCE,
        "chat template: over a limit: {} bytes, more than 1 MiB. Is it the right file?",
        source.len()
    );
    let (most_operators, most_branches) = (most.operators, most.branches);
    let (mut operators, mut branches) = (0, 0);
    // What is no token is the parser's to report.
    for (token, span) in tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            Token::Ident("elif") => branches += 1,
            Token::Ident("not" | "and" | "or" | "in" | "is" | "if" | "else") => operators += 1,
            Token::Ident(_) | Token::Comma | Token::Colon | Token::Assign | Token::TemplateData(_) => {}
            Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => {}
            _ => operators += 1,
        }
        let line = span.start_line;
        ensure!(
            operators <= most_operators,
            "chat template (line {line}): over a limit: more than {most_operators} operators and brackets in one tag"
        );
        ensure!(branches <= most_branches, "chat template (line {line}): over a limit: more than {most_branches} elif branches");
    }
    Ok(())
}
