// One-dimensional work on a two-dimensional grid: a dimension holds at most 65,535 workgroups. Counterpart of gpu::grid.
fn linear_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
