//! Decode: one new token a sequence over a cache of keys and values. The first keys of a sequence may lie elsewhere in the cache: sequences
//! that begin alike share them.

use super::Shape;
use super::scratch::with_rows;
use super::tile::{STRIP, dot4, exp2, load, strips, transpose4, update_row};
use crate::device::cpu::{Cpu, Cut, Tiled};
use crate::simd;
use fearless_simd::{Simd, SimdBase, SimdFloat, SimdSplit, f32x4, f32x16};
use std::ops::Range;

/// Keys of a tile: what is loaded for one head of a group is in the first cache for the next.
const TILE: usize = 64;
/// Products of a task, about: fewer are not worth one.
const TASK: usize = 1 << 15;

/// `out` (B, H D) of one new token a sequence, whose index is `positions` (B), over keys and values `0 ..= positions[b]` of the caches
/// (Bmax, `max_time`, Hkv D). `qkv` is (B, 1, (H + 2 Hkv) D); its key and value must be in the caches already. `assigned` (B, 3) says in
/// its second and third column where the keys before an index lie, counted in tokens from the start of the cache, and what that index is:
/// 0 where all are in the sequence's own row. `shape.time` is not used.
///
/// # Panics
/// When a slice is shorter than its shape (a defect of the caller).
pub fn decode(
    cpu: &Cpu,
    shape: Shape,
    qkv: &[f32],
    positions: &[u32],
    cache_k: &[f32],
    cache_v: &[f32],
    max_time: usize,
    assigned: &[u32],
    out: &mut [f32],
) {
    shape.check();
    let (batch, d, group) = (shape.batch, shape.head_dim, shape.group());
    let width = shape.kv_heads * d;
    let out = &mut out[..batch * shape.out_width()];
    let tile_rows = (TASK / (max_time * group * d).max(1)).max(1);
    let cut = Cut { tile_cols: shape.group_width(), ..Cut::rows(batch, shape.out_width(), tile_rows) };
    cpu.for_tiles([Tiled::new(out, cut)], |[_, kv], [mut out]| {
        for i in 0..out.rows() {
            let b = out.first_row() + i;
            let [prefix, prefixed] = [1, 2].map(|column| assigned[3 * b + column] as usize);
            let last = (cache_k.len().min(cache_v.len()) / width).saturating_sub(1);
            let cache = Cache { k: &cache_k[kv * d..], v: &cache_v[kv * d..], width, own: b * max_time, prefix, prefixed, last };
            let keys = (positions[b] as usize).min(max_time - 1) + 1;
            let queries = &qkv[b * shape.row_width() + kv * group * d..][..group * d];
            with_rows([group * strips(d), group, group], |scratch| {
                simd!(cpu, s => decode_group(s, &cache, keys, d, shape.scale2(), queries, scratch, out.row(i)));
            });
        }
    });
}

/// Where the keys and values of a sequence and kv head are.
struct Cache<'a> {
    k: &'a [f32],
    v: &'a [f32],
    /// Numbers from token to token.
    width: usize,
    /// Token of the cache that is index 0 of the sequence's own row.
    own: usize,
    /// Token of the cache that is index 0 of the prefix.
    prefix: usize,
    /// Indices below this are in the prefix.
    prefixed: usize,
    /// The last token of the cache.
    last: usize,
}

impl Cache<'_> {
    /// Where index `j` of the sequence begins.
    #[inline(always)]
    fn at(&self, j: usize) -> usize {
        (if j < self.prefixed { self.prefix + j } else { self.own + j }).min(self.last) * self.width
    }
}

/// The heads that share a kv head, `d` numbers each of `queries` and `out`, over the first `keys` keys.
#[inline(always)]
fn decode_group<S: Simd>(
    simd: S,
    cache: &Cache<'_>,
    keys: usize,
    d: usize,
    scale: f32,
    queries: &[f32],
    [sums, mosts, totals]: [&mut [[f32; STRIP]]; 3],
    out: &mut [f32],
) {
    let strips = strips(d);
    sums.fill([0.0; STRIP]);
    mosts.fill([f32::NEG_INFINITY; STRIP]);
    totals.fill([0.0; STRIP]);
    for first in (0..keys).step_by(TILE) {
        let tile = first..(first + TILE).min(keys);
        for (h, query) in queries.chunks_exact(d).enumerate() {
            let mut scores = [[f32::NEG_INFINITY; STRIP]; TILE / STRIP];
            score(simd, cache, &tile, query, scale, scores.as_flattened_mut());
            let factor = softmax(simd, &mut scores, &mut mosts[h], &mut totals[h]);
            accumulate(simd, cache, &tile, scores.as_flattened(), factor, d, &mut sums[h * strips..][..strips]);
        }
    }
    for (h, out) in out.chunks_exact_mut(d).enumerate() {
        let total: f32 = sum(load(simd, &totals[h]));
        update_row(simd, out, &sums[h * strips..][..strips], 1, 0, 1.0 / total, false);
    }
}

/// Scores of a tile's keys, in units of log 2; what is behind them is left as it is.
#[inline(always)]
fn score<S: Simd>(simd: S, cache: &Cache<'_>, tile: &Range<usize>, query: &[f32], scale: f32, scores: &mut [f32]) {
    for (quad, to) in scores[..tile.len()].chunks_mut(4).enumerate() {
        let mut parts = [f32x4::splat(simd, 0.0); 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let key = (tile.start + 4 * quad + i).min(tile.end - 1);
            *part = dot4(simd, query, &cache.k[cache.at(key)..][..query.len()]);
        }
        let [p, q, r, s] = transpose4(parts);
        let four = ((p + q) + (r + s)) * scale;
        to.copy_from_slice(&four.to_array()[..to.len()]);
    }
}

/// Turn scores into 2^(score - largest so far); what earlier sums must be multiplied with is returned.
#[inline(always)]
fn softmax<S: Simd>(simd: S, scores: &mut [[f32; STRIP]], most: &mut [f32; STRIP], total: &mut [f32; STRIP]) -> f32 {
    let before = load(simd, most);
    let mut peak = before;
    for row in scores.iter() {
        peak = peak.max(load(simd, row));
    }
    let peak = f32x16::splat(simd, peak.to_array().into_iter().fold(f32::NEG_INFINITY, f32::max));
    let factor = exp2(simd, before - peak);
    let mut sum = load(simd, total) * factor;
    for row in scores.iter_mut() {
        let p = exp2(simd, load(simd, row) - peak);
        sum += p;
        p.store_array(row);
    }
    peak.store_array(most);
    sum.store_array(total);
    factor[0]
}

/// `sums = sums factor + sum over keys of weight value`, four strips at a time.
#[inline(always)]
fn accumulate<S: Simd>(
    simd: S,
    cache: &Cache<'_>,
    tile: &Range<usize>,
    weights: &[f32],
    factor: f32,
    d: usize,
    sums: &mut [[f32; STRIP]],
) {
    for (four, sums) in sums.chunks_mut(4).enumerate() {
        let (column, whole) = (four * 4 * STRIP, (d - four * 4 * STRIP) / STRIP);
        match whole.min(4) {
            4 => add_values::<S, 4>(simd, cache, tile, weights, factor, column, sums),
            3 => add_values::<S, 3>(simd, cache, tile, weights, factor, column, sums),
            2 => add_values::<S, 2>(simd, cache, tile, weights, factor, column, sums),
            1 => add_values::<S, 1>(simd, cache, tile, weights, factor, column, sums),
            _ => {}
        }
        for (i, sum) in sums.iter_mut().enumerate().skip(whole) {
            let (from, width) = (column + i * STRIP, d - column - i * STRIP);
            sum.iter_mut().for_each(|sum| *sum *= factor);
            for (key, weight) in tile.clone().zip(weights) {
                let value = &cache.v[cache.at(key) + from..][..width];
                sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }
}

/// As [`accumulate`], for N whole strips from `column` on.
#[inline(always)]
fn add_values<S: Simd, const N: usize>(
    simd: S,
    cache: &Cache<'_>,
    tile: &Range<usize>,
    weights: &[f32],
    factor: f32,
    column: usize,
    sums: &mut [[f32; STRIP]],
) {
    let mut acc = [f32x16::splat(simd, 0.0); N];
    for (key, weight) in tile.clone().zip(weights) {
        let value = &cache.v[cache.at(key) + column..][..N * STRIP];
        let weight = f32x16::splat(simd, *weight);
        for (acc, value) in acc.iter_mut().zip(value.as_chunks().0) {
            *acc = weight.mul_add(load(simd, value), *acc);
        }
    }
    for (sum, acc) in sums.iter_mut().zip(acc) {
        load(simd, sum).mul_add(f32x16::splat(simd, factor), acc).store_array(sum);
    }
}

#[inline(always)]
fn sum<S: Simd>(v: f32x16<S>) -> f32 {
    let (low, high) = v.split();
    let (low, high) = (low + high).split();
    let four = low + high;
    (four[0] + four[2]) + (four[1] + four[3])
}
