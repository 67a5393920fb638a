//! Parallel work with results in order.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

/// Number of threads for work bound by the processor or the disk.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(64)
}

/// Run `job(0)`, `job(1)`, ... `job(count - 1)` on several threads.
///
/// # Errors
/// The error of the failed job with the lowest number.
pub fn parallel<T: Send>(count: usize, job: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let threads = default_threads().min(count);
    if threads <= 1 {
        return (0..count).map(job).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let result = job(i);
            lock(&done).insert(i, result);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..threads {
            std::thread::Builder::new().spawn_scoped(scope, work).context("starting a thread")?;
        }
        Ok(())
    })?;
    done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_values().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A filled buffer, or the error.
type FilledBuffer = Result<Vec<u8>>;

struct State {
    /// The next job to hand out.
    next: usize,
    /// Jobs whose bytes have been passed on.
    given: usize,
    ready: BTreeMap<usize, FilledBuffer>,
    spare: Vec<Vec<u8>>,
    workers: usize,
    stop: bool,
}

/// Hands out jobs, at most `ahead` beyond the last one passed on.
struct JobQueue {
    count: usize,
    ahead: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl JobQueue {
    fn take(&self) -> Option<(usize, Vec<u8>)> {
        let mut state = lock(&self.state);
        loop {
            if state.stop || state.next >= self.count {
                return None;
            }
            if state.next < state.given + self.ahead {
                let job = state.next;
                state.next += 1;
                return Some((job, state.spare.pop().unwrap_or_default()));
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn put(&self, job: usize, filled: FilledBuffer) {
        lock(&self.state).ready.insert(job, filled);
        self.changed.notify_all();
    }

    fn get(&self, job: usize) -> FilledBuffer {
        let mut state = lock(&self.state);
        loop {
            if let Some(filled) = state.ready.remove(&job) {
                return filled;
            }
            if state.workers == 0 {
                bail!("a worker thread ended too soon");
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut state = lock(&self.state);
        state.given += 1;
        state.spare.push(buffer);
        self.changed.notify_all();
    }
}

/// Signs a worker off from the queue, even if it panicked.
struct WorkerGuard<'a>(&'a JobQueue);

impl Drop for WorkerGuard<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).workers -= 1;
        self.0.changed.notify_all();
    }
}

/// Stops the workers when the consumer exits for any reason.
struct StopGuard<'a>(&'a JobQueue);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).stop = true;
        self.0.changed.notify_all();
    }
}

/// Fill buffers for the jobs 0..count on `threads` threads and pass them to `sink` in order on the calling thread. `fill` receives its
/// thread's scratch, the job and an empty buffer. At most 2 `threads` + 2 buffers exist at a time.
///
/// # Errors
/// The first error of `fill` or `sink`, in the order of jobs.
pub fn in_order<S>(
    count: usize,
    threads: usize,
    scratch: impl Fn() -> S + Sync,
    fill: impl Fn(&mut S, usize, &mut Vec<u8>) -> Result<()> + Sync,
    sink: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let threads = threads.clamp(1, count.max(1));
    let state = State { next: 0, given: 0, ready: BTreeMap::new(), spare: Vec::new(), workers: threads, stop: false };
    let queue = JobQueue { count, ahead: 2 * threads + 2, state: Mutex::new(state), changed: Condvar::new() };
    let work = || {
        let _leave = WorkerGuard(&queue);
        let mut own = scratch();
        while let Some((job, mut buffer)) = queue.take() {
            buffer.clear();
            let filled = fill(&mut own, job, &mut buffer).map(|()| buffer);
            queue.put(job, filled);
        }
    };
    std::thread::scope(|scope| {
        let _stop = StopGuard(&queue);
        for _ in 0..threads {
            std::thread::Builder::new().spawn_scoped(scope, work).context("starting a thread")?;
        }
        for job in 0..count {
            let buffer = queue.get(job)?;
            sink(job, &buffer)?;
            queue.give_back(buffer);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn results_keep_their_order_and_the_first_error_is_returned() {
        assert_eq!(parallel(100, |i| Ok(i * i)).unwrap(), (0..100).map(|i| i * i).collect::<Vec<_>>());
        let error = parallel(50, |i| if i % 7 == 6 { bail!("{i}") } else { Ok(()) }).unwrap_err();
        assert_eq!(error.to_string(), "6");
        for threads in [1, 2, 5, 64] {
            let mut seen = Vec::new();
            let fill = |_: &mut (), job: usize, out: &mut Vec<u8>| {
                ensure!(out.is_empty());
                std::thread::sleep(std::time::Duration::from_micros(((job * 37) % 11) as u64 * 50));
                out.extend((job as u32).to_le_bytes());
                ensure!(job != 90, "ninety");
                ensure!(job != 91, "ninety-one");
                Ok(())
            };
            let error = in_order(200, threads, || (), fill, &mut |job, bytes| {
                assert_eq!(bytes, (job as u32).to_le_bytes());
                seen.push(job);
                Ok(())
            });
            assert_eq!((error.unwrap_err().to_string().as_str(), seen.len()), ("ninety", 90));
            let stopped = in_order(200, threads, || (), |_, _, _| Ok(()), &mut |job, _| {
                ensure!(job < 3, "enough");
                Ok(())
            });
            assert_eq!(stopped.unwrap_err().to_string(), "enough");
            in_order(0, threads, || (), |_, _, _| bail!("never"), &mut |_, _| bail!("never")).unwrap();
        }
    }
}
