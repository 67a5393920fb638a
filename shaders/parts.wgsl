// Add the parts of a product whose depth was divided among workgroups: out += parts[0] + parts[1] + ..., in this order.
//   dw (numbers)   parts (parts x numbers)
#import grid
struct Dims { numbers: u32, parts: u32 }

@group(0) @binding(0) var<uniform>             dims:  Dims;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> dw:    array<f32>;

// Four numbers an invocation, neighbours in different invocations.
@compute @workgroup_size(64)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) local: u32) {
    let first = linear_group(group, groups) * 256u + local;
    let last = dims.numbers - 1u;
    let at = min(vec4<u32>(first, first + 64u, first + 128u, first + 192u), vec4<u32>(last));
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < dims.parts; i++) {
        let place = at + vec4<u32>(i * dims.numbers);
        sum += vec4<f32>(parts[place.x], parts[place.y], parts[place.z], parts[place.w]);
    }
    if first < dims.numbers {
        dw[at.x] += sum.x;
    }
    if first + 64u < dims.numbers {
        dw[at.y] += sum.y;
    }
    if first + 128u < dims.numbers {
        dw[at.z] += sum.z;
    }
    if first + 192u < dims.numbers {
        dw[at.w] += sum.w;
    }
}
