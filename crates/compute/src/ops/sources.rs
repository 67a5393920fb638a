//! All WGSL texts of lehr, for `tests/shaders`, for `scripts/check-gpus`, and for reading.

use super::{attention, column_group, embedding, matmul};
use crate::device::{GpuClass, Shader, Vendor, reflect, resolve};
use anyhow::Context as _;

/// The files in `shaders/`.
pub fn files() -> impl Iterator<Item = Shader> {
    lehr_shaders::SHADERS.iter().map(|&(stem, source)| Shader { stem, source })
}

/// An override constant of a text and the values with which it is compiled here: on any device, and on a GPU. `None`: its default only.
struct Override {
    name: &'static str,
    anywhere: Option<&'static [f64]>,
    on_gpu: Option<&'static [f64]>,
}

/// Every override of every text.
const OVERRIDES: &[Override] = &[
    Override { name: "WG", anywhere: None, on_gpu: None },
    // One invocation a row on software adapters, up to a workgroup on GPUs (ops::row_lanes).
    Override { name: "LANES", anywhere: Some(&[1.0, 8.0, 64.0]), on_gpu: Some(&[8.0, 64.0]) },
    // Of the model; above 0 by config::validate.
    Override { name: "COLS4", anywhere: Some(&[16.0, 48.0]), on_gpu: Some(&[48.0]) },
    // Of adapters: output columns, rank, parts times rank; above 0 by config::validate.
    Override { name: "COLS", anywhere: Some(&[36.0]), on_gpu: Some(&[36.0]) },
    Override { name: "RANK", anywhere: Some(&[3.0, 16.0]), on_gpu: Some(&[16.0]) },
    Override { name: "WIDTH", anywhere: Some(&[48.0]), on_gpu: Some(&[48.0]) },
    Override { name: "HEADS", anywhere: Some(&[1.0, 9.0]), on_gpu: Some(&[1.0, 9.0]) },
    Override { name: "QUARTER", anywhere: Some(&[2.0, 16.0]), on_gpu: Some(&[16.0]) },
];

/// Entry points that sum columns: a GPU gets larger workgroups for them (ops::column_group).
const COLUMN_SUMS: &[(&str, &str)] = &[("bias", "backward"), ("qk_norm", "backward_gain"), ("rmsnorm", "backward_gain")];

/// Override constants by name.
pub type Set = Vec<(String, f64)>;

/// All combinations of override values for a text, on any device or only on a GPU.
///
/// # Errors
/// When an override is not listed in `OVERRIDES`.
pub fn override_sets(module: &naga::Module, on_gpu: bool) -> anyhow::Result<Vec<Set>> {
    let mut sets = vec![Set::new()];
    for (_, constant) in module.overrides.iter() {
        let Some(name) = constant.name.as_deref() else { continue };
        let listed = OVERRIDES
            .iter()
            .find(|o| o.name == name)
            .with_context(|| format!("override {name}: list its values in OVERRIDES (crates/compute/src/ops/sources.rs)"))?;
        if let Some(values) = if on_gpu { listed.on_gpu } else { listed.anywhere } {
            let with = |set: &Set, value: f64| [set.clone(), vec![(name.to_string(), value)]].concat();
            sets = sets.iter().flat_map(|set| values.iter().map(move |&v| with(set, v))).collect();
        }
    }
    Ok(sets)
}

/// (stem, WGSL) of every generated text. Stems are unique; `#import` lines are not resolved.
pub fn generated() -> Vec<(String, String)> {
    [matmul::sources(), attention::all_hardware_sources(), attention::software_sources(), stored_files()].concat()
}

/// The files with buffers in 16 bits.
fn stored_files() -> Vec<(String, String)> {
    vec![embedding::stored_source(), matmul::stored_source(), attention::stored_source()]
}

/// One kernel for a GPU.
pub struct GpuKernel {
    /// Unique name of the text.
    pub stem: String,
    /// The text, imports resolved.
    pub text: String,
    /// Entry point.
    pub entry: String,
    /// Override constants.
    pub constants: Set,
}

/// All kernels for GPUs of this vendor: all tiles, plans and variants.
///
/// # Errors
/// When a text is not valid (a defect of lehr).
pub fn for_gpu(vendor: Vendor) -> anyhow::Result<Vec<GpuKernel>> {
    let files = files().map(|file| (file.stem.to_string(), file.source.to_string()));
    let generated = [matmul::hardware_sources(vendor), attention::hardware_sources(vendor), stored_files()].concat();
    let mut all = Vec::new();
    for (stem, source) in files.chain(generated) {
        let text = resolve(&source)?;
        let found = reflect::reflect(&stem, &text)?;
        for entry in &found.entry_points {
            for mut constants in override_sets(&found.module, true)? {
                if COLUMN_SUMS.contains(&(&stem, &entry.name)) {
                    let lanes = constants.iter().find(|(name, _)| name == "LANES").map_or(1.0, |(_, lanes)| *lanes);
                    constants.push(("WG".into(), f64::from(column_group(GpuClass::Hardware, lanes as u32))));
                }
                all.push(GpuKernel { stem: stem.clone(), text: text.clone(), entry: entry.name.clone(), constants });
            }
        }
    }
    Ok(all)
}

/// A name without its numbers, if it is of attention at a head width that no list has: texts differ in numbers only.
fn family(name: &str) -> Option<String> {
    let (_, rest) = name.strip_prefix("attention_")?.split_once("_d")?;
    let width: usize = rest.split('_').next()?.parse().ok()?;
    (!attention::HEAD_DIMS.contains(&width)).then(|| name.replace(|c: char| c.is_ascii_digit(), ""))
}

impl GpuKernel {
    /// Whether this is a compiled kernel (`stem.entry`) with workgroups and lanes that are not smaller than compiled.
    pub fn covers(&self, name: &str, constants: &[(String, f64)]) -> bool {
        // Names of products already contain their entry point.
        let own = match self.stem.ends_with(&format!(".{}", self.entry)) {
            true => self.stem.clone(),
            false => format!("{}.{}", self.stem, self.entry),
        };
        let same = match family(name) {
            Some(family) => own.replace(|c: char| c.is_ascii_digit(), "") == family,
            None => own == name,
        };
        let value = |set: &[(String, f64)], name: &str| set.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let default = |name: &str| {
            let (_, rest) = self.text.split_once(&format!("override {name}: u32 = "))?;
            rest.split('u').next()?.parse::<f64>().ok()
        };
        same && ["WG", "LANES"].iter().all(|&size| {
            let listed = value(&self.constants, size).or_else(|| default(size));
            value(constants, size).is_none_or(|compiled| listed.is_some_and(|listed| compiled <= listed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Case;
    use super::*;
    use crate::device::Device;

    #[test]
    fn a_kernel_with_larger_workgroups_is_another() -> anyhow::Result<()> {
        let listed = for_gpu(Vendor::Amd)?;
        let is_listed = |name: &str, size: f64| {
            let constants = [("WG".to_string(), size), ("LANES".to_string(), 64.0)];
            listed.iter().any(|kernel| kernel.covers(name, if size > 0.0 { &constants } else { &[] }))
        };
        assert!(is_listed("rmsnorm.backward_gain", 256.0) && is_listed("rmsnorm.forward", 64.0));
        assert!(!is_listed("rmsnorm.forward", 256.0) && !is_listed("rmsnorm.other", 64.0));
        assert!(is_listed("attention_f16.append", 0.0) && is_listed("matmul_shared8x8_bf16.forward", 0.0));
        let name = |width: usize| format!("attention_forward_shared_d{width}_w128_r1_s2_c4.forward");
        assert!(is_listed(&name(32), 0.0) && is_listed(&name(36), 0.0));
        assert!(!is_listed(&name(32).replace("s2", "s3"), 0.0) && !is_listed(&name(36).replace("forward_", "other_"), 0.0));
        Ok(())
    }

    /// `scripts/check-gpus` compiles what a GPU really gets: what all checks compile with the kernels of GPUs is in the lists.
    #[test]
    fn what_checks_compile_with_the_kernels_of_gpus_is_listed() -> anyhow::Result<()> {
        let mut device = Device::open_named(None)?;
        if device.gpu().is_some_and(|gpu| gpu.class() == GpuClass::Software) {
            device.switch_gpu_class();
        }
        let Some(gpu) = device.gpu() else { return Ok(()) };
        for check in super::super::checks() {
            for seed in 500..503 {
                (check.run)(&device, &mut Case::new(check.name, seed))?;
            }
        }
        let mut listed = Vec::new();
        for vendor in Vendor::ALL {
            listed.extend(for_gpu(vendor)?);
        }
        let compiled = gpu.compiled();
        // Products: operands of any alignment are checked; those that a model has are listed (tests/laws/storage.rs).
        // Attention with the kernels of software adapters has a check of its own.
        let others = compiled.iter().filter(|kernel| !kernel.name.starts_with("matmul_") && !kernel.name.contains("_direct_"));
        let missing: Vec<_> = others
            .filter(|kernel| !listed.iter().any(|known| known.covers(&kernel.name, &kernel.constants)))
            .map(|kernel| format!("{} {:?}", kernel.name, kernel.constants))
            .collect();
        assert!(missing.is_empty(), "of {} kernels compiled these are in no list:\n{}", compiled.len(), missing.join("\n"));
        assert!(compiled.len() > 100, "only {} kernels", compiled.len());
        Ok(())
    }

    /// The sources of a GPU are a subset of those that the tests check.
    #[test]
    fn checks_see_the_sources_that_a_gpu_compiles() -> anyhow::Result<()> {
        let gated = generated();
        for vendor in Vendor::ALL {
            for kernel in for_gpu(vendor)? {
                let file = files().any(|file| file.stem == kernel.stem);
                let mut same = gated.iter().filter(|(_, text)| resolve(text).is_ok_and(|text| text == kernel.text));
                assert!(file || same.next().is_some(), "{vendor:?}: {} is checked nowhere", kernel.stem);
            }
        }
        Ok(())
    }
}
