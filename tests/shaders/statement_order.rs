//! Rules that need the order of statements: returns before barriers, and comparisons that guard loads and stores.

use crate::data_flow::{Flow, children, closure, continues, stored};
use crate::expr::Scope;
use crate::lint::{Report, Rule};
use naga::valid::ModuleInfo;
use naga::{
    AddressSpace, BinaryOperator as Op, Block, BuiltIn, Expression, Function, Handle, MathFunction as Math, Module, Statement,
};
use std::collections::HashSet;

type E = Handle<Expression>;

// ---------------------------------------------------------------------------------------------------------------------------- returns

/// [`Rule::ReturnBeforeBarrier`], [`Rule::ReturnInLoop`], [`Rule::Switch`] and [`Rule::Atomic`].
pub fn returns(module: &Module, function: &Function, name: &str, report: &mut Report) {
    let mut order = Action { module, function, flow: Flow::of(function), name, early: Vec::new(), report };
    order.visit(&function.body, false, false);
}

struct Action<'a, 'b> {
    module: &'a Module,
    function: &'a Function,
    flow: Flow,
    name: &'a str,
    early: Vec<naga::Span>,
    report: &'a mut Report<'b>,
}

impl Action<'_, '_> {
    fn visit(&mut self, block: &Block, in_loop: bool, divergent: bool) {
        for (statement, span) in block.span_iter() {
            match statement {
                Statement::Return { .. } => {
                    if in_loop {
                        self.report.add(Rule::ReturnInLoop, self.name, *span);
                    }
                    if divergent {
                        self.early.push(*span);
                    }
                }
                Statement::Block(inner) => self.visit(inner, in_loop, divergent),
                Statement::If { condition, accept, reject } => {
                    let divergent = divergent || !self.is_uniform(*condition);
                    self.visit(accept, in_loop, divergent);
                    self.visit(reject, in_loop, divergent);
                }
                Statement::Loop { body, continuing, .. } => {
                    if !self.is_counted(body, continuing) {
                        self.report.add(Rule::BareLoop, self.name, *span);
                    }
                    self.visit(body, true, divergent);
                    self.visit(continuing, true, divergent);
                }
                Statement::Switch { .. } => self.report.add(Rule::Switch, self.name, *span),
                Statement::Atomic { .. } => self.report.add(Rule::Atomic, self.name, *span),
                _ if is_collective(self.module, statement) => {
                    for early in std::mem::take(&mut self.early) {
                        self.report.add(Rule::ReturnBeforeBarrier, self.name, early);
                    }
                }
                _ => {}
            }
        }
    }

    /// A `for` whose head compares a variable that its last part moves and its body leaves alone, or a `while` whose body moves it once,
    /// always, by a constant. The program relies on it: the counter that wgpu adds to loops is switched off (gpu::kernel).
    fn is_counted(&self, body: &Block, continuing: &Block) -> bool {
        let mut moved = stored(self.function, body);
        let mut counters: HashSet<_> = stored(self.function, continuing).into_iter().collect();
        for local in self.steps(body) {
            if moved.iter().filter(|&&m| m == local).count() == 1 && !continues(body) {
                moved.retain(|&m| m != local);
                counters.insert(local);
            }
        }
        body.iter().any(|statement| {
            let Statement::If { condition, accept, reject } = statement else { return false };
            let parts = closure(self.function, &self.flow, *condition);
            let compares = parts.iter().any(|&e| {
                use Op::{Greater, GreaterEqual, Less, LessEqual};
                matches!(self.function.expressions[e], Expression::Binary { op: Less | LessEqual | Greater | GreaterEqual, .. })
            });
            let counts = parts.iter().any(|&e| match self.function.expressions[e] {
                Expression::LocalVariable(local) => counters.contains(&local) && !moved.contains(&local),
                _ => false,
            });
            accept.is_empty() && matches!(reject.last(), Some(Statement::Break)) && compares && counts
        })
    }

    /// Variables to which the block itself, not a block inside it, adds a constant.
    fn steps(&self, body: &Block) -> Vec<Handle<naga::LocalVariable>> {
        let expressions = &self.function.expressions;
        let step = |statement: &Statement| {
            let Statement::Store { pointer, value } = statement else { return None };
            let Expression::LocalVariable(local) = expressions[*pointer] else { return None };
            let Expression::Binary { op: Op::Add, left, right } = expressions[*value] else { return None };
            let Expression::Load { pointer: from } = expressions[left] else { return None };
            let moves = matches!(expressions[right], Expression::Literal(naga::Literal::U32(1..) | naga::Literal::I32(1..)));
            (from == *pointer && moves).then_some(local)
        };
        body.iter()
            .flat_map(|s| if let Statement::Block(inner) = s { self.steps(inner) } else { step(s).into_iter().collect() })
            .collect()
    }

    /// The same for all invocations of a workgroup, as far as the text shows.
    fn is_uniform(&self, condition: E) -> bool {
        closure(self.function, &self.flow, condition).into_iter().all(|e| match &self.function.expressions[e] {
            Expression::FunctionArgument(i) => matches!(
                self.function.arguments[*i as usize].binding,
                Some(naga::Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups))
            ),
            Expression::GlobalVariable(variable) => match self.module.global_variables[*variable].space {
                AddressSpace::Uniform => true,
                AddressSpace::Storage { access } => !access.contains(naga::StorageAccess::STORE),
                _ => false,
            },
            Expression::AtomicResult { .. } | Expression::SubgroupOperationResult { .. } | Expression::SubgroupBallotResult => {
                false
            }
            _ => true,
        })
    }
}

/// Whether all invocations of a workgroup (or subgroup) must come to this statement.
fn is_collective(module: &Module, statement: &Statement) -> bool {
    let inside = |block: &Block| block.iter().any(|s| is_collective(module, s));
    match statement {
        Statement::ControlBarrier(_)
        | Statement::WorkGroupUniformLoad { .. }
        | Statement::SubgroupBallot { .. }
        | Statement::SubgroupGather { .. }
        | Statement::SubgroupCollectiveOperation { .. } => true,
        Statement::Call { function, .. } => inside(&module.functions[*function].body),
        Statement::Block(block) => inside(block),
        Statement::If { accept, reject, .. } => inside(accept) || inside(reject),
        Statement::Loop { body, continuing, .. } => inside(body) || inside(continuing),
        _ => false,
    }
}

// ----------------------------------------------------------------------------------------------------------------------------- guards

/// [`Rule::UnguardedStore`] and [`Rule::UnguardedLoad`], from an entry point through the functions it calls.
///
/// Every part of an index must be fixed by the plan (uniforms, constants), clamped (min, clamp, remainder) or bounded by an enclosing
/// comparison: an `if`, the head of a loop, an `if ... return` before. That is a heuristic: it finds the forgotten guard, not the wrong one.
pub fn guards(module: &Module, info: &ModuleInfo, entry: usize, report: &mut Report) {
    let entry_point = &module.entry_points[entry];
    let scope = Scope { module, function: &entry_point.function, info: info.get_entry_point(entry) };
    let single = entry_point.workgroup_size == [1, 1, 1] && entry_point.workgroup_size_overrides.is_none();
    let mut walk =
        Guards { scope, info, flow: Flow::of(&entry_point.function), name: &entry_point.name, report, arguments: None };
    if !single {
        walk.visit(&entry_point.function.body, &mut HashSet::new());
    }
}

struct Guards<'a, 'b> {
    scope: Scope<'a>,
    info: &'a ModuleInfo,
    flow: Flow,
    name: &'a str,
    report: &'a mut Report<'b>,
    /// For a called function: which of its arguments the caller has guarded.
    arguments: Option<Vec<bool>>,
}

impl Guards<'_, '_> {
    /// `guards`: expressions that enclosing comparisons bound.
    fn visit(&mut self, block: &Block, guards: &mut HashSet<E>) {
        for (statement, span) in block.span_iter() {
            match statement {
                Statement::Emit(range) => {
                    for e in range.clone() {
                        if let Expression::Load { pointer } = self.scope.function.expressions[e] {
                            let span = self.scope.function.expressions.get_span(e);
                            self.check(pointer, guards, Rule::UnguardedLoad, span);
                        }
                    }
                }
                Statement::Store { pointer, .. } => self.check(*pointer, guards, Rule::UnguardedStore, *span),
                Statement::Call { function, arguments, .. } => {
                    let guarded = arguments.iter().map(|&a| self.is_guarded(a, guards)).collect();
                    let callee = &self.scope.module.functions[*function];
                    let mut inner = Guards {
                        scope: Scope { module: self.scope.module, function: callee, info: &self.info[*function] },
                        info: self.info,
                        flow: Flow::of(callee),
                        name: callee.name.as_deref().unwrap_or_default(),
                        report: self.report,
                        arguments: Some(guarded),
                    };
                    inner.visit(&callee.body, &mut HashSet::new());
                }
                Statement::Block(inner) => self.visit(inner, &mut guards.clone()),
                Statement::If { condition, accept, reject } => {
                    let compared = self.compared(*condition);
                    let mut within = guards.clone();
                    within.extend(&compared);
                    self.visit(accept, &mut within.clone());
                    self.visit(reject, &mut within);
                    if leaves(accept) || leaves(reject) {
                        guards.extend(&compared);
                    }
                }
                Statement::Loop { body, continuing, .. } => {
                    let mut within = guards.clone();
                    self.visit(body, &mut within);
                    self.visit(continuing, &mut within);
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, pointer: E, guards: &HashSet<E>, rule: Rule, span: naga::Span) {
        let expressions = &self.scope.function.expressions;
        let (mut at, mut indices) = (pointer, Vec::new());
        loop {
            match expressions[at] {
                Expression::Access { base, index } => {
                    indices.push(index);
                    at = base;
                }
                Expression::AccessIndex { base, .. } => at = base,
                _ => break,
            }
        }
        let Expression::GlobalVariable(variable) = expressions[at] else { return };
        if matches!(self.scope.module.global_variables[variable].space, AddressSpace::Storage { .. })
            && !indices.iter().all(|&index| self.is_guarded(index, guards))
        {
            self.report.add(rule, self.name, span);
        }
    }

    fn is_guarded(&self, index: E, guards: &HashSet<E>) -> bool {
        self.bounded(index, guards, &mut HashSet::new())
    }

    /// Made only of what the plan fixes, of guarded or clamped values.
    fn bounded(&self, e: E, guards: &HashSet<E>, seen: &mut HashSet<E>) -> bool {
        // The same value may have been compared as another expression.
        if guards.iter().any(|&g| self.scope.same(g, e)) || !seen.insert(e) {
            return true;
        }
        let function = self.scope.function;
        let expression = &function.expressions[e];
        let mut all = |parts: &[E]| parts.iter().all(|&part| self.bounded(part, guards, seen));
        match expression {
            Expression::Math { fun: Math::Min | Math::Clamp, .. } | Expression::Binary { op: Op::Modulo, .. } => true,
            // One workgroup an item: the dispatch has exactly as many. A grid folded by gpu::grid has more, and passes the whole vector
            // to linear_group.
            Expression::AccessIndex { base, .. } if self.is_workgroup_id(*base) => true,
            Expression::FunctionArgument(i) => self.arguments.as_ref().is_some_and(|ok| ok[*i as usize]),
            Expression::LocalVariable(local) => all(self.flow.stores.get(local).map_or(&[], Vec::as_slice)),
            Expression::CallResult(_) => all(self.flow.calls.get(&e).map_or(&[], Vec::as_slice)),
            Expression::GlobalVariable(v) => self.scope.module.global_variables[*v].space == AddressSpace::Uniform,
            Expression::SubgroupOperationResult { .. } | Expression::AtomicResult { .. } => false,
            _ => all(&children(expression)),
        }
    }

    fn is_workgroup_id(&self, e: E) -> bool {
        matches!(argument(self.scope.function, e), Some(i)
            if self.scope.function.arguments[i as usize].binding == Some(naga::Binding::BuiltIn(BuiltIn::WorkGroupId)))
    }

    /// What the comparisons in a condition bound.
    fn compared(&self, condition: E) -> HashSet<E> {
        let function = self.scope.function;
        let mut found = HashSet::new();
        for e in closure(function, &self.flow, condition) {
            if let Expression::Binary { op: Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual, left, right } =
                function.expressions[e]
            {
                self.terms(left, &mut found);
                self.terms(right, &mut found);
            }
        }
        found
    }

    /// A bound on a sum or product of unsigned numbers bounds its terms too.
    fn terms(&self, e: E, found: &mut HashSet<E>) {
        if matches!(self.scope.function.expressions[e], Expression::GlobalVariable(_)) || !found.insert(e) {
            return;
        }
        match &self.scope.function.expressions[e] {
            Expression::Binary { op: Op::Add | Op::Multiply | Op::ShiftLeft, left, right } => {
                self.terms(*left, found);
                self.terms(*right, found);
            }
            Expression::Load { pointer } => {
                if let Expression::LocalVariable(_) = self.scope.function.expressions[*pointer] {
                    found.insert(*pointer);
                }
            }
            Expression::Splat { value, .. } => self.terms(*value, found),
            Expression::Compose { components, .. } => components.iter().for_each(|&c| self.terms(c, found)),
            _ => {}
        }
    }
}

fn argument(function: &Function, e: E) -> Option<u32> {
    if let Expression::FunctionArgument(i) = function.expressions[e] { Some(i) } else { None }
}

/// Control does not come out of the end of this block.
fn leaves(block: &Block) -> bool {
    matches!(block.last(), Some(Statement::Return { .. } | Statement::Break | Statement::Continue))
}
