//! Sampling: with the frequencies of the distribution, and as a function of seed, key and position.

use super::{ROOM, device, floats, go, golden, ids, open};
use lehr::model::{RolloutEngine, RolloutRequest};
use lehr::ops::sample::{Sampling, twin};

/// Upper bound of a chi-square statistic with `df` degrees of freedom that chance passes once in two million times (Wilson and Hilferty
/// 1931).
fn bound(df: usize) -> f64 {
    let (df, z) = (df as f64, 4.9);
    df * (1.0 - 2.0 / (9.0 * df) + z * (2.0 / (9.0 * df)).sqrt()).powi(3)
}

/// The statistic of counts against probabilities, rare tokens taken together, and its degrees of freedom.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> (f64, usize) {
    let n = counts.iter().sum::<usize>() as f64;
    let (mut bins, mut rare) = (Vec::new(), (0.0, 0.0));
    for (count, p) in counts.iter().zip(probabilities) {
        assert!(*p > 0.0 || *count == 0, "{count} draws of a token that cannot be drawn");
        if n * p < 8.0 {
            rare = (rare.0 + *count as f64, rare.1 + n * p);
        } else {
            bins.push((*count as f64, n * p));
        }
    }
    if rare.1 > 1.0 {
        bins.push(rare);
    }
    (bins.iter().map(|(got, want)| (got - want).powi(2) / want).sum(), bins.len() - 1)
}

#[test]
fn token_frequencies_match_the_distribution() {
    let (device, golden) = (device(), golden());
    let base = Sampling { temperature: 2.5, seed: 31, ..Sampling::default() };
    let ways = [
        base,
        Sampling { temperature: 1.0, ..base },
        Sampling { top_k: 7, ..base },
        Sampling { top_p: 0.8, ..base },
        Sampling { min_p: 0.1, ..base },
        Sampling { top_k: 12, top_p: 0.9, min_p: 0.05, seed: 32, ..base },
    ];
    const DRAWS: usize = 6000;
    for case in ["llama-gqa", "qwen3"] {
        let model = open(&device, case);
        let mut engine = RolloutEngine::new(&device, &model, 64, ROOM).unwrap();
        let row = &golden[case][2];
        let logits = floats(&row["first_logits"]);
        let request =
            |i: usize| RolloutRequest { prompt: ids(&row["prompt"]), key: [(i / 100) as u32, (i % 100) as u32], max_new: 1 };
        let requests: Vec<RolloutRequest> = (0..DRAWS).map(request).collect();
        for sampling in &ways {
            let wanted = twin::distribution(&logits, sampling);
            let mut counts = vec![0; logits.len()];
            for completion in go(&device, &model, &mut engine, &requests, sampling, &[]) {
                let token = completion.tokens[0] as usize;
                counts[token] += 1;
                let want = twin::log_probability(&logits, token, sampling.temperature);
                let got = f64::from(completion.logprobs[0]);
                assert!((got - want).abs() < 1e-4, "{case} {sampling:?}: log pi {got} instead of {want}");
            }
            let (statistic, df) = chi_square(&counts, &wanted);
            assert!(
                df >= 2 && statistic < bound(df),
                "{case} {sampling:?}: chi-square {statistic:.1} with {df} degrees of freedom"
            );
        }
    }
}

#[test]
fn later_tokens_are_drawn_independently() {
    // At a temperature this high all tokens are equally probable, whatever the model says: pairs must be as often as the product.
    let device = device();
    let model = open(&device, "qwen2");
    let mut engine = RolloutEngine::new(&device, &model, 64, ROOM).unwrap();
    let flat = Sampling { temperature: 1e6, seed: 77, ..Sampling::default() };
    let vocab = model.config.vocab_size;
    let request = |i: usize| RolloutRequest { prompt: vec![1, 2], key: [3, i as u32], max_new: 12 };
    let found = go(&device, &model, &mut engine, &(0..1000).map(request).collect::<Vec<_>>(), &flat, &[]);
    let uniform = |n: usize| vec![1.0 / n as f64; n];
    let mut all = vec![0; vocab];
    let mut pairs = vec![0; 16];
    let mut neighbours = vec![0; 16];
    let quarter = |token: u32| 4 * token as usize / vocab;
    for completion in &found {
        completion.tokens.iter().for_each(|token| all[*token as usize] += 1);
        completion.tokens.windows(2).for_each(|w| pairs[4 * quarter(w[0]) + quarter(w[1])] += 1);
    }
    for w in found.windows(2) {
        w[0].tokens.iter().zip(&w[1].tokens).for_each(|(a, b)| neighbours[4 * quarter(*a) + quarter(*b)] += 1);
    }
    // Quarters are not quite even, as 59 is not a multiple of 4.
    let share: Vec<f64> = (0..4).map(|q| (0..vocab as u32).filter(|t| quarter(*t) == q).count() as f64 / vocab as f64).collect();
    let product: Vec<f64> = (0..16).map(|i| share[i / 4] * share[i % 4]).collect();
    for (what, counts, wanted) in
        [("tokens", &all, &uniform(vocab)), ("pairs", &pairs, &product), ("keys", &neighbours, &product)]
    {
        let (statistic, df) = chi_square(counts, wanted);
        assert!(statistic < bound(df), "{what}: chi-square {statistic:.1} with {df} degrees of freedom");
    }
    // Another seed, other draws; another key, other draws.
    let other = go(&device, &model, &mut engine, &[request(0)], &Sampling { seed: 78, ..flat }, &[]);
    assert_ne!(other[0].tokens, found[0].tokens);
    assert_ne!(found[0].tokens, found[1].tokens);
    let both = [RolloutRequest { key: [0, 3], ..request(0) }, RolloutRequest { key: [3, 0], ..request(0) }];
    let both = go(&device, &model, &mut engine, &both, &flat, &[]);
    assert_ne!(both[0].tokens, both[1].tokens, "both words of the key count");
    assert_eq!(both[1].tokens, found[0].tokens, "a completion belongs to its key");
}
