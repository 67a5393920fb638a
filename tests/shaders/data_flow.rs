//! What flows into local variables and calls, and what an expression depends on.

use naga::{Block, Expression, Function, Handle, Statement};
use std::collections::{HashMap, HashSet};

type E = Handle<Expression>;

/// What is stored into a local variable, and under which conditions; what is passed to a call.
#[derive(Default)]
pub struct Flow {
    pub stores: HashMap<Handle<naga::LocalVariable>, Vec<E>>,
    pub calls: HashMap<E, Vec<E>>,
}

impl Flow {
    /// Of a whole function.
    pub fn of(function: &Function) -> Self {
        let mut flow = Self::default();
        for (local, variable) in function.local_variables.iter() {
            flow.stores.entry(local).or_default().extend(variable.init);
        }
        flow.collect(function, &function.body, &mut Vec::new());
        flow
    }

    fn collect(&mut self, function: &Function, block: &Block, conditions: &mut Vec<E>) {
        for statement in block.iter() {
            match statement {
                Statement::Store { pointer, value } => {
                    if let Some(local) = local_root(function, *pointer) {
                        let stores = self.stores.entry(local).or_default();
                        stores.push(*value);
                        stores.extend(conditions.iter().copied());
                    }
                }
                Statement::Call { arguments, result: Some(result), .. } => {
                    self.calls.insert(*result, arguments.clone());
                }
                Statement::Block(inner) => self.collect(function, inner, conditions),
                Statement::If { condition, accept, reject } => {
                    conditions.push(*condition);
                    self.collect(function, accept, conditions);
                    self.collect(function, reject, conditions);
                    conditions.pop();
                }
                Statement::Switch { cases, .. } => cases.iter().for_each(|case| self.collect(function, &case.body, conditions)),
                Statement::Loop { body, continuing, .. } => {
                    self.collect(function, body, conditions);
                    self.collect(function, continuing, conditions);
                }
                _ => {}
            }
        }
    }
}

/// The variable that a pointer points into.
pub fn local_root(function: &Function, pointer: E) -> Option<Handle<naga::LocalVariable>> {
    match function.expressions[pointer] {
        Expression::LocalVariable(local) => Some(local),
        Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => local_root(function, base),
        _ => None,
    }
}

/// The expressions from which one is made.
pub fn children(expression: &Expression) -> Vec<E> {
    match expression {
        Expression::Compose { components, .. } => components.clone(),
        Expression::Access { base, index } => vec![*base, *index],
        Expression::AccessIndex { base, .. } => vec![*base],
        Expression::Splat { value, .. } => vec![*value],
        Expression::Swizzle { vector, .. } => vec![*vector],
        Expression::Load { pointer } => vec![*pointer],
        Expression::Unary { expr, .. } | Expression::As { expr, .. } => vec![*expr],
        Expression::Binary { left, right, .. } => vec![*left, *right],
        Expression::Select { condition, accept, reject } => vec![*condition, *accept, *reject],
        Expression::Relational { argument, .. } => vec![*argument],
        Expression::Math { arg, arg1, arg2, arg3, .. } => [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().collect(),
        _ => Vec::new(),
    }
}

/// Everything that an expression depends on, through local variables and calls.
pub fn closure(function: &Function, flow: &Flow, start: E) -> HashSet<E> {
    let (mut seen, mut todo) = (HashSet::new(), vec![start]);
    while let Some(e) = todo.pop() {
        if seen.insert(e) {
            todo.extend(children(&function.expressions[e]));
            match &function.expressions[e] {
                Expression::LocalVariable(local) => todo.extend(flow.stores.get(local).into_iter().flatten()),
                Expression::CallResult(_) => todo.extend(flow.calls.get(&e).into_iter().flatten()),
                _ => {}
            }
        }
    }
    seen
}

/// Control may jump to the next turn of the loop whose body this is.
pub fn continues(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Continue => true,
        Statement::Block(inner) => continues(inner),
        Statement::If { accept, reject, .. } => continues(accept) || continues(reject),
        _ => false,
    })
}

/// Local variables that a block stores into, once for every store.
pub fn stored(function: &Function, block: &Block) -> Vec<Handle<naga::LocalVariable>> {
    let mut found = Vec::new();
    for statement in block.iter() {
        match statement {
            Statement::Store { pointer, .. } => found.extend(local_root(function, *pointer)),
            // A pointer that is passed on may be stored through.
            Statement::Call { arguments, .. } => found.extend(arguments.iter().filter_map(|&a| local_root(function, a))),
            Statement::Block(inner) => found.extend(stored(function, inner)),
            Statement::If { accept, reject, .. } => {
                found.extend(stored(function, accept));
                found.extend(stored(function, reject));
            }
            Statement::Loop { body, continuing, .. } => {
                found.extend(stored(function, body));
                found.extend(stored(function, continuing));
            }
            _ => {}
        }
    }
    found
}
