//! Assignment of lines to charts, and charts as figures.

use super::html::visible;
use super::run::{MORE, ReportRun};
use super::trace::{Trace, trace};
use crate::history::chart_spec::{CHARTS, ChartSpec, SMOOTH, label, smoothing};
use crate::history::{Pin, PinKind};
use crate::plot::{Chart, Series};

/// A line of a chart.
pub(super) struct ReportLine {
    /// Index of the run.
    pub run: usize,
    /// Whether it is from the run's own metrics or from those derived from its token statistics.
    pub derived: bool,
    /// Legend label.
    pub label: String,
    pub color: usize,
    pub dash: usize,
    pub raw: Trace,
    pub smooth: Option<Trace>,
    /// The legend's value for a metric of batches: the mean of its last tenth, because a single one says little.
    pub end: Option<f64>,
}

/// A chart with at least one line.
pub(super) struct Plot {
    pub spec: &'static ChartSpec,
    pub lines: Vec<ReportLine>,
    /// Window of the longest smoothed line, in values.
    pub window: usize,
}

/// Maximum points of a line; fewer for many runs.
const MOST_POINTS: usize = 1500;
/// Maximum lines of a chart; norms of very deep models would exceed it.
const MOST_LINES: usize = 64;

/// All charts for which these runs have data.
pub(super) fn plots(runs: &[ReportRun]) -> Vec<Plot> {
    let most = (12 * MOST_POINTS / runs.len().max(1)).clamp(200, MOST_POINTS);
    let of = |specs: &'static [ChartSpec], derived: bool| {
        specs.iter().filter_map(move |spec| {
            let plot = plot(runs, spec, derived, most);
            (!plot.lines.is_empty()).then_some(plot)
        })
    };
    of(CHARTS, false).chain(of(MORE, true)).collect()
}

fn plot(runs: &[ReportRun], spec: &'static ChartSpec, derived: bool, most: usize) -> Plot {
    let mut out = Plot { spec, lines: Vec::new(), window: 1 };
    let (several, colors) = (runs.len() > 1, crate::plot::SERIES.len());
    let mut names: Vec<&str> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let history = if derived { &run.derived } else { run.history() };
        for metric in spec.of(history) {
            let Some(curve) = history.curves.get(metric).filter(|c| c.extremes(0..c.len()).is_some()) else { continue };
            if !names.contains(&metric) {
                names.push(metric);
            }
            let which = names.iter().position(|name| *name == metric).unwrap_or(0);
            // One run: colours distinguish metrics. Several: colours distinguish runs, and dashes metrics.
            let own = spec.colors(&names)[which];
            let (color, dash) = if several { (run.hue, which + index / colors) } else { (own, own / colors) };
            let words = if derived { metric.to_owned() } else { label(metric) };
            let share = if derived { 0.0 } else { smoothing(metric, SMOOTH) };
            let reach = curve.reach(share);
            out.window = out.window.max(2 * reach + 1);
            let smooth = (reach > 0).then(|| trace(&history.clock, &curve.smoothed(&history.clock, reach), most));
            let raw = trace(&history.clock, curve, most);
            let end = history.newest_mean(metric).filter(|(_, n)| share > 0.0 && *n > 1).map(|(mean, _)| mean);
            if out.lines.len() < MOST_LINES {
                out.lines.push(ReportLine { run: index, derived, label: words, color, dash, raw, smooth, end });
            }
        }
    }
    if several {
        let one = names.len() == 1;
        for line in &mut out.lines {
            let name = &runs[line.run].name;
            line.label = if one { name.clone() } else { format!("{name} · {}", line.label) };
        }
    }
    out
}

impl Plot {
    /// An identifier for file names and anchors.
    pub fn id(&self) -> String {
        slug(self.spec.title)
    }

    /// The chart as a figure. With `alone` it includes title and legend; otherwise the page shows them.
    pub fn chart(&self, runs: &[ReportRun], alone: bool) -> Chart {
        let mut chart = Chart::new(self.spec.title).x("step").y(self.spec.y).size(760.0, if alone { 440.0 } else { 330.0 });
        if !alone {
            chart = chart.without_captions();
        }
        if self.is_log() {
            chart = chart.log_y();
        } else if let Some((low, high)) = self.spec.range {
            chart = chart.y_range(low - 0.02 * (high - low), high + 0.02 * (high - low));
        }
        for line in &self.lines {
            let clock = if line.derived { &runs[line.run].derived.clock } else { &runs[line.run].history().clock };
            let named = |name: &str, trace: &Trace| Series::line(name, &trace.points(clock)).color(line.color).dashes(line.dash);
            chart = match &line.smooth {
                None => chart.add(named(&line.label, &line.raw)),
                Some(smooth) => {
                    chart.add(Series::line("", &line.raw.points(clock)).color(line.color).pale()).add(named(&line.label, smooth))
                }
            };
        }
        for (_, run) in runs.iter().enumerate().filter(|(index, _)| self.lines.iter().any(|line| line.run == *index)) {
            for pin in run.history().pins.iter().filter(|pin| changes_course(pin)).take(8) {
                let name = if runs.len() > 1 { format!("{}: {}", run.name, short(pin)) } else { short(pin) };
                chart = chart.vline(pin.step as f64, &name);
            }
        }
        chart
    }

    /// Whether the vertical axis is logarithmic.
    pub fn is_log(&self) -> bool {
        self.spec.log_y && self.lines.iter().any(|line| line.raw.values.iter().any(|v| *v > 0.0))
    }
}

/// Whether a mark changes the course of a run.
fn changes_course(pin: &Pin) -> bool {
    matches!(pin.kind, PinKind::Rescue | PinKind::LiveSettings)
}

/// Short text of a mark.
pub(super) fn short(pin: &Pin) -> String {
    match pin.kind {
        PinKind::Rescue => "rescue".into(),
        PinKind::LiveSettings => visible(pin.text.rsplit_once(", from").map_or("", |(change, _)| change), 60),
        _ => visible(&pin.text, 60),
    }
}

/// `Time of a step` as `time-of-a-step`.
pub(super) fn slug(title: &str) -> String {
    let lower = title.to_lowercase();
    let parts: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    parts.join("-")
}
