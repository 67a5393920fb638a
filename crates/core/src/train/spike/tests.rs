use super::*;
use crate::rng::Rng;
use proptest::prelude::*;

const PATIENCE: u64 = 100;

/// Losses of a run that learns: a curve that falls, noise that is normal (and, by `rho`, alike from one update to the next), and the
/// gradient norms beside it, log-normal.
struct Clean {
    rng: Rng,
    noise: f64,
    rho: f64,
    last: f64,
}

impl Clean {
    fn new(seed: u64, noise: f64, rho: f64) -> Self {
        Self { rng: Rng::new(seed, "clean"), noise, rho, last: 0.0 }
    }

    fn next(&mut self, step: u64) -> (f64, f64) {
        let [a, b] = self.rng.normal_pair(step, 0);
        self.last = self.rho * self.last + (1.0 - self.rho * self.rho).sqrt() * a;
        let falling = 1.5 + 2.5 * (-(step as f64) / 700.0).exp();
        (falling + self.noise * self.last, (0.3 * b).exp() * (0.5 + 1.0 / (1.0 + step as f64 / 50.0)))
    }
}

/// At most one false alarm in 10,000 updates, over noises from large to small batches.
#[test]
fn clean_runs_have_no_spikes() {
    let (mut alarms, mut updates) = (Vec::new(), 0);
    for (seed, noise) in [0.01, 0.03, 0.1, 0.3].into_iter().enumerate() {
        for rho in [0.0, 0.5] {
            let (mut clean, mut d) = (Clean::new(seed as u64, noise, rho), Detector::default());
            for step in 1..=10_000 {
                let (loss, norm) = clean.next(step);
                updates += 1;
                alarms.extend(d.observe(step, loss, norm, PATIENCE).map(|s| (noise, rho, step, s)));
            }
            assert_eq!(d.spikes, 0, "noise {noise}, rho {rho}: {alarms:?}");
        }
    }
    assert!(alarms.len() <= updates / 10_000, "{} in {updates}: {alarms:?}", alarms.len());
}

/// Every doubling of the loss is detected within three updates, at any position and noise.
#[test]
fn doubled_losses_are_detected_at_once() {
    for noise in [0.01, 0.1] {
        for factor in [2.0, 5.0] {
            for at in (40..4000).step_by(97) {
                let (mut clean, mut d) = (Clean::new(at, noise, 0.3), Detector::default());
                let mut seen = None;
                for step in 1..at + 3 {
                    let (loss, norm) = clean.next(step);
                    let sign = d.observe(step, if step >= at { factor * loss } else { loss }, norm, PATIENCE);
                    if let Some(Sign::Spike { onset, .. }) = sign {
                        assert!(step >= at, "alarm at {step}, before {at}");
                        seen.get_or_insert(onset);
                    }
                }
                assert!(seen.is_some_and(|onset| onset <= at + 2), "noise {noise}, x{factor} at {at}: {seen:?}");
            }
        }
    }
}

/// `spike(step)` is added to a clean run of 1,000 updates; returns the reports, with the update.
fn signs(noise: f64, spike: impl Fn(u64) -> f64) -> Vec<(u64, Sign)> {
    let (mut clean, mut d) = (Clean::new(1, noise, 0.0), Detector::default());
    let look = |step| {
        let (loss, norm) = clean.next(step);
        d.observe(step, loss + spike(step), norm, PATIENCE).map(|sign| (step, sign))
    };
    (1..=1000).filter_map(look).filter(|(_, s)| !matches!(s, Sign::Norm { .. })).collect()
}

#[test]
fn a_passing_spike_is_reported_without_rescue() {
    let signs = signs(0.05, |step| if (600..604).contains(&step) { 3.0 } else { 0.0 });
    assert!(matches!(signs[0], (600, Sign::Spike { onset: 600, .. })), "{signs:?}");
    assert!(matches!(signs[1], (611, Sign::Passed { onset: 600, lasted: 4, peak }) if peak > 4.0), "{signs:?}");
    assert_eq!(signs.len(), 2, "{signs:?}");
}

#[test]
fn a_persistent_spike_triggers_one_rescue() {
    let signs = signs(0.05, |step| if step >= 600 { 3.0 } else { 0.0 });
    assert_eq!(signs.len(), 2, "{signs:?}");
    let (at, Sign::PersistentSpike(trouble)) = &signs[1] else { panic!("{signs:?}") };
    assert_eq!((*at, trouble.at, trouble.onset), (599 + PATIENCE, 599 + PATIENCE, 600));
    assert!((trouble.loss_before - 2.7).abs() < 0.4 && trouble.loss_at_spike > 5.0, "{trouble:?}");
    assert!(trouble.cause.contains("step 600"), "{}", trouble.cause);
}

/// A rise of 1 nat is hidden in single losses with a noise of 0.3, but not in the median of 16.
#[test]
fn a_rise_within_the_noise_is_detected() {
    let signs = signs(0.3, |step| if step >= 600 { 1.1 } else { 0.0 });
    assert!(matches!(signs[0], (600..616, Sign::Spike { onset: 580..=600, .. })), "{signs:?}");
    assert!(matches!(signs[1].1, Sign::PersistentSpike(_)), "{signs:?}");
}

/// A slowly rising loss shifts the window's median; the lowest median stays.
#[test]
fn a_slow_rise_is_detected() {
    let signs = signs(0.02, |step| step.saturating_sub(400) as f64 * 0.005);
    assert!(matches!(signs[0], (401..800, Sign::Spike { .. })), "{signs:?}");
    assert!(matches!(signs[1].1, Sign::PersistentSpike(_)), "{signs:?}");
}

#[test]
fn persistent_nan_triggers_a_rescue_and_single_nan_is_ignored() {
    let mut d = Detector::default();
    let mut clean = Clean::new(2, 0.05, 0.0);
    for step in 1..=300 {
        let (loss, norm) = clean.next(step);
        assert_eq!(d.observe(step, loss, norm, PATIENCE), None, "{step}");
    }
    let before = d.clone();
    for step in 301..=304 {
        assert_eq!(d.observe(step, f64::NAN, f64::INFINITY, PATIENCE), None);
        assert!(!d.is_calm());
    }
    assert_eq!((&d.losses, &d.norms, &d.level), (&before.losses, &before.norms, &before.level), "nothing was taken in");
    let Some(Sign::PersistentSpike(trouble)) = d.observe(305, f64::INFINITY, 1.0, PATIENCE) else { panic!("five in a row") };
    assert_eq!((trouble.at, trouble.onset), (305, 301));
    assert!(trouble.loss_at_spike.is_nan() && (trouble.loss_before - 3.2).abs() < 0.6, "{trouble:?}");
    for step in 306..400 {
        assert_eq!(d.observe(step, f64::NAN, f64::NAN, PATIENCE), None, "reported once");
    }
    // And it still detects.
    let (loss, norm) = clean.next(301);
    assert_eq!(d.observe(400, loss, norm, PATIENCE), None);
    assert!(d.is_calm());
    assert!(matches!(d.observe(401, 3.0 * loss, norm, PATIENCE), Some(Sign::Spike { onset: 401, .. })));
}

#[test]
fn more_than_one_percent_skipped_updates_triggers_a_rescue() {
    let run = |every: u64| {
        let mut d = Detector::default();
        let mut clean = Clean::new(3, 0.05, 0.0);
        (1..=3000).find_map(|step| {
            let (loss, norm) = clean.next(step);
            d.observe(step, if step % every == 0 { f64::NAN } else { loss }, norm, PATIENCE)
        })
    };
    assert_eq!(run(100), None, "one in a hundred");
    let Some(Sign::PersistentSpike(trouble)) = run(80) else { panic!("one in eighty") };
    assert_eq!((trouble.at, trouble.onset), (880, 80));
}

#[test]
fn a_gradient_norm_spike_is_reported_once_without_rescue() {
    let mut d = Detector::default();
    let mut clean = Clean::new(4, 0.05, 0.0);
    let signs: Vec<_> = (1..=600)
        .filter_map(|step| {
            let (loss, norm) = clean.next(step);
            d.observe(step, loss, if (300..310).contains(&step) { 40.0 } else { norm }, PATIENCE).map(|s| (step, s))
        })
        .collect();
    assert!(matches!(signs[..], [(300, Sign::Norm { grad_norm: 40.0, .. })]), "{signs:?}");
    assert_eq!(d.spikes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// For any input the windows hold finite numbers, and a restored state continues like the original.
    #[test]
    fn detector_state_round_trips(
        losses in prop::collection::vec(prop_oneof![8 => 0.1f64..6.0, 1 => Just(f64::NAN), 1 => prop::num::f64::ANY], 1..500),
        cut in 0usize..500,
    ) {
        let (mut whole, mut cut_off) = (Detector::default(), Detector::default());
        for (i, loss) in losses.iter().enumerate() {
            if i == cut.min(losses.len() - 1) {
                cut_off = serde_json::from_str(&serde_json::to_string_pretty(&cut_off).unwrap()).unwrap();
            }
            let norm = (loss * 1.37).abs();
            prop_assert_eq!(
                format!("{:?}", whole.observe(i as u64 + 1, *loss, norm, 20)),
                format!("{:?}", cut_off.observe(i as u64 + 1, *loss, norm, 20))
            );
            prop_assert!(whole.losses.0.len() <= WINDOW && whole.losses.0.iter().all(|x| x.is_finite()));
            prop_assert!(whole.norms.0.iter().all(|x| x.is_finite()));
        }
        prop_assert_eq!(whole, cut_off);
    }
}
