//! Reflection of WGSL: entry points, bindings by name, uniform layouts. The only source of binding numbers.

use anyhow::{Context as _, anyhow};
use naga::{AddressSpace, StorageAccess, TypeInner};

/// Access of an entry point to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// A binding that an entry point uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Variable name in the WGSL; Rust uses the same.
    pub name: String,
    /// `@binding(N)`
    pub slot: u32,
    /// Its declaration.
    pub access: Access,
    /// Whether this entry point writes it; the declared access may be for others.
    pub is_written: bool,
    /// For uniforms: (field, byte offset), in order.
    pub fields: Vec<(String, u32)>,
}

/// One entry point.
#[derive(Clone, Debug)]
pub struct EntryPoint {
    /// Function name.
    pub name: String,
    /// The bindings it uses, by slot.
    pub bindings: Vec<Binding>,
}

/// A parsed and validated shader.
pub struct Reflection {
    /// naga's module, for translation tests.
    pub module: naga::Module,
    /// naga's analysis of it.
    pub info: naga::valid::ModuleInfo,
    /// Entry points in order of appearance.
    pub entry_points: Vec<EntryPoint>,
}

/// Parse, validate and read a shader whose imports are resolved.
///
/// # Errors
/// With the source line and a caret when the text is not valid WGSL.
pub fn reflect(stem: &str, source: &str) -> anyhow::Result<Reflection> {
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|e| anyhow!("{}", e.emit_to_string_with_path(source, &format!("{stem}.wgsl"))))?;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities_of(source));
    let info =
        validator.validate(&module).map_err(|e| anyhow!("{}", e.emit_to_string_with_path(source, &format!("{stem}.wgsl"))))?;
    let entry_points = module
        .entry_points
        .iter()
        .enumerate()
        .map(|(i, entry)| {
            let usage = info.get_entry_point(i);
            let mut bindings = module
                .global_variables
                .iter()
                .filter(|(handle, var)| var.binding.is_some() && !usage[*handle].is_empty())
                .map(|(handle, var)| binding(&module, var, usage[handle].contains(naga::valid::GlobalUse::WRITE)))
                .collect::<anyhow::Result<Vec<_>>>()
                .with_context(|| format!("{stem}.wgsl: {}", entry.name))?;
            bindings.sort_by_key(|b| b.slot);
            Ok(EntryPoint { name: entry.name.clone(), bindings })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Reflection { module, info, entry_points })
}

/// The directive of texts with cooperative matrices.
pub const COOPERATIVE: &str = "enable wgpu_cooperative_matrix;";

/// WGSL capabilities that this text may use: as all do, and with [`COOPERATIVE`] also cooperative matrices of f16, but no subgroup
/// operations: an NVIDIA driver crashes when one module has both (kvark/blade issue 333).
pub fn capabilities_of(text: &str) -> naga::valid::Capabilities {
    use naga::valid::Capabilities;
    if text.lines().any(|line| line == COOPERATIVE) {
        (capabilities() - Capabilities::SUBGROUP) | Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16
    } else {
        capabilities()
    }
}

/// WGSL capabilities that shaders may use: conversion of half precision in pairs, and subgroup operations in texts for devices that have them
/// (`tests/shaders` compares names).
pub fn capabilities() -> naga::valid::Capabilities {
    naga::valid::Capabilities::SUBGROUP | naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32
}

fn binding(module: &naga::Module, var: &naga::GlobalVariable, is_written: bool) -> anyhow::Result<Binding> {
    let name = var.name.clone().context("a binding without a name")?;
    let slot = var.binding.as_ref().context("a binding without a number")?;
    anyhow::ensure!(slot.group == 0, "{name}: only @group(0) is used");
    let access = match var.space {
        AddressSpace::Uniform => Access::Uniform,
        AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
        AddressSpace::Storage { .. } => Access::Read,
        other => anyhow::bail!("{name}: address space {other:?} is not used here"),
    };
    let fields = match (&module.types[var.ty].inner, access) {
        (TypeInner::Struct { members, .. }, Access::Uniform) => {
            members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect()
        }
        _ => Vec::new(),
    };
    Ok(Binding { name, slot: slot.binding, access, is_written, fields })
}
