//! Memory of the CPU executor: buffers behind a lock that is never contended, because a recording binds a buffer that is written only once.
//! A violation is a panic with the buffer's name, not a data race.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// A cache line: aligns buffers and all tensors in arenas for any vector width.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([f32; 16]);

/// A buffer; clones are the same buffer.
#[derive(Clone)]
pub(super) struct HostBuffer(Arc<RwLock<Vec<Line>>>);

impl HostBuffer {
    /// Zeros; the operating system allocates pages on first use.
    pub(super) fn new(elements: usize) -> Self {
        Self(Arc::new(RwLock::new(bytemuck::allocation::zeroed_vec(elements.div_ceil(16)))))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// # Panics
    /// When it is being written (a defect of the caller).
    pub(super) fn read(&self, name: &str) -> ReadGuard<'_> {
        match self.0.try_read() {
            Ok(lines) => ReadGuard(lines),
            Err(TryLockError::Poisoned(poisoned)) => ReadGuard(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => panic!("{name} is read while it is written"),
        }
    }

    /// # Panics
    /// When it is being read or written (a defect of the caller).
    pub(super) fn write(&self, name: &str) -> WriteGuard<'_> {
        match self.0.try_write() {
            Ok(lines) => WriteGuard(lines),
            Err(TryLockError::Poisoned(poisoned)) => WriteGuard(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => panic!("{name} is written while it is used elsewhere"),
        }
    }
}

impl std::fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostBuffer").field(&Arc::as_ptr(&self.0)).finish()
    }
}

/// Read access to a buffer.
pub(super) struct ReadGuard<'a>(RwLockReadGuard<'a, Vec<Line>>);

impl ReadGuard<'_> {
    pub(super) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Write access to a buffer.
pub(super) struct WriteGuard<'a>(RwLockWriteGuard<'a, Vec<Line>>);

impl WriteGuard<'_> {
    pub(super) fn values(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
