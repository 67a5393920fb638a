// y += bias, in every row.
//   y (rows, 4 * COLS4)   bias (4 * COLS4)
#import grid
override WG: u32 = 64u;
override COLS4: u32 = 1u; // a constant, because dividing by a variable is slow
struct Dims { rows: u32 }

@group(0) @binding(0) var<uniform>             dims: Dims;
@group(0) @binding(1) var<storage, read>       bias: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y:    array<vec4<f32>>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS4 {
        y[i] += bias[i % COLS4];
    }
}
