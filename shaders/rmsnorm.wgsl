// RMSNorm: y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps)          (Zhang & Sennrich 2019)
//
//   x, y, dy, dx (R, 4 cols4)        gain, dgain (4 cols4)        rstd (R)
#import reduce
#import grid
struct Dims { rows: u32, cols4: u32, first_row: u32, eps: f32, accumulate: u32 }

@group(0) @binding(0) var<uniform>             dims:  Dims;
@group(0) @binding(1) var<storage, read>       x:     array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       gain:  array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> rstd:  array<f32>;
@group(0) @binding(4) var<storage, read_write> y:     array<vec4<f32>>;
@group(0) @binding(5) var<storage, read>       dy:    array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dx:    array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dgain: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    let inside = row < dims.rows;
    let start = min(row, dims.rows - 1u) * dims.cols4;
    var sum = 0.0;
    for (var c = lane; c < dims.cols4; c += LANES) {
        let v = x[start + c];
        sum += dot(v, v);
    }
    let scale = inverseSqrt(row_sum(sum, local) / f32(4u * dims.cols4) + dims.eps);
    if inside {
        if lane == 0u {
            rstd[row] = scale;
        }
        for (var c = lane; c < dims.cols4; c += LANES) {
            y[start + c] = x[start + c] * scale * gain[c];
        }
    }
}

// dx = rstd * (dy * gain - n * mean(dy * gain * n)), n = x * rstd.  Adds into dx when dims.accumulate is 1 (the residual stream).
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let row = linear_group(group, groups) * (WG / LANES) + local / LANES;
    let lane = local % LANES;
    let inside = row < dims.rows;
    let safe_row = min(row, dims.rows - 1u);
    let start = safe_row * dims.cols4;
    let scale = rstd[safe_row];
    var sum = 0.0;
    for (var c = lane; c < dims.cols4; c += LANES) {
        sum += dot(dy[start + c] * gain[c], x[start + c]);
    }
    let mean = row_sum(sum, local) * scale / f32(4u * dims.cols4);
    if inside {
        for (var c = lane; c < dims.cols4; c += LANES) {
            var d = scale * (dy[start + c] * gain[c] - x[start + c] * (scale * mean));
            if dims.accumulate == 1u {
                d += dx[start + c];
            }
            dx[start + c] = d;
        }
    }
}

// dgain += sum over rows first_row..rows of dy * x * rstd.  A workgroup owns WG / LANES column groups; LANES invocations share the rows.
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let c = linear_group(group, groups) * (WG / LANES) + local % (WG / LANES);
    let lane = local / (WG / LANES);
    let safe_c = min(c, dims.cols4 - 1u);
    var sum = vec4<f32>(0.0);
    for (var row = dims.first_row + lane; row < dims.rows; row += LANES) {
        let at = row * dims.cols4 + safe_c;
        sum += dy[at] * x[at] * rstd[row];
    }
    let total = vec4<f32>(column_sum(sum.x, local), column_sum(sum.y, local), column_sum(sum.z, local), column_sum(sum.w, local));
    if c < dims.cols4 && lane == 0u {
        dgain[c] += total;
    }
}
