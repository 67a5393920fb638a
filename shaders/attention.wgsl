// Attention's cache: copies the new keys and values to their positions. (The rest of attention is generated:
// crates/compute/src/ops/attention/source.rs.) Caches in half precision have the same text with two words for a vec4.
//
//   qkv (rows, skip4 + 2 width4)   positions (rows)   cache_k, cache_v (sequences, max_time, width4)        all in vec4
#import grid
struct Dims { rows: u32, time: u32, max_time: u32, width4: u32, skip4: u32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       qkv:       array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache_k:   array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> cache_v:   array<vec4<f32>>;

fn store_k(i: u32, v: vec4<f32>) { cache_k[i] = v; }
fn store_v(i: u32, v: vec4<f32>) { cache_v[i] = v; }

@compute @workgroup_size(64)
fn append(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let item = linear_group(group, groups) * 64u + local;
    let row = item / dims.width4;
    let column = item % dims.width4;
    if row < dims.rows {
        let place = positions[row];
        if place < dims.max_time {
            let source = row * (dims.skip4 + 2u * dims.width4) + dims.skip4 + column;
            let to = (row / dims.time * dims.max_time + place) * dims.width4 + column;
            store_k(to, qkv[source]);
            store_v(to, qkv[source + dims.width4]);
        }
    }
}
