//! Which tiles an output is cut into. It depends on shapes and the instruction set, never on the number of threads.

use super::serial::{MOST_DEPTH, block_of_registers};
use fearless_simd::Level;

/// Rows and columns of a tile.
pub fn tile(level: Level, rows: usize, cols: usize, depth: usize) -> [usize; 2] {
    if let Ok(v) = std::env::var("TILE") {
        let v: Vec<usize> = v.split('x').map(|v| v.parse().unwrap()).collect();
        return [v[0], v[1]];
    }
    let [block_rows, block_cols] = block_of_registers(level);
    let longest = depth.div_ceil(depth.div_ceil(MOST_DEPTH).max(1)).max(1);
    // Rows whose part of the left operand takes half of a second-level cache of 512 KB.
    let most_rows = (LEFT_FLOATS / longest).max(48);
    let flops = 2.0 * rows as f64 * cols as f64 * depth as f64;
    let wanted = ((flops / GRAIN) as usize).clamp(1, 96);
    let mut row_parts = rows.div_ceil(most_rows);
    let most_col_parts = cols.div_ceil(LEAST_COLS);
    let col_parts = wanted.div_ceil(row_parts).clamp(1, most_col_parts);
    if row_parts * col_parts < wanted {
        row_parts = wanted.div_ceil(col_parts).min(rows.div_ceil(LEAST_ROWS));
    }
    let tile = |extent: usize, parts: usize, unit: usize| extent.div_ceil(parts).next_multiple_of(unit);
    [tile(rows, row_parts, block_rows), tile(cols, col_parts, block_cols)]
}

const LEFT_FLOATS: usize = 65_536;
const GRAIN: f64 = 4e6;
const LEAST_COLS: usize = 48;
const LEAST_ROWS: usize = 48;
