//! The JSON data that `assets/report/report.js` draws.

use super::charts::{Plot, short};
use super::html::visible;
use super::run::ReportRun;
use super::trace::Trace;
use crate::history::{Axis, Clock, History, Pin, PinKind};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// All data for the script.
#[derive(Serialize)]
pub(super) struct Data {
    clocks: Vec<Moments>,
    /// Lists of clock rows that curves share.
    grids: Vec<Vec<u32>>,
    charts: Vec<ChartData>,
    runs: Vec<RunData>,
}

/// Time positions, in three columns.
#[derive(Default, Serialize)]
struct Moments {
    step: Vec<u64>,
    tokens: Vec<u64>,
    seconds: Vec<f64>,
}

#[derive(Serialize)]
struct RunData {
    name: String,
    pins: Vec<PinData>,
}

#[derive(Serialize)]
struct PinData {
    /// Index into the run's clock.
    at: u32,
    kind: &'static str,
    text: String,
    /// Text beside the mark, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    short: String,
}

#[derive(Serialize)]
struct ChartData {
    id: String,
    log: bool,
    range: Option<(f64, f64)>,
    lines: Vec<LineData>,
}

#[derive(Serialize)]
struct LineData {
    run: usize,
    clock: usize,
    color: usize,
    dash: usize,
    /// Index of the grid, and the values; two values at the same row are the minimum and maximum around it.
    grid: usize,
    raw: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    smooth: Option<(usize, Vec<f64>)>,
}

/// Approximate maximum number of save marks of a run.
const MOST_SAVES: usize = 60;
/// Maximum number of other marks.
const MOST_PINS: usize = 400;

/// Collect the data.
pub(super) fn data(runs: &[ReportRun], plots: &[Plot]) -> Data {
    let mut out = Data { clocks: Vec::new(), grids: Vec::new(), charts: Vec::new(), runs: Vec::new() };
    let mut indices = Vec::new();
    let pins: Vec<Vec<&Pin>> = runs.iter().map(|run| pins(run.history())).collect();
    for (index, run) in runs.iter().enumerate() {
        for derived in [false, true] {
            let history = if derived { &run.derived } else { run.history() };
            let lines = plots.iter().flat_map(|p| &p.lines).filter(|l| l.run == index && l.derived == derived);
            let traces = lines.flat_map(|l| [Some(&l.raw), l.smooth.as_ref()]).flatten();
            let mut rows: BTreeSet<u32> = traces.flat_map(|t| t.rows.iter().copied()).collect();
            if !derived {
                rows.extend(pins[index].iter().map(|pin| pin.row));
            }
            indices.push(rows.iter().zip(0..).map(|(row, i)| (*row, i)).collect::<BTreeMap<u32, u32>>());
            out.clocks.push(moments(&history.clock, &rows));
        }
    }
    for ((run, pins), index) in runs.iter().zip(&pins).zip(indices.iter().step_by(2)) {
        let pins = pins.iter().filter_map(|pin| {
            let loud = matches!(pin.kind, PinKind::Rescue | PinKind::LiveSettings | PinKind::Merge);
            let short = if loud { short(pin) } else { String::new() };
            Some(PinData { at: *index.get(&pin.row)?, kind: word(pin.kind), text: cut(&pin.text), short: cut(&short) })
        });
        out.runs.push(RunData { name: cut(&run.name), pins: pins.collect() });
    }
    let mut known: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
    for plot in plots {
        let mut lines = Vec::new();
        for line in &plot.lines {
            let clock = 2 * line.run + usize::from(line.derived);
            let mut grid = |trace: &Trace| {
                let list: Vec<u32> = trace.rows.iter().filter_map(|row| indices[clock].get(row).copied()).collect();
                *known.entry(list).or_insert_with_key(|list| {
                    out.grids.push(list.clone());
                    out.grids.len() - 1
                })
            };
            let smooth = line.smooth.as_ref().map(|trace| (grid(trace), rounded(&trace.values)));
            let (grid, raw) = (grid(&line.raw), rounded(&line.raw.values));
            lines.push(LineData { run: line.run, clock, color: line.color, dash: line.dash, grid, raw, smooth });
        }
        out.charts.push(ChartData { id: plot.id(), log: plot.is_log(), range: plot.spec.range, lines });
    }
    out
}

/// The marks to show: a selection of saves, and all others up to a maximum.
fn pins(history: &History) -> Vec<&Pin> {
    let saves = history.pins.iter().filter(|pin| pin.kind == PinKind::Save).count();
    let every = saves.div_ceil(MOST_SAVES).max(1);
    let (mut save, mut other) = (0usize, 0usize);
    let keep = |pin: &&Pin| {
        let n = if pin.kind == PinKind::Save { &mut save } else { &mut other };
        *n += 1;
        if pin.kind == PinKind::Save { (*n - 1).is_multiple_of(every) } else { *n <= MOST_PINS }
    };
    history.pins.iter().filter(keep).collect()
}

fn moments(clock: &Clock, rows: &BTreeSet<u32>) -> Moments {
    let column = |axis| rows.iter().map(move |row| clock.at(axis, *row));
    let whole = |axis| column(axis).map(|v| v.max(0.0) as u64).collect();
    Moments {
        step: whole(Axis::Steps),
        tokens: whole(Axis::Tokens),
        seconds: column(Axis::Relative).map(|v| (v * 100.0).round() / 100.0).collect(),
    }
}

/// Rounded to seven digits, the precision of f32.
fn rounded(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| format!("{v:.6e}").parse().unwrap_or(f64::NAN)).collect()
}

fn word(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Start => "start",
        PinKind::Save => "save",
        PinKind::Merge => "merge",
        PinKind::Rescue => "rescue",
        PinKind::LiveSettings => "changed",
        PinKind::Pause => "pause",
        PinKind::Warning => "warning",
        PinKind::End => "end",
    }
}

/// Shortened; the script inserts it as text, never as markup.
fn cut(text: &str) -> String {
    visible(text, 200)
}
