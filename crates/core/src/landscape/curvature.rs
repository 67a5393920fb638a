//! Does merging help? Noise reduction against lag of the average, exactly from losses, and as explained by the curvature.
//!
//! Near an optimum L(theta) = L* + 1/2 d^T H d (PMA, Eq. 6). The mean loss of k checkpoints minus the loss of their mean is then
//! 1/(2 k^2) sum_(i<j) (d_i - d_j)^T H (d_i - d_j), Jensen's gap. It is positive wherever H is positive along the differences, which is
//! the paper's condition (15). For the merge to beat the *newest* checkpoint, the gap must also exceed the lag.

use crate::plot::Field;

/// Effect of merging k checkpoints on the loss. All three numbers are measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeTest {
    /// Mean loss of the checkpoints.
    pub mean_loss: f64,
    /// Loss of the averaged weights.
    pub merged_loss: f64,
    /// Loss of the newest checkpoint.
    pub latest_loss: f64,
}

impl MergeTest {
    /// From the checkpoints' losses, oldest first, and the loss of their mean; `None` without checkpoints.
    pub fn new(losses: &[f64], merged_loss: f64) -> Option<Self> {
        let latest_loss = *losses.last()?;
        Some(Self { mean_loss: losses.iter().sum::<f64>() / losses.len() as f64, merged_loss, latest_loss })
    }

    /// Loss reduction by averaging: mean_i L(M_i) - L(mean).
    pub fn noise_reduction(&self) -> f64 {
        self.mean_loss - self.merged_loss
    }

    /// Cost of including older checkpoints: mean_i L(M_i) - L(latest).
    pub fn lag(&self) -> f64 {
        self.mean_loss - self.latest_loss
    }

    /// L(latest) - L(mean): noise reduction minus lag.
    pub fn gain(&self) -> f64 {
        self.noise_reduction() - self.lag()
    }
}

/// c + g . p + 1/2 p^T H p, fitted to a loss on a plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quadratic {
    /// Value at (0, 0).
    pub constant: f64,
    /// Slope at (0, 0).
    pub gradient: [f64; 2],
    /// H_xx, H_xy, H_yy.
    pub hessian: [f64; 3],
    /// Share of variance that the fit explains.
    pub r2: f64,
}

impl Quadratic {
    /// Least-squares fit to the finite values of a field; `None` with fewer than six, or if they do not determine it.
    pub fn fit(field: &Field) -> Option<Self> {
        let mut points = Vec::new();
        for (y, row) in field.ys.iter().zip(&field.values) {
            points.extend(field.xs.iter().zip(row).filter(|(_, v)| v.is_finite()).map(|(x, v)| (*x, *y, *v)));
        }
        // Scaled by the plane's size, so that the equations are well conditioned.
        let size = points.iter().fold(0.0f64, |m, p| m.max(p.0.abs()).max(p.1.abs()));
        if points.len() < 6 || size <= 0.0 {
            return None;
        }
        let terms = |x: f64, y: f64| [1.0, x, y, 0.5 * x * x, x * y, 0.5 * y * y];
        let mean = points.iter().map(|p| p.2).sum::<f64>() / points.len() as f64;
        let mut equations = [[0.0; 7]; 6];
        for (x, y, v) in &points {
            let t = terms(x / size, y / size);
            for (row, ti) in equations.iter_mut().zip(t) {
                row[..6].iter_mut().zip(t).for_each(|(e, tj)| *e += ti * tj);
                row[6] += ti * (v - mean);
            }
        }
        let c = solve(equations)?;
        let left = |(x, y, v): &(f64, f64, f64)| {
            let fit: f64 = terms(x / size, y / size).iter().zip(c).map(|(t, c)| t * c).sum();
            (v - mean - fit).powi(2)
        };
        let rest: f64 = points.iter().map(left).sum();
        let all: f64 = points.iter().map(|p| (p.2 - mean).powi(2)).sum();
        Some(Self {
            constant: c[0] + mean,
            gradient: [c[1] / size, c[2] / size],
            hessian: [c[3], c[4], c[5]].map(|h| h / (size * size)),
            r2: if all > 0.0 { 1.0 - rest / all } else { 1.0 },
        })
    }

    /// Value at a point.
    pub fn at(&self, (x, y): (f64, f64)) -> f64 {
        self.constant + self.gradient[0] * x + self.gradient[1] * y + 0.5 * self.form((x, y), (x, y))
    }

    /// p^T H q
    pub fn form(&self, p: (f64, f64), q: (f64, f64)) -> f64 {
        let [a, b, c] = self.hessian;
        p.0 * (a * q.0 + b * q.1) + p.1 * (b * q.0 + c * q.1)
    }

    /// The two eigenvalues of H, smaller first.
    pub fn curvatures(&self) -> [f64; 2] {
        let [a, b, c] = self.hessian;
        let (middle, half) = ((a + c) / 2.0, ((a - c) / 2.0).hypot(b));
        [middle - half, middle + half]
    }

    /// The minimum; `None` if a curvature is not positive.
    pub fn minimum(&self) -> Option<(f64, f64)> {
        let [a, b, c] = self.hessian;
        let determinant = a * c - b * b;
        let [g, h] = self.gradient;
        (self.curvatures()[0] > 0.0).then(|| ((b * h - c * g) / determinant, (b * g - a * h) / determinant))
    }

    /// Jensen's gap of k points: 1/(2 k^2) sum_(i<j) (d_i - d_j)^T H (d_i - d_j). The origin of the d does not matter.
    pub fn noise_reduction(&self, points: &[(f64, f64)]) -> f64 {
        let k = points.len() as f64;
        let mut sum = 0.0;
        for (i, p) in points.iter().enumerate() {
            for q in &points[i + 1..] {
                let d = (p.0 - q.0, p.1 - q.1);
                sum += self.form(d, d);
            }
        }
        sum / (2.0 * k * k)
    }

    /// Both sides of the paper's condition (15), sum_(i != j) d_i^T H d_j < (k - 1) sum_i d_i^T H d_i, with d relative to the fit's
    /// minimum; `None` if it has none.
    pub fn condition_15(&self, points: &[(f64, f64)]) -> Option<(f64, f64)> {
        let (x, y) = self.minimum()?;
        let d: Vec<(f64, f64)> = points.iter().map(|p| (p.0 - x, p.1 - y)).collect();
        let own: f64 = d.iter().map(|p| self.form(*p, *p)).sum();
        let sum = d.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        Some((self.form(sum, sum) - own, (points.len() as f64 - 1.0) * own))
    }
}

/// Gaussian elimination with pivoting; `None` if the system is singular.
fn solve(mut m: [[f64; 7]; 6]) -> Option<[f64; 6]> {
    for k in 0..6 {
        let pivot = (k..6).max_by(|a, b| m[*a][k].abs().total_cmp(&m[*b][k].abs()))?;
        m.swap(k, pivot);
        let top = m[k];
        if top[k].abs() < 1e-12 {
            return None;
        }
        for row in &mut m[k + 1..] {
            let by = row[k] / top[k];
            row[k..].iter_mut().zip(&top[k..]).for_each(|(r, t)| *r -= by * t);
        }
    }
    let mut c = [0.0; 6];
    for k in (0..6).rev() {
        let known: f64 = (k + 1..6).map(|j| m[k][j] * c[j]).sum();
        c[k] = (m[k][6] - known) / m[k][k];
    }
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(f: impl Fn(f64, f64) -> f64) -> Field {
        let axis = |n: usize, by: f64| (0..n).map(|i| by * (i as f64 - 2.0)).collect::<Vec<f64>>();
        let (xs, ys) = (axis(7, 3.0), axis(9, 1.7));
        let values = ys.iter().map(|y| xs.iter().map(|x| f(*x, *y)).collect()).collect();
        Field { xs, ys, values }
    }

    proptest! {
        /// On a quadratic loss the measured decomposition equals the curvature's, by brute force over all pairs; gain = reduction - lag.
        #[test]
        fn a_quadratic_is_fitted_exactly(
            h in (0.1f64..2.0, -0.3f64..0.3, 0.1f64..2.0),
            centre in (-2.0f64..2.0, -2.0f64..2.0),
            points in prop::collection::vec((-3.0f64..3.0, -3.0f64..3.0), 2..9),
        ) {
            let loss = |x: f64, y: f64| {
                let (x, y) = (x - centre.0, y - centre.1);
                1.5 + 0.5 * (h.0 * x * x + 2.0 * h.1 * x * y + h.2 * y * y)
            };
            let k = points.len() as f64;
            let mean = points.iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 / k, m.1 + p.1 / k));
            let losses: Vec<f64> = points.iter().map(|p| loss(p.0, p.1)).collect();
            let test = MergeTest::new(&losses, loss(mean.0, mean.1)).unwrap();
            prop_assert!((test.gain() - (losses[losses.len() - 1] - loss(mean.0, mean.1))).abs() < 1e-9);
            let fit = Quadratic::fit(&field(loss)).unwrap();
            prop_assert!(fit.r2 > 1.0 - 1e-9 && (fit.at((0.7, -0.4)) - loss(0.7, -0.4)).abs() < 1e-8);
            prop_assert!((fit.hessian[0] - h.0).abs() + (fit.hessian[1] - h.1).abs() + (fit.hessian[2] - h.2).abs() < 1e-8);
            prop_assert!((fit.noise_reduction(&points) - test.noise_reduction()).abs() < 1e-8);
            let [low, high] = fit.curvatures();
            prop_assert!((low + high - h.0 - h.2).abs() < 1e-8 && (low * high - (h.0 * h.2 - h.1 * h.1)).abs() < 1e-7);
            if low > 1e-3 {
                let lowest = fit.minimum().unwrap();
                prop_assert!((lowest.0 - centre.0).abs() < 1e-5 && (lowest.1 - centre.1).abs() < 1e-5);
                let d: Vec<_> = points.iter().map(|p| (p.0 - centre.0, p.1 - centre.1)).collect();
                let (mut cross, mut own) = (0.0, 0.0);
                for (i, p) in d.iter().enumerate() {
                    own += fit.form(*p, *p);
                    cross += d.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, q)| fit.form(*p, *q)).sum::<f64>();
                }
                let (left, right) = fit.condition_15(&points).unwrap();
                prop_assert!((left - cross).abs() < 1e-4 && (right - (k - 1.0) * own).abs() < 1e-4);
                // (15) is equivalent to a positive Jensen's gap.
                prop_assert!((right - left - 2.0 * k * k * fit.noise_reduction(&points)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn saddles_have_no_minimum_and_few_points_no_fit() {
        let saddle = Quadratic::fit(&field(|x, y| x * x - y * y)).unwrap();
        assert!(saddle.minimum().is_none() && saddle.condition_15(&[(0.0, 1.0)]).is_none());
        let mut holes = field(|x, y| x * x + y * y);
        holes.values.iter_mut().flatten().skip(5).for_each(|v| *v = f64::NAN);
        assert!(Quadratic::fit(&holes).is_none(), "five points");
        assert!(Quadratic::fit(&Field { xs: vec![0.0; 4], ys: vec![1.0; 4], values: vec![vec![1.0; 4]; 4] }).is_none());
        assert!(MergeTest::new(&[], 1.0).is_none());
    }
}
