//! Cooperative matrices: which shape an adapter lists for f16 inputs and f32 sums.
//!
//! The feature alone says nothing: naga accepts every size, and drivers compile sizes that they do not list into nonsense. So a device uses
//! them only for a shape of the adapter's own list.

use super::Vendor;
use anyhow::ensure;

/// A shape of cooperative matrices: `edge` x `edge`, f16 inputs, f32 sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeMatrix {
    /// Rows, columns and summed indices: 8 or 16.
    pub edge: usize,
    /// Invocations of the largest subgroup that may hold one, a power of two.
    pub lanes: usize,
}

/// Device features required for them, besides the shape.
pub(super) const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

impl CooperativeMatrix {
    /// The largest square shape with f16 inputs and f32 sums that the adapter lists.
    ///
    /// # Errors
    /// When it lists none, or its subgroups are larger than 64 invocations.
    pub(super) fn of(adapter: &wgpu::Adapter) -> anyhow::Result<Self> {
        let info = adapter.get_info();
        let listed: &[_] = if adapter.features().contains(FEATURES) { &adapter.cooperative_matrix_properties() } else { &[] };
        let lanes = match (info.backend, Vendor::of(&info)) {
            // Metal does not say; all of Apple's GPUs have 32.
            (wgpu::Backend::Metal, Vendor::Apple) => 32,
            _ => info.subgroup_max_size,
        };
        Self::choose(listed, lanes).map_err(|why| anyhow::anyhow!("--matmul-precision float16: {} {why}; use float32", info.name))
    }

    fn choose(listed: &[wgpu::CooperativeMatrixProperties], lanes: u32) -> anyhow::Result<Self> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let square = |edge: u32| {
            let fits = |p: &wgpu::CooperativeMatrixProperties| {
                [p.m_size, p.n_size, p.k_size] == [edge; 3] && (p.ab_type, p.cr_type) == (F16, F32)
            };
            listed.iter().any(fits)
        };
        let edge = [16, 8].into_iter().find(|&edge| square(edge));
        ensure!(edge.is_some(), "lists no cooperative matrices of 8x8x8 or 16x16x16 with float16 inputs and float32 sums");
        ensure!(
            lanes.is_power_of_two() && (4..=64).contains(&lanes),
            "has cooperative matrices in subgroups of {lanes} invocations, above the 64 that are supported"
        );
        Ok(Self { edge: edge.unwrap_or(8) as usize, lanes: lanes as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{self, F16, F32};

    fn listed(
        sizes: [u32; 3],
        ab_type: CooperativeScalarType,
        cr_type: CooperativeScalarType,
    ) -> wgpu::CooperativeMatrixProperties {
        let [m_size, n_size, k_size] = sizes;
        wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, saturating_accumulation: false }
    }

    #[test]
    fn only_listed_square_shapes_with_f32_sums_are_used() {
        let eight = listed([8; 3], F16, F32);
        let sixteen = listed([16; 3], F16, F32);
        let of = |list: &[_]| CooperativeMatrix::choose(list, 32).map(|m| m.edge).map_err(|e| e.to_string());
        assert_eq!(of(&[eight, sixteen]), Ok(16));
        assert_eq!(of(&[eight, listed([16; 3], F16, F16), listed([16; 3], F32, F32), listed([16, 16, 8], F16, F32)]), Ok(8));
        assert!(of(&[listed([8; 3], F16, F16), listed([16, 8, 16], F16, F32)]).unwrap_err().contains("lists no"));
        assert!(of(&[]).unwrap_err().contains("lists no"));
        for (lanes, fits) in [(2, false), (4, true), (8, true), (24, false), (64, true), (128, false)] {
            assert_eq!(CooperativeMatrix::choose(&[eight], lanes).is_ok(), fits, "{lanes}");
        }
    }
}
