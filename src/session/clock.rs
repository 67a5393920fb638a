//! Training time, and the rate of the last updates.

use web_time::Instant;

/// Counts training time: evaluation, saving and pauses left out.
#[derive(Default)]
pub(super) struct Clock {
    /// When it was started; `None` while it stands.
    running: Option<Instant>,
    pub(super) counted: f64,
    /// (seconds of training, tokens) at the last few steps, for the rate shown. The clock stands in a pause, so that a pause is no gap.
    window: std::collections::VecDeque<(f64, u64)>,
}

impl Clock {
    pub(super) fn seconds(&self) -> f64 {
        self.counted + self.running.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// Go on, with so many tokens trained on; after a rescue they are fewer than before.
    pub(super) fn start(&mut self, tokens: u64) {
        self.running = Some(Instant::now());
        if self.window.back().is_none_or(|last| last.1 > tokens) {
            self.window = [(self.counted, tokens)].into();
        }
    }

    pub(super) fn stop(&mut self) {
        self.counted = self.seconds();
        self.running = None;
    }

    /// Tokens a second over the last steps, this one included: more than one, as those that wait when the clock stops are told all at once.
    pub(super) fn rate(&mut self, tokens: u64) -> f64 {
        const STEPS: usize = 20;
        let now = self.seconds();
        self.window.push_back((now, tokens));
        if self.window.len() > STEPS {
            self.window.pop_front();
        }
        match (self.window.front(), self.window.back()) {
            (Some((t0, n0)), Some((t1, n1))) if t1 > t0 => (n1 - n0) as f64 / (t1 - t0),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step at a time of training.
    fn step(clock: &mut Clock, seconds: f64, tokens: u64) -> f64 {
        (clock.running, clock.counted) = (None, seconds);
        clock.rate(tokens)
    }

    #[test]
    fn the_rate_is_that_of_training_whatever_comes_between() {
        let mut clock = Clock::default();
        clock.start(0);
        assert_eq!(step(&mut clock, 2.0, 200), 100.0, "the first step has one too");
        step(&mut clock, 4.0, 400);
        // An evaluation: the two steps under way are told at once.
        assert_eq!([step(&mut clock, 8.0, 600), step(&mut clock, 8.0, 800)], [75.0, 100.0]);
        clock.start(800);
        assert_eq!(step(&mut clock, 10.0, 1000), 100.0);
        // A rescue goes back.
        clock.start(200);
        assert_eq!(step(&mut clock, 11.0, 400), 200.0);
    }
}
