//! Limits for templates. A template is an untrusted program from a model's author: it must neither crash nor hang the process.
//!
//! MiniJinja charges fuel for instructions and for their output. It does not limit: the recursion depth of operator chains in parser and
//! compiler; lazy lists (`a + a`, `[a] * n`, slices), which are free until one step walks through them; nested values, which are printed,
//! compared and dropped recursively; constant folding in the compiler. Hence [`check_source`] before parsing, the guards of `guard` around
//! expressions that create or take a value, and `bound` in the guards.

use anyhow::{Result, ensure};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

/// Maximum size of a template in bytes.
pub(super) const SOURCE: usize = 1 << 20;
/// Recursion limits; they depend on the size of the stack.
#[derive(Clone, Copy)]
pub(super) struct Recursion {
    /// Operators, brackets, filters and dots in one tag: each can be one more stack frame of the parser.
    operators: usize,
    /// `elif` branches of a template, for the same reason.
    branches: usize,
    /// Calls of macros, and recursive loops.
    pub calls: usize,
}

impl Recursion {
    /// For a stack of 64 MiB, of which this needs a tenth.
    #[cfg(not(target_arch = "wasm32"))]
    pub const ON_A_THREAD: Self = Self { operators: 4000, branches: 500, calls: 500 };
    /// For the caller's stack, which has 1 MiB on platforms without threads.
    #[cfg(any(test, target_arch = "wasm32"))]
    pub const IN_LINE: Self = Self { operators: 120, branches: 25, calls: 50 };
}

/// Maximum depth of nested values.
pub(super) const DEPTH: usize = 100;
/// Maximum number of values in one value.
pub(super) const ITEMS: usize = 1_000_000;
/// Maximum bytes of strings in one value, and of the output of one step.
pub(super) const TEXT: usize = 32 << 20;
/// Maximum bytes of a rendering: a million tokens. Encoding it takes up to 150 bytes of memory for each.
pub(super) const OUTPUT: usize = 4 << 20;
/// Maximum steps of the engine per rendering; 64 bytes of output or 2 values read are one step.
const STEPS: u64 = 2_000_000;
/// Additional steps per message.
const STEPS_A_MESSAGE: u64 = 2000;

/// Step limit for a chat with this many messages and bytes.
pub(super) fn steps(messages: usize, bytes: usize) -> u64 {
    STEPS + STEPS_A_MESSAGE * messages as u64 + bytes as u64 / 4
}

/// An error in the template that names the exceeded limit.
pub(super) fn limit_error(limit: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("over a limit: {limit}"))
}

/// Checks that the template is short and flat enough to be parsed.
pub(super) fn check_source(source: &str, syntax: &SyntaxConfig, most: Recursion) -> Result<()> {
    ensure!(
        source.len() <= SOURCE,
        "chat template: over a limit: {} bytes, more than 1 MiB. Is it the right file?",
        source.len()
    );
    let (most_operators, most_branches) = (most.operators, most.branches);
    let (mut operators, mut branches) = (0, 0);
    // Invalid tokens are reported by the parser.
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
