//! Size limits on values, so that every operation of the engine on them (print, join, compare, drop) is bounded too.

use super::limits::{DEPTH, ITEMS, TEXT, limit_error};
use super::objects::{DictView, PythonIterator, PythonRange, refused};
use super::print::as_text;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{DynObject, Kwargs, ObjectRepr, Rest, Serde, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Error, State};
use serde::{Serialize, Serializer};

/// The value, if it is within the limits. Lazy lists become plain lists, as in Python: otherwise each read would walk through all that they
/// were made from, with one stack frame each.
pub(super) fn bound(state: &State, value: Value) -> Result<Value, Error> {
    hold(state, value, true)
}

/// As [`bound`], for an attribute of a namespace, the only place where a value could come to contain itself.
pub(super) fn bound_attribute(state: &State, value: Value) -> Result<Value, Error> {
    hold(state, value, false)
}

/// Checks that a value may be printed.
pub(super) fn check(state: &State, value: &Value) -> Result<(), Error> {
    bound(state, value.clone()).map(drop)
}

fn hold(state: &State, value: Value, namespaces: bool) -> Result<Value, Error> {
    if value.as_object().is_none() {
        return Ok(value);
    }
    let mut tally = ValueTotals { items: 0, text: 0, namespaces };
    let changed = tally.walk(&value, 0)?;
    state.consume_fuel(tally.items as u64 / 2)?;
    Ok(changed.unwrap_or(value))
}

/// Totals counted so far.
struct ValueTotals {
    items: usize,
    text: usize,
    /// Whether namespaces are allowed.
    namespaces: bool,
}

impl ValueTotals {
    /// Counts a value; returns a copy if lazy lists in it were replaced.
    fn walk(&mut self, value: &Value, depth: usize) -> Result<Option<Value>, Error> {
        self.items += 1;
        if self.items > ITEMS {
            return Err(limit_error(&format!("more than {ITEMS} values in one value")));
        }
        if let Some(text) = value.as_str() {
            self.text += text.len();
            if self.text > TEXT {
                return Err(limit_error(&format!("more than {} MiB of text in one value", TEXT >> 20)));
            }
        }
        let Some(object) = value.as_object() else { return Ok(None) };
        if depth >= DEPTH {
            return Err(limit_error(&format!("values nested more than {DEPTH} deep")));
        }
        if let Some(view) = object.downcast_ref::<DictView>() {
            let items = self.items(&view.items, depth + 1)?;
            return Ok(items.map(|items| Value::from_object(DictView { name: view.name, items })));
        }
        if let Some(iterator) = object.downcast_ref::<PythonIterator>() {
            let items = self.items(&iterator.remaining(), depth + 1)?;
            return Ok(items.map(|items| Value::from_object(PythonIterator::new(items))));
        }
        if let Some(range) = object.downcast_ref::<PythonRange>() {
            self.items += range.len();
            return Ok(None);
        }
        match object.repr() {
            ObjectRepr::Seq | ObjectRepr::Iterable => self.list(value, object, depth + 1),
            ObjectRepr::Map => self.map(object, depth + 1),
            _ => Ok(None),
        }
    }

    /// As [`Self::walk`], for the items of a value.
    fn items(&mut self, items: &[Value], depth: usize) -> Result<Option<Vec<Value>>, Error> {
        let (mut out, mut changed) = (Vec::with_capacity(items.len()), false);
        for item in items {
            let new = self.walk(item, depth)?;
            changed |= new.is_some();
            out.push(new.unwrap_or_else(|| item.clone()));
        }
        Ok(changed.then_some(out))
    }

    fn list(&mut self, value: &Value, object: &DynObject, depth: usize) -> Result<Option<Value>, Error> {
        let (tuple, list) = (value.is_tuple(), object.downcast_ref::<Vec<Value>>().is_some());
        let (mut items, mut changed) = (Vec::new(), !tuple && !list);
        for item in object.try_iter().into_iter().flatten() {
            // Out of fuel, or another error in place of an item.
            if item.kind() == ValueKind::Invalid {
                return Ok(None);
            }
            let new = self.walk(&item, depth)?;
            changed |= new.is_some();
            items.push(new.unwrap_or(item));
        }
        Ok(changed.then(|| if tuple { Value::from(Tuple::from(items)) } else { Value::from(items) }))
    }

    fn map(&mut self, object: &DynObject, depth: usize) -> Result<Option<Value>, Error> {
        // The engine's own type, which has no public name.
        let namespace = object.type_name().ends_with("::Namespace");
        if namespace && !self.namespaces {
            return Err(limit_error("a namespace in a namespace"));
        }
        let (mut pairs, mut changed) = (Vec::new(), false);
        for (key, value) in object.try_iter_pairs().into_iter().flatten() {
            self.walk(&key, depth)?;
            let new = self.walk(&value, depth)?;
            changed |= new.is_some();
            pairs.push((key, new.unwrap_or(value)));
        }
        // The content of a namespace or a loop was checked when it was stored.
        let plain = object.type_name().contains("IndexMap");
        Ok((changed && plain).then(|| Value::from(Serde(OrderedPairs(pairs)))))
    }
}

/// A map in this order.
struct OrderedPairs(Vec<(Value, Value)>);

impl Serialize for OrderedPairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The filter `format`, like Python's `%`.
pub(super) fn printf(state: &State, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args: Vec<Value> = args.0.into_iter().map(ValueOrKwargs::into_value).collect();
    let Some((Some(text), args)) = args.split_first().map(|(text, args)| (text.as_str(), args)) else {
        return Err(refused("format: the format must be a text".into()));
    };
    check_format(text, '%', args)?;
    format(FormatStyle::Printf, text, &printed_lists(state, args)?).map(Value::from)
}

/// The arguments of a format, lists as Python prints them.
pub(super) fn printed_lists(state: &State, args: &[Value]) -> Result<Vec<Value>, Error> {
    let printed = |value: &Value| if value.as_object().is_some() { as_text(state, value) } else { Ok(value.clone()) };
    let named = |arg: &Value| -> Result<Value, Error> {
        let pairs = arg.try_iter()?.map(|key| Ok((key.to_string(), printed(&arg.get_item(&key)?)?)));
        Ok(Kwargs::from_iter(pairs.collect::<Result<Vec<_>, Error>>()?).into())
    };
    args.iter().map(|arg| if arg.is_kwargs() { named(arg) } else { printed(arg) }).collect()
}

/// Checks that `text.format(args)` or `text % args` stays within the limits, assuming the longest argument and the greatest width for every
/// field.
pub(super) fn check_format(text: &str, field: char, args: &[Value]) -> Result<(), Error> {
    // MiniJinja reads fields byte by byte, and panics within a character.
    let end = if field == '{' { '}' } else { ')' };
    let opened = text.split(field).skip(1).filter(|part| field == '{' || part.starts_with('('));
    if opened.map(|part| part.split(end).next().unwrap_or_default()).any(|name| !name.is_ascii()) {
        return Err(refused("format: fields have ASCII names and formats only".into()));
    }
    let fields = text.matches(field).count();
    let mut longest = 32;
    for arg in args {
        let mut tally = ValueTotals { items: 0, text: 0, namespaces: true };
        tally.walk(arg, 0)?;
        // Brackets, quotes, escapes.
        longest = longest.max(4 * tally.text + 32 * tally.items);
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.fold(0usize, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(usize::MAX)));
    // `*` takes its width from an argument.
    let widest = args.iter().filter_map(|arg| arg.as_i64()).fold(0, |most, n| most.max(n.unsigned_abs() as usize));
    let starred = if text.contains('*') { widest.saturating_mul(fields) } else { 0 };
    let most = fields.saturating_mul(longest).saturating_add(widths).saturating_add(starred).saturating_add(text.len());
    if most > TEXT {
        return Err(limit_error(&format!("a format that could write more than {} MiB", TEXT >> 20)));
    }
    Ok(())
}
