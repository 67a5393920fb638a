// 1 / (1 + exp(-x)), with exp of negative numbers only.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(max(-abs(x), vec4<f32>(-87.0)));
    return select(e, vec4<f32>(1.0), x >= vec4<f32>(0.0)) / (vec4<f32>(1.0) + e);
}
