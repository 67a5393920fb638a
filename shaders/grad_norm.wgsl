// Global gradient norm, clip factor and finite gate.
//   grads: a segment of the gradient arena, read as bit patterns, because a test on just-computed numbers may be folded away
//   partials: per workgroup (sum of squares, 1 if any number was NaN or infinite)      stats: [norm, clip factor, bad workgroups, ...]
#import grid
override WG: u32 = 64u;
struct Dims { n4: u32, threads: u32, first: u32, count: u32 }

@group(0) @binding(0) var<uniform>             dims:     Dims;
@group(0) @binding(1) var<storage, read>       grads:    array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> stats:    array<f32>;
@group(0) @binding(4) var<storage, read>       hyper:    array<f32>;

var<workgroup> sums: array<vec2<f32>, WG>;

// Not group_sum: sums of four numbers cost registers and cycles here (scripts/check-gpus).
fn tree(value: vec2<f32>, local: u32) -> vec2<f32> {
    sums[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            sums[local] = sums[local] + sums[local + step];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(WG)
fn partial(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let slot = linear_group(group, groups);
    var sum = 0.0;
    var bad = vec4<bool>(false);
    for (var i = slot * WG + local; i < dims.n4; i += dims.threads) {
        let bits = grads[i];
        bad = bad | ((bits & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u));
        let g = bitcast<vec4<f32>>(bits);
        sum += dot(g, g);
    }
    let total = tree(vec2<f32>(sum, select(0.0, 1.0, any(bad))), local);
    if local == 0u && slot < dims.threads / WG {
        partials[dims.first + slot] = total;
    }
}

@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) local: u32) {
    var sum = vec2<f32>(0.0);
    for (var i = local; i < dims.count; i += WG) {
        sum += partials[i];
    }
    let total = tree(sum, local);
    if local == 0u {
        let norm = sqrt(total.x);
        let max_norm = hyper[7];
        stats[0] = norm;
        stats[1] = select(1.0, min(1.0, max_norm / (norm + 1e-6)), max_norm > 0.0);
        stats[2] = total.y;
    }
}
