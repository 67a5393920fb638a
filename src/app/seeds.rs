//! Runs that differ only in their seed, as one: mean and spread.

use super::curve_cache::Spread;
use super::state::{AppState, OpenRun};
use crate::config::Settings;
use crate::history::{Clock, Curve, CurveView};
use crate::stats::{deviation, mean};
use std::path::PathBuf;

/// Positions at which mean and spread are taken.
const POSITIONS: usize = 160;

/// Runs that differ only in their seed are grouped, in the order of the first of each.
pub fn groups(state: &AppState, runs: &[PathBuf]) -> Vec<Vec<PathBuf>> {
    let mut groups: Vec<(Option<Settings>, Vec<PathBuf>)> = Vec::new();
    for path in runs {
        let key = state.run(path).and_then(|run| run.files.settings.clone()).map(seedless);
        match groups.iter_mut().find(|(k, _)| key.is_some() && *k == key) {
            Some((_, members)) => members.push(path.clone()),
            None => groups.push((key, vec![path.clone()])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

fn seedless(mut settings: Settings) -> Settings {
    settings.train.seed = 0;
    settings
}

/// Mean and spread of a metric between two positions, each curve smoothed over `share` of its points.
pub fn spread(runs: &[&OpenRun], metric: &str, share: f64, how: &CurveView) -> Vec<Spread> {
    let curves: Vec<(&Clock, &Curve, usize)> = runs
        .iter()
        .filter_map(|run| {
            let curve = run.files.history.curves.get(metric)?;
            Some((&run.files.history.clock, curve, curve.reach(share)))
        })
        .collect();
    let mut found = Vec::new();
    for i in 0..=POSITIONS {
        let x = how.from + (how.to - how.from) * i as f64 / POSITIONS as f64;
        let at = |(clock, curve, reach): &(&Clock, &Curve, usize)| {
            Some(curve.smoothed_at(curve.index_at(clock, how.axis, x)?, *reach))
        };
        let values: Vec<f64> = curves.iter().filter_map(at).filter(|y| y.is_finite()).collect();
        if values.is_empty() {
            continue;
        }
        let std = if values.len() < 2 { 0.0 } else { deviation(&values) };
        found.push(Spread { x, mean: mean(&values), std });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Step};
    use crate::history::Axis;
    use std::path::Path;

    fn run(name: &str, seed: u64, level: f64, steps: u64) -> OpenRun {
        let mut run = OpenRun::new(Path::new(name), 0);
        let mut settings = Settings::default();
        settings.train.seed = seed;
        run.files.settings = Some(settings);
        (1..=steps).for_each(|step| run.files.history.push(Event::Step(Step { step, loss: level, ..Step::default() })));
        run
    }

    #[test]
    fn seeds_stand_together_and_their_spread_is_that_of_the_runs_that_have_come_so_far() {
        let mut state = AppState::default();
        state.runs = vec![run("a", 1, 1.0, 10), run("b", 2, 3.0, 5), run("c", 3, 9.0, 10)];
        state.runs[2].files.settings.as_mut().unwrap().train.learning_rate = 0.5;
        let paths: Vec<PathBuf> = ["a", "b", "c"].map(PathBuf::from).into();
        let groups = groups(&state, &paths);
        assert_eq!(groups, [vec![PathBuf::from("a"), PathBuf::from("b")], vec![PathBuf::from("c")]]);
        let how = CurveView { axis: Axis::Steps, from: 1.0, to: 10.0, columns: 100, log: false };
        let found = spread(&[&state.runs[0], &state.runs[1]], "loss", 0.0, &how);
        assert_eq!((found[0].mean, found[0].std), (2.0, 2f64.sqrt()));
        assert_eq!((found[POSITIONS].mean, found[POSITIONS].std), (1.0, 0.0));
    }
}
