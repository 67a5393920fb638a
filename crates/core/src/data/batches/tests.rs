use super::*;
use proptest::prelude::*;

/// Token `i` of the file is `i`, so that a batch shows where its tokens come from.
fn counting(n: u64, ends: &[u64]) -> Arc<TokenFile> {
    let tokens: Vec<u32> = (0..n as u32).collect();
    Arc::new(TokenFile::from_tokens(&tokens, ends, n as usize).unwrap())
}

/// The document of a token, by linear search.
fn document_of(ends: &[u64], token: u32) -> usize {
    ends.iter().filter(|end| **end <= u64::from(token)).count()
}

/// Compares a batch of a counting file with the definition of each field.
fn check_rows(batch: &Batch, ends: &[u64]) {
    let t = batch.seq_len;
    assert_eq!([batch.tokens.len(), batch.targets.len(), batch.doc_start.len()], [batch.batch_size * t; 3]);
    for row in 0..batch.batch_size {
        let tokens = &batch.tokens[row * t..][..t];
        for i in 0..t {
            let (target, start) = (batch.targets[row * t + i], batch.doc_start[row * t + i] as usize);
            assert!(start <= i);
            if target != IGNORE {
                assert_eq!(target, tokens[i] + 1);
                assert_eq!(document_of(ends, target), document_of(ends, tokens[i]), "no target in another document");
                let first = (0..t).find(|j| {
                    tokens[*j] == tokens[i] - (i - j) as u32 && document_of(ends, tokens[*j]) == document_of(ends, tokens[i])
                });
                assert_eq!(Some(start), first, "the document begins where its first token is");
            }
        }
    }
}

fn ends_in(n: u64) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1..n, 0..8).prop_map(move |ends| ends.into_iter().chain([n]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn validation_scores_each_target_once(
        (n, ends, from) in (2u64..200).prop_flat_map(|n| (Just(n), ends_in(n), 0..n - 1)), t in 1usize..20, b in 1usize..5,
    ) {
        let file = counting(n, &ends);
        let range = TokenRange { file, range: from..n };
        let mut scored = vec![0; n as usize];
        let batches = range.val_batches(b, t, u64::MAX);
        prop_assert_eq!(batches.len(), ((n - from - 1).div_ceil(t as u64)).div_ceil(b as u64) as usize);
        for batch in batches {
            check_rows(&batch, &ends);
            batch.targets.iter().filter(|target| **target != IGNORE).for_each(|target| scored[*target as usize] += 1);
        }
        for token in 0..n {
            let expected = u32::from(token > from && !ends.contains(&token));
            prop_assert_eq!(scored[token as usize], expected, "token {}", token);
        }
    }

    #[test]
    fn an_epoch_visits_every_window_once(n in 2u64..400, t in 1usize..20, seed in any::<u64>(), ends in ends_in(400)) {
        prop_assume!(n > t as u64);
        let ends: Vec<u64> = ends.into_iter().filter(|end| *end < n).chain([n]).collect();
        let order = TrainOrder::new(TokenRange::whole(counting(n, &ends)), t, seed).unwrap();
        let windows = order.windows_per_epoch();
        prop_assert!((windows + 2) * t as u64 >= n, "at most a window and a bit are left out");
        for epoch in 0..3 {
            let mut starts: Vec<u64> = (0..windows).map(|i| {
                let (at, start) = order.locate(epoch * windows + i);
                assert_eq!(at, epoch);
                start
            }).collect();
            starts.sort_unstable();
            prop_assert!(starts[0] < t as u64 && starts[windows as usize - 1] + (t as u64) < n);
            prop_assert!(starts.windows(2).all(|w| w[1] - w[0] == t as u64), "{:?}", starts);
        }
        for step in 0..4 {
            let batch = order.batch(step, 3);
            check_rows(&batch, &ends);
            for row in 0..3 {
                let (_, start) = order.locate(step * 3 + row as u64);
                let tokens: Vec<u32> = (start..start + t as u64).map(|i| i as u32).collect();
                prop_assert_eq!(&batch.tokens[row * t..][..t], &tokens);
                let boundaries = tokens.iter().filter(|i| ends.contains(&(u64::from(**i) + 1))).count();
                let ignored = batch.targets[row * t..][..t].iter().filter(|target| **target == IGNORE).count();
                prop_assert_eq!(ignored, boundaries, "a window has all its targets, but for ends of documents");
            }
        }
    }
}

#[test]
fn a_batch_depends_only_on_seed_and_step() {
    let order = |seed| TrainOrder::new(TokenRange::whole(counting(5000, &[5000])), 16, seed).unwrap();
    let (one, again, other) = (order(1), order(1), order(2));
    let forward: Vec<Batch> = (0..100).map(|step| one.batch(step, 8)).collect();
    for step in (0..100).rev() {
        assert_eq!(again.batch(step, 8), forward[step as usize], "resumed at any step");
    }
    assert_eq!(one.batch_from(24, 8), forward[3]);
    assert_eq!(
        [&one.batch(6, 4).tokens[..], &one.batch(7, 4).tokens].concat(),
        forward[3].tokens,
        "any batch size, the same sequences"
    );
    assert_ne!(other.batch(0, 8), forward[0]);
    let phases: std::collections::HashSet<u64> = (0..50).map(|e| one.locate(e * one.windows_per_epoch()).1 % 16).collect();
    assert!(phases.len() > 8, "windows move from epoch to epoch");
    one.batch(u64::MAX / 7, 3);
    assert!((one.epochs_at(one.windows_per_epoch() * 3 / 2) - 1.5).abs() < 0.01);
}

#[test]
fn too_few_tokens_are_refused_with_numbers() {
    let new = |n: u64, t| TrainOrder::new(TokenRange::whole(counting(n, &[n])), t, 0);
    assert_eq!(new(17, 16).unwrap().windows_per_epoch(), 1);
    assert_eq!(new(17, 16).unwrap().batch(0, 2).target_count(), 32);
    let error = new(16, 16).err().unwrap().to_string();
    assert!(error.contains("16 tokens") && error.contains("needs 17"), "{error}");
    assert!(new(16, 0).is_err());
}

#[test]
fn the_split_matches_nanogpt() {
    let file = counting(1003, &[1003]);
    let split = Dataset::split(file.clone(), 0.1).unwrap();
    assert_eq!((split.train.range(), split.val.unwrap().range()), (0..902, 902..1003));
    assert!(Dataset::split(file.clone(), 0.0).unwrap().val.is_none());
    assert!(Dataset::split(file.clone(), 0.001).unwrap().val.is_some_and(|val| val.len() == 2));
    assert!(Dataset::split(file.clone(), 0.0001).unwrap().val.is_none(), "a single token has no target");
    for bad in [1.0, -0.1, f64::NAN, f64::INFINITY] {
        assert!(Dataset::split(file.clone(), bad).err().unwrap().to_string().contains("val_fraction"));
    }
    let both = Dataset::with_validation(file, counting(10, &[10]));
    assert_eq!((both.train.len(), both.val.unwrap().len()), (1003, 10));
}

#[test]
fn validation_stops_at_the_requested_number() {
    let range = TokenRange::whole(counting(1000, &[1000]));
    let count = |most| range.val_batches(4, 16, most).map(|b| b.target_count()).sum::<usize>();
    assert_eq!((count(0), count(1), count(100), count(999), count(u64::MAX)), (0, 16, 112, 999, 999));
    assert_eq!(TokenRange { file: range.file.clone(), range: 5..6 }.val_batches(2, 4, u64::MAX).count(), 0);
}

/// Token 90 is the separator: it ends a document and is the first input of the next.
#[test]
fn end_of_text_starts_the_next_document() {
    let tokens = [90, 1, 2, 90, 3, 90, 90, 4, 5];
    let file = Arc::new(TokenFile::from_tokens(&tokens, &[4, 6, 7, 9], 100).unwrap().with_separator(Some(90)));
    let range = TokenRange::whole(file.clone());
    let batch = range.val_batches(1, 8, u64::MAX).next().unwrap();
    assert_eq!(batch.targets, [1, 2, 90, 3, 90, 90, 4, 5], "every token but the very first");
    assert_eq!(batch.doc_start, [0, 0, 0, 3, 3, 5, 6, 6]);
    let behind = TokenRange { file, range: 4..9 }.val_batches(1, 4, u64::MAX).next().unwrap();
    assert_eq!((behind.targets, behind.doc_start), (vec![90, 90, 4, 5], vec![0, 1, 2, 2]));
    // With another separator, or none, documents do not share a token.
    let apart = TokenFile::from_tokens(&tokens, &[4, 6, 7, 9], 100).unwrap().with_separator(Some(5));
    let batch = TokenRange::whole(Arc::new(apart)).val_batches(1, 8, u64::MAX).next().unwrap();
    assert_eq!(batch.targets, [1, 2, 90, IGNORE, 90, IGNORE, IGNORE, 5]);
}
