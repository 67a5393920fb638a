// Weighted average of snapshots of the parameters, as a sum of differences from weights that lie near them: what is added up is small,
// so that rounding is that of one addition, not of N.        merged = base + sum_s w_s (snapshot_s - base),  sum_s w_s = 1
//   weights: one per snapshot        merged: holds the sum of differences until `finish`
#import grid
override WG: u32 = 64u;
struct Dims { n4: u32, index: u32, threads: u32 }

@group(0) @binding(0) var<uniform>             dims:     Dims;
@group(0) @binding(1) var<storage, read>       snapshot: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       base:     array<vec4<f32>>;
@group(0) @binding(3) var<storage, read>       weights:  array<f32>;
@group(0) @binding(4) var<storage, read_write> merged:   array<vec4<f32>>;

@compute @workgroup_size(WG)
fn accumulate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let w = weights[dims.index];
    for (var i = linear_group(group, groups) * WG + local; i < dims.n4; i += dims.threads) {
        merged[i] = merged[i] + w * (snapshot[i] - base[i]);
    }
}

@compute @workgroup_size(WG)
fn finish(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    for (var i = linear_group(group, groups) * WG + local; i < dims.n4; i += dims.threads) {
        merged[i] = base[i] + merged[i];
    }
}
