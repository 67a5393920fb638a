//! Portability rules of WGSL that naga's tree shows: what drivers disagree on is kept out of the sources.
//!
//! The evidence is from WGSL's accuracy tables and from drivers: ordered comparisons of NaN, fast-math `tanh`, out-of-bounds stores that
//! are dropped on Vulkan and overwrite the last element on Metal, and so on.

use crate::expr::{self, Scope};
use crate::statement_order;
use crate::texts::{Set, set_name};
use crate::translate::with_overrides;
use naga::valid::{ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, BinaryOperator as Op, Expression, Literal, MathFunction as Math, Module, ScalarKind, TypeInner};

/// What is forbidden, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The text is not valid WGSL, or needs a capability that some backend lacks (float atomics, f16).
    Invalid,
    /// `x != x`, `x == x`: naga writes ordered comparisons, false for NaN on Vulkan; elsewhere they are folded.
    SelfComparison,
    /// Order-dependent sums are not reproducible; float atomics do not exist in DX12 and browsers.
    Atomic,
    /// pow, sin, cos, tan, tanh ...: NaN or 2^-11 on some drivers. Tables and corrections are made on the CPU in f64.
    Imprecise,
    /// exp of an argument that is not visibly within [-88, 88]: overflow is indeterminate.
    UnboundedExp,
    /// log of an argument that is not visibly positive.
    UnboundedLog,
    /// inverseSqrt of something that is not a sum with, or a maximum with, a positive constant.
    BareInverseSqrt,
    /// A float constant beyond 1e30: masks and starts of maxima stay finite in every sum.
    HugeConstant,
    /// The bits of a value are tested after a load as float: compilers remove such tests. Bind the buffer as u32.
    FloatBits,
    /// float -> int of a value that is not visibly in range.
    UnboundedToInt,
    /// A return that only some invocations take, before a barrier.
    ReturnBeforeBarrier,
    /// A return inside a loop: FXC and some drivers miscompile it.
    ReturnInLoop,
    /// `switch`: FXC.
    Switch,
    /// `loop`, `while`, or a `for` that is not counted: no visible bound, and wgpu's own counter is switched off.
    BareLoop,
    /// `arrayLength`: bind groups may be padded; lengths come as uniforms.
    ArrayLength,
    /// More than 16 KiB of workgroup memory.
    WorkgroupMemory,
    /// More than 256 invocations, or more than 64 in z.
    WorkgroupSize,
    /// More than 7 storage buffers: WebGPU's default is 8, and Metal takes one for lengths.
    StorageBuffers,
    /// vec3 in a struct or array that lies in memory: its stride is 16.
    Vec3,
    /// Integer division by something that may be 0.
    Divisor,
    /// A store at an index that no comparison guards: dropped on Vulkan, overwrites the last element on Metal.
    UnguardedStore,
    /// A load at an index that no comparison, minimum or remainder bounds.
    UnguardedLoad,
}

impl Rule {
    /// All rules; the unit tests prove that each can fail.
    pub const ALL: &[Self] = &[
        Self::Invalid,
        Self::SelfComparison,
        Self::Atomic,
        Self::Imprecise,
        Self::UnboundedExp,
        Self::UnboundedLog,
        Self::BareInverseSqrt,
        Self::HugeConstant,
        Self::FloatBits,
        Self::UnboundedToInt,
        Self::ReturnBeforeBarrier,
        Self::ReturnInLoop,
        Self::Switch,
        Self::BareLoop,
        Self::ArrayLength,
        Self::WorkgroupMemory,
        Self::WorkgroupSize,
        Self::StorageBuffers,
        Self::Vec3,
        Self::Divisor,
        Self::UnguardedStore,
        Self::UnguardedLoad,
    ];
}

/// A broken rule.
#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: Rule,
    /// Function.
    pub function: String,
    /// Line of the resolved text, from 1; 0 for the whole.
    pub line: u32,
    /// The source line or a number.
    pub what: String,
}

/// Where findings are collected.
pub struct Report<'a> {
    text: &'a str,
    pub findings: Vec<Finding>,
}

impl Report<'_> {
    /// Note a broken rule once.
    pub fn add(&mut self, rule: Rule, function: &str, span: naga::Span) {
        let line = if span.is_defined() { span.location(self.text).line_number } else { 0 };
        let what = self.text.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default().trim().to_string();
        self.say(rule, function, line, what);
    }

    fn say(&mut self, rule: Rule, function: &str, line: u32, what: String) {
        if !self.findings.iter().any(|f| f.rule == rule && f.function == function && f.line == line) {
            self.findings.push(Finding { rule, function: function.to_string(), line, what });
        }
    }
}

/// All broken rules of a resolved text. `sets`: the override values with which it is built.
pub fn lint(text: &str, sets: &[Set]) -> Vec<Finding> {
    let mut report = Report { text, findings: Vec::new() };
    let module = match naga::front::wgsl::parse_str(text) {
        Ok(module) => module,
        Err(error) => {
            report.say(Rule::Invalid, "", 0, error.emit_to_string(text));
            return report.findings;
        }
    };
    let info = match Validator::new(ValidationFlags::all(), lehr::device::reflect::capabilities_of(text)).validate(&module) {
        Ok(info) => info,
        Err(error) => {
            report.say(Rule::Invalid, "", 0, error.emit_to_string(text));
            return report.findings;
        }
    };
    words(text, &mut report);
    memory_types(&module, &mut report);
    for (handle, function) in module.functions.iter() {
        let name = function.name.clone().unwrap_or_default();
        expressions(&Scope { module: &module, function, info: &info[handle] }, &name, &mut report);
        statement_order::returns(&module, function, &name, &mut report);
    }
    for (i, entry) in module.entry_points.iter().enumerate() {
        let scope = Scope { module: &module, function: &entry.function, info: info.get_entry_point(i) };
        expressions(&scope, &entry.name, &mut report);
        statement_order::returns(&module, &entry.function, &entry.name, &mut report);
        statement_order::guards(&module, &info, i, &mut report);
        for set in sets {
            limits(&module, &info, &entry.name, set, &mut report);
        }
    }
    report.findings.sort_by_key(|f| (f.line, f.rule));
    report.findings
}

/// What the tree no longer shows: `for` and `loop` are one in it.
fn words(text: &str, report: &mut Report) {
    for (i, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "loop") {
            report.say(Rule::BareLoop, "", i as u32 + 1, code.trim().to_string());
        }
    }
}

fn memory_types(module: &Module, report: &mut Report) {
    let is_vec3 = |ty: naga::Handle<naga::Type>| {
        matches!(
            module.types[ty].inner,
            TypeInner::Vector { size: naga::VectorSize::Tri, .. } | TypeInner::Matrix { rows: naga::VectorSize::Tri, .. }
        )
    };
    for (_, ty) in module.types.iter() {
        let bad = match &ty.inner {
            TypeInner::Struct { members, .. } => members.iter().any(|m| m.binding.is_none() && is_vec3(m.ty)),
            TypeInner::Array { base, .. } => is_vec3(*base),
            _ => false,
        };
        if bad {
            report.say(Rule::Vec3, "", 0, ty.name.clone().unwrap_or_else(|| "array<vec3>".to_string()));
        }
    }
}

/// Rules that one expression can break.
fn expressions(scope: &Scope, name: &str, report: &mut Report) {
    for (handle, expression) in scope.function.expressions.iter() {
        let span = scope.function.expressions.get_span(handle);
        let rule = match expression {
            Expression::ArrayLength(_) => Some(Rule::ArrayLength),
            Expression::AtomicResult { .. } => Some(Rule::Atomic),
            Expression::Literal(Literal::F32(value)) if value.abs() > 1e30 => Some(Rule::HugeConstant),
            Expression::Constant(c) if expr::huge(&scope.module.global_expressions, scope.module.constants[*c].init) => {
                Some(Rule::HugeConstant)
            }
            Expression::Binary { op, left, right } => binary(scope, *op, *left, *right),
            Expression::Math { fun, arg, .. } => math(scope, *fun, *arg),
            Expression::As { expr, kind, convert } => cast(scope, *expr, *kind, convert.is_some()),
            _ => None,
        };
        if let Some(rule) = rule {
            report.add(rule, name, span);
        }
    }
}

fn binary(scope: &Scope, op: Op, left: naga::Handle<Expression>, right: naga::Handle<Expression>) -> Option<Rule> {
    match op {
        Op::Equal | Op::NotEqual | Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual => {
            (scope.kind(left) == Some(ScalarKind::Float) && scope.same(left, right)).then_some(Rule::SelfComparison)
        }
        Op::Divide | Op::Modulo if scope.kind(left) != Some(ScalarKind::Float) => {
            (!scope.nonzero(right)).then_some(Rule::Divisor)
        }
        _ => None,
    }
}

fn math(scope: &Scope, fun: Math, arg: naga::Handle<Expression>) -> Option<Rule> {
    let (lowest, highest) = scope.interval(arg);
    match fun {
        Math::Pow
        | Math::Sin
        | Math::Cos
        | Math::Tan
        | Math::Asin
        | Math::Acos
        | Math::Atan
        | Math::Atan2
        | Math::Sinh
        | Math::Cosh
        | Math::Tanh
        | Math::Asinh
        | Math::Acosh
        | Math::Atanh => Some(Rule::Imprecise),
        Math::Exp | Math::Exp2 => (lowest < -88.0 || highest > 88.0).then_some(Rule::UnboundedExp),
        Math::Log | Math::Log2 => (lowest <= 0.0).then_some(Rule::UnboundedLog),
        Math::InverseSqrt => (lowest <= 0.0 && !scope.is_sum_with_parameter(arg)).then_some(Rule::BareInverseSqrt),
        _ => None,
    }
}

fn cast(scope: &Scope, from: naga::Handle<Expression>, kind: ScalarKind, converts: bool) -> Option<Rule> {
    let source = scope.kind(from);
    let integer = matches!(kind, ScalarKind::Uint | ScalarKind::Sint);
    match (source, converts) {
        (Some(ScalarKind::Float), true) if integer => {
            let (lowest, highest) = scope.interval(from);
            let range = if kind == ScalarKind::Uint { (0.0, 4_294_967_040.0) } else { (-2_147_483_648.0, 2_147_483_520.0) };
            (lowest < range.0 || highest > range.1).then_some(Rule::UnboundedToInt)
        }
        (Some(ScalarKind::Float), false) if integer => Some(Rule::FloatBits),
        (Some(ScalarKind::Uint | ScalarKind::Sint), false) if kind == ScalarKind::Float => {
            scope.is_special_bits(from).then_some(Rule::HugeConstant)
        }
        _ => None,
    }
}

/// Rules on what an entry point needs once its overrides have values.
fn limits(module: &Module, info: &ModuleInfo, entry: &str, set: &Set, report: &mut Report) {
    let label = format!("{entry}{}", set_name(set));
    let (module, info) = match with_overrides(module, info, entry, set) {
        Ok(built) => built,
        Err(error) => return report.say(Rule::Invalid, &label, 0, error),
    };
    let Some(index) = module.entry_points.iter().position(|e| e.name == entry) else { return };
    let size = module.entry_points[index].workgroup_size;
    if size.iter().product::<u32>() > 256 || size[2] > 64 {
        report.say(Rule::WorkgroupSize, entry, 0, format!("{label}: {size:?}"));
    }
    let used = info.get_entry_point(index);
    let globals = || module.global_variables.iter().filter(|(handle, _)| !used[*handle].is_empty());
    let bytes: u32 = globals()
        .filter(|(_, var)| var.space == AddressSpace::WorkGroup)
        .map(|(_, var)| module.types[var.ty].inner.size(module.to_ctx()).next_multiple_of(16))
        .sum();
    if bytes > 16 * 1024 {
        report.say(Rule::WorkgroupMemory, entry, 0, format!("{label}: {bytes} bytes"));
    }
    let buffers = globals().filter(|(_, var)| matches!(var.space, AddressSpace::Storage { .. })).count();
    if buffers > 7 {
        report.say(Rule::StorageBuffers, entry, 0, format!("{buffers} storage buffers"));
    }
}
