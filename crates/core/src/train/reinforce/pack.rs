//! Completions with their prompts, packed into rows of a fixed length.

use super::Rollout;
use crate::data::chat::best_fit;
use crate::data::{Batch, IGNORE};

/// Rows that are computed at once, and the positions of the completions in them.
pub(super) struct MicroBatch {
    /// Tokens, targets and documents; targets within prompts are ignored.
    pub batch: Batch,
    pub places: Vec<PackedCompletion>,
}

/// A completion in a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PackedCompletion {
    /// Its index in the slice that was packed.
    pub rollout: usize,
    /// The position, counted through all rows, that predicts its first token; the others follow.
    pub at: usize,
}

/// Length of a packed completion: its last token predicts nothing.
pub(super) fn length(rollout: &Rollout) -> usize {
    rollout.prompt.len() + rollout.completion.len() - 1
}

/// Pack the completions selected by `wanted` into rows of `time` tokens (best fit decreasing), at most `most_rows` at once. The last
/// micro-batch may have fewer rows: a power of two, filled up with empty rows. Rank r of N gets rows r, r + N, r + 2 N, ...
pub(super) fn pack(
    rollouts: &[Rollout],
    time: usize,
    most_rows: usize,
    (rank, ranks): (usize, usize),
    wanted: impl Fn(usize) -> bool,
) -> Vec<MicroBatch> {
    let all: Vec<u32> = (0..rollouts.len() as u32).filter(|i| wanted(*i as usize)).collect();
    let bins = best_fit(&all, |i| length(&rollouts[i as usize]), time);
    let own: Vec<_> = bins.into_iter().skip(rank).step_by(ranks).collect();
    own.chunks(most_rows)
        .map(|bins| {
            let rows = size(bins.len(), most_rows);
            let mut micro = MicroBatch { batch: empty(rows, time), places: Vec::new() };
            for (row, bin) in bins.iter().enumerate() {
                let mut start = row * time;
                for i in bin {
                    micro.place(rollouts, *i as usize, start);
                    start += length(&rollouts[*i as usize]);
                }
            }
            micro
        })
        .collect()
}

/// The row counts that [`pack`] uses, largest first.
pub(super) fn sizes(most_rows: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..usize::BITS).map(|i| 1 << i).take_while(|n| *n < most_rows).chain([most_rows]).collect();
    sizes.reverse();
    sizes
}

fn size(rows: usize, most_rows: usize) -> usize {
    rows.next_power_of_two().min(most_rows)
}

/// Each empty position is a document of its own, which makes attention cheap.
fn empty(rows: usize, time: usize) -> Batch {
    let n = rows * time;
    let doc_start = (0..n).map(|i| (i % time) as u32).collect();
    Batch { batch_size: rows, seq_len: time, tokens: vec![0; n], targets: vec![IGNORE; n], doc_start, num_tokens: 0 }
}

impl MicroBatch {
    fn place(&mut self, rollouts: &[Rollout], rollout: usize, start: usize) {
        let of = &rollouts[rollout];
        let (n, batch) = (length(of), &mut self.batch);
        let whole = || of.prompt.iter().chain(&of.completion);
        batch.tokens[start..start + n].iter_mut().zip(whole()).for_each(|(to, token)| *to = *token);
        let at = start + of.prompt.len() - 1;
        batch.targets[at..start + n].copy_from_slice(&of.completion);
        batch.doc_start[start..start + n].fill((start % batch.seq_len) as u32);
        batch.num_tokens += n;
        self.places.push(PackedCompletion { rollout, at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Every completion occurs once, preceded by its own prompt, and no two share a position.
    #[test]
    fn packed_completions_are_at_their_offsets() {
        let rng = Rng::new(3, "test");
        for case in 0..60u64 {
            let draw = |i: u64, n: u64| 1 + rng.below(case, i, n) as usize;
            let rollouts: Vec<Rollout> = (0..draw(0, 30) as u64)
                .map(|i| Rollout {
                    prompt: (0..draw(10 * i + 1, 8)).map(|t| 100 + t as u32).collect(),
                    completion: (0..draw(10 * i + 2, 9)).map(|t| 200 + (10 * i) as u32 + t as u32).collect(),
                    ..Rollout::default()
                })
                .collect();
            let (time, most) = (16, draw(9999, 6));
            let odd = case % 3 == 0;
            let ranks = draw(9998, 4);
            let micros: Vec<MicroBatch> =
                (0..ranks).flat_map(|rank| pack(&rollouts, time, most, (rank, ranks), |i| !odd || i % 2 == 1)).collect();
            let mut seen = vec![0; rollouts.len()];
            for micro in &micros {
                let b = &micro.batch;
                assert!(sizes(most).contains(&b.batch_size) && b.tokens.len() == b.batch_size * time);
                let mut owner = vec![None; b.tokens.len()];
                for place in &micro.places {
                    seen[place.rollout] += 1;
                    let of = &rollouts[place.rollout];
                    let start = place.at + 1 - of.prompt.len();
                    assert_eq!(start / time, (start + length(of) - 1) / time, "a row is not left");
                    for i in 0..length(of) {
                        assert!(owner[start + i].replace(place.rollout).is_none());
                        assert_eq!(b.doc_start[start + i] as usize, start % time);
                        let token = of.prompt.iter().chain(&of.completion).nth(i).unwrap();
                        assert_eq!(b.tokens[start + i], *token);
                    }
                    for (i, token) in of.completion.iter().enumerate() {
                        assert_eq!(b.targets[place.at + i], *token);
                    }
                }
                let scored = b.target_count();
                assert_eq!(scored, micro.places.iter().map(|p| rollouts[p.rollout].completion.len()).sum::<usize>());
            }
            assert!(seen.iter().enumerate().all(|(i, n)| *n == usize::from(!odd || i % 2 == 1)));
        }
    }

    #[test]
    fn the_last_batch_has_fewer_rows() {
        assert_eq!(sizes(12), [12, 8, 4, 2, 1]);
        assert_eq!(sizes(8), [8, 4, 2, 1]);
        assert_eq!((size(3, 12), size(9, 12), size(12, 12)), (4, 12, 12));
    }
}
