//! A plane in weight space. Its points are averages of three checkpoints (weights that sum to 1), so that directions need no memory and
//! the checkpoints are represented exactly.

use crate::stats::range;
use anyhow::{Result, ensure};

/// Checkpoints closer to a line than this share of their distance do not define a plane in f32 precision.
const FLAT: f64 = 1e-5;

/// The plane through three checkpoints A, B, C. A is at (0, 0), C at (|C - A|, 0), B above that line; lengths are Euclidean distances
/// between all weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plane {
    /// |C - A|
    length: f64,
    /// Position of B.
    b: (f64, f64),
}

/// The drawn part of a plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlaneRange {
    /// Left and right end.
    pub x: (f64, f64),
    /// Lower and upper end.
    pub y: (f64, f64),
}

fn dot(n: usize, f: impl Fn(usize) -> (f64, f64)) -> f64 {
    (0..n).map(f).map(|(p, q)| p * q).sum()
}

impl Plane {
    /// The plane through three weight vectors of equal length.
    ///
    /// # Errors
    /// Vectors of different length, two that are equal, or three on a line.
    pub fn through(a: &[f32], b: &[f32], c: &[f32]) -> Result<Self> {
        ensure!(a.len() == b.len() && a.len() == c.len(), "the checkpoints are of different shapes");
        let n = a.len();
        let from_a = |v: &[f32], i: usize| f64::from(v[i]) - f64::from(a[i]);
        let length = dot(n, |i| (from_a(c, i), from_a(c, i))).sqrt();
        ensure!(
            length > 0.0,
            "the first and the last checkpoint hold the same weights: they span no plane; name three that differ"
        );
        let along = dot(n, |i| (from_a(b, i), from_a(c, i))) / length;
        // Summed separately: |B - A|^2 - along^2 would lose digits.
        let rest = |i: usize| from_a(b, i) - along / length * from_a(c, i);
        let height = dot(n, |i| (rest(i), rest(i))).sqrt();
        ensure!(
            height > FLAT * length.max(along.abs()),
            "the three checkpoints lie on one line (the middle one is one of the others, or their average): they span no plane; \
             name three that differ"
        );
        Ok(Self { length, b: (along, height) })
    }

    /// Positions of A, B and C.
    pub fn corners(&self) -> [(f64, f64); 3] {
        [(0.0, 0.0), self.b, (self.length, 0.0)]
    }

    /// Weights of A, B and C at the point (x, y); they sum to 1.
    pub fn weights(&self, x: f64, y: f64) -> [f64; 3] {
        let b = y / self.b.1;
        let c = (x - b * self.b.0) / self.length;
        [1.0 - b - c, b, c]
    }

    /// The point of the plane nearest to `p`, and p's distance from the plane.
    ///
    /// # Errors
    /// A vector of another length.
    pub fn project(&self, [a, b, c]: [&[f32]; 3], p: &[f32]) -> Result<((f64, f64), f64)> {
        ensure!(p.len() == a.len(), "it is of another shape than the checkpoints");
        let n = a.len();
        let from_a = |v: &[f32], i: usize| f64::from(v[i]) - f64::from(a[i]);
        let x = dot(n, |i| (from_a(p, i), from_a(c, i))) / self.length;
        // The second direction is the part of B orthogonal to the first.
        let across = |i: usize| (from_a(b, i) - self.b.0 / self.length * from_a(c, i)) / self.b.1;
        let y = dot(n, |i| (from_a(p, i), across(i)));
        let rest = |i: usize| from_a(p, i) - x / self.length * from_a(c, i) - y * across(i);
        Ok(((x, y), dot(n, |i| (rest(i), rest(i))).sqrt()))
    }
}

impl PlaneRange {
    /// A range around these points with a margin on each side: a share of the larger extent.
    pub fn around(points: &[(f64, f64)], margin: f64) -> Self {
        let (x, y) = (range(points.iter().map(|p| p.0)), range(points.iter().map(|p| p.1)));
        let by = margin * (x.1 - x.0).max(y.1 - y.0);
        Self { x: (x.0 - by, x.1 + by), y: (y.0 - by, y.1 + by) }
    }

    /// `n` positions along each axis, ends included.
    pub fn axes(&self, n: usize) -> [Vec<f64>; 2] {
        [self.x, self.y].map(|(lo, hi)| (0..n).map(|i| lo + (hi - lo) * i as f64 / (n - 1).max(1) as f64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::ring::average_in_f64;
    use proptest::prelude::*;

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
    }

    proptest! {
        /// Distances on the plane equal distances between weights; a point of the plane projects to itself, others to their nearest point.
        #[test]
        fn the_plane_preserves_distances(
            weights in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0, -1.0f32..1.0), 8..40),
            x in -2.0f64..3.0,
            y in -2.0f64..3.0,
        ) {
            let part = |k: usize| -> Vec<f32> { weights.iter().map(|w| [w.0, w.1, w.2][k]).collect() };
            let (a, b, c) = (part(0), part(1), part(2));
            let plane = Plane::through(&a, &b, &c).unwrap();
            let corners = plane.corners();
            for ((i, p), (j, q)) in [((0, &a), (1, &b)), ((0, &a), (2, &c)), ((1, &b), (2, &c))] {
                let flat = (corners[i].0 - corners[j].0).hypot(corners[i].1 - corners[j].1);
                prop_assert!((flat - distance(p, q)).abs() < 1e-9);
            }
            let w = plane.weights(x, y);
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let point = average_in_f64(&[&a, &b, &c], &w);
            let ((px, py), beside) = plane.project([&a, &b, &c], &point).unwrap();
            prop_assert!((px - x).abs() < 1e-5 && (py - y).abs() < 1e-5 && beside < 1e-5, "({px}, {py}) {beside}");
            let mut off = point.clone();
            off[3] += 1.5;
            let ((qx, qy), beside) = plane.project([&a, &b, &c], &off).unwrap();
            let foot = average_in_f64(&[&a, &b, &c], &plane.weights(qx, qy));
            prop_assert!((distance(&foot, &off) - beside).abs() < 1e-5);
            let step = ((qx - x).powi(2) + (qy - y).powi(2) + beside * beside).sqrt();
            prop_assert!((step - 1.5).abs() < 1e-4, "Pythagoras: {step}");
        }
    }

    #[test]
    fn corners_are_the_checkpoints() {
        let (a, b, c) = ([0.1f32, 0.7, -3.0], [0.5f32, -0.2, 1.0], [9.0f32, 1e-6, 0.3]);
        let plane = Plane::through(&a, &b, &c).unwrap();
        for ((x, y), wanted) in plane.corners().into_iter().zip([a, b, c]) {
            let w = plane.weights(x, y);
            let found = average_in_f64(&[&a, &b, &c], &w);
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() <= 1e-6 * w.abs().max(1.0)), "{found:?} {wanted:?}");
        }
        let middle: (f64, f64) = plane.corners().iter().fold((0.0, 0.0), |m, p| (m.0 + p.0 / 3.0, m.1 + p.1 / 3.0));
        assert!(plane.weights(middle.0, middle.1).iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12), "the mean is the centroid");
    }

    #[test]
    fn collinear_checkpoints_are_refused() {
        let (a, b) = ([1.0f32, 2.0, 3.0], [1.5f32, 2.5, 2.0]);
        let says = |a: &[f32], b: &[f32], c: &[f32]| format!("{:#}", Plane::through(a, b, c).unwrap_err());
        assert!(says(&a, &b, &a).contains("hold the same weights"));
        assert!(says(&a, &a, &a).contains("hold the same weights"));
        assert!(says(&a, &a, &b).contains("one line") && says(&a, &b, &b).contains("one line"));
        let mean = average_in_f64(&[&a, &b], &[0.5, 0.5]);
        assert!(says(&a, &mean, &b).contains("one line"));
        assert!(says(&a, &b, &b[..2]).contains("different shapes"));
        let frame = PlaneRange::around(&[(0.0, 0.0), (4.0, 1.0)], 0.5);
        assert_eq!((frame.x, frame.y), ((-2.0, 6.0), (-2.0, 3.0)));
        assert_eq!(frame.axes(3), [vec![-2.0, 2.0, 6.0], vec![-2.0, 0.5, 3.0]]);
    }
}
