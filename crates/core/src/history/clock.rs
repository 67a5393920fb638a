//! The time axes of a run, counted in five ways.

/// Quantity on the horizontal axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Axis {
    /// Updates.
    #[default]
    Steps,
    /// Training tokens seen.
    Tokens,
    /// Unix time, in seconds.
    Wall,
    /// Seconds of training, without pauses.
    Relative,
    /// Updates since the start of the run: a fork begins at 0.
    RelativeSteps,
}

impl Axis {
    /// All axes.
    pub const ALL: [Self; 5] = [Self::Steps, Self::Tokens, Self::Wall, Self::Relative, Self::RelativeSteps];

    /// Axis label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Steps => "step",
            Self::Tokens => "tokens",
            Self::Wall => "time of day",
            Self::Relative => "seconds of training",
            Self::RelativeSteps => "steps since the run began",
        }
    }
}

/// Time positions of a run: a row for every moment at which a metric was measured.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    columns: [Vec<f64>; 5],
    extents: [Option<(f64, f64)>; 5],
}

impl Clock {
    /// Add a row; returns its index.
    pub(super) fn push(&mut self, steps: f64, tokens: f64, wall: f64, seconds: f64, relative_steps: f64) -> u32 {
        let row = self.columns[0].len() as u32;
        // In the order of `Axis::ALL`.
        for (i, x) in [steps, tokens, wall, seconds, relative_steps].into_iter().enumerate() {
            self.columns[i].push(x);
            if x.is_finite() {
                self.extents[i] = Some(self.extents[i].map_or((x, x), |(low, high)| (low.min(x), high.max(x))));
            }
        }
        row
    }

    /// First and last position on an axis.
    pub fn extent(&self, axis: Axis) -> Option<(f64, f64)> {
        self.extents[axis as usize]
    }

    /// The position of a row on an axis; NaN for a missing row.
    pub fn at(&self, axis: Axis, row: u32) -> f64 {
        self.columns[axis as usize].get(row as usize).copied().unwrap_or(f64::NAN)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.columns[0].len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.columns[0].is_empty()
    }
}
