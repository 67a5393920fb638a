//! `lehr bench --tune`: the kernels that the tuner chooses for a preset on this adapter, with the times of all candidates.

use super::{bench, open, output};
use crate::config::Settings;
use crate::device::TunedChoice;
use crate::ops::matmul::measured_peak_gflops;
use web_time::Instant;

/// Measure every choice that a training step of the preset needs, cache it, and print it.
pub(super) fn run(args: &bench::Args, settings: &Settings) -> anyhow::Result<i32> {
    let device = open::device(&args.device)?;
    anyhow::ensure!(device.gpu().is_some(), "--tune: the CPU has one kernel for each product; name a GPU with --adapter");
    anyhow::ensure!(device.tune_anew(), "--tune: unset LEHR_TUNE=off, which disables these measurements");
    let begin = Instant::now();
    let trainer = bench::trainer(args, settings, device)?;
    measured_peak_gflops(&trainer.device)?;
    let seconds = begin.elapsed().as_secs_f64();
    let choices = trainer.device.tuned_choices();
    if args.json {
        for (key, choice) in &choices {
            output::json_line(&serde_json::json!({
                "product": product(key), "chosen": choice.chosen, "seconds": choice.seconds,
            }))?;
        }
        return Ok(0);
    }
    let summary = trainer.device.summary();
    output::folded_line(&format!("{} on {} ({}):", args.preset, summary.name, summary.driver))?;
    if choices.is_empty() {
        output::line("this adapter has one kernel for each product: nothing was measured")?;
        return Ok(0);
    }
    output::line(&format!("{:<32} {:<12} candidates, ms", "product: rows x columns x depth", "chosen"))?;
    for (key, choice) in &choices {
        output::line(&format!("{:<32} {:<12} {}", product(key), choice.chosen, times(choice)))?;
    }
    output::line(&format!("each size stands for the products near it; opened, measured and cached in {seconds:.1} s"))?;
    Ok(0)
}

/// The product of a tuner's key, without the hash of the kernels' texts.
fn product(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Candidates with their least times. One without a time was refused, took long to compile, or was not reached in time.
fn times(choice: &TunedChoice) -> String {
    let time = |seconds: Option<f64>| seconds.map_or("none".to_string(), |s| format!("{:.3}", 1e3 * s));
    let all: Vec<_> = choice.seconds.iter().map(|(name, seconds)| format!("{name} {}", time(*seconds))).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_in_words() {
        let seconds = [("a".to_string(), Some(0.0125)), ("b".to_string(), None)].into();
        assert_eq!(times(&TunedChoice { chosen: "a".into(), seconds }), "a 12.500, b none");
        assert_eq!(product("matmul 01ab/forward 512x512x128"), "forward 512x512x128");
    }
}
