//! Learning-rate schedules: a pure function of the step, so that no state is saved.

use crate::config::{DecayShape, Scheduler, TrainSettings};

/// Learning rate of update `step` (from 1 to `max_steps`).
///
/// Warm-up is linear and reaches the peak after `warmup_steps` updates. `cosine` and `linear` fall from there to the minimum at the last
/// update (nanoGPT `get_lr`); `wsd` stays at the peak until `decay_steps` before the end (Hu et al. 2024, MiniCPM, section 4).
pub fn learning_rate(t: &TrainSettings, step: u64) -> f64 {
    let (peak, least) = (t.learning_rate, t.min_learning_rate);
    if step <= t.warmup_steps {
        return peak * step as f64 / (t.warmup_steps.max(1)) as f64;
    }
    let progress = |start: u64| ((step - start) as f64 / (t.max_steps - start).max(1) as f64).min(1.0);
    match t.lr_scheduler {
        Scheduler::Constant => peak,
        Scheduler::Cosine => least + (peak - least) * DecayShape::Cosine.remaining(progress(t.warmup_steps)),
        Scheduler::Linear => least + (peak - least) * DecayShape::Linear.remaining(progress(t.warmup_steps)),
        Scheduler::Wsd => {
            let start = t.max_steps.saturating_sub(t.decay_steps);
            if step <= start { peak } else { least + (peak - least) * t.decay_shape.remaining(progress(start)) }
        }
    }
}

impl DecayShape {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Linear => "linear",
            Self::OneMinusSqrt => "1-sqrt",
        }
    }

    /// Remaining share of the height above the minimum at this progress of the decay (0 to 1).
    pub fn remaining(self, progress: f64) -> f64 {
        match self {
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Self::Linear => 1.0 - progress,
            Self::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lr_scheduler: Scheduler) -> TrainSettings {
        TrainSettings {
            max_steps: 1000,
            warmup_steps: 100,
            decay_steps: 200,
            learning_rate: 1e-3,
            min_learning_rate: 1e-4,
            lr_scheduler,
            ..TrainSettings::default()
        }
    }

    #[test]
    fn every_schedule_warms_up_and_reaches_its_minimum() {
        for s in [Scheduler::Constant, Scheduler::Cosine, Scheduler::Linear, Scheduler::Wsd] {
            let t = settings(s);
            assert!((learning_rate(&t, 1) - 1e-5).abs() < 1e-12, "{s:?}");
            assert!((learning_rate(&t, 100) - 1e-3).abs() < 1e-12, "{s:?}");
            let end = if s == Scheduler::Constant { 1e-3 } else { 1e-4 };
            assert!((learning_rate(&t, 1000) - end).abs() < 1e-12, "{s:?}");
            assert!((101..1000).all(|i| learning_rate(&t, i + 1) <= learning_rate(&t, i) + 1e-15), "{s:?} never rises again");
        }
    }

    #[test]
    fn wsd_is_flat_until_its_decay() {
        let t = settings(Scheduler::Wsd);
        assert_eq!(learning_rate(&t, 800), 1e-3);
        // 1 - sqrt(1/4) = half of the way down after a quarter of the decay.
        assert!((learning_rate(&t, 850) - (1e-4 + 0.5 * 9e-4)).abs() < 1e-12);
    }

    #[test]
    fn cosine_is_half_decayed_in_the_middle() {
        assert!((learning_rate(&settings(Scheduler::Cosine), 550) - (1e-4 + 0.5 * 9e-4)).abs() < 1e-12);
    }
}
