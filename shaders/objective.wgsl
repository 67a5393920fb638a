// Objectives: from log pi(target) to one number per row, dlogp = d loss / d log pi(target). The sums go to `stats`.
// One workgroup processes all rows, so the sums have one fixed order.
//   logp, entropy, hit, weights, dlogp, dentropy (R)      stats: see gpu buffer layout in crates/compute/src/ops/objective.rs
//   samples (R): old log pi, reference log pi, advantage, weight in the loss (0 outside of the pass)
//   settings: epsilon low, epsilon high, delta (0: off), beta, entropy coefficient
#import group
struct Dims { rows: u32, first_row: u32 }

@group(0) @binding(0) var<uniform>             dims:    Dims;
@group(0) @binding(1) var<storage, read>       logp:    array<f32>;
@group(0) @binding(2) var<storage, read>       entropy: array<f32>;
@group(0) @binding(3) var<storage, read>       weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogp:   array<f32>;
@group(0) @binding(5) var<storage, read_write> stats:   array<f32>;
@group(0) @binding(6) var<storage, read>       hit:     array<f32>;
@group(0) @binding(7) var<storage, read>       samples: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read>       settings: array<f32>;
@group(0) @binding(9) var<storage, read_write> dentropy: array<f32>;

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
    let total = group_sum(sum, local);
    if local == 0u {
        stats[4] += total.x;
        stats[5] += total.y;
        stats[6] += total.z;
    }
}

// exp(x) - x - 1, which cancels near 0: a series there.
fn k3(x: f32) -> f32 {
    let series = 0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0)))));
    return select(exp(clamp(x, -5.0, 5.0)) - x - 1.0, x * x * series, abs(x) < 0.5);
}

// loss = sum of w (pg + beta KL - coefficient H) with r = pi / pi_old and
// pg = max(-A r, -A clip(r, 1 - low, 1 + high)), and for A < 0 at most -A delta.
@compute @workgroup_size(WG)
fn policy(@builtin(local_invocation_index) local: u32) {
    let low = 1.0 - settings[0];
    let high = 1.0 + settings[1];
    let delta = settings[2];
    let beta = settings[3];
    let coefficient = settings[4];
    var losses = vec4<f32>(0.0);
    var means = vec4<f32>(0.0);
    var clips = vec4<f32>(0.0);
    for (var row = local; row < dims.rows; row += WG) {
        let at = dims.first_row + row;
        let w = samples[at].w;
        let advantage = samples[at].z;
        let member = select(0.0, 1.0, w > 0.0);
        // Far beyond any ratio that is not clipped, and finite.
        let ratio = exp(clamp(logp[at] - samples[at].x, -80.0, 80.0));
        let plain = -advantage * ratio;
        let clipped = -advantage * clamp(ratio, low, high);
        let is_clipped = clipped > plain;
        let ceiling = -advantage * delta;
        let is_dual = delta > 0.0 && advantage < 0.0 && max(plain, clipped) > ceiling;
        let loss = select(max(plain, clipped), ceiling, is_dual);
        let slope = select(plain, 0.0, is_clipped || is_dual);
        // The clamps have zero gradient.
        let gap = samples[at].y - logp[at];
        let d = clamp(gap, -5.0, 5.0);
        let raw = k3(d);
        let kl = clamp(raw, -10.0, 10.0);
        let kl_slope = select(0.0, -(d + raw), abs(gap) <= 5.0 && raw <= 10.0);
        dlogp[at] = w * (slope + beta * kl_slope);
        dentropy[at] = -w * coefficient;
        losses += w * vec4<f32>(loss, kl, entropy[at], 0.0);
        means += member * vec4<f32>(kl, entropy[at], samples[at].x - logp[at], 1.0);
        let low_clip = select(0.0, 1.0, is_clipped && advantage < 0.0);
        let high_clip = select(0.0, 1.0, is_clipped && advantage > 0.0);
        clips += member * vec4<f32>(low_clip, high_clip, select(0.0, 1.0, is_dual), abs(ratio - 1.0));
    }
    losses = group_sum(losses, local);
    means = group_sum(means, local);
    clips = group_sum(clips, local);
    if local == 0u {
        stats[4] += losses.x + beta * losses.y - coefficient * losses.z;
        stats[5] += means.y;
        stats[7] += means.w;
        stats[8] += losses.x;
        stats[9] += losses.y;
        stats[10] += losses.z;
        stats[11] += means.x;
        stats[12] += means.z;
        stats[13] += clips.x;
        stats[14] += clips.y;
        stats[15] += clips.z;
        stats[16] += clips.w;
    }
}
