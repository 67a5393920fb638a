//! Execution of training jobs: in order, shared between processes, interruptible, with an estimate of the time left.

use crate::progress::{Interrupted, Progress};
use crate::session::control::Control;
use crate::world::World;
use anyhow::Context as _;
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
pub enum AttemptResult {
    /// The result is on disk.
    Done,
    /// Another process holds the job.
    Busy,
}

/// A training job.
pub trait TrainingJob: PartialEq {
    /// Display name.
    fn name(&self) -> &str;

    /// The job that must be done first.
    fn parent(&self) -> Option<&Self>;

    /// Its cost, in any unit.
    fn cost(&self) -> f64;
}

/// Executes jobs.
pub trait JobRunner<J> {
    /// Whether the result is on disk.
    fn is_done(&self, job: &J) -> bool;

    /// Do the job, unless another process holds it.
    ///
    /// # Errors
    /// A device or disk error, or [`Interrupted`]; the job is then restarted from the beginning.
    fn attempt(&self, job: &J, progress: &mut Progress<'_>) -> anyhow::Result<AttemptResult>;
}

/// Complete all these jobs, and first those that they depend on. Waits for jobs held by other processes, so that several processes with one
/// work folder share the work. Rank r of N begins with every N-th job from job r, then does jobs that no other rank has begun.
///
/// # Errors
/// Errors of the worker, with the rank; [`Interrupted`]; a lost rank.
pub fn run_jobs<J: TrainingJob>(
    jobs: &[J],
    worker: &impl JobRunner<J>,
    world: &World,
    notify: &dyn Fn(&str),
) -> anyhow::Result<()> {
    let mut open: Vec<&J> = Vec::new();
    for job in jobs {
        collect(job, &mut open);
    }
    let (rank, ranks) = (world.rank(), world.size());
    let mut open: Vec<(usize, &J)> = open.into_iter().enumerate().collect();
    open.sort_by_key(|(i, _)| (i + ranks - rank) % ranks);
    let mut open: Vec<&J> = open.into_iter().map(|(_, job)| job).filter(|job| !worker.is_done(job)).collect();
    let mut left: f64 = open.iter().map(|j| j.cost()).sum();
    let mut rate = WorkRate { ranks: ranks as f64, ..WorkRate::default() };
    while !open.is_empty() {
        let before = open.len();
        let mut still = Vec::new();
        for job in open {
            if worker.is_done(job) {
                left -= job.cost();
            } else if job.parent().is_some_and(|p| !worker.is_done(p))
                || !attempt(job, worker, &mut left, &mut rate, notify).with_context(|| failed(world, job.name()))?
            {
                still.push(job);
            }
        }
        open = still;
        if open.len() == before {
            // All remaining jobs are held by other processes.
            check()?;
            world.ensure_alive()?;
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// The context of an error in a job.
fn failed(world: &World, job: &str) -> String {
    if world.is_solo() { job.to_owned() } else { format!("{}: {job}", world.name(world.rank())) }
}

/// Do one job; false while another process holds it.
fn attempt<J: TrainingJob>(
    job: &J,
    worker: &impl JobRunner<J>,
    left: &mut f64,
    rate: &mut WorkRate,
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
        AttemptResult::Busy => Ok(false),
        AttemptResult::Done => {
            let seconds = begin.elapsed().as_secs_f64();
            rate.add(cost, seconds);
            *left -= cost;
            notify(&format!("{}: done in {seconds:.0} s", job.name()));
            Ok(true)
        }
    }
}

/// A job after its dependencies, each once.
fn collect<'a, J: TrainingJob>(job: &'a J, out: &mut Vec<&'a J>) {
    if let Some(parent) = job.parent() {
        collect(parent, out);
    }
    if !out.contains(&job) {
        out.push(job);
    }
}

/// Completed work and the time it took.
#[derive(Default)]
struct WorkRate {
    cost: f64,
    seconds: f64,
    /// Ranks that share the remaining work.
    ranks: f64,
}

impl WorkRate {
    fn add(&mut self, cost: f64, seconds: f64) {
        self.cost += cost;
        self.seconds += seconds;
    }

    /// Estimated seconds for `cost` on all ranks, from completed work and the current job of this one.
    fn seconds(&self, cost: f64, pending_step: f64, seconds: f64) -> f64 {
        cost * (self.seconds + seconds) / (self.cost + pending_step).max(f64::MIN_POSITIVE) / self.ranks.max(1.0)
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
    use std::sync::{Barrier, Mutex};

    #[derive(Clone, Debug, PartialEq)]
    struct Step(&'static str, Option<Box<Step>>);

    impl TrainingJob for Step {
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

    impl JobRunner<Step> for Shared {
        fn is_done(&self, job: &Step) -> bool {
            self.0.borrow().contains(&job.0)
        }
        fn attempt(&self, job: &Step, progress: &mut Progress<'_>) -> anyhow::Result<AttemptResult> {
            if job.0 == "base" && !self.1.replace(true) {
                return Ok(AttemptResult::Busy);
            }
            progress("training", 1, 2)?;
            self.0.borrow_mut().push(job.0);
            Ok(AttemptResult::Done)
        }
    }

    #[test]
    fn parents_run_first_and_each_job_once() {
        let base = Step("base", None);
        let child = |name| Step(name, Some(Box::new(base.clone())));
        let worker = Shared(RefCell::default(), RefCell::default());
        run_jobs(&[child("a"), child("b"), Step("free", None), base.clone()], &worker, &World::solo(), &|_| {}).unwrap();
        assert_eq!(*worker.0.borrow(), ["free", "base", "a", "b"]);
    }

    /// (Rank, job) in the order of the attempts, and finished jobs; rank 0 is slow.
    #[derive(Default)]
    struct Log(Mutex<Vec<(usize, &'static str)>>, Mutex<Vec<&'static str>>);

    struct OnRank<'a>(usize, &'a Log);

    impl JobRunner<Step> for OnRank<'_> {
        fn is_done(&self, job: &Step) -> bool {
            self.1.1.lock().unwrap().contains(&job.0)
        }
        fn attempt(&self, job: &Step, _: &mut Progress<'_>) -> anyhow::Result<AttemptResult> {
            {
                let mut begun = self.1.0.lock().unwrap();
                if begun.iter().any(|(_, name)| *name == job.0) {
                    return Ok(AttemptResult::Busy);
                }
                begun.push((self.0, job.0));
            }
            anyhow::ensure!(job.0 != "bad", "no memory");
            std::thread::sleep(Duration::from_millis(if self.0 == 0 { 800 } else { 100 }));
            self.1.1.lock().unwrap().push(job.0);
            Ok(AttemptResult::Done)
        }
    }

    #[test]
    fn ranks_share_jobs_and_the_faster_one_does_more() {
        let base = Step("base", None);
        let child = |name| Step(name, Some(Box::new(base.clone())));
        let jobs = [child("a"), Step("b", None), child("c"), Step("d", None), Step("e", None)];
        let log = Log::default();
        let start = Barrier::new(2);
        let work = |world: World| {
            start.wait();
            run_jobs(&jobs, &OnRank(world.rank(), &log), &world, &|_| {}).unwrap();
        };
        World::on_threads(2, work).unwrap();
        let begun = log.0.into_inner().unwrap();
        let mut names: Vec<&str> = begun.iter().map(|(_, name)| *name).collect();
        let done = log.1.into_inner().unwrap();
        let at = |name: &str| done.iter().position(|n| *n == name).unwrap();
        assert!(at("base") < at("a") && at("base") < at("c"), "{done:?}");
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "base", "c", "d", "e"], "each once");
        let of = |rank: usize| begun.iter().filter(|(r, _)| *r == rank).count();
        assert!(of(0) >= 1 && of(1) > of(0), "{begun:?}");
        assert_eq!(begun.iter().find(|(rank, _)| *rank == 0).unwrap().1, "base", "rank 0 begins with job 0");
    }

    #[test]
    fn an_error_names_its_rank_and_its_job() {
        // Rank 1 alone; over MPI, the end of its process terminates all.
        let (world, log) = (World::threads(2).unwrap().remove(1), Log::default());
        let error = run_jobs(&[Step("a", None), Step("bad", None)], &OnRank(1, &log), &world, &|_| {}).unwrap_err();
        assert_eq!(format!("{error:#}"), "rank 1 on threads: bad: no memory");
    }

    #[test]
    fn remaining_time_follows_the_measured_rate() {
        let mut rate = WorkRate::default();
        rate.add(10.0, 20.0);
        assert!((rate.seconds(5.0, 0.0, 0.0) - 10.0).abs() < 1e-12);
        assert!((rate.seconds(5.0, 10.0, 20.0) - 10.0).abs() < 1e-12);
        rate.ranks = 2.0;
        assert!((rate.seconds(5.0, 10.0, 20.0) - 5.0).abs() < 1e-12);
        assert_eq!([minutes(89.0), minutes(120.0)], ["89 s", "2 min"]);
    }
}
