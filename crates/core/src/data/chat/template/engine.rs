//! The Jinja engine, configured as in `transformers`.

use super::guard::{ATTRIBUTE, BOUND, guarded};
use super::limits::{OUTPUT, Recursion, check_source, limit_error};
use super::objects::refused;
use super::print::as_text;
use super::value_limits::{bound, bound_attribute, check, check_format, printed_lists, printf};
use super::{CLOSE, OPEN};
use super::{pythonic, semantics};
use crate::data::chat::python::strftime;
use crate::data::display_text;
use anyhow::{Result, anyhow};
use minijinja::machinery::{CodeGenerator, eval, make_string_output, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use serde_json::{Map, Value};

/// The filter that replaces `{% generation %}`.
pub(super) const GENERATION: &str = "lehr_generation";

/// A request to render.
pub(super) struct RenderRequest {
    /// All template variables.
    pub context: Map<String, Value>,
    /// Fuel limit in steps.
    pub steps: u64,
}

/// Compiles the template, then renders the requests that `next` returns; `next` receives the previous result, first that of the compiler.
pub(super) fn serve(source: &str, date: i64, most: Recursion, mut next: impl FnMut(Result<String>) -> Option<RenderRequest>) {
    let mut environment = environment(date);
    environment.set_recursion_limit(most.calls);
    let compiled = syntax().and_then(|syntax| {
        check_source(source, &syntax, most)?;
        let tree = guarded(&parse(source, "chat", syntax).map_err(|e| template_error(&e))?);
        let mut generator = CodeGenerator::new("chat", source);
        generator.compile_stmt(&tree);
        Ok(generator.finish())
    });
    let (instructions, blocks) = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            next(Err(error));
            return;
        }
    };
    let mut answer = Ok(String::new());
    while let Some(RenderRequest { context, steps }) = next(answer) {
        environment.set_fuel(Some(steps));
        let (mut text, root) = (String::new(), Jinja::from(Serde(&context)));
        let mut output = make_string_output(&mut text);
        let done = eval(&environment, &instructions, root, &blocks, &mut output, AutoEscape::None).map(drop);
        drop(output);
        answer = match done {
            Err(error) => Err(template_error(&error)),
            Ok(()) if text.len() > OUTPUT => {
                Err(anyhow!("the chat template is over a limit: it wrote more than {} MiB", OUTPUT >> 20))
            }
            Ok(()) => Ok(text),
        };
    }
}

fn syntax() -> Result<SyntaxConfig> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| template_error(&e))
}

fn environment(date: i64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    // It prints all variables; in Jinja it is only an extension.
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    environment.set_formatter(|out, state, value| {
        check(state, value)?;
        minijinja::escape_formatter(out, state, &as_text(state, value)?)
    });
    // MiniJinja iterates over none as over an empty list; Python raises an error.
    environment.add_test("iterable", |value: &Jinja| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Plain)
    });
    pythonic::add_to(&mut environment);
    semantics::add_to(&mut environment);
    environment.add_filter(BOUND, bound);
    environment.add_filter(ATTRIBUTE, bound_attribute);
    environment.add_filter("format", printf);
    environment.add_filter(GENERATION, |text: String| format!("{OPEN}{text}{CLOSE}"));
    environment.add_function("raise_exception", |text: String| -> Result<Jinja, Error> { Err(refused(text)) });
    environment.add_function("strftime_now", move |format: String| match format.len() {
        0..=1024 => Ok(strftime(&format, date)),
        _ => Err(limit_error("strftime_now with a format of more than 1024 bytes")),
    });
    environment
}

/// Python's methods of strings, maps and lists.
fn method(state: &mut State, value: &Jinja, name: &str, args: &[Jinja]) -> Result<Jinja, Error> {
    if let ("format", Some(text)) = (name, value.as_str()) {
        check_format(text, '{', args)?;
        // Without an index or attribute of an argument, a list is only printed.
        if !text.contains(['[', '.']) {
            let args = printed_lists(state, args)?;
            return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &args);
        }
    }
    if let Some(view) = semantics::view(state, value, name, args)? {
        return Ok(view);
    }
    match pythonic::method(state, value, name, args)? {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn template_error(error: &Error) -> anyhow::Error {
    let mut detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut fuel = error.kind() == ErrorKind::OutOfFuel;
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        detail = inner.to_string();
        fuel |= inner.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel);
        cause = inner.source();
    }
    if fuel {
        detail = "over a limit: it ran out of fuel, too many steps for a chat of this length".into();
    }
    match error.line() {
        Some(line) => anyhow!("the chat template (line {line}) refuses it: {}", display_text(&detail)),
        None => anyhow!("the chat template refuses it: {}", display_text(&detail)),
    }
}
