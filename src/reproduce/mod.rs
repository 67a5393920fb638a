//! Floor 5.5: the claims of papers as experiments: arms of training in a bank on disk, comparisons, verdicts.
//!
//! `pma` is arXiv 2505.12082. An arm ([`arm`]) is a stretch of training; its key is a hash of all its settings; the bank keeps what was
//! trained and evaluated, so that the analysis may be run again at will and several processes may share the work.

pub mod arm;
pub mod bank;
mod claims;
pub mod context;
pub mod finding;
pub mod lab;
mod measure;
pub mod plan;
pub mod report;
pub mod scale;
mod spike;
pub mod stats;
pub mod task;
pub mod texts;
pub mod trajectory;
pub mod verdict;

use arm::Arm;
use bank::Bank;
use context::Context;
use measure::Measure;
use plan::Plan;
use report::{Header, Model, Report};
use scale::Scale;
use std::path::PathBuf;
use texts::Texts;

/// The claims, in order.
pub const CLAIMS: [&str; 12] = ["P1", "P2", "P3", "P4", "P5", "P6", "P5/6+", "P7", "P8", "P9", "P10", "P11"];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Some of [`CLAIMS`]; none: all.
    pub claims: Vec<String>,
    /// Name of a scale.
    pub scale: String,
    /// Number of seeds.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// Base corpus; the stories that ship when absent.
    pub data: Option<PathBuf>,
    /// Folder of the results.
    pub out: PathBuf,
    /// Folder of arms and evaluations.
    pub work: PathBuf,
    /// Train the arms that can be told beforehand, and stop.
    pub arms_only: bool,
    /// Adapter by name or index.
    pub adapter: Option<String>,
    /// The command line, for the report.
    pub command: String,
    /// The commit of the source, where it is known.
    pub commit: Option<String>,
    /// Speed that times are estimated by.
    pub flops_per_second: f64,
}

/// The claims that these names stand for.
///
/// # Errors
/// A name that is none; the message lists them.
pub fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static str>> {
    let mut asked = Vec::new();
    for name in names {
        let known = CLAIMS.iter().find(|c| c.eq_ignore_ascii_case(name));
        match known {
            Some(claim) => asked.push(*claim),
            None => anyhow::bail!("{}: no such claim; choose some of {}", crate::vfs::clean(name), CLAIMS.join(", ")),
        }
    }
    Ok(CLAIMS.iter().filter(|c| asked.is_empty() || asked.contains(c)).copied().collect())
}

/// The seeds of the paired arms.
pub fn seeds(options: &Options) -> Vec<u64> {
    (0..options.seeds).map(|i| options.first_seed + i).collect()
}

/// The arms that can be told beforehand.
///
/// # Errors
/// An unknown claim or scale.
pub fn arms(options: &Options) -> anyhow::Result<Vec<Arm>> {
    let scale = Scale::named(&options.scale)?;
    Plan { scale: &scale }.all(&chosen(&options.claims)?, &seeds(options))
}

/// The adapter that would be used, and its driver.
fn device(adapter: Option<&str>) -> anyhow::Result<String> {
    let gpu = pollster::block_on(crate::gpu::Gpu::open(adapter))?;
    let s = gpu.summary();
    Ok(format!("{} ({}, {})", s.name, s.backend, s.driver))
}

/// What the numbers come from.
fn header(options: &Options, scale: &Scale, texts: &Texts) -> anyhow::Result<Header> {
    let base_tokens = texts.described.first().map_or(1, |(_, _, tokens)| *tokens);
    let models = scale.sizes.iter().map(|size| {
        let config = size.model().config(texts.vocab, scale.seq_len);
        let tokens = size.steps * scale.tokens_per_step();
        Ok(Model {
            size: size.name.into(),
            shape: format!("hidden {}, {} layers, {} heads", size.hidden, size.layers, size.heads),
            parameters: crate::model::Parameters::new(&config, u64::MAX)?.count(),
            tokens,
            epochs: tokens as f64 / base_tokens.max(1) as f64,
            learning_rate: size.learning_rate,
        })
    });
    Ok(Header {
        paper: "arXiv 2505.12082",
        command: options.command.clone(),
        lehr: format!(
            "{}{}",
            env!("CARGO_PKG_VERSION"),
            options.commit.as_ref().map_or(String::new(), |c| format!(", commit {c}"))
        ),
        device: device(options.adapter.as_deref())?,
        scale: scale.name.into(),
        seeds: seeds(options),
        models: models.collect::<anyhow::Result<_>>()?,
        tokens_per_update: scale.tokens_per_step(),
        validation_tokens: scale.val_tokens,
        texts: texts.described.clone(),
        rule: Header::rule(),
    })
}

/// Train and compare; the report is written after every claim, so that what is done is there. `None` with
/// [`Options::arms_only`].
///
/// # Errors
/// Settings that cannot work, a device fault, a full disk, or [`context::Interrupted`].
pub fn run(options: &Options, tell: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    let scale = Scale::named(&options.scale)?;
    let arms = arms(options)?;
    let texts = Texts::open(options.data.as_deref())?;
    let bank = Bank::open(&options.work, &texts.digest)?;
    let mut report = Report { header: header(options, &scale, &texts)?, findings: Vec::new() };
    let context =
        Context { scale: &scale, seeds: seeds(options), texts, bank, adapter: options.adapter.clone(), tell: Box::new(tell) };
    context.ensure(&arms)?;
    if options.arms_only {
        return Ok(None);
    }
    let measure = Measure::new(&context);
    for claim in chosen(&options.claims)? {
        let begin = web_time::Instant::now();
        let found = claims::find(&measure, claim)?;
        tell(&format!("{claim}: {} ({})", found.verdict.words(), context::minutes(begin.elapsed().as_secs_f64())));
        report.findings.push(found);
        report.write(&options.out)?;
    }
    Ok(Some(report))
}

/// What a run would do: (line for people, the same for machines).
///
/// # Errors
/// An unknown claim or scale, or a text that cannot be read.
pub fn dry_run(options: &Options) -> anyhow::Result<(Vec<String>, serde_json::Value)> {
    let scale = Scale::named(&options.scale)?;
    let texts = Texts::open(options.data.as_deref())?;
    let arms = arms(options)?;
    let done = |arm: &Arm| options.work.join("arms").join(Bank::name(arm, &texts.digest)).join("record.json").is_file();
    let (mut lines, mut rows) = (Vec::new(), Vec::new());
    let (mut flops, mut disk) = (0.0, 0u64);
    for arm in &arms {
        let tokens = arm.updates() * scale.tokens_per_step();
        let config = arm.model.config(texts.vocab, scale.seq_len);
        let bytes = crate::model::Parameters::new(&config, u64::MAX)?.arena_bytes() * arm.kept();
        let is_done = done(arm);
        if !is_done {
            flops += arm.flops(texts.vocab);
            disk += bytes;
        }
        let note = if is_done { ", done" } else { "" };
        lines.push(format!("{:<28} {tokens:>12} tokens  {:>10}{note}", arm.name, crate::vfs::human_bytes(bytes)));
        rows.push(serde_json::json!({"arm": arm.name, "tokens": tokens, "bytes": bytes, "done": is_done}));
    }
    let rate = options.flops_per_second;
    let time = context::minutes(flops / rate);
    lines.push(format!(
        "{} arms; to train: {flops:.2e} FLOP, about {time} at {:.1} GFLOP/s; {} on disk; P9 adds {} arms a spike, and evaluations about a fifth",
        arms.len(),
        rate / 1e9,
        crate::vfs::human_bytes(disk),
        claims::RESCUES,
    ));
    Ok((lines, serde_json::json!({"arms": rows, "flops": flops, "seconds": flops / rate, "bytes": disk})))
}
