//! Cache of curves cut for the screen, kept until a curve or the view changes: an unchanged frame does not search curves.

use crate::history::CurveView;
use egui_plot::PlotPoint;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

/// Maximum number of cached shapes: more than a page of charts of many runs.
const MOST: usize = 4096;

/// The source of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CurveSource {
    /// For several runs the mean over them is drawn.
    pub runs: Vec<PathBuf>,
    pub metric: String,
    /// The smoothed line instead of the measured one.
    pub smooth: bool,
}

/// Parameters of a shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Making {
    pub cut: CurveView,
    /// Whether the vertical axis is logarithmic.
    pub log_y: bool,
    /// Points on each side that a smoothed line averages over.
    pub reach: usize,
    /// For each run the reading of its log and the number of points.
    pub points: Vec<(u64, usize)>,
}

/// Mean and spread of several runs at a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Where on the axis.
    pub x: f64,
    /// Mean over the runs that have reached it.
    pub mean: f64,
    /// Standard deviation (n - 1); 0 of a single run.
    pub std: f64,
}

/// Plot coordinate of a position on the horizontal axis.
pub(super) fn plot_coordinate(x: f64, log: bool) -> f64 {
    if log { x.max(1e-9).log10() } else { x }
}

/// Lines in plot coordinates: logarithms if an axis is logarithmic.
#[derive(Debug, Default)]
pub(super) struct CurveShape {
    pub lines: Vec<Vec<PlotPoint>>,
    /// For several seeds: position, lower, upper.
    pub band: [Vec<f64>; 3],
    /// The same as numbers, for the read-out.
    pub spread: Vec<Spread>,
    /// Minimum and maximum on the vertical axis; None without points.
    pub span: Option<(f64, f64)>,
}

impl CurveShape {
    /// From lines. A value without a logarithm ends a line: joined across it, the neighbours would hide it.
    pub fn of_lines(lines: Vec<Vec<[f64; 2]>>, how: &Making) -> Self {
        let mut placed = Vec::new();
        for line in lines {
            let points: Vec<_> = line.into_iter().map(|p| how.place(p[0], p[1])).collect();
            let parts = points.split(Option::is_none).filter(|part| !part.is_empty());
            placed.extend(parts.map(|part| part.iter().flatten().copied().collect()));
        }
        Self { lines: placed, ..Self::default() }.measured()
    }

    /// The mean of several runs, with one standard deviation on each side.
    pub fn of_spread(spread: Vec<Spread>, how: &Making) -> Self {
        let mean = spread.iter().filter_map(|s| how.place(s.x, s.mean)).collect();
        let mut band = [const { Vec::new() }; 3];
        for s in &spread {
            if let (Some(low), Some(high)) = (how.place(s.x, s.mean - s.std), how.place(s.x, s.mean + s.std)) {
                band.iter_mut().zip([low.x, low.y, high.y]).for_each(|(column, v)| column.push(v));
            }
        }
        Self { lines: vec![mean], band, spread, span: None }.measured()
    }

    fn measured(mut self) -> Self {
        let values = self.lines.iter().flatten().map(|p| p.y).chain(self.band[1..].iter().flatten().copied());
        self.span = values.fold(None, |span, y| Some(span.map_or((y, y), |(low, high): (f64, f64)| (low.min(y), high.max(y)))));
        self
    }
}

impl Making {
    fn place(&self, x: f64, y: f64) -> Option<PlotPoint> {
        let y = if self.log_y { (y > 0.0).then(|| y.log10())? } else { y };
        Some(PlotPoint::new(plot_coordinate(x, self.cut.log), y))
    }
}

/// The cache.
#[derive(Debug, Default)]
pub struct CurveCache {
    kept: HashMap<CurveSource, (Making, Rc<CurveShape>)>,
}

impl CurveCache {
    /// The shape of a source, computed only if it is not cached.
    pub(super) fn get(&mut self, source: CurveSource, how: Making, make: impl FnOnce(&Making) -> CurveShape) -> Rc<CurveShape> {
        if let Some((made, shape)) = self.kept.get(&source)
            && *made == how
        {
            return shape.clone();
        }
        let shape = Rc::new(make(&how));
        if self.kept.len() >= MOST {
            self.kept.clear();
        }
        self.kept.insert(source, (how, shape.clone()));
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Axis;

    fn source(metric: &str) -> CurveSource {
        CurveSource { runs: vec!["a".into()], metric: metric.into(), smooth: false }
    }

    fn how(to: f64, points: usize) -> Making {
        let cut = CurveView { axis: Axis::Steps, from: 1.0, to, columns: 10, log: false };
        Making { cut, log_y: false, reach: 0, points: vec![(0, points)] }
    }

    #[test]
    fn a_shape_is_made_again_when_its_curve_or_its_view_has_changed_and_not_before() {
        let (mut cuts, mut made) = (CurveCache::default(), 0);
        let mut look = |metric: &str, how: Making| {
            cuts.get(source(metric), how, |_| {
                made += 1;
                CurveShape::default()
            });
            made
        };
        assert_eq!(look("loss", how(9.0, 5)), 1);
        assert_eq!(look("loss", how(9.0, 5)), 1);
        assert_eq!(look("reward", how(9.0, 5)), 2);
        assert_eq!(look("loss", how(9.0, 6)), 3, "a new point");
        assert_eq!(look("loss", how(8.0, 6)), 4, "another view");
        assert_eq!(look("loss", Making { points: vec![(1, 6)], ..how(8.0, 6) }), 5, "a log that was begun anew");
        assert_eq!(look("loss", Making { log_y: true, ..how(8.0, 6) }), 6);
        assert_eq!(look("reward", how(9.0, 5)), 6);
    }

    #[test]
    fn a_value_without_logarithm_is_a_gap() {
        let log = Making { log_y: true, ..how(9.0, 3) };
        let shape = CurveShape::of_lines(vec![vec![[1.0, 10.0], [2.0, 0.0], [3.0, 1000.0], [4.0, 100.0], [5.0, -1.0]]], &log);
        let places: Vec<Vec<_>> = shape.lines.iter().map(|line| line.iter().map(|p| (p.x, p.y)).collect()).collect();
        assert_eq!((places, shape.span), (vec![vec![(1.0, 1.0)], vec![(3.0, 3.0), (4.0, 2.0)]], Some((1.0, 3.0))));
        let spread = vec![Spread { x: 1.0, mean: 10.0, std: 20.0 }, Spread { x: 2.0, mean: 100.0, std: 0.0 }];
        let shape = CurveShape::of_spread(spread, &log);
        assert_eq!((shape.lines[0].len(), &shape.band[0]), (2, &vec![2.0]), "the band's lower side has no logarithm");
    }
}
