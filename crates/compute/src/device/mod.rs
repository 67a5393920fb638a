//! Layer 1: devices. A [`Device`] is a GPU (wgpu: Vulkan, Metal, DX12) or the CPU; memory, recordings, read-backs, faults and the ledger
//! work for both, and higher layers do not depend on the kind. wgpu types appear only in `gpu/`.

mod adapter;
pub mod cpu;
mod element;
mod fault;
pub mod gpu;
mod host;
mod ledger;
mod open;
mod recording;
mod sizes;
mod tensor;
mod transfer;
mod tune;

pub use adapter::{AdapterSummary, Kind, MatmulPrecision, Selection, adapters};
pub use cpu::Cpu;
pub(crate) use element::values;
pub use element::{Bf16, ElementType, F16, Numbers, StoredNumber};
pub use fault::DeviceFault;
pub use gpu::{CooperativeMatrix, Dispatcher, Extent, Gpu, GpuClass, LIBRARY, Shader, Uniform, Vendor, grid, reflect, resolve};
pub use ledger::{Ledger, human_bytes};
pub use open::{Device, Rates};
pub use recording::{Cost, Op, ProfileRow, Recorder, Recording};
pub use sizes::Sizes;
pub use tensor::{ALIGN, Arena, ArenaLayout, Tensor};
pub use transfer::ReadRing;
pub use tune::{TunedChoice, cache_folder};

/// Lock a mutex, ignoring poisoning: values behind these mutexes are always replaced as a whole.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
