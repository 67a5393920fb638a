// Rotary positions, in place on the query and key heads of fused q|k|v rows (Su et al. 2021; halves paired as in Hugging Face).
//   qkv (R, stride)   positions (R): index of the token inside its document   table (positions, D/4): (cos, cos, sin, sin) of two
//   neighbouring frequencies, made on the CPU in f64.  direction = 1 rotates forward, -1 back (the gradient).
#import grid
override WG: u32 = 64u;
override HEADS: u32 = 1u;   // constants, because dividing by a variable is slow
override QUARTER: u32 = 1u; // D / 4
struct Dims { rows: u32, stride2: u32, table_rows: u32, direction: f32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       positions: array<u32>;
@group(0) @binding(2) var<storage, read>       table:     array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> qkv:       array<vec2<f32>>;

@compute @workgroup_size(WG)
fn rotate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * HEADS * QUARTER {
        let pair = i % QUARTER;
        let head = (i / QUARTER) % HEADS;
        let row = i / (QUARTER * HEADS);
        let at = row * dims.stride2 + head * 2u * QUARTER + pair;
        let turn = table[min(positions[row], dims.table_rows - 1u) * QUARTER + pair];
        let cos = turn.xy;
        let sin = turn.zw * dims.direction;
        let low = qkv[at];
        let high = qkv[at + QUARTER];
        qkv[at] = low * cos - high * sin;
        qkv[at + QUARTER] = high * cos + low * sin;
    }
}
