//! Device faults, stored until they are checked.

use std::sync::{Mutex, PoisonError};

/// The first fault that a device reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// The device was lost: driver reset, suspend, unplugged.
    #[error("the GPU device was lost ({0}); the last checkpoint is safe, resume the run from it")]
    Lost(String),
    /// Out of device memory.
    #[error("the GPU is out of memory ({0}); use a smaller --micro-batch-size or --seq-len")]
    OutOfMemory(String),
    /// A wgpu validation error: a defect of lehr.
    #[error("wgpu refused a command: {0}")]
    Validation(String),
    /// The device did not finish in time.
    #[error("the GPU did not finish within {0} s; it may be hung, or another program holds it")]
    Timeout(u64),
    /// Submissions were dropped without an error.
    #[error("the GPU finished {ran} of {sent} submissions and reported no error; its results cannot be trusted")]
    Silent {
        /// Number of submissions that ran.
        ran: u32,
        /// Number of submissions that were sent.
        sent: u32,
    },
    /// A function of the CPU executor panicked: a defect of lehr.
    #[error("{op} failed on the CPU: {message} (a defect of lehr; the last checkpoint is safe)")]
    Panicked {
        /// The op, such as `rmsnorm.forward`.
        op: String,
        /// The panic message and location.
        message: String,
    },
}

/// Stores the first fault.
#[derive(Default)]
pub(super) struct Faults {
    first: Mutex<Option<DeviceFault>>,
}

impl Faults {
    pub(super) fn raise(&self, fault: DeviceFault) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    pub(super) fn check(&self) -> Result<(), DeviceFault> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}
