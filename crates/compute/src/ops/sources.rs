//! All WGSL texts of lehr, for `tests/shaders`, for `scripts/check-gpus`, and for reading.

use super::{attention, matmul};
use crate::device::{Shader, Vendor, reflect, resolve};
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
    Override { name: "LANES", anywhere: Some(&[1.0, 8.0, 64.0]), on_gpu: Some(&[64.0]) },
    // Of the model; above 0 by config::validate.
    Override { name: "COLS4", anywhere: Some(&[16.0, 48.0]), on_gpu: Some(&[48.0]) },
    // Of adapters: output columns, rank, parts times rank; above 0 by config::validate.
    Override { name: "COLS", anywhere: Some(&[36.0]), on_gpu: Some(&[36.0]) },
    Override { name: "RANK", anywhere: Some(&[3.0, 16.0]), on_gpu: Some(&[16.0]) },
    Override { name: "WIDTH", anywhere: Some(&[48.0]), on_gpu: Some(&[48.0]) },
    Override { name: "HEADS", anywhere: Some(&[1.0, 9.0]), on_gpu: Some(&[9.0]) },
    Override { name: "QUARTER", anywhere: Some(&[2.0, 16.0]), on_gpu: Some(&[16.0]) },
];

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
    [matmul::sources(), attention::all_hardware_sources(), attention::software_sources()].concat()
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
    let generated = [matmul::hardware_sources(vendor), attention::hardware_sources(vendor)].concat();
    let mut all = Vec::new();
    for (stem, source) in files.chain(generated) {
        let text = resolve(&source)?;
        let found = reflect::reflect(&stem, &text)?;
        for entry in &found.entry_points {
            for constants in override_sets(&found.module, true)? {
                all.push(GpuKernel { stem: stem.clone(), text: text.clone(), entry: entry.name.clone(), constants });
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

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
