//! WGSL to SPIR-V, with the options that wgpu 30 uses for a device with robust buffer access.

use crate::Result;
use naga::back::{pipeline_constants::process_overrides, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{ShaderStage, TypeInner};

/// One entry point.
pub struct Module {
    pub entry: String,
    pub words: Vec<u32>,
    /// Number, and whether it is a uniform block.
    pub bindings: Vec<(u32, bool)>,
    /// Edge of the cooperative matrices that it uses.
    pub cooperative: Option<u32>,
}

pub fn translate(text: &str, entry: &str, constants: &str, unchecked: bool) -> Result<Module> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let cooperative = module.types.iter().find_map(|(_, ty)| match ty.inner {
        TypeInner::CooperativeMatrix { rows, .. } => Some(rows as u32),
        _ => None,
    });
    let capabilities = match cooperative {
        Some(_) => Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32,
        None => Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|e| e.emit_to_string(text))?;
    let mut values = naga::back::PipelineConstants::default();
    for constant in constants.split(',').filter(|c| !c.is_empty()) {
        let (name, value) = constant.split_once('=').ok_or_else(|| format!("{constant}: must be NAME=VALUE"))?;
        values.insert(name.to_string(), value.parse()?);
    }
    let (module, info) = process_overrides(&module, &info, Some((ShaderStage::Compute, entry)), &values)?;
    // Buffers are checked by the driver (robustBufferAccess2), indices of arrays by the text.
    let unless = |off: bool| if off { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
    let options = spv::Options {
        lang_version: (1, 5),
        fake_missing_bindings: true,
        bounds_check_policies: BoundsCheckPolicies {
            index: unless(unchecked),
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        flags: spv::WriterFlags::empty(),
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_string() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline))?;
    let uniform = |space| matches!(space, naga::AddressSpace::Uniform);
    let bindings =
        module.global_variables.iter().filter_map(|(_, v)| Some((v.binding.as_ref()?.binding, uniform(v.space)))).collect();
    Ok(Module { entry: entry.to_string(), words, bindings, cooperative })
}
