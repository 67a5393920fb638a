use super::*;
use crate::train::spike::{Detector, Sign};
use proptest::prelude::*;

fn settings(rescue: RescueMethod, optimizer: RescueOptimizer, data: RescueData, limit: u64) -> RescueSettings {
    let rescue_patience = 30;
    RescueSettings { rescue, rescue_optimizer: optimizer, rescue_data: data, rescue_limit: limit, rescue_patience }
}

fn plain(rescue: RescueMethod) -> RescueSettings {
    settings(rescue, RescueOptimizer::Keep, RescueData::Auto, 4)
}

fn trouble(onset: u64, at: u64) -> PersistentSpike {
    PersistentSpike { at, onset, cause: "a spike".into(), loss_before: 2.0, loss_at_spike: 5.0 }
}

/// A ladder of a calm run, saved every 100 updates, up to `step`.
fn calm_until(step: u64) -> Ladder {
    let mut ladder = Ladder::default();
    ladder.started(0);
    run_updates(&mut ladder, 0, step);
    ladder
}

fn run_updates(ladder: &mut Ladder, from: u64, to: u64) {
    for step in from + 1..=to {
        ladder.updated(step, true);
        if step % 100 == 0 {
            ladder.saved(step, true);
        }
    }
}

#[test]
fn a_checkpoint_is_good_after_a_calm_margin() {
    let mut ladder = calm_until(424);
    assert_eq!((&ladder.good[..], &ladder.young[..]), (&[100, 200, 300][..], &[400][..]));
    assert_eq!(ladder.pinned().collect::<Vec<_>>(), [100, 200, 300, 400]);
    let mut alarmed = ladder.clone();
    alarmed.updated(425, false);
    assert_eq!((&alarmed.good[..], alarmed.young.len()), (&[100, 200, 300][..], 0));
    alarmed.saved(426, false);
    assert_eq!(alarmed.young.len(), 0, "not saved while calm");
    ladder.updated(425, true);
    assert_eq!(ladder.good, [200, 300, 400]);
    ladder.saved(500, true);
    ladder.lost(500);
    assert_eq!(ladder.young.len(), 0);
}

/// Back, then further back with half the learning rate and other data, until the limit; the run continues in between.
#[test]
fn rescue_measures_escalate_in_order() {
    for (rescue, first, second, third) in
        [(RescueMethod::Rollback, &[400][..], &[300][..], &[200][..]), (RescueMethod::Pma, &[200, 300, 400], &[200, 300], &[200])]
    {
        let (s, mut ladder) = (plain(rescue), calm_until(460));
        let plan = ladder.decide(&trouble(470, 499), &s, &mut |_| true).unwrap();
        assert_eq!(plan.from_steps, first);
        assert_eq!((plan.learning_rate_scale, plan.reset), (1.0, false));
        assert_eq!(plan.skip, if rescue == RescueMethod::Rollback { 99 } else { 0 }, "{rescue:?}");
        assert_eq!(plan.note, "");
        run_updates(&mut ladder, 400, 460);
        let plan = ladder.decide(&trouble(471, 500), &s, &mut |_| true).unwrap();
        assert_eq!((&plan.from_steps[..], plan.learning_rate_scale, plan.skip), (second, 0.5, 200));
        assert!(plan.note.contains("halved"), "{}", plan.note);
        let plan = ladder.decide(&trouble(380, 420), &s, &mut |_| true).unwrap();
        assert_eq!((&plan.from_steps[..], plan.learning_rate_scale, plan.skip), (third, 0.25, 220));
        // Nothing older is kept: the oldest again.
        let plan = ladder.decide(&trouble(380, 420), &s, &mut |_| true).unwrap();
        assert_eq!((plan.to(), plan.learning_rate_scale), (200, 0.125));
        let account = ladder.decide(&trouble(390, 430), &s, &mut |_| true).unwrap_err();
        for part in ["a spike", "4 rescues", "at 499 back to 400, at 500 back to 300", "--learning-rate (it was at 0.125"] {
            assert!(account.contains(part), "{account}");
        }
        assert!(!account.contains('\n'));
    }
}

/// A run that got well past the old divergence starts at the first rung again; but never twice from the same checkpoint.
#[test]
fn a_spike_after_the_margin_is_a_new_incident() {
    let (s, mut ladder) = (plain(RescueMethod::Rollback), calm_until(460));
    ladder.decide(&trouble(470, 499), &s, &mut |_| true).unwrap();
    let mut stuck = ladder.clone();
    run_updates(&mut ladder, 400, 1100);
    let plan = ladder.decide(&trouble(1101, 1130), &s, &mut |_| true).unwrap();
    assert_eq!((plan.to(), plan.learning_rate_scale, plan.skip), (1000, 1.0, 130));
    let plan = stuck.decide(&trouble(1101, 1130), &s, &mut |_| true).unwrap();
    assert_eq!((plan.to(), plan.learning_rate_scale), (300, 0.5), "no checkpoint became good since");
    // Another divergence soon, but with new good ones: the second newest of them, not all the way back.
    let mut soon = calm_until(460);
    soon.decide(&trouble(470, 499), &s, &mut |_| true).unwrap();
    run_updates(&mut soon, 400, 760);
    let plan = soon.decide(&trouble(780, 800), &s, &mut |_| true).unwrap();
    assert_eq!((plan.to(), plan.learning_rate_scale, plan.skip), (600, 0.5, 200));
}

#[test]
fn missing_or_damaged_checkpoints_are_reported() {
    let s = plain(RescueMethod::Pma);
    let plan = calm_until(460).decide(&trouble(470, 499), &s, &mut |g| g != 300).unwrap();
    assert_eq!((&plan.from_steps[..], plan.skip), (&[200, 400][..], 0));
    assert!(plan.note.contains("only 2"), "{}", plan.note);
    // Merged with itself and replayed, the spike would be the same, so the data are skipped.
    let plan = calm_until(460).decide(&trouble(470, 499), &s, &mut |g| g == 400).unwrap();
    assert_eq!((&plan.from_steps[..], plan.skip), (&[400][..], 99));
    assert!(plan.note.contains("only one") && plan.note.contains("same spike"), "{}", plan.note);
    let account = calm_until(460).decide(&trouble(470, 499), &s, &mut |_| false).unwrap_err();
    assert!(account.contains("no good checkpoint") && account.contains("--save-every"), "{account}");
}

/// Before any checkpoint is good, the start is the fallback; it is never merged.
#[test]
fn the_start_is_the_last_resort() {
    let s = plain(RescueMethod::Pma);
    let mut ladder = Ladder::default();
    ladder.started(0);
    (1..20).for_each(|step| ladder.updated(step, step < 10));
    assert_eq!(ladder.pinned().collect::<Vec<_>>(), [0]);
    let plan = ladder.decide(&trouble(15, 19), &s, &mut |_| true).unwrap();
    assert_eq!((&plan.from_steps[..], plan.learning_rate_scale), (&[0][..], 1.0));
    let plan = ladder.decide(&trouble(15, 19), &s, &mut |_| true).unwrap();
    assert_eq!((&plan.from_steps[..], plan.learning_rate_scale), (&[0][..], 0.5));
    let plan = calm_until(240).decide(&trouble(241, 270), &s, &mut |_| true).unwrap();
    assert_eq!(plan.from_steps, [100, 200]);
}

/// A whole simulated run: the number of rescues, and whether it finished.
fn simulate(s: &RescueSettings, max_steps: u64, every: u64, mut next: impl FnMut(u64, u64) -> f64) -> (u64, bool) {
    let (mut detector, mut ladder) = (Detector::default(), Ladder::default());
    let (mut step, mut made, mut scale) = (0, 0u64, 1.0);
    let mut states = std::collections::BTreeMap::from([(0, detector.clone())]);
    ladder.started(0);
    let bound = s.rescue_limit * (max_steps / SPAN + 1);
    while step < max_steps {
        (step, made) = (step + 1, made + 1);
        assert!(made <= (bound + 1) * max_steps, "it does not end: {made} updates");
        let sign = detector.observe(step, next(step, made), 1.0, s.rescue_patience);
        ladder.updated(step, detector.is_calm());
        if let Some(Sign::PersistentSpike(trouble)) = sign {
            assert!(trouble.onset <= trouble.at && trouble.at == step, "{trouble:?}");
            let Ok(plan) = ladder.decide(&trouble, s, &mut |g| g % 7 != 3) else {
                return (ladder.past.len() as u64, false);
            };
            assert!(plan.from_steps.is_sorted() && (1..=KEEP).contains(&plan.from_steps.len()), "{plan:?}");
            assert!(
                plan.from_steps.iter().all(|from| *from < trouble.onset && states.contains_key(from)),
                "{plan:?} {trouble:?}"
            );
            assert!(plan.to() + plan.skip <= trouble.at, "{plan:?} {trouble:?}");
            assert!(plan.learning_rate_scale <= scale, "{plan:?}");
            assert!(ladder.past.len() as u64 <= bound, "{} rescues", ladder.past.len());
            let different = plan.from_steps.len() > 1 || plan.reset || plan.skip > 0 || plan.learning_rate_scale < scale;
            assert!(different, "the same updates once more: {plan:?}");
            (step, scale) = (plan.to(), plan.learning_rate_scale);
            states.retain(|kept, _| *kept <= step);
            detector.roll_back(states[&step].clone());
        } else if step % every == 0 {
            ladder.saved(step, detector.is_calm());
            states.insert(step, detector.clone());
        }
        assert!(ladder.pinned().all(|pin| states.contains_key(&pin)), "pins what is not there");
        assert!(ladder.pinned().count() <= KEEP + 1 + (MARGIN / every) as usize);
    }
    (ladder.past.len() as u64, true)
}

/// Losses of a range of updates.
#[derive(Clone, Copy, Debug)]
enum LossRegime {
    Clean,
    Spike(f64),
    Plateau(f64),
    Nan,
    NanNowAndThen(u64),
    Wild,
}

fn loss_regimes() -> impl Strategy<Value = LossRegime> {
    prop_oneof![
        4 => Just(LossRegime::Clean),
        2 => (1.5f64..10.0).prop_map(LossRegime::Spike),
        2 => (1.2f64..10.0).prop_map(LossRegime::Plateau),
        1 => Just(LossRegime::Nan),
        1 => (2u64..200).prop_map(LossRegime::NanNowAndThen),
        1 => Just(LossRegime::Wild),
    ]
}

fn loss(regime: LossRegime, made: u64, rng: crate::rng::Rng) -> f64 {
    let usual = 2.0 + 0.05 * rng.normal_pair(made, 0)[0];
    match regime {
        LossRegime::Clean => usual,
        LossRegime::Spike(factor) => usual * if made.is_multiple_of(50) { factor } else { 1.0 },
        LossRegime::Plateau(factor) => usual * factor,
        LossRegime::Nan => f64::NAN,
        LossRegime::NanNowAndThen(n) => {
            if made.is_multiple_of(n) {
                f64::INFINITY
            } else {
                usual
            }
        }
        LossRegime::Wild => f64::from(f32::from_bits(rng.words(made, 1)[0])),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// For any losses and any policy it ends, within the bound, and never returns to a checkpoint of the spike or after it.
    #[test]
    fn rescues_terminate(
        seed in any::<u64>(),
        stretches in prop::collection::vec((loss_regimes(), 1u64..700), 1..12),
        by_step in any::<bool>(),
        rescue in prop::sample::select(vec![RescueMethod::Rollback, RescueMethod::Pma]),
        optimizer in prop::sample::select(vec![RescueOptimizer::Keep, RescueOptimizer::Reset]),
        data in prop::sample::select(vec![RescueData::Auto, RescueData::Replay, RescueData::Skip]),
        limit in 1u64..6,
        every in 1u64..300,
        max_steps in 1u64..5000,
    ) {
        let rng = crate::rng::Rng::new(seed, "weather");
        let total: u64 = stretches.iter().map(|(_, n)| n).sum();
        // Trouble that sits at a place of the run and comes back each time, or that comes with time.
        let (rescues, _) = simulate(&settings(rescue, optimizer, data, limit), max_steps, every, |step, made| {
            let mut at = (if by_step { step } else { made }) % total;
            let now = stretches.iter().find(|(_, n)| { let here = at < *n; at = at.saturating_sub(*n); here });
            loss(now.map_or(LossRegime::Clean, |(w, _)| *w), made, rng)
        });
        prop_assert!(rescues <= limit * (max_steps / SPAN + 1));
    }
}

#[test]
fn hopeless_runs_stop_and_clean_runs_are_unchanged() {
    let rng = crate::rng::Rng::new(1, "weather");
    let s = plain(RescueMethod::Rollback);
    let stuck = simulate(&s, 3000, 100, |step, made| {
        loss(if step > 800 { LossRegime::Plateau(3.0) } else { LossRegime::Clean }, made, rng)
    });
    assert_eq!(stuck, (4, false));
    assert_eq!(simulate(&s, 3000, 100, |_, made| loss(LossRegime::Clean, made, rng)), (0, true));
    // Once, in the first 850 updates made: rescued and through.
    let once = simulate(&s, 3000, 100, |step, made| {
        loss(if step > 800 && made < 900 { LossRegime::Plateau(3.0) } else { LossRegime::Clean }, made, rng)
    });
    assert_eq!(once, (1, true));
}
