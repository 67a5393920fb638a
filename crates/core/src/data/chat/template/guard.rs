//! Adds guards to a parsed template: [`BOUND`] around each value that is stored, passed on, or created without using fuel, so that no
//! single step of the engine handles a value that is too deep or too large. It also puts the operations of `semantics` in place of those
//! that MiniJinja defines otherwise than Jinja2.

use super::semantics::{
    ATTRIBUTE_FILTERS, COMPARE, GET_ATTRIBUTE, GET_ITEM, HAS_ATTRIBUTE, ITERATED, ITERATING_FILTERS, ITERATOR, LAZY_FILTERS,
    MISSING, MISSING_VARIABLES, NOT_NONE, OPERAND, ORDERED, ORDERING_FILTERS, REFUSE, is_attribute,
};
use minijinja::machinery::Span;
use minijinja::machinery::ast::{
    AutoEscape, BinOp, BinOpKind, Break, Call, CallArg, CallBlock, Compare, CompareOp, CompareOpKind, Const, Continue, Do,
    EmitExpr, EmitRaw, Expr, Filter, FilterBlock, ForLoop, GetAttr, GetItem, IfCond, IfExpr, List, Macro, Map, Set, SetBlock,
    Slice, Spanned, Stmt, Template, Test, Tuple, UnaryOp, UnaryOpKind, Var, WithBlock,
};
use minijinja::value::Value;

/// The filter that checks a value against the limits.
pub(super) const BOUND: &str = "lehr_bound";
/// The same for attributes of a namespace.
pub(super) const ATTRIBUTE: &str = "lehr_attribute";

/// Filters whose result is always a string or a number.
const PLAIN_FILTERS: &[&str] = &[
    "abs",
    "bool",
    "capitalize",
    "count",
    "e",
    "escape",
    "float",
    "format",
    "indent",
    "int",
    "join",
    "length",
    "lower",
    "replace",
    "round",
    "string",
    "title",
    "tojson",
    "trim",
    "upper",
];
/// Filters that take their input as text; `string` writes it as Python does.
const TEXT_FILTERS: &[&str] = &["capitalize", "lower", "replace", "title", "trim", "upper"];
/// Filters that do not read the items of their input.
const LOOKING_FILTERS: &[&str] = &["count", "length"];
/// Tests that only look at the kind of a value.
const LOOKING_TESTS: &[&str] = &[
    "boolean",
    "defined",
    "divisibleby",
    "even",
    "false",
    "filter",
    "float",
    "int",
    "integer",
    "iterable",
    "mapping",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
];

/// The statement with guards added.
// Length: one arm per kind of statement.
pub(super) fn guarded<'a>(statement: &Stmt<'a>) -> Stmt<'a> {
    if let Some((body, span)) = scope_of(statement)
        && jumps(body)
    {
        let why = "break and continue must stand outside of generation, filter, set and with blocks";
        return Stmt::EmitExpr(Spanned::new(EmitExpr { expr: refusal(why, span) }, span));
    }
    match statement {
        Stmt::Template(s) => Stmt::Template(Spanned::new(Template { children: all(&s.children) }, s.span())),
        Stmt::EmitExpr(s) => Stmt::EmitExpr(Spanned::new(EmitExpr { expr: unguarded(&s.expr) }, s.span())),
        Stmt::EmitRaw(s) => Stmt::EmitRaw(Spanned::new(EmitRaw { raw: s.raw }, s.span())),
        Stmt::ForLoop(s) => {
            let (target, iter, filter_expr) =
                (target(&s.target), filtered(ITERATED, unguarded(&s.iter)), s.filter_expr.as_ref().map(unguarded));
            let (body, else_body) = (all(&s.body), all(&s.else_body));
            let recursive = s.recursive;
            Stmt::ForLoop(Spanned::new(ForLoop { target, iter, filter_expr, recursive, body, else_body }, s.span()))
        }
        Stmt::IfCond(s) => {
            let (true_body, false_body) = (all(&s.true_body), all(&s.false_body));
            Stmt::IfCond(Spanned::new(IfCond { expr: unguarded(&s.expr), true_body, false_body }, s.span()))
        }
        Stmt::WithBlock(s) => {
            let assignments =
                s.assignments.iter().map(|(target, expr)| (self::target(target), guarded_expression(expr))).collect();
            Stmt::WithBlock(Spanned::new(WithBlock { assignments, body: all(&s.body) }, s.span()))
        }
        Stmt::Set(s) => {
            let filter = if matches!(s.target, Expr::GetAttr(_)) { ATTRIBUTE } else { BOUND };
            Stmt::Set(Spanned::new(Set { target: target(&s.target), expr: guarded_by(filter, &s.expr) }, s.span()))
        }
        Stmt::SetBlock(s) => {
            let filter = s.filter.as_ref().map(unguarded);
            Stmt::SetBlock(Spanned::new(
                SetBlock { target: target(&s.target), filter, body: scoped(&s.body, s.span()) },
                s.span(),
            ))
        }
        Stmt::AutoEscape(s) => {
            let body = scoped(&s.body, s.span());
            Stmt::AutoEscape(Spanned::new(AutoEscape { enabled: unguarded(&s.enabled), body }, s.span()))
        }
        Stmt::FilterBlock(s) => {
            let (filter, filter_span) = (unguarded(&s.filter), s.filter_span);
            Stmt::FilterBlock(Spanned::new(FilterBlock { filter, filter_span, body: scoped(&s.body, s.span()) }, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(macro_of(s)),
        Stmt::CallBlock(s) => {
            let (call, call_expr_span, macro_decl) = (call(&s.call), s.call_expr_span, macro_of(&s.macro_decl));
            Stmt::CallBlock(Spanned::new(CallBlock { call, call_expr_span, macro_decl }, s.span()))
        }
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(Break, s.span())),
        Stmt::Do(s) => Stmt::Do(Spanned::new(Do { call: call(&s.call) }, s.span())),
    }
}

fn all<'a>(statements: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    statements.iter().map(guarded).collect()
}

/// The body of a block with a scope of its own, as in Jinja2: what it sets is not visible outside.
fn scoped<'a>(statements: &[Stmt<'a>], span: Span) -> Vec<Stmt<'a>> {
    vec![Stmt::WithBlock(Spanned::new(WithBlock { assignments: Vec::new(), body: all(statements) }, span))]
}

/// The body of a block with a scope, which MiniJinja cannot leave by a jump.
fn scope_of<'s, 'a>(statement: &'s Stmt<'a>) -> Option<(&'s [Stmt<'a>], Span)> {
    match statement {
        Stmt::WithBlock(s) => Some((&s.body, s.span())),
        Stmt::SetBlock(s) => Some((&s.body, s.span())),
        Stmt::AutoEscape(s) => Some((&s.body, s.span())),
        Stmt::FilterBlock(s) => Some((&s.body, s.span())),
        _ => None,
    }
}

/// Whether statements leave a loop around them.
fn jumps(statements: &[Stmt<'_>]) -> bool {
    statements.iter().any(|statement| match statement {
        Stmt::Continue(_) | Stmt::Break(_) => true,
        Stmt::IfCond(s) => jumps(&s.true_body) || jumps(&s.false_body),
        Stmt::ForLoop(s) => jumps(&s.else_body),
        other => scope_of(other).is_some_and(|(body, _)| jumps(body)),
    })
}

/// An expression that refuses the template.
fn refusal<'a>(why: &str, span: Span) -> Expr<'a> {
    filtered(REFUSE, Expr::Const(Spanned::new(Const { value: why.into() }, span)))
}

fn macro_of<'a>(s: &Spanned<Macro<'a>>) -> Spanned<Macro<'a>> {
    let names: Vec<&str> = s.args.iter().filter_map(|arg| if let Expr::Var(arg) = arg { Some(arg.id) } else { None }).collect();
    let default = |expr: &Expr<'a>| {
        // MiniJinja does not see other arguments there.
        if reads(expr, &names) {
            refusal("a default value of a macro reads another argument of it", expr.span())
        } else {
            guarded_expression(expr)
        }
    };
    let (args, defaults) = (s.args.iter().map(target).collect(), s.defaults.iter().map(default).collect());
    Spanned::new(Macro { name: s.name, args, defaults, body: all(&s.body) }, s.span())
}

fn call<'a>(s: &Spanned<Call<'a>>) -> Spanned<Call<'a>> {
    let (callee, mut args) = match &s.expr {
        // A method that is called is no attribute that is read.
        Expr::GetAttr(a) => {
            (Expr::GetAttr(Spanned::new(GetAttr { expr: unguarded(&a.expr), name: a.name }, a.span())), arguments(&s.args))
        }
        callee => (unguarded(callee), arguments(&s.args)),
    };
    // A recursive loop.
    if matches!(&callee, Expr::Var(variable) if variable.id == "loop") {
        args = args
            .into_iter()
            .map(|arg| match arg {
                CallArg::Pos(expr) => CallArg::Pos(filtered(ITERATED, expr)),
                other => other,
            })
            .collect();
    }
    Spanned::new(Call { expr: callee, args }, s.span())
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let guard = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(expr) => CallArg::Pos(guarded_expression(expr)),
        CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, guarded_expression(expr)),
        CallArg::PosSplat(expr) => CallArg::PosSplat(guarded_expression(expr)),
        CallArg::KwargSplat(expr) => CallArg::KwargSplat(guarded_expression(expr)),
    };
    args.iter().map(guard).collect()
}

/// Whether an expression reads one of these variables.
fn reads(expr: &Expr<'_>, names: &[&str]) -> bool {
    let any = |items: &[Expr<'_>]| items.iter().any(|item| reads(item, names));
    let part = |part: &Option<Expr<'_>>| part.as_ref().is_some_and(|part| reads(part, names));
    let args = |args: &[CallArg<'_>]| {
        args.iter().any(|arg| match arg {
            CallArg::Pos(expr) | CallArg::Kwarg(_, expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                reads(expr, names)
            }
        })
    };
    match expr {
        Expr::Var(s) => names.contains(&s.id),
        Expr::Const(_) => false,
        Expr::Slice(s) => reads(&s.expr, names) || part(&s.start) || part(&s.stop) || part(&s.step),
        Expr::UnaryOp(s) => reads(&s.expr, names),
        Expr::BinOp(s) => reads(&s.left, names) || reads(&s.right, names),
        Expr::Compare(s) => reads(&s.expr, names) || s.ops.iter().any(|op| reads(&op.expr, names)),
        Expr::IfExpr(s) => reads(&s.test_expr, names) || reads(&s.true_expr, names) || part(&s.false_expr),
        Expr::Filter(s) => part(&s.expr) || args(&s.args),
        Expr::Test(s) => reads(&s.expr, names) || args(&s.args),
        Expr::GetAttr(s) => reads(&s.expr, names),
        Expr::GetItem(s) => reads(&s.expr, names) || reads(&s.subscript_expr, names),
        Expr::Call(s) => reads(&s.expr, names) || args(&s.args),
        Expr::List(s) => any(&s.items),
        Expr::Tuple(s) => any(&s.items),
        Expr::Map(s) => any(&s.keys) || any(&s.values),
    }
}

/// The target of an assignment: variables, a tuple of them, an attribute of a namespace.
fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Var(s) => Expr::Var(Spanned::new(Var { id: s.id }, s.span())),
        Expr::GetAttr(s) => Expr::GetAttr(Spanned::new(GetAttr { expr: target(&s.expr), name: s.name }, s.span())),
        Expr::List(s) => Expr::List(Spanned::new(List { items: s.items.iter().map(target).collect() }, s.span())),
        Expr::Tuple(s) => Expr::Tuple(Spanned::new(Tuple { items: s.items.iter().map(target).collect() }, s.span())),
        other => unguarded(other),
    }
}

/// The expression with a guard around its value, unless the value is known to be small.
fn guarded_expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    guarded_by(BOUND, expr)
}

/// As [`guarded_expression`], as a string.
fn as_text<'a>(expr: &Expr<'a>) -> Expr<'a> {
    if kind(expr) == Kind::Text { unguarded(expr) } else { filtered("string", guarded_expression(expr)) }
}

fn guarded_by<'a>(filter: &'static str, expr: &Expr<'a>) -> Expr<'a> {
    if kind(expr) == Kind::Unknown { filtered(filter, unguarded(expr)) } else { unguarded(expr) }
}

fn filtered<'a>(name: &'static str, expr: Expr<'a>) -> Expr<'a> {
    filtered_by(name, expr, Vec::new())
}

fn filtered_by<'a>(name: &'static str, expr: Expr<'a>, args: Vec<CallArg<'a>>) -> Expr<'a> {
    let span = expr.span();
    Expr::Filter(Spanned::new(Filter { name, expr: Some(expr), args }, span))
}

fn text<'a>(text: &str, span: Span) -> CallArg<'a> {
    CallArg::Pos(Expr::Const(Spanned::new(Const { value: Value::from(text) }, span)))
}

/// The expression with guards inside only, except around lazy lists.
// Length: one arm per kind of expression.
fn unguarded<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Var(s) => {
            let variable = Expr::Var(Spanned::new(Var { id: s.id }, s.span()));
            let missing = MISSING_VARIABLES.contains(&s.id);
            if missing { filtered_by(MISSING, variable, vec![text(s.id, s.span())]) } else { variable }
        }
        Expr::Const(s) => Expr::Const(Spanned::new(Const { value: s.value.clone() }, s.span())),
        Expr::Slice(s) => {
            let part = |part: &Option<Expr<'a>>| part.as_ref().map(unguarded);
            let (start, stop, step) = (part(&s.start), part(&s.stop), part(&s.step));
            Expr::Slice(Spanned::new(Slice { expr: filtered(OPERAND, unguarded(&s.expr)), start, stop, step }, s.span()))
        }
        Expr::UnaryOp(s) => Expr::UnaryOp(Spanned::new(
            UnaryOp {
                op: match s.op {
                    UnaryOpKind::Not => UnaryOpKind::Not,
                    UnaryOpKind::Neg => UnaryOpKind::Neg,
                },
                expr: unguarded(&s.expr),
            },
            s.span(),
        )),
        Expr::BinOp(s) => binary(expr, s),
        Expr::Compare(s) => {
            let ops: Vec<_> = s.ops.iter().map(|op| (op.op, &op.expr)).collect();
            comparison(&s.expr, &ops, s.span())
        }
        Expr::IfExpr(s) => {
            let (test_expr, true_expr) = (unguarded(&s.test_expr), unguarded(&s.true_expr));
            let false_expr = s.false_expr.as_ref().map(unguarded);
            Expr::IfExpr(Spanned::new(IfExpr { test_expr, true_expr, false_expr }, s.span()))
        }
        Expr::Filter(s) => filter(s),
        Expr::Test(s) => {
            let side = if LOOKING_TESTS.contains(&s.name) { unguarded } else { guarded_expression };
            Expr::Test(Spanned::new(Test { name: s.name, expr: side(&s.expr), args: arguments(&s.args) }, s.span()))
        }
        Expr::GetAttr(s) => {
            let is_loop = matches!(&s.expr, Expr::Var(variable) if variable.id == "loop");
            if is_attribute(s.name) && !is_loop {
                return filtered_by(GET_ATTRIBUTE, unguarded(&s.expr), vec![text(s.name, s.span())]);
            }
            Expr::GetAttr(Spanned::new(GetAttr { expr: unguarded(&s.expr), name: s.name }, s.span()))
        }
        Expr::GetItem(s) => {
            let (expr, subscript_expr) = (unguarded(&s.expr), unguarded(&s.subscript_expr));
            let key = matches!(&s.subscript_expr, Expr::Const(key) if key.value.as_str().is_some_and(|key| !is_attribute(key)));
            if !key {
                return filtered_by(GET_ITEM, expr, vec![CallArg::Pos(subscript_expr)]);
            }
            Expr::GetItem(Spanned::new(GetItem { expr, subscript_expr }, s.span()))
        }
        Expr::Call(s) => Expr::Call(call(s)),
        Expr::List(s) => Expr::List(Spanned::new(List { items: s.items.iter().map(unguarded).collect() }, s.span())),
        Expr::Tuple(s) => Expr::Tuple(Spanned::new(Tuple { items: s.items.iter().map(unguarded).collect() }, s.span())),
        Expr::Map(s) => {
            let (keys, values) = (s.keys.iter().map(unguarded).collect(), s.values.iter().map(unguarded).collect());
            Expr::Map(Spanned::new(Map { keys, values }, s.span()))
        }
    }
}

fn filter<'a>(s: &Spanned<Filter<'a>>) -> Expr<'a> {
    let side = match s.name {
        name if LOOKING_FILTERS.contains(&name) => unguarded,
        name if TEXT_FILTERS.contains(&name) => as_text,
        _ => guarded_expression,
    };
    let mut input = s.expr.as_ref().map(side);
    if ITERATING_FILTERS.contains(&s.name) {
        input = input.map(|input| filtered(NOT_NONE, input));
    }
    if let Some((_, place)) = ATTRIBUTE_FILTERS.iter().find(|(name, _)| *name == s.name) {
        let args = attribute(&s.args, "attribute", *place);
        if !args.is_empty() {
            input = input.map(|input| filtered_by(HAS_ATTRIBUTE, input, args));
        }
    }
    if let Some((_, name, place)) = ORDERING_FILTERS.iter().find(|(name, ..)| *name == s.name) {
        let args = std::iter::once(text(s.name, s.span())).chain(attribute(&s.args, name, *place)).collect();
        input = input.map(|input| filtered_by(ORDERED, input, args));
    }
    if s.name == "last" {
        input = input.map(|input| filtered(OPERAND, input));
    }
    let filter = Expr::Filter(Spanned::new(Filter { name: s.name, expr: input, args: arguments(&s.args) }, s.span()));
    if LAZY_FILTERS.contains(&s.name) { filtered(ITERATOR, filter) } else { filter }
}

/// An argument, by name or by place.
fn attribute<'a>(args: &[CallArg<'a>], name: &str, place: usize) -> Vec<CallArg<'a>> {
    let named = args.iter().find_map(|arg| match arg {
        CallArg::Kwarg(own, expr) if *own == name => Some(expr),
        _ => None,
    });
    let placed = args.get(place).and_then(|arg| match arg {
        CallArg::Pos(expr) => Some(expr),
        _ => None,
    });
    named.or(placed).map(|expr| CallArg::Pos(guarded_expression(expr))).into_iter().collect()
}

/// A chain of comparisons. Equality is MiniJinja's own; order and membership are Python's.
fn comparison<'a>(first: &Expr<'a>, ops: &[(CompareOpKind, &Expr<'a>)], span: Span) -> Expr<'a> {
    if ops.iter().all(|(op, _)| matches!(op, CompareOpKind::Eq | CompareOpKind::Ne)) {
        // A range or a view is equal to no list.
        let side = |expr: &Expr<'a>| match expr {
            Expr::Var(_) | Expr::Call(_) | Expr::Filter(_) => operand(expr),
            _ => unguarded(expr),
        };
        let ops = ops.iter().map(|(op, expr)| CompareOp { op: *op, expr: side(expr) }).collect();
        return Expr::Compare(Spanned::new(Compare { expr: side(first), ops }, span));
    }
    let membership = ops.iter().any(|(op, _)| matches!(op, CompareOpKind::In | CompareOpKind::NotIn));
    let side = if membership { guarded_expression } else { unguarded };
    let sign = |op: CompareOpKind| match op {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    };
    let args = ops.iter().flat_map(|(op, expr)| [text(sign(*op), span), CallArg::Pos(side(expr))]).collect();
    Expr::Test(Spanned::new(Test { name: COMPARE, expr: side(first), args }, span))
}

fn binary<'a>(whole: &Expr<'a>, s: &Spanned<BinOp<'a>>) -> Expr<'a> {
    let of = |side: fn(&Expr<'a>) -> Expr<'a>| {
        Expr::BinOp(Spanned::new(BinOp { op: s.op, left: side(&s.left), right: side(&s.right) }, s.span()))
    };
    let compared = |op| comparison(&s.left, &[(op, &s.right)], s.span());
    match s.op {
        BinOpKind::Concat => of(as_text),
        BinOpKind::In => compared(CompareOpKind::In),
        BinOpKind::Eq => compared(CompareOpKind::Eq),
        BinOpKind::Ne => compared(CompareOpKind::Ne),
        BinOpKind::Lt => compared(CompareOpKind::Lt),
        BinOpKind::Lte => compared(CompareOpKind::Lte),
        BinOpKind::Gt => compared(CompareOpKind::Gt),
        BinOpKind::Gte => compared(CompareOpKind::Gte),
        BinOpKind::Add | BinOpKind::Mul if kind(whole) == Kind::Unknown => filtered(BOUND, of(operand)),
        _ => of(unguarded),
    }
}

/// An operand of `+` or `*`, which may be a list.
fn operand<'a>(expr: &Expr<'a>) -> Expr<'a> {
    if kind(expr) == Kind::Unknown { filtered(OPERAND, unguarded(expr)) } else { unguarded(expr) }
}

/// The static kind of a value, whatever the variables hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A string, number, boolean or none.
    Plain,
    /// A list or map of those, no longer than the template.
    Literal,
    Unknown,
}

fn kind(expr: &Expr<'_>) -> Kind {
    let literal = |items: &[Expr<'_>]| {
        let plain = items.iter().all(|item| matches!(kind(item), Kind::Text | Kind::Plain));
        if plain { Kind::Literal } else { Kind::Unknown }
    };
    match expr {
        Expr::Const(s) if s.value.as_str().is_some() => Kind::Text,
        Expr::Const(s) if s.value.as_object().is_none() => Kind::Plain,
        Expr::UnaryOp(_) | Expr::Compare(_) | Expr::Test(_) => Kind::Plain,
        Expr::BinOp(s) => match (s.op, kind(&s.left), kind(&s.right)) {
            (BinOpKind::Concat, ..) => Kind::Text,
            // Strings can only be added to strings, and a string times a number is a string.
            (BinOpKind::Add, Kind::Text, _) | (BinOpKind::Add, _, Kind::Text) => Kind::Text,
            (BinOpKind::Mul, Kind::Text, _) | (BinOpKind::Mul, _, Kind::Text) => Kind::Text,
            (_, Kind::Text | Kind::Plain, Kind::Text | Kind::Plain) => Kind::Plain,
            (BinOpKind::Add | BinOpKind::Mul | BinOpKind::ScAnd | BinOpKind::ScOr, ..) => Kind::Unknown,
            _ => Kind::Plain,
        },
        Expr::IfExpr(s) => match (kind(&s.true_expr), s.false_expr.as_ref().map_or(Kind::Plain, kind)) {
            (Kind::Text | Kind::Plain, Kind::Text | Kind::Plain) => Kind::Plain,
            _ => Kind::Unknown,
        },
        Expr::Filter(s) if PLAIN_FILTERS.contains(&s.name) => Kind::Plain,
        Expr::List(s) => literal(&s.items),
        Expr::Tuple(s) => literal(&s.items),
        _ => Kind::Unknown,
    }
}
