//! Tensors are ranges of device buffers; an arena holds all the tensors of one role.

use super::gpu::GpuBuffer;
use super::host::{HostBuffer, ReadGuard, WriteGuard};
use super::open::Engine;
use super::{Device, ElementType};
use std::ops::Range;
use std::sync::Arc;

/// Alignment of f32 tensors in an arena, in elements; see [`ElementType::align`].
pub const ALIGN: usize = ElementType::F32.align();

/// A range of a device buffer with a shape and a type of elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Buffer,
    /// In bytes.
    offset: u64,
    shape: Vec<usize>,
    element: ElementType,
    /// Elements at its end that are not part of the tensor: see [`Tensor::columns_from`].
    cut: usize,
    name: Arc<str>,
}

/// Memory of one device.
#[derive(Clone, Debug)]
enum Buffer {
    Gpu(GpuBuffer),
    Cpu(HostBuffer),
}

impl Tensor {
    /// An f32 tensor with its own buffer, for an activation; initially zero. `purpose` is its entry in the ledger.
    pub fn new(device: &Device, purpose: &str, name: &str, shape: &[usize]) -> Self {
        Self::of_type(device, purpose, name, shape, ElementType::F32)
    }

    /// As [`Tensor::new`], of elements of this type.
    pub fn of_type(device: &Device, purpose: &str, name: &str, shape: &[usize], element: ElementType) -> Self {
        Self::in_parts(device, purpose, name, (shape, element), usize::MAX)
    }

    /// As [`Tensor::of_type`]; on a GPU in buffers of `part` elements each, a multiple of the alignment. No binding may span two of them.
    fn in_parts(device: &Device, purpose: &str, name: &str, (shape, element): (&[usize], ElementType), part: usize) -> Self {
        let len: usize = shape.iter().product();
        // Rounded up so that a binding can always be read as vec4.
        let bytes = ((element.bytes() * len) as u64).next_multiple_of(16).max(16);
        device.ledger.add(purpose, bytes);
        let buffer = match &device.engine {
            Engine::Gpu(gpu) => Buffer::Gpu(gpu.new_buffer(name, bytes, (part as u64).saturating_mul(element.bytes() as u64))),
            Engine::Cpu(_) => Buffer::Cpu(HostBuffer::new((element.bytes() * len).div_ceil(4))),
        };
        Self { buffer, offset: 0, shape: shape.to_vec(), element, cut: 0, name: name.into() }
    }

    /// Storage type of its elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<usize>() - self.cut
    }

    /// True when empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes spanned, in whole words.
    pub fn bytes(&self) -> u64 {
        (self.element.bytes() * self.len()).next_multiple_of(4) as u64
    }

    /// Size as a matrix: all leading axes are rows, the last is columns.
    pub fn matrix(&self) -> [usize; 2] {
        let cols = self.shape.last().copied().unwrap_or(1);
        [self.shape.iter().product::<usize>() / cols.max(1), cols]
    }

    /// The same elements with another shape.
    ///
    /// # Panics
    /// When the number of elements differs (a defect of the caller).
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "{}: {:?} cannot become {shape:?}", self.name, self.shape);
        Self { shape: shape.to_vec(), ..self.clone() }
    }

    /// Elements `range` of the flattened tensor, which must start at a multiple of [`ElementType::align`] elements of its buffer.
    ///
    /// # Panics
    /// When the range exceeds the tensor or starts unaligned (a defect of the caller).
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{}: slice {range:?} of {}", self.name, self.len());
        let offset = self.offset + (self.element.bytes() * range.start) as u64;
        assert!(offset.is_multiple_of(4 * ALIGN as u64), "{}: slice {range:?} is not aligned", self.name);
        Self { offset, shape: vec![range.len()], cut: 0, ..self.clone() }
    }

    /// The same rows from this column on, a multiple of [`ElementType::align`]: the row stride is unchanged, so the last row ends early.
    ///
    /// # Panics
    /// When the column is outside of the matrix or unaligned (a defect of the caller).
    pub fn columns_from(&self, first: usize) -> Self {
        let [_, cols] = self.matrix();
        assert!(first < cols && first.is_multiple_of(self.element.align()), "{}: columns from {first} of {cols}", self.name);
        Self { offset: self.offset + (self.element.bytes() * first) as u64, cut: self.cut + first, ..self.clone() }
    }

    /// The rows of a matrix in parts of at most `most_bytes`, each with its first row, a multiple of [`ALIGN`]; one part if all fit. Elements
    /// count as f32, so that the parts of a sum do not depend on their type; 16-bit ones need an even number of columns.
    pub fn row_parts(&self, most_bytes: u64) -> Vec<(usize, Self)> {
        if 4 * self.len() as u64 <= most_bytes {
            return vec![(0, self.clone())];
        }
        let [rows, cols] = self.matrix();
        let most = rows_at_once(cols, most_bytes);
        (0..rows).step_by(most).map(|first| (first, self.rows(first..rows.min(first + most)))).collect()
    }

    /// Rows `range` of the tensor as a matrix; the first must be aligned as in [`Tensor::slice`].
    ///
    /// # Panics
    /// As [`Tensor::slice`].
    pub fn rows(&self, range: Range<usize>) -> Self {
        let [_, cols] = self.matrix();
        self.slice(range.start * cols..range.end * cols).reshape(&[range.len(), cols])
    }

    /// Whether both are in one buffer.
    pub fn shares_buffer(&self, other: &Self) -> bool {
        match (&self.buffer, &other.buffer) {
            (Buffer::Gpu(a), Buffer::Gpu(b)) => a == b,
            (Buffer::Cpu(a), Buffer::Cpu(b)) => a.is(b),
            _ => false,
        }
    }

    /// Whether both have elements in common. For columns of a matrix, the rest of its rows counts too.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.shares_buffer(other) && self.offset < other.offset + other.bytes() && other.offset < self.offset + self.bytes()
    }

    /// Buffer of a GPU and offset in bytes.
    pub(super) fn on_gpu(&self) -> (&GpuBuffer, u64) {
        match &self.buffer {
            Buffer::Gpu(buffer) => (buffer, self.offset),
            Buffer::Cpu(_) => panic!("{}: lies in the CPU executor's memory", self.name),
        }
    }

    /// Buffer of the CPU and range of words.
    fn on_cpu(&self) -> (&HostBuffer, Range<usize>) {
        let first = self.offset as usize / 4;
        match &self.buffer {
            Buffer::Cpu(buffer) => (buffer, first..first + self.bytes() as usize / 4),
            Buffer::Gpu(_) => panic!("{}: lies in a GPU's memory", self.name),
        }
    }

    /// Lock the words of its elements for reading.
    pub(super) fn lock_for_reading(&self) -> Reading<'_> {
        let (buffer, range) = self.on_cpu();
        Reading { whole: buffer.read(&self.name), range }
    }

    /// Lock the words of its elements for writing.
    pub(super) fn lock_for_writing(&self) -> Writing<'_> {
        let (buffer, range) = self.on_cpu();
        Writing { whole: buffer.write(&self.name), range }
    }
}

/// Rows of a part of a matrix that is larger than a binding: a multiple of [`ALIGN`].
fn rows_at_once(cols: usize, most_bytes: u64) -> usize {
    ((most_bytes as usize / (4 * cols)) / ALIGN * ALIGN).max(ALIGN)
}

/// Read access to a tensor of the CPU executor.
pub(super) struct Reading<'a> {
    whole: ReadGuard<'a>,
    range: Range<usize>,
}

impl Reading<'_> {
    pub(super) fn values(&self) -> &[f32] {
        &self.whole.values()[self.range.clone()]
    }
}

/// Write access to a tensor of the CPU executor.
pub(super) struct Writing<'a> {
    whole: WriteGuard<'a>,
    range: Range<usize>,
}

impl Writing<'_> {
    pub(super) fn values(&mut self) -> &mut [f32] {
        &mut self.whole.values()[self.range.clone()]
    }
}

/// The places of an arena's tensors. Computed once from the shapes; the four parameter roles share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArenaLayout {
    places: Vec<(usize, usize)>,
    shapes: Vec<Vec<usize>>,
    /// Elements of each segment.
    segments: Vec<usize>,
    /// Their type in each segment.
    elements: Vec<ElementType>,
    /// Elements at the start of each segment that belong to tensors of rank >= 2.
    matrices: Vec<usize>,
    /// Elements of each segment that are bound at once: all, unless its only tensor is larger than a binding.
    steps: Vec<usize>,
    /// Elements of a buffer of each segment: a matrix larger than a binding may be larger than what a device allocates at once.
    buffers: Vec<usize>,
}

impl ArenaLayout {
    /// Lay out f32 tensors of these shapes in segments of at most `max_bytes` each: matrices first in every segment, then vectors, so that
    /// weight decay by rank (nanoGPT `configure_optimizers`) is one comparison. A larger tensor gets its own segment.
    pub fn new(shapes: &[Vec<usize>], max_bytes: u64) -> Self {
        Self::with_types(shapes, max_bytes, |_| ElementType::F32)
    }

    /// As [`ArenaLayout::new`], with elements of the type that `of` returns for a shape. A segment has one type.
    pub fn with_types(shapes: &[Vec<usize>], max_bytes: u64, of: impl Fn(&[usize]) -> ElementType) -> Self {
        let mut layout = Self { places: vec![(0, 0); shapes.len()], shapes: shapes.to_vec(), ..Self::default() };
        for element in ElementType::ALL {
            let these: Vec<usize> = (0..shapes.len()).filter(|&i| of(&shapes[i]) == element).collect();
            if !these.is_empty() {
                layout.place(&these, element, max_bytes);
            }
        }
        layout
    }

    /// Place tensors with elements of one type.
    fn place(&mut self, these: &[usize], element: ElementType, max_bytes: u64) {
        let align = element.align();
        let most = ((max_bytes as usize / element.bytes()) / align * align).max(align);
        let padded = |shape: &[usize]| shape.iter().product::<usize>().next_multiple_of(align);
        // Tensors in order of declaration; a segment is closed when the next tensor does not fit.
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut used = 0;
        for &i in these {
            let len = padded(&self.shapes[i]);
            if used + len > most && used > 0 {
                groups.push(Vec::new());
                used = 0;
            }
            used += len;
            if let Some(last) = groups.last_mut() {
                last.push(i);
            }
        }
        for group in groups {
            let mut offset = 0;
            let mut matrices = 0;
            for want_matrix in [true, false] {
                for &i in group.iter().filter(|&&i| (self.shapes[i].len() >= 2) == want_matrix) {
                    self.places[i] = (self.segments.len(), offset);
                    offset += padded(&self.shapes[i]);
                }
                if want_matrix {
                    matrices = offset;
                }
            }
            let rows = match group.as_slice() {
                [only] if self.shapes[*only].len() >= 2 && offset > most => {
                    let cols = self.shapes[*only].last().copied().unwrap_or(1);
                    Some(cols * rows_at_once(cols, max_bytes)).filter(|&part| part <= most)
                }
                _ => None,
            };
            self.segments.push(offset);
            self.elements.push(element);
            self.matrices.push(matrices);
            self.steps.push(rows.unwrap_or(most));
            self.buffers.push(rows.unwrap_or(usize::MAX));
        }
    }

    /// (segment, elements, number of leading elements in matrices) of everything, in bindable parts.
    fn parts(&self) -> impl Iterator<Item = (usize, Range<usize>, usize)> + '_ {
        let of = |(segment, (&len, &matrices)): (usize, (&usize, &usize))| {
            let step = self.steps[segment];
            let range = |start: usize| start..len.min(start + step);
            (0..len.max(1))
                .step_by(step)
                .map(move |start| {
                    let range = range(start);
                    let own = matrices.clamp(range.start, range.end) - range.start;
                    (segment, range, own)
                })
                .collect::<Vec<_>>()
        };
        self.segments.iter().zip(&self.matrices).enumerate().flat_map(of)
    }

    /// (segment, elements) of these tensors with their padding, adjacent ones merged.
    fn spans(&self, these: &[usize]) -> Vec<(usize, Range<usize>)> {
        let place = |i: &usize| {
            let (segment, start) = self.places[*i];
            let align = self.elements[segment].align();
            (segment, start..start + self.shapes[*i].iter().product::<usize>().next_multiple_of(align))
        };
        let mut ranges: Vec<_> = these.iter().map(place).collect();
        ranges.sort_by_key(|(segment, range)| (*segment, range.start));
        let mut spans: Vec<(usize, Range<usize>)> = Vec::new();
        for (segment, range) in ranges {
            match spans.last_mut() {
                Some((last, span)) if *last == segment && span.end == range.start => span.end = range.end,
                _ => spans.push((segment, range)),
            }
        }
        spans
    }

    /// Bytes per arena.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().zip(&self.elements).map(|(len, element)| (element.bytes() * len) as u64).sum()
    }
}

/// All tensors of one role (values, gradients, Adam's m or v), in as few buffers as the adapter's binding limit allows.
pub struct Arena {
    layout: Arc<ArenaLayout>,
    segments: Vec<Tensor>,
    /// The segments in bindable parts, each with the number of leading elements in matrices.
    parts: Vec<(Tensor, usize)>,
    role: Arc<str>,
}

impl Arena {
    /// Allocate a role; initially zero.
    pub fn new(device: &Device, role: &str, layout: Arc<ArenaLayout>) -> Self {
        let segments: Vec<Tensor> = layout
            .segments
            .iter()
            .enumerate()
            .map(|(i, &len)| {
                Tensor::in_parts(device, role, &format!("{role}[{i}]"), (&[len], layout.elements[i]), layout.buffers[i])
            })
            .collect();
        let parts = layout.parts().map(|(segment, range, matrices)| (segments[segment].slice(range), matrices)).collect();
        Self { layout, segments, parts, role: role.into() }
    }

    /// The i-th tensor of the layout, named `role.name`.
    pub fn tensor(&self, i: usize, name: &str) -> Tensor {
        let (segment, start) = self.layout.places[i];
        let shape = &self.layout.shapes[i];
        let flat = self.segments[segment].slice(start..start + shape.iter().product::<usize>());
        Tensor { name: format!("{}.{name}", self.role).into(), ..flat.reshape(shape) }
    }

    /// The ranges that contain exactly the tensors of these indices and zero padding; as few as possible and bindable, each a multiple of
    /// the alignment long.
    pub fn spans(&self, these: &[usize]) -> Vec<Tensor> {
        let cut = |(segment, range): (usize, Range<usize>)| {
            let step = self.layout.steps[segment];
            let starts = range.clone().step_by(step);
            starts.map(move |start| self.segments[segment].slice(start..range.end.min(start + step))).collect::<Vec<_>>()
        };
        self.layout.spans(these).into_iter().flat_map(cut).collect()
    }

    /// Everything, in bindable parts, each with the number of leading elements in matrices.
    pub fn segments(&self) -> impl Iterator<Item = (&Tensor, usize)> {
        self.parts.iter().map(|(part, matrices)| (part, *matrices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Recorder;
    use proptest::prelude::*;

    /// A matrix larger than a binding lies in several buffers of a GPU; it is written, read, copied and cleared as one, and bound by rows.
    #[test]
    fn large_matrices_are_whole() -> anyhow::Result<()> {
        let device = Device::open_named(None)?;
        let (rows, cols, most) = (300, 8, 4 * 8 * 128);
        let arena = Arena::new(&device, "values", Arc::new(ArenaLayout::new(&[vec![rows, cols], vec![cols]], most)));
        let (large, small) = (arena.tensor(0, "large"), arena.tensor(1, "small"));
        let values: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
        device.write(&large, &values);
        device.write(&small, &[1.0f32; 8]);
        assert_eq!(device.read::<f32>(&large)?, values);
        let parts = large.row_parts(most);
        assert_eq!(parts.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 128, 256]);
        for (first, part) in parts {
            assert_eq!(device.read::<f32>(&part)?, values[first * cols..][..part.len()], "rows from {first}");
        }
        // Over the boundary at row 128, from and to a tensor in one buffer.
        let other = Tensor::new(&device, "test", "other", &[200, cols]);
        let mut r = Recorder::new(&device, "test");
        r.copy(&large.rows(64..264), &other);
        r.clear(&large);
        r.copy(&other, &large.rows(96..296));
        device.replay(&r.finish()?)?;
        assert_eq!(device.read::<f32>(&other)?, values[64 * cols..264 * cols]);
        let want = [&vec![0.0; 96 * cols], &values[64 * cols..264 * cols], &vec![0.0; 4 * cols]].concat();
        assert_eq!(device.read::<f32>(&large)?, want);
        assert_eq!(device.read::<f32>(&small)?, [1.0; 8]);
        Ok(())
    }

    proptest! {
        /// No two tensors overlap, all are aligned and inside their segment, matrices come before vectors.
        #[test]
        fn layouts_are_disjoint(shapes in prop::collection::vec(prop::collection::vec(1usize..40, 1..3), 1..30), cap in 200usize..9000) {
            let layout = ArenaLayout::new(&shapes, 4 * cap as u64);
            let mut owner: Vec<Vec<Option<usize>>> = layout.segments.iter().map(|&n| vec![None; n]).collect();
            for (i, (segment, start)) in layout.places.iter().enumerate() {
                prop_assert_eq!(start % ALIGN, 0);
                let len: usize = shapes[i].iter().product();
                for slot in &mut owner[*segment][*start..start + len] {
                    prop_assert!(slot.replace(i).is_none());
                }
                prop_assert_eq!(*start < layout.matrices[*segment], shapes[i].len() >= 2);
            }
            // Only a single tensor may exceed a segment; bound parts never do.
            for (segment, &n) in layout.segments.iter().enumerate() {
                prop_assert!(n <= cap || layout.places.iter().filter(|(of, _)| *of == segment).count() == 1);
            }
            let mut bound: Vec<usize> = vec![0; layout.segments.len()];
            for (segment, range, matrices) in layout.parts() {
                prop_assert!(range.len() <= cap && range.start % ALIGN == 0 && range.start == bound[segment]);
                prop_assert_eq!(matrices, layout.matrices[segment].clamp(range.start, range.end) - range.start);
                bound[segment] = range.end;
            }
            prop_assert_eq!(&bound, &layout.segments);
            // The spans of every second tensor hold those tensors, their padding, and nothing else.
            let these: Vec<usize> = (0..shapes.len()).step_by(2).collect();
            let mut inside = 0;
            for (segment, range) in layout.spans(&these) {
                prop_assert!(range.start % ALIGN == 0 && range.end % ALIGN == 0);
                let owners: Vec<usize> = owner[segment][range].iter().flatten().copied().collect();
                prop_assert!(owners.iter().all(|i| i % 2 == 0));
                inside += owners.len();
            }
            prop_assert_eq!(inside, these.iter().map(|&i| shapes[i].iter().product::<usize>()).sum::<usize>());
        }
    }
}
