//! What can go wrong on a device, kept until somebody asks.
//!
//! wgpu reports errors by callbacks, at times by a panic inside `poll`, and on Metal sometimes not at all; [`Faults`] collects the first
//! two, and the status counter of `recording` catches the third.

use std::sync::{Arc, Mutex};

/// The first fault that a device reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuFault {
    /// The device is gone: driver reset, suspend, unplugged.
    #[error("the GPU device was lost ({0}); the last checkpoint is safe, resume the run from it")]
    Lost(String),
    /// Out of device memory.
    #[error("the GPU is out of memory ({0}); use a smaller --micro-batch-size or --seq-len")]
    OutOfMemory(String),
    /// wgpu refused what we asked for: a defect of lehr.
    #[error("wgpu refused a command: {0}")]
    Validation(String),
    /// The device did not finish in time.
    #[error("the GPU did not finish within {0} s; it may be hung, or another program holds it")]
    Timeout(u64),
    /// Submissions were dropped without an error.
    #[error("the GPU finished {ran} of {sent} submissions and reported no error; its results cannot be trusted")]
    Silent {
        /// Submissions that counted themselves.
        ran: u32,
        /// Submissions that were sent.
        sent: u32,
    },
}

/// Collects faults from wgpu's callbacks.
#[derive(Default)]
pub(super) struct Faults {
    first: Mutex<Option<GpuFault>>,
}

impl Faults {
    pub(super) fn install(device: &wgpu::Device) -> Arc<Self> {
        let faults = Arc::new(Self::default());
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            on_error.raise(match error {
                wgpu::Error::OutOfMemory { source } => GpuFault::OutOfMemory(source.to_string()),
                wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                    GpuFault::Validation(description)
                }
            });
        }));
        let on_loss = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                on_loss.raise(GpuFault::Lost(message));
            }
        });
        faults
    }

    pub(super) fn raise(&self, fault: GpuFault) {
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert(fault);
    }

    pub(super) fn check(&self) -> Result<(), GpuFault> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.clone().map_or(Ok(()), Err)
    }
}
