//! Decode: one new token a sequence over a cache of keys and values. The first keys of a sequence may lie elsewhere in the cache:
//! sequences that begin alike share them.

use super::AttentionShape;
use super::scratch::with_rows;
use super::tile::{STRIP, dot4, exp2, load, strips, transpose4, update_row};
use crate::device::cpu::{Cpu, TileGrid, Tiled};
use crate::device::{StoredNumber, values};
use crate::simd;
use fearless_simd::{Simd, SimdBase, SimdFloat, SimdSplit, f32x4, f32x16};
use std::ops::Range;

/// Keys of a tile, between two of which sums are brought to a new largest score.
const TILE: usize = 64;
/// Keys whose rows are read for all heads before the next: a row of the cache holds all kv heads, and memory is fast in order.
const NEAR: usize = 8;
/// Products of a task, about: fewer are not worth one.
const TASK: usize = 1 << 15;
/// With fewer sequences than this, kv heads are tasks of their own.
const FEW: usize = 4;

/// `out` (B, H D) of one new token a sequence, whose index is `positions` (B), over keys and values `0 ..= positions[b]` of the
/// caches (Bmax, `max_time`, Hkv D). `qkv` is (B, 1, (H + 2 Hkv) D); its key and value must be in the caches already. `assigned`
/// (B, 3) says in its second and third column where the keys before an index lie, counted in tokens from the start of the cache,
/// and what that index is: 0 where all are in the sequence's own row. `shape.time` is not used.
///
/// # Panics
/// When a slice is shorter than its shape (a defect of the caller).
pub fn decode<T: StoredNumber>(
    cpu: &Cpu,
    shape: AttentionShape,
    qkv: &[f32],
    positions: &[u32],
    [cache_k, cache_v]: [&[T]; 2],
    max_time: usize,
    assigned: &[u32],
    out: &mut [f32],
) {
    shape.check();
    let (batch, d, width) = (shape.batch, shape.head_dim, shape.kv_heads * shape.head_dim);
    let kv_heads = if batch < FEW { 1 } else { shape.kv_heads };
    let heads = kv_heads * shape.group();
    let tile_rows = (TASK / (max_time * heads * d).max(1)).max(1);
    let out = &mut out[..batch * shape.out_width()];
    let cut = TileGrid { tile_cols: heads * d, ..TileGrid::rows(batch, shape.out_width(), tile_rows) };
    cpu.for_tiles([Tiled::new(out, cut)], |[_, part], [mut out]| {
        let kv = part * kv_heads * d;
        for i in 0..out.rows() {
            let b = out.first_row() + i;
            let [prefix, prefixed] = [1, 2].map(|column| assigned[3 * b + column] as usize);
            let last = (cache_k.len().min(cache_v.len()) / width).saturating_sub(1);
            let cache = Cache { k: &cache_k[kv..], v: &cache_v[kv..], width, own: b * max_time, prefix, prefixed, last };
            let keys = (positions[b] as usize).min(max_time - 1) + 1;
            let queries = &qkv[b * shape.row_width() + part * heads * d..][..heads * d];
            with_rows([heads * strips(d), heads, heads, heads * TILE / STRIP], |scratch| {
                simd!(cpu, s => decode_row(s, &cache, keys, shape, queries, scratch, out.row(i)));
            });
        }
    });
}

/// Where the keys and values of a sequence are, of some kv heads.
struct Cache<'a, T> {
    k: &'a [T],
    v: &'a [T],
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

impl<T> Cache<'_, T> {
    /// Where index `j` of the sequence begins.
    #[inline(always)]
    fn at(&self, j: usize) -> usize {
        (if j < self.prefixed { self.prefix + j } else { self.own + j }).min(self.last) * self.width
    }
}

/// The heads of `queries`, over the first `keys` keys.
#[inline(always)]
fn decode_row<S: Simd, T: StoredNumber>(
    simd: S,
    cache: &Cache<'_, T>,
    keys: usize,
    shape: AttentionShape,
    queries: &[f32],
    [sums, mosts, totals, scores]: [&mut [[f32; STRIP]]; 4],
    out: &mut [f32],
) {
    let (d, group, strips) = (shape.head_dim, shape.group(), shape.strips());
    sums.fill([0.0; STRIP]);
    mosts.fill([f32::NEG_INFINITY; STRIP]);
    totals.fill([0.0; STRIP]);
    for first in (0..keys).step_by(TILE) {
        let tile = first..(first + TILE).min(keys);
        scores.fill([f32::NEG_INFINITY; STRIP]);
        for near in tile.clone().step_by(NEAR).map(|first| first..(first + NEAR).min(tile.end)) {
            let scores = scores.as_flattened_mut().chunks_exact_mut(TILE);
            for (h, (query, scores)) in queries.chunks_exact(d).zip(scores).enumerate() {
                let scores = &mut scores[near.start - first..][..near.len()];
                score(simd, cache, h / group * d, near.clone(), query, shape.scale2(), scores);
            }
        }
        for (h, scores) in scores.chunks_exact_mut(TILE / STRIP).enumerate() {
            softmax(simd, scores, &mut mosts[h], &mut totals[h], &mut sums[h * strips..][..strips]);
        }
        for near in tile.clone().step_by(NEAR).map(|first| first..(first + NEAR).min(tile.end)) {
            let weights = scores.as_flattened().chunks_exact(TILE);
            for (h, (sums, weights)) in sums.chunks_exact_mut(strips).zip(weights).enumerate() {
                add_values(simd, cache, h / group * d, near.clone(), &weights[near.start - first..], d, sums);
            }
        }
    }
    for (h, out) in out.chunks_exact_mut(d).enumerate() {
        let total: f32 = sum(load(simd, &totals[h]));
        update_row(simd, out, &sums[h * strips..][..strips], 1, 0, 1.0 / total, false);
    }
}

/// Scores of `keys`, in units of log 2, whose kv head begins at `column`.
#[inline(always)]
fn score<S: Simd, T: StoredNumber>(
    simd: S,
    cache: &Cache<'_, T>,
    column: usize,
    keys: Range<usize>,
    query: &[f32],
    scale: f32,
    scores: &mut [f32],
) {
    for (quad, to) in scores.chunks_mut(4).enumerate() {
        let mut parts = [f32x4::splat(simd, 0.0); 4];
        for (i, part) in parts.iter_mut().enumerate() {
            let key = (keys.start + 4 * quad + i).min(keys.end - 1);
            *part = dot4(simd, query, &cache.k[cache.at(key) + column..][..query.len()]);
        }
        let [p, q, r, s] = transpose4(parts);
        let four = ((p + q) + (r + s)) * scale;
        match <&mut [f32; 4]>::try_from(&mut *to) {
            Ok(to) => four.store_array(to),
            Err(_) => to.copy_from_slice(&four.to_array()[..to.len()]),
        }
    }
}

/// Turn a tile's scores into 2^(score - largest so far), and bring `total` and `sums` to the new largest score.
#[inline(always)]
fn softmax<S: Simd>(
    simd: S,
    scores: &mut [[f32; STRIP]],
    most: &mut [f32; STRIP],
    total: &mut [f32; STRIP],
    sums: &mut [[f32; STRIP]],
) {
    let before = load(simd, most);
    let mut peak = before;
    for row in scores.iter() {
        peak = peak.max(load(simd, row));
    }
    let peak = f32x16::splat(simd, peak.to_array().into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a }));
    let factor = exp2(simd, before - peak);
    let mut sum = load(simd, total) * factor;
    for row in scores.iter_mut() {
        let p = exp2(simd, load(simd, row) - peak);
        sum += p;
        p.store_array(row);
    }
    for row in sums {
        (load(simd, row) * factor).store_array(row);
    }
    peak.store_array(most);
    sum.store_array(total);
}

/// `sums += sum over keys of weight value`, with values of the kv head that begins at `column`; four strips at a time.
#[inline(always)]
fn add_values<S: Simd, T: StoredNumber>(
    simd: S,
    cache: &Cache<'_, T>,
    column: usize,
    keys: Range<usize>,
    weights: &[f32],
    d: usize,
    sums: &mut [[f32; STRIP]],
) {
    let (whole, rest) = sums.split_at_mut(d / STRIP);
    for (four, sums) in whole.chunks_mut(4).enumerate() {
        let column = column + 4 * STRIP * four;
        match sums.len() {
            4 => add_strips::<S, T, 4>(simd, cache, column, keys.clone(), weights, sums),
            3 => add_strips::<S, T, 3>(simd, cache, column, keys.clone(), weights, sums),
            2 => add_strips::<S, T, 2>(simd, cache, column, keys.clone(), weights, sums),
            _ => add_strips::<S, T, 1>(simd, cache, column, keys.clone(), weights, sums),
        }
    }
    for sum in rest {
        let (column, width) = (column + d - d % STRIP, d % STRIP);
        for (key, weight) in keys.clone().zip(weights) {
            let value = &cache.v[cache.at(key) + column..][..width];
            sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value.value());
        }
    }
}

/// N whole strips of [`add_values`], from `column` on.
#[inline(always)]
fn add_strips<S: Simd, T: StoredNumber, const N: usize>(
    simd: S,
    cache: &Cache<'_, T>,
    column: usize,
    keys: Range<usize>,
    weights: &[f32],
    sums: &mut [[f32; STRIP]],
) {
    let mut acc = [f32x16::splat(simd, 0.0); N];
    for (acc, sum) in acc.iter_mut().zip(sums.iter()) {
        *acc = load(simd, sum);
    }
    for (key, weight) in keys.zip(weights) {
        let value = &cache.v[cache.at(key) + column..][..N * STRIP];
        let weight = f32x16::splat(simd, *weight);
        for (acc, value) in acc.iter_mut().zip(value.as_chunks::<STRIP>().0) {
            *acc = weight.mul_add(load(simd, &values(value)), *acc);
        }
    }
    for (acc, sum) in acc.iter().zip(sums) {
        acc.store_array(sum);
    }
}

#[inline(always)]
fn sum<S: Simd>(v: f32x16<S>) -> f32 {
    let (low, high) = v.split();
    let (low, high) = (low + high).split();
    let four = low + high;
    (four[0] + four[2]) + (four[1] + four[3])
}
