//! Properties of the batches made from rows.

use super::*;

/// Examples of these lengths with distinct tokens, the second half of each scored; the last `val` examples are held out.
fn rows(lengths: &[usize], val: usize) -> ChatRows {
    let mut store = ExampleStore::default();
    let mut next = 1;
    for length in lengths {
        let tokens: Vec<u32> = (next..next + *length as u32).collect();
        next += *length as u32;
        let scored = (0..*length).map(|i| 2 * i >= *length).collect();
        store.push(&Example { tokens, scored }).unwrap();
    }
    let cut = (lengths.len() - val) as u32;
    ChatRows { store, train: vec![(0..cut, 1.0)], val: (cut..lengths.len() as u32).collect() }
}

fn lengths(seed: u64, n: usize, most: usize) -> Vec<usize> {
    let rng = Rng::new(seed, "lengths");
    (0..n).map(|i| 2 + rng.below(0, i as u64, most as u64 - 1) as usize).collect()
}

/// The documents of a batch, without padding: (tokens, targets).
fn documents(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut found: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
    for row in 0..batch.batch_size {
        for i in 0..batch.seq_len {
            let at = row * batch.seq_len + i;
            assert!(batch.doc_start[at] as usize <= i);
            if batch.doc_start[at] as usize == i && batch.tokens[at] != 0 {
                found.push((Vec::new(), Vec::new()));
            }
            if batch.tokens[at] == 0 {
                // Padding is ignored and attends to no document.
                assert_eq!(batch.targets[at], IGNORE);
                assert!(batch.tokens[row * batch.seq_len + batch.doc_start[at] as usize] == 0);
                continue;
            }
            let document = found.last_mut().unwrap();
            document.0.push(batch.tokens[at]);
            document.1.push(batch.targets[at]);
        }
    }
    found
}

#[test]
fn an_epoch_has_each_example_once_uncut_and_separate() {
    for packing in [true, false] {
        for seed in 0..20 {
            let sizes = lengths(seed, 1 + seed as usize * 3, 16);
            let source = ChatSource::new(rows(&sizes, 0), 16, seed, packing).unwrap();
            let per_epoch = source.rows_per_epoch();
            if !packing {
                assert_eq!(per_epoch, sizes.len() as u64);
            }
            for epoch in 0..3 {
                let batch_of = |row: u64| source.batch(epoch * per_epoch + row, 1);
                let mut starts = Vec::new();
                for row in 0..per_epoch {
                    let batch = batch_of(row);
                    assert_eq!(batch.num_tokens, batch.tokens.iter().filter(|t| **t != 0).count());
                    for (tokens, targets) in documents(&batch) {
                        starts.push((tokens[0], tokens.len()));
                        // Brute force: the next token of the same document, if it is in the second half.
                        let want: Vec<u32> = (0..tokens.len())
                            .map(|i| if i + 1 < tokens.len() && 2 * (i + 1) >= tokens.len() { tokens[i] + 1 } else { IGNORE })
                            .collect();
                        assert_eq!(targets, want);
                    }
                }
                starts.sort_unstable();
                let mut next = 1;
                let want: Vec<_> = sizes
                    .iter()
                    .map(|n| {
                        next += *n as u32;
                        (next - *n as u32, *n)
                    })
                    .collect();
                assert_eq!(starts, want, "packing {packing}, seed {seed}, epoch {epoch}");
            }
        }
    }
}

#[test]
fn a_batch_depends_only_on_seed_and_step() {
    let sizes = lengths(3, 50, 12);
    let make = |seed| ChatSource::new(rows(&sizes, 5), 12, seed, true).unwrap();
    let (forward, backward) = (make(1), make(1));
    let numbers: Vec<u64> = (0..40).collect();
    let there: Vec<Batch> = numbers.iter().map(|n| forward.batch(*n, 3)).collect();
    let back: Vec<Batch> = numbers.iter().rev().map(|n| backward.batch(*n, 3)).collect();
    assert!(there.iter().eq(back.iter().rev()));
    // The rows form one series, independent of the batch size.
    let of = |n: u64, size: usize| (0..n).flat_map(|i| documents(&forward.batch(i, size))).collect::<Vec<_>>();
    assert_eq!(of(12, 1), of(4, 3));
    assert_ne!(there[0], make(2).batch(0, 3));
    assert_ne!(there[0], there[40 - 1]);
}

#[test]
fn training_ends_after_the_exact_number_of_epochs() {
    let sizes = lengths(8, 23, 10);
    let mut source = ChatSource::new(rows(&sizes, 0), 10, 4, true).unwrap();
    let rows_per_epoch = source.rows_per_epoch();
    let steps = source.end_after(2.0, 4);
    assert_eq!(steps, (2 * rows_per_epoch).div_ceil(4));
    let seen: usize = (0..steps).map(|n| documents(&source.batch(n, 4)).len()).sum();
    assert_eq!(seen, 2 * sizes.len());
    assert!(documents(&source.batch(steps, 4)).is_empty());
    assert!((source.epochs(steps, 4) - 2.0).abs() < 1e-12 && source.epochs(0, 4) == 0.0);
    assert!(source.epochs(1, 4) > 0.0 && source.epochs(1, 4) < source.epochs(2, 4));
}

#[test]
fn validation_order_is_fixed() {
    let sizes = lengths(5, 40, 10);
    let source = ChatSource::new(rows(&sizes, 15), 10, 4, true).unwrap();
    let walk = |most| source.val_batches(2, 10, most).unwrap();
    let all: Vec<_> = walk(u64::MAX).flat_map(|b| documents(&b)).collect();
    assert_eq!(all.len(), 15);
    assert_eq!(walk(u64::MAX).len(), walk(u64::MAX).count());
    let other = ChatSource::new(rows(&sizes, 15), 10, 5, true).unwrap();
    assert!(walk(u64::MAX).eq(other.val_batches(2, 10, u64::MAX).unwrap()), "no other for another seed");
    let targets = |most| walk(most).map(|b| b.target_count()).sum::<usize>();
    assert!(targets(12) >= 12 && targets(12) < targets(u64::MAX));
    assert!(ChatSource::new(rows(&sizes, 0), 10, 4, true).unwrap().val_batches(2, 10, 9).is_none());
    assert_eq!(source.tokens().0 + source.tokens().1, sizes.iter().sum::<usize>() as u64);
}
