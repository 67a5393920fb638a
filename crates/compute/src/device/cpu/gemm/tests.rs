use super::*;
use crate::device::cpu::testing::Draw;
use crate::device::cpu::{Cpu, OutputTile, levels};

/// `rows` rows of `cols` numbers in [-1, 1), in rows of `stride`, NaN between them.
fn matrix(d: &mut Draw, rows: usize, cols: usize, stride: usize) -> Vec<f32> {
    let mut m = vec![f32::NAN; rows * stride];
    for row in m.chunks_mut(stride) {
        row[..cols].fill_with(|| (2.0 * d.unit() - 1.0) as f32);
    }
    m
}

/// Compare `out` with `base(i, j) + a b`, and check that gaps between rows were not written.
fn compare(what: &str, out: &[f32], shape: &GemmShape, a: MatrixView<'_>, b: MatrixView<'_>, base: impl Fn(usize, usize) -> f32) {
    let stride = shape.strides[2];
    for i in 0..shape.rows {
        for j in 0..shape.cols {
            let mut sum = f64::from(base(i, j));
            let mut size = sum.abs();
            for k in 0..shape.depth {
                let term = f64::from(a.data[i * a.row + k * a.col]) * f64::from(b.data[k * b.row + j * b.col]);
                sum += term;
                size += term.abs();
            }
            let got = f64::from(out[i * stride + j]);
            assert!((got - sum).abs() <= 2e-6 * size.max(0.1), "{what}, {shape:?}: at {i}, {j} is {got}, not {sum}");
        }
        let padding = &out[i * stride + shape.cols..(i + 1) * stride];
        assert!(padding.iter().all(|v| v.is_nan()), "{what}, {shape:?}: padding of row {i} was written");
    }
}

#[test]
fn serial_products_agree() {
    let mut d = Draw::new(7);
    for level in levels() {
        let cpu = Cpu::with_level(level, 1).unwrap();
        for case in 0..400 {
            let most = if case % 10 == 0 { 900 } else { 50 };
            let (m, n, k) = (1 + d.below(50), 1 + d.below(50), d.below(most));
            let (ta, tb, add) = (d.below(2) == 0, d.below(2) == 0, d.below(2) == 0);
            let pad = d.below(3);
            let view = |t: bool, rows: usize, cols: usize, d: &mut Draw| {
                let (r, c) = if t { (cols, rows) } else { (rows, cols) };
                let stride = (c + pad).max(1);
                (matrix(d, r, c, stride), stride)
            };
            let ((a, sa), (b, sb)) = (view(ta, m, k, &mut d), view(tb, k, n, &mut d));
            let so = n + pad;
            let mut out = if add { matrix(&mut d, m, n, so) } else { vec![f32::NAN; m * so] };
            let before = out.clone();
            let look =
                |t: bool, data, stride| if t { MatrixView::transposed(data, stride) } else { MatrixView::new(data, stride) };
            let (va, vb) = (look(ta, &a, sa), look(tb, &b, sb));
            let mut tile = OutputTile::over(&mut out, so, [m, n]);
            simd!(cpu, s => product(s, &mut tile, va, vb, k, add));
            let shape = GemmShape { rows: m, cols: n, depth: k, strides: [sa, sb, so] };
            let what = format!("{level:?} {ta} {tb} {add}");
            compare(&what, &out, &shape, va, vb, |i, j| if add { before[i * so + j] } else { 0.0 });
        }
    }
}

/// One linear layer with random shapes and strides.
struct Layer {
    rows: usize,
    n: usize,
    k: usize,
    strides: [usize; 3],
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    residual: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn draw(d: &mut Draw, rows: usize, n: usize, k: usize) -> Self {
        let strides @ [sx, sw, sy] = [k + d.below(5), k + d.below(2) * 3, n + d.below(5)];
        Self {
            rows,
            n,
            k,
            strides,
            x: matrix(d, rows, k, sx),
            w: matrix(d, n, k, sw),
            dy: matrix(d, rows, n, sy),
            residual: matrix(d, rows, n, sy),
            bias: matrix(d, 1, n, n),
        }
    }

    /// All products, each compared with plain loops if asked for: the outputs.
    fn run(&self, cpu: &Cpu, check: bool) -> Vec<Vec<f32>> {
        let &Self { rows, n, k, strides: [sx, sw, sy], .. } = self;
        let (x, w, dy) = (&self.x[..], &self.w[..], &self.dy[..]);
        let what = format!("{:?}, {} threads", cpu.level(), cpu.threads());
        let mut outs = Vec::new();
        let shape = GemmShape { rows, cols: n, depth: k, strides: [sx, sw, sy] };
        for (i, extra) in
            [GemmAddend::None, GemmAddend::Bias(&self.bias), GemmAddend::Residual(&self.residual)].into_iter().enumerate()
        {
            let mut y = vec![f32::NAN; rows * sy];
            forward(cpu, x, w, &mut y, &shape, extra);
            if check {
                let base = |r: usize, c: usize| [0.0, self.bias[c], self.residual[r * sy + c]][i];
                compare(&what, &y, &shape, MatrixView::new(x, sx), MatrixView::transposed(w, sw), base);
            }
            outs.push(y);
        }
        let shape = GemmShape { rows, cols: k, depth: n, strides: [sy, sw, sx] };
        for add in [false, true] {
            let mut dx = if add { x.to_vec() } else { vec![f32::NAN; rows * sx] };
            backward_input(cpu, dy, w, &mut dx, &shape, add);
            if check {
                let base = |r: usize, c: usize| if add { x[r * sx + c] } else { 0.0 };
                compare(&what, &dx, &shape, MatrixView::new(dy, sy), MatrixView::new(w, sw), base);
            }
            outs.push(dx);
        }
        let shape = GemmShape { rows: n, cols: k, depth: rows, strides: [sy, sx, sw] };
        let mut dw = w.to_vec();
        backward_weight(cpu, dy, x, &mut dw, &shape);
        let mut dbias = self.bias.clone();
        backward_bias(cpu, dy, &mut dbias, rows, sy);
        if check {
            compare(&what, &dw, &shape, MatrixView::transposed(dy, sy), MatrixView::new(x, sx), |r, c| w[r * sw + c]);
            let ones = vec![1.0; rows];
            let shape = GemmShape { rows: 1, cols: n, depth: rows, strides: [rows, sy, n] };
            compare(&what, &dbias, &shape, MatrixView::new(&ones, rows), MatrixView::new(dy, sy), |_, c| self.bias[c]);
        }
        outs.extend([dw, dbias]);
        outs
    }
}

#[test]
fn layers_agree() {
    let mut d = Draw::new(11);
    for level in levels() {
        let cpu = Cpu::with_level(level, 2).unwrap();
        let mut shapes =
            vec![[1, 1, 1], [1, 65, 64], [2, 3, 5], [12, 65, 40], [33, 65, 16], [200, 65, 68], [150, 1, 130], [5, 49, 410]];
        shapes.extend((0..40).map(|_| [1 + d.below(60), 1 + d.below(140), 1 + d.below(140)]));
        shapes.extend((0..6).map(|_| [1 + d.below(900), 1 + d.below(90), 1 + d.below(90)]));
        shapes.extend((0..3).map(|_| [1 + d.below(70), 1 + d.below(500), 1 + d.below(500)]));
        for [rows, n, k] in shapes {
            Layer::draw(&mut d, rows, n, k).run(&cpu, true);
        }
    }
}

#[test]
fn threads_give_the_same_bits() {
    let mut d = Draw::new(13);
    for level in levels() {
        let cpus = [1, 2, 3].map(|threads| Cpu::with_level(level, threads).unwrap());
        for [rows, n, k] in [[1, 300, 400], [20, 700, 300], [100, 65, 130], [500, 200, 300], [1000, 130, 96]] {
            let layer = Layer::draw(&mut d, rows, n, k);
            let bits = |cpu: &Cpu| layer.run(cpu, false).concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let [one, two, three] = cpus.each_ref().map(bits);
            assert!(one == two && one == three, "{level:?} {rows} {n} {k}");
        }
    }
}

#[test]
fn a_peak_is_measured() {
    let peak = peak_gflops(&Cpu::new(1).unwrap());
    assert!(peak > 0.1 && peak.is_finite(), "{peak}");
}
