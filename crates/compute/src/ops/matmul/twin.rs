//! The same products in f64 as plain loops, on dense matrices (stride = extent).

/// `y = x w^T` with `x` of R x `k` and `w` of `n` x `k`.
pub fn forward(x: &[f64], w: &[f64], n: usize, k: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len() / k * n);
    for row in x.chunks(k) {
        for weights in w.chunks(k) {
            y.push(row.iter().zip(weights).map(|(a, b)| a * b).sum());
        }
    }
    debug_assert_eq!(w.len(), n * k);
    y
}

/// `dx = dy w`
pub fn backward_input(dy: &[f64], w: &[f64], n: usize, k: usize) -> Vec<f64> {
    let mut dx = vec![0.0; dy.len() / n * k];
    for (drow, out) in dy.chunks(n).zip(dx.chunks_mut(k)) {
        for (d, weights) in drow.iter().zip(w.chunks(k)) {
            out.iter_mut().zip(weights).for_each(|(o, b)| *o += d * b);
        }
    }
    dx
}

/// `dw = dy^T x`
pub fn backward_weight(dy: &[f64], x: &[f64], n: usize, k: usize) -> Vec<f64> {
    let mut dw = vec![0.0; n * k];
    for (drow, row) in dy.chunks(n).zip(x.chunks(k)) {
        for (d, out) in drow.iter().zip(dw.chunks_mut(k)) {
            out.iter_mut().zip(row).for_each(|(o, b)| *o += d * b);
        }
    }
    dw
}

/// `dbias` = column sums of `dy`
pub fn backward_bias(dy: &[f64], n: usize) -> Vec<f64> {
    let mut dbias = vec![0.0; n];
    for drow in dy.chunks(n) {
        dbias.iter_mut().zip(drow).for_each(|(b, d)| *b += d);
    }
    dbias
}

#[cfg(test)]
mod tests {
    use super::super::super::check::{dot, finite_difference_error, probe};
    use super::*;

    #[test]
    fn twin_backward_is_the_derivative() {
        let (rows, n, k) = (3, 5, 4);
        let (x, w, weights) = (probe(rows * k), probe(n * k + 7)[7..].to_vec(), probe(rows * n));
        let bias = probe(n);
        let loss = |x: &[f64], w: &[f64], bias: &[f64]| {
            let y: Vec<f64> = forward(x, w, n, k).iter().enumerate().map(|(i, v)| v + bias[i % n]).collect();
            dot(&y, &weights)
        };
        let dx = backward_input(&weights, &w, n, k);
        let dw = backward_weight(&weights, &x, n, k);
        assert!(finite_difference_error(&x, &dx, |x| loss(x, &w, &bias)) < 1e-6);
        assert!(finite_difference_error(&w, &dw, |w| loss(&x, w, &bias)) < 1e-6);
        assert!(finite_difference_error(&bias, &backward_bias(&weights, n), |b| loss(&x, &w, b)) < 1e-6);
    }
}
