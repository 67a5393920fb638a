//! Execution of training jobs: in order, shared between processes, interruptible, with an estimate of the time left.

use crate::progress::{Interrupted, Progress};
use crate::session::control::Control;
use std::time::Duration;
use web_time::Instant;

/// Fail if a signal has arrived.
///
/// # Errors
/// [`Interrupted`].
pub fn check() -> anyhow::Result<()> {
    if Control::interrupted() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Result of an attempt at a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The result is on disk.
    Done,
    /// Another process holds the job.
    Busy,
}

/// A training job.
pub trait Job: PartialEq {
    /// Display name.
    fn name(&self) -> &str;

    /// The job that must be done first.
    fn parent(&self) -> Option<&Self>;

    /// Its cost, in any unit.
    fn cost(&self) -> f64;
}

/// Executes jobs.
pub trait Worker<J> {
    /// Whether the result is on disk.
    fn is_done(&self, job: &J) -> bool;

    /// Do the job, unless another process holds it.
    ///
    /// # Errors
    /// A device or disk error, or [`Interrupted`]; the job is then restarted from the beginning.
    fn attempt(&self, job: &J, progress: &mut Progress<'_>) -> anyhow::Result<Ended>;
}

/// Complete all these jobs, and first those that they depend on. Waits for jobs held by other processes, so that several processes with one
/// work folder share the work.
///
/// # Errors
/// Errors of the worker, or [`Interrupted`].
pub fn run_jobs<J: Job>(jobs: &[J], worker: &impl Worker<J>, notify: &dyn Fn(&str)) -> anyhow::Result<()> {
    let mut open: Vec<&J> = Vec::new();
    for job in jobs {
        collect(job, &mut open);
    }
    open.retain(|job| !worker.is_done(job));
    let mut left: f64 = open.iter().map(|j| j.cost()).sum();
    let mut rate = Rate::default();
    while !open.is_empty() {
        let before = open.len();
        let mut still = Vec::new();
        for job in open {
            if worker.is_done(job) {
                left -= job.cost();
            } else if job.parent().is_some_and(|p| !worker.is_done(p)) || !attempt(job, worker, &mut left, &mut rate, notify)? {
                still.push(job);
            }
        }
        open = still;
        if open.len() == before {
            // All remaining jobs are held by other processes.
            check()?;
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// Do one job; false while another process holds it.
fn attempt<J: Job>(
    job: &J,
    worker: &impl Worker<J>,
    left: &mut f64,
    rate: &mut Rate,
    notify: &dyn Fn(&str),
) -> anyhow::Result<bool> {
    let cost = job.cost();
    let begin = Instant::now();
    let mut last = Instant::now();
    let ended = worker.attempt(job, &mut |_, done, all| {
        let part = done as f64 / all.max(1) as f64;
        if last.elapsed().as_secs() >= 10 {
            last = Instant::now();
            let eta = rate.seconds(*left - part * cost, part * cost, begin.elapsed().as_secs_f64());
            notify(&format!("{}: {:.0} %, about {} left for all arms", job.name(), 100.0 * part, minutes(eta)));
        }
        Ok(true)
    })?;
    match ended {
        Ended::Busy => Ok(false),
        Ended::Done => {
            let seconds = begin.elapsed().as_secs_f64();
            rate.add(cost, seconds);
            *left -= cost;
            notify(&format!("{}: done in {seconds:.0} s", job.name()));
            Ok(true)
        }
    }
}

/// A job after its dependencies, each once.
fn collect<'a, J: Job>(job: &'a J, out: &mut Vec<&'a J>) {
    if let Some(parent) = job.parent() {
        collect(parent, out);
    }
    if !out.contains(&job) {
        out.push(job);
    }
}

/// Completed work and the time it took.
#[derive(Default)]
struct Rate {
    cost: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, cost: f64, seconds: f64) {
        self.cost += cost;
        self.seconds += seconds;
    }

    /// Estimated seconds for `cost`, from completed work and the current job.
    fn seconds(&self, cost: f64, pending_step: f64, seconds: f64) -> f64 {
        cost * (self.seconds + seconds) / (self.cost + pending_step).max(f64::MIN_POSITIVE)
    }
}

/// A duration for display.
pub fn minutes(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Clone, Debug, PartialEq)]
    struct Step(&'static str, Option<Box<Step>>);

    impl Job for Step {
        fn name(&self) -> &str {
            self.0
        }
        fn parent(&self) -> Option<&Self> {
            self.1.as_deref()
        }
        fn cost(&self) -> f64 {
            1.0
        }
    }

    /// Another process holds the first job at the first attempt.
    struct Shared(RefCell<Vec<&'static str>>, RefCell<bool>);

    impl Worker<Step> for Shared {
        fn is_done(&self, job: &Step) -> bool {
            self.0.borrow().contains(&job.0)
        }
        fn attempt(&self, job: &Step, progress: &mut Progress<'_>) -> anyhow::Result<Ended> {
            if job.0 == "base" && !self.1.replace(true) {
                return Ok(Ended::Busy);
            }
            progress("training", 1, 2)?;
            self.0.borrow_mut().push(job.0);
            Ok(Ended::Done)
        }
    }

    #[test]
    fn parents_run_first_and_each_job_once() {
        let base = Step("base", None);
        let child = |name| Step(name, Some(Box::new(base.clone())));
        let worker = Shared(RefCell::default(), RefCell::default());
        run_jobs(&[child("a"), child("b"), Step("free", None), base.clone()], &worker, &|_| {}).unwrap();
        assert_eq!(*worker.0.borrow(), ["free", "base", "a", "b"]);
    }

    #[test]
    fn remaining_time_follows_the_measured_rate() {
        let mut rate = Rate::default();
        rate.add(10.0, 20.0);
        assert!((rate.seconds(5.0, 0.0, 0.0) - 10.0).abs() < 1e-12);
        assert!((rate.seconds(5.0, 10.0, 20.0) - 10.0).abs() < 1e-12);
        assert_eq!([minutes(89.0), minutes(120.0)], ["89 s", "2 min"]);
    }
}
