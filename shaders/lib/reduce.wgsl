// Sums and maxima over LANES neighbouring invocations of a workgroup (LANES a power of two, dividing WG).
// With LANES = 1 every invocation works alone and no barrier runs, for software adapters. All invocations must call.
override WG: u32 = 64u;
override LANES: u32 = 1u;
var<workgroup> reduce_slots: array<f32, WG>;

fn row_sum(value: f32, local: u32) -> f32 {
    if LANES == 1u {
        return value;
    }
    reduce_slots[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if local % LANES < step {
            reduce_slots[local] = reduce_slots[local] + reduce_slots[local + step];
        }
        workgroupBarrier();
    }
    let total = reduce_slots[local - local % LANES];
    workgroupBarrier();
    return total;
}

// As row_sum, of invocations WG / LANES apart: neighbours have neighbouring columns, so that they read whole cache lines of a row.
fn column_sum(value: f32, local: u32) -> f32 {
    if LANES == 1u {
        return value;
    }
    reduce_slots[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if local < step * (WG / LANES) {
            reduce_slots[local] = reduce_slots[local] + reduce_slots[local + step * (WG / LANES)];
        }
        workgroupBarrier();
    }
    let total = reduce_slots[local % (WG / LANES)];
    workgroupBarrier();
    return total;
}

fn row_max(value: f32, local: u32) -> f32 {
    if LANES == 1u {
        return value;
    }
    reduce_slots[local] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if local % LANES < step {
            reduce_slots[local] = max(reduce_slots[local], reduce_slots[local + step]);
        }
        workgroupBarrier();
    }
    let most = reduce_slots[local - local % LANES];
    workgroupBarrier();
    return most;
}
