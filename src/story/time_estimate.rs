//! Progress of a story and remaining time: the seconds of its steps on a reference machine, scaled by the speed of this one.

use super::script::StoryStep;
use web_time::Instant;

/// Progress of a story.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoryProgress {
    /// Description of the running step.
    pub doing: Option<String>,
    /// Its completed share, from 0 to 1.
    pub share: f64,
    /// Remaining seconds of the whole story, without reading; none until this machine's speed has been measured.
    pub seconds_left: Option<f64>,
}

/// Planned and measured seconds.
#[derive(Clone, Debug, Default)]
pub struct TimeEstimate {
    planned: f64,
    taken: f64,
    begun: Option<Instant>,
    /// Seconds that the current step was paused, and the start of the current pause.
    held: f64,
    held_since: Option<Instant>,
}

/// Minimum planned seconds of completed work for an estimate of speed.
const LEAST: f64 = 0.5;

impl TimeEstimate {
    /// Start of a step.
    pub fn begins(&mut self) {
        *self = Self { planned: self.planned, taken: self.taken, begun: Some(Instant::now()), ..Self::default() };
    }

    /// The step is paused: its time does not count.
    pub fn pause(&mut self) {
        self.held_since.get_or_insert_with(Instant::now);
    }

    /// The step is resumed.
    pub fn resumes(&mut self) {
        self.held += self.held_since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
    }

    /// Running time of the step, in seconds.
    fn elapsed(&self) -> f64 {
        let held = self.held + self.held_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.begun.map_or(0.0, |begun| (begun.elapsed().as_secs_f64() - held).max(0.0))
    }

    /// The running step has ended; `planned` is its planned duration.
    pub fn finish_step(&mut self, planned: f64) {
        let elapsed = self.elapsed();
        if self.begun.take().is_some() {
            self.planned += planned;
            self.taken += elapsed;
        }
    }

    /// Current progress; `share` is the completed share of the step's updates, `later` the planned seconds of later steps.
    pub fn progress(&self, step: Option<&StoryStep>, share: Option<f64>, later: f64) -> StoryProgress {
        self.estimate(step, share, later, self.elapsed())
    }

    fn estimate(&self, step: Option<&StoryStep>, share: Option<f64>, later: f64, elapsed: f64) -> StoryProgress {
        let planned = step.map_or(0.0, |s| s.seconds);
        let (mut known, mut taken) = (self.planned, self.taken);
        if let (Some(_), Some(share)) = (step, share) {
            known += planned * share;
            taken += elapsed;
        }
        // Without reported progress it is estimated from the plan.
        let share = share.unwrap_or((elapsed / planned.max(1e-9)).min(0.9)).clamp(0.0, 1.0);
        let planned_left = planned * (1.0 - share) + later;
        let seconds_left = (known >= LEAST).then(|| taken / known * planned_left);
        StoryProgress { doing: step.map(|s| s.doing.clone()), share, seconds_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_pause_does_not_count() {
        // Started 100 s ago, with an ended pause of 60 s and a current one of 30 s.
        let ago = |seconds| Instant::now().checked_sub(std::time::Duration::from_secs(seconds));
        let (Some(begun), Some(since)) = (ago(100), ago(30)) else { return };
        let mut pace = TimeEstimate { begun: Some(begun), held: 60.0, held_since: Some(since), ..TimeEstimate::default() };
        assert!((10.0..40.0).contains(&pace.elapsed()), "{}", pace.elapsed());
        pace.pause();
        assert_eq!(pace.held_since, Some(since), "a pause has one beginning");
        pace.resumes();
        assert!(pace.held >= 90.0 && pace.held_since.is_none(), "{pace:?}");
        pace.begins();
        assert_eq!(pace.held, 0.0);
    }

    #[test]
    fn the_estimate_is_what_this_machine_has_measured() {
        let step = StoryStep { seconds: 10.0, doing: "x".into(), ..StoryStep::default() };
        let fresh = TimeEstimate::default();
        assert_eq!(fresh.estimate(Some(&step), Some(0.0), 50.0, 0.0).seconds_left, None, "nothing is measured yet");
        // A machine of half the speed.
        let slow = TimeEstimate { planned: 100.0, taken: 200.0, ..TimeEstimate::default() };
        let half = slow.estimate(Some(&step), Some(0.5), 50.0, 10.0).seconds_left.unwrap();
        assert!((half - 110.0).abs() < 1e-9, "{half}");
        // Without reported progress it is estimated from time, but never complete.
        let quiet = slow.estimate(Some(&step), None, 0.0, 100.0);
        assert!(quiet.share == 0.9 && quiet.seconds_left > Some(0.0), "{quiet:?}");
        assert_eq!(fresh.estimate(Some(&step), None, 0.0, 5.0).seconds_left, None);
        assert_eq!(slow.estimate(None, None, 5.0, 0.0).seconds_left, Some(10.0));
    }
}
