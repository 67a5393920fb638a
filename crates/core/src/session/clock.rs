//! Training time, and the token rate of the last updates.

use web_time::Instant;

/// Measures training time, without evaluation, saving and pauses.
#[derive(Default)]
pub(super) struct RunClock {
    /// When it was started; `None` while stopped.
    running: Option<Instant>,
    pub(super) counted: f64,
    /// (seconds of training, tokens) at the last few steps, for the displayed rate. Pauses do not count, since the clock is stopped.
    window: std::collections::VecDeque<(f64, u64)>,
}

impl RunClock {
    pub(super) fn seconds(&self) -> f64 {
        self.counted + self.running.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// Start at `tokens` training tokens; after a rescue they are fewer than before.
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

    /// Tokens per second over the last steps including this one: more than one, since pending steps are reported together at a stop.
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

    /// A step at a given training time.
    fn step(clock: &mut RunClock, seconds: f64, tokens: u64) -> f64 {
        (clock.running, clock.counted) = (None, seconds);
        clock.rate(tokens)
    }

    #[test]
    fn throughput_excludes_interruptions() {
        let mut clock = RunClock::default();
        clock.start(0);
        assert_eq!(step(&mut clock, 2.0, 200), 100.0, "the first step has one too");
        step(&mut clock, 4.0, 400);
        // At an evaluation two pending steps are reported together.
        assert_eq!([step(&mut clock, 8.0, 600), step(&mut clock, 8.0, 800)], [75.0, 100.0]);
        clock.start(800);
        assert_eq!(step(&mut clock, 10.0, 1000), 100.0);
        // A rescue rolls back.
        clock.start(200);
        assert_eq!(step(&mut clock, 11.0, 400), 200.0);
    }
}
