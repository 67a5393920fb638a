//! The claims of PMA, arXiv 2505.12082. An arm ([`arm`]) is a part of training; its key is a hash of all its settings. Trained arms and
//! evaluations are stored, so that the analysis can be repeated and several processes can share the work.

pub mod arm;
pub mod checkpoints;
mod claims;
pub mod context;
pub mod corpora;
mod measure;
pub mod plan;
pub mod scale;
pub mod sized_model;
mod spike;
pub mod task;
pub mod trajectory;

use super::finding::ResultTable;
use super::jobs::minutes;
use super::report::{PaperFacts, Report, ReportHeader};
use super::store::{check_shared, has};
use super::{Paper, ReproduceOptions, chosen, device, seeds};
use crate::world::World;
use arm::PmaArm;
use checkpoints::CheckpointStore;
use context::PmaContext;
use corpora::Corpora;
use measure::Measure;
use plan::PmaPlan;
use scale::PmaScale;
use serde::Serialize;

/// The paper.
pub const PAPER: Paper = Paper {
    name: "pma",
    title: "PMA",
    source: "arXiv 2505.12082",
    claims: &["P1", "P2", "P3", "P4", "P5", "P6", "P5/6+", "P7", "P8", "P9", "P10", "P11"],
};

/// A model size.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ModelSize {
    size: String,
    /// Hidden size, layers, heads.
    shape: String,
    parameters: usize,
    /// Tokens of a base run.
    tokens: u64,
    /// Passes over the training text.
    epochs: f64,
    /// Learning rate of the stable phase.
    learning_rate: f64,
}

/// The arms that are known in advance.
///
/// # Errors
/// An unknown claim or scale.
pub fn arms(options: &ReproduceOptions) -> anyhow::Result<Vec<PmaArm>> {
    let scale = PmaScale::from_name(&options.scale)?;
    PmaPlan { scale: &scale }.all(&chosen(&PAPER, &options.claims)?, &seeds(options))
}

/// Origin of the numbers.
fn header(options: &ReproduceOptions, scale: &PmaScale, texts: &Corpora) -> anyhow::Result<ReportHeader> {
    let base_tokens = texts.described.first().map_or(1, |(_, _, tokens)| *tokens);
    let models = scale.sizes.iter().map(|size| {
        let config = size.model().config(texts.vocab, scale.seq_len);
        let tokens = size.steps * scale.tokens_per_step();
        Ok(ModelSize {
            size: size.name.into(),
            shape: format!("hidden {}, {} layers, {} heads", size.hidden, size.layers, size.heads),
            parameters: crate::model::Parameters::new(&config, u64::MAX)?.count(),
            tokens,
            epochs: tokens as f64 / base_tokens.max(1) as f64,
            learning_rate: size.learning_rate,
        })
    });
    let models = models.collect::<anyhow::Result<Vec<ModelSize>>>()?;
    let rows = models.iter().map(|m| {
        vec![
            m.size.clone(),
            m.shape.clone(),
            m.parameters.to_string(),
            m.tokens.to_string(),
            format!("{:.1}", m.epochs),
            format!("{:.1e}", m.learning_rate),
        ]
    });
    let columns = ["size", "shape", "parameters", "tokens", "epochs", "learning rate"].map(String::from).to_vec();
    let mut notes = vec![format!(
        "{} tokens an update; {} validation tokens, the same in every comparison",
        scale.tokens_per_step(),
        scale.val_tokens
    )];
    notes.extend(texts.described.iter().map(|(for_, what, n)| format!("{for_}: {what}, {n} training tokens (characters)")));
    let details = serde_json::json!({
        "models": &models,
        "tokens_per_update": scale.tokens_per_step(),
        "validation_tokens": scale.val_tokens,
        "texts": &texts.described,
    });
    let tables = vec![ResultTable { title: String::new(), columns, rows: rows.collect() }];
    Ok(ReportHeader::new(&PAPER, options, PaperFacts { device: device(&options.device)?, notes, tables, details }))
}

/// Train and compare; the report is written after every claim, so that partial results are available. `None` with
/// [`ReproduceOptions::arms_only`], and on ranks other than 0.
///
/// # Errors
/// Invalid settings, a device error, a full disk, a lost rank, or [`crate::progress::Interrupted`].
pub fn run(options: &ReproduceOptions, world: &World, notify: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    let scale = world.check_all(PmaScale::from_name(&options.scale))?;
    let arms = world.check_all(arms(options))?;
    let texts = world.check_all(Corpora::open(options.data.as_deref()))?;
    let checkpoints = world.check_all(CheckpointStore::open(&options.work, &texts.digest))?;
    check_shared(&options.work, world)?;
    world.ensure_equal(&[("content of --data (hash)", texts.digest.clone())])?;
    let mut report = Report { header: world.check_all(header(options, &scale, &texts))?, findings: Vec::new() };
    let mut context = PmaContext {
        scale: &scale,
        seeds: seeds(options),
        texts,
        checkpoints,
        device: options.device.clone(),
        world: world.clone(),
        notify: Box::new(notify),
    };
    context.ensure(&arms)?;
    world.wait_for_all()?;
    if options.arms_only || !world.is_root() {
        return Ok(None);
    }
    // From here on rank 0 is alone.
    context.world = World::solo();
    let measure = Measure::new(&context);
    let claims = chosen(&PAPER, &options.claims)?;
    report.evaluate(&claims, &options.out, |claim| claims::find(&measure, claim), notify)?;
    Ok(Some(report))
}

/// Description of a run: (lines for display, the same as JSON).
///
/// # Errors
/// An unknown claim or scale, or a text that cannot be read.
pub fn dry_run(options: &ReproduceOptions) -> anyhow::Result<(Vec<String>, serde_json::Value)> {
    let scale = PmaScale::from_name(&options.scale)?;
    let texts = Corpora::open(options.data.as_deref())?;
    let arms = arms(options)?;
    let done = |arm: &PmaArm| has(&options.work, &arm.name, &arm.key(&texts.digest));
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
    let time = minutes(flops / rate);
    lines.push(format!(
        "{} arms; to train: {flops:.2e} FLOP, about {time} at {:.1} GFLOP/s; {} on disk; P9 adds {} arms a spike, and evaluations about a fifth",
        arms.len(),
        rate / 1e9,
        crate::vfs::human_bytes(disk),
        claims::RESCUES,
    ));
    Ok((lines, serde_json::json!({"arms": rows, "flops": flops, "seconds": flops / rate, "bytes": disk})))
}
