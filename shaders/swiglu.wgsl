// SwiGLU: h = silu(gate) * up, silu(g) = g / (1 + exp(-g))          (Shazeer 2020)
//   gate_up, dgate_up (R, 2 F): gate in the first F columns, up in the others       h, dh (R, F)
#import grid
#import sigmoid
override WG: u32 = 64u;
override COLS4: u32 = 1u; // a constant, because dividing by a variable is slow
struct Dims { rows: u32 }

@group(0) @binding(0) var<uniform>             dims:     Dims;
@group(0) @binding(1) var<storage, read>       gate_up:  array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> h:        array<vec4<f32>>;
@group(0) @binding(3) var<storage, read>       dh:       array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> dgate_up: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS4 {
        let at = (i / COLS4) * 2u * COLS4 + i % COLS4;
        let gate = gate_up[at];
        h[i] = gate * sigmoid(gate) * gate_up[at + COLS4];
    }
}

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS4 {
        let at = (i / COLS4) * 2u * COLS4 + i % COLS4;
        let gate = gate_up[at];
        let s = sigmoid(gate);
        let d = dh[i];
        dgate_up[at] = d * gate_up[at + COLS4] * s * (vec4<f32>(1.0) + gate * (vec4<f32>(1.0) - s));
        dgate_up[at + COLS4] = d * gate * s;
    }
}
