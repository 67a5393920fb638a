//! Operations that Jinja2 and Python define otherwise than MiniJinja: attributes and items, order and membership, iteration, scopes.
//!
//! `guard` puts these filters and tests into the parsed template. What MiniJinja cannot do is refused, never rendered differently.

use super::limits::DEPTH;
use super::objects::{BoundMethod, DictView, PythonIterator, PythonRange, as_object, is_dict, refused, type_name};
use super::print::as_float;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, State};
use std::cmp::Ordering;

/// `value.name`.
pub(super) const GET_ATTRIBUTE: &str = "lehr_get_attribute";
/// `value[key]`.
pub(super) const GET_ITEM: &str = "lehr_get_item";
/// A value that is iterated over by a loop.
pub(super) const ITERATED: &str = "lehr_iterated";
/// A value that is iterated over by a filter.
pub(super) const NOT_NONE: &str = "lehr_not_none";
/// An operand of `+` and `*`, a list that is sliced.
pub(super) const OPERAND: &str = "lehr_operand";
/// The result of a filter that is a generator in Jinja2.
pub(super) const ITERATOR: &str = "lehr_iterator";
/// Input of `sort` and the like: its values have an order.
pub(super) const ORDERED: &str = "lehr_ordered";
/// A variable that Jinja2 defines and MiniJinja does not.
pub(super) const MISSING: &str = "lehr_missing";
/// A list whose items have an attribute.
pub(super) const HAS_ATTRIBUTE: &str = "lehr_has_attribute";
/// Refuses the template.
pub(super) const REFUSE: &str = "lehr_refuse";
/// The test of a chain of comparisons: operators and operands.
pub(super) const COMPARE: &str = "lehr_compare";

/// Filters that return a generator, or another iterator, in Jinja2.
pub(super) const LAZY_FILTERS: &[&str] =
    &["batch", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"];
/// Filters that iterate over their input. `map`, `select` and the like take none for an empty list, as in Jinja2.
pub(super) const ITERATING_FILTERS: &[&str] = &[
    "batch", "count", "dictsort", "first", "groupby", "items", "join", "last", "length", "list", "max", "min", "reverse",
    "slice", "sort", "sum", "unique",
];
/// Filters that order their input, and the argument that says by what: its name and position.
pub(super) const ORDERING_FILTERS: &[(&str, &str, usize)] = &[
    ("dictsort", "by", 1),
    ("groupby", "attribute", 0),
    ("max", "attribute", 1),
    ("min", "attribute", 1),
    ("sort", "attribute", 2),
];
/// Filters that read an attribute of each item, and the position of the argument `attribute`; 99: by name only.
pub(super) const ATTRIBUTE_FILTERS: &[(&str, usize)] = &[
    ("groupby", 0),
    ("join", 1),
    ("map", 99),
    ("max", 1),
    ("min", 1),
    ("rejectattr", 0),
    ("selectattr", 0),
    ("sort", 2),
    ("sum", 0),
    ("unique", 1),
];
/// Variables of Jinja2 in macros and templates that MiniJinja does not define.
pub(super) const MISSING_VARIABLES: &[&str] = &["kwargs", "self", "varargs"];

const DICT: &[&str] = &["copy", "fromkeys", "get", "items", "keys", "values"];
/// Methods that change their object: undefined in Jinja's sandbox.
const CHANGING_DICT: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];
const LIST: &[&str] = &["copy", "count", "index"];
const CHANGING_LIST: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const NUMBER: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "fromhex",
    "hex",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];

/// Whether a type of Python has an attribute of this name.
pub(super) fn is_attribute(name: &str) -> bool {
    [DICT, CHANGING_DICT, LIST, CHANGING_LIST, STR, NUMBER].iter().any(|names| names.contains(&name))
}

/// Registers these filters, tests and functions, and removes those that Jinja2 does not have.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(GET_ATTRIBUTE, |value: &Value, name: &str| match own_attribute(value, name)? {
        Some(found) => Ok(found),
        None => value.get_attr(name),
    });
    environment.add_filter(GET_ITEM, get_item);
    environment.add_filter(ITERATED, |value: &Value| match as_object::<PythonIterator>(value) {
        // A loop knows the length of what it iterates over.
        Some(_) => Ok(value.try_iter()?.collect::<Vec<_>>().into()),
        None => not_none(value),
    });
    environment.add_filter(NOT_NONE, not_none);
    environment.add_filter(OPERAND, operand);
    environment.add_filter(ITERATOR, |value: &Value| match value.as_str() {
        Some(_) => Ok(value.clone()),
        None => Ok::<_, Error>(Value::from_object(PythonIterator::new(value.try_iter()?))),
    });
    environment.add_filter(ORDERED, ordered);
    environment.add_filter(HAS_ATTRIBUTE, has_attribute);
    for (name, rest) in [("even", 0), ("odd", 1)] {
        environment.add_test(name, move |value: &Value| match i128::try_from(value.clone()) {
            Ok(number) => Ok(number.rem_euclid(2) == rest),
            Err(_) => Err(refused(format!("is {name}: a value of type {}, not an integer", type_name(value)))),
        });
    }
    environment.add_filter(MISSING, |value: &Value, name: &str| match value.is_undefined() {
        true => Err(refused(format!("reads the variable {name} of Jinja2, which lehr does not have"))),
        false => Ok(value.clone()),
    });
    environment.add_filter(REFUSE, |why: String| -> Result<Value, Error> { Err(refused(why)) });
    environment.add_filter("attr", |value: &Value, name: &str| match own_attribute(value, name)? {
        Some(found) => Ok(found),
        None if is_dict(value) => Ok(Value::UNDEFINED),
        None => value.get_attr(name),
    });
    add_comparisons(environment);
    environment.add_function("range", |first: i64, stop: Option<i64>, step: Option<i64>| {
        PythonRange::new(first, stop, step).map(Value::from_object)
    });
    for name in ["cycler", "joiner", "lipsum"] {
        environment.add_function(name, move |_: Rest<Value>| -> Result<Value, Error> {
            Err(refused(format!("calls {name}, which lehr does not have")))
        });
    }
    ["bool", "chain", "lines", "split", "zip"].iter().for_each(|name| environment.remove_filter(name));
    ["endingwith", "safe", "startingwith"].iter().for_each(|name| environment.remove_test(name));
}

/// Registers the tests of order and membership.
fn add_comparisons(environment: &mut Environment<'static>) {
    environment.add_test(COMPARE, compare);
    for (name, operator) in [
        ("lt", "<"),
        ("lessthan", "<"),
        ("<", "<"),
        ("le", "<="),
        ("<=", "<="),
        ("gt", ">"),
        ("greaterthan", ">"),
        (">", ">"),
        ("ge", ">="),
        (">=", ">="),
    ] {
        environment.add_test(name, move |a: &Value, b: &Value| in_order(operator, a, b));
    }
    environment.add_test("in", |state: &State, item: &Value, of: &Value| contains(state, of, item));
}

/// The attribute that Python's type of this value has.
fn own_attribute(value: &Value, name: &str) -> Result<Option<Value>, Error> {
    let (of, methods, changing): (_, &[&str], &[&str]) = match value.kind() {
        ValueKind::String => ("str", STR, &[]),
        ValueKind::Map if is_dict(value) => ("dict", DICT, CHANGING_DICT),
        ValueKind::Seq if value.is_tuple() => ("tuple", &["count", "index"], &[]),
        ValueKind::Seq if as_object::<PythonRange>(value).is_some() => ("range", &["count", "index"], &[]),
        ValueKind::Seq => ("list", LIST, CHANGING_LIST),
        ValueKind::Number | ValueKind::Bool if NUMBER.contains(&name) => {
            return Err(refused(format!("reads the attribute {name} of a number, which lehr does not have")));
        }
        _ => return Ok(None),
    };
    if changing.contains(&name) {
        return Ok(Some(Value::UNDEFINED));
    }
    Ok(methods.contains(&name).then(|| Value::from_object(BoundMethod { name: name.to_owned(), of })))
}

/// The item, or else the attribute of that name.
fn get_item(value: &Value, key: &Value) -> Result<Value, Error> {
    if as_object::<DictView>(value).is_some() || as_object::<PythonIterator>(value).is_some() {
        return Ok(Value::UNDEFINED);
    }
    let found = value.get_item(key)?;
    match key.as_str().filter(|name| found.is_undefined() && is_attribute(name)) {
        Some(name) => Ok(own_attribute(value, name)?.unwrap_or(found)),
        None => Ok(found),
    }
}

fn not_none(value: &Value) -> Result<Value, Error> {
    if value.is_none() { Err(refused("'NoneType' object is not iterable".into())) } else { Ok(value.clone()) }
}

fn operand(value: &Value) -> Result<Value, Error> {
    let name = type_name(value);
    let is_list = !matches!(name, "range" | "generator" | "builtin_function_or_method") && as_object::<DictView>(value).is_none();
    if is_list { Ok(value.clone()) } else { Err(refused(format!("takes a {name} for a list. Write | list behind it"))) }
}

/// The value, if its items, or an attribute of them, can be ordered.
fn ordered(state: &mut State, value: &Value, filter: &str, attribute: Option<&Value>) -> Result<Value, Error> {
    // What is read once is read here.
    let value = match as_object::<PythonIterator>(value) {
        Some(_) => value.try_iter()?.collect::<Vec<_>>().into(),
        None => not_none(value)?,
    };
    if filter == "dictsort" {
        let by_value = attribute.is_some_and(|by| by.as_str() == Some("value"));
        let pairs = value.as_object().and_then(|object| object.try_iter_pairs()).into_iter().flatten();
        let keys: Vec<Value> = pairs.map(|(key, item)| if by_value { item } else { key }).collect();
        for pair in keys.windows(2) {
            order("<", &pair[0], &pair[1], 0)?;
        }
        return Ok(value);
    }
    let names = attribute.filter(|name| !name.is_none()).map(ToString::to_string);
    let keys: Vec<Value> = match &names {
        None => vec![value.clone()],
        Some(names) => {
            let mut out = Vec::new();
            for name in names.split(',') {
                let name: Kwargs = [("attribute", Value::from(name.trim()))].into_iter().collect();
                out.push(state.apply_filter("map", &[value.clone(), name.into()])?);
            }
            out
        }
    };
    for keys in keys {
        let mut last: Option<Value> = None;
        for key in keys.try_iter()? {
            // Python's sort orders lists of keys, of which it skips equal ones.
            if let Some(last) = last.replace(key.clone())
                && (filter != "sort" || last != key)
            {
                order("<", &last, &key, 0)?;
            }
        }
    }
    Ok(value)
}

/// Jinja2 takes the item of that name, or else the method of the dict, which MiniJinja does not see.
fn has_attribute(value: &Value, names: &Value) -> Result<Value, Error> {
    let Some(names) = names.as_str() else { return Ok(value.clone()) };
    for name in names.split(',').map(str::trim) {
        let is_method = |name: &str| [DICT, CHANGING_DICT].iter().any(|methods| methods.contains(&name));
        if !name.split('.').any(is_method) {
            continue;
        }
        let items = match as_object::<PythonIterator>(value) {
            Some(iterator) => iterator.remaining(),
            None if value.as_object().is_some() => value.try_iter()?.collect(),
            None => Vec::new(),
        };
        let is_missing = |item: &Value| is_dict(item) && item.get_item(&name.into()).is_ok_and(|found| found.is_undefined());
        if name.contains('.') || items.iter().any(is_missing) {
            return Err(refused(format!("takes {name}, the method of a dict, for an attribute")));
        }
    }
    Ok(value.clone())
}

/// A chain of comparisons: `value`, then operators and operands in turn. As in Python, the first that is false ends it.
fn compare(state: &mut State, value: &Value, chain: Rest<Value>) -> Result<bool, Error> {
    let mut left = value;
    for pair in chain.chunks(2) {
        let [operator, right] = pair else { return Ok(false) };
        let holds = match operator.as_str().unwrap_or_default() {
            "==" => left == right,
            "!=" => left != right,
            "in" => contains(state, right, left)?,
            "not in" => !contains(state, right, left)?,
            operator => in_order(operator, left, right)?,
        };
        if !holds {
            return Ok(false);
        }
        left = right;
    }
    Ok(true)
}

fn contains(state: &State, of: &Value, item: &Value) -> Result<bool, Error> {
    match of.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(refused(format!("argument of type '{}' is not iterable", type_name(of))))
        }
        ValueKind::String if item.as_str().is_none() => {
            Err(refused(format!("'in <string>' requires string as left operand, not {}", type_name(item))))
        }
        _ => minijinja::tests::is_in(state, item, of),
    }
}

fn in_order(operator: &str, a: &Value, b: &Value) -> Result<bool, Error> {
    let Some(order) = order(operator, a, b, 0)? else { return Ok(false) };
    Ok(match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Python's order of two values; none with a NaN.
///
/// # Errors
/// Values of types that have no order.
fn order(operator: &str, a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>, Error> {
    if a.is_undefined() || b.is_undefined() {
        return Err(refused(format!("an undefined value is compared with {operator}")));
    }
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if is_number(a) && is_number(b) {
        let int = |value: &Value| match value.kind() {
            ValueKind::Bool => Some(i128::from(value.is_true())),
            _ => value.is_integer().then(|| i128::try_from(value.clone()).ok()).flatten(),
        };
        if let (Some(a), Some(b)) = (int(a), int(b)) {
            return Ok(Some(a.cmp(&b)));
        }
        let float = |value: &Value| {
            as_float(value).or_else(|| int(value).map(|n| n as f64)).or_else(|| f64::try_from(value.clone()).ok())
        };
        return Ok(float(a).zip(float(b)).and_then(|(a, b)| a.partial_cmp(&b)));
    }
    let (first, second) = (type_name(a), type_name(b));
    let are_lists = first == second && matches!(first, "list" | "tuple") && depth < DEPTH;
    if !are_lists {
        return Err(refused(format!("'{operator}' not supported between instances of '{first}' and '{second}'")));
    }
    for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
        if a != b {
            return order(operator, &a, &b, depth + 1);
        }
    }
    Ok(a.len().zip(b.len()).map(|(a, b)| a.cmp(&b)))
}

/// `items`, `keys` and `values` of a dict as Python's views; `None` for another value or method.
pub(super) fn view(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let name = match name {
        "items" => "dict_items",
        "keys" => "dict_keys",
        "values" => "dict_values",
        _ => return Ok(None),
    };
    let Some(object) = value.as_object().filter(|_| is_dict(value)) else { return Ok(None) };
    let () = from_args(args)?;
    let pairs = object.try_iter_pairs().into_iter().flatten();
    let items: Vec<Value> = match name {
        "dict_items" => pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))).collect(),
        "dict_keys" => pairs.map(|(key, _)| key).collect(),
        _ => pairs.map(|(_, value)| value).collect(),
    };
    state.consume_fuel(items.len() as u64 / 2)?;
    Ok(Some(Value::from_object(DictView { name, items })))
}
