// Draw the next token of each row: temperature, then top-k, top-p, min-p (the order of Hugging Face), then one draw; and move on.
//   logits (B, stride)   tokens (B): what was fed, becomes what is fed next   positions (B): its index, grows by one
//   prompt (B, 1 + room): how many tokens must be fed first, then those   output (B, room): every token of the row, by index
//   settings: temperature, top_k, top_p, min_p, key0, key1 as bit patterns where whole numbers are meant
// A workgroup owns a row. Thresholds are found by bisection over the order-preserving integer image of f32, so ties stay together.
#import rng
override WG: u32 = 256u;
struct Dims { vocab: u32, stride: u32, room: u32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       logits:    array<f32>;
@group(0) @binding(2) var<storage, read>       settings:  array<u32>;
@group(0) @binding(3) var<storage, read>       prompt:    array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens:    array<u32>;
@group(0) @binding(5) var<storage, read_write> positions: array<u32>;
@group(0) @binding(6) var<storage, read_write> output:    array<u32>;

const LOWEST = -1e30;
var<workgroup> slots: array<f32, WG>;
var<workgroup> chosen: atomic<u32>;

fn group_sum(value: f32, local: u32) -> f32 {
    slots[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            slots[local] = slots[local] + slots[local + step];
        }
        workgroupBarrier();
    }
    let total = slots[0];
    workgroupBarrier();
    return total;
}

fn group_max(value: f32, local: u32) -> f32 {
    slots[local] = value;
    workgroupBarrier();
    for (var step = WG / 2u; step > 0u; step = step / 2u) {
        if local < step {
            slots[local] = max(slots[local], slots[local + step]);
        }
        workgroupBarrier();
    }
    let most = slots[0];
    workgroupBarrier();
    return most;
}

// The f32 whose place among all f32 in ascending order is `rank`.
fn at_rank(rank: u32) -> f32 {
    return bitcast<f32>(select(~rank, rank ^ 0x80000000u, rank >= 0x80000000u));
}

fn rank_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

@compute @workgroup_size(WG)
// Length: one row from logits to token; the steps share a dozen values, and barriers may stand in no helper's branch.
fn draw(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x;
    let start = row * dims.stride;
    let temperature = bitcast<f32>(settings[0]);
    let top_k = settings[1];
    let top_p = bitcast<f32>(settings[2]);
    let min_p = bitcast<f32>(settings[3]);
    let greedy = temperature <= 0.0;
    let scale = 1.0 / max(temperature, 1e-6);
    // A block of neighbouring columns each, so that the draw can walk them in order.
    let block = (dims.vocab + WG - 1u) / WG;
    let first = min(local * block, dims.vocab);
    let last = min(first + block, dims.vocab);

    var highest = LOWEST;
    for (var c = first; c < last; c++) {
        highest = max(highest, logits[start + c]);
    }
    let top = group_max(highest, local);
    var threshold = select(LOWEST, top, greedy);

    if top_k > 0u && top_k < dims.vocab && !greedy {
        var low = rank_of(threshold);
        var high = rank_of(top);
        for (var round = 0u; round < 32u; round++) {
            let middle = low + (high - low + 1u) / 2u;
            let bar = at_rank(middle);
            var count = 0.0;
            for (var c = first; c < last; c++) {
                count += select(0.0, 1.0, logits[start + c] >= bar);
            }
            if group_sum(count, local) >= f32(top_k) {
                low = middle;
            } else {
                high = select(middle - 1u, low, middle == low);
            }
        }
        threshold = at_rank(low);
    }
    if top_p < 1.0 && !greedy {
        var all = 0.0;
        for (var c = first; c < last; c++) {
            let l = logits[start + c];
            all += select(0.0, exp(max((l - top) * scale, -87.0)), l >= threshold);
        }
        let wanted = top_p * group_sum(all, local);
        var low = rank_of(threshold);
        var high = rank_of(top);
        for (var round = 0u; round < 32u; round++) {
            let middle = low + (high - low + 1u) / 2u;
            let bar = at_rank(middle);
            var mass = 0.0;
            for (var c = first; c < last; c++) {
                let l = logits[start + c];
                mass += select(0.0, exp(max((l - top) * scale, -87.0)), l >= bar);
            }
            if group_sum(mass, local) >= wanted {
                low = middle;
            } else {
                high = select(middle - 1u, low, middle == low);
            }
        }
        threshold = max(threshold, at_rank(low));
    }
    if min_p > 0.0 && !greedy {
        threshold = max(threshold, min(top, top + log(max(min_p, 1e-30)) / scale));
    }

    var mass = 0.0;
    for (var c = first; c < last; c++) {
        let l = logits[start + c];
        mass += select(0.0, exp(max((l - top) * scale, -87.0)), l >= threshold);
    }
    slots[local] = mass;
    if local == 0u {
        atomicStore(&chosen, dims.vocab);
    }
    workgroupBarrier();
    var before = 0.0;
    var total = 0.0;
    for (var i = 0u; i < WG; i++) {
        before = select(before, total, i == local);
        total += slots[i];
    }
    let position = positions[row];
    let words = philox(vec4<u32>(row, 0u, position, 0u), vec2<u32>(settings[4], settings[5]));
    // Greedy: the first of the highest. Otherwise the column in whose share of the mass the draw falls.
    let goal = select(unit(words.x) * total, 0.0, greedy);
    var walked = before;
    for (var c = first; c < last; c++) {
        let l = logits[start + c];
        if l >= threshold {
            walked += exp(max((l - top) * scale, -87.0));
            if walked > goal {
                // The lowest such column is the one; integer minimum does not depend on order.
                atomicMin(&chosen, c);
            }
        }
    }
    workgroupBarrier();
    if local == 0u {
        var next = min(atomicLoad(&chosen), dims.vocab - 1u);
        let after = position + 1u;
        if after < dims.room {
            let given = row * (dims.room + 1u);
            next = select(next, prompt[given + 1u + after], after < prompt[given]);
            output[row * dims.room + after] = next;
            positions[row] = after;
        }
        tokens[row] = next;
    }
}
