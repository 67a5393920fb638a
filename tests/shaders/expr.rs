//! What an expression of naga's tree can be, seen without running it.

use naga::valid::FunctionInfo;
use naga::{
    Arena, BinaryOperator as Op, Expression, Function, Handle, Literal, MathFunction as Math, Module, ScalarKind, UnaryOperator,
};

/// Uniform fields by which sources may divide, and why they are never 0. A field that no source divides by must leave the list.
pub const DIVISORS: &[(&str, &str)] = &[
    ("cols4", "columns are a positive multiple of 4, checked by config::validate"),
    ("heads", "a model has heads, checked by config::validate"),
    ("kv_heads", "a model has key heads, checked by config::validate"),
    ("tiles", "a sequence has a first tile: time is at least 1"),
    ("stride", "rows of a result hold its columns, of which there is at least one"),
    ("time", "a sequence has a token, checked where it is made"),
    ("width4", "key heads times head width / 4"),
];

/// Quotients by which sources may divide: the first is a positive multiple of the second.
const QUOTIENTS: &[(&str, &str)] = &[("heads", "kv_heads")];
/// Fields whose quotient by a constant is positive: attention::DecodePlan takes a divisor of the heads.
const DIVISIBLE: &[&str] = &["heads"];

type E = Handle<Expression>;

/// A function in its module.
pub struct Scope<'a> {
    pub module: &'a Module,
    pub function: &'a Function,
    pub info: &'a FunctionInfo,
}

/// A constant that holds a float beyond 1e30.
pub fn huge(expressions: &Arena<Expression>, handle: E) -> bool {
    match &expressions[handle] {
        Expression::Literal(Literal::F32(v)) => v.abs() > 1e30,
        Expression::Literal(Literal::AbstractFloat(v)) => v.abs() > 1e30,
        Expression::Splat { value, .. } => huge(expressions, *value),
        Expression::Compose { components, .. } => components.iter().any(|&c| huge(expressions, c)),
        _ => false,
    }
}

fn is_special(bits: u32) -> bool {
    let value = f32::from_bits(bits);
    value.is_nan() || value.abs() > 1e30
}

/// A literal's value.
fn literal(value: &Literal) -> Option<f64> {
    Some(match *value {
        Literal::F32(v) => f64::from(v),
        Literal::F64(v) | Literal::AbstractFloat(v) => v,
        Literal::U32(v) => f64::from(v),
        Literal::I32(v) => f64::from(v),
        Literal::AbstractInt(v) => v as f64,
        _ => return None,
    })
}

impl Scope<'_> {
    fn get(&self, e: E) -> &Expression {
        &self.function.expressions[e]
    }

    /// Kind of the numbers that an expression holds.
    pub fn kind(&self, e: E) -> Option<ScalarKind> {
        self.info[e].ty.inner_with(&self.module.types).scalar_kind()
    }

    /// Whether two expressions are the same value by form, as in `x[i] != x[i]`.
    pub fn same(&self, a: E, b: E) -> bool {
        if a == b {
            return true;
        }
        match (self.get(a), self.get(b)) {
            (Expression::Load { pointer: a }, Expression::Load { pointer: b }) => self.same(*a, *b),
            (Expression::Access { base: a, index: i }, Expression::Access { base: b, index: j }) => {
                self.same(*a, *b) && self.same(*i, *j)
            }
            (Expression::AccessIndex { base: a, index: i }, Expression::AccessIndex { base: b, index: j }) => {
                i == j && self.same(*a, *b)
            }
            (Expression::Unary { op: o, expr: a }, Expression::Unary { op: p, expr: b }) => o == p && self.same(*a, *b),
            (Expression::Binary { op: o, left: a, right: c }, Expression::Binary { op: p, left: b, right: d }) => {
                o == p && self.same(*a, *b) && self.same(*c, *d)
            }
            (Expression::Splat { value: a, .. }, Expression::Splat { value: b, .. }) => self.same(*a, *b),
            (Expression::GlobalVariable(a), Expression::GlobalVariable(b)) => a == b,
            (Expression::LocalVariable(a), Expression::LocalVariable(b)) => a == b,
            (Expression::FunctionArgument(a), Expression::FunctionArgument(b)) => a == b,
            (Expression::Literal(a), Expression::Literal(b)) => literal(a).is_some() && literal(a) == literal(b),
            _ => false,
        }
    }

    /// Least and greatest value that an expression shows to have; infinite where it shows none.
    pub fn interval(&self, e: E) -> (f64, f64) {
        const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);
        let union = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
        match self.get(e) {
            Expression::Literal(value) => literal(value).map_or(ANY, |v| (v, v)),
            Expression::Constant(c) => self.global_interval(self.module.constants[*c].init),
            Expression::ZeroValue(_) => (0.0, 0.0),
            Expression::Splat { value, .. } => self.interval(*value),
            Expression::Swizzle { vector, .. } => self.interval(*vector),
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => self.interval(*base),
            Expression::Compose { components, .. } => components.iter().map(|&c| self.interval(c)).reduce(union).unwrap_or(ANY),
            Expression::Select { accept, reject, .. } => union(self.interval(*accept), self.interval(*reject)),
            Expression::Unary { op: UnaryOperator::Negate, expr } => {
                let (lowest, highest) = self.interval(*expr);
                (-highest, -lowest)
            }
            Expression::Binary { op, left, right } => {
                let (a, b) = (self.interval(*left), self.interval(*right));
                match op {
                    Op::Add => (a.0 + b.0, a.1 + b.1),
                    Op::Subtract => (a.0 - b.1, a.1 - b.0),
                    Op::Multiply if self.same(*left, *right) => (0.0, f64::INFINITY),
                    Op::Multiply if [a.0, a.1, b.0, b.1].iter().all(|v| v.is_finite()) => {
                        let products = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
                        products.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |m, &p| union(m, (p, p)))
                    }
                    _ => ANY,
                }
            }
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let at = |e: Option<E>| e.map_or(ANY, |e| self.interval(e));
                let (a, b, c) = (self.interval(*arg), at(*arg1), at(*arg2));
                match fun {
                    Math::Abs => (0.0, a.0.abs().max(a.1.abs())),
                    Math::Min => (a.0.min(b.0), a.1.min(b.1)),
                    Math::Max => (a.0.max(b.0), a.1.max(b.1)),
                    Math::Clamp => (a.0.max(b.0).min(c.1), a.1.min(c.1).max(b.0)),
                    Math::Saturate | Math::Fract => (0.0, 1.0),
                    Math::Floor | Math::Trunc => (a.0.floor(), a.1),
                    Math::Ceil | Math::Round => (a.0.floor(), a.1.ceil()),
                    Math::Exp | Math::Exp2 | Math::Sqrt => (0.0, f64::INFINITY),
                    _ => ANY,
                }
            }
            Expression::As { expr, kind: ScalarKind::Float, convert: Some(_) } => match self.kind(*expr) {
                Some(ScalarKind::Uint) => (0.0, f64::from(u32::MAX)),
                Some(ScalarKind::Sint) => (f64::from(i32::MIN), f64::from(i32::MAX)),
                _ => ANY,
            },
            _ => ANY,
        }
    }

    fn global_interval(&self, e: E) -> (f64, f64) {
        match &self.module.global_expressions[e] {
            Expression::Literal(value) => literal(value).map_or((f64::NEG_INFINITY, f64::INFINITY), |v| (v, v)),
            Expression::Splat { value, .. } => self.global_interval(*value),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// Whether an integer divisor is visibly above 0: a constant, an override, a listed uniform field, or a product of such.
    pub fn nonzero(&self, e: E) -> bool {
        match self.get(e) {
            Expression::Override(_) => true, // their values are listed in texts::OVERRIDES
            Expression::Splat { value, .. } => self.nonzero(*value),
            Expression::Compose { components, .. } => components.iter().all(|&c| self.nonzero(c)),
            Expression::Binary { op: Op::Multiply, left, right } => self.nonzero(*left) && self.nonzero(*right),
            Expression::Binary { op: Op::Divide, left, right } => match (self.get(*left), self.get(*right)) {
                (Expression::Override(_), Expression::Override(_)) => true, // WG / LANES: LANES divides WG
                (Expression::Load { pointer: a }, Expression::Load { pointer: b }) => {
                    let names = self.uniform_field(*a).zip(self.uniform_field(*b));
                    names.is_some_and(|names| QUOTIENTS.contains(&names))
                }
                (Expression::Load { pointer }, Expression::Literal(_)) => {
                    self.nonzero(*right) && self.uniform_field(*pointer).is_some_and(|field| DIVISIBLE.contains(&field))
                }
                _ => false,
            },
            Expression::Load { pointer } => {
                self.uniform_field(*pointer).is_some_and(|field| DIVISORS.iter().any(|(name, _)| *name == field))
            }
            _ => self.interval(e).0 > 0.0,
        }
    }

    /// Name of the uniform field that a pointer points to.
    pub fn uniform_field(&self, pointer: E) -> Option<&str> {
        let Expression::AccessIndex { base, index } = self.get(pointer) else { return None };
        let Expression::GlobalVariable(variable) = self.get(*base) else { return None };
        let variable = &self.module.global_variables[*variable];
        let naga::TypeInner::Struct { members, .. } = &self.module.types[variable.ty].inner else { return None };
        (variable.space == naga::AddressSpace::Uniform).then(|| members[*index as usize].name.as_deref())?
    }

    /// `something + eps`, eps a uniform or constant.
    pub fn is_sum_with_parameter(&self, e: E) -> bool {
        let parameter = |e: E| match self.get(e) {
            Expression::Load { pointer } => self.uniform_field(*pointer).is_some(),
            _ => self.interval(e).0 > 0.0,
        };
        matches!(self.get(e), Expression::Binary { op: Op::Add, left, right } if parameter(*left) || parameter(*right))
    }

    /// Constant bits that are infinite, NaN or beyond 1e30 as a float.
    pub fn is_special_bits(&self, e: E) -> bool {
        match self.get(e) {
            Expression::Literal(Literal::U32(bits)) => is_special(*bits),
            Expression::Splat { value, .. } => self.is_special_bits(*value),
            Expression::Constant(c) => match self.module.global_expressions[self.module.constants[*c].init] {
                Expression::Literal(Literal::U32(bits)) => is_special(bits),
                _ => false,
            },
            _ => false,
        }
    }
}
