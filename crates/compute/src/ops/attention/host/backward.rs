//! Backward: scores are computed again from the log-sum-exp, a block of queries by a tile of keys at a time; five products in all.
//!
//! A task owns a range of the keys of a kv head, whose gradients it sums up over the queries of the whole group. Where sequences and kv
//! heads are few, the keys of a sequence are shared out among [`CHUNKS`] tasks, in waves of [`WAVE`] queries; their parts of the queries'
//! gradients are added up behind each wave.

use super::panel::QueryPanel;
use super::scratch::{with_rows, with_shared_rows};
use super::tile::{STRIP, copy_strips, dots, exp2, load, panel_by_strip, panels_by_strip, rows_by_panel, transpose, update_row};
use super::{AttentionShape, Sequence};
use crate::device::cpu::{Cpu, OutputTile, TileGrid, Tiled};
use crate::simd;
use fearless_simd::{Simd, SimdBase, f32x16};
use std::ops::Range;

/// Queries of a block.
const BLOCK: usize = 64;
/// Panels of a block.
const PANELS: usize = BLOCK / STRIP;
/// Keys of a tile: with a block of queries, probabilities and their gradients take 64 KiB.
const TILE: usize = 64;
/// With fewer pairs of a sequence and a kv head than this, the keys of a sequence are shared out.
const FEW: usize = 8;
/// Shorter sequences are not worth sharing out.
const SHORT: usize = 512;
/// Longer sequences are shared out, so that a task's memory stays bounded.
const LONG: usize = 4096;
/// Tasks that share the keys of a kv head.
const CHUNKS: usize = 8;
/// Queries between two sums.
const WAVE: usize = 256;

/// Statistics of a sequence, of all heads.
#[derive(Clone, Copy)]
struct Known<'a> {
    seq: Sequence<'a>,
    /// (T, H D)
    out: &'a [f32],
    /// (T, H)
    lse: &'a [f32],
    /// (T, H D)
    dout: &'a [f32],
}

/// All of `dqkv` (B, T, (H + 2 Hkv) D) from `dout` (B, T, H D) and what [`forward`](super::forward) has read and written; `delta` (B T, H),
/// the dot products of `dout` and `out`, is written on the way.
///
/// # Panics
/// When a slice is shorter than its shape (a defect of the caller).
pub fn backward(
    cpu: &Cpu,
    shape: AttentionShape,
    qkv: &[f32],
    positions: &[u32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    delta: &mut [f32],
    dqkv: &mut [f32],
) {
    shape.check();
    let AttentionShape { batch, time, heads, kv_heads, .. } = shape;
    let (row, wide) = (time * heads, time * shape.out_width());
    let known = |b: usize| Known {
        seq: Sequence::of(shape, b, qkv, positions),
        out: &out[b * wide..][..wide],
        lse: &lse[b * row..][..row],
        dout: &dout[b * wide..][..wide],
    };
    let (delta, dqkv) = (&mut delta[..batch * row], &mut dqkv[..shape.tokens() * shape.row_width()]);
    if shape.tokens() == 0 {
    } else if time <= SHORT || (time <= LONG && batch * kv_heads >= FEW) {
        whole(cpu, shape, known, delta, dqkv);
    } else {
        let sequences = delta.chunks_exact_mut(row).zip(dqkv.chunks_exact_mut(time * shape.row_width()));
        for (b, (delta, dqkv)) in sequences.enumerate() {
            for first in (0..time).step_by(WAVE) {
                wave(cpu, &known(b), first..(first + WAVE).min(time), delta, dqkv);
            }
        }
    }
}

/// The windows of `dqkv` for queries, keys and values: `rows` rows, in tiles of `tile_rows` by the heads that share a kv head.
fn windows(shape: AttentionShape, rows: usize, tile_rows: usize) -> [TileGrid; 3] {
    let (stride, width, each) = (shape.row_width(), shape.kv_heads * shape.head_dim, shape.head_dim);
    let queries = TileGrid { offset: 0, stride, rows, cols: shape.out_width(), tile_rows, tile_cols: shape.group_width() };
    let keys = TileGrid { offset: shape.out_width(), cols: width, tile_cols: each, ..queries };
    [queries, keys, TileGrid { offset: shape.out_width() + width, ..keys }]
}

/// The window of a (rows, H) matrix that has one number a head.
fn per_head(shape: AttentionShape, rows: usize, tile_rows: usize) -> TileGrid {
    TileGrid { tile_cols: shape.group(), ..TileGrid::rows(rows, shape.heads, tile_rows) }
}

/// A task for each kv head of each sequence.
fn whole<'a>(cpu: &Cpu, shape: AttentionShape, known: impl Fn(usize) -> Known<'a> + Sync, delta: &mut [f32], dqkv: &mut [f32]) {
    let time = shape.time;
    let [dq, dk, dv] = Tiled::split(dqkv, windows(shape, shape.tokens(), time));
    let delta = Tiled::new(delta, per_head(shape, shape.tokens(), time));
    cpu.for_tiles([delta, dq, dk, dv], |[b, kv], [mut delta, mut dq, mut dk, mut dv]| {
        let known = known(b);
        with_rows(sizes(shape, time), |scratch| {
            simd!(cpu, s => {
                deltas(s, &known, kv, 0, &mut delta);
                share(s, &known, kv, 0..time, 0..time, scratch, [&mut dq, &mut dk, &mut dv]);
            });
        });
    });
}

/// The contributions of `queries` of a sequence, and no later ones, to its gradients.
fn wave(cpu: &Cpu, known: &Known<'_>, queries: Range<usize>, delta: &mut [f32], dqkv: &mut [f32]) {
    let shape = known.seq.shape;
    let (width, count) = (shape.row_width(), queries.len());
    let keys = known.seq.reach(queries.clone());
    let rows = keys.len().div_ceil(CHUNKS).next_multiple_of(STRIP);
    let chunks = keys.len().div_ceil(rows);
    let cols = shape.out_width();
    with_shared_rows((chunks * count * cols).div_ceil(STRIP), |parts| {
        let parts = &mut parts.as_flattened_mut()[..chunks * count * cols];
        let [_, dk, dv] = Tiled::split(&mut dqkv[keys.start * width..], windows(shape, keys.len(), rows));
        let part = Tiled::new(parts, TileGrid { tile_cols: shape.group_width(), ..TileGrid::rows(chunks * count, cols, count) });
        cpu.for_tiles([part, dk, dv], |[chunk, kv], [mut dq, mut dk, mut dv]| {
            let chunk = keys.start + chunk * rows..(keys.start + (chunk + 1) * rows).min(keys.end);
            with_rows(sizes(shape, chunk.len()), |scratch| {
                simd!(cpu, s => share(s, known, kv, queries.clone(), chunk, scratch, [&mut dq, &mut dk, &mut dv]));
            });
        });
        let [dq, ..] = Tiled::split(&mut dqkv[queries.start * width..], windows(shape, count, BLOCK));
        let delta = Tiled::new(&mut delta[queries.start * shape.heads..], per_head(shape, count, BLOCK));
        cpu.for_tiles([delta, dq], |[_, kv], [mut delta, mut dq]| {
            simd!(cpu, s => {
                deltas(s, known, kv, queries.start + delta.first_row(), &mut delta);
                add_up(s, parts, count * cols, cols, &mut dq);
            });
        });
    });
}

/// `delta` of queries from `first` on, of the heads that share kv head `kv`.
#[inline(always)]
fn deltas<S: Simd>(simd: S, known: &Known<'_>, kv: usize, first: usize, delta: &mut OutputTile<'_>) {
    for h in 0..known.seq.shape.group() {
        for at in (0..delta.rows()).step_by(STRIP) {
            let rows = (delta.rows() - at).min(STRIP);
            let dots = known.delta(simd, first + at, kv * known.seq.shape.group() + h, rows);
            (0..rows).for_each(|i| delta.row(at + i)[h] = dots[i]);
        }
    }
}

/// The sum of parts, `size` numbers each in rows of `stride`, into the tile at its place.
#[inline(always)]
fn add_up<S: Simd>(simd: S, parts: &[f32], size: usize, stride: usize, to: &mut OutputTile<'_>) {
    let (row, col) = (to.first_row(), to.first_col());
    for i in 0..to.rows() {
        let at = (row + i) * stride + col;
        for (p, part) in parts.chunks_exact(size).enumerate() {
            let to = to.row(i);
            let from = &part[at..][..to.len()];
            match p {
                0 => to.copy_from_slice(from),
                _ => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
            }
        }
    }
    let _ = simd;
}

impl Known<'_> {
    /// From column 0 of query `t` of `head` on, in a matrix like `out`.
    fn at(&self, t: usize, head: usize) -> usize {
        (t * self.seq.shape.heads + head) * self.seq.shape.head_dim
    }

    /// The dot products of `dout` and `out` of queries from `t` on.
    #[inline(always)]
    fn delta<S: Simd>(&self, simd: S, t: usize, head: usize, queries: usize) -> [f32; STRIP] {
        let (at, shape) = (self.at(t, head), self.seq.shape);
        dots(simd, &self.out[at..], &self.dout[at..], shape.out_width(), shape.head_dim, queries)
    }
}

/// Scratch of a task.
struct Work<'a> {
    /// Keys, and gradients of keys and values, in strips of as many rows as there are keys, rounded up.
    keys: &'a mut [[f32; STRIP]],
    dk: &'a mut [[f32; STRIP]],
    dv: &'a mut [[f32; STRIP]],
    /// Of a block of queries: panels of queries and of `dout`, strips of both, and gradients of queries.
    q_panels: &'a mut [[f32; STRIP]],
    dout_panels: &'a mut [[f32; STRIP]],
    q_strips: &'a mut [[f32; STRIP]],
    dout_strips: &'a mut [[f32; STRIP]],
    dq: &'a mut [[f32; STRIP]],
    /// Of a block of queries, a row for each panel: the log-sum-exp in units of log 2, and `delta`.
    lse: &'a mut [[f32; STRIP]],
    delta: &'a mut [[f32; STRIP]],
    /// Of a block of queries and a tile of keys: probabilities and gradients of scores, in panels of `TILE` keys.
    p: &'a mut [[f32; STRIP]],
    ds: &'a mut [[f32; STRIP]],
}

/// Rows of the fields of [`Work`].
fn sizes(shape: AttentionShape, keys: usize) -> [usize; 12] {
    let (strips, rows) = (shape.strips(), keys.next_multiple_of(STRIP));
    let [panel, strip] = [PANELS * shape.head_dim, strips * BLOCK];
    [strips * rows, strips * rows, strips * rows, panel, panel, strip, strip, strip, PANELS, PANELS, PANELS * TILE, PANELS * TILE]
}

/// The contributions of `queries` to the gradients of `keys` of a kv head, and these keys to the gradients of the queries. Row 0 of `dq` is the
/// first query, row 0 of `dk` and `dv` the first key; keys before the first query have had contributions before.
#[inline(always)]
fn share<S: Simd>(
    simd: S,
    known: &Known<'_>,
    kv: usize,
    queries: Range<usize>,
    keys: Range<usize>,
    [k, dk, dv, q_panels, dout_panels, q_strips, dout_strips, dq, lse, delta, p, ds]: [&mut [[f32; STRIP]]; 12],
    [to_dq, to_dk, to_dv]: [&mut OutputTile<'_>; 3],
) {
    let (seq, shape) = (&known.seq, known.seq.shape);
    let (d, rows) = (shape.head_dim, keys.len().next_multiple_of(STRIP));
    copy_strips(seq.keys(keys.start, kv), shape.row_width(), d, keys.len(), k, rows);
    dk.fill([0.0; STRIP]);
    dv.fill([0.0; STRIP]);
    let mut work = Work { keys: k, dk, dv, q_panels, dout_panels, q_strips, dout_strips, dq, lse, delta, p, ds };
    for first in queries.clone().step_by(BLOCK) {
        let block = first..(first + BLOCK).min(queries.end);
        for h in 0..shape.group() {
            block_of_head(simd, known, kv * shape.group() + h, &block, &keys, &mut work);
            for t in block.clone() {
                let row = &mut to_dq.row(t - queries.start)[h * d..][..d];
                update_row(simd, row, work.dq, BLOCK, t - first, 1.0, false);
            }
        }
    }
    for key in keys.clone() {
        let (i, add) = (key - keys.start, key < queries.start);
        update_row(simd, to_dk.row(i), work.dk, rows, i, 1.0, add);
        update_row(simd, to_dv.row(i), work.dv, rows, i, 1.0, add);
    }
}

/// One head of a block of queries with all of `keys`.
#[inline(always)]
fn block_of_head<S: Simd>(
    simd: S,
    known: &Known<'_>,
    head: usize,
    block: &Range<usize>,
    keys: &Range<usize>,
    work: &mut Work<'_>,
) {
    let seq = &known.seq;
    let count = block.len().div_ceil(STRIP);
    let panels: [QueryPanel; PANELS] = std::array::from_fn(|p| QueryPanel::new(seq, block.start + p.min(count - 1) * STRIP));
    let panels = &panels[..count];
    let reach = seq.reach(block.clone());
    let reach = reach.start.max(keys.start)..reach.end.min(keys.end);
    work.dq.fill([0.0; STRIP]);
    if reach.is_empty() {
        return;
    }
    load_queries(simd, known, head, block, work);
    for first in reach.clone().step_by(TILE) {
        let tile = first..(first + TILE).min(reach.end);
        for (p, panel) in panels.iter().enumerate() {
            weights(simd, known, head, panel, p, &tile, work);
        }
        key_gradients(simd, panels, &tile, keys, work);
        for (p, panel) in panels.iter().enumerate() {
            let seen = panel.keys(&tile);
            let rows = keys.len().next_multiple_of(STRIP);
            let ds = &work.ds[p * TILE + seen.start - tile.start..][..seen.len()];
            for (strip, dq) in work.keys.chunks_exact(rows).zip(work.dq.chunks_exact_mut(BLOCK)) {
                let k = &strip[seen.start - keys.start..][..seen.len()];
                panel_by_strip(simd, ds, k, true, &mut dq[p * STRIP..][..STRIP]);
            }
        }
    }
}

/// Queries and `dout` of a block, as panels and as strips.
#[inline(always)]
fn load_queries<S: Simd>(simd: S, known: &Known<'_>, head: usize, block: &Range<usize>, work: &mut Work<'_>) {
    let shape = known.seq.shape;
    let (d, width, out_width) = (shape.head_dim, shape.row_width(), shape.out_width());
    let panels = work.q_panels.chunks_exact_mut(d).zip(work.dout_panels.chunks_exact_mut(d));
    for (p, (first, (q, dout))) in block.clone().step_by(STRIP).zip(panels).enumerate() {
        let rows = (block.end - first).min(STRIP);
        work.delta[p] = known.delta(simd, first, head, rows);
        // Lanes without a query: their probabilities become 0.
        work.lse[p] = [f32::INFINITY; STRIP];
        for (lane, lse) in work.lse[p][..rows].iter_mut().enumerate() {
            *lse = known.lse[(first + lane) * shape.heads + head] * std::f32::consts::LOG2_E;
        }
        transpose(simd, known.seq.queries(first, head), width, rows, shape.scale2(), q);
        transpose(simd, &known.dout[known.at(first, head)..], out_width, rows, 1.0, dout);
    }
    if !block.len().is_multiple_of(STRIP) {
        work.q_strips.fill([0.0; STRIP]);
        work.dout_strips.fill([0.0; STRIP]);
    }
    copy_strips(known.seq.queries(block.start, head), width, d, block.len(), work.q_strips, BLOCK);
    copy_strips(&known.dout[known.at(block.start, head)..], out_width, d, block.len(), work.dout_strips, BLOCK);
}

/// Probabilities of panel `p` of a block for a tile of keys, and gradients of its scores.
#[inline(always)]
fn weights<S: Simd>(
    simd: S,
    known: &Known<'_>,
    head: usize,
    panel: &QueryPanel,
    p: usize,
    tile: &Range<usize>,
    work: &mut Work<'_>,
) {
    let (seq, shape) = (&known.seq, known.seq.shape);
    let (d, kv, width, keys) = (shape.head_dim, head / shape.group(), shape.row_width(), panel.keys(tile));
    if keys.is_empty() {
        return;
    }
    let at = p * TILE + keys.start - tile.start;
    let (probabilities, ds) = (&mut work.p[at..][..keys.len()], &mut work.ds[at..][..keys.len()]);
    rows_by_panel(simd, seq.keys(keys.start, kv), width, &work.q_panels[p * d..][..d], probabilities);
    rows_by_panel(simd, seq.values(keys.start, kv), width, &work.dout_panels[p * d..][..d], ds);
    panel.mask(simd, &keys, probabilities);
    let (lse, delta) = (load(simd, &work.lse[p]), load(simd, &work.delta[p]));
    let scale = f32x16::splat(simd, shape.scale());
    for (probability, ds) in probabilities.iter_mut().zip(ds) {
        let p = exp2(simd, load(simd, probability) - lse);
        p.store_array(probability);
        ((load(simd, ds) - delta) * (p * scale)).store_array(ds);
    }
}

/// Add the contribution of a block of queries to the gradients of a tile's keys and values.
#[inline(always)]
fn key_gradients<S: Simd>(simd: S, panels: &[QueryPanel], tile: &Range<usize>, keys: &Range<usize>, work: &mut Work<'_>) {
    let rows = keys.len().next_multiple_of(STRIP);
    for key in tile.clone().step_by(STRIP) {
        let (mut covering, mut count) = ([0; PANELS], 0);
        for (p, _) in panels.iter().enumerate().filter(|(_, panel)| panel.covers(key)) {
            covering[count] = p;
            count += 1;
        }
        let (at, from, here) = (key - keys.start, key - tile.start, (tile.end - key).min(STRIP));
        for (weights, strips, to) in [(&*work.p, &*work.dout_strips, &mut *work.dv), (&*work.ds, &*work.q_strips, &mut *work.dk)]
        {
            for (strip, to) in strips.chunks_exact(BLOCK).zip(to.chunks_exact_mut(rows)) {
                panels_by_strip(simd, &covering[..count], &weights[from..], TILE, strip, &mut to[at..][..here]);
            }
        }
    }
}
