// AdamW with decoupled decay (Loshchilov & Hutter 2019), in PyTorch's form, over one segment of the parameter arenas.
//   hyper: lr, beta1, beta2, eps, weight decay, 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t), max norm          (made on the CPU in f64)
// And plain gradient descent, which has neither moments nor decay.
//   gate: the stats of the step as bit patterns; nothing is written when a gradient, the norm or the loss was not finite
#import grid
override WG: u32 = 64u;
struct Dims { n4: u32, decayed4: u32, threads: u32 }

@group(0) @binding(0) var<uniform>             dims:   Dims;
@group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       grads:  array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> m:      array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> v:      array<vec4<f32>>;
@group(0) @binding(5) var<storage, read>       hyper:  array<f32>;
@group(0) @binding(6) var<storage, read>       gate:   array<u32>;

fn is_closed() -> bool {
    return gate[2] != 0u || (gate[0] & 0x7f800000u) == 0x7f800000u || (gate[4] & 0x7f800000u) == 0x7f800000u;
}

@compute @workgroup_size(WG)
fn update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    if is_closed() {
        return;
    }
    let clip = bitcast<f32>(gate[1]);
    let lr = hyper[0];
    let beta1 = hyper[1];
    let beta2 = hyper[2];
    let eps = hyper[3];
    let decay = 1.0 - lr * hyper[4];
    let rate = lr * hyper[5];
    let root = hyper[6];
    for (var i = linear_group(group, groups) * WG + local; i < dims.n4; i += dims.threads) {
        let g = grads[i] * clip;
        let mean = beta1 * m[i] + (1.0 - beta1) * g;
        let square = beta2 * v[i] + (1.0 - beta2) * g * g;
        m[i] = mean;
        v[i] = square;
        let kept = values[i] * select(1.0, decay, i < dims.decayed4);
        values[i] = kept - rate * mean / (sqrt(square) * root + eps);
    }
}

@compute @workgroup_size(WG)
fn sgd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) local: u32) {
    if is_closed() {
        return;
    }
    let rate = hyper[0] * bitcast<f32>(gate[1]);
    for (var i = linear_group(group, groups) * WG + local; i < dims.n4; i += dims.threads) {
        values[i] = values[i] - rate * grads[i];
    }
}
