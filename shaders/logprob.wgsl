// Log-probability head. Per row, from logits l: lse = log sum exp l, log p(target) = l[target] - lse, entropy = lse - sum p l,
// sum p^2, hit = 1 where the target is the arg-max (the first, if several logits are highest), else 0.
// Backward: dlogits = dlogp * (onehot(target) - p), in place: the one gradient that every objective shares.
// At a temperature T: divide multiplies the logits by 1 / T before forward, and the backward of a policy, which ends at the logits as
// they were before that, is dlogits = (dlogp (onehot(target) - p) - dentropy p (log p + entropy)) / T.
//   logits (R, stride), the first `vocab` columns count; backward writes 0 into the others     targets (R)     the rest (R)
#import reduce
#import grid
struct Dims { rows: u32, vocab: u32, stride4: u32, first_row: u32 }

@group(0) @binding(0) var<uniform>             dims:    Dims;
@group(0) @binding(1) var<storage, read>       logits:  array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> logp:    array<f32>;
@group(0) @binding(4) var<storage, read_write> entropy: array<f32>;
@group(0) @binding(5) var<storage, read_write> sum_p2:  array<f32>;
@group(0) @binding(6) var<storage, read_write> lse:     array<f32>;
@group(0) @binding(7) var<storage, read_write> dlogits: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read>       dlogp:   array<f32>;
@group(0) @binding(9) var<storage, read>       row_lse: array<f32>;
@group(0) @binding(10) var<storage, read_write> hit:    array<f32>;
@group(0) @binding(11) var<storage, read>      inv_temperature: array<f32>;
@group(0) @binding(12) var<storage, read>      row_entropy: array<f32>;
@group(0) @binding(13) var<storage, read>      dentropy: array<f32>;

const LOWEST = -1e30;
const BLOCK = 64u;

// Which of four columns exist.
fn inside(c: u32) -> vec4<bool> {
    return vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(dims.vocab);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    let safe_row = min(row, dims.rows - 1u);
    let start = safe_row * dims.stride4;
    let cols4 = (dims.vocab + 3u) / 4u;
    var highest = vec4<f32>(LOWEST);
    for (var c = lane; c < cols4; c += LANES) {
        highest = max(highest, select(vec4<f32>(LOWEST), logits[start + c], inside(c)));
    }
    let m = row_max(max(max(highest.x, highest.y), max(highest.z, highest.w)), local);
    var mass = 0.0;
    var mass2 = 0.0;
    var weighted = 0.0;
    // In blocks: a single long sum over a large vocabulary would lose small terms.
    for (var block = lane; block < cols4; block += BLOCK * LANES) {
        let end = min(block + BLOCK * LANES, cols4);
        var part = vec3<f32>(0.0);
        for (var c = block; c < end; c += LANES) {
            let there = inside(c);
            let shifted = select(vec4<f32>(0.0), max(logits[start + c] - m, vec4<f32>(-87.0)), there);
            let e = select(vec4<f32>(0.0), exp(shifted), there);
            part += vec3<f32>(e.x + e.y + e.z + e.w, dot(e, e), dot(e, shifted));
        }
        mass += part.x;
        mass2 += part.y;
        weighted += part.z;
    }
    let at = dims.first_row + safe_row;
    let target_column = min(targets[at], dims.vocab - 1u);
    let four = logits[start + target_column / 4u];
    let k = target_column % 4u;
    let chosen = select(select(four.x, four.y, k == 1u), select(four.z, four.w, k == 3u), k >= 2u);
    // Only where the target is highest: check for an equal logit before it.
    let search4 = select(0u, target_column / 4u + 1u, chosen >= m);
    var tied = 0.0;
    for (var c = lane; c < search4; c += LANES) {
        let before = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(target_column);
        let equal = before & (logits[start + c] >= vec4<f32>(m));
        // Not a dot with ones: DXC turns that into f64.
        let ones = select(vec4<f32>(0.0), vec4<f32>(1.0), equal);
        tied += ones.x + ones.y + ones.z + ones.w;
    }
    tied = row_sum(tied, local);
    mass = row_sum(mass, local);
    mass2 = row_sum(mass2, local);
    weighted = row_sum(weighted, local);
    if row < dims.rows && lane == 0u {
        let log_mass = log(mass);
        logp[at] = chosen - m - log_mass;
        entropy[at] = log_mass - weighted / mass;
        sum_p2[at] = mass2 / (mass * mass);
        lse[at] = m + log_mass;
        hit[at] = select(0.0, 1.0, chosen >= m && tied == 0.0);
    }
}

@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    if row < dims.rows {
        let at = dims.first_row + row;
        let start = row * dims.stride4;
        let d = dlogp[at];
        let shift = row_lse[at];
        let target_column = min(targets[at], dims.vocab - 1u);
        for (var c = lane; c < dims.stride4; c += LANES) {
            let p = exp(clamp(dlogits[start + c] - shift, vec4<f32>(-87.0), vec4<f32>(0.0)));
            let hit = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(target_column);
            let g = d * (select(vec4<f32>(0.0), vec4<f32>(1.0), hit) - p);
            dlogits[start + c] = select(vec4<f32>(0.0), g, inside(c));
        }
    }
}

@compute @workgroup_size(WG)
fn divide(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    if row < dims.rows {
        let start = row * dims.stride4;
        for (var c = lane; c < dims.stride4; c += LANES) {
            dlogits[start + c] = dlogits[start + c] * inv_temperature[0];
        }
    }
}

@compute @workgroup_size(WG)
fn backward_policy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    if row < dims.rows {
        let at = dims.first_row + row;
        let start = row * dims.stride4;
        let d = dlogp[at] * inv_temperature[0];
        let e = dentropy[at] * inv_temperature[0];
        let entropy_of_row = row_entropy[at];
        let shift = row_lse[at];
        let target_column = min(targets[at], dims.vocab - 1u);
        for (var c = lane; c < dims.stride4; c += LANES) {
            let log_p = clamp(dlogits[start + c] - shift, vec4<f32>(-87.0), vec4<f32>(0.0));
            let p = exp(clamp(log_p, vec4<f32>(-87.0), vec4<f32>(0.0)));
            let hit = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(target_column);
            let g = d * (select(vec4<f32>(0.0), vec4<f32>(1.0), hit) - p) - e * p * (log_p + entropy_of_row);
            dlogits[start + c] = select(vec4<f32>(0.0), g, inside(c));
        }
    }
}
