//! wgpu reports errors by callbacks, sometimes by a panic inside `poll`, and on Metal sometimes not at all. Callbacks are handled here,
//! panics in `submit`; the counter of `status` detects the rest.

use super::super::fault::{DeviceFault, Faults};
use std::sync::Arc;

pub(super) fn listen(device: &wgpu::Device, faults: &Arc<Faults>) {
    let on_error = faults.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        on_error.raise(match error {
            wgpu::Error::OutOfMemory { source } => DeviceFault::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                DeviceFault::Validation(description)
            }
        });
    }));
    let on_loss = faults.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            on_loss.raise(DeviceFault::Lost(message));
        }
    });
}
