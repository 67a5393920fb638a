//! `lehr reproduce`: arms that are trained once, results that come out the same twice, curvature, refusals.

use crate::common;

use common::Place;
use lehr::papers::jobs::AttemptResult;
use lehr::papers::pma::arm::{ArmStart, PmaArm, TrainingText};
use lehr::papers::pma::checkpoints::CheckpointStore;
use lehr::papers::pma::context::PmaContext;
use lehr::papers::pma::corpora::Corpora;
use lehr::papers::pma::plan::{PmaPlan, SnapshotWindow};
use lehr::papers::pma::scale::{GRID, PmaScale};
use lehr::papers::pma::sized_model::SizedModel;
use lehr::papers::pma::trajectory::train;
use lehr::progress::silent;
use lehr::world::World;
use std::path::Path;

fn texts() -> Corpora {
    Corpora::open(None).unwrap()
}

/// A short arm with snapshots and states.
fn short(scale: &PmaScale, seed: u64) -> PmaArm {
    let base = PmaPlan { scale }.base(scale.smallest(), seed);
    PmaArm { name: "short".into(), to_step: 12, snapshot_every: 3, states: vec![6], ..base }
}

fn run(bank: &CheckpointStore, arm: &PmaArm, texts: &Corpora) -> AttemptResult {
    train(bank, arm, texts, &Default::default(), &mut silent).unwrap()
}

#[test]
fn an_interrupted_arm_is_retrained_to_the_same_bits() {
    let (scale, texts) = (PmaScale::from_name("test").unwrap(), texts());
    let arm = short(&scale, 3);
    let [whole, cut] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let checkpoints = CheckpointStore::open(whole.path(), &texts.digest).unwrap();
    assert_eq!(run(&checkpoints, &arm, &texts), AttemptResult::Done);
    // After a kill: incomplete files, no record.
    let other = CheckpointStore::open(cut.path(), &texts.digest).unwrap();
    std::fs::create_dir_all(other.folder(&arm)).unwrap();
    std::fs::write(other.folder(&arm).join("weights.f32"), [7u8; 100_001]).unwrap();
    std::fs::write(other.folder(&arm).join("state-6.f32"), [7u8; 5]).unwrap();
    assert!(!other.is_done(&arm));
    assert_eq!(run(&other, &arm, &texts), AttemptResult::Done);
    for step in [3, 6, 9, 12] {
        let [a, b] = [&checkpoints, &other].map(|b| b.weights(&arm, step).unwrap());
        assert!(a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits())), "step {step}");
    }
    assert!(checkpoints.weights(&arm, 4).is_err(), "no such snapshot");
    let [a, b] = [&checkpoints, &other].map(|b| b.record(&arm).unwrap());
    assert_eq!((a.loss.len(), a.loss, a.grad_norm), (12, b.loss, b.grad_norm));
    // A finished arm is not trained again.
    let before = std::fs::metadata(checkpoints.folder(&arm).join("weights.f32")).unwrap().modified().unwrap();
    assert_eq!(run(&checkpoints, &arm, &texts), AttemptResult::Done);
    assert_eq!(std::fs::metadata(checkpoints.folder(&arm).join("weights.f32")).unwrap().modified().unwrap(), before);
}

#[test]
fn an_arm_in_another_process_is_busy() {
    let (scale, texts) = (PmaScale::from_name("test").unwrap(), texts());
    let place = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointStore::open(place.path(), &texts.digest).unwrap();
    let arm = short(&scale, 1);
    let held = checkpoints.lock(&arm).unwrap();
    assert!(held.is_some());
    assert_eq!(run(&checkpoints, &arm, &texts), AttemptResult::Busy);
}

/// Stored moments and weights of a step continue bit for bit as without an interruption.
#[test]
fn an_unchanged_fork_equals_the_run() {
    let (scale, texts) = (PmaScale::from_name("test").unwrap(), texts());
    let place = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointStore::open(place.path(), &texts.digest).unwrap();
    let arm = short(&scale, 2);
    run(&checkpoints, &arm, &texts);
    let begin = ArmStart::From { arm: Box::new(arm.clone()), mix: vec![(6, 1.0)], moments: Some(6) };
    let fork = PmaArm { name: "fork".into(), begin, from_step: 6, states: Vec::new(), ..arm.clone() };
    run(&checkpoints, &fork, &texts);
    assert_eq!(checkpoints.weights(&arm, 12).unwrap(), checkpoints.weights(&fork, 12).unwrap());
    assert_eq!(checkpoints.record(&arm).unwrap().loss[6..], checkpoints.record(&fork).unwrap().loss);
    // Fresh moments do differ.
    let begin = ArmStart::From { arm: Box::new(arm.clone()), mix: vec![(6, 1.0)], moments: None };
    let fresh = PmaArm { name: "fresh".into(), begin, ..fork };
    run(&checkpoints, &fresh, &texts);
    assert_ne!(checkpoints.weights(&arm, 12).unwrap(), checkpoints.weights(&fresh, 12).unwrap());
}

#[test]
fn arm_keys_depend_on_settings_not_names() {
    let scale = PmaScale::from_name("test").unwrap();
    let arm = short(&scale, 1);
    let key = |a: &PmaArm| a.key("texts");
    assert_eq!(key(&arm), key(&PmaArm { name: "other".into(), ..arm.clone() }));
    assert_ne!(key(&arm), arm.key("other texts"));
    let mut others = vec![
        short(&scale, 2),
        PmaArm { text: TrainingText::Shifted, ..arm.clone() },
        PmaArm { skip: 1, ..arm.clone() },
        PmaArm { to_step: 11, ..arm.clone() },
        PmaArm { until_lost: true, ..arm.clone() },
    ];
    others
        .push(PmaArm { begin: ArmStart::From { arm: Box::new(arm.clone()), mix: vec![(6, 1.0)], moments: None }, ..arm.clone() });
    others.push(PmaArm {
        begin: ArmStart::From { arm: Box::new(arm.clone()), mix: vec![(6, 1.0)], moments: Some(6) },
        ..arm.clone()
    });
    let mut keys: Vec<String> = others.iter().chain([&arm]).map(key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 8);
}

#[test]
fn merge_windows_match_the_paper() {
    let scale = PmaScale::from_name("tiny").unwrap();
    let size = scale.smallest();
    let standard = SnapshotWindow::standard(GRID);
    assert_eq!(standard.snapshots(), (0..10).map(|i| 382 + 2 * i).collect::<Vec<_>>());
    // V0 is 0.5 % of the tokens.
    let mix = standard.mix(size).unwrap();
    assert_eq!((mix[1].0 - mix[0].0) * 200, size.steps);
    assert!(mix.iter().all(|(_, w)| *w == 0.1));
    // At 12.75 % only seven checkpoints lie 2 % apart; the initial weights are none of them.
    let early = SnapshotWindow { at: 51, every: 8, ..standard };
    assert_eq!(early.snapshots(), [3, 11, 19, 27, 35, 43, 51]);
}

/// The gradient that curvature is made from is the slope of the loss that is reported.
#[test]
fn gradients_match_finite_differences() {
    let scale = PmaScale::from_name("test").unwrap();
    let place = tempfile::tempdir().unwrap();
    let texts = texts();
    let checkpoints = CheckpointStore::open(place.path(), &texts.digest).unwrap();
    let (device, world) = (Default::default(), World::solo());
    let context = PmaContext { scale: &scale, seeds: vec![1], texts, checkpoints, device, world, notify: Box::new(|_| {}) };
    let arm = short(&scale, 1);
    context.ensure(std::slice::from_ref(&arm)).unwrap();
    let lab = SizedModel::new(&context, scale.smallest());
    let [at, before] = [12, 3].map(|step| context.checkpoints.weights(&arm, step).unwrap());
    let direction: Vec<f64> = at.iter().zip(&before).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    let slope: f64 = lab.gradient(&at, 1024).unwrap().iter().zip(&direction).map(|(g, d)| g * d).sum();
    let moved = |e: f64| {
        let weights: Vec<f32> = at.iter().zip(&direction).map(|(a, d)| (f64::from(*a) + e * d) as f32).collect();
        lab.score_weights_on(&weights, TrainingText::Base, 1024).unwrap().loss()
    };
    let measured = (moved(0.05) - moved(-0.05)) / 0.1;
    assert!((slope - measured).abs() < 2e-3 * slope.abs() && slope.abs() > 1e-3, "{slope} against {measured}");
}

fn results(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("results.json")).unwrap()
}

/// One claim end to end: from an empty folder, from stored results, and from an empty folder elsewhere.
#[test]
fn a_claim_is_reproducible() {
    let place = Place::new();
    let claim = |work: &str, out: &str| {
        let args = ["reproduce", "pma", "P11", "--scale=test", "--seeds=2", "--first-seed=7", "--work", work, "--out", out];
        let run = place.lehr(args).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        (String::from_utf8(run.stdout).unwrap(), results(&place.path(out)))
    };
    let first = claim("one", "a");
    assert!(first.0.contains("P11"), "{}", first.0);
    assert_eq!(claim("one", "b").1, first.1, "from the bank");
    assert_eq!(claim("two", "c").1, first.1, "from nothing");
    let json: serde_json::Value = serde_json::from_slice(&first.1).unwrap();
    assert_eq!(json["header"]["seeds"], serde_json::json!([7, 8]));
    assert!(["holds", "does not hold", "undecided at this scale"].contains(&json["findings"][0]["verdict"].as_str().unwrap()));
    assert!(place.path("a/p11-learning-rate.svg").is_file());
    assert!(std::fs::read_to_string(place.path("a/README.md")).unwrap().contains("## P11"));
}

#[test]
fn invalid_reproductions_are_refused() {
    let place = Place::new();
    let result = |args: &[&str]| {
        let run = place.lehr([&["reproduce", "pma"], args].concat()).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        String::from_utf8(run.stderr).unwrap()
    };
    assert!(result(&["P12"]).contains("choose some of P1, P2, P3"));
    assert!(result(&["--scale=huge"]).contains("tiny, small, gpu"));
    assert!(result(&["--seeds=0"]).contains("--seeds 0"));
    assert!(result(&["--data=nowhere.txt", "--work=w"]).contains("nowhere.txt"));
    let run = place.lehr(["reproduce", "lopti", "P1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&run.stderr).contains("choose some of L0, L1, L2"));
    let run = place.lehr(["reproduce", "lopti", "--scale=test", "--data=x.txt", "--work=w"]).output().unwrap();
    assert!(String::from_utf8_lossy(&run.stderr).contains("--data"), "lopti takes no text");
    let usage = place.lehr(["reproduce", "other"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn a_plan_trains_nothing() {
    let place = Place::new();
    for scale in ["tiny", "small", "gpu"] {
        let run = place.lehr(["reproduce", "pma", "P2", "--dry-run", "--json", "--scale", scale, "--work=w"]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(plan["arms"].as_array().unwrap().len(), 18, "three sizes and seeds, base and annealed");
        assert!(plan["flops"].as_f64().unwrap() > 1e12);
    }
    assert!(!place.path("w").exists());
}

/// The second paper: single updates in `bench`, and arms of GRPO.
#[test]
fn grpo_claims_are_reproducible() {
    let place = Place::new();
    let claims = |work: &str, out: &str| {
        let args =
            ["reproduce", "lopti", "L2", "L3", "L9", "--scale=test", "--seeds=2", "--first-seed=7", "--work", work, "--out", out];
        let run = place.lehr(args).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        (String::from_utf8(run.stdout).unwrap(), results(&place.path(out)))
    };
    let numbers = |json: &[u8]| -> Vec<serde_json::Value> {
        // Tables say how many minutes an arm took.
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        json["findings"].as_array().unwrap().iter().map(|f| f["checks"].clone()).collect()
    };
    let first = claims("one", "a");
    assert!(["L0", "L2", "L3", "L9"].iter().all(|l| first.0.contains(l)), "the regime check is always there: {}", first.0);
    assert_eq!(claims("one", "b").1, first.1, "from the work folder");
    assert_eq!(numbers(&claims("two", "c").1), numbers(&first.1), "from nothing");
    for file in ["l0-regime.svg", "l3-selective-updates.svg", "l9-masked.svg"] {
        assert!(place.path("a").join(file).is_file(), "{file}");
    }
    // Shares of tokens are shares.
    let json: serde_json::Value = serde_json::from_slice(&first.1).unwrap();
    let shares = json["findings"][0]["checks"].as_array().unwrap().iter().map(|c| c["estimate"]["mean"].as_f64().unwrap());
    assert!(shares.sum::<f64>().abs() < 1e-4, "both sum to 1, so that their differences sum to 0");
}

#[test]
fn a_grpo_plan_trains_nothing() {
    let place = Place::new();
    let plan = |args: &[&str]| {
        let run = place.lehr([&["reproduce", "lopti", "--dry-run", "--json", "--work=w"], args].concat()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        serde_json::from_slice::<serde_json::Value>(&run.stdout).unwrap()
    };
    assert_eq!(plan(&["L2", "L11"])["arms"].as_array().unwrap().len(), 3, "a fine-tuning a seed");
    assert_eq!(plan(&["L5", "--seeds=2"])["arms"].as_array().unwrap().len(), 14);
    let more = plan(&["L5", "L8", "--seeds=2"]);
    assert_eq!(more["arms"].as_array().unwrap().len(), 16, "three of four arms are those of L5");
    assert!(more["seconds"].as_f64().unwrap() > 0.0 && !place.path("w").exists());
}
