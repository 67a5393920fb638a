// Embedding: y[row] = weight[token[row]].   tokens (R)  weight, dweight (V, C)  y, dy (R, C)
// A table that is too large to be bound comes in parts: `weight` holds `vocab` of its rows from row `first` on, and `last` is its last row.
// A table in bfloat16 has the same text with two words for a vec4.
#import grid
override WG: u32 = 64u;
override COLS4: u32 = 1u; // a constant, because dividing by a variable is slow
struct Dims { rows: u32, vocab: u32, skip: u32, most: u32, first: u32, last: u32 }

@group(0) @binding(0) var<uniform>             dims:    Dims;
@group(0) @binding(1) var<storage, read>       tokens:  array<u32>;
@group(0) @binding(2) var<storage, read>       weight:  array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y:       array<vec4<f32>>;
@group(0) @binding(4) var<storage, read>       dy:      array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dweight: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read>       order:   array<u32>; // row numbers, sorted by token
@group(0) @binding(7) var<storage, read>       spans:   array<u32>; // (token, start, end) into order; empty ones at the end

fn load_weight(i: u32) -> vec4<f32> { return weight[i]; }

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS4 {
        let token = min(tokens[i / COLS4], dims.last);
        if token >= dims.first && token - dims.first < dims.vocab {
            y[i] = load_weight((token - dims.first) * COLS4 + i % COLS4);
        }
    }
}

// dweight[token] += sum of dy over the rows of that token, of which `skip` are skipped and at most `most` are added.
// One invocation owns (token, four columns), so no atomics are needed.
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS4 {
        let span = 3u * (i / COLS4);
        let c = i % COLS4;
        let start = spans[span + 1u] + dims.skip;
        let end = min(min(spans[span + 2u], dims.rows), start + dims.most);
        let token = min(spans[span], dims.last);
        if start < end && token >= dims.first && token - dims.first < dims.vocab {
            var sum = vec4<f32>(0.0);
            for (var s = start; s < end; s++) {
                sum += dy[min(order[s], dims.rows - 1u) * COLS4 + c];
            }
            dweight[(token - dims.first) * COLS4 + c] += sum;
        }
    }
}
