//! Threads for work that waits for a disk or a person, so that no frame waits.

use eframe::egui::{Context, Id};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

/// One piece of work at a time on a thread of its own.
#[derive(Debug)]
pub struct Loader<T> {
    result: Option<Receiver<T>>,
}

impl<T> Default for Loader<T> {
    fn default() -> Self {
        Self { result: None }
    }
}

impl<T: Send + 'static> Loader<T> {
    /// Start this work; what earlier work would have brought is dropped. A frame follows when it has brought something.
    pub fn start(&mut self, ctx: &Context, work: impl FnOnce() -> Option<T> + Send + 'static) {
        let (send, result) = channel();
        self.result = Some(result);
        count(ctx, |pending| pending + 1);
        let wake = ctx.clone();
        let thread = std::thread::Builder::new().name("loader".into()).spawn(move || {
            let found = work();
            let is_wanted = found.is_some_and(|found| send.send(found).is_ok());
            count(&wake, |pending| pending.saturating_sub(1));
            if is_wanted {
                wake.request_repaint();
            }
        });
        if thread.is_err() {
            // The sender is gone, so that nothing is waited for.
            count(ctx, |pending| pending.saturating_sub(1));
        }
    }

    /// The result of the work, once.
    pub fn take(&mut self) -> Option<T> {
        let taken = self.result.as_ref()?.try_recv();
        if !matches!(taken, Err(TryRecvError::Empty)) {
            self.result = None;
        }
        taken.ok()
    }

    /// Whether it works.
    pub fn is_busy(&self) -> bool {
        self.result.is_some()
    }
}

fn count(ctx: &Context, change: impl FnOnce(usize) -> usize) {
    ctx.data_mut(|data| {
        let pending = data.get_temp_mut_or_default::<usize>(Id::unique("pending loads"));
        *pending = change(*pending);
    });
}

/// Pieces of work that are being done for this window.
pub fn pending(ctx: &Context) -> usize {
    ctx.data(|data| data.get_temp(Id::unique("pending loads"))).unwrap_or_default()
}

/// The value that belongs to a key, loaded again when the key changes.
#[derive(Debug)]
pub struct Loaded<K, T> {
    wanted: Option<K>,
    value: Option<(K, T)>,
    loader: Loader<(K, T)>,
}

impl<K, T> Default for Loaded<K, T> {
    fn default() -> Self {
        Self { wanted: None, value: None, loader: Loader::default() }
    }
}

impl<K: Clone + PartialEq + Send + 'static, T: Send + 'static> Loaded<K, T> {
    /// The newest value with its key, which is another one until the value of `key` has come.
    pub fn get(&mut self, ctx: &Context, key: &K, load: impl FnOnce(&K) -> T + Send + 'static) -> Option<&(K, T)> {
        if !self.is_for(key) {
            self.wanted = Some(key.clone());
            let key = key.clone();
            self.loader.start(ctx, move || {
                let value = load(&key);
                Some((key, value))
            });
        }
        if let Some(found) = self.loader.take() {
            self.value = Some(found);
        }
        self.value.as_ref()
    }

    /// Whether the newest load is that of this key.
    pub fn is_for(&self, key: &K) -> bool {
        self.wanted.as_ref() == Some(key)
    }

    /// Load again at the next look.
    pub fn invalidate(&mut self) {
        self.wanted = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn wait(ctx: &Context) {
        let begin = Instant::now();
        while pending(ctx) > 0 {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn work_brings_its_result_once_and_nothing_where_there_is_none() {
        let ctx = Context::default();
        let mut loader = Loader::default();
        assert!(!loader.is_busy() && loader.take().is_none());
        loader.start(&ctx, || Some(7));
        assert!(loader.is_busy());
        wait(&ctx);
        assert_eq!((loader.take(), loader.take(), loader.is_busy()), (Some(7), None, false));
        loader.start(&ctx, || None);
        wait(&ctx);
        // The thread drops its sender just after it has decremented the counter.
        let begin = Instant::now();
        while loader.is_busy() && begin.elapsed() < Duration::from_secs(60) {
            assert_eq!(loader.take(), None);
        }
        assert!(!loader.is_busy());
    }

    #[test]
    fn a_value_is_loaded_once_for_a_key_and_the_old_one_stays_until_then() {
        let ctx = Context::default();
        let mut loaded = Loaded::default();
        let load_when = |held: std::sync::mpsc::Receiver<()>| {
            move |key: &i32| {
                let _ = held.recv();
                key * 10
            }
        };
        let (hold, held) = channel();
        assert_eq!(loaded.get(&ctx, &1, load_when(held)), None);
        hold.send(()).unwrap();
        wait(&ctx);
        assert_eq!(loaded.get(&ctx, &1, |_| panic!("loaded twice")), Some(&(1, 10)));
        let (hold, held) = channel();
        assert_eq!(loaded.get(&ctx, &2, load_when(held)), Some(&(1, 10)));
        hold.send(()).unwrap();
        wait(&ctx);
        assert_eq!(loaded.get(&ctx, &2, |_| panic!("loaded twice")), Some(&(2, 20)));
        loaded.invalidate();
        let _ = loaded.get(&ctx, &2, |key| key * 100);
        wait(&ctx);
        assert_eq!(loaded.get(&ctx, &2, |_| panic!("loaded twice")), Some(&(2, 200)));
    }
}
