//! Python's objects that MiniJinja has no equivalent of: methods as values, views of a dict, ranges, and iterators that are read once.

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{Error, ErrorKind, State};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A method as a value: `message.items` without a call. It is true and defined, and can neither be printed nor called later.
#[derive(Debug)]
pub(super) struct BoundMethod {
    /// The method's name.
    pub name: String,
    /// Python's name of the type.
    pub of: &'static str,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        Err(refused(format!("calls the method {} through a variable. Call it where the {} stands", self.name, self.of)))
    }
}

/// `dict_items`, `dict_keys` or `dict_values`: a length and an order, no index.
#[derive(Debug)]
pub(super) struct DictView {
    /// Python's name of the type.
    pub name: &'static str,
    /// Keys, values, or tuples of both.
    pub items: Vec<Value>,
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(self.items.clone().into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct PythonRange {
    start: i64,
    stop: i64,
    step: i64,
    len: usize,
}

impl PythonRange {
    /// Longest range that Jinja's sandbox allows.
    const MOST: u64 = 100_000;

    /// The range of these arguments, as Python reads them.
    ///
    /// # Errors
    /// A step of 0; more than 100,000 numbers.
    pub(super) fn new(first: i64, stop: Option<i64>, step: Option<i64>) -> Result<Self, Error> {
        let (start, stop, step) = (if stop.is_some() { first } else { 0 }, stop.unwrap_or(first), step.unwrap_or(1));
        if step == 0 {
            return Err(refused("range() arg 3 must not be zero".into()));
        }
        let (low, high) = if step > 0 { (start, stop) } else { (stop, start) };
        let len = if high > low { high.abs_diff(low).div_ceil(step.unsigned_abs()) } else { 0 };
        if len > Self::MOST {
            return Err(refused(format!("over a limit: a range of more than {} numbers", Self::MOST)));
        }
        Ok(Self { start, stop, step, len: len as usize })
    }

    /// Number of numbers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// As `repr` writes it.
    pub(super) fn text(&self) -> String {
        match self.step {
            1 => format!("range({}, {})", self.start, self.stop),
            step => format!("range({}, {}, {step})", self.start, self.stop),
        }
    }
}

impl Object for PythonRange {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_usize().filter(|at| *at < self.len)?;
        Some((self.start + at as i64 * self.step).into())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }
}

/// A generator or another iterator: what `map` and `select` return. True even if nothing is left; each item is read once.
#[derive(Debug)]
pub(super) struct PythonIterator(Mutex<VecDeque<Value>>);

impl PythonIterator {
    /// An iterator over these items.
    pub(super) fn new(items: impl IntoIterator<Item = Value>) -> Self {
        Self(Mutex::new(items.into_iter().collect()))
    }

    /// The items that were not read yet, which stay unread.
    pub(super) fn remaining(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn next(&self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Object for PythonIterator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let items = Arc::clone(self);
        Enumerator::Iter(Box::new(std::iter::from_fn(move || items.next())))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// The object, if the value is one of this type.
pub(super) fn as_object<T: 'static>(value: &Value) -> Option<&T> {
    value.as_object().and_then(|object| object.downcast_ref())
}

/// Whether the value is a dict of the template or of its data.
pub(super) fn is_dict(value: &Value) -> bool {
    // The engine's own types, which have no public name.
    let own = |name: &str| name.ends_with("::Namespace") || name.ends_with("::Loop");
    value.as_object().is_some_and(|object| object.repr() == ObjectRepr::Map && !own(object.type_name()))
}

/// Python's name for the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    use minijinja::value::ValueKind;
    if let Some(view) = as_object::<DictView>(value) {
        return view.name;
    }
    match value.kind() {
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Undefined => "Undefined",
        _ if as_object::<PythonRange>(value).is_some() => "range",
        _ if as_object::<PythonIterator>(value).is_some() => "generator",
        _ if as_object::<BoundMethod>(value).is_some() => "builtin_function_or_method",
        _ if value.is_tuple() => "tuple",
        ValueKind::Seq | ValueKind::Iterable => "list",
        ValueKind::Map if is_dict(value) => "dict",
        _ => "object",
    }
}

/// An error of the template.
pub(super) fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}
