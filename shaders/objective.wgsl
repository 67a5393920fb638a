// Objectives: from log pi(target) to one number a row, dlogp = d loss / d log pi(target). The sums go to `stats`.
// One workgroup walks all rows, so the sums have one fixed order.
//   logp, entropy, hit, weights, dlogp (R)      stats: see gpu buffer layout in src/ops/objective.rs
override WG: u32 = 256u;
struct Dims { rows: u32, first_row: u32 }

@group(0) @binding(0) var<uniform>             dims:    Dims;
@group(0) @binding(1) var<storage, read>       logp:    array<f32>;
@group(0) @binding(2) var<storage, read>       entropy: array<f32>;
@group(0) @binding(3) var<storage, read>       weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogp:   array<f32>;
@group(0) @binding(5) var<storage, read_write> stats:   array<f32>;
@group(0) @binding(6) var<storage, read>       hit:     array<f32>;

var<workgroup> sums: array<vec4<f32>, WG>;

// Cross-entropy: loss = sum of -w log p, so dlogp = -w; rows that do not count have w = 0.
@compute @workgroup_size(WG)
fn cross_entropy(@builtin(local_invocation_index) local: u32) {
    var sum = vec4<f32>(0.0);
    for (var row = local; row < dims.rows; row += WG) {
        let at = dims.first_row + row;
        let w = weights[at];
        dlogp[at] = -w;
        sum += vec4<f32>(-w * logp[at], w * entropy[at], w * hit[at], 0.0);
    }
    sums[local] = sum;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            sums[local] = sums[local] + sums[local + step];
        }
        workgroupBarrier();
    }
    if local == 0u {
        stats[4] += sums[0].x;
        stats[5] += sums[0].y;
        stats[6] += sums[0].z;
    }
}
