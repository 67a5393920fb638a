//! For tests: counts the loop iterations that invocations execute, to compare with those stated by ops ([`super::Extent::iterations`]).

use crate::device::{Tensor, lock};
use std::collections::HashMap;
use std::sync::Mutex;

/// Maximum number of kernels to count.
pub(in crate::device) const SLOTS: usize = 4096;
/// The counter's name in instrumented texts.
pub(super) const BINDING: &str = "iterations_counted";

/// The most iterations of an invocation, by kernel.
pub(in crate::device) struct IterationCounter {
    /// As counted (SLOTS), u32.
    pub counted: Tensor,
    /// Slot and most stated iterations of each kernel.
    kernels: Mutex<HashMap<String, (usize, usize)>>,
}

impl IterationCounter {
    pub fn new(counted: Tensor) -> Self {
        Self { counted, kernels: Mutex::default() }
    }

    /// The text with a counter in each loop of `entry`.
    pub fn instrument(&self, kernel: &str, text: &str, entry: &str) -> String {
        let slot = {
            let mut kernels = lock(&self.kernels);
            let next = kernels.len();
            kernels.entry(kernel.to_owned()).or_insert((next, 0)).0
        };
        // Directives come first.
        let start = text.rfind("\nenable ").map_or(0, |at| at + 1 + text[at + 1..].find('\n').map_or(0, |length| length + 1));
        let (directives, text) = text.split_at(start);
        let mut out = format!(
            "{directives}var<private> iterations_done: u32;\n@group(0) @binding(100) var<storage, read_write> {BINDING}: array<atomic<u32>>;\n"
        );
        let counted = in_loops(text);
        let end = end_of_function(&counted, entry);
        out.push_str(&counted[..end]);
        out.push_str(&format!("atomicMax(&{BINDING}[{slot}], iterations_done);\n"));
        out.push_str(&counted[end..]);
        out
    }

    /// Store the stated iterations of a dispatch.
    pub fn state(&self, kernel: &str, iterations: usize) {
        if let Some((_, most)) = lock(&self.kernels).get_mut(kernel) {
            *most = iterations.max(*most);
        }
    }

    /// Kernel, stated, counted.
    pub fn compared(&self, counted: &[u32]) -> Vec<(String, usize, usize)> {
        lock(&self.kernels).iter().map(|(name, &(slot, stated))| (name.clone(), stated, counted[slot] as usize)).collect()
    }
}

/// Insert the counter at the start of every `for` and `while` body.
fn in_loops(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = ["for (", "while "].iter().filter_map(|word| rest.find(word)).min() {
        // A loop's head has no brace.
        let Some(open) = rest[at..].find('{') else { break };
        let (head, tail) = rest.split_at(at + open + 1);
        out.push_str(head);
        out.push_str(" iterations_done++;");
        rest = tail;
    }
    out + rest
}

/// Position of the last brace of a function.
fn end_of_function(text: &str, name: &str) -> usize {
    let begin = text.find(&format!("fn {name}(")).unwrap_or(text.len());
    let mut depth = 0;
    for (i, c) in text[begin..].char_indices() {
        depth += match c {
            '{' => 1,
            '}' if depth == 1 => return begin + i,
            '}' => -1,
            _ => 0,
        };
    }
    text.len()
}
