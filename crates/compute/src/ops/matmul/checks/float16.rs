//! Products whose inputs are rounded to f16: errors that the rounding explains, gradients of any size, and overflow that shows.

use super::super::{Extra, RegisterTile, Role, backward_input_by, backward_weight_by, cooperative, forward_by, twin};
use crate::device::{Device, Gpu, Tensor};
use crate::ops::check::{Case, Check, TOLERANCE, wide};
use anyhow::Context as _;

/// Checks for devices that were opened with float16 products.
pub const CHECKS: &[Check] = &[
    Check { name: "matmul (float16 inputs)", run: check_inputs },
    Check { name: "matmul (float16, tiny and huge gradients)", run: check_gradients },
    Check { name: "matmul (float16, overflow shows)", run: check_overflow },
];

/// Half the distance of neighbouring f16 numbers, relative to a normal number, and absolute below the normal numbers.
const UNIT: f64 = 1.0 / 2048.0;
const SUBNORMAL: f64 = 1.0 / (1u64 << 25) as f64;
/// A scaled gradient's largest value is at least this.
const LEAST_SCALED: f64 = 8192.0;

/// A dense layer: x of `rows` x `k`, w of `n` x `k`, dy of `rows` x `n`.
struct Layer {
    n: usize,
    k: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

impl Layer {
    fn draw(case: &mut Case, gradients: f64) -> Self {
        let rows = case.int(1, 150);
        let [n, k] = match case.int(0, 3) {
            0 => [case.int(1, 140), case.int(1, 140)],
            _ => [4 * case.int(1, 40), 4 * case.int(1, 40)],
        };
        case.shape = format!("{rows} rows, {n} from {k}, gradients of {gradients:.0e}");
        Self { n, k, x: case.normals(rows * k, 1.0), w: case.normals(n * k, 0.1), dy: case.normals(rows * n, gradients) }
    }

    /// Left and right operand of a product.
    fn operands(&self, role: Role) -> [&[f32]; 2] {
        match role {
            Role::Forward => [&self.x, &self.w],
            Role::BackwardInput => [&self.dy, &self.w],
            Role::BackwardWeight => [&self.dy, &self.x],
        }
    }

    /// The product on the device.
    fn run(&self, device: &Device, case: &Case, role: Role, tile: RegisterTile) -> anyhow::Result<Vec<f32>> {
        let (n, k, rows) = (self.n, self.k, self.x.len() / self.k);
        let x = case.upload(device, "x", &[rows, k], &self.x);
        let w = case.upload(device, "w", &[n, k], &self.w);
        let dy = case.upload(device, "dy", &[rows, n], &self.dy);
        let out: Tensor = match role {
            Role::Forward => case.poisoned(device, "y", &[rows, n]),
            Role::BackwardInput => case.poisoned(device, "dx", &[rows, k]),
            Role::BackwardWeight => case.upload(device, "dw", &[n, k], &vec![0.0; n * k]),
        };
        case.replay(device, |r| match role {
            Role::Forward => forward_by(r, tile, &x, &w, &out, Extra::None),
            Role::BackwardInput => backward_input_by(r, tile, &dy, &w, &out, false),
            Role::BackwardWeight => backward_weight_by(r, tile, &dy, &x, &out),
        })?;
        Ok(device.read(&out)?)
    }

    fn reference(&self, role: Role, left: &[f64], right: &[f64]) -> Vec<f64> {
        match role {
            Role::Forward => twin::forward(left, right, self.n, self.k),
            Role::BackwardInput => twin::backward_input(left, right, self.n, self.k),
            Role::BackwardWeight => twin::backward_weight(left, right, self.n, self.k),
        }
    }

    /// Compare a product with its twin. The bound of each sum: every input is off by its rounding, sum |da b| + |a + da| |db|, and the sum
    /// itself is as exact as any f32 kernel's.
    fn check(&self, device: &Device, case: &mut Case, role: Role, tile: RegisterTile) -> anyhow::Result<()> {
        let [left, right] = self.operands(role);
        let errors = [rounding(left, cooperative::is_scaled(role)), rounding(right, false)];
        let [left, right] = [wide(left), wide(right)];
        let want = self.reference(role, &left, &right);
        let [left, right] = [absolute(&left), absolute(&right)];
        let rounded: Vec<f64> = left.iter().zip(&errors[0]).map(|(a, e)| a + e).collect();
        let bounds = [self.reference(role, &errors[0], &right), self.reference(role, &rounded, &errors[1])];
        let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
        for (i, (got, want)) in self.run(device, case, role, tile)?.into_iter().zip(want).enumerate() {
            let bound = bounds[0][i] + bounds[1][i] + TOLERANCE * (want.abs() + rms);
            let error = (f64::from(got) - want).abs() / bound.max(1e-300);
            if !got.is_finite() || error > case.worst {
                case.worst = if got.is_finite() { error } else { f64::INFINITY };
                case.detail = format!("{} {}[{i}] = {got:e}, expected {want:e} within {bound:e}", tile.name(), role.names()[2]);
                if !got.is_finite() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// The most that rounding to f16 changes each number.
fn rounding(values: &[f32], scaled: bool) -> Vec<f64> {
    let largest = values.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    let least = if scaled { SUBNORMAL * largest / LEAST_SCALED } else { SUBNORMAL };
    values.iter().map(|&v| UNIT * f64::from(v.abs()) + least).collect()
}

/// Tiles of this device; each case takes the next one.
fn tile(device: &Device, case: &mut Case) -> anyhow::Result<RegisterTile> {
    let matrix = device.gpu().and_then(Gpu::cooperative).context("opened without float16 products")?;
    Ok(case.pick(&cooperative::tiles(matrix)))
}

fn check_inputs(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let (tile, layer) = (tile(device, case)?, Layer::draw(case, 1.0));
    Role::ALL.into_iter().try_for_each(|role| layer.check(device, case, role, tile))
}

/// Gradients far below what f16 can hold, as they are with many tokens, and far above.
fn check_gradients(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let size = 10f64.powi(case.int(0, 50) as i32 - 30);
    let (tile, layer) = (tile(device, case)?, Layer::draw(case, size));
    [Role::BackwardInput, Role::BackwardWeight].into_iter().try_for_each(|role| layer.check(device, case, role, tile))
}

/// A number above 65,504 makes every result that depends on it infinite or NaN; 65,504 does not.
fn check_overflow(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    let tile = tile(device, case)?;
    let role = case.pick(&[Role::Forward, Role::BackwardInput, Role::BackwardWeight]);
    let mut layer = Layer::draw(case, 1.0);
    // The operand that is not scaled: x in the gradient of a weight, else w.
    let is_weight = role != Role::BackwardWeight;
    let (count, k) = (if is_weight { layer.w.len() } else { layer.x.len() }, layer.k);
    let at = case.int(0, count - 1);
    let (row, col) = (at / k, at % k);
    let place = |layer: &mut Layer, value: f32| if is_weight { layer.w[at] = value } else { layer.x[at] = value };
    place(&mut layer, 65504.0);
    layer.check(device, case, role, tile)?;
    place(&mut layer, if case.int(0, 1) == 0 { 65_600.0 } else { -1e9 });
    let width = if role == Role::Forward { layer.n } else { k };
    let finite = |(i, v): (usize, &f32)| {
        let depends = if role == Role::Forward { i % width == row } else { i % width == col };
        depends && v.is_finite()
    };
    let got = layer.run(device, case, role, tile)?;
    if let Some(i) = got.iter().enumerate().position(finite) {
        case.worst = f64::INFINITY;
        case.detail = format!("{} {}[{i}] = {:e}, expected an infinite number or NaN", tile.name(), role.names()[2], got[i]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::device::{Device, MatmulPrecision, Selection};
    use crate::ops::check::Case;
    use crate::ops::matmul::{CHECKS, FLOAT16_CHECKS};

    fn open(adapter: Option<&str>) -> anyhow::Result<Device> {
        let adapter = adapter.map(str::to_owned);
        Device::open(Selection { adapter, matmul_precision: MatmulPrecision::Float16, ..Selection::default() })
    }

    #[test]
    fn float16_products_match_or_are_refused() {
        let mut device = match open(None) {
            Ok(device) => device,
            // Of the software drivers only newer lavapipes have cooperative matrices.
            Err(error) => return assert!(error.to_string().starts_with("--matmul-precision float16: "), "{error:#}"),
        };
        for _class in 0..2 {
            for check in CHECKS.iter().chain(FLOAT16_CHECKS) {
                for seed in 0..6 {
                    let mut case = Case::new(check.name, seed);
                    (check.run)(&device, &mut case).unwrap();
                    assert!(case.worst <= 1.0, "{}, {}: {} x the bound, {}", check.name, case.shape, case.worst, case.detail);
                }
            }
            device.switch_gpu_class();
        }
    }

    #[test]
    fn the_cpu_refuses_float16() {
        let error = open(Some("cpu")).err().expect("refused").to_string();
        let expected =
            "--matmul-precision float16: the CPU computes products in float32 only; name a GPU with --adapter, or use float32";
        assert_eq!(error, expected);
    }
}
