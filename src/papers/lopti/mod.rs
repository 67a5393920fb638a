//! The claims of Advantage Reweighting and Lopti, arXiv 2505.12929. Two kinds of experiments: single updates of a fine-tuned model
//! ([`mod@bench`]), and arms of reinforcement learning from it ([`training`]), which claims share ([`plan`]). Arms and measurements are
//! stored in the work folder under a hash of all their settings.

pub mod arm;
pub mod bench;
mod claims;
pub mod context;
pub mod plan;
pub mod scale;
pub mod task_setup;
pub mod training;

use super::finding::ResultTable;
use super::jobs::{TrainingJob as _, minutes};
use super::report::{PaperFacts, Report, ReportHeader};
use super::store::{WorkFolder, check_shared, has};
use super::{Paper, ReproduceOptions, chosen, device, seeds};
use crate::config::TaskKind;
use crate::world::World;
use arm::LoptiArm;
use context::LoptiContext;
use plan::LoptiPlan;
use scale::LoptiScale;

/// The paper. L0 is the regime check, which precedes all others.
pub const PAPER: Paper = Paper {
    name: "lopti",
    title: "Advantage Reweighting and Lopti",
    source: "arXiv 2505.12929",
    claims: &["L0", "L1", "L2", "L3", "L4", "L5", "L5b", "L6", "L7", "L8", "L9", "L10", "L11", "L12", "L13"],
};

/// The requested claims, preceded by the regime check.
fn requested_claims(options: &ReproduceOptions) -> anyhow::Result<Vec<&'static str>> {
    let mut claims = chosen(&PAPER, &options.claims)?;
    if !claims.contains(&"L0") {
        claims.insert(0, "L0");
    }
    Ok(claims)
}

/// The arms that the claims need.
///
/// # Errors
/// An unknown claim or scale.
pub fn arms(options: &ReproduceOptions) -> anyhow::Result<Vec<LoptiArm>> {
    let scale = LoptiScale::from_name(&options.scale)?;
    Ok(LoptiPlan { scale: &scale }.all(&requested_claims(options)?, &seeds(options)))
}

/// Origin of the numbers.
fn header(options: &ReproduceOptions, c: &LoptiContext<'_>) -> anyhow::Result<ReportHeader> {
    let s = c.scale;
    let vocab = c.task_setup(TaskKind::Kk)?.vocab();
    let config = s.model().config(vocab, s.seq_len());
    let parameters = crate::model::Parameters::new(&config, u64::MAX)?.count();
    let [hidden, _, layers, heads] = s.shape;
    let (sft_steps, sft_rows, sft_rate) = s.sft;
    let notes = vec![
        format!("model: hidden {hidden}, {layers} layers, {heads} heads, {parameters} parameters, a vocabulary of {vocab} words"),
        format!(
            "fine-tuning: {sft_steps} updates of {sft_rows} worked solutions of {} people, rate {sft_rate:.0e}; one for each seed",
            s.people[1]
        ),
        format!(
            "reinforcement: {} steps of {} completions, {} a puzzle of {} people, temperature {}, {} updates a pass, AdamW at {:.0e}",
            s.steps, s.batch_size, s.num_generations, s.people[0], s.temperature, s.mini_batches, s.learning_rate
        ),
        format!(
            "evaluations: {} held-out puzzles, none of which occurs in training; greedy and sampled; results are the mean of the last {}",
            s.evals.1,
            scale::LAST_EVALS
        ),
    ];
    let rows = [
        ("model", "3B and 7B, instruction-tuned", format!("{parameters} parameters, fine-tuned here")),
        ("puzzles", "3 to 7 people, English", format!("{} people, compact words", s.people[0])),
        ("steps, completions in each", "360, 512", format!("{}, {}", s.steps, s.batch_size)),
        ("temperature", "0.7", s.temperature.to_string()),
        ("learning rate", "1e-6", format!("{:.0e}", s.learning_rate)),
        ("clip low, high, dual; k3", "0.20, 0.24, 10; 0.001", "the same".into()),
        ("seeds", "1", options.seeds.to_string()),
    ];
    let rows = rows.map(|(what, paper, here)| vec![what.to_string(), paper.to_string(), here]).to_vec();
    let columns = ["", "the paper", "here"].map(String::from).to_vec();
    let details = serde_json::json!({
        "parameters": parameters,
        "vocab": vocab,
        "fine_tuning": s.fine_tuning(TaskKind::Kk, 0),
        "reinforcement": s.reinforcement(0),
        "rollout": s.rollout(),
        "grpo": s.grpo(),
        "task": s.task(TaskKind::Kk),
    });
    let tables = vec![ResultTable { title: "How this differs from the paper".into(), columns, rows }];
    Ok(ReportHeader::new(&PAPER, options, PaperFacts { device: device(&options.device)?, notes, tables, details }))
}

/// Train and compare; the report is written after every claim, so that partial results are available. `None` with [`ReproduceOptions::arms_only`],
/// and on ranks other than 0.
///
/// # Errors
/// Invalid settings, a device error, a full disk, a lost rank, or [`crate::progress::Interrupted`].
pub fn run(options: &ReproduceOptions, world: &World, notify: &dyn Fn(&str)) -> anyhow::Result<Option<Report>> {
    let scale = world.check_all(LoptiScale::from_name(&options.scale))?;
    let (claims, arms) = world.check_all(requested_claims(options).and_then(|claims| Ok((claims, arms(options)?))))?;
    let store = world.check_all(if options.data.is_none() {
        WorkFolder::open(&options.work)
    } else {
        Err(anyhow::anyhow!("--data: lopti makes its puzzles itself; leave the flag out"))
    })?;
    check_shared(&options.work, world)?;
    let device = options.device.clone();
    let context = LoptiContext::new(&scale, seeds(options), store, device, world.clone(), Box::new(notify));
    let mut context = world.check_all(context)?;
    let mut report = Report { header: world.check_all(header(options, &context))?, findings: Vec::new() };
    // A single process trains an arm when a claim needs it, so that the first results are available early.
    if options.arms_only || !world.is_solo() {
        context.ensure(&arms)?;
        world.wait_for_all()?;
    }
    if options.arms_only || !world.is_root() {
        return Ok(None);
    }
    // From here on rank 0 is alone.
    context.world = World::solo();
    report.evaluate(&claims, &options.out, |claim| claims::find(&context, claim), notify)?;
    Ok(Some(report))
}

/// Description of a run: (lines for display, the same as JSON).
///
/// # Errors
/// An unknown claim or scale.
pub fn dry_run(options: &ReproduceOptions) -> anyhow::Result<super::PlannedArms> {
    let scale = LoptiScale::from_name(&options.scale)?;
    let (mut lines, mut rows, mut left) = (Vec::new(), Vec::new(), 0.0);
    let vocab = task_setup::TaskSetup::new(TaskKind::Kk)?.vocab();
    let config = scale.model().config(vocab, scale.seq_len());
    // The forward pass over a row is a third of a gradient.
    let row = config.flops_per_token_training(scale.seq_len() as f64 / 2.0) / 3.0 * scale.seq_len() as f64;
    for arm in arms(options)? {
        let (done, flops) = (has(&options.work, arm.name(), &arm.key()), arm.cost() * row);
        left += if done { 0.0 } else { flops };
        let (steps, passes) = (arm.train.max_steps, arm.passes());
        lines.push(format!("{:<34} {steps:>6} steps, {passes} pass(es){}", arm.name, if done { ", done" } else { "" }));
        rows.push(serde_json::json!({"arm": arm.name, "steps": steps, "passes": passes, "flops": flops, "done": done}));
    }
    let rate = options.flops_per_second;
    let time = minutes(left / rate);
    lines.push(format!(
        "{} arms; to train: about {time} at {:.1} GFLOP/s; L0 to L4 and L11 take some minutes more",
        rows.len(),
        rate / 1e9
    ));
    Ok((lines, serde_json::json!({"arms": rows, "flops": left, "seconds": left / rate})))
}
