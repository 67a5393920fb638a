//! Charts: their metrics, labels and explanations, the same in window and report.

use super::History;

/// A chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChartSpec {
    /// Title.
    pub title: &'static str,
    /// The measured quantity, with its unit.
    pub y: &'static str,
    /// Metrics in drawing order; a name that ends in `*` matches all names with that prefix.
    pub metrics: &'static [&'static str],
    /// Whether the axis is logarithmic by default.
    pub log_y: bool,
    /// Lower and upper end of the axis, for metrics with a fixed range.
    pub range: Option<(f64, f64)>,
    /// How to read it, in one or two sentences.
    pub hint: &'static str,
}

const fn spec(title: &'static str, y: &'static str, metrics: &'static [&'static str], hint: &'static str) -> ChartSpec {
    ChartSpec { title, y, metrics, log_y: false, range: None, hint }
}

/// All charts, most important first.
pub const CHARTS: &[ChartSpec] = &[
    spec(
        "Loss",
        "nats per token",
        &["loss", "eval_loss", "merge/*", "anneal_estimate"],
        "Lower is better. A merged curve, where there is one, is the average of recent checkpoints on the same held-out tokens: at a \
         constant learning rate it runs below the raw one.",
    ),
    spec("Reward", "mean per completion", &["reward", "rewards/*"], "What the grader gave, and its parts. It should rise."),
    ChartSpec {
        range: Some((0.0, 1.0)),
        ..spec(
            "Accuracy",
            "share correct",
            &["eval_accuracy/greedy", "eval_accuracy/sampled", "accuracy", "eval_mean_token_accuracy", "mean_token_accuracy"],
            "Share of answers that are entirely right (GRPO), or of tokens that were the most probable one.",
        )
    },
    ChartSpec {
        range: Some((0.0, 1.0)),
        ..spec(
            "Accuracy by level",
            "share correct",
            &["eval_accuracy/greedy/*", "accuracy/*"],
            "Held-out questions by difficulty: the number of people of a puzzle, the grade of a sum.",
        )
    },
    ChartSpec {
        log_y: true,
        ..spec(
            "Gradient norm",
            "L2 norm",
            &["grad_norm", "grad_norm/*"],
            "Before clipping. A steady rise warns of divergence. With Lopti each step has a pass of low-probability and one of \
             high-probability tokens.",
        )
    },
    spec(
        "Policy loss",
        "loss",
        &["policy_loss"],
        "In GRPO it starts near 0 and does not measure progress, because advantages are centred: see the reward.",
    ),
    spec("Learning rate", "learning rate", &["learning_rate"], "The schedule, with live changes."),
    spec(
        "Entropy",
        "nats per token",
        &["entropy"],
        "Mean entropy of the next-token distribution. In GRPO, a collapse to 0 ends exploration.",
    ),
    spec(
        "KL divergence",
        "nats per token",
        &["kl", "ppo_kl"],
        "Estimated from the sampled tokens: of the policy from the reference model (k3, as in TRL), and from the policy that sampled, \
         within a step (ppo_kl, as in verl).",
    ),
    spec(
        "Clip ratio",
        "share of tokens",
        &["clip_ratio/region_mean", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/dual_mean"],
        "Share of tokens whose ratio was clipped. It is 0 in the first pass over a step's completions, because nothing has moved yet.",
    ),
    spec(
        "Completion length",
        "tokens",
        &["completions/mean_length", "completions/max_length", "completions/min_length", "completions/mean_terminated_length"],
        "Lengths of what was sampled.",
    ),
    ChartSpec {
        range: Some((0.0, 1.0)),
        ..spec(
            "Groups and limits",
            "share",
            &["frac_reward_zero_std", "completions/clipped_ratio"],
            "Groups whose answers all got the same reward teach nothing; completions that ran into the limit of their length may be cut.",
        )
    },
    spec("Speed", "tokens/s", &["tokens_per_second", "rollout_tokens_per_second"], "Throughput."),
    spec("Time of a step", "s", &["step_time", "timing_s/*"], "Time of each phase of a GRPO step."),
    spec("Device memory", "MiB", &["device_mib"], "What the run has taken of the device's memory."),
    ChartSpec {
        log_y: true,
        ..spec(
            "Sampler against trainer",
            "nats",
            &["mismatch/logprob_max_abs"],
            "Largest difference of a token's log-probability between sampling and training: rounding, if all is well.",
        )
    },
    ChartSpec { log_y: true, ..spec("Weights by part", "L2 norm", &["norms/weights/*"], "Size of each block's weights.") },
    ChartSpec {
        log_y: true,
        ..spec("Gradients by part", "L2 norm", &["norms/gradients/*"], "Size of each block's gradient, before clipping.")
    },
];

impl ChartSpec {
    /// The metrics of a run in this chart, in its order; a `*` matches names without a further `/` first, then the others.
    pub fn of<'a>(&self, run: &'a History) -> Vec<&'a str> {
        let mut found: Vec<&str> = Vec::new();
        for pattern in self.metrics {
            let has_numbers = |curve: &super::Curve| curve.extremes(0..curve.len()).is_some();
            // In GRPO `loss` is the policy loss, which has its own chart.
            let misleads = |name: &str| name == "loss" && run.stage() == "grpo";
            let matching = run.curves.iter().filter(|(name, curve)| has_numbers(curve) && !misleads(name));
            let matching = matching.map(|(name, _)| name.as_str());
            match pattern.strip_suffix('*') {
                None => found.extend(matching.filter(|name| name == pattern)),
                // Standard deviations are not drawn in charts of means.
                Some(start) => {
                    found.extend(
                        matching.filter(|name| name.len() > start.len() && name.starts_with(start) && !name.ends_with("/std")),
                    );
                }
            }
        }
        found.dedup();
        found
    }

    /// An index into the series' colours for each of these metrics of the chart, where colours distinguish metrics: validation, merged and
    /// estimated loss have the same colour everywhere.
    pub fn colors<S: AsRef<str>>(&self, metrics: &[S]) -> Vec<usize> {
        let own = |metric: &str| self.metrics.iter().position(|m| *m == metric);
        let known = self.metrics.iter().filter(|m| !m.ends_with('*')).count();
        let mut others = known..;
        let color = |metric: &str| fixed_color(metric).or_else(|| own(metric)).or_else(|| others.next()).unwrap_or(0);
        metrics.iter().map(AsRef::as_ref).map(color).collect()
    }
}

/// The colours of training and held-out losses, the same on every page, and of accuracies on the same texts.
fn fixed_color(metric: &str) -> Option<usize> {
    const LOSSES: [&str; 6] =
        ["loss", "eval_loss", "merge/sma/eval_loss", "anneal_estimate", "merge/ema/eval_loss", "merge/wma/eval_loss"];
    let loss = match metric {
        "mean_token_accuracy" => "loss",
        "eval_mean_token_accuracy" => "eval_loss",
        other => other,
    };
    LOSSES.iter().position(|name| *name == loss).or(metric.starts_with("merge/").then_some(2))
}

/// An index into the series' colours for a metric, as in the first chart that draws it.
pub fn color_of(metric: &str) -> usize {
    let known = CHARTS.iter().find_map(|spec| spec.metrics.iter().position(|name| *name == metric));
    fixed_color(metric).or(known).unwrap_or(0)
}

/// Legend label of a metric.
pub fn label(metric: &str) -> String {
    let known = match metric {
        "loss" => "training loss",
        "eval_loss" => "validation loss",
        "anneal_estimate" => "estimate if annealed",
        "grad_norm" => "gradient norm",
        "grad_norm/low" => "low-probability pass",
        "grad_norm/high" => "high-probability pass",
        "learning_rate" => "learning rate",
        "mean_token_accuracy" => "training tokens",
        "eval_mean_token_accuracy" => "held-out tokens",
        "accuracy" => "sampled in training",
        "eval_accuracy/greedy" => "held-out, greedy",
        "eval_accuracy/sampled" => "held-out, sampled",
        "tokens_per_second" => "training",
        "rollout_tokens_per_second" => "sampling",
        "kl" => "from the reference model",
        "ppo_kl" => "within a step",
        "frac_reward_zero_std" => "groups without variance",
        "completions/clipped_ratio" => "completions cut at the limit",
        "device_mib" => "device memory",
        "mismatch/logprob_max_abs" => "largest difference",
        _ => "",
    };
    if !known.is_empty() {
        return known.into();
    }
    if let Some(method) = metric.strip_prefix("merge/").and_then(|m| m.strip_suffix("/eval_loss")) {
        return format!("merged ({method})");
    }
    if let Some(level) = metric.strip_prefix("eval_accuracy/greedy/") {
        return format!("held-out, level {level}");
    }
    if let Some(level) = metric.strip_prefix("accuracy/") {
        return format!("sampled, level {level}");
    }
    let name = metric.rsplit_once("norms/").map_or(metric, |(_, rest)| rest.split_once('/').map_or(rest, |(_, part)| part));
    let name = ["rewards/", "timing_s/", "completions/", "clip_ratio/"]
        .iter()
        .find_map(|start| name.strip_prefix(start))
        .unwrap_or(name);
    name.trim_end_matches("/mean").trim_end_matches("_mean").replace('_', " ")
}

/// Default share of a curve's points that a smoothed line averages over.
pub const SMOOTH: f64 = 0.05;

/// Share of a metric's points that its line averages over, given the requested `share`: 0 for metrics without noise. If it is above 0,
/// the measured values are drawn pale behind the smoothed line.
pub fn smoothing(metric: &str, share: f64) -> f64 {
    let sparse = ["eval_", "merge/", "anneal_estimate", "learning_rate", "device_mib", "norms/"];
    if sparse.iter().any(|start| metric.starts_with(start)) { 0.0 } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Number, Step};

    #[test]
    fn a_chart_finds_its_metrics_and_no_others() {
        let mut run = History::default();
        let metrics = ["reward", "rewards/format/mean", "rewards/format/std", "kl", "accuracy/3"];
        let metrics = metrics.map(|name| (name.to_owned(), Number(1.0))).into();
        run.push(Event::Step(Step { step: 1, metrics, ..Step::default() }));
        let of = |title: &str| CHARTS.iter().find(|c| c.title == title).unwrap().of(&run);
        assert_eq!(of("Reward"), ["reward", "rewards/format/mean"]);
        assert_eq!(of("Accuracy by level"), ["accuracy/3"]);
        assert_eq!(of("Clip ratio"), [""; 0]);
        assert_eq!(
            [label("rewards/format/mean"), label("timing_s/gen"), label("norms/weights/layers.0")],
            ["format", "gen", "layers.0"]
        );
    }

    #[test]
    fn a_metric_has_the_same_colour_in_every_chart() {
        let loss = &CHARTS[0];
        assert_eq!(loss.colors(&["eval_loss", "merge/sma/eval_loss"]), [1, 2]);
        assert_eq!(loss.colors(&["loss", "merge/ema/eval_loss", "anneal_estimate", "merge/sma/eval_loss"]), [0, 4, 3, 2]);
        for metric in ["loss", "eval_loss", "merge/sma/eval_loss", "anneal_estimate"] {
            assert_eq!(loss.colors(&[metric]), [color_of(metric)], "{metric}");
        }
        let accuracy = CHARTS.iter().find(|c| c.title == "Accuracy").unwrap();
        assert_eq!(accuracy.colors(&["mean_token_accuracy", "eval_mean_token_accuracy"]), loss.colors(&["loss", "eval_loss"]));
        let rewards = CHARTS.iter().find(|c| c.title == "Reward").unwrap();
        assert_eq!(rewards.colors(&["reward", "rewards/a", "rewards/b"]), [0, 1, 2]);
    }

    #[test]
    fn chart_titles_are_distinct() {
        let titles: std::collections::BTreeSet<_> = CHARTS.iter().map(|c| c.title).collect();
        assert_eq!(titles.len(), CHARTS.len());
    }
}
