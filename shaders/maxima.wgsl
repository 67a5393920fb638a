// The largest absolute values of a matrix of gradients, one for each of 128 workgroups: they decide the power of two by which a product
// with f16 operands scales it. NaN counts as nothing: it reaches the product itself.
//   dy (rows of `stride` numbers, of which `cols` are real)   maxima (128)
struct Dims { rows: u32, cols: u32, stride: u32 }

@group(0) @binding(0) var<uniform>             dims:   Dims;
@group(0) @binding(1) var<storage, read>       dy:     array<f32>;
@group(0) @binding(2) var<storage, read_write> maxima: array<f32>;

var<workgroup> slots: array<f32, 256>;

@compute @workgroup_size(256)
fn largest(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var most = 0.0;
    for (var row = 0u; row < dims.rows; row++) {
        for (var col = group.x * 256u + local; col < dims.cols; col += 32768u) {
            most = max(most, abs(dy[row * dims.stride + col]));
        }
    }
    slots[local] = most;
    workgroupBarrier();
    for (var step = 128u; step > 0u; step = step / 2u) {
        if local < step {
            slots[local] = max(slots[local], slots[local + step]);
        }
        workgroupBarrier();
    }
    if local == 0u && group.x < 128u {
        maxima[group.x] = slots[0];
    }
}
