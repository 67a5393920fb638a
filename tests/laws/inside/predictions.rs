//! Held-out tokens by probability against a plain softmax in f64 of the model's logits, and that looking changes no loss.

use crate::inside::{FAMILIES, TIME, VOCAB, dataset, shape, trainer};
use lehr::config::ModelConfig;
use lehr::data::IGNORE;
use lehr::event::{Number, Predicted, Predictions};
use lehr::progress::silent;
use lehr::train::predictions::PredictionStats;
use lehr::train::{Scorer, Trainer};

/// Probability, loss and |d loss / d logits| of each of the first `most` held-out tokens.
fn plain(p: &Trainer, most: usize) -> Vec<[f64; 3]> {
    let scorer = Scorer::new(&p.device, &p.model, 2, TIME).unwrap();
    let mut all = Vec::new();
    for batch in dataset().val.unwrap().val_batches(2, TIME, u64::MAX) {
        scorer.score(&p.device, &batch).unwrap();
        let [rows, stride] = scorer.acts.logits.matrix();
        assert_eq!(rows, 2 * TIME, "one chunk");
        let logits: Vec<f32> = p.device.read(&scorer.acts.logits).unwrap();
        for (row, target) in logits.chunks(stride).zip(&batch.targets).filter(|(_, target)| **target != IGNORE) {
            let e: Vec<f64> = row[..VOCAB].iter().map(|l| f64::from(*l).exp()).collect();
            let sum: f64 = e.iter().sum();
            let error = |(v, e): (usize, &f64)| (e / sum - f64::from(u8::from(v == *target as usize))).powi(2);
            let norm = e.iter().enumerate().map(error).sum::<f64>().sqrt();
            let probability = e[*target as usize] / sum;
            all.push([probability, -probability.ln(), norm]);
        }
    }
    all.truncate(most);
    all
}

fn assert_bins(found: &Predicted, tokens: &[[f64; 3]]) {
    let bins = found.from.len();
    let mut want = vec![[0.0f64; 3]; bins];
    for [p, loss, norm] in tokens {
        let at = p * bins as f64;
        let edge = at.round() as usize;
        let inner = 0 < edge && edge < bins;
        assert!(!inner || (at - at.round()).abs() > 1e-5, "{p} lies too near to an edge for a test");
        let bin = &mut want[(at as usize).min(bins - 1)];
        (bin[0], bin[1], bin[2]) = (bin[0] + 1.0, bin[1] + loss, bin[2] + norm);
    }
    let whole = [0, 1, 2].map(|k| want.iter().map(|bin| bin[k]).sum::<f64>());
    for (i, bin) in want.iter().enumerate() {
        assert!((found.from[i] - i as f64 / bins as f64).abs() < 1e-12);
        assert_eq!(found.count[i], bin[0] as u64);
        for (k, list) in [&found.share, &found.loss, &found.gradient].into_iter().enumerate() {
            let share = bin[k] / whole[k];
            assert!((list[i].0 - share).abs() < 2e-5, "list {k}, bin {i}: {}, not {share}", list[i].0);
        }
    }
    for list in [&found.share, &found.loss, &found.gradient] {
        assert!((list.iter().map(|v| v.0).sum::<f64>() - 1.0).abs() < 1e-5, "{list:?}");
    }
}

fn look(p: &Trainer, most: usize) -> Predictions {
    let plain = p.evaluate(0, &mut silent).unwrap().unwrap();
    let mut seen = PredictionStats { most, ..PredictionStats::default() };
    let found = p.evaluate_with_predictions(0, &mut seen, &mut silent).unwrap().unwrap();
    let bits = |e: lehr::train::Evaluation| (e.loss.to_bits(), e.mean_token_accuracy.to_bits(), e.tokens);
    assert_eq!(bits(found), bits(plain), "looking changes no bit");
    seen.predictions(9)
}

#[test]
fn predictions_match_the_logits() {
    for family in FAMILIES {
        // Wide enough that the probabilities of some tokens are near 1 and of some near 0.
        let mut p = trainer(&ModelConfig { initializer_range: 0.6, ..shape(family) }, 0);
        for steps in [0, 30] {
            for _ in 0..steps {
                p.step().unwrap();
            }
            p.flush().unwrap();
            for most in [4096, 50] {
                let (found, want) = (look(&p, most), plain(&p, most));
                assert_eq!((found.step, found.tokens as usize), (9, want.len()));
                assert_bins(&found.quartiles, &want);
                assert_bins(&found.deciles, &want);
            }
        }
    }
}

#[test]
fn a_uniform_model_has_one_bin() {
    let p = trainer(&ModelConfig { initializer_range: 0.0, ..shape(FAMILIES[0]) }, 0);
    let found = look(&p, 4096);
    for bins in [&found.quartiles, &found.deciles] {
        assert_eq!(bins.count[0], found.tokens);
        for list in [&bins.share, &bins.loss, &bins.gradient] {
            assert_eq!(list[0], Number(1.0));
            assert!(list[1..].iter().all(|v| v.0 == 0.0), "{list:?}");
        }
    }
}
