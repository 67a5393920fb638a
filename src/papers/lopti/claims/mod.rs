//! The claims of arXiv 2505.12929, one family per file. The paper's figures are quoted from its text; see each `paper` field.

mod ablations;
mod cost;
mod methods;
mod step;
mod sweeps;
mod tokens;

use super::arm::{ArmEval, LoptiRecord};
use super::context::{LoptiContext, levels, mean_of, range_of};
use super::plan::{Setting, UpdateMethod};
use crate::papers::finding::{ClaimFinding, ResultTable, number};
use crate::papers::stats::Estimate;
use crate::plot::{Bars, Chart, Series};

/// Quartiles of probability, for axes and tables.
pub const BINS: [&str; 4] = ["< 0.25", "0.25-0.5", "0.5-0.75", "> 0.75"];

/// Measure a claim.
///
/// # Errors
/// A device error, a full disk, or an interruption.
pub fn find(c: &LoptiContext<'_>, claim: &str) -> anyhow::Result<ClaimFinding> {
    match claim {
        "L0" => tokens::regime(c),
        "L1" => tokens::single(c),
        "L2" => tokens::by_bin(c),
        "L3" => step::selective(c),
        "L4" => step::right_direction(c),
        "L5" => methods::puzzles(c),
        "L5b" => methods::controls(c),
        "L6" => sweeps::alpha(c),
        "L7" => sweeps::eta(c),
        "L8" => ablations::reversed(c),
        "L9" => ablations::masked(c),
        "L10" => methods::plus_plus(c),
        "L11" => cost::update_time(c),
        "L12" => methods::sums(c),
        "L13" => sweeps::updates(c),
        _ => anyhow::bail!("{claim}: no such claim"),
    }
}

/// Arms of a method, one per seed.
struct MethodArms {
    name: String,
    records: Vec<LoptiRecord>,
}

impl MethodArms {
    fn accuracy(&self, level: Option<u32>) -> f64 {
        mean_of(&self.records, |r| r.accuracy(level))
    }
}

/// The arms of these methods, trained if necessary.
fn rows(c: &LoptiContext<'_>, ways: &[(Setting, UpdateMethod)]) -> anyhow::Result<Vec<MethodArms>> {
    let arms: Vec<_> = c.seeds.iter().flat_map(|seed| ways.iter().map(|(s, w)| c.plan().arm(*s, *w, *seed))).collect();
    c.ensure(&arms)?;
    ways.iter()
        .map(|(setting, way)| Ok(MethodArms { name: setting.name_of(*way), records: c.records(*setting, *way)? }))
        .collect()
}

/// `a` minus `b`, by seed.
fn difference(a: &MethodArms, b: &MethodArms, value: impl Fn(&LoptiRecord) -> f64) -> Estimate {
    let pairs = a.records.iter().zip(&b.records);
    Estimate::of_values(&pairs.map(|(a, b)| value(a) - value(b)).collect::<Vec<_>>())
}

/// Accuracy over all questions.
fn accuracy(r: &LoptiRecord) -> f64 {
    r.accuracy(None)
}

/// Accuracy by level, as in the paper's tables.
fn level_table(title: &str, of: &[MethodArms], unit: &str) -> ResultTable {
    let all = levels(of.first().map_or(&[], |r| &r.records));
    let mut columns = vec!["arm".to_string()];
    columns.extend(all.iter().map(|l| format!("{l} {unit}")));
    columns.extend(["all", "all, by seed", "greedy", "sampled", "reward, last quarter", "updates", "minutes"].map(String::from));
    let last = |r: &LoptiRecord, greedy: bool| {
        r.evals.last().map_or(f64::NAN, |e| ArmEval::accuracy(if greedy { &e.greedy } else { &e.sampled }, None))
    };
    let rows = of.iter().map(|row| {
        let mut cells = vec![row.name.clone()];
        cells.extend(all.iter().map(|l| format!("{:.3}", row.accuracy(Some(*l)))));
        cells.push(format!("**{:.3}**", row.accuracy(None)));
        cells.push(row.records.iter().map(|r| format!("{:.3}", r.accuracy(None))).collect::<Vec<_>>().join(", "));
        cells.extend([true, false].map(|greedy| format!("{:.3}", mean_of(&row.records, |r| last(r, greedy)))));
        cells.push(format!("{:.2}", mean_of(&row.records, LoptiRecord::late_reward)));
        cells.push(number(mean_of(&row.records, |r| r.updates as f64)));
        cells.push(format!("{:.1}", mean_of(&row.records, |r| r.seconds / 60.0)));
        cells
    });
    ResultTable { title: title.into(), columns, rows: rows.collect() }
}

/// Accuracy before reinforcement learning, as text.
fn accuracy_before(of: &[MethodArms]) -> String {
    let first = of.first().map_or(f64::NAN, |r| mean_of(&r.records, LoptiRecord::accuracy_before));
    format!("accuracy before reinforcement {first:.3}")
}

/// Bars of accuracy by level, with the range over seeds.
fn level_bars(title: &str, of: &[MethodArms], unit: &str) -> Bars {
    let all = levels(of.first().map_or(&[], |r| &r.records));
    let mut names: Vec<String> = all.iter().map(|l| format!("{l} {unit}")).collect();
    names.push("all".into());
    let groups: Vec<Option<u32>> = all.into_iter().map(Some).chain([None]).collect();
    let mut bars = Bars::new(title, &names).y("share of right answers");
    for row in of {
        let values: Vec<f64> = groups.iter().map(|l| row.accuracy(*l)).collect();
        let ranges: Vec<(f64, f64)> = groups.iter().map(|l| range_of(&row.records, |r| r.accuracy(*l))).collect();
        bars = bars.bars_with_errors(&row.name, &values, &ranges);
    }
    bars
}

/// Mean reward of each step over seeds, smoothed.
fn reward_chart(title: &str, of: &[MethodArms]) -> Chart {
    let mut chart = Chart::new(title).x("step").y("mean reward");
    for row in of {
        let steps = row.records.iter().map(|r| r.reward.len()).min().unwrap_or(0);
        let points: Vec<(f64, f64)> = (0..steps).map(|i| ((i + 1) as f64, mean_of(&row.records, |r| r.reward[i]))).collect();
        chart = chart.add(Series::line(&row.name, &points).smoothed((steps / 6).max(1)));
    }
    chart
}
