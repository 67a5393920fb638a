//! Which tile a product gets.

use super::{Family, LANES, Role, Shape, Tile};
use crate::gpu::{AdapterClass, Gpu};

const SUBGROUP_32X8: Tile = Tile::new(Family::Subgroup, 32, 8);
const SUBGROUP_16X8: Tile = Tile::new(Family::Subgroup, 16, 8);
const SUBGROUP_8X8: Tile = Tile::new(Family::Subgroup, 8, 8);
const DIRECT_32X16: Tile = Tile::new(Family::Direct, 32, 16);
const DIRECT_16X8: Tile = Tile::new(Family::Direct, 16, 8);
const DIRECT_4X8: Tile = Tile::new(Family::Direct, 4, 8);
const SHARED_4X4: Tile = Tile::new(Family::Shared, 4, 4);
const SHARED_8X4: Tile = Tile::new(Family::Shared, 8, 4);

/// Every tile that is used anywhere.
pub(super) const ALL: [Tile; 8] =
    [SUBGROUP_32X8, SUBGROUP_16X8, SUBGROUP_8X8, DIRECT_32X16, DIRECT_16X8, DIRECT_4X8, SHARED_4X4, SHARED_8X4];

/// Rows up to which a product is one of a few row vectors, as in decoding.
pub(super) const FEW_ROWS: usize = 8;

/// The adapter's subgroups are as wide as a register-tile workgroup.
fn subgroups(gpu: &Gpu) -> bool {
    gpu.subgroup_size() == Some(LANES as u32)
}

/// The tiles worth trying for a large product, the one that is taken unmeasured first.
pub fn candidates(gpu: &Gpu) -> &'static [Tile] {
    match gpu.class() {
        AdapterClass::Hardware => &[SHARED_4X4, SHARED_8X4],
        AdapterClass::Software if subgroups(gpu) => &[SUBGROUP_32X8, SUBGROUP_16X8],
        AdapterClass::Software => &[DIRECT_16X8, DIRECT_32X16],
    }
}

/// The tile for few rows.
pub(super) fn small(gpu: &Gpu) -> Tile {
    match gpu.class() {
        AdapterClass::Hardware => SHARED_4X4,
        AdapterClass::Software if subgroups(gpu) => SUBGROUP_8X8,
        AdapterClass::Software => DIRECT_4X8,
    }
}

/// The tile for a product; none when a GPU had better treat it as row vectors.
pub fn choose(gpu: &Gpu, role: Role, shape: &Shape) -> Option<Tile> {
    if shape.rows <= FEW_ROWS {
        let aligned = shape.strides[0].is_multiple_of(4) && shape.strides[1].is_multiple_of(4) && shape.depth.is_multiple_of(4);
        let vectors = gpu.class() == AdapterClass::Hardware && role == Role::Forward && aligned;
        return (!vectors).then(|| small(gpu));
    }
    Some(candidates(gpu)[0])
}

/// Every tile that is ever chosen on this class of adapter and that this one can run.
pub(super) fn runnable(gpu: &Gpu) -> &'static [Tile] {
    match gpu.class() {
        AdapterClass::Hardware => &[SHARED_4X4, SHARED_8X4],
        AdapterClass::Software if subgroups(gpu) => &ALL[..6],
        AdapterClass::Software => &ALL[3..6],
    }
}
