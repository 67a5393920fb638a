//! `lehr landscape`: the loss between checkpoints, and whether merging them improves it.

use crate::cli::held_out_text::{EvalProgress, HeldOutText, folder_of, prepare, run_of, save};
use crate::cli::output;
use crate::landscape::{MergeTest, Plane, PlaneRange, Quadratic};
use crate::merge::ring::average_in_f64;
use crate::merge::{MergeInputs, Verification};
use crate::model_files::weight_files::WeightFiles;
use crate::plot::{Contours, Field, Mark};
use crate::train::WeightEvaluator;
use crate::vfs::RealFs;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  The plane through three checkpoints of a run, with their mean:
    lehr landscape runs/stories@400 runs/stories@600 runs/stories@800 --out landscape
  The same with a merge of ten, which lies beside the plane, on a finer grid:
    lehr landscape runs/stories@400 runs/stories@600 runs/stories@800 --merged merged --grid 25

With more than three checkpoints the plane goes through the first, the middle and the last one; all of them are in the curvature test.";

/// Flags of `lehr landscape`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// At least three checkpoints, oldest first: RUN@STEP, RUN (its newest) or a model folder.
    #[arg(value_name = "CHECKPOINT", num_args = 3.., required = true)]
    checkpoints: Vec<String>,
    /// A merge of them, marked at its projection onto the plane.
    #[arg(long, value_name = "DIR|RUN@STEP")]
    merged: Option<String>,
    /// Points along each side of the square grid.
    #[arg(long, default_value_t = 15)]
    grid: usize,
    /// Margin around the checkpoints, as a share of their extent.
    #[arg(long, default_value_t = 0.4)]
    margin: f64,
    /// Also write landscape.json, landscape.csv and landscape.svg into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    text: HeldOutText,
}

/// Larger grids take days.
const MOST_POINTS: usize = 200;

/// A marked point of the plane.
struct PlanePoint {
    letter: String,
    name: String,
    at: (f64, f64),
    /// Distance of the weights from the plane.
    distance: f64,
    loss: f64,
}

struct LandscapeReport {
    /// The checkpoints, oldest first.
    points: Vec<PlanePoint>,
    mean: PlanePoint,
    merged: Option<PlanePoint>,
    field: Field,
    test: MergeTest,
    fit: Option<Quadratic>,
    eval_tokens: u64,
}

/// Evaluate, print, plot.
pub fn run(args: &Args) -> Result<i32> {
    ensure!((2..=MOST_POINTS).contains(&args.grid), "--grid {}: must lie between 2 and {MOST_POINTS}", args.grid);
    ensure!((0.0..=100.0).contains(&args.margin), "--margin {}: must lie between 0 and 100", args.margin);
    let mut dirs: Vec<PathBuf> = args.checkpoints.iter().map(|spec| folder_of(spec)).collect::<Result<_>>()?;
    let k = dirs.len();
    ensure!(k >= 3, "a landscape needs at least three checkpoints, {k} are given");
    dirs.extend(args.merged.as_deref().map(folder_of).transpose().context("--merged")?);
    // Hashes, shapes and vocabularies.
    let inputs = MergeInputs::open(&RealFs, &dirs, Verification::Hashes)?;
    prepare(args.out.as_deref())?;
    let evaluator = args.text.evaluator(&dirs[k - 1], run_of(&dirs[k - 1]).as_deref(), &args.text.device)?;
    let report = measure(args, &evaluator, &inputs)?;
    if args.json {
        output::json_line(&report.json())?;
    } else {
        report.lines().iter().try_for_each(|line| output::line(line))?;
    }
    if let Some(out) = &args.out {
        let json = serde_json::to_string_pretty(&report.json())? + "\n";
        save(out, &[("landscape.json", json), ("landscape.csv", report.csv()), ("landscape.svg", report.svg())])?;
    }
    Ok(0)
}

fn measure(args: &Args, evaluator: &WeightEvaluator, inputs: &MergeInputs) -> Result<LandscapeReport> {
    let k = args.checkpoints.len();
    let read = |files: &WeightFiles| evaluator.read(files);
    let sets: Vec<Vec<f32>> = inputs.folders.iter().map(|f| read(&f.weights)).collect::<Result<_>>()?;
    let corners = [0, k / 2, k - 1].map(|i| sets[i].as_slice());
    let plane = Plane::through(corners[0], corners[1], corners[2])?;
    let checkpoints: Vec<&[f32]> = sets[..k].iter().map(Vec::as_slice).collect();
    let mean = average_in_f64(&checkpoints, &vec![1.0 / k as f64; k]);
    let mut progress = EvalProgress::new(args.grid * args.grid + sets.len() + 1);
    let mut point = |letter: String, name: &str, weights: &[f32]| -> Result<PlanePoint> {
        let (at, distance) = plane.project(corners, weights)?;
        let loss = evaluator.loss(weights)?;
        progress.step();
        Ok(PlanePoint { letter, name: name.into(), at, distance, loss })
    };
    let mut points = Vec::new();
    for (i, weights) in checkpoints.iter().enumerate() {
        points.push(point(letter(i), &args.checkpoints[i], weights)?);
    }
    let mean = point("mean".into(), "the mean of the checkpoints", &mean)?;
    let merged = match &args.merged {
        Some(name) => Some(point("merged".into(), name, &sets[k])?),
        None => None,
    };
    let marked: Vec<(f64, f64)> = points.iter().chain([&mean]).chain(&merged).map(|p| p.at).collect();
    let [xs, ys] = PlaneRange::around(&marked, args.margin).axes(args.grid);
    let mut values = Vec::new();
    for y in &ys {
        let mut row = Vec::new();
        for x in &xs {
            row.push(evaluator.loss(&average_in_f64(&corners, &plane.weights(*x, *y)))?);
            progress.step();
        }
        values.push(row);
    }
    let field = Field { xs, ys, values };
    let losses: Vec<f64> = points.iter().map(|p| p.loss).collect();
    let test = MergeTest::new(&losses, mean.loss).context("no checkpoint")?;
    Ok(LandscapeReport { points, mean, merged, fit: Quadratic::fit(&field), field, test, eval_tokens: evaluator.tokens() })
}

/// A, B, ..., Z, A1, ...
fn letter(i: usize) -> String {
    let letter = char::from(b'A' + (i % 26) as u8);
    if i < 26 { letter.to_string() } else { format!("{letter}{}", i / 26) }
}

impl LandscapeReport {
    fn all(&self) -> impl Iterator<Item = &PlanePoint> {
        self.points.iter().chain([&self.mean]).chain(&self.merged)
    }

    fn places(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|p| p.at).collect()
    }

    /// The lowest value of the grid and its position.
    fn lowest(&self) -> Option<(f64, f64, f64)> {
        let rows = self.field.ys.iter().zip(&self.field.values);
        let cells = rows.flat_map(|(y, row)| self.field.xs.iter().zip(row).map(move |(x, v)| (*x, *y, *v)));
        cells.filter(|c| c.2.is_finite()).min_by(|a, b| a.2.total_cmp(&b.2))
    }

    fn lines(&self) -> Vec<String> {
        let tokens = output::count(self.eval_tokens);
        let n = self.field.xs.len();
        let title = format!("validation loss on the plane through {}, on {tokens} tokens, {n} x {n} points", self.corner_names());
        let mut out = output::folded(&title);
        let mut rows = vec![["", "loss", "x", "y", "off the plane"].map(String::from).to_vec()];
        for p in self.all() {
            let name = if p.letter.len() > 3 { p.letter.clone() + " " + &p.name } else { format!("{} {}", p.letter, p.name) };
            let name = if p.letter == "mean" { "mean".into() } else { name };
            rows.push(vec![
                name,
                format!("{:.4}", p.loss),
                format!("{:.3}", p.at.0),
                format!("{:.3}", p.at.1),
                format!("{:.3}", p.distance),
            ]);
        }
        if let Some((x, y, v)) = self.lowest() {
            rows.push(vec!["lowest of the grid".into(), format!("{v:.4}"), format!("{x:.3}"), format!("{y:.3}"), String::new()]);
        }
        out.extend(output::aligned(&rows, |_| true));
        out.push(String::new());
        let sentences = self.verdict().into_iter().chain(self.explained());
        out.extend(sentences.flat_map(|line| output::folded(&line)));
        out
    }

    /// Summary of the measurements.
    fn verdict(&self) -> Vec<String> {
        let t = &self.test;
        let (noise, lag) = (t.noise_reduction(), t.lag());
        let pays = if t.gain() > 0.0 {
            format!("noise reduction exceeds lag by {:.4}: the merge beats the latest checkpoint", t.gain())
        } else {
            format!("noise reduction falls short of lag by {:.4}: the merge does not beat the latest checkpoint", -t.gain())
        };
        vec![
            "Does merging pay? (measured)".into(),
            format!(
                "  mean loss of the checkpoints {:.4}, loss of their mean {:.4}: noise reduction {noise:.4}",
                t.mean_loss, t.merged_loss
            ),
            format!("  loss of the latest checkpoint {:.4}: lag {lag:.4}", t.latest_loss),
            format!("  {pays}"),
        ]
    }

    /// Comparison with a quadratic bowl.
    fn explained(&self) -> Vec<String> {
        let Some(fit) = &self.fit else { return vec!["No quadratic fits these points.".into()] };
        let [along, _, across] = fit.hessian;
        let [low, high] = fit.curvatures();
        let mut out = vec![
            format!("As a quadratic (fit to the grid, R² {:.3}; nats per squared distance)", fit.r2),
            format!("  curvature {along:.3e} along A to the last, {across:.3e} across; least {low:.3e}, most {high:.3e}"),
        ];
        let predicted = fit.noise_reduction(&self.places());
        let k = self.points.len();
        let beside = if k > 3 { " (of their places on the plane only)" } else { "" };
        out.push(format!(
            "  noise reduction by curvature, 1/(2k²) Σ (d_i − d_j)ᵀ H (d_i − d_j): {predicted:.4}{beside}, measured {:.4}",
            self.test.noise_reduction()
        ));
        out.push(match fit.condition_15(&self.places()) {
            Some((left, right)) => {
                let (sign, word) = if left < right { ("<", "holds") } else { (">=", "does not hold") };
                format!(
                    "  condition (15) of the paper {word}: Σ d_iᵀ H d_j = {left:.4} {sign} {right:.4} = (k − 1) Σ d_iᵀ H d_i. Wherever the loss \
                     curves upward it must; it says that the mean beats the average checkpoint, not the latest one"
                )
            }
            None => "  condition (15) of the paper has no meaning here: the fit curves downward somewhere, so that there is no optimum on the \
                     plane to measure from"
                .into(),
        });
        out
    }

    fn corner_names(&self) -> String {
        let k = self.points.len();
        let [a, b, c] = [0, k / 2, k - 1].map(|i| &self.points[i]);
        format!("{} {}, {} {}, {} {}", a.letter, a.name, b.letter, b.name, c.letter, c.name)
    }

    fn json(&self) -> Value {
        let point = |p: &PlanePoint| json!({"name": p.name, "letter": p.letter, "x": p.at.0, "y": p.at.1, "distance": p.distance, "loss": p.loss});
        let t = &self.test;
        let fit = self.fit.map(|fit| {
            let condition = fit.condition_15(&self.places());
            json!({
                "r2": fit.r2, "constant": fit.constant, "gradient": fit.gradient,
                "hessian": [[fit.hessian[0], fit.hessian[1]], [fit.hessian[1], fit.hessian[2]]], "curvatures": fit.curvatures(),
                "minimum": fit.minimum().map(|m| [m.0, m.1]), "noise_reduction": fit.noise_reduction(&self.places()),
                "condition_15": condition.map(|(left, right)| json!({"left": left, "right": right, "holds": left < right})),
            })
        });
        json!({
            "eval_tokens": self.eval_tokens,
            "checkpoints": self.points.iter().map(point).collect::<Vec<_>>(), "mean": point(&self.mean),
            "merged": self.merged.as_ref().map(point),
            "test": {
                "mean_loss": t.mean_loss, "merged_loss": t.merged_loss, "latest_loss": t.latest_loss,
                "noise_reduction": t.noise_reduction(), "lag": t.lag(), "gain": t.gain(), "merge_beats_latest": t.gain() > 0.0,
            },
            "quadratic": fit,
            "grid": {"x": self.field.xs, "y": self.field.ys, "loss": self.field.values},
        })
    }

    /// Every point of the grid, then the marked ones with their letter.
    fn csv(&self) -> String {
        let mut out = String::from("x,y,loss,distance,point\n");
        for (y, row) in self.field.ys.iter().zip(&self.field.values) {
            for (x, v) in self.field.xs.iter().zip(row) {
                let _ = writeln!(out, "{x},{y},{v},0,");
            }
        }
        for p in self.all() {
            let _ = writeln!(out, "{},{},{},{},{}", p.at.0, p.at.1, p.loss, p.distance, p.letter);
        }
        out
    }

    fn svg(&self) -> String {
        let mut plot = Contours::new("Validation loss on the plane through three checkpoints", self.field.clone())
            .subtitle(&format!("{}; the star is the mean of {}.", self.corner_names(), count_of(self.points.len())))
            .x("distance between weights, from A towards the last checkpoint")
            .y("distance across")
            .bar("validation loss (nats per token)")
            .levels(&self.levels())
            .equal()
            .path(&self.places());
        for p in &self.points {
            plot = plot.point(p.at.0, p.at.1, &format!("{} {:.4}", p.letter, p.loss), Mark::Dot);
        }
        if let Some(p) = &self.merged {
            plot = plot.point(p.at.0, p.at.1, &format!("merged {:.4} ({:.2} off the plane)", p.loss, p.distance), Mark::Cross);
        }
        plot = plot.point(self.mean.at.0, self.mean.at.1, &format!("mean {:.4}", self.mean.loss), Mark::Star);
        let t = &self.test;
        plot.footnote(&format!(
            "Noise reduction {:.4}, lag {:.4}: the mean is {:.4} {} the latest checkpoint. On {} validation tokens.",
            t.noise_reduction(),
            t.lag(),
            t.gain().abs(),
            if t.gain() > 0.0 { "below" } else { "above" },
            output::count(self.eval_tokens)
        ))
        .svg()
    }

    /// Contour levels spaced as rings of a round bowl: dense at the bottom, where the checkpoints are.
    fn levels(&self) -> Vec<f64> {
        let Some((lo, hi)) = self.field.extent().filter(|(lo, hi)| hi > lo) else { return Vec::new() };
        const RINGS: usize = 12;
        let mut levels: Vec<f64> = Vec::new();
        for i in 1..RINGS {
            let v = lo + (hi - lo) * (i as f64 / RINGS as f64).powi(2);
            // Rounded to a twentieth of the distance to the next ring.
            let step = 10f64.powf(((hi - lo) * (2 * i + 1) as f64 / (RINGS * RINGS) as f64 / 4.0).log10().floor());
            levels.push((v / step).round() * step);
        }
        levels.dedup();
        levels
    }
}

fn count_of(k: usize) -> String {
    if k == 3 { "the three".into() } else { format!("all {k} checkpoints") }
}
