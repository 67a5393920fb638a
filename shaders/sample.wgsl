// Draw the next token of each row: temperature, then top-k, top-p, min-p (the order of Hugging Face), then one draw; and move on.
// A row works at a request until that has ended, then `refill` gives it the next.
//   logits (B, stride)   tokens (B): what was fed, becomes what is fed next   positions (B): its index, grows by one
//   requests (B): which request the row works at; IDLE for none
//   prompt (N, 4 + room): how many tokens must be fed first, how many may be drawn, the two words of the draws' key, then the tokens
//   output (N, room): every token of the request, by index   logp (N, room): log-probability of each that was drawn
//   settings: temperature, top_k, top_p, min_p, key0, key1, stops as bit patterns where whole numbers are meant, then the stops
//   lengths (N): tokens of an ended request   progress: next request, ended requests
// A workgroup owns a row. Thresholds are found by bisection over the order-preserving integer image of f32, so ties stay together.
#import rng
override WG: u32 = 256u;
struct Dims { vocab: u32, stride: u32, room: u32, batch: u32, count: u32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       logits:    array<f32>;
@group(0) @binding(2) var<storage, read>       settings:  array<u32>;
@group(0) @binding(3) var<storage, read>       prompt:    array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens:    array<u32>;
@group(0) @binding(5) var<storage, read_write> positions: array<u32>;
@group(0) @binding(6) var<storage, read_write> output:    array<u32>;
@group(0) @binding(7) var<storage, read_write> logp:      array<f32>;
@group(0) @binding(8) var<storage, read_write> requests:  array<u32>;
@group(0) @binding(9) var<storage, read_write> lengths:   array<u32>;
@group(0) @binding(10) var<storage, read_write> progress: array<u32>;

const LOWEST = -1e30;
const IDLE = 0xffffffffu;
const HEAD = 4u;
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
    // The log-probability is that of the whole distribution, whatever the filters; a greedy row's is that at temperature 1.
    let soft = select(scale, 1.0, greedy);
    var whole = 0.0;
    for (var c = first; c < last; c++) {
        whole += exp(max((logits[start + c] - top) * soft, -87.0));
    }
    let log_whole = log(group_sum(whole, local));
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
    let request = requests[row];
    let safe_request = min(request, dims.count - 1u);
    let given = safe_request * (dims.room + HEAD);
    let words = philox(vec4<u32>(prompt[given + 2u], prompt[given + 3u], position, 0u), vec2<u32>(settings[4], settings[5]));
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
    if local == 0u && request != IDLE {
        var next = min(atomicLoad(&chosen), dims.vocab - 1u);
        let after = position + 1u;
        if after < dims.room {
            let is_given = after < prompt[given];
            let at = safe_request * dims.room + after;
            logp[at] = select((logits[start + next] - top) * soft - log_whole, 0.0, is_given);
            next = select(next, prompt[given + HEAD + after], is_given);
            output[at] = next;
            positions[row] = after;
        }
        tokens[row] = next;
    }
}

// Rows whose request has ended (a stop, its limit, no more room) take the next one. One invocation walks the rows, so that which row gets
// which request is always the same.
@compute @workgroup_size(1)
fn refill(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x > 0u {
        return;
    }
    var next = progress[0];
    var ended = progress[1];
    for (var row = 0u; row < dims.batch; row++) {
        let request = requests[row];
        if request >= dims.count {
            continue;
        }
        let position = positions[row];
        let given = prompt[request * (dims.room + HEAD)];
        let limit = prompt[request * (dims.room + HEAD) + 1u];
        let token = tokens[row];
        var stopped = false;
        for (var i = 0u; i < settings[6]; i++) {
            stopped = stopped || token == settings[7u + i];
        }
        let drawn = position + 1u >= given + 1u;
        let full = position + 1u >= given + limit || position + 1u >= dims.room;
        if drawn && (stopped || full) {
            lengths[request] = position + 1u;
            ended += 1u;
            let taken = select(IDLE, next, next < dims.count);
            requests[row] = taken;
            positions[row] = 0u;
            tokens[row] = select(0u, prompt[min(next, dims.count - 1u) * (dims.room + HEAD) + HEAD], taken != IDLE);
            next = min(next + 1u, dims.count);
        }
    }
    progress[0] = next;
    progress[1] = ended;
}
