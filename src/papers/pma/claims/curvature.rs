//! P10: do deviations of checkpoints from the optimum complement each other? Sec. 4.6 and App. C, by curvature and by a slice of the loss.

use crate::merge::MergeRule;
use crate::papers::finding::{ClaimFinding, with_interval};
use crate::papers::pma::arm::{PmaArm, TrainingText};
use crate::papers::pma::measure::{Measure, arm_text};
use crate::papers::pma::plan::SnapshotWindow;
use crate::papers::pma::scale::{FORK, GRID, N, V0};
use crate::papers::pma::sized_model::{SizedModel, hessian_times};
use crate::papers::stats::{Estimate, Unit, mean};
use crate::papers::verdict::ClaimCheck;
use crate::papers::verdict::Requirement::{Above, Below, Nothing};
use crate::plot::{Chart, Contours, Field, Mark, Panels, Series};
use serde::{Deserialize, Serialize};

/// Tokens per gradient.
const TOKENS: u64 = 8192;
/// Step of the finite differences, as a fraction of a deviation.
const STEP: f64 = 0.1;
/// Divisor of the validation tokens for a point of the slice.
const SLICE_PART: usize = 4;

/// d_i^T H d_j of a window's checkpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Forms {
    forms: Vec<Vec<f64>>,
}

impl Forms {
    fn own(&self) -> f64 {
        mean(&(0..self.forms.len()).map(|i| self.forms[i][i]).collect::<Vec<_>>())
    }

    /// Mean over i != j divided by the mean over i = j: 1 if all deviate alike, 0 if independently, below 0 if they complement each other.
    fn cross(&self) -> f64 {
        let n = self.forms.len();
        let sum: f64 =
            (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| (i, j))).map(|(i, j)| self.forms[i][j]).sum();
        sum / (n * (n - 1)) as f64 / self.own()
    }

    /// Mean over i != j of d_i^T H d_j divided by the root of the product of both own forms: the cosine in H, independent of lengths.
    fn cosine(&self) -> f64 {
        let f = &self.forms;
        let pairs = (0..f.len()).flat_map(|i| (0..f.len()).filter(move |j| *j != i).map(move |j| (i, j)));
        mean(&pairs.map(|(i, j)| f[i][j] / (f[i][i] * f[j][j]).sqrt()).collect::<Vec<_>>())
    }

    /// d^T H d of the mean divided by that of the newest: below 1 where merging beats the newest checkpoint in the quadratic approximation.
    fn merged_over_newest(&self) -> f64 {
        let n = self.forms.len();
        let all: f64 = self.forms.iter().flatten().sum();
        all / (n * n) as f64 / self.forms[n - 1][n - 1]
    }
}

/// Curvature between the deviations of some checkpoints of an arm from the annealed end.
fn curvature_forms(
    m: &Measure<'_>,
    sized_model: &SizedModel<'_>,
    end: &PmaArm,
    arm: &PmaArm,
    window: &SnapshotWindow,
) -> anyhow::Result<Forms> {
    let size = m.context.scale.smallest();
    let checkpoints = &m.context.checkpoints;
    let steps: Vec<u64> = window.snapshots().into_iter().map(|s| size.at(s)).collect();
    let key = [checkpoints.key(end), checkpoints.key(arm), format!("{steps:?} {TOKENS} {STEP}")];
    checkpoints.cached(&["forms", &key[0], &key[1], &key[2]], || {
        let centre = checkpoints.weights(end, size.at(GRID))?;
        let mut deviations: Vec<Vec<f64>> = Vec::new();
        for step in &steps {
            let values = checkpoints.weights(arm, *step)?;
            deviations.push(values.iter().zip(&centre).map(|(v, c)| f64::from(*v) - f64::from(*c)).collect());
        }
        let mut products = Vec::new();
        for d in &deviations {
            crate::papers::jobs::check()?;
            products.push(hessian_times(&mut |at| sized_model.gradient(at, TOKENS), &centre, d, STEP)?);
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        // Finite differences leave some asymmetry; the Hessian is symmetric.
        let form = |i: usize, j: usize| 0.5 * (dot(&deviations[i], &products[j]) + dot(&deviations[j], &products[i]));
        Ok(Forms { forms: (0..steps.len()).map(|i| (0..steps.len()).map(|j| form(i, j)).collect()).collect() })
    })
}

/// Evaluation points of P10: the end of the constant rate, then two in the decay.
fn evaluation_points() -> [(&'static str, bool, SnapshotWindow); 3] {
    let decay = |part: f64| FORK + (part * (GRID - FORK) as f64) as u64;
    let inside = |at| SnapshotWindow { at, every: V0 / 2, n: N, rule: MergeRule::Sma };
    [
        ("constant rate, 100 %", false, SnapshotWindow::standard(GRID)),
        ("decay, 50 %", true, inside(decay(0.5))),
        ("decay, 90 %", true, inside(decay(0.9))),
    ]
}

/// A number of each seed's forms.
fn estimate(forms: &[Forms], value: impl Fn(&Forms) -> f64) -> Estimate {
    Estimate::of_values(&forms.iter().map(value).collect::<Vec<_>>())
}

/// Losses of three checkpoints of the base runs and of their mean, for all sizes.
fn three_and_mean(m: &Measure<'_>) -> anyhow::Result<Vec<Unit>> {
    let mut all = Vec::new();
    for size in &m.context.scale.sizes {
        all.extend(m.units(|seed| {
            let mean = SnapshotWindow { at: GRID, every: THREE, n: 3, rule: MergeRule::Sma };
            let windows = three_snapshots(GRID).map(SnapshotWindow::single).into_iter().chain([mean]);
            windows.map(|window| m.base(size, seed, &window)).collect()
        })?);
    }
    Ok(all)
}

fn curvature_checks(found: &[Vec<Forms>], losses: &[Unit]) -> Vec<ClaimCheck> {
    vec![
        ClaimCheck::new("normalised cross terms at the constant rate", estimate(&found[0], Forms::cross), Below(0.25)),
        ClaimCheck::new("normalised cross terms at 90 % of the decay", estimate(&found[2], Forms::cross), Above(0.75)),
        ClaimCheck::new(
            "d'Hd of the mean over that of the newest, constant rate (A.10: noise reduction beats lag below 1)",
            estimate(&found[0], Forms::merged_over_newest),
            Below(1.0),
        ),
        ClaimCheck::new(
            "loss: the best of three checkpoints minus their mean (nats), all sizes",
            Estimate::of(losses, |a| a[0].min(a[1]).min(a[2]) - a[3]),
            Above(0.0),
        ),
        ClaimCheck::new("normalised cross terms at 50 % of the decay", estimate(&found[1], Forms::cross), Nothing),
        ClaimCheck::new("mean cosine in H at the constant rate", estimate(&found[0], Forms::cosine), Nothing),
        ClaimCheck::new("mean cosine in H at 90 % of the decay", estimate(&found[2], Forms::cosine), Nothing),
    ]
}

/// Deviations complement each other.
pub fn p10(m: &Measure<'_>) -> anyhow::Result<ClaimFinding> {
    let (plan, size) = (m.context.plan(), m.context.scale.smallest());
    let arms: Vec<PmaArm> = m
        .context
        .scale
        .sizes
        .iter()
        .flat_map(|z| m.context.seeds.iter().map(|s| plan.annealed(z, *s)).collect::<Vec<_>>())
        .collect();
    m.context.ensure(&arms)?;
    let sized_model = m.sized_model(size)?;
    let mut found: Vec<Vec<Forms>> = Vec::new();
    for (_, inside, window) in evaluation_points() {
        let of = |seed: &u64| {
            let end = plan.annealed(size, *seed);
            let arm = if inside { end.clone() } else { plan.base(size, *seed) };
            curvature_forms(m, sized_model, &end, &arm, &window)
        };
        found.push(m.context.seeds.iter().map(of).collect::<anyhow::Result<_>>()?);
    }
    let inside = three_and_mean(m)?;
    let windows = evaluation_points();
    let rows = windows.iter().zip(&found).map(|((name, _, _), forms)| {
        let numbers =
            [Forms::cross, Forms::cosine, Forms::merged_over_newest].map(|value| with_interval(&estimate(forms, value)));
        [vec![name.to_string()], numbers.to_vec()].concat()
    });
    let rows: Vec<_> = rows.collect();
    let losses = vec![(0..4).map(|arm| arm_text(&inside, arm)).collect::<Vec<_>>()];
    let seed = m.context.seeds.first().copied().unwrap_or(1);
    Ok(ClaimFinding::new(
        "P10",
        "Checkpoints deviate from the optimum in complementary directions, and their mean lies inside of the contour that they lie on",
        "Eq. 6 to 15 and Fig. 8: a picture on MMLU; the cross terms were not measured",
        format!(
            "Size {}: theta* is the annealed end, d_i the deviations of the N = 10 checkpoints of a window, H d_j by central differences of the \
             gradient on {TOKENS} held-out tokens. Cross terms: mean of d_i'H d_j over i != j, over the mean of d_i'H d_i. The claim needs them \
             below 0.25 at the constant rate and above 0.75 late in the decay, d'Hd of the mean below that of the newest checkpoint, and (all \
             sizes) the mean of three checkpoints below the best of them.",
            size.name
        ),
        curvature_checks(&found, &inside),
    )
    .table("Curvature", &["window", "normalised cross terms [95 %]", "mean cosine in H [95 %]", "d'Hd: mean over newest [95 %]"], rows)
    .table("Loss of three checkpoints 2 % apart and of their mean, all sizes and seeds", &["oldest", "middle", "newest", "mean"], losses)
    .with_figure("p10-slice", slice(m, sized_model, &plan.base(size, seed), three_snapshots(GRID))?)
    .with_figure("p10-curvature", matrix(&found)))
}

/// Snapshots between the three checkpoints of the slice: 2 %.
const THREE: u64 = 8;

/// Three checkpoints, the newest at `at`.
fn three_snapshots(at: u64) -> [u64; 3] {
    [at - 2 * THREE, at - THREE, at]
}

/// The loss on the plane through three checkpoints.
fn slice(m: &Measure<'_>, sized_model: &SizedModel<'_>, arm: &PmaArm, three: [u64; 3]) -> anyhow::Result<String> {
    let (size, checkpoints) = (m.context.scale.smallest(), &m.context.checkpoints);
    let side = m.context.scale.slice;
    let points: Vec<Vec<f64>> = three
        .iter()
        .map(|at| Ok(checkpoints.weights(arm, size.at(*at))?.into_iter().map(f64::from).collect()))
        .collect::<anyhow::Result<_>>()?;
    // An orthonormal basis: the direction from the first to the last, and the part of the second orthogonal to it.
    let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x - y).collect::<Vec<f64>>();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let scaled = |a: &[f64], s: f64| a.iter().map(|x| x * s).collect::<Vec<f64>>();
    let along = less(&points[2], &points[0]);
    let along = scaled(&along, 1.0 / dot(&along, &along).sqrt());
    let second = less(&points[1], &points[0]);
    let upright = less(&second, &scaled(&along, dot(&second, &along)));
    let upright = scaled(&upright, 1.0 / dot(&upright, &upright).sqrt());
    let place = |p: &[f64]| {
        let d = less(p, &points[0]);
        (dot(&d, &along), dot(&d, &upright))
    };
    let places: Vec<(f64, f64)> = points.iter().map(|p| place(p)).collect();
    let merged = (mean(&places.iter().map(|p| p.0).collect::<Vec<_>>()), mean(&places.iter().map(|p| p.1).collect::<Vec<_>>()));
    let reach = places.iter().map(|p| (p.0 - merged.0).hypot(p.1 - merged.1)).fold(0.0, f64::max) * 1.3;
    let axis =
        |centre: f64| (0..side).map(|i| centre + reach * (2.0 * i as f64 / (side as f64 - 1.0) - 1.0)).collect::<Vec<f64>>();
    let (xs, ys) = (axis(merged.0), axis(merged.1));
    let key = [checkpoints.key(arm), format!("{three:?} {side}")];
    let values: Vec<Vec<f64>> = checkpoints.cached(&["slice", &key[0], &key[1]], || {
        let mut rows = Vec::new();
        for y in &ys {
            let mut row = Vec::new();
            for x in &xs {
                crate::papers::jobs::check()?;
                let weights: Vec<f32> = (0..along.len()).map(|i| (points[0][i] + x * along[i] + y * upright[i]) as f32).collect();
                row.push(
                    sized_model
                        .score_weights_on(&weights, TrainingText::Base, m.context.scale.val_tokens / SLICE_PART as u64)?
                        .loss(),
                );
            }
            rows.push(row);
        }
        Ok(rows)
    })?;
    let mut picture = Contours::new("P10: the loss on the plane through three checkpoints", Field { xs, ys, values })
        .subtitle(&format!("size {}, constant rate, checkpoints 2 % of the tokens apart; distances in weight space", size.name))
        .x("along oldest to newest")
        .y("upright to it")
        .bar("validation loss (nats)")
        .equal();
    for ((x, y), name) in places.iter().zip(["oldest", "middle", "newest"]) {
        picture = picture.point(*x, *y, name, Mark::Dot);
    }
    Ok(picture.point(merged.0, merged.1, "mean", Mark::Star).svg())
}

/// Normalised forms between checkpoints by their distance in the window.
fn matrix(found: &[Vec<Forms>]) -> String {
    let mut panels = Panels::new("P10: curvature between deviations", found.len())
        .subtitle("d_i'H d_j over the mean of d_i'H d_i, against the distance j - i; every pair of the window, all seeds");
    for ((name, _, _), seeds) in evaluation_points().iter().zip(found) {
        let mut chart = Chart::new(name).x("distance in the window (checkpoints)").y("normalised d_i'H d_j").hline(0.0, "");
        let (mut dots, mut line) = (Vec::new(), Vec::new());
        for distance in 1..N {
            let values: Vec<f64> = seeds
                .iter()
                .flat_map(|f| (distance..f.forms.len()).map(|j| f.forms[j - distance][j] / f.own()).collect::<Vec<_>>())
                .collect();
            dots.extend(values.iter().map(|v| (distance as f64, *v)));
            line.push((distance as f64, mean(&values)));
        }
        chart = chart.add(Series::scatter("pairs", &dots).pale()).add(Series::line("mean", &line).marked());
        panels = panels.panel(chart);
    }
    panels.svg()
}
