//! The CPU executor: instruction set, threads, and outputs divided into disjoint tiles; the ops' host functions build on it.
//!
//! Work is always split by fixed ranges of the output, which depend only on shapes, so results are bit-identical for any number of threads.

pub mod gemm;
pub mod math;
mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod tiles;

pub use tasks::{TASK, flat, task_rows, with_scratch};
pub use tiles::{OutputTile, TileGrid, Tiled};

use super::adapter::{AdapterSummary, Kind, MatmulPrecision};
use anyhow::Context as _;
use fearless_simd::Level;
use rayon::ThreadPool;
use rayon::prelude::*;

/// Instruction set and a thread pool with the device's lifetime.
pub struct Cpu {
    level: Level,
    pool: ThreadPool,
}

/// Evaluate an expression in which `$s` is the token of the instruction set in use; functions called in it must be `#[inline(always)]`.
///
/// Each arm duplicates the expression's code. On x86-64 there are three: SSE4.2 runs the SSE2 code.
#[macro_export]
macro_rules! simd {
    ($cpu:expr, $s:ident => $body:expr) => {{
        let level = $cpu.level();
        #[cfg(target_arch = "x86_64")]
        let result = match level {
            fearless_simd::Level::Avx512(token) => $crate::simd!(@token token, $s => $body),
            fearless_simd::Level::Avx2(token) => $crate::simd!(@token token, $s => $body),
            other => match other.as_sse2() {
                Some(token) => $crate::simd!(@token token, $s => $body),
                None => unreachable!("x86-64 has SSE2"),
            },
        };
        #[cfg(not(target_arch = "x86_64"))]
        let result = fearless_simd::dispatch!(level, $s => $body);
        result
    }};
    (@token $token:ident, $s:ident => $body:expr) => {{
        let $s = $token;
        fearless_simd::Simd::vectorize(
            $s,
            #[inline(always)]
            || $body,
        )
    }};
}

impl Cpu {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: usize) -> anyhow::Result<Self> {
        Self::with_level(Level::new(), threads)
    }

    /// As [`Cpu::new`], with this instruction set.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn with_level(level: Level, threads: usize) -> anyhow::Result<Self> {
        quiet_panics();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("{THREAD_NAME}{i}"))
            .build()
            .with_context(|| format!("--threads {threads}: the threads could not be started"))?;
        Ok(Self { level, pool })
    }

    /// Instruction set and threads, for lists and logs.
    pub fn description(&self) -> String {
        let threads = self.threads();
        format!("{}, {threads} {}", level_name(self.level), if threads == 1 { "thread" } else { "threads" })
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Run on a thread of the pool and wait: [`Cpu::for_each`] calls within it need no wake-up of this thread.
    pub fn install<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.pool.install(body)
    }

    /// Run `task` for each index below `count`, on any thread, in any order.
    pub fn for_each(&self, count: usize, task: impl Fn(usize) + Sync + Send) {
        match count {
            0 => {}
            1 => task(0),
            _ => self.pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(task)),
        }
    }

    /// Set to zero.
    pub(super) fn fill_zero(&self, values: &mut [f32]) {
        let cut = flat(values.len());
        self.for_tiles([Tiled::new(values, cut)], |_, [mut tile]| tile.row(0).fill(0.0));
    }

    /// Copy.
    pub(super) fn copy(&self, from: &[f32], to: &mut [f32]) {
        self.for_tiles([Tiled::new(to, flat(from.len()))], |_, [mut tile]| {
            let first = tile.first_col();
            let row = tile.row(0);
            row.copy_from_slice(&from[first..first + row.len()]);
        });
    }

    /// Run `task` for each tile of outputs that are divided by the same grid: (row and column of the tile, the tile of each output).
    ///
    /// # Panics
    /// When the grids differ (a defect of the caller).
    pub fn for_tiles<const N: usize>(
        &self,
        outputs: [Tiled<'_>; N],
        task: impl Fn([usize; 2], [OutputTile<'_>; N]) + Sync + Send,
    ) {
        let [rows, cols] = outputs.first().map_or([0, 0], Tiled::grid);
        assert!(outputs.iter().all(|o| o.grid() == [rows, cols]), "outputs are cut by different grids");
        self.for_each(rows * cols, |i| {
            let at = [i / cols, i % cols];
            // SAFETY: `for_each` visits every index once, so no tile is taken twice while the outputs are borrowed.
            task(at, outputs.each_ref().map(|o| unsafe { o.tile(at) }));
        });
    }
}

/// All instruction sets of this machine with their own code, the widest last: tests run them all.
pub fn levels() -> Vec<Level> {
    #[cfg(target_arch = "x86_64")]
    {
        let widest = Level::new();
        let all = [widest.as_sse2().map(Level::Sse2), widest.as_avx2().map(Level::Avx2), widest.as_avx512().map(Level::Avx512)];
        all.into_iter().flatten().collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        vec![Level::new()]
    }
}

/// Its usual name.
fn level_name(level: Level) -> &'static str {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Sse2(_) => "SSE2",
        #[cfg(target_arch = "x86_64")]
        Level::Sse4_2(_) => "SSE4.2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => "AVX-512",
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => "NEON",
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Level::WasmSimd128(_) => "simd128",
        _ => "scalar",
    }
}

const THREAD_NAME: &str = "lehr-cpu-";

/// The CPU's entry in the list of devices.
pub(super) fn summary() -> AdapterSummary {
    AdapterSummary {
        index: 0,
        name: processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_string()),
        backend: "Cpu".into(),
        driver: level_name(Level::new()).into(),
        kind: Kind::Cpu,
        matmul_precision: MatmulPrecision::Float32,
    }
}

/// The operating system's name of the processor, if a file has it.
fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// Panics of pool threads are reported as device faults, in one line; the default hook would print them as well.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_pool = std::thread::current().name().is_some_and(|name| name.starts_with(THREAD_NAME));
            if !in_pool {
                usual(info);
            }
        }));
    });
}

/// The message of a panic.
pub(super) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".into())
}
