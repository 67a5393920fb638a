//! Verification that every submission ran: the device counts them, and the host compares with the number it sent.
//!
//! On Metal a failed command buffer counts as finished without any error (wgpu issue 9545).

use std::sync::atomic::{AtomicU32, Ordering};

pub(super) struct Status {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    count: wgpu::Buffer,
    sent: AtomicU32,
}

impl Status {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("status"),
            source: wgpu::ShaderSource::Wgsl(lehr_shaders::text("status").into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("status.tick"),
            layout: None,
            module: &module,
            entry_point: Some("tick"),
            compilation_options: Default::default(),
            cache: None,
        });
        let count = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("status"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("status"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: count.as_entire_binding() }],
        });
        Self { pipeline, bind_group, count, sent: AtomicU32::new(0) }
    }

    /// Append the counter's dispatch to a submission.
    pub(super) fn append(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Append the device's count to a read-back; returns the expected value.
    pub(super) fn copy_to(&self, encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer, offset: u64) -> u32 {
        encoder.copy_buffer_to_buffer(&self.count, 0, staging, offset, 16);
        self.sent.load(Ordering::Relaxed)
    }
}
