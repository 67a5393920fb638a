// Philox4x32-10, counter-based: the same function as crates/compute/src/rng.rs, bit for bit.
fn mul_wide(a: u32, b: u32) -> vec2<u32> { // (low, high) words of a * b
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p00 = a0 * b0;
    let p01 = a0 * b1;
    let p10 = a1 * b0;
    let middle = (p00 >> 16u) + (p01 & 0xffffu) + (p10 & 0xffffu);
    return vec2<u32>(a * b, a1 * b1 + (p01 >> 16u) + (p10 >> 16u) + (middle >> 16u));
}

fn philox(start: vec4<u32>, key_start: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var key = key_start;
    for (var round = 0u; round < 10u; round++) {
        let low = mul_wide(counter.x, 0xD2511F53u);
        let high = mul_wide(counter.z, 0xCD9E8D57u);
        counter = vec4<u32>(high.y ^ counter.y ^ key.x, high.x, low.y ^ counter.w ^ key.y, low.x);
        key = key + vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

// The word's top 24 bits as a number in [0, 1).
fn unit(word: u32) -> f32 {
    return f32(word >> 8u) * (1.0 / 16777216.0);
}
