// RMSNorm of query or key heads, and their rotation: as rmsnorm.wgsl on each head, then as rope.wgsl. The heads behind them (values) are copied.
//
// A head is 4 * QUARTER numbers at (row / HEADS) * stride + offset + (row % HEADS) * 4 * QUARTER of `raw`, `qkv` and their gradients; of the
// HEADS of a row the first `normed` are normalised. Bound as vec2: one invocation holds two neighbours and those that they are paired with.
//   gain, dgain (D)   rstd (rows of the matrix x normed)   positions, table: as in rope.wgsl
#import reduce
#import grid
override HEADS: u32 = 1u;   // constants, because dividing by a variable is slow
override QUARTER: u32 = 1u; // D / 4
struct Dims { rows: u32, normed: u32, stride2: u32, offset2: u32, table_rows: u32, first_row: u32, eps: f32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       raw:       array<vec2<f32>>;
@group(0) @binding(2) var<storage, read>       gain:      array<vec2<f32>>;
@group(0) @binding(3) var<storage, read>       positions: array<u32>;
@group(0) @binding(4) var<storage, read>       table:     array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> rstd:      array<f32>;
@group(0) @binding(6) var<storage, read_write> qkv:       array<vec2<f32>>;
@group(0) @binding(7) var<storage, read>       dqkv:      array<vec2<f32>>;
@group(0) @binding(8) var<storage, read_write> draw:      array<vec2<f32>>;
@group(0) @binding(9) var<storage, read_write> dgain:     array<vec2<f32>>;

fn head_start(row: u32) -> u32 {
    return (row / HEADS) * dims.stride2 + dims.offset2 + (row % HEADS) * 2u * QUARTER;
}

// (cos, cos, sin, sin) of a pair.
fn turn_at(row: u32, pair: u32) -> vec4<f32> {
    return table[min(positions[row / HEADS], dims.table_rows - 1u) * QUARTER + pair];
}

// The gradient of a pair before the rotation.
fn turned_back(at: u32, turn: vec4<f32>) -> vec4<f32> {
    let low = dqkv[at];
    let high = dqkv[at + QUARTER];
    return vec4<f32>(low * turn.xy + high * turn.zw, high * turn.xy - low * turn.zw);
}

fn pair_of_raw(at: u32) -> vec4<f32> {
    return vec4<f32>(raw[at], raw[at + QUARTER]);
}

fn pair_of_gain(pair: u32) -> vec4<f32> {
    return vec4<f32>(gain[pair], gain[pair + QUARTER]);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let item = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    let row = min(item, dims.rows - 1u);
    let start = head_start(row);
    let is_normed = row % HEADS < dims.normed;
    var sum = 0.0;
    for (var pair = lane; pair < QUARTER; pair += LANES) {
        let v = pair_of_raw(start + pair);
        sum += dot(v, v);
    }
    let scale = inverseSqrt(row_sum(sum, local) / f32(4u * QUARTER) + dims.eps);
    if item < dims.rows {
        if lane == 0u && is_normed {
            rstd[row / HEADS * dims.normed + row % HEADS] = scale;
        }
        for (var pair = lane; pair < QUARTER; pair += LANES) {
            var v = pair_of_raw(start + pair);
            if is_normed {
                let n = v * scale * pair_of_gain(pair);
                let turn = turn_at(row, pair);
                v = vec4<f32>(n.xy * turn.xy - n.zw * turn.zw, n.zw * turn.xy + n.xy * turn.zw);
            }
            qkv[start + pair] = v.xy;
            qkv[start + pair + QUARTER] = v.zw;
        }
    }
}

// draw from dqkv: turned back, then as `backward` of rmsnorm.wgsl.
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let item = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    let row = min(item, dims.rows - 1u);
    let start = head_start(row);
    let is_normed = row % HEADS < dims.normed;
    let scale = rstd[row / HEADS * dims.normed + min(row % HEADS, dims.normed - 1u)];
    var sum = 0.0;
    for (var pair = lane; pair < QUARTER; pair += LANES) {
        sum += dot(turned_back(start + pair, turn_at(row, pair)) * pair_of_gain(pair), pair_of_raw(start + pair));
    }
    let mean = row_sum(sum, local) * scale / f32(4u * QUARTER);
    if item < dims.rows {
        for (var pair = lane; pair < QUARTER; pair += LANES) {
            let at = start + pair;
            var d = vec4<f32>(dqkv[at], dqkv[at + QUARTER]);
            if is_normed {
                d = scale * (turned_back(at, turn_at(row, pair)) * pair_of_gain(pair) - pair_of_raw(at) * (scale * mean));
            }
            draw[at] = d.xy;
            draw[at + QUARTER] = d.zw;
        }
    }
}

// dgain += sum over heads first_row..rows, all of them normalised, of the gradient turned back * raw * rstd. A workgroup owns WG / LANES
// pairs; LANES invocations share the heads.
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let pair = linear_group(group, groups) * (WG / LANES) + local % (WG / LANES);
    let lane = local / (WG / LANES);
    let safe_pair = min(pair, QUARTER - 1u);
    var sum = vec4<f32>(0.0);
    for (var row = dims.first_row + lane; row < dims.rows; row += LANES) {
        let at = head_start(row) + safe_pair;
        sum += turned_back(at, turn_at(row, safe_pair)) * pair_of_raw(at) * rstd[row];
    }
    let total = vec4<f32>(column_sum(sum.x, local), column_sum(sum.y, local), column_sum(sum.z, local), column_sum(sum.w, local));
    if pair < QUARTER && lane == 0u {
        dgain[pair] += total.xy;
        dgain[pair + QUARTER] += total.zw;
    }
}
