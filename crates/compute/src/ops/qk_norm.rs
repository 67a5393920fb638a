//! RMSNorm of query and key heads, then their rotation, in one pass (Qwen3); values are copied.          shaders/qk_norm.wgsl
//!
//! As `rmsnorm` on each head and `rope` after it, but the numbers are read and written once.

mod host;

use super::check::{Case, Check, wide};
use super::rope::{self, Rotation};
use super::{WG, column_group, row_iterations, row_lanes};
use crate::device::{Cost, Device, Dispatcher, Extent, Op, Recorder, Shader, Tensor, grid};
use crate::{bind, shader, uniform};
use bytemuck::cast_slice;

const SHADER: Shader = shader!("qk_norm");

/// Maximum heads summed by one invocation in one dispatch.
const HEADS_OF_A_LANE: usize = 32_768;

uniform! { struct Dims { rows: u32, normed: u32, stride2: u32, offset2: u32, table_rows: u32, first_row: u32, eps: f32 } }

/// The heads that are normalised and rotated, and those behind them that are copied, in each row of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Rows of the matrix.
    pub matrix_rows: usize,
    /// Its columns.
    pub stride: usize,
    /// First column.
    pub offset: usize,
    /// Normalised heads of a row.
    pub heads: usize,
    /// Heads behind them that are copied.
    pub copied: usize,
    /// Width of a head, D: a multiple of 4.
    pub width: usize,
}

impl Heads {
    fn all(&self) -> usize {
        self.heads + self.copied
    }

    fn dims(&self, rows: usize, table: &Tensor, eps: f64) -> Dims {
        Dims {
            rows: rows as u32,
            normed: self.heads as u32,
            stride2: (self.stride / 2) as u32,
            offset2: (self.offset / 2) as u32,
            table_rows: table.matrix()[0] as u32,
            first_row: 0,
            eps: eps as f32,
        }
    }

    fn constants(&self, (size, lanes): (u32, u32), heads: usize) -> [(&'static str, f64); 4] {
        let [size, lanes] = [size, lanes].map(f64::from);
        [("WG", size), ("LANES", lanes), ("HEADS", heads as f64), ("QUARTER", (self.width / 4) as f64)]
    }

    fn dispatch(&self, wgsl: &mut Dispatcher<'_>, entry: &str, table: &Tensor, eps: f64) -> anyhow::Result<()> {
        const LOOPS: usize = 2;
        let rows = self.matrix_rows * self.all();
        let lanes = row_lanes(wgsl.gpu(), self.width, LOOPS);
        let groups = grid((rows as u64).div_ceil(u64::from(WG / lanes)));
        let extent = Extent { groups, iterations: row_iterations(lanes, self.width, LOOPS) };
        wgsl.run(&SHADER, entry, &self.constants((WG, lanes), self.all()), self.dims(rows, table, eps), extent)
    }

    fn dispatch_gain(&self, wgsl: &mut Dispatcher<'_>, table: &Tensor) -> anyhow::Result<()> {
        assert_eq!(self.copied, 0, "copied heads have no gain");
        let rows = self.matrix_rows * self.heads;
        // Lanes share the heads, which are read a pair of a few columns at a time.
        let lanes = row_lanes(wgsl.gpu(), 4 * rows.min(HEADS_OF_A_LANE), 1);
        let size = column_group(wgsl.class(), lanes);
        let groups = grid((self.width as u64 / 4).div_ceil(u64::from(size / lanes)));
        for first in (0..rows).step_by(HEADS_OF_A_LANE * lanes as usize) {
            let end = rows.min(first + HEADS_OF_A_LANE * lanes as usize);
            let dims = Dims { first_row: first as u32, ..self.dims(end, table, 0.0) };
            let extent = Extent { groups, iterations: row_iterations(lanes, 4 * (end - first), 1) };
            let share = (end - first) as f64 / rows as f64;
            wgsl.run_part(&SHADER, "backward_gain", &self.constants((size, lanes), self.heads), dims, extent, share)?;
        }
        Ok(())
    }

    /// Cost of going over the normalised heads `passes` times, and over the others twice.
    fn cost(&self, passes: usize) -> Cost {
        let [normed, copied] = [self.heads, self.copied].map(|heads| self.matrix_rows * heads * self.width);
        Cost { flops: 7.0 * normed as f64, bytes: 4.0 * (passes * normed + 2 * copied) as f64 }
    }
}

/// `qkv` from `raw`, both (R, stride): the heads normalised with `gain` (D) and rotated by the angles of `positions` (R) in `table`
/// (see `rope::table`), the others copied. Keeps `rstd` (R heads) for backward.
pub fn forward(
    r: &mut Recorder<'_>,
    heads: Heads,
    (positions, table): (&Tensor, &Tensor),
    raw: &Tensor,
    gain: &Tensor,
    qkv: &Tensor,
    rstd: &Tensor,
    eps: f64,
) {
    r.op(
        Op {
            name: "qk_norm.forward",
            // Once more for the table.
            cost: heads.cost(4),
            reads: bind!(raw, gain, positions, table),
            writes: bind!(rstd, qkv),
        },
        |wgsl| heads.dispatch(wgsl, "forward", table, eps),
        move |cpu, [raw, gain, positions, table], [rstd, qkv]| {
            host::forward(cpu, heads, eps as f32, [raw, gain, table], cast_slice(positions), rstd, qkv);
        },
    );
}

/// The gradient `draw` of `raw` from the gradient `dqkv` of [`forward`]'s result.
pub fn backward(
    r: &mut Recorder<'_>,
    heads: Heads,
    (positions, table): (&Tensor, &Tensor),
    dqkv: &Tensor,
    raw: &Tensor,
    gain: &Tensor,
    rstd: &Tensor,
    draw: &Tensor,
) {
    r.op(
        Op {
            name: "qk_norm.backward",
            cost: heads.cost(7),
            reads: bind!(raw, gain, positions, table, rstd, dqkv),
            writes: bind!(draw),
        },
        |wgsl| heads.dispatch(wgsl, "backward", table, 0.0),
        move |cpu, [raw, gain, positions, table, rstd, dqkv], [draw]| {
            host::backward(cpu, heads, [raw, gain, table, rstd, dqkv], cast_slice(positions), draw);
        },
    );
}

/// `dgain` (D) += the gradient of the gain. The copied heads of `heads` are left out.
pub fn backward_gain(
    r: &mut Recorder<'_>,
    heads: Heads,
    (positions, table): (&Tensor, &Tensor),
    dqkv: &Tensor,
    raw: &Tensor,
    rstd: &Tensor,
    dgain: &Tensor,
) {
    let heads = Heads { copied: 0, ..heads };
    r.op(
        Op {
            name: "qk_norm.backward_gain",
            cost: heads.cost(3),
            reads: bind!(raw, positions, table, rstd, dqkv),
            writes: bind!(dgain),
        },
        |wgsl| heads.dispatch_gain(wgsl, table),
        move |cpu, [raw, positions, table, rstd, dqkv], [dgain]| {
            host::backward_gain(cpu, heads, [raw, table, rstd, dqkv], cast_slice(positions), dgain);
        },
    );
}

/// The same arithmetic in f64, on one row: `normed` heads, then heads that are copied.
pub mod twin {
    use super::super::{rmsnorm, rope};
    use super::Rotation;

    /// (row of qkv, rstd)
    pub fn forward(
        raw: &[f64],
        normed: usize,
        gain: &[f64],
        eps: f64,
        rotation: &Rotation,
        position: u32,
    ) -> (Vec<f64>, Vec<f64>) {
        let (heads, values) = raw.split_at(normed * gain.len());
        let (mut y, rstd) = rmsnorm::twin::forward(heads, gain, eps);
        let width = y.len();
        rope::twin::rotate(&mut y, width, normed, rotation, &[position], 1.0);
        y.extend(values);
        (y, rstd)
    }

    /// (row of draw, dgain)
    pub fn backward(
        dqkv: &[f64],
        raw: &[f64],
        gain: &[f64],
        rstd: &[f64],
        rotation: &Rotation,
        position: u32,
    ) -> (Vec<f64>, Vec<f64>) {
        let normed = rstd.len() * gain.len();
        let (heads, values) = dqkv.split_at(normed);
        let mut turned = heads.to_vec();
        rope::twin::rotate(&mut turned, normed, rstd.len(), rotation, &[position], -1.0);
        let (mut draw, dgain) = rmsnorm::twin::backward(&turned, &raw[..normed], gain, rstd);
        draw.extend(values);
        (draw, dgain)
    }
}

/// Checks for tests and `doctor`.
pub const CHECKS: &[Check] = &[Check { name: "qk_norm", run: check }];

fn check(device: &Device, case: &mut Case) -> anyhow::Result<()> {
    const EPS: f64 = 1e-5;
    let (matrix_rows, width) = (case.int(1, 40), 4 * case.int(2, 32));
    let heads = Heads {
        matrix_rows,
        width,
        heads: case.int(1, 5),
        copied: case.pick(&[0, 1, 3]),
        offset: width * case.int(0, 2),
        stride: 0,
    };
    let heads = Heads { stride: heads.offset + width * (heads.all() + case.int(0, 2)), ..heads };
    case.shape = format!("{heads:?}");
    let frequencies = (0..width / 2).map(|i| 1e4f64.powf(-2.0 * i as f64 / width as f64)).collect();
    let rotation = Rotation { frequencies, scale: case.pick(&[1.0, 1.3689]) };
    let positions: Vec<u32> = (0..matrix_rows).map(|_| case.int(0, 99) as u32).collect();
    let size = matrix_rows * heads.stride;
    let [raw, dqkv, before] = [2.0, 1.0, 0.1].map(|scale| case.normals(size, scale));
    let [gain, dgain0] = [1.0, 1.0].map(|scale| case.normals(width, scale));
    let shape = [matrix_rows, heads.stride];
    let [traw, tdqkv] = [("raw", &raw), ("dqkv", &dqkv)].map(|(name, values)| case.upload(device, name, &shape, values));
    let [tqkv, tdraw] = ["qkv", "draw"].map(|name| case.upload(device, name, &shape, &before));
    let (tgain, tdgain) = (case.upload(device, "gain", &[width], &gain), case.upload(device, "dgain", &[width], &dgain0));
    let trstd = case.poisoned(device, "rstd", &[matrix_rows * heads.heads]);
    let table = case.upload(device, "table", &[100, width], &rope::table(&rotation, 100));
    let tpositions = case.upload_u32(device, "positions", &positions);
    let turn = (&tpositions, &table);
    case.replay(device, |r| {
        forward(r, heads, turn, &traw, &tgain, &tqkv, &trstd, EPS);
        backward(r, heads, turn, &tdqkv, &traw, &tgain, &trstd, &tdraw);
        backward_gain(r, heads, turn, &tdqkv, &traw, &trstd, &tdgain);
    })?;
    let (raw, dqkv, gain) = (wide(&raw), wide(&dqkv), wide(&gain));
    let (mut qkv, mut draw, mut rstd, mut dgain) = (wide(&before), wide(&before), Vec::new(), wide(&dgain0));
    for (row, &position) in positions.iter().enumerate() {
        let at = row * heads.stride + heads.offset;
        let place = at..at + heads.all() * width;
        let (y, scales) = twin::forward(&raw[place.clone()], heads.heads, &gain, EPS, &rotation, position);
        let (d, of_gain) = twin::backward(&dqkv[place.clone()], &raw[place.clone()], &gain, &scales, &rotation, position);
        qkv[place.clone()].copy_from_slice(&y);
        draw[place].copy_from_slice(&d);
        rstd.extend(scales);
        dgain.iter_mut().zip(of_gain).for_each(|(sum, d)| *sum += d);
    }
    case.compare(device, &tqkv, &qkv)?;
    case.compare(device, &trstd, &rstd)?;
    case.compare(device, &tdraw, &draw)?;
    case.compare(device, &tdgain, &dgain)
}

#[cfg(test)]
mod tests {
    use super::super::check::{dot, finite_difference_error, probe};
    use super::*;

    #[test]
    fn twin_backward_is_the_derivative() {
        let (width, normed) = (8, 2);
        let (raw, gain, weights) = (probe(3 * width), probe(width), probe(3 * width));
        let rotation = Rotation { frequencies: vec![1.0, 0.3, 0.1, 0.01], scale: 1.3 };
        let loss = |raw: &[f64], gain: &[f64]| dot(&twin::forward(raw, normed, gain, 1e-5, &rotation, 7).0, &weights);
        let rstd = twin::forward(&raw, normed, &gain, 1e-5, &rotation, 7).1;
        let (draw, dgain) = twin::backward(&weights, &raw, &gain, &rstd, &rotation, 7);
        assert!(finite_difference_error(&raw, &draw, |raw| loss(raw, &gain)) < 1e-6);
        assert!(finite_difference_error(&gain, &dgain, |gain| loss(&raw, gain)) < 1e-6);
    }
}
