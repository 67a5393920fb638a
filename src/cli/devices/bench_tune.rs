//! `lehr bench --tune`: the kernels that the tuner chooses for a preset on this adapter, with the times of all candidates.

use super::bench;
use crate::cli::{open, output};
use crate::config::Settings;
use crate::device::TunedChoice;
use crate::model::Generator;
use crate::ops::matmul::measured_peak_gflops;
use web_time::Instant;

/// Sequences that are sampled at once: one, as in chat, and a batch of rollouts.
const SAMPLED: [usize; 2] = [1, 64];

/// Measure every choice that training and sampling with the preset need, cache it, and print it.
pub(super) fn run(args: &bench::Args, settings: &Settings) -> anyhow::Result<i32> {
    let device = open::device(&args.device)?;
    anyhow::ensure!(device.gpu().is_some(), "--tune: the CPU has one kernel for each product; name a GPU with --adapter");
    anyhow::ensure!(device.tune_anew(), "--tune: unset LEHR_TUNE=off, which disables these measurements");
    let begin = Instant::now();
    let trainer = bench::trainer(args, settings, device)?;
    for rows in SAMPLED {
        // Recording a step is what asks for its kernels.
        Generator::new(&trainer.device, &trainer.model, rows, trainer.model.max_context())?;
    }
    measured_peak_gflops(&trainer.device)?;
    let seconds = begin.elapsed().as_secs_f64();
    let choices = trainer.device.tuned_choices();
    if args.json {
        for (key, choice) in &choices {
            output::json_line(&serde_json::json!({
                "kernel": kernel(key), "chosen": choice.chosen, "untuned": choice.untuned, "seconds": choice.seconds,
            }))?;
        }
        return Ok(0);
    }
    let summary = trainer.device.summary();
    output::folded_line(&format!("{} on {} ({}):", args.preset, summary.name, summary.driver))?;
    if choices.is_empty() {
        output::line("this adapter has one kernel for each operation: nothing was measured")?;
        return Ok(0);
    }
    output::line(&format!("{:<44} {:<20} candidates, ms", "kernel", "chosen"))?;
    for (key, choice) in &choices {
        output::line(&format!("{:<44} {:<20} {}", kernel(key), choice.chosen, times(choice)))?;
    }
    output::folded_line(LEGEND)?;
    output::line(&format!("each size stands for the products near it; opened, measured and cached in {seconds:.1} s"))?;
    Ok(0)
}

const LEGEND: &str = "Products: rows x columns x depth. Attention: D head width, G query heads of a key head, H query heads:key heads, B sequences, T \
tokens. Plans: w threads, r rows or heads of a workgroup, s threads that share a row or key, c or k rows or keys at a time, x threads that use subgroup \
operations. The first candidate is the one without measurements; a clearly faster one replaces it.";

/// `matmul.forward 512x512x128`, from a tuner's key: without the hash of the kernels' texts.
fn kernel(key: &str) -> String {
    let (texts, name) = key.split_once('/').unwrap_or((key, ""));
    format!("{}.{name}", texts.split(' ').next().unwrap_or(texts))
}

/// Candidates with their least times, the one without tuning first. One without a time was refused, took long to compile, or was not reached in time.
fn times(choice: &TunedChoice) -> String {
    let time = |seconds: Option<f64>| seconds.map_or("none".to_string(), |s| format!("{:.3}", 1e3 * s));
    let (first, others): (Vec<_>, Vec<_>) = choice.seconds.iter().partition(|(name, _)| **name == choice.untuned);
    let all: Vec<_> = first.into_iter().chain(others).map(|(name, seconds)| format!("{name} {}", time(*seconds))).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_in_words() {
        let seconds = [("a".to_string(), Some(0.0125)), ("b".to_string(), None)].into();
        assert_eq!(times(&TunedChoice { chosen: "a".into(), untuned: "b".into(), seconds }), "b none, a 12.500");
        assert_eq!(kernel("matmul 01ab/forward 512x512x128"), "matmul.forward 512x512x128");
        assert_eq!(kernel("attention 01ab/decode D64 H8:2 B64 T512"), "attention.decode D64 H8:2 B64 T512");
    }
}
