// Sample the next token of each row: temperature, then top-k, top-p, min-p (the order of Hugging Face), then one random number; then
// advance.
// A row processes one request until it ends, then `refill` assigns the next.
//   logits (B, stride)   tokens (B): what was fed, becomes what is fed next   positions (B): its index, grows by one
//   assigned (B, 3): the request that the row works at, IDLE for none; where its prefix lies in the cache, and the tokens of that
//   prompt (N, 6 + room): how many tokens are given, how many may be drawn, the two words of the draws' key, where the prefix that is
//     in the cache already lies, and its length (less than what is given); then the tokens
//   drawn (N, 2, room): every token of the request that the row fed or drew, by index; then the log-probabilities of those drawn
//   settings: temperature, top_k, top_p, min_p, key0, key1, stops as bit patterns where whole numbers are meant, then the stops
//   lengths (N): tokens of an ended request   progress: next request, ended requests, requests
// One workgroup per row. Thresholds are found by a search over the order-preserving integer image of f32, so ties stay together.
#import group
#import rng
struct Dims { vocab: u32, stride: u32, max_len: u32, batch: u32, count: u32 }

@group(0) @binding(0) var<uniform>             dims:      Dims;
@group(0) @binding(1) var<storage, read>       logits:    array<f32>;
@group(0) @binding(2) var<storage, read>       settings:  array<u32>;
@group(0) @binding(3) var<storage, read>       prompt:    array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens:    array<u32>;
@group(0) @binding(5) var<storage, read_write> positions: array<u32>;
@group(0) @binding(6) var<storage, read_write> assigned:  array<u32>;
@group(0) @binding(7) var<storage, read_write> drawn:     array<u32>;
@group(0) @binding(8) var<storage, read_write> lengths:   array<u32>;
@group(0) @binding(9) var<storage, read_write> progress:  array<u32>;

const LOWEST = -1e30;
const IDLE = 0xffffffffu;
const HEAD = 6u;
const ROUNDS = 16u;
var<workgroup> chosen: atomic<u32>;
var<workgroup> last_kept: atomic<u32>;
var<workgroup> counts: array<u32, WG>;
var<workgroup> queue: vec2<u32>;

// The f32 whose place among all f32 in ascending order is `rank`.
fn at_rank(rank: u32) -> f32 {
    return bitcast<f32>(select(~rank, rank ^ 0x80000000u, rank >= 0x80000000u));
}

fn rank_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// A search among ranks low ..= high for the highest at which enough lies at or above: three bars cut the range into quarters, so that
// 16 rounds find any of 2^32.
fn bars(low: u32, high: u32) -> vec3<u32> {
    let quarter = (high - low) / 4u + 1u;
    let span = vec3<u32>(high - low);
    return vec3<u32>(low) + min(span, vec3<u32>(quarter, 2u * quarter, 3u * quarter));
}

// The quarter of low ..= high that is left when `enough` says at which of the bars `at` enough lies.
fn narrowed(low: u32, high: u32, at: vec3<u32>, enough: vec3<bool>) -> vec2<u32> {
    if enough.z {
        return vec2<u32>(at.z, high);
    }
    if enough.y {
        return vec2<u32>(at.y, max(at.y, at.z - 1u));
    }
    if enough.x {
        return vec2<u32>(at.x, max(at.x, at.y - 1u));
    }
    return vec2<u32>(low, max(low, at.x - 1u));
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
        var range = vec2<u32>(rank_of(threshold), rank_of(top));
        for (var round = 0u; round < ROUNDS; round++) {
            let at = bars(range.x, range.y);
            let bar = vec3<f32>(at_rank(at.x), at_rank(at.y), at_rank(at.z));
            var count = vec3<f32>(0.0);
            for (var c = first; c < last; c++) {
                count += select(vec3<f32>(0.0), vec3<f32>(1.0), vec3<f32>(logits[start + c]) >= bar);
            }
            range = narrowed(range.x, range.y, at, group_sum(vec4<f32>(count, 0.0), local).xyz >= vec3<f32>(f32(top_k)));
        }
        threshold = at_rank(range.x);
    }
    if top_p < 1.0 && !greedy {
        var all = 0.0;
        for (var c = first; c < last; c++) {
            let l = logits[start + c];
            all += select(0.0, exp(max((l - top) * scale, -87.0)), l >= threshold);
        }
        let wanted = top_p * group_sum(vec4<f32>(all), local).x;
        var range = vec2<u32>(rank_of(threshold), rank_of(top));
        for (var round = 0u; round < ROUNDS; round++) {
            let at = bars(range.x, range.y);
            let bar = vec3<f32>(at_rank(at.x), at_rank(at.y), at_rank(at.z));
            var mass = vec3<f32>(0.0);
            for (var c = first; c < last; c++) {
                let l = logits[start + c];
                mass += select(vec3<f32>(0.0), vec3<f32>(exp(max((l - top) * scale, -87.0))), vec3<f32>(l) >= bar);
            }
            range = narrowed(range.x, range.y, at, group_sum(vec4<f32>(mass, 0.0), local).xyz >= vec3<f32>(wanted));
        }
        threshold = max(threshold, at_rank(range.x));
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
    var whole = mass;
    if threshold > LOWEST {
        whole = 0.0;
        for (var c = first; c < last; c++) {
            whole += exp(max((logits[start + c] - top) * soft, -87.0));
        }
    }
    let log_whole = log(max(group_sum(vec4<f32>(whole), local).x, 1e-30));
    group_slots[local].x = mass;
    if local == 0u {
        atomicStore(&chosen, dims.vocab);
        atomicStore(&last_kept, 0u);
    }
    workgroupBarrier();
    var before = 0.0;
    var total = 0.0;
    for (var i = 0u; i < WG; i++) {
        before = select(before, total, i == local);
        total += group_slots[i].x;
    }
    let position = positions[row];
    let request = assigned[3u * row];
    let safe_request = min(request, dims.count - 1u);
    let given = safe_request * (dims.max_len + HEAD);
    let words = philox(vec4<u32>(prompt[given + 2u], prompt[given + 3u], position, 0u), vec2<u32>(settings[4], settings[5]));
    // Greedy: the first of the highest. Otherwise the column in whose share of the mass the draw falls.
    let goal = select(unit(words.x) * total, 0.0, greedy);
    var walked = before;
    var kept = 0u;
    for (var c = first; c < last; c++) {
        let l = logits[start + c];
        if l >= threshold {
            kept = c;
            walked += exp(max((l - top) * scale, -87.0));
            if walked > goal {
                // The lowest such column is the one; an integer minimum does not depend on order.
                atomicMin(&chosen, c);
            }
        }
    }
    // Rounding may leave the sum below a draw that is nearly 1: then it is the last that is not filtered out.
    atomicMax(&last_kept, kept);
    workgroupBarrier();
    if local == 0u && request != IDLE {
        let found = atomicLoad(&chosen);
        let column = min(select(found, atomicLoad(&last_kept), found == dims.vocab), dims.vocab - 1u);
        var next = column;
        let after = position + 1u;
        if after < dims.max_len {
            let is_given = after < prompt[given];
            let at = safe_request * 2u * dims.max_len + after;
            let logp = select((logits[start + column] - top) * soft - log_whole, 0.0, is_given);
            next = select(next, prompt[given + HEAD + after], is_given);
            drawn[at] = next;
            drawn[at + dims.max_len] = bitcast<u32>(logp);
            positions[row] = after;
        }
        tokens[row] = next;
    }
}

// Length of the row's request if the row's token ends it (a stop token, its limit, or max length), else 0.
fn ended_length(row: u32) -> u32 {
    let request = assigned[3u * row];
    let head = min(request, dims.count - 1u) * (dims.max_len + HEAD);
    let length = positions[row] + 1u;
    let token = tokens[row];
    var ended = length >= prompt[head] + prompt[head + 1u] || length >= dims.max_len;
    for (var i = 0u; i < settings[6]; i++) {
        ended = ended || token == settings[7u + i];
    }
    return select(0u, length, ended && length > prompt[head] && request < dims.count);
}

// Assigns the next requests to rows whose request has ended. One workgroup, in row order, so that the assignment is deterministic.
@compute @workgroup_size(WG)
fn refill(@builtin(local_invocation_index) local: u32) {
    // A block of neighbouring rows each.
    let block = (dims.batch + WG - 1u) / WG;
    let first = min(local * block, dims.batch);
    let last = min(first + block, dims.batch);
    var count = 0u;
    for (var row = first; row < last; row++) {
        count += select(0u, 1u, ended_length(row) > 0u);
    }
    counts[local] = count;
    if local == 0u {
        queue = vec2<u32>(progress[0], progress[1]);
    }
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var i = 0u; i < WG; i++) {
        before = select(before, all, i == local);
        all += counts[i];
    }
    let requests = min(progress[2], dims.count);
    var next = queue.x + before;
    for (var row = first; row < last; row++) {
        let length = ended_length(row);
        let request = assigned[3u * row];
        if length > 0u && request < dims.count {
            lengths[request] = length;
            let waits = next < requests;
            let given = min(next, dims.count - 1u) * (dims.max_len + HEAD);
            let fed = select(0u, prompt[given + 5u], waits);
            assigned[3u * row] = select(IDLE, next, waits);
            assigned[3u * row + 1u] = select(0u, prompt[given + 4u], waits);
            assigned[3u * row + 2u] = fed;
            positions[row] = fed;
            tokens[row] = select(0u, prompt[given + HEAD + min(fed, dims.max_len - 1u)], waits);
            next += 1u;
        }
    }
    if local == 0u {
        progress[0] = min(queue.x + all, requests);
        progress[1] = queue.y + all;
    }
}
