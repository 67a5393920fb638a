// IEEE half precision: two numbers a word, the first in the lower half.
fn unpack_f16(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Beyond the largest number the largest: what a conversion gives there is not defined.
fn pack_f16(v: vec4<f32>) -> vec2<u32> {
    let most = vec4<f32>(65504.0);
    let clamped = clamp(v, -most, most);
    return vec2<u32>(pack2x16float(clamped.xy), pack2x16float(clamped.zw));
}
