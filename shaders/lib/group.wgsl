// Sums and maxima over all WG invocations of a workgroup (a power of two), in one fixed order. All invocations must call.
override WG: u32 = 256u;
var<workgroup> group_slots: array<vec4<f32>, WG>;

fn group_sum(value: vec4<f32>, local: u32) -> vec4<f32> {
    group_slots[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            group_slots[local] = group_slots[local] + group_slots[local + step];
        }
        workgroupBarrier();
    }
    let total = group_slots[0];
    workgroupBarrier();
    return total;
}

fn group_max(value: f32, local: u32) -> f32 {
    group_slots[local].x = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            group_slots[local].x = max(group_slots[local].x, group_slots[local + step].x);
        }
        workgroupBarrier();
    }
    let most = group_slots[0].x;
    workgroupBarrier();
    return most;
}
