//! naga's writers, with the options that wgpu uses: SPIR-V, MSL, HLSL, GLSL.

use crate::texts::{Set, Text, set_name};
use naga::back::{self, glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A backend's text (or bytes) for one entry point and override set.
pub struct Output {
    /// Folder under `target/translated`.
    pub backend: &'static str,
    /// `rmsnorm.forward.LANES8.hlsl`
    pub file: String,
    pub bytes: Vec<u8>,
}

type Written = Result<Vec<u8>, String>;
type Capable = fn() -> Capabilities;
type Writer = fn(&Module, &ModuleInfo, &str) -> Written;

const BACKENDS: &[(&str, Capable, Writer)] = &[
    ("spv", spv::supported_capabilities, write_spv),
    ("metal", msl::supported_capabilities, write_msl),
    ("hlsl", hlsl::supported_capabilities, write_hlsl),
    ("comp", glsl::supported_capabilities, write_glsl),
    ("es.comp", glsl::supported_capabilities, write_gles),
];

/// Translate one text for every entry point, override set and backend. Results and failures.
pub fn translate(text: &Text, module: &Module, sets: &[Set]) -> (Vec<Output>, Vec<String>) {
    let (mut outputs, mut failures) = (Vec::new(), Vec::new());
    for (name, capabilities, write) in BACKENDS.iter().filter(|(name, ..)| text.is_for(name)) {
        let info = match Validator::new(ValidationFlags::all(), capabilities()).validate(module) {
            Ok(info) => info,
            Err(error) => {
                failures.push(format!("{} for {name}: {}", text.stem, error.emit_to_string(&text.text)));
                continue;
            }
        };
        for entry in &module.entry_points {
            for set in sets {
                let label = format!("{}.{}{}", text.stem, entry.name, set_name(set));
                match one(module, &info, &entry.name, set, *write) {
                    Ok(bytes) => outputs.push(Output { backend: name, file: format!("{label}.{name}"), bytes }),
                    Err(why) => failures.push(format!("{label} to {name}: {why}")),
                }
            }
        }
    }
    (outputs, failures)
}

fn one(module: &Module, info: &ModuleInfo, entry: &str, set: &Set, write: Writer) -> Written {
    let run = || {
        let (module, info) = with_overrides(module, info, entry, set)?;
        write(&module, &info, entry)
    };
    // The writers panic on some input they cannot say.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the writer panicked (see above)".to_string()))
}

/// The module of one entry point, its override constants replaced by values.
pub fn with_overrides(module: &Module, info: &ModuleInfo, entry: &str, set: &Set) -> Result<(Module, ModuleInfo), String> {
    let constants = set.iter().cloned().collect();
    let (module, info) =
        back::pipeline_constants::process_overrides(module, info, Some((ShaderStage::Compute, entry)), &constants)
            .map_err(|e| e.to_string())?;
    Ok((module.into_owned(), info.into_owned()))
}

fn policies() -> BoundsCheckPolicies {
    BoundsCheckPolicies {
        index: BoundsCheckPolicy::Restrict,
        buffer: BoundsCheckPolicy::Restrict,
        image_load: BoundsCheckPolicy::Restrict,
        binding_array: BoundsCheckPolicy::Restrict,
    }
}

fn write_spv(module: &Module, info: &ModuleInfo, entry: &str) -> Written {
    let options = spv::Options {
        lang_version: (1, 3),
        fake_missing_bindings: true,
        bounds_check_policies: policies(),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_string() };
    let words = spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn write_msl(module: &Module, info: &ModuleInfo, entry: &str) -> Written {
    let options = msl::Options {
        lang_version: (2, 4),
        fake_missing_bindings: true,
        bounds_check_policies: policies(),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.to_string())), ..Default::default() };
    let (text, info) = msl::write_string(module, info, &options, &pipeline).map_err(|e| e.to_string())?;
    info.entry_point_names.into_iter().next().ok_or("no entry point written")?.map_err(|e| e.to_string())?;
    Ok(text.into_bytes())
}

fn write_hlsl(module: &Module, info: &ModuleInfo, entry: &str) -> Written {
    let place = |space| Some(hlsl::BindTarget { space, ..Default::default() });
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_0,
        // num_workgroups has no semantic in HLSL: wgpu passes it in a constant buffer.
        special_constants_binding: place(254),
        immediates_target: place(253),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.to_string())) };
    let mut text = String::new();
    let names =
        hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| e.to_string())?.entry_point_names;
    let name = names.into_iter().next().ok_or("no entry point written")?.map_err(|e| e.to_string())?;
    // scripts/dxc/driver.cpp reads the entry point from this line.
    Ok(format!("// entry: {name}\n{text}").into_bytes())
}

fn write_glsl(module: &Module, info: &ModuleInfo, entry: &str) -> Written {
    glsl_text(module, info, entry, glsl::Version::Desktop(450))
}

fn write_gles(module: &Module, info: &ModuleInfo, entry: &str) -> Written {
    glsl_text(module, info, entry, glsl::Version::new_gles(310))
}

fn glsl_text(module: &Module, info: &ModuleInfo, entry: &str, version: glsl::Version) -> Written {
    let options = glsl::Options {
        version,
        writer_flags: glsl::WriterFlags::empty(),
        binding_map: glsl::BindingMap::default(),
        zero_initialize_workgroup_memory: false,
    };
    let pipeline = glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_string(), multiview: None };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, policies())
        .and_then(|mut writer| writer.write())
        .map_err(|e| e.to_string())?;
    Ok(text.into_bytes())
}
