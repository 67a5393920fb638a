//! Outputs divided into disjoint tiles, so that threads can write one buffer concurrently. The executor's only unsafe code for sharing.

use std::marker::PhantomData;

/// Division of a row-major output: a window of `rows` x `cols` at column `offset` of rows of `stride`, in tiles of a fixed size (smaller at
/// the edges).
#[derive(Clone, Copy, Debug)]
pub struct TileGrid {
    /// First column of the window.
    pub offset: usize,
    /// Elements from row to row.
    pub stride: usize,
    /// Rows of the window.
    pub rows: usize,
    /// Columns of the window.
    pub cols: usize,
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Columns of a tile.
    pub tile_cols: usize,
}

impl TileGrid {
    /// A dense matrix in blocks of rows.
    pub fn rows(rows: usize, cols: usize, tile_rows: usize) -> Self {
        Self { offset: 0, stride: cols, rows, cols, tile_rows, tile_cols: cols }
    }

    /// `len` numbers in pieces of one task each.
    pub fn pieces(len: usize) -> Self {
        Self { offset: 0, stride: len, rows: 1, cols: len, tile_rows: 1, tile_cols: 1 << 16 }
    }

    fn grid(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.tile_rows.max(1)), self.cols.div_ceil(self.tile_cols.max(1))]
    }

    /// Elements of the buffer that the window reaches.
    fn reach(&self) -> usize {
        if self.rows == 0 || self.cols == 0 { 0 } else { (self.rows - 1) * self.stride + self.offset + self.cols }
    }
}

/// An output and its division into tiles.
pub struct Tiled<'a> {
    base: *mut f32,
    cut: TileGrid,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Tiled` hands out disjoint tiles only, each of which is as good as a `&mut [f32]`.
unsafe impl Sync for Tiled<'_> {}
// SAFETY: as above.
unsafe impl Send for Tiled<'_> {}

impl<'a> Tiled<'a> {
    /// Divide one window of `data`.
    ///
    /// # Panics
    /// When the window exceeds `data` (a defect of the caller).
    pub fn new(data: &'a mut [f32], cut: TileGrid) -> Self {
        let [one] = Self::split(data, [cut]);
        one
    }

    /// Divide several windows of disjoint columns of `data`.
    ///
    /// # Panics
    /// When a window exceeds `data` or two of them overlap (a defect of the caller).
    pub fn split<const N: usize>(data: &'a mut [f32], cuts: [TileGrid; N]) -> [Self; N] {
        for (i, cut) in cuts.iter().enumerate() {
            assert!(cut.offset + cut.cols <= cut.stride && cut.reach() <= data.len(), "{cut:?} leaves {} elements", data.len());
            for other in &cuts[..i] {
                let apart = cut.offset + cut.cols <= other.offset || other.offset + other.cols <= cut.offset;
                assert!(cut.stride == other.stride && apart, "{cut:?} overlaps {other:?}");
            }
        }
        let base = data.as_mut_ptr();
        cuts.map(|cut| Self { base, cut, borrow: PhantomData })
    }

    /// Number of tiles vertically and horizontally.
    pub fn grid(&self) -> [usize; 2] {
        self.cut.grid()
    }

    /// # Safety
    /// No tile may be taken twice while another of the same place lives.
    pub(super) unsafe fn tile(&self, [row, col]: [usize; 2]) -> OutputTile<'a> {
        let c = &self.cut;
        let (first_row, first_col) = (row * c.tile_rows, col * c.tile_cols);
        assert!(first_row < c.rows && first_col < c.cols, "tile {row}, {col} of {c:?}");
        OutputTile {
            // SAFETY: inside of the buffer, as `split` has checked.
            base: unsafe { self.base.add(first_row * c.stride + c.offset + first_col) },
            stride: c.stride,
            first_row,
            first_col,
            rows: c.tile_rows.min(c.rows - first_row),
            cols: c.tile_cols.min(c.cols - first_col),
            borrow: PhantomData,
        }
    }
}

/// A tile owned by one task.
pub struct OutputTile<'a> {
    base: *mut f32,
    stride: usize,
    first_row: usize,
    first_col: usize,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> OutputTile<'a> {
    /// A whole buffer of `rows` rows of `cols` columns, with a stride of `stride` elements.
    ///
    /// # Panics
    /// When they exceed `data` (a defect of the caller).
    #[inline(always)]
    pub fn over(data: &'a mut [f32], stride: usize, [rows, cols]: [usize; 2]) -> Self {
        let reach = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols };
        assert!(cols <= stride && reach <= data.len(), "{rows} x {cols} in rows of {stride} leave {} elements", data.len());
        Self { base: data.as_mut_ptr(), stride, first_row: 0, first_col: 0, rows, cols, borrow: PhantomData }
    }

    /// Rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// First row, counted in the window.
    #[inline(always)]
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// First column, counted in the window.
    #[inline(always)]
    pub fn first_col(&self) -> usize {
        self.first_col
    }

    /// Row `i` of the tile.
    ///
    /// # Panics
    /// When there is no such row (a defect of the caller).
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: inside of the tile, which this task owns, and borrowed from `self` mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(i * self.stride), self.cols) }
    }

    /// Columns `col..col + cols` of the `N` rows from `row` on.
    ///
    /// # Panics
    /// When there are no such rows or columns (a defect of the caller).
    #[inline(always)]
    pub fn block<const N: usize>(&mut self, [row, col]: [usize; 2], cols: usize) -> [&mut [f32]; N] {
        let inside = row <= self.rows && N <= self.rows - row && col <= self.cols && cols <= self.cols - col;
        assert!(inside, "rows {row}, {N} and columns {col}, {cols} of {} x {}", self.rows, self.cols);
        std::array::from_fn(
            // SAFETY: inside of the tile, which this task owns; rows are disjoint (`Tiled::split`, `OutputTile::over`), and all of them are
            // borrowed from `self` mutably.
            #[inline(always)]
            |i| unsafe { std::slice::from_raw_parts_mut(self.base.add((row + i) * self.stride + col), cols) },
        )
    }

    /// Prefetch columns `col..col + cols` of the `N` rows from `row` on, which will be written soon.
    #[inline(always)]
    pub fn prefetch<const N: usize>(&self, [row, col]: [usize; 2], cols: usize) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (row, col, cols);
        #[cfg(target_arch = "x86_64")]
        for i in 0..N {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.base.wrapping_add((row + i) * self.stride + col);
            // SAFETY: a hint, which no address can make fail.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at.cast());
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(cols - 1).cast());
            }
        }
    }
}
