//! Output of `lehr merge sweep --json` and `lehr landscape --json`, as far as it is shown.

use serde::Deserialize;

/// A number that JSON cannot hold is null.
type OptionalNumber = Option<f64>;

/// A run's sweep.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sweep {
    /// Tokens scored.
    pub eval_tokens: u64,
    /// Loss of the raw checkpoints.
    pub raw: Vec<Raw>,
    /// Best cell of each step.
    pub best: Vec<Cell>,
    /// All merges.
    pub cells: Vec<Cell>,
}

/// A raw checkpoint.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Raw {
    /// Its step.
    pub at: u64,
    /// Its loss.
    pub loss: OptionalNumber,
}

/// A merge.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Cell {
    /// Step of the newest checkpoint.
    pub at: u64,
    /// Updates between checkpoints.
    pub every: u64,
    /// Checkpoints.
    pub last: usize,
    /// Their weights.
    pub method: String,
    /// Its factor.
    pub alpha: OptionalNumber,
    /// Validation loss.
    pub loss: OptionalNumber,
    /// Why there is none.
    pub missing: Option<String>,
    /// Raw loss minus this.
    pub gain: OptionalNumber,
    /// Mean age of the weights, in updates.
    pub mean_age: OptionalNumber,
}

impl Cell {
    /// Method and factor.
    pub fn rule(&self) -> String {
        self.alpha.map_or_else(|| self.method.clone(), |alpha| format!("{} {alpha}", self.method))
    }
}

/// The loss on a plane.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Landscape {
    /// Tokens scored.
    pub eval_tokens: u64,
    /// Oldest first.
    pub checkpoints: Vec<MarkedPoint>,
    /// Their mean.
    pub mean: MarkedPoint,
    /// A merge.
    pub merged: Option<MarkedPoint>,
    /// Whether merging pays.
    pub test: Test,
    /// Losses, a row for each y.
    pub grid: Grid,
}

/// A marked point.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MarkedPoint {
    /// Its short name.
    pub letter: String,
    /// Across.
    pub x: OptionalNumber,
    /// Up.
    pub y: OptionalNumber,
    /// Its own loss.
    pub loss: OptionalNumber,
}

/// Noise against lag.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Test {
    /// Mean loss of the checkpoints minus that of their mean.
    pub noise_reduction: OptionalNumber,
    /// Mean loss minus the latest one's.
    pub lag: OptionalNumber,
    /// The first minus the second.
    pub gain: OptionalNumber,
}

/// Values at crossings of xs and ys.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Grid {
    /// Across.
    pub x: Vec<f64>,
    /// Up.
    pub y: Vec<f64>,
    /// A row for each y.
    pub loss: Vec<Vec<OptionalNumber>>,
}
