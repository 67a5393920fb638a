//! Forward: an online softmax over tiles of keys, from the diagonal down, so that every query has a real maximum from the first tile on.

use super::panel::QueryPanel;
use super::scratch::with_rows;
use super::tile::{STRIP, copy_strips, exp2, load, log2, panel_by_strip, rows_by_panel, transpose, update_row};
use super::{AttentionShape, Sequence};
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::simd;
use fearless_simd::{Simd, SimdBase, SimdFloat, f32x16};
use std::ops::Range;

/// Queries of a block, of all heads of a group: they share the copied values of a tile, and their intermediate results stay in the L2 cache.
const BLOCK: usize = 192;
/// Keys of a tile: sixteen queries' scores stay in the first cache, a tile's values in the second.
const TILE: usize = 128;

/// `out` (B, T, H D) and `lse` (B T, H), the log of the sum of exponentials of a query's scores, from `qkv` (B, T, (H + 2 Hkv) D) and
/// `positions` (B T).
///
/// # Panics
/// When a slice is shorter than its shape (a defect of the caller).
pub fn forward(cpu: &Cpu, shape: AttentionShape, qkv: &[f32], positions: &[u32], out: &mut [f32], lse: &mut [f32]) {
    shape.check();
    let time = shape.time;
    if shape.tokens() == 0 {
        return;
    }
    // Many short sequences: a task each. Else blocks of one sequence after another.
    let block = (BLOCK / shape.group()).clamp(2 * STRIP, 128).next_multiple_of(STRIP);
    let whole = time <= block || (time <= 512 && shape.batch * shape.kv_heads >= 16);
    let (rows, tile_rows) = if whole { (shape.tokens(), time) } else { (time, block) };
    let outs = out[..shape.tokens() * shape.out_width()].chunks_mut(rows * shape.out_width());
    let lses = lse[..shape.tokens() * shape.heads].chunks_mut(rows * shape.heads);
    for (call, (out, lse)) in outs.zip(lses).enumerate() {
        let cut = |width: usize| TileGrid { tile_cols: width / shape.kv_heads, ..TileGrid::rows(rows, width, tile_rows) };
        let outputs = [Tiled::new(out, cut(shape.out_width())), Tiled::new(lse, cut(shape.heads))];
        cpu.for_tiles(outputs, |[_, kv], [mut out, mut lse]| {
            let token = call * rows + out.first_row();
            let seq = Sequence::of(shape, token / time, qkv, positions);
            let queries = token % time..token % time + out.rows();
            for at in (0..out.rows()).step_by(block) {
                let asked = queries.start + at..(queries.start + at + block).min(queries.end);
                with_rows(sizes(shape, asked.len()), |scratch| {
                    simd!(cpu, s => forward_block(s, &seq, kv, asked, at, scratch, &mut out, &mut lse));
                });
            }
        });
    }
}

/// Rows of scratch: transposed queries, sums of values, state of the softmax, values and scores of a tile.
fn sizes(shape: AttentionShape, queries: usize) -> [usize; 5] {
    let (panels, strips) = (shape.group() * queries.div_ceil(STRIP), shape.strips());
    [panels * shape.head_dim, panels * strips * STRIP, panels * 2, strips * TILE, TILE]
}

/// Queries `block` of the heads that share kv head `kv`, into rows from `at` on of the tiles.
#[inline(always)]
fn forward_block<S: Simd>(
    simd: S,
    seq: &Sequence<'_>,
    kv: usize,
    block: Range<usize>,
    at: usize,
    [queries, sums, states, values, scores]: [&mut [[f32; STRIP]]; 5],
    out: &mut OutputTile<'_>,
    lse: &mut OutputTile<'_>,
) {
    let (d, strips, group, width) = (seq.shape.head_dim, seq.shape.strips(), seq.shape.group(), seq.shape.row_width());
    let panels = block.len().div_ceil(STRIP);
    for (i, panel) in queries.chunks_exact_mut(d).enumerate() {
        let first = block.start + i % panels * STRIP;
        let from = seq.queries(first, kv * group + i / panels);
        transpose(simd, from, width, (block.end - first).min(STRIP), seq.shape.scale2(), panel);
    }
    for tile in tiles_down(seq.reach(block.clone())) {
        copy_strips(seq.values(tile.start, kv), width, d, tile.len(), values, TILE);
        for p in 0..panels {
            let panel = QueryPanel::new(seq, block.start + p * STRIP);
            let keys = panel.keys(&tile);
            if keys.is_empty() {
                continue;
            }
            let scores = &mut scores[..keys.len()];
            for head in (0..group).map(|h| h * panels + p) {
                rows_by_panel(simd, seq.keys(keys.start, kv), width, &queries[head * d..][..d], scores);
                panel.mask(simd, &keys, scores);
                let sums = &mut sums[head * strips * STRIP..][..strips * STRIP];
                let begun = keys.end < panel.end();
                softmax(simd, scores, begun, &mut states[2 * head..2 * head + 2], sums);
                for (sum, values) in sums.chunks_exact_mut(STRIP).zip(values.chunks_exact(TILE)) {
                    panel_by_strip(simd, scores, &values[keys.start - tile.start..][..keys.len()], begun, sum);
                }
            }
        }
    }
    for h in 0..group {
        for (p, at) in (0..panels).map(|p| (h * panels + p, at + p * STRIP)) {
            let rows = (out.rows() - at).min(STRIP);
            let sums = &sums[p * strips * STRIP..][..strips * STRIP];
            let [most, total] = [load(simd, &states[2 * p]), load(simd, &states[2 * p + 1])];
            let logs = (most + log2(simd, total)) * std::f32::consts::LN_2;
            let factors = f32x16::splat(simd, 1.0) / total;
            for i in 0..rows {
                lse.row(at + i)[h] = logs[i];
                update_row(simd, &mut out.row(at + i)[h * d..][..d], sums, STRIP, i, factors[i], false);
            }
        }
    }
}

/// Tiles of keys from the last on; each begins at a multiple of [`STRIP`] if the range does.
fn tiles_down(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = keys.end.next_multiple_of(STRIP);
    (0..(end - keys.start).div_ceil(TILE)).map(move |i| {
        let end = end - i * TILE;
        end.saturating_sub(TILE).max(keys.start)..end.min(keys.end)
    })
}

/// Turn a panel's scores of a tile into 2^(score - largest so far). `state` holds that largest score and the sum of each query; what
/// `begun` queries have summed up so far, and their `sums`, are brought to the new largest score.
#[inline(always)]
fn softmax<S: Simd>(simd: S, scores: &mut [[f32; STRIP]], begun: bool, state: &mut [[f32; STRIP]], sums: &mut [[f32; STRIP]]) {
    let mut most = f32x16::splat(simd, f32::NEG_INFINITY);
    for row in scores.iter() {
        most = most.max(load(simd, row));
    }
    let before = load(simd, &state[0]);
    most = if begun { most.max(before) } else { most };
    let mut total = f32x16::splat(simd, 0.0);
    for row in scores.iter_mut() {
        let p = exp2(simd, load(simd, row) - most);
        total += p;
        p.store_array(row);
    }
    if begun {
        let factor = exp2(simd, before - most);
        total = load(simd, &state[1]).mul_add(factor, total);
        for sums in sums.chunks_exact_mut(STRIP) {
            for (i, row) in sums.iter_mut().enumerate() {
                (load(simd, row) * factor[i]).store_array(row);
            }
        }
    }
    most.store_array(&mut state[0]);
    total.store_array(&mut state[1]);
}
