//! Tile selection: by a table, or with tuning by measurement, once per class of shapes.

use super::{Extra, GemmShape, KernelFamily, RegisterTile, Role, cooperative};
use crate::device::cpu::gemm;
use crate::device::{Device, Gpu, GpuClass, Recorder, Tensor, Vendor};
use sha2::{Digest as _, Sha256};
use std::sync::OnceLock;
use web_time::Instant;

const DIRECT_16X8: RegisterTile = RegisterTile::new(KernelFamily::Direct, 16, 8);
const DIRECT_4X8: RegisterTile = RegisterTile::new(KernelFamily::Direct, 4, 8);
const SHARED_4X4: RegisterTile = RegisterTile::new(KernelFamily::Shared, 4, 4);
const SHARED_8X4: RegisterTile = RegisterTile::new(KernelFamily::Shared, 8, 4);
const SHARED_8X8: RegisterTile = RegisterTile::new(KernelFamily::Shared, 8, 8);
const SHARED_4X8: RegisterTile = RegisterTile::new(KernelFamily::Shared, 4, 8);

/// All tiles in use. Larger ones in registers take a compiler seconds each, newer lavapipes and SwiftShader a minute.
pub(super) const ALL: [RegisterTile; 6] = [DIRECT_16X8, DIRECT_4X8, SHARED_4X4, SHARED_8X4, SHARED_8X8, SHARED_4X8];

/// Rows up to which a product is one of a few row vectors, as in decoding.
pub(super) const FEW_ROWS: usize = 8;

/// Rows or columns up to which a product is one block of the smallest tile for GPUs high or wide.
const THIN: usize = 64;

/// The candidate tiles for a large product; the first is used without tuning. Where float16 inputs are permitted, cooperative tiles are
/// first.
pub fn candidates(gpu: &Gpu) -> Vec<RegisterTile> {
    let float32 = match gpu.class() {
        GpuClass::Hardware => hardware_candidates(gpu.vendor()),
        GpuClass::Software => &[DIRECT_16X8],
    };
    gpu.cooperative().into_iter().flat_map(cooperative::tiles).chain(float32.iter().copied()).collect()
}

/// As many registers as a vendor's compilers hold without spilling (`scripts/check-gpus` fails otherwise).
pub(super) fn hardware_candidates(vendor: Vendor) -> &'static [RegisterTile] {
    match vendor {
        Vendor::Intel => &[SHARED_4X4],
        Vendor::Amd | Vendor::Nvidia => &[SHARED_4X4, SHARED_8X4, SHARED_8X8],
        Vendor::Apple | Vendor::Qualcomm | Vendor::Other => &[SHARED_4X4, SHARED_8X4],
    }
}

/// Further candidates for a product of at most [`THIN`] rows, such as those of decoding: twice as wide. Intel's compiler spills them, and on the
/// others half as many threads fit.
pub(super) fn thin_candidates(vendor: Vendor) -> &'static [RegisterTile] {
    match vendor {
        Vendor::Amd | Vendor::Nvidia => &[SHARED_4X8],
        Vendor::Apple | Vendor::Intel | Vendor::Qualcomm | Vendor::Other => &[],
    }
}

/// The candidates for a product of this shape. A tile that is higher or wider than the result would leave threads without work.
fn suitable(gpu: &Gpu, shape: &GemmShape) -> Vec<RegisterTile> {
    let tiles = candidates(gpu);
    if gpu.class() == GpuClass::Software {
        return tiles;
    }
    let [low, narrow] = [shape.rows <= THIN, shape.cols <= THIN];
    let more = if low { thin_candidates(gpu.vendor()) } else { &[] };
    let fits = |tile: &RegisterTile| {
        let [rows, cols] = tile.block();
        !(low && rows > THIN || narrow && cols > THIN)
    };
    tiles.into_iter().chain(more.iter().copied()).filter(fits).collect()
}

/// A product whose depth is divided among workgroups.
#[derive(Clone, Copy)]
pub(super) struct SplitDepth {
    /// Of each part.
    pub tile: RegisterTile,
    /// Number of parts.
    pub parts: usize,
}

impl SplitDepth {
    /// Where the parts are kept until they are added.
    pub fn scratch(self, device: &Device, shape: &GemmShape) -> Tensor {
        device.scratch(self.parts * shape.rows * shape.strides[2])
    }
}

/// How a GPU divides the depth of a product whose result alone is too little for it, if it is: the gradient of a weight, which is small
/// and sums over all tokens; that of the head's input, which sums over the vocabulary; and the products of decoding, which have one tile of
/// rows.
pub(super) fn parts(device: &Device, role: Role, shape: &GemmShape) -> Option<SplitDepth> {
    /// Workgroups that occupy any GPU.
    const ENOUGH: usize = 256;
    /// Summed indices that are worth a workgroup.
    const LEAST: usize = 128;
    let gpu = device.gpu().filter(|gpu| gpu.class() == GpuClass::Hardware)?;
    let thin = match role {
        // Up to one tile, so that the parts, and with them the bits, do not depend on the number of rows.
        Role::Forward => (FEW_ROWS + 1..=64).contains(&shape.rows),
        Role::BackwardInput | Role::BackwardWeight => true,
    };
    if !thin || shape.depth < 2 * LEAST {
        return None;
    }
    let tile = match role {
        Role::Forward => SHARED_4X4,
        Role::BackwardInput | Role::BackwardWeight => choose(device, gpu, role, shape).unwrap_or(SHARED_4X4),
    };
    let [block_rows, block_cols] = tile.block();
    let groups = shape.rows.div_ceil(block_rows) * shape.cols.div_ceil(block_cols);
    let fits = device.sizes().scratch_bytes as usize / 4 / (shape.rows * shape.strides[2]).max(1);
    let parts = (ENOUGH / groups.max(1)).min(shape.depth / LEAST).min(fits);
    // Parts are rounded up to whole slabs, so the last ones could be empty.
    let parts = shape.depth.div_ceil(super::part_span(shape.depth, parts.max(1)));
    (parts > 1).then_some(SplitDepth { tile, parts })
}

/// All tiles that are suitable for this adapter.
pub fn tiles(gpu: &Gpu) -> Vec<RegisterTile> {
    let float32: &[RegisterTile] = match gpu.class() {
        GpuClass::Hardware => &[SHARED_4X4, SHARED_8X4, SHARED_8X8, SHARED_4X8, DIRECT_16X8],
        GpuClass::Software => &[DIRECT_16X8, DIRECT_4X8],
    };
    gpu.cooperative().into_iter().flat_map(cooperative::tiles).chain(float32.iter().copied()).collect()
}

/// The tile for few rows.
pub(super) fn small(gpu: &Gpu) -> RegisterTile {
    match gpu.class() {
        GpuClass::Hardware => SHARED_4X4,
        GpuClass::Software => DIRECT_4X8,
    }
}

/// The tile for a product; `None` when a GPU should treat it as row vectors.
pub fn choose(device: &Device, gpu: &Gpu, role: Role, shape: &GemmShape) -> Option<RegisterTile> {
    if shape.rows <= FEW_ROWS {
        let aligned = shape.strides[0].is_multiple_of(4) && shape.strides[1].is_multiple_of(4) && shape.depth.is_multiple_of(4);
        let vectors = gpu.class() == GpuClass::Hardware && role == Role::Forward && aligned;
        return (!vectors).then(|| small(gpu));
    }
    let tiles = suitable(gpu, shape);
    if tiles.len() == 1 || shape.flops() < 2.0 * SMALLEST_MEASURED {
        return Some(tiles[0]);
    }
    let class = Class::of(gpu, shape);
    let names: Vec<_> = tiles.iter().map(|t| t.name()).collect();
    let named = |name: &str| tiles.iter().copied().find(|t| t.name() == name).unwrap_or(tiles[0]);
    let precision = if gpu.cooperative().is_some() { " float16" } else { "" };
    let key = format!("matmul {}/{} {}{precision}", sources_hash(), role.entry(), class.name());
    Some(named(&device.tuned(&key, &names, |name| seconds(device, role, named(name), class.example()))))
}

/// The tile for the gradient of an input with SwiGLU's in its epilogue: none on software adapters, whose kernels take long to compile, none
/// where the depth is divided, none with cooperative matrices.
pub(super) fn fused(device: &Device, gpu: &Gpu, shape: &GemmShape) -> Option<RegisterTile> {
    if gpu.class() == GpuClass::Software || parts(device, Role::BackwardInput, shape).is_some() {
        return None;
    }
    choose(device, gpu, Role::BackwardInput, shape).filter(|tile| tile.family == KernelFamily::Shared)
}

/// Multiply-adds below which no choice of tile matters.
const SMALLEST_MEASURED: f64 = 1e6;

/// Products that are expected to agree on the best tile.
#[derive(Clone, Copy)]
struct Class {
    rows: usize,
    cols: usize,
    depth: usize,
}

impl Class {
    fn of(gpu: &Gpu, shape: &GemmShape) -> Self {
        let numbers = shape.rows * shape.cols;
        // A software adapter is busy with a few tiles; more of them change nothing.
        let edge = match gpu.class() {
            _ if numbers < 1 << 16 => 192,
            GpuClass::Hardware if numbers >= 1 << 21 => 2048,
            _ => 512,
        };
        let long = (edge * edge / THIN).min(16_384);
        let [rows, cols] = match gpu.class() {
            GpuClass::Hardware if shape.rows <= THIN => [THIN, long],
            GpuClass::Hardware if shape.cols <= THIN => [long, THIN],
            _ => [edge, edge],
        };
        Self { rows, cols, depth: if shape.depth < 256 { 128 } else { 512 } }
    }

    fn name(self) -> String {
        format!("{}x{}x{}", self.rows, self.cols, self.depth)
    }

    fn example(self) -> [usize; 3] {
        [self.rows, self.cols, self.depth]
    }
}

/// First 8 digits of a hash over everything the generator writes: another generator asks other questions.
fn sources_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut hash = Sha256::new();
        super::sources().iter().for_each(|(_, text)| hash.update(text));
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    })
}

/// Least time of three runs of one product of `[rows, cols, depth]`, after one that compiles it.
fn seconds(device: &Device, role: Role, tile: RegisterTile, [rows, cols, depth]: [usize; 3]) -> anyhow::Result<f64> {
    const SCRATCH: &str = "tuning";
    let extents = match role {
        Role::Forward => [[rows, depth], [cols, depth], [rows, cols]],
        Role::BackwardInput => [[rows, depth], [depth, cols], [rows, cols]],
        Role::BackwardWeight => [[depth, rows], [depth, cols], [rows, cols]],
    };
    let best = {
        let [left, right, out] = extents.map(|extent| Tensor::new(device, SCRATCH, "tuning", &extent));
        for operand in [&left, &right] {
            // Real numbers: a GPU that multiplies zeros stays cooler and runs faster.
            let values: Vec<f32> = (0..operand.len()).map(|i| (i * 2_654_435_761 % 1021) as f32 / 510.0 - 1.0).collect();
            device.write(operand, &values);
        }
        let mut r = Recorder::new(device, "tuning");
        match role {
            Role::Forward => super::forward_by(&mut r, tile, &left, &right, &out, Extra::None),
            Role::BackwardInput => super::backward_input_by(&mut r, tile, &left, &right, &out, false),
            Role::BackwardWeight => super::backward_weight_by(&mut r, tile, &left, &right, &out),
        }
        let recording = r.finish()?;
        device.replay(&recording)?;
        device.wait()?;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let begin = Instant::now();
            device.replay(&recording)?;
            device.wait()?;
            best = best.min(begin.elapsed().as_secs_f64());
        }
        best
    };
    device.scratch_freed(SCRATCH);
    Ok(best)
}

/// Best matmul rate of this device in GFLOP/s, with [`super::forward`]'s kernels; cached. From then on a GPU's submissions and long
/// dispatches are split by it.
///
/// # Errors
/// A fault of the device.
pub fn measured_peak_gflops(device: &Device) -> anyhow::Result<f64> {
    let peak = match (device.gpu(), device.cpu()) {
        (Some(gpu), _) => {
            let precision = if gpu.cooperative().is_some() { " float16" } else { "" };
            let key = format!("matmul {}/peak GFLOP/s{precision}", sources_hash());
            device.measured_peak(&key, || gpu_peak_gflops(device, gpu))?
        }
        (None, Some(cpu)) => device.measured_peak("matmul/peak GFLOP/s", || Ok(gemm::peak_gflops(cpu)))?,
        (None, None) => unreachable!("a device is one of the two"),
    };
    device.set_flops_per_second(1e9 * peak);
    Ok(peak)
}

fn gpu_peak_gflops(device: &Device, gpu: &Gpu) -> anyhow::Result<f64> {
    let mut peak: f64 = 0.0;
    for edge in [1024, 2048, 4096] {
        let shape = GemmShape { rows: edge, cols: edge, depth: edge, strides: [edge; 3] };
        let tile = choose(device, gpu, Role::Forward, &shape).unwrap_or_else(|| small(gpu));
        let time = seconds(device, Role::Forward, tile, [edge; 3])?;
        peak = peak.max(shape.flops() / time / 1e9);
        device.set_flops_per_second(1e9 * peak);
        if time > 0.01 {
            break;
        }
    }
    Ok(peak)
}

/// The tiles that the checks run: all that this adapter may choose.
pub(super) fn checked(gpu: &Gpu) -> Vec<RegisterTile> {
    let float32: &[RegisterTile] = match gpu.class() {
        GpuClass::Hardware if gpu.is_software() => &[SHARED_4X4, SHARED_8X4, SHARED_8X8, SHARED_4X8],
        GpuClass::Hardware => hardware_candidates(gpu.vendor()),
        GpuClass::Software => &[DIRECT_16X8, DIRECT_4X8],
    };
    let thin = if gpu.class() == GpuClass::Hardware && !gpu.is_software() { thin_candidates(gpu.vendor()) } else { &[] };
    gpu.cooperative().into_iter().flat_map(cooperative::tiles).chain(float32.iter().chain(thin).copied()).collect()
}
