//! Statistics of a step's tokens by probability: host arithmetic on numbers that the update needs anyway.
//!
//! A token's share of the gradient is |advantage| times [`logit_norm`].

use super::Rollout;
use crate::event::{Binned, Bins, Tokens};
use crate::train::bins::{DECILES, QUARTILES, bin, logit_norm, short};

/// The factor of Advantage Reweighting (Eq. 4): alpha pi + 1 - alpha. The paper writes pi; like the released code, lehr uses the
/// probability at the time of the rollout.
pub fn reweight(alpha: f64, probability: f64) -> f64 {
    alpha * probability + 1.0 - alpha
}

/// One response token.
#[derive(Clone, Copy, Debug)]
struct ResponseToken {
    probability: f64,
    advantage: f64,
    entropy: f64,
    gradient: f64,
    weight: f64,
}

/// Missing numbers are NaN.
fn tokens_of(rollout: &Rollout, alpha: f64) -> impl Iterator<Item = ResponseToken> + '_ {
    let value = |values: &[f32], i: usize| values.get(i).map_or(f64::NAN, |v| f64::from(*v));
    rollout.old_logprobs.iter().enumerate().map(move |(i, logprob)| {
        let (advantage, logprob) = (value(&rollout.advantages, i), f64::from(*logprob));
        let probability = logprob.exp();
        ResponseToken {
            probability,
            advantage,
            entropy: value(&rollout.entropy, i),
            gradient: advantage.abs() * logit_norm(logprob, value(&rollout.sum_p2, i)),
            weight: reweight(alpha, probability),
        }
    })
}

/// Statistics of a step's completions. `alpha` is the strength of Advantage Reweighting of the `advantages`. The caller adds probe,
/// gradient and norms of the passes.
pub fn statistics(step: u64, rollouts: &[Rollout], alpha: f64) -> Tokens {
    let tokens: Vec<ResponseToken> = rollouts.iter().flat_map(|r| tokens_of(r, alpha)).collect();
    Tokens {
        step,
        tokens: tokens.len() as u64,
        quartiles: bins(&QUARTILES, &tokens),
        deciles: bins(&DECILES, &tokens),
        ..Tokens::default()
    }
}

fn bins(from: &[f64], tokens: &[ResponseToken]) -> Bins {
    let whole = tokens.iter().map(|t| t.gradient).sum::<f64>();
    let side = |wanted: fn(f64) -> bool| binned(from, tokens, whole, wanted);
    Bins { from: from.to_vec(), all: side(|_| true), positive: side(|a| a > 0.0), negative: side(|a| a < 0.0) }
}

/// Sums over the tokens of a bin.
#[derive(Clone, Copy, Default)]
struct TokenSums {
    count: u64,
    advantage: f64,
    gradient: f64,
    entropy: f64,
    weight: f64,
}

fn binned(from: &[f64], tokens: &[ResponseToken], whole: f64, wanted: fn(f64) -> bool) -> Binned {
    let mut sums = vec![TokenSums::default(); from.len()];
    for token in tokens.iter().filter(|t| wanted(t.advantage)) {
        if let Some(sum) = bin(from, token.probability).and_then(|b| sums.get_mut(b)) {
            sum.count += 1;
            sum.advantage += token.advantage.abs();
            sum.gradient += token.gradient;
            sum.entropy += token.entropy;
            sum.weight += token.weight;
        }
    }
    let each =
        |value: fn(&TokenSums) -> f64, over: &dyn Fn(&TokenSums) -> f64| sums.iter().map(|s| short(value(s) / over(s))).collect();
    let own = |s: &TokenSums| s.count as f64;
    Binned {
        count: sums.iter().map(|s| s.count).collect(),
        share: each(|s| s.count as f64, &|_| tokens.len() as f64),
        advantage: each(|s| s.advantage, &own),
        // If no token has an advantage, all shares are 0.
        gradient: each(|s| s.gradient, &|_| if whole == 0.0 { 1.0 } else { whole }),
        entropy: each(|s| s.entropy, &own),
        weight: each(|s| s.weight, &own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Number;
    use crate::rng::Rng;

    /// A distribution, the token drawn from it, its advantage before reweighting.
    type Plain = (Vec<f64>, usize, f64);
    type Side<'a> = (&'a Binned, fn(f64) -> bool);

    /// Completions of random distributions over a vocabulary of 7, their numbers computed from the whole distribution.
    fn made(seed: u64, alpha: f64) -> (Vec<Rollout>, Vec<Plain>) {
        let rng = Rng::new(seed, "tokens");
        let (mut rollouts, mut plain) = (Vec::new(), Vec::new());
        for r in 0..40u64 {
            // A group whose rewards are all equal has no advantage.
            let raw = if r % 5 == 0 { 0.0 } else { rng.normal_pair(r, 1000)[0] };
            let mut rollout = Rollout { prompt: vec![1], ..Rollout::default() };
            for t in 0..13 + r % 4 {
                let heat = 6.0 * f64::from(rng.uniform(r, 500 + t));
                let weights: Vec<f64> = (0..7).map(|k| (heat * rng.normal_pair(r, 20 * t + k)[0]).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let p: Vec<f64> = weights.iter().map(|w| w / sum).collect();
                let chosen = rng.below(r, 700 + t, 7) as usize;
                rollout.completion.push(chosen as u32);
                rollout.old_logprobs.push(p[chosen].ln() as f32);
                rollout.entropy.push(p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum::<f64>() as f32);
                rollout.sum_p2.push(p.iter().map(|p| p * p).sum::<f64>() as f32);
                rollout.advantages.push((raw * (alpha * p[chosen] + 1.0 - alpha)) as f32);
                plain.push((p, chosen, raw));
            }
            rollouts.push(rollout);
        }
        (rollouts, plain)
    }

    fn close(found: &[Number], want: &[f64]) {
        assert_eq!(found.len(), want.len());
        for (f, w) in found.iter().zip(want) {
            // A norm near 0 has few digits in single precision.
            assert!((f.0 - w).abs() <= 2e-5 * w.abs() + 5e-6 || (f.0.is_nan() && w.is_nan()), "{found:?}, not {want:?}");
        }
    }

    /// Against loops over whole distributions, gradients written out entry by entry.
    #[test]
    fn token_statistics_match_brute_force() {
        for (seed, alpha) in [(1, 0.0), (2, 0.3), (3, 1.0)] {
            let (rollouts, plain) = made(seed, alpha);
            let found = statistics(5, &rollouts, alpha);
            assert_eq!((found.step, found.tokens as usize), (5, plain.len()));
            for (bins, edges) in [(&found.quartiles, 4), (&found.deciles, 10)] {
                let sides: [Side<'_>; 3] = [(&bins.all, |_| true), (&bins.positive, |a| a > 0.0), (&bins.negative, |a| a < 0.0)];
                for (side, wanted) in sides {
                    let mut rows = vec![(0u64, [0.0f64; 4]); edges];
                    let mut whole = 0.0;
                    for (p, chosen, raw) in &plain {
                        let weight = 1.0 - alpha * (1.0 - p[*chosen]);
                        let norm =
                            p.iter().enumerate().map(|(k, p)| (f64::from(u8::from(k == *chosen)) - p).powi(2)).sum::<f64>();
                        let gradient = (raw * weight).abs() * norm.sqrt();
                        whole += gradient;
                        if wanted(*raw) && !(alpha == 1.0 && weight == 0.0) {
                            let row = &mut rows[((p[*chosen] * edges as f64) as usize).min(edges - 1)];
                            let entropy = -p.iter().map(|p| if *p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>();
                            row.0 += 1;
                            for (sum, v) in row.1.iter_mut().zip([(raw * weight).abs(), gradient, entropy, weight]) {
                                *sum += v;
                            }
                        }
                    }
                    let n = plain.len() as f64;
                    let mean = |k: usize| rows.iter().map(|r| r.1[k] / r.0 as f64).collect::<Vec<_>>();
                    assert_eq!(side.count, rows.iter().map(|r| r.0).collect::<Vec<_>>());
                    close(&side.share, &rows.iter().map(|r| r.0 as f64 / n).collect::<Vec<_>>());
                    close(&side.advantage, &mean(0));
                    close(&side.gradient, &rows.iter().map(|r| r.1[1] / whole).collect::<Vec<_>>());
                    close(&side.entropy, &mean(2));
                    close(&side.weight, &mean(3));
                }
            }
        }
    }

    #[test]
    fn shares_sum_to_one() {
        let (rollouts, plain) = made(9, 0.2);
        let found = statistics(1, &rollouts, 0.2);
        let sum = |values: &[Number]| values.iter().map(|v| v.0).sum::<f64>();
        for bins in [&found.quartiles, &found.deciles] {
            assert!((sum(&bins.all.share) - 1.0).abs() < 1e-4 && (sum(&bins.all.gradient) - 1.0).abs() < 1e-4);
            // Tokens without an advantage have no gradient.
            assert!((sum(&bins.positive.gradient) + sum(&bins.negative.gradient) - 1.0).abs() < 1e-4);
            let idle = plain.iter().filter(|t| t.2 == 0.0).count() as u64;
            let count = |b: &Binned| b.count.iter().sum::<u64>();
            assert_eq!(count(&bins.positive) + count(&bins.negative) + idle, found.tokens);
        }
        // Edges that both have in common: 0.5.
        let lower = |b: &Bins, n: usize| (b.all.count[..n].iter().sum::<u64>(), sum(&b.all.gradient[..n]));
        let (q, d) = (lower(&found.quartiles, 2), lower(&found.deciles, 5));
        assert!(q.0 == d.0 && (q.1 - d.1).abs() < 1e-4, "{q:?} {d:?}");
    }

    /// Proposition 4.2: sqrt(N / (N - 1)) (1 - p) <= norm <= sqrt(2) (1 - p).
    #[test]
    fn gradient_norms_obey_the_papers_bounds() {
        let (_, plain) = made(4, 0.0);
        for (p, chosen, _) in &plain {
            let norm = logit_norm(p[*chosen].ln(), p.iter().map(|p| p * p).sum());
            let gap = 1.0 - p[*chosen];
            assert!(norm >= (7.0f64 / 6.0).sqrt() * gap - 1e-9 && norm <= 2f64.sqrt() * gap + 1e-9, "{p:?} {chosen}: {norm}");
        }
        // Whatever rounding made of the sum.
        for (logprob, sum_p2) in [(0.0, 0.999_999_9), (-1e-6, 1.0), (-1e-6, 0.999_99), (-1e-6, 1.1)] {
            let (norm, gap) = (logit_norm(logprob, sum_p2), -f64::exp_m1(logprob));
            assert!(norm >= gap && norm <= 1.4143 * gap, "{logprob} {sum_p2}: {norm}");
        }
        assert!(logit_norm(-1.0, f64::NAN).is_nan(), "what is not known is not a number");
    }

    #[test]
    fn missing_values_are_nan_and_round_trip() {
        let bare = Rollout { completion: vec![1], old_logprobs: vec![-0.1], advantages: vec![0.5], ..Rollout::default() };
        let found = statistics(1, &[bare, Rollout::default()], 0.0);
        assert_eq!(found.quartiles.all.count, [0, 0, 0, 1]);
        assert!(found.quartiles.all.entropy[3].0.is_nan() && found.quartiles.all.entropy[0].0.is_nan());
        let line = serde_json::to_string(&crate::event::Event::Tokens(Box::new(found))).unwrap();
        let crate::event::Event::Tokens(back) = serde_json::from_str(&line).unwrap() else { panic!("kind changed") };
        assert_eq!((back.tokens, back.quartiles.all.advantage[3]), (1, Number(0.5)));
        assert!(statistics(1, &[], 0.0).quartiles.all.share[0].0.is_nan());
        let (rollouts, _) = made(1, 0.1);
        let line = serde_json::to_string(&statistics(1, &rollouts, 0.1)).unwrap();
        assert!(line.len() < 5000, "{} bytes a step", line.len());
    }
}
