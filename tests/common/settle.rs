//! Waiting for the threads of a page.

use egui_kittest::Harness;

/// Frames until everything that was asked of threads is there.
pub fn settle<S>(harness: &mut Harness<'_, S>) {
    let begin = std::time::Instant::now();
    while lehr::app::loader::pending(&harness.ctx) > 0 {
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "a thread has not ended");
        std::thread::sleep(std::time::Duration::from_millis(1));
        harness.step();
    }
    harness.run_steps(2);
}
