// Add the parts of a product whose depth was divided among workgroups: parts[0] + parts[1] + ..., in this order.
//   dw, dx, y, residual (numbers: rows of `stride`, of which `cols` are real)   parts (parts x numbers)   bias (cols)
#import grid
struct Dims { numbers: u32, cols: u32, stride: u32, parts: u32 }

@group(0) @binding(0) var<uniform>             dims:     Dims;
@group(0) @binding(1) var<storage, read_write> parts:    array<f32>;
@group(0) @binding(2) var<storage, read_write> dw:       array<f32>;
@group(0) @binding(3) var<storage, read_write> y:        array<f32>;
@group(0) @binding(4) var<storage, read>       bias:     array<f32>;
@group(0) @binding(5) var<storage, read>       residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx:       array<f32>;

fn sum_at(at: u32) -> f32 {
    let safe = min(at, dims.numbers - 1u);
    var sum = 0.0;
    for (var i = 0u; i < dims.parts; i++) {
        sum += parts[i * dims.numbers + safe];
    }
    return sum;
}

@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        dw[at] += sum_at(at);
    }
}

@compute @workgroup_size(64)
fn backward_input(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        dx[at] = sum_at(at);
    }
}

@compute @workgroup_size(64)
fn backward_input_add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        dx[at] += sum_at(at);
    }
}

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        y[at] = sum_at(at);
    }
}

@compute @workgroup_size(64)
fn forward_bias(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        y[at] = sum_at(at) + bias[at % dims.stride];
    }
}

@compute @workgroup_size(64)
fn forward_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let at = linear_group(group, groups) * 64u + local;
    if at < dims.numbers && at % dims.stride < dims.cols {
        y[at] = sum_at(at) + residual[at];
    }
}
