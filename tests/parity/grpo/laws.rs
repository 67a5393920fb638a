//! Laws of a step: Lopti's parts add up, what is off changes no bit, packing does not matter, clips begin open; and refusals.

use crate::grpo::{Replay, refused, worst};
use lehr::rng::Rng;
use serde_json::{Value, json};

const MODEL: &str = "qwen3";
const VOCAB: u64 = 53;

/// Three groups of three with random tokens.
fn rows() -> Vec<Value> {
    let rng = Rng::new(5, "rows");
    let token = |row: u64, i: u64| rng.below(row, i, VOCAB);
    let length = |row: u64| 1 + rng.below(row, 1000, 9);
    (0..9u64)
        .map(|row| {
            let prompt: Vec<u64> = (0..1 + row / 3).map(|i| token(100 + row / 3, i)).collect();
            let completion: Vec<u64> = (0..length(row)).map(|i| token(row, i)).collect();
            let reward = [1.0, 0.0, 0.25][row as usize % 3];
            json!({ "group": row / 3, "prompt": prompt, "completion": completion, "reward": reward })
        })
        .collect()
}

/// A median probability, so that both parts hold tokens.
fn eta() -> String {
    let replay = Replay::of(MODEL, &rows(), &["--learning-rate=0"]);
    let mut p: Vec<f64> = replay
        .rows
        .iter()
        .flat_map(|r| r["old_logprobs"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap().exp()))
        .collect();
    p.sort_by(f64::total_cmp);
    format!("--lopti-eta={}", (p[p.len() / 2 - 1] + p[p.len() / 2]) / 2.0)
}

fn assert_same(a: &Replay, b: &Replay, pass: (&str, &str)) {
    let (a_grads, b_grads) = (a.gradient(pass.0), b.gradient(pass.1));
    assert!(!a_grads.is_empty() && a_grads == b_grads, "gradients differ");
    assert!(a.after == b.after, "weights differ");
}

#[test]
fn the_parts_of_lopti_add_up_to_the_full_gradient() {
    let eta = eta();
    // At rate 0 both parts see the same parameters.
    for more in [&[][..], &["--beta=0.1", "--entropy-coef=0.1"], &["--loss-type=seq-mean-token-mean"], &["--temperature=0.6"]] {
        let mut rows = rows();
        if !more.is_empty() {
            // A policy nearby, so that ratios, clips and KL are not those of the first update.
            let scored = Replay::of(MODEL, &rows, &["--learning-rate=0", more[more.len() - 1]]);
            for (row, scored) in rows.iter_mut().zip(&scored.rows) {
                let near = |by: f64| -> Vec<f64> {
                    let old = scored["old_logprobs"].as_array().unwrap();
                    old.iter().enumerate().map(|(i, l)| (l.as_f64().unwrap() + by * (i as f64 * 1.7).sin()).min(-1e-3)).collect()
                };
                (row["old_logprobs"], row["ref_logprobs"]) = (json!(near(0.4)), json!(near(-0.8)));
            }
        }
        let with = |flags: &[&str]| Replay::of(MODEL, &rows, &[&["--learning-rate=0"], more, flags].concat());
        let (whole, parts) = (with(&[]), with(&[&eta]));
        assert_eq!((whole.passes(), parts.passes()), (vec!["all"], vec!["low", "high"]));
        assert_eq!(parts.first(0, "tokens") + parts.first(1, "tokens"), whole.first(0, "tokens"));
        for name in ["loss", "policy_loss"] {
            let sum = parts.first(0, name) + parts.first(1, name);
            assert!((sum - whole.first(0, name)).abs() < 1e-5, "{more:?}: {name}: {sum}, not {}", whole.first(0, name));
        }
        let (low, high, all) = (parts.gradient("low"), parts.gradient("high"), whole.gradient("all"));
        for (name, want) in &all {
            let sum: Vec<f64> = low[name].iter().zip(&high[name]).map(|(a, b)| a + b).collect();
            let error = worst(&sum, want);
            assert!(error < 2e-5, "{more:?}: {name}: off by {error:e}");
        }
        assert!(worst(&low["model.norm.weight"], &all["model.norm.weight"]) > 1e-2, "the parts differ from the whole");
    }
}

#[test]
fn disabled_options_change_no_bit() {
    let rows = rows();
    let plain = Replay::of(MODEL, &rows, &[]);
    assert_same(&plain, &Replay::of(MODEL, &rows, &[]), ("all", "all"));
    assert_same(&plain, &Replay::of(MODEL, &rows, &["--reweight-alpha=0", "--lopti-eta=0", "--beta=0"]), ("all", "all"));
    // No token is that improbable: the low part is empty and left out.
    let empty = Replay::of(MODEL, &rows, &["--lopti-eta=1e-30"]);
    assert_eq!(empty.passes(), ["high"]);
    assert_same(&plain, &empty, ("all", "high"));
    assert_same(&plain, &Replay::of(MODEL, &rows, &["--mask-bins=1,2,3,4"]), ("all", "all"));
    let reweighted = Replay::of(MODEL, &rows, &["--reweight-alpha=0.3"]);
    assert!(reweighted.after != plain.after && reweighted.gradient("all") != plain.gradient("all"));
}

#[test]
fn the_loss_does_not_depend_on_packing() {
    let rows = rows();
    let whole = Replay::of(MODEL, &rows, &["--micro-batch-size=9"]);
    for flags in [
        ["--seq-len=33", "--micro-batch-size=2"],
        ["--seq-len=64", "--micro-batch-size=1"],
        ["--seq-len=12", "--micro-batch-size=5"],
    ] {
        let other = Replay::of(MODEL, &rows, &flags);
        for (name, want) in whole.gradient("all") {
            let error = worst(&other.gradient("all")[&name], &want);
            assert!(error < 2e-5, "{flags:?}: {name}: off by {error:e}");
        }
        assert!((other.first(0, "loss") - whole.first(0, "loss")).abs() < 1e-6);
    }
}

/// Before the first update every ratio is exactly 1, whatever the mini-batches: they are scored as they are updated.
#[test]
fn ratios_start_at_one() {
    for flags in [&["--temperature=0.7"][..], &["--mini-batch-size=4", "--micro-batch-size=2", "--beta=0.5"]] {
        let replay = Replay::of(MODEL, &rows(), flags);
        for name in ["approx_kl", "ratio_deviation", "kl", "clip_low", "clip_high"] {
            assert_eq!(replay.first(0, name), 0.0, "{flags:?}: {name}");
        }
        assert!(replay.first(0, "grad_norm") > 1e-3);
    }
}

#[test]
fn equal_rewards_have_zero_gradient() {
    let mut rows = rows();
    rows.iter_mut().for_each(|row| row["reward"] = json!(0.1));
    let replay = Replay::of(MODEL, &rows, &["--optimizer=sgd", "--learning-rate=1"]);
    assert!(replay.grads.values().flatten().all(|g| *g == 0.0));
    assert_eq!(replay.first(0, "loss"), 0.0);
}

#[test]
fn masked_completions_have_zero_weight() {
    let mut rows = rows();
    let mask = "--mask-truncated-completions";
    rows[0]["truncated"] = json!(true);
    rows[4]["truncated"] = json!(true);
    let masked = Replay::of(MODEL, &rows, &[mask]);
    let whole = Replay::of(MODEL, &rows, &[]);
    assert!(masked.first(0, "tokens") < whole.first(0, "tokens"));
    // The same as rows whose advantages are known, without the masked ones.
    let kept: Vec<Value> = [1, 2, 3, 5, 6, 7, 8]
        .map(|i| {
            let mut row = rows[i].clone();
            row["advantages"] = masked.rows[i]["advantages"].clone();
            row
        })
        .to_vec();
    let alone = Replay::of(MODEL, &kept, &[]);
    for (name, want) in alone.gradient("all") {
        let error = worst(&masked.gradient("all")[&name], &want);
        assert!(error < 2e-5, "{name}: off by {error:e}");
    }
    rows.iter_mut().for_each(|row| row["truncated"] = json!(true));
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    assert!(refused(&lines, &[mask]).contains("no token is left to update"));
}

/// A control of Lopti: a random split into parts of the same sizes.
#[test]
fn random_split_has_the_same_sizes() {
    let (rows, eta) = (rows(), eta());
    let by = |more: &[&str]| Replay::of(MODEL, &rows, &[&["--learning-rate=0", &eta][..], more].concat());
    let (split, lot, other) = (by(&[]), by(&["--lopti-split=random"]), by(&["--lopti-split=random", "--seed=2"]));
    for pass in 0..2 {
        assert_eq!(split.first(pass, "tokens"), lot.first(pass, "tokens"));
    }
    assert!(split.gradient("low") != lot.gradient("low") && lot.gradient("low") != other.gradient("low"));
}

/// What moved agrees with the rows: counts, and the share that moved the right way.
#[test]
fn the_report_matches_the_rows() {
    let replay = Replay::of(MODEL, &rows(), &["--learning-rate=1e-2"]);
    let (mut counts, mut right) = ([0u64; 4], [[0u64; 2]; 4]);
    for row in &replay.rows {
        let list = |name: &str| row[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        for ((old, new), a) in list("old_logprobs").iter().zip(list("new_logprobs")).zip(list("advantages")) {
            let b = ((old.exp() * 4.0) as usize).min(3);
            counts[b] += 1;
            if a != 0.0 && new != *old {
                right[b][usize::from((new > *old) == (a > 0.0))] += 1;
            }
        }
    }
    let all = &replay.report["tokens"]["probe"]["all"];
    assert_eq!(all["count"], json!(counts));
    for (b, [no, yes]) in right.iter().enumerate().filter(|(_, n)| n[0] + n[1] > 0) {
        let share = *yes as f64 / (no + yes) as f64;
        assert!((all["right"][b].as_f64().unwrap() - share).abs() < 1e-4, "bin {b}: {}", all["right"][b]);
    }
    assert!(right.iter().map(|n| n[1]).sum::<u64>() > right.iter().map(|n| n[0]).sum::<u64>(), "an update helps: {right:?}");
}

#[test]
fn bad_rows_and_flags_are_refused_in_one_line() {
    let good = r#"{"group":0,"prompt":[1],"completion":[2,3],"reward":1}"#;
    for (rows, flags, says) in [
        ("", &[][..], "rows.jsonl: holds no row"),
        (
            &format!("{good}\n\n{{\"group\":0,\"prompt\":[1],\"completion\":[99],\"reward\":1}}"),
            &[],
            "rows.jsonl:3: \"completion\": token 99",
        ),
        (&format!("{good}\nnot json"), &[], "rows.jsonl:2: is not JSON"),
        (&format!("{good}\n{{\"prompt\":[1],\"completion\":[2],\"advantages\":[1]}}"), &[], "1 of 2 rows have \"advantages\""),
        (good, &["--max-steps=3"], "--max-steps: is for runs"),
        (good, &["--seq-len=2"], "--seq-len 2: the longest prompt with its completion has 3"),
        (good, &["--mask-bins=4", "--temperature=30"], "no token is left to update"),
        (good, &["--mask-bins=5"], "--mask-bins 5"),
        (good, &["--grads=nowhere/g.safetensors"], "nowhere/g.safetensors: there is no such folder"),
        (good, &["--out=nowhere/m"], "--out nowhere/m"),
        (good, &["--ref-model=nowhere", "--beta=1"], "nowhere"),
        (good, &["--algorithm=ppo"], "invalid value 'ppo'"),
    ] {
        let error = refused(rows, flags);
        assert!(error.contains(says), "{flags:?}: {error}, not {says}");
    }
}

/// The mean change of probability by quartile and group, from the log-probabilities of the written rows.
#[test]
fn changes_of_probability_are_reported_by_quartile_and_group() {
    let replay = Replay::of(MODEL, &rows(), &["--optimizer=sgd", "--learning-rate=1", "--temperature=0.3"]);
    let list = |row: &Value, name: &str| -> Vec<f64> {
        row[name].as_array().unwrap().iter().map(|l| l.as_f64().unwrap().exp()).collect()
    };
    let mut by_bin = [const { Vec::new() }; 4];
    for row in &replay.rows {
        let group = row["group"].as_u64().unwrap();
        for (before, after) in list(row, "old_logprobs").into_iter().zip(list(row, "new_logprobs")) {
            by_bin[((4.0 * before) as usize).min(3)].push((group, (after - before).abs()));
        }
    }
    let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let close = |got: &Value, want: Option<f64>| match (got.as_f64(), want) {
        (Some(got), Some(want)) => assert!((got - want).abs() < 1e-6, "{got}, not {want}"),
        (got, want) => assert_eq!(got, want),
    };
    assert!(by_bin[0].len() > 20 && by_bin.iter().any(Vec::is_empty), "improbable tokens, and a quartile without tokens");
    for (b, tokens) in by_bin.iter().enumerate() {
        let all: Vec<f64> = tokens.iter().map(|(_, by)| *by).collect();
        close(&replay.report["moved"][b], mean(&all));
        assert_eq!(replay.report["moved_by_group"][b].as_array().unwrap().len(), 3);
        for group in 0..3 {
            let own: Vec<f64> = tokens.iter().filter(|(of, _)| *of == group).map(|(_, by)| *by).collect();
            close(&replay.report["moved_by_group"][b][group as usize], mean(&own));
        }
    }
}
