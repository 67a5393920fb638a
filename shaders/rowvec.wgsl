// y = x w^T for the few rows of a decoding step, on a GPU: LANES invocations share one column of y, four rows at a time.
//   x (rows x left_stride)   w (cols x right_stride)   y, residual (rows x out_stride)   bias (cols)        depth is a multiple of 4
// Weights in bfloat16 have the same text with two words for a vec4.
#import reduce
#import grid
struct Dims { rows: u32, cols: u32, depth: u32, left_stride: u32, right_stride: u32, out_stride: u32, first_row: u32 }

@group(0) @binding(0) var<uniform>             dims:     Dims;
@group(0) @binding(1) var<storage, read>       x:        array<vec4<f32>>;
@group(0) @binding(2) var<storage, read>       w:        array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y:        array<f32>;
@group(0) @binding(4) var<storage, read>       bias:     array<f32>;
@group(0) @binding(5) var<storage, read>       residual: array<f32>;

fn load_w(i: u32) -> vec4<f32> { return w[i]; }

// Column `col` of rows first .. first + 3. All invocations call it together; columns past the end repeat the last one.
fn products(first: u32, col: u32, local: u32) -> vec4<f32> {
    let last = dims.rows - 1u;
    let rows = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(last)) * (dims.left_stride / 4u);
    let start = min(col, dims.cols - 1u) * (dims.right_stride / 4u);
    var sum = vec4<f32>(0.0);
    for (var i = local % LANES; i < dims.depth / 4u; i += LANES) {
        let weights = load_w(start + i);
        sum += vec4<f32>(dot(x[rows.x + i], weights), dot(x[rows.y + i], weights),
                         dot(x[rows.z + i], weights), dot(x[rows.w + i], weights));
    }
    return vec4<f32>(row_sum(sum.x, local), row_sum(sum.y, local), row_sum(sum.z, local), row_sum(sum.w, local));
}

// Lanes 0 .. 3 would each store one row, but LANES may be 1: the first stores all four.
fn put(first: u32, col: u32, i: u32, value: f32) {
    if first + i < dims.rows && col < dims.cols {
        y[(first + i) * dims.out_stride + col] = value;
    }
}

fn column(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return linear_group(group, groups) * (WG / LANES) + local / LANES;
}

fn store(first: u32, col: u32, local: u32, value: vec4<f32>) {
    if local % LANES == 0u {
        put(first, col, 0u, value.x);
        put(first, col, 1u, value.y);
        put(first, col, 2u, value.z);
        put(first, col, 3u, value.w);
    }
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let col = column(group, groups, local);
    for (var first = 0u; first < dims.rows; first += 4u) {
        store(first, col, local, products(first, col, local));
    }
}

@compute @workgroup_size(WG)
fn forward_bias(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let col = column(group, groups, local);
    for (var first = 0u; first < dims.rows; first += 4u) {
        store(first, col, local, products(first, col, local) + bias[min(col, dims.cols - 1u)]);
    }
}

@compute @workgroup_size(WG)
fn forward_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let col = column(group, groups, local);
    for (var first = 0u; first < dims.rows; first += 4u) {
        let sums = products(first, col, local);
        let rows = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(dims.rows - 1u));
        let at = rows * dims.out_stride + min(col, dims.cols - 1u);
        store(first, col, local, sums + vec4<f32>(residual[at.x], residual[at.y], residual[at.z], residual[at.w]));
    }
}
