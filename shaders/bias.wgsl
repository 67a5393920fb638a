// Gradient of a bias: dbias += column sums of dy, of which rows first_row .. end_row are summed here.
//   dy (rows x 4 * stride4, of which cols are real)   dbias (cols)
#import reduce
#import grid
struct Dims { first_row: u32, end_row: u32, cols: u32, stride4: u32 }

@group(0) @binding(0) var<uniform>             dims:  Dims;
@group(0) @binding(1) var<storage, read>       dy:    array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dbias: array<vec4<f32>>;

// A workgroup owns WG / LANES groups of four columns; LANES invocations share the rows.
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let c = linear_group(group, groups) * (WG / LANES) + local % (WG / LANES);
    let lane = local / (WG / LANES);
    let safe_c = min(c, (dims.cols - 1u) / 4u);
    var sum = vec4<f32>(0.0);
    for (var row = dims.first_row + lane; row < dims.end_row; row += LANES) {
        sum += dy[row * dims.stride4 + safe_c];
    }
    let total = vec4<f32>(column_sum(sum.x, local), column_sum(sum.y, local), column_sum(sum.z, local), column_sum(sum.w, local));
    if 4u * c < dims.cols && lane == 0u {
        // Memory after the last column belongs to another tensor.
        let inside = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(dims.cols);
        dbias[c] = select(dbias[c], dbias[c] + total, inside);
    }
}
