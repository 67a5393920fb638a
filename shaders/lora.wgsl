// Low-rank adapters (Hu et al. 2021), the product with B: for up to three parts of y, adjacent or not, each with its own matrix.
//   b, db (COLS, RANK): rows of all parts, one under the other      u, du (rows, WIDTH): RANK columns a part
//   y, dy (rows x stride): row n of b belongs to column n + shift of its part; parts end before rows end0, end1 and COLS
#import grid
override WG: u32 = 64u;
override COLS: u32 = 1u; // constants, because dividing by a variable is slow
override RANK: u32 = 1u;
override WIDTH: u32 = 1u;
struct Dims { rows: u32, stride: u32, end0: u32, end1: u32, shift0: u32, shift1: u32, shift2: u32, scale: f32 }

@group(0) @binding(0) var<uniform>             dims: Dims;
@group(0) @binding(1) var<storage, read>       u:    array<f32>;
@group(0) @binding(2) var<storage, read>       b:    array<f32>;
@group(0) @binding(3) var<storage, read_write> y:    array<f32>;
@group(0) @binding(4) var<storage, read>       dy:   array<f32>;
@group(0) @binding(5) var<storage, read_write> du:   array<f32>;
@group(0) @binding(6) var<storage, read_write> db:   array<f32>;

fn part_of(n: u32) -> u32 {
    return select(0u, 1u, n >= dims.end0) + select(0u, 1u, n >= dims.end1);
}

fn shift_of(part: u32) -> u32 {
    return select(select(dims.shift2, dims.shift1, part == 1u), dims.shift0, part == 0u);
}

// y += scale u b^T
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * COLS {
        let n = i % COLS;
        let part = part_of(n);
        let left = i / COLS * WIDTH + part * RANK;
        var sum = 0.0;
        for (var k = 0u; k < RANK; k++) {
            sum += u[left + k] * b[n * RANK + k];
        }
        y[i / COLS * dims.stride + n + shift_of(part)] += dims.scale * sum;
    }
}

// du = scale dy b
@compute @workgroup_size(WG)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < dims.rows * WIDTH {
        let part = i % WIDTH / RANK;
        let k = i % RANK;
        let start = select(select(dims.end1, dims.end0, part == 1u), 0u, part == 0u);
        let end = select(select(COLS, dims.end1, part == 1u), dims.end0, part == 0u);
        let left = i / WIDTH * dims.stride + shift_of(part);
        var sum = 0.0;
        for (var n = start; n < end; n++) {
            sum += dy[left + n] * b[n * RANK + k];
        }
        du[i] = dims.scale * sum;
    }
}

// db += scale dy^T u
@compute @workgroup_size(WG)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let i = linear_group(group, groups) * WG + local;
    if i < COLS * RANK {
        let n = i / RANK;
        let part = part_of(n);
        let left = n + shift_of(part);
        let right = part * RANK + i % RANK;
        var sum = 0.0;
        for (var row = 0u; row < dims.rows; row++) {
            sum += dy[row * dims.stride + left] * u[row * WIDTH + right];
        }
        db[i] += dims.scale * sum;
    }
}
