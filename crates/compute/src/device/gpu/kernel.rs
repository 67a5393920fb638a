//! Kernels: WGSL text -> imports -> naga check -> pipeline. Built once, matched with Rust by name.

use super::Gpu;
use super::reflect::{self, EntryPoint};
use crate::device::{DeviceFault, lock};
use anyhow::{Context as _, anyhow};
use std::borrow::Cow;
use std::sync::Arc;

/// A WGSL file with the entry points of one op.
pub struct Shader {
    /// File stem, shared with the Rust file of the op.
    pub stem: &'static str,
    /// The embedded text.
    pub source: &'static str,
}

impl Shader {
    /// The text. LEHR_SHADERS=shaders reads it from disk, to change a kernel without a rebuild.
    ///
    /// # Errors
    /// When that file cannot be read.
    pub fn text(&self) -> anyhow::Result<Cow<'static, str>> {
        let Some(dir) = std::env::var_os("LEHR_SHADERS") else { return Ok(Cow::Borrowed(self.source)) };
        let path = std::path::Path::new(&dir).join(format!("{}.wgsl", self.stem));
        Ok(Cow::Owned(std::fs::read_to_string(&path).with_context(|| path.display().to_string())?))
    }
}

/// Embed `shaders/STEM.wgsl` as a [`Shader`].
#[macro_export]
macro_rules! shader {
    ($stem:literal) => {
        $crate::device::Shader { stem: $stem, source: const { lehr_shaders::text($stem) } }
    };
}

/// Texts available to `#import`.
pub use lehr_shaders::LIBRARY;

/// A compiled entry point.
pub struct Kernel {
    /// `stem.entry`, for messages and profiles.
    pub name: String,
    /// Its override constants.
    pub constants: Vec<(String, f64)>,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) entry: EntryPoint,
}

/// A uniform block: `#[repr(C)]` scalars whose fields equal the WGSL struct's. Made by [`uniform!`](crate::uniform).
pub trait Uniform: bytemuck::Pod {
    /// (field, byte offset), in order.
    const FIELDS: &'static [(&'static str, usize)];
}

/// Declare a uniform block; its fields are compared with the WGSL struct's when a kernel is first used.
#[macro_export]
macro_rules! uniform {
    ($(#[$doc:meta])* $vis:vis struct $name:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($field: $ty),* }
        impl $crate::device::Uniform for $name {
            const FIELDS: &'static [(&'static str, usize)] = &[$((stringify!($field), std::mem::offset_of!($name, $field))),*];
        }
    };
}

/// A shader's text with its `#import` lines replaced, each library once.
///
/// # Errors
/// When an import is unknown.
pub fn resolve(source: &str) -> anyhow::Result<String> {
    let mut out = String::with_capacity(source.len() + 4096);
    let mut seen = Vec::new();
    for line in source.lines() {
        match line.strip_prefix("#import ") {
            Some(name) if seen.contains(&name.trim()) => {}
            Some(name) => {
                let name = name.trim();
                let (_, text) =
                    LIBRARY.iter().find(|(n, _)| *n == name).with_context(|| format!("#import {name}: no such library"))?;
                seen.push(name);
                out.push_str(text);
                out.push('\n');
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    Ok(out)
}

impl Gpu {
    /// The kernel `entry` of a shader with these override constants; compiled at first use.
    ///
    /// # Errors
    /// When the text is invalid, has no such entry point, or the driver rejects it.
    pub fn kernel(&self, shader: &Shader, entry: &str, constants: &[(&str, f64)]) -> anyhow::Result<Arc<Kernel>> {
        self.kernel_from_text(shader.stem, &shader.text()?, entry, constants)
    }

    /// As [`Gpu::kernel`], for a generated text with a unique `stem`.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn kernel_from_text(
        &self,
        stem: &str,
        source: &str,
        entry: &str,
        constants: &[(&str, f64)],
    ) -> anyhow::Result<Arc<Kernel>> {
        let key = format!("{stem}.{entry}{constants:?}");
        if let Some(kernel) = lock(&self.kernels).get(&key) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(self.build(stem, source, entry, constants).with_context(|| format!("kernel {stem}.{entry}"))?);
        lock(&self.kernels).insert(key, kernel.clone());
        Ok(kernel)
    }

    fn build(&self, stem: &str, source: &str, entry: &str, constants: &[(&str, f64)]) -> anyhow::Result<Kernel> {
        let mut text = resolve(source)?;
        if let Some(counter) = &self.counter {
            text = counter.instrument(&format!("{stem}.{entry}"), &text, entry);
        }
        let reflection = reflect::reflect(stem, &text)?;
        let found = reflection.entry_points.into_iter().find(|e| e.name == entry).context("no such entry point")?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(stem), source: wgpu::ShaderSource::Wgsl(text.into()) };
        // Bounds checks stay on. The counter that wgpu adds to every loop does not: it cost up to a quarter of a row kernel's time on
        // lavapipe (LOG.md), and every loop here ends by a bound from a uniform or a constant.
        let checks = wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
        // SAFETY: all texts are part of lehr, and `tests/shaders` rejects loops without a bound.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&format!("{stem}.{entry}")),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // Every kernel writes workgroup memory before it reads it; zeroing costs up to 1 ms a group on some drivers.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(anyhow!(DeviceFault::Validation(error.to_string())));
        }
        let constants = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
        Ok(Kernel { name: format!("{stem}.{entry}"), constants, pipeline, entry: found })
    }

    /// The kernels compiled so far.
    pub fn compiled(&self) -> Vec<Arc<Kernel>> {
        lock(&self.kernels).values().cloned().collect()
    }
}
