//! P4, P5, P6 and their combination: weighting, interval and count, at the paper's four evaluation points.

use crate::merge::MergeRule;
use crate::papers::finding::{ClaimFinding, number, with_interval};
use crate::papers::pma::measure::{Measure, arm_mean, arm_range};
use crate::papers::pma::plan::{SnapshotWindow, readout};
use crate::papers::pma::scale::{GRID, N, READOUTS, V0};
use crate::papers::pma::sized_model::HeldOutScores;
use crate::papers::stats::{Estimate, Unit, mean, range, spearman};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing, Within};
use crate::plot::{Bars, Chart, Panels, Series};

/// A merge scheme, independent of the evaluation point.
struct Scheme {
    name: &'static str,
    every: u64,
    n: usize,
    rule: MergeRule,
}

impl Scheme {
    const fn new(name: &'static str, every: u64, n: usize, rule: MergeRule) -> Self {
        Self { name, every, n, rule }
    }

    fn window(&self, at: u64) -> SnapshotWindow {
        SnapshotWindow { at, every: self.every, n: self.n, rule: self.rule.clone() }
    }
}

/// Fig. 4 as in the paper's text, then the other reading of EMA.
fn weightings() -> Vec<Scheme> {
    vec![
        Scheme::new("WMA", V0, N, MergeRule::Wma),
        Scheme::new("EMA 0.2", V0, N, MergeRule::Ema { alpha: 0.2 }),
        Scheme::new("SMA", V0, N, MergeRule::Sma),
        Scheme::new("EMA 0.1", V0, N, MergeRule::Ema { alpha: 0.1 }),
        Scheme::new("EMA 0.2 norm.", V0, N, MergeRule::EmaNormalized { alpha: 0.2 }),
        Scheme::new("EMA 0.1 norm.", V0, N, MergeRule::EmaNormalized { alpha: 0.1 }),
    ]
}

/// Fig. 5, top.
fn intervals() -> Vec<Scheme> {
    let names = ["V0/2", "V0", "2 V0", "4 V0"];
    names.iter().enumerate().map(|(i, name)| Scheme::new(name, (V0 / 2) << i, N, MergeRule::Sma)).collect()
}

/// Fig. 5, bottom.
fn counts() -> Vec<Scheme> {
    [("N = 3", 3), ("N = 6", 6), ("N = 10", 10), ("N = 15", 15)].map(|(name, n)| Scheme::new(name, V0, n, MergeRule::Sma)).into()
}

/// Losses of all sizes and seeds at an evaluation point: the newest checkpoint, then each scheme.
fn units(m: &Measure<'_>, schemes: &[Scheme], at: u64) -> anyhow::Result<Vec<Unit>> {
    let mut out = Vec::new();
    for size in &m.context.scale.sizes {
        out.extend(m.units(|seed| {
            let windows = std::iter::once(SnapshotWindow::single(at)).chain(schemes.iter().map(|s| s.window(at)));
            windows.map(|w| m.base(size, seed, &w)).collect::<anyhow::Result<Vec<HeldOutScores>>>()
        })?);
    }
    Ok(out)
}

/// Losses at all four evaluation points.
struct SchemeGrid {
    schemes: Vec<Scheme>,
    readouts: Vec<Vec<Unit>>,
}

impl SchemeGrid {
    fn new(m: &Measure<'_>, schemes: Vec<Scheme>) -> anyhow::Result<Self> {
        let readouts = READOUTS.iter().map(|at| units(m, &schemes, *at)).collect::<anyhow::Result<_>>()?;
        Ok(Self { schemes, readouts })
    }

    /// Index of a scheme among a unit's arms.
    fn arm(&self, name: &str) -> usize {
        1 + self.schemes.iter().position(|s| s.name == name).unwrap_or(0)
    }

    /// Gain of merging by a scheme over the newest checkpoint.
    fn gain(&self, readout: usize, name: &str) -> Estimate {
        let arm = self.arm(name);
        Estimate::of(&self.readouts[readout], move |m| m[0] - m[arm])
    }

    /// Loss of the second scheme minus that of the first.
    fn loss_difference(&self, readout: usize, one: &str, other: &str) -> Estimate {
        let (one, other) = (self.arm(one), self.arm(other));
        Estimate::of(&self.readouts[readout], move |m| m[other] - m[one])
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (i, units) in self.readouts.iter().enumerate() {
            rows.push(vec![readout(i).into(), "latest".into(), String::new(), number(arm_mean(units, 0)), String::new()]);
            for s in &self.schemes {
                let window = s.window(READOUTS[i]);
                rows.push(vec![
                    readout(i).into(),
                    s.name.into(),
                    window.available().to_string(),
                    number(arm_mean(units, self.arm(s.name))),
                    with_interval(&self.gain(i, s.name)),
                ]);
            }
        }
        rows
    }

    fn figure(&self, title: &str, subtitle: &str) -> String {
        let mut panels = Panels::new(title, 2).subtitle(subtitle);
        for (i, units) in self.readouts.iter().enumerate() {
            let mut names = vec!["latest"];
            names.extend(self.schemes.iter().map(|s| s.name));
            let values: Vec<f64> = (0..names.len()).map(|arm| arm_mean(units, arm)).collect();
            // Variation over sizes is not uncertainty of a scheme: error bars are those of the gain.
            let errors: Vec<(f64, f64)> = (0..names.len())
                .map(|arm| {
                    let [low, high] = Estimate::of(units, move |m| m[0] - m[arm]).bootstrap;
                    (values[0] - high, values[0] - low)
                })
                .collect();
            let chart = Bars::new(&format!("at {} of the tokens", readout(i)), &names).y("validation loss (nats)").from_any();
            panels = panels.panel(chart.bars_with_errors("", &values, &errors));
        }
        panels.svg()
    }
}

const COLUMNS: [&str; 5] = ["read-out", "scheme", "N available", "loss", "gain over the latest [95 %]"];
const MEANS: &str = "mean over sizes and seeds; error bars: 95 % bootstrap of the gain over the latest checkpoint";

/// Weighting schemes.
pub fn p4(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let grid = SchemeGrid::new(m, weightings())?;
    let early = |one, other| {
        let what = format!("12.75 %: {one} lower than {other} (nats)");
        ClaimCheck::new(what, grid.loss_difference(0, one, other), Above(0.0))
    };
    let spread = |m: &[f64]| {
        let (low, high) = range(m[1..5].iter().copied());
        (high - low) / (m[0] - m[3])
    };
    let checks = vec![
        early("WMA", "EMA 0.2"),
        early("EMA 0.2", "SMA"),
        early("SMA", "EMA 0.1"),
        ClaimCheck::new(
            "100 %: spread of the four schemes over the gain of SMA",
            Estimate::of(&grid.readouts[3], spread),
            Below(0.1),
        ),
        ClaimCheck::new(
            "12.75 %, other reading of EMA: EMA 0.1 renormalised (norm.) lower than SMA (nats)",
            grid.loss_difference(0, "EMA 0.1 norm.", "SMA"),
            Nothing,
        ),
        ClaimCheck::new(
            "12.75 %, other reading of EMA: EMA 0.1 renormalised (norm.) lower than EMA 0.1 as a recursion (nats)",
            grid.loss_difference(0, "EMA 0.1 norm.", "EMA 0.1"),
            Nothing,
        ),
    ];
    Ok(ClaimFinding::new(
        "P4",
        "Early in training WMA > EMA 0.2 > SMA > EMA 0.1; late all are alike",
        "Fig. 4: 204B tokens: 47.89, 47.65, 47.01, 46.04 (latest 45.93); 1607B: 60.79 to 60.54",
        "N = 10, V0, all sizes and seeds together, at the paper's four read-outs. EMA by Eq. 4 with A_1 = M_1, and, reported beside it, with \
         the weights of Sec. 4.2 made to sum to 1 (norm.). The claim needs each step of the early order, and a spread at the end below a tenth of \
         what merging gains."
            .into(),
        checks,
    )
    .table("By read-out and weighting", &COLUMNS, grid.rows())
    .with_figure("p4-weighting", grid.figure("P4: how checkpoints are weighted", MEANS)))
}

/// Intervals.
pub fn p5(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let grid = SchemeGrid::new(m, intervals())?;
    let spread = |units: &[Unit]| {
        Estimate::of(units, |m| {
            let (low, high) = range(m[1..].iter().copied());
            high - low
        })
    };
    let [first, last] = [spread(&grid.readouts[0]), spread(&grid.readouts[3])];
    let shrinks: Vec<f64> = first.units.iter().zip(&last.units).map(|(f, l)| l / f).collect();
    let checks = vec![
        ClaimCheck::new("12.75 %: gain at V0/2 (nats)", grid.gain(0, "V0/2"), Above(0.0)),
        ClaimCheck::new("12.75 %: gain at 2 V0 (nats)", grid.gain(0, "2 V0"), Below(0.0)),
        ClaimCheck::new("12.75 %: gain at 4 V0 (nats)", grid.gain(0, "4 V0"), Below(0.0)),
        ClaimCheck::new("spread over V at 100 % over that at 12.75 %", Estimate::of_values(&shrinks), Below(0.5)),
        ClaimCheck::new("100 %: gain at 4 V0 (nats)", grid.gain(3, "4 V0"), Nothing),
    ];
    Ok(ClaimFinding::new(
        "P5",
        "Large intervals hurt early, below the unmerged checkpoint; late they matter little",
        "Fig. 5 top: at 204B V = 4, 8, 16, 32B give 47.9, 47.0, 42.2, 41.3 (latest 45.9); at 1607B all lie within 60.3 to 60.8",
        "SMA, N = 10 (fewer where there are not enough checkpoints, as in the paper), V from V0/2 to 4 V0, all sizes and seeds together. The \
         claim needs a gain at V0/2 and a loss at 2 V0 and 4 V0 at 12.75 %, and a spread over V that shrinks to less than half."
            .into(),
        checks,
    )
    .table("By read-out and interval", &COLUMNS, grid.rows())
    .with_figure("p5-interval", grid.figure("P5: the interval between checkpoints", MEANS)))
}

/// Counts.
pub fn p6(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let grid = SchemeGrid::new(m, counts())?;
    let mut checks = Vec::new();
    for pair in ["N = 3", "N = 6", "N = 10", "N = 15"].windows(2) {
        let what = format!("12.75 %: {} lower than {} (nats)", pair[0], pair[1]);
        checks.push(ClaimCheck::new(what, grid.loss_difference(0, pair[0], pair[1]), Above(0.0)));
    }
    for pair in ["N = 3", "N = 6", "N = 10"].windows(2) {
        let what = format!("100 %: {} lower than {} (nats)", pair[1], pair[0]);
        checks.push(ClaimCheck::new(what, grid.loss_difference(3, pair[1], pair[0]), Above(0.0)));
    }
    let [ten, fifteen] = [grid.arm("N = 10"), grid.arm("N = 15")];
    let alike = Estimate::of(&grid.readouts[3], move |m| (m[fifteen] - m[ten]) / (m[0] - m[ten]));
    checks.push(ClaimCheck::new("100 %: N = 15 minus N = 10, over the gain of N = 10", alike, Within(0.1)));
    Ok(ClaimFinding::new(
        "P6",
        "Many checkpoints hurt early and help late: N = 3 > 6 > 10 > 15, then 3 < 6 < 10 ~ 15",
        "Fig. 5 bottom: at 204B N = 3, 6, 10, 15 give 48.1, 47.9 (or the two swapped: the labels allow it), 47.0, 45.4; at 1607B 59.7, 60.1, 60.8, 60.8",
        "SMA, V0, all sizes and seeds together. The claim needs each step of both orders, and N = 15 within a tenth of the gain of N = 10 at \
         the end."
            .into(),
        checks,
    )
    .table("By read-out and count", &COLUMNS, grid.rows())
    .with_figure("p6-count", grid.figure("P6: the number of checkpoints", MEANS)))
}

/// Gain against mean age and effective count, for all schemes.
pub fn p56(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let mut schemes = weightings();
    schemes.extend(intervals().into_iter().filter(|s| s.every != V0));
    schemes.extend(counts().into_iter().filter(|s| s.n != N));
    let grid = SchemeGrid::new(m, schemes)?;
    let place = |at: u64, s: &Scheme| -> anyhow::Result<[f64; 2]> {
        let w = s.window(at).weights()?;
        Ok([MergeRule::mean_age(&w) * s.every as f64 / at as f64, MergeRule::effective_count(&w)])
    };
    let mut correlations = vec![[Vec::new(), Vec::new()]; READOUTS.len()];
    let mut rows = Vec::new();
    for (i, units) in grid.readouts.iter().enumerate() {
        let places = grid.schemes.iter().map(|s| place(READOUTS[i], s)).collect::<anyhow::Result<Vec<_>>>()?;
        for unit in units {
            let gains: Vec<f64> = (1..unit.len()).map(|arm| mean(&unit[0]) - mean(&unit[arm])).collect();
            for k in 0..2 {
                correlations[i][k].push(spearman(&gains, &places.iter().map(|p| p[k]).collect::<Vec<_>>()));
            }
        }
        let [age, count] = [0, 1].map(|k| Estimate::of_values(&correlations[i][k]));
        rows.push(vec![readout(i).into(), with_interval(&age), with_interval(&count)]);
    }
    let checks = vec![
        ClaimCheck::new("12.75 %: rank correlation of gain and mean age", Estimate::of_values(&correlations[0][0]), Below(-0.9)),
        ClaimCheck::new(
            "100 %: rank correlation of gain and effective count",
            Estimate::of_values(&correlations[3][1]),
            Above(0.7),
        ),
        ClaimCheck::new("100 %: rank correlation of gain and mean age", Estimate::of_values(&correlations[3][0]), Nothing),
    ];
    let svg = collapse(m, &grid, &place)?;
    Ok(ClaimFinding::new(
        "P5/6+",
        "Early the gain is a function of the mean age of the merged weights, late of their effective number (ours, from the paper's numbers)",
        "Computed from Fig. 4 and 5: at 204B the gain falls from +2.2 to -4.6 as the mean age grows from 8B to 80B; late it is ordered by N",
        format!(
            "All {} schemes of P4, P5 and P6. Mean age is the weighted age of the checkpoints, effective count is 1 / sum w². For each size and \
             seed the rank correlation of the gains with either. The claim needs < -0.9 with age at 12.75 %, > 0.7 with the count at 100 %.",
            grid.schemes.len()
        ),
        checks,
    )
    .table(
        "Spearman's correlation of the gain, mean over sizes and seeds",
        &["read-out", "with mean age [95 %]", "with effective count [95 %]"],
        rows,
    )
    .with_figure("p56-collapse", svg))
}

/// Gain of every scheme against its mean age (as a share of the tokens so far) and its effective count, first and last evaluation point.
fn collapse(
    m: &Measure<'_>,
    grid: &SchemeGrid,
    place: &dyn Fn(u64, &Scheme) -> anyhow::Result<[f64; 2]>,
) -> anyhow::Result<String> {
    let seeds = m.context.seeds.len();
    let mut panels = Panels::new("P4 to P6 in one picture: lag against averaging", 2)
        .subtitle("each dot a scheme: weighting, interval or count; mean and range over seeds");
    for (i, k) in [(0, 0), (0, 1), (3, 0), (3, 1)] {
        let label = ["mean age / tokens so far", "effective count 1 / sum w²"][k];
        let mut chart = Chart::new(&format!("at {}", readout(i))).x(label).y("gain over the latest (nats)").hline(0.0, "");
        for (size, units) in m.context.scale.sizes.iter().zip(grid.readouts[i].chunks(seeds)) {
            let (mut points, mut ranges) = (Vec::new(), Vec::new());
            for s in &grid.schemes {
                let gains: Vec<Unit> = units.iter().map(|u| vec![vec![mean(&u[0]) - mean(&u[grid.arm(s.name)])]]).collect();
                points.push((place(READOUTS[i], s)?[k], arm_mean(&gains, 0)));
                ranges.push(arm_range(&gains, 0));
            }
            chart = chart.add(Series::scatter(&format!("size {}", size.name), &points).with_errors(&ranges));
        }
        panels = panels.panel(chart);
    }
    debug_assert!(READOUTS[3] == GRID);
    Ok(panels.svg())
}
