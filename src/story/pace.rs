//! How far a story is, and how long it will take: the seconds that steps took on a reference machine, scaled by how fast this one is.

use super::script::Step;
use web_time::Instant;

/// How far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What runs, in words.
    pub doing: Option<String>,
    /// How far that is, from 0 to 1.
    pub share: f64,
    /// Seconds left of the whole story, reading not counted, as far as can be told.
    pub seconds_left: f64,
}

/// Seconds that were planned and that were taken.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    planned: f64,
    taken: f64,
    begun: Option<Instant>,
}

/// The estimate trusts the plan for about so many seconds before it trusts this machine.
const TRUST: f64 = 3.0;

impl Pace {
    /// A step begins.
    pub fn begins(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// The step that ran has ended; it was planned to take so long.
    pub fn passed(&mut self, planned: f64) {
        if let Some(begun) = self.begun.take() {
            self.planned += planned;
            self.taken += begun.elapsed().as_secs_f64();
        }
    }

    /// How far; `share` of the step's updates are made, and `later` seconds are planned for those after it.
    pub fn progress(&self, step: Option<&Step>, share: Option<f64>, later: f64) -> Progress {
        let elapsed = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        self.estimate(step, share, later, elapsed)
    }

    fn estimate(&self, step: Option<&Step>, share: Option<f64>, later: f64, elapsed: f64) -> Progress {
        let planned = step.map_or(0.0, |s| s.seconds);
        let share = share.unwrap_or((elapsed / planned.max(1e-9)).min(0.9)).clamp(0.0, 1.0);
        let (mut known, mut taken) = (self.planned, self.taken);
        if step.is_some() {
            known += planned * share;
            taken += elapsed;
        }
        let scale = (TRUST + taken) / (TRUST + known);
        let seconds_left = scale * (planned * (1.0 - share) * f64::from(u8::from(step.is_some())) + later);
        Progress { doing: step.map(|s| s.doing.clone()), share, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_goes_from_the_plan_to_this_machine() {
        let step = Step { seconds: 10.0, doing: "x".into(), ..Step::default() };
        let fresh = Pace::default();
        assert_eq!(fresh.estimate(Some(&step), Some(0.0), 50.0, 0.0).seconds_left, 60.0);
        // A machine that is twice as slow.
        let slow = Pace { planned: 100.0, taken: 200.0, begun: None };
        let half = slow.estimate(Some(&step), Some(0.5), 50.0, 10.0);
        assert!((half.seconds_left - 110.0).abs() < 5.0, "{half:?}");
        // Of a command that does not tell, time tells, but never all.
        let quiet = fresh.estimate(Some(&step), None, 0.0, 100.0);
        assert!(quiet.share == 0.9 && quiet.seconds_left > 0.0, "{quiet:?}");
        assert_eq!(fresh.estimate(None, None, 5.0, 0.0).seconds_left, 5.0);
    }
}
