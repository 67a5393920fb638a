//! L0, L1 and L2: token statistics and gradient norms.

use super::super::bench::Bench;
use super::super::context::LoptiContext;
use super::super::scale::PAPER_SHARES;
use super::BINS;
use crate::event::Tokens;
use crate::papers::finding::{ClaimFinding, number, with_interval};
use crate::papers::stats::{Estimate, Unit, mean, quantile, range, spearman};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Within};
use crate::plot::{Bars, Chart, Panels};
use crate::rng::Rng;
use crate::train::reinforce::tokens::statistics;
use serde::{Deserialize, Serialize};

/// A number of a bin of a batch.
type BinValue = fn(&Tokens, usize) -> f64;

/// Statistics of every batch of a seed.
fn statistics_of(c: &LoptiContext<'_>, seed: u64) -> anyhow::Result<Vec<Tokens>> {
    let batches = c.scale.probe.0;
    c.measured(seed, "statistics", |bench| (0..batches).map(|n| Ok(statistics(n, &bench.batch(n)?, 0.0))).collect())
}

/// A unit per seed: for each bin the numbers of its batches.
fn units(all: &[Vec<Tokens>], bins: usize, value: impl Fn(&Tokens, usize) -> f64) -> Vec<Unit> {
    let of = |batches: &Vec<Tokens>| (0..bins).map(|b| batches.iter().map(|t| value(t, b)).collect()).collect();
    all.iter().map(of).collect()
}

fn seed_means(units: &[Unit], arm: usize) -> Vec<f64> {
    units.iter().map(|u| mean(&u[arm])).collect()
}

fn add(bars: Bars, name: &str, units: &[Unit], bins: usize) -> Bars {
    let means: Vec<Vec<f64>> = (0..bins).map(|b| seed_means(units, b)).collect();
    let values: Vec<f64> = means.iter().map(|m| mean(m)).collect();
    bars.bars_with_errors(name, &values, &means.iter().map(|m| range(m.iter().copied())).collect::<Vec<_>>())
}

/// Regime check: does the histogram of probabilities resemble the paper's?
pub fn regime(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let all = c.seeds.iter().map(|s| statistics_of(c, *s)).collect::<anyhow::Result<Vec<_>>>()?;
    let shares = units(&all, 4, |t, b| t.quartiles.all.share[b].0);
    let checks = (0..4)
        .map(|b| {
            let found = Estimate::of(&shares, |m| m[b] - PAPER_SHARES[b]);
            ClaimCheck::new(
                format!("share of tokens with p {} minus the paper's {:.3}", BINS[b], PAPER_SHARES[b]),
                found,
                Within(0.1),
            )
        })
        .collect();
    let lists: [(&str, BinValue); 5] = [
        ("share of tokens", |t, b| t.quartiles.all.share[b].0),
        ("mean |advantage|", |t, b| t.quartiles.all.advantage[b].0),
        ("share of the gradient at the logits", |t, b| t.quartiles.all.gradient[b].0),
        ("mean entropy (nats)", |t, b| t.quartiles.all.entropy[b].0),
        ("share of positive advantages", |t, b| {
            t.quartiles.positive.count[b] as f64 / (t.quartiles.positive.count[b] + t.quartiles.negative.count[b]) as f64
        }),
    ];
    let rows = lists.iter().map(|(name, value)| {
        let found = units(&all, 4, value);
        let mut cells = vec![(*name).to_string()];
        cells.extend((0..4).map(|b| number(mean(&seed_means(&found, b)))));
        cells
    });
    let deciles = units(&all, 10, |t, b| t.deciles.all.share[b].0);
    let gradient = units(&all, 4, |t, b| t.quartiles.all.gradient[b].0);
    let tenths: Vec<String> = (0..10).map(|i| format!("{:.1}", 0.1 * f64::from(i))).collect();
    let quartiles =
        add(Bars::new("by quartile", &BINS).x("probability of the sampled token").y("share of tokens"), "here", &shares, 4);
    let panels = Panels::new("The regime: token probabilities where reinforcement begins", 3)
        .subtitle("response tokens sampled from the fine-tuned models; mean and range over seeds")
        .panel(quartiles.bars("the paper (7B, Fig. 1 a)", &PAPER_SHARES))
        .panel(add(Bars::new("by tenth", &tenths).x("probability from").y("share of tokens"), "", &deciles, 10))
        .panel(add(Bars::new("gradient at the logits", &BINS).x("probability").y("share of the sum"), "", &gradient, 4));
    let design = format!(
        "{} batches of {} completions a seed, sampled at temperature {} from the fine-tuned model that all arms begin from. The claim \
         needs each quartile's share within 0.1 of the paper's. Where it is not, later verdicts are about another regime.",
        c.scale.probe.0, c.scale.probe.1, c.scale.temperature
    );
    let columns = ["", BINS[0], BINS[1], BINS[2], BINS[3]];
    Ok(ClaimFinding::new(
        "L0",
        "The regime check: token probabilities are spread as in the paper",
        "Fig. 1 (a): 19, 10, 10 and 61 % of the tokens by quartile; (b): advantages alike in all quartiles",
        design,
        checks,
    )
    .table("By quartile of probability, mean over seeds", &columns, rows.collect())
    .with_figure("l0-regime", panels.svg()))
}

/// A token's gradient.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TokenGradient {
    /// 1 - p.
    gap: f64,
    /// Norm with respect to the logits, from the computed sum of squares.
    logits: f64,
    /// Norm with respect to all parameters.
    all: f64,
    /// The same by block.
    blocks: Vec<f64>,
}

impl TokenGradient {
    fn block(&self, block: usize) -> f64 {
        self.blocks.get(block).copied().unwrap_or(f64::NAN)
    }
}

fn singles(bench: &mut Bench, tokens: usize, seed: u64) -> anyhow::Result<Vec<TokenGradient>> {
    let rollouts = bench.batch(0)?;
    let places: Vec<(usize, usize)> =
        rollouts.iter().enumerate().flat_map(|(r, rollout)| (0..rollout.completion.len()).map(move |t| (r, t))).collect();
    let rng = Rng::new(seed, "single tokens");
    let mut out = Vec::new();
    for i in 0..tokens as u64 {
        let (r, t) = places[rng.below(0, i, places.len() as u64) as usize];
        let norms = bench.gradient_of_token(&rollouts[r], t)?;
        let mut blocks: Vec<f64> = Vec::new();
        for (name, norm) in &norms {
            if let Some(block) = block_of(name) {
                blocks.resize(blocks.len().max(block + 1), 0.0);
                blocks[block] += norm * norm;
            }
        }
        let (logp, sum_p2) = (f64::from(rollouts[r].old_logprobs[t]), f64::from(rollouts[r].sum_p2[t]));
        out.push(TokenGradient {
            gap: -logp.exp_m1(),
            logits: (sum_p2 - 2.0 * logp.exp() + 1.0).max(0.0).sqrt(),
            all: norms.iter().map(|(_, n)| n * n).sum::<f64>().sqrt(),
            blocks: blocks.into_iter().map(f64::sqrt).collect(),
        });
    }
    Ok(out)
}

/// The block number in `layers.3.`
fn block_of(name: &str) -> Option<usize> {
    let rest = name.split("layers.").nth(1)?;
    rest.split('.').next()?.parse().ok()
}

/// Below this gap single precision cannot resolve the norm with respect to the logits.
const SEEN: f64 = 0.01;

/// Norms over 1 - p, with the bounds at the logits.
fn single_panels(all: &[Vec<TokenGradient>], least: f64) -> Panels {
    let dots = |value: fn(&TokenGradient) -> f64| all.iter().flatten().map(|s| (s.gap, value(s))).collect::<Vec<_>>();
    let ends = [1e-4, 1.0];
    let chart = |title: &str, dots: &[(f64, f64)]| {
        Chart::new(title).x("1 - p").y("gradient norm").log_x().log_y().x_range(ends[0], 1.05).scatter("tokens", dots)
    };
    let line = |factor: f64| ends.map(|x| (x, factor * x));
    Panels::new("L1: the gradient of single tokens", 2)
        .subtitle("log pi of one sampled token, advantage 1; all seeds")
        .panel(
            chart("at the logits", &dots(|s| s.logits)).line("upper bound", &line(2f64.sqrt())).line("lower bound", &line(least)),
        )
        .panel(chart("all parameters", &dots(|s| s.all)))
}

/// The gradient of a single token falls with its probability.
pub fn single(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let n = c.scale.single_tokens;
    let all = c
        .seeds
        .iter()
        .map(|seed| c.measured(*seed, &format!("single tokens {n}"), |bench| singles(bench, n, *seed)))
        .collect::<anyhow::Result<Vec<Vec<TokenGradient>>>>()?;
    let words = c.task_setup(crate::config::TaskKind::Kk)?.vocab() as f64;
    let least = (words / (words - 1.0)).sqrt();
    let inside = |s: &TokenGradient| (s.logits >= least * s.gap * 0.999 && s.logits <= 2f64.sqrt() * s.gap * 1.001) as u8;
    let kept =
        |seed: &Vec<TokenGradient>| -> Vec<f64> { seed.iter().filter(|s| s.gap > SEEN).map(|s| f64::from(inside(s))).collect() };
    let correlation = |value: &dyn Fn(&TokenGradient) -> f64| {
        let of = |seed: &Vec<TokenGradient>| {
            let (gaps, norms): (Vec<f64>, Vec<f64>) = seed.iter().map(|s| (s.gap, value(s))).unzip();
            spearman(&gaps, &norms)
        };
        Estimate::of_values(&all.iter().map(of).collect::<Vec<_>>())
    };
    let blocks = all.iter().flatten().map(|s| s.blocks.len()).max().unwrap_or(0);
    let mut checks = vec![
        ClaimCheck::new(
            "share of tokens inside of the bounds at the logits",
            Estimate::of_values(&all.iter().map(|s| mean(&kept(s))).collect::<Vec<_>>()),
            Above(0.999),
        ),
        ClaimCheck::new("rank correlation of 1 - p and the norm over all parameters", correlation(&|s| s.all), Above(0.9)),
    ];
    for b in 0..blocks {
        let what = format!("rank correlation of 1 - p and the norm in block {}", b + 1);
        checks.push(ClaimCheck::new(what, correlation(&|s| s.block(b)), Above(0.9)));
    }
    let spread = |value: &dyn Fn(&TokenGradient) -> f64| -> Vec<String> {
        let ratios: Vec<f64> = all.iter().flatten().filter(|s| s.gap > SEEN).map(|s| value(s) / s.gap).collect();
        [0.05, 0.5, 0.95].map(|q| number(quantile(&ratios, q))).to_vec()
    };
    let mut rows = vec![
        [vec!["logits".into()], spread(&|s| s.logits)].concat(),
        [vec!["all parameters".into()], spread(&|s| s.all)].concat(),
    ];
    rows.extend((0..blocks).map(|b| [vec![format!("block {}", b + 1)], spread(&|s| s.block(b))].concat()));
    Ok(ClaimFinding::new(
        "L1",
        "The gradient of a token is as large as 1 - p, up to constants of the layers",
        "Proposition 4.2: between prod c sqrt(N / (N - 1)) (1 - p) and prod d sqrt(2) (1 - p), for any layer's activations; Fig. 2 (a)",
        format!(
            "{n} response tokens a seed, drawn at random, a backward pass each. At the logits the norm is compared with the bounds for N = {words} \
             (tokens with 1 - p > {SEEN}: single precision); inside of the network the norm over the parameters of each block is taken, not over \
             its activations, since parameters are what an update moves. The claim needs all tokens inside, and rank correlations above 0.9.",
        ),
        checks,
    )
    .table("Norm over 1 - p: 5th, 50th and 95th percentile", &["where", "5 %", "median", "95 %"], rows)
    .with_figure("l1-single-tokens", single_panels(&all, least).svg()))
}

/// The paper's norms by quartile, relative to that of all tokens (Fig. 1 d).
const PAPER_NORMS: [f64; 4] = [0.715 / 0.818, 0.357 / 0.818, 0.236 / 0.818, 0.148 / 0.818];

/// The gradient of a whole bin falls with its probability.
pub fn by_bin(c: &LoptiContext<'_>) -> anyhow::Result<ClaimFinding> {
    let batches = c.scale.probe.0;
    let measure = |seed: &u64| {
        c.measured(*seed, "gradient by quartile", |bench| {
            let mut arms: Unit = vec![Vec::new(); 5];
            for n in 0..batches {
                let rollouts = bench.batch(n)?;
                let found = bench.gradient_by_quartile(&rollouts)?;
                let norms = found.quartiles.iter().map(|q| q.0).chain([found.all]);
                arms.iter_mut().zip(norms).for_each(|(arm, norm)| arm.push(if norm.is_finite() { norm } else { 0.0 }));
            }
            Ok(arms)
        })
    };
    let units = c.seeds.iter().map(measure).collect::<anyhow::Result<Vec<Unit>>>()?;
    let mut checks: Vec<ClaimCheck> = (0..3)
        .map(|b| {
            let what = format!("norm of p {} over norm of p {}", BINS[b], BINS[b + 1]);
            ClaimCheck::new(what, Estimate::of(&units, move |m| m[b] / m[b + 1]), Above(1.0))
        })
        .collect();
    checks.push(ClaimCheck::new("norm of p < 0.25 over norm of all tokens", Estimate::of(&units, |m| m[0] / m[4]), Above(0.7)));
    let rows = (0..4).map(|b| {
        vec![
            BINS[b].into(),
            number(mean(&seed_means(&units, b))),
            with_interval(&Estimate::of(&units, move |m| m[b] / m[4])),
            number(PAPER_NORMS[b]),
        ]
    });
    let relative: Vec<Unit> = units.iter().map(|u| (0..4).map(|b| vec![mean(&u[b]) / mean(&u[4])]).collect()).collect();
    let bars =
        add(Bars::new("L2: gradient norm of each quartile's tokens, over that of all tokens", &BINS), "here", &relative, 4)
            .bars("the paper (Fig. 1 d)", &PAPER_NORMS)
            .subtitle("true gradient with respect to all parameters, other tokens masked; mean and range over seeds")
            .x("probability of the sampled token")
            .y("norm over norm of all tokens");
    Ok(ClaimFinding::new(
        "L2",
        "The gradient of the least probable quartile is the largest, though it has the fewest tokens",
        "Fig. 1 (a, d): 0.715 > 0.357 > 0.236 > 0.148 by quartile, 0.818 for all tokens",
        format!(
            "{batches} batches of {} completions a seed: advantages masked to one quartile at a time, one backward pass each, parameters \
             unchanged. The claim needs each norm above the next, and that of the lowest quartile above 0.7 of the whole.",
            c.scale.probe.1
        ),
        checks,
    )
    .table("Norms", &["probability", "norm", "over that of all tokens [95 %]", "the paper"], rows.collect())
    .with_figure("l2-gradient-by-quartile", bars.svg()))
}
