//! Training time, and the rate of the last updates.

use web_time::Instant;

/// Counts training time: evaluation, saving and pauses left out.
#[derive(Default)]
pub(super) struct Clock {
    /// When it was started; `None` while it stands.
    running: Option<Instant>,
    pub(super) counted: f64,
    /// (seconds, tokens) at the last few steps, for the rate shown.
    window: std::collections::VecDeque<(f64, u64)>,
}

impl Clock {
    pub(super) fn seconds(&self) -> f64 {
        self.counted + self.running.map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    pub(super) fn start(&mut self) {
        self.running = Some(Instant::now());
        self.window.clear();
    }

    pub(super) fn stop(&mut self) {
        self.counted = self.seconds();
        self.running = None;
    }

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
