//! Everything wgpu: the device, memory, kernels, recordings. Nothing above this floor names a wgpu type.

mod device;
mod fault;
mod kernel;
mod ledger;
mod recording;
pub mod reflect;
mod status;
mod tensor;
mod transfer;
mod tune;

pub use device::{AdapterClass, AdapterSummary, Gpu, Rates, adapters};
pub use fault::GpuFault;
pub use kernel::{Kernel, LIBRARY, Shader, Uniform, resolve};
pub use ledger::Ledger;
pub use recording::{Cost, ProfileRow, Recording, grid};
pub use tensor::{ALIGN, Arena, ArenaLayout, Tensor};
pub use transfer::ReadRing;
