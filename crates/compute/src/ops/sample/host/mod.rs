//! Draw the next token of each row: temperature, then top-k, top-p, min-p (the order of Hugging Face), then one draw; and move on.
//!
//! - `logits` (B, stride), of which `vocab` columns count; `tokens` (B): what was fed, becomes what is fed next; `positions` (B): its
//!   index, grows by one
//! - `assigned` (B, 3): the request that the row works at, [`IDLE`] for none; where its prefix lies in the cache, and the tokens of that
//! - `prompt` (N, 6 + room): how many tokens are given, how many may be drawn, the two words of the draws' key, where the prefix that is
//!   in the cache already lies, and its length (less than what is given); then the tokens
//! - `drawn` (N, 2, room): every token of the request that the row fed or drew, by index; then the log-probabilities of those drawn
//! - `settings`: temperature, top_k, top_p, min_p, key0, key1, number of stops (bit patterns of f32 where those are meant), the stops
//! - `lengths` (N): tokens of an ended request; `progress`: next request, ended requests, requests

mod choose;
mod select;
#[cfg(test)]
mod tests;

use super::{IDLE, PROMPT_HEAD, Sizes};
use crate::device::cpu::{Cpu, TileGrid, Tiled, task_rows, with_scratch};
use crate::rng::{philox, unit};
use crate::simd;
use choose::{Filter, choose};
use select::Scratch;
use std::cell::RefCell;

impl Sizes {
    /// The head and tokens of a row's request, and its number; [`IDLE`] reads those of the last.
    fn request_tokens<'a>(&self, prompt: &'a [u32], request: u32) -> (usize, &'a [u32]) {
        let width = self.max_len + PROMPT_HEAD;
        let request = (request as usize).min(prompt.len() / width - 1);
        (request, &prompt[request * width..][..width])
    }

    /// Whether the token after `position` is one of the prompt's.
    fn is_given(&self, given: &[u32], position: u32) -> bool {
        let after = position as usize + 1;
        after < self.max_len && after < given[0] as usize
    }
}

/// Draw the token after each row's position, or take it from the prompt; advance the rows.
pub fn draw(
    cpu: &Cpu,
    sizes: Sizes,
    logits: &[f32],
    settings: &[u32],
    prompt: &[u32],
    assigned: &[u32],
    tokens: &mut [u32],
    positions: &mut [u32],
    drawn: &mut [u32],
) {
    let (batch, max_len) = (tokens.len(), sizes.max_len);
    with_scratch(2 * batch, |choices| {
        choose_all(cpu, sizes, logits, settings, prompt, assigned, positions, choices);
        for (row, choice) in choices.chunks_exact(2).enumerate().filter(|(row, _)| assigned[3 * row] != IDLE) {
            let (request, given) = sizes.request_tokens(prompt, assigned[3 * row]);
            let after = positions[row] + 1;
            let mut next = choice[0].to_bits();
            if (after as usize) < max_len {
                let is_given = sizes.is_given(given, positions[row]);
                next = if is_given { given[PROMPT_HEAD + after as usize] } else { next };
                let at = request * 2 * max_len + after as usize;
                drawn[at] = next;
                drawn[at + max_len] = if is_given { 0 } else { choice[1].to_bits() };
                positions[row] = after;
            }
            tokens[row] = next;
        }
    });
}

/// `choices` (B, 2) = the column that each row draws, as a bit pattern, and its log-probability; rows that draw nothing are left alone.
fn choose_all(
    cpu: &Cpu,
    sizes: Sizes,
    logits: &[f32],
    settings: &[u32],
    prompt: &[u32],
    assigned: &[u32],
    positions: &[u32],
    choices: &mut [f32],
) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let filter = Filter::new(settings);
    let rows = positions.len();
    let choices = Tiled::new(choices, TileGrid::rows(rows, 2, task_rows(rows, sizes.vocab)));
    cpu.for_tiles([choices], |_, [mut choices]| {
        for i in 0..choices.rows() {
            let row = choices.first_row() + i;
            let (_, given) = sizes.request_tokens(prompt, assigned[3 * row]);
            if assigned[3 * row] == IDLE || sizes.is_given(given, positions[row]) {
                continue;
            }
            let words = philox([given[2], given[3], positions[row], 0], [settings[4], settings[5]]);
            let unit = unit(words[0]);
            let logits = &logits[row * sizes.stride..][..sizes.vocab];
            let (column, logp) = SCRATCH.with_borrow_mut(|scratch| simd!(cpu, s => choose(s, filter, unit, logits, scratch)));
            choices.row(i).copy_from_slice(&[f32::from_bits(column as u32), logp]);
        }
    });
}

/// Rows whose request has ended (by a stop, its limit, no more room) take the next, in their order; call it after [`draw`].
pub fn refill(
    sizes: Sizes,
    settings: &[u32],
    prompt: &[u32],
    tokens: &mut [u32],
    positions: &mut [u32],
    assigned: &mut [u32],
    lengths: &mut [u32],
    progress: &mut [u32],
) {
    let Sizes { max_len, count, .. } = sizes;
    let requests = progress[2].min(count as u32);
    let stops = &settings[7..][..settings[6] as usize];
    let (mut next, mut ended) = (progress[0], 0);
    for (row, own) in assigned.chunks_exact_mut(3).enumerate() {
        let (request, given) = sizes.request_tokens(prompt, own[0]);
        // Idle rows hold any values; u32 wraps as in the shader.
        let length = positions[row].wrapping_add(1);
        let is_over = length >= given[0].wrapping_add(given[1]) || length as usize >= max_len || stops.contains(&tokens[row]);
        if !is_over || length <= given[0] || own[0] as usize >= count {
            continue;
        }
        lengths[request] = length;
        let begin = (next < requests).then(|| sizes.request_tokens(prompt, next).1);
        let fed = begin.map_or(0, |given| given[5]);
        own.copy_from_slice(&begin.map_or([IDLE, 0, 0], |given| [next, given[4], fed]));
        positions[row] = fed;
        tokens[row] = begin.map_or(0, |given| given[PROMPT_HEAD + (fed as usize).min(max_len - 1)]);
        next += 1;
        ended += 1;
    }
    progress[0] = next.min(requests);
    progress[1] += ended;
}
