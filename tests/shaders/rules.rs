//! A check that cannot fail is a defect: every rule is fed a text that breaks it and a neighbour that does not.

use crate::lint::{Finding, Rule, lint};
use crate::texts::override_sets;

const HEAD: &str = "
override WG: u32 = 64u;
override LANES: u32 = 1u;
struct Dims { n: u32, cols4: u32, heads: u32, kv_heads: u32, unlisted: u32, eps: f32 }
@group(0) @binding(0) var<uniform> dims: Dims;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;
@group(0) @binding(2) var<storage, read> bits: array<u32>;
var<workgroup> slots: array<f32, WG>;
";

/// A rule, a body that breaks it, a body that does not. Both stand where `i` is a guarded index and `v = x[i]`.
const BODIES: &[(Rule, &str, &str)] = &[
    (Rule::SelfComparison, "if v != v { x[i] = 0.0; }", "if v != 1.0 { x[i] = 0.0; }"),
    (Rule::SelfComparison, "if x[i] == x[i] { x[i] = 0.0; }", "if x[i] == x[0] { x[i] = 0.0; }"),
    (Rule::SelfComparison, "var w = v; if !(w == w) { x[i] = 0.0; }", "let k = i; if k == k { x[i] = 0.0; }"),
    (Rule::SelfComparison, "if any(vec2(v) != vec2(v)) { x[i] = 0.0; }", "if any(vec2(v) != vec2(0.0)) { x[i] = 0.0; }"),
    (Rule::Imprecise, "x[i] = tanh(v);", "x[i] = abs(v);"),
    (Rule::Imprecise, "x[i] = pow(v, 2.0);", "x[i] = v * v;"),
    (Rule::Imprecise, "x[i] = sin(v) + cos(v);", "let sin = v; x[i] = sin;"),
    (Rule::UnboundedExp, "x[i] = exp(v);", "x[i] = exp(clamp(v, -87.0, 87.0));"),
    (Rule::UnboundedExp, "x[i] = exp(max(v, -87.0));", "x[i] = exp(max(-abs(v), -87.0));"),
    (Rule::UnboundedExp, "x[i] = exp(-v * v);", "x[i] = exp(max(-(v * v), -87.0));"),
    (Rule::UnboundedExp, "x[i] = exp2(v);", "x[i] = exp2(clamp(v, -80.0, 0.0));"),
    (Rule::UnboundedLog, "x[i] = log(v);", "x[i] = log(max(v, 1e-30));"),
    (Rule::BareInverseSqrt, "x[i] = inverseSqrt(v * v);", "x[i] = inverseSqrt(v * v + dims.eps);"),
    (Rule::HugeConstant, "x[i] = max(v, -3e38);", "x[i] = max(v, -1e30);"),
    (Rule::HugeConstant, "x[i] = bitcast<f32>(0x7f800000u);", "x[i] = bitcast<f32>(bits[i]);"),
    (Rule::FloatBits, "if (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u { x[i] = 0.0; }", "if bits[i] == 1u { x[i] = 0.0; }"),
    (Rule::UnboundedToInt, "x[u32(v) % 2u] = 0.0;", "x[u32(clamp(v, 0.0, 1.0)) % 2u] = 0.0;"),
    (Rule::Switch, "switch i { case 0u: { x[i] = 0.0; } default: {} }", "if i == 0u { x[i] = 0.0; }"),
    (Rule::BareLoop, "loop { if v > 0.0 { break; } }", "for (var k = 0u; k < 4u; k++) { x[i] += 1.0; } // loop {"),
    (
        Rule::BareLoop,
        "var k = 0u; while k < 4u { if v > 0.0 { k += 1u; } }",
        "var k = 0u; while k < 4u { x[i] += 1.0; k += 1u; }",
    ),
    (Rule::BareLoop, "var k = 0u; while k < 4u { if v > 0.0 { continue; } k += 1u; }", "if v > 0.0 { x[i] = 1.0; }"),
    (Rule::BareLoop, "var k = 0u; while k < 4u { k += 1u; k = 0u; }", "for (var k = 4u; k > 0u; k = k / 2u) { x[i] += 1.0; }"),
    (
        Rule::BareLoop,
        "for (var k = 0u; k < 4u; k++) { k = 0u; }",
        "for (var k = i; k < dims.n && v > 0.0; k += WG) { x[i] += 1.0; }",
    ),
    (
        Rule::BareLoop,
        "for (var k = 0u; ; k++) { if x[i] > 1.0 { break; } }",
        "for (var k = 0; k < 4; k++) { if x[i] > 1.0 { break; } }",
    ),
    (
        Rule::BareLoop,
        "var w = 1u; for (var k = 0u; w < 4u; k++) { w += bits[i]; }",
        "for (var k = 0u; k < bits[i]; k++) { x[i] += 1.0; }",
    ),
    (Rule::ReturnInLoop, "for (var k = 0u; k < 4u; k++) { if v > 0.0 { return; } }", "if v > 0.0 { return; }"),
    (Rule::ArrayLength, "x[i] = f32(arrayLength(&x));", "x[i] = f32(dims.n);"),
    (Rule::Divisor, "x[i] = f32(i / bits[i]);", "x[i] = f32(i / max(bits[i], 1u));"),
    (Rule::Divisor, "x[i] = f32(i % dims.unlisted);", "x[i] = f32(i % (4u * dims.cols4));"),
    (Rule::Divisor, "x[i] = f32(i / (WG - LANES));", "x[i] = f32(i / (WG / LANES));"),
    (Rule::Divisor, "x[i] = f32(i / (dims.kv_heads / dims.heads));", "x[i] = f32(i / (dims.heads / dims.kv_heads));"),
    (Rule::Divisor, "x[i] = f32(i / (dims.cols4 / 2u));", "x[i] = f32(i / (dims.heads / 2u));"),
    (Rule::UnguardedStore, "x[bits[i] + 7u] = 0.0;", "x[min(bits[i] + 7u, dims.n - 1u)] = 0.0;"),
    (Rule::UnguardedLoad, "x[i] = x[bits[i]];", "let at = bits[i]; if at < dims.n { x[i] = x[at]; }"),
];

/// Whole texts, for rules that no body inside a guard shows.
const TEXTS: &[(Rule, &str, &str)] = &[
    (Rule::Invalid, "fn f() -> u32 { return 1.5; }", "fn f() -> u32 { return 1u; }"),
    (Rule::Invalid, "var<workgroup> sum: atomic<f32>;", "var<workgroup> sum: atomic<u32>;"),
    (Rule::Invalid, "enable f16; var<private> h: f16;", "var<private> h: f32;"),
    (
        Rule::Atomic,
        "var<workgroup> sum: atomic<u32>; @compute @workgroup_size(8) fn main() { atomicAdd(&sum, 1u); }",
        "var<workgroup> sum: u32; @compute @workgroup_size(8) fn main() { sum = 1u; }",
    ),
    (
        Rule::ReturnBeforeBarrier,
        "@compute @workgroup_size(8) fn main(@builtin(local_invocation_index) i: u32) { if dims.n > 4u { if dims.n > 9u { return; } }
         helper(i); } fn helper(i: u32) { if i < dims.n { return; } workgroupBarrier(); }",
        "@compute @workgroup_size(8) fn main(@builtin(workgroup_id) g: vec3<u32>) { if g.x >= dims.n { return; }
         if LANES == 1u { return; } workgroupBarrier(); }",
    ),
    (
        Rule::WorkgroupMemory,
        "var<workgroup> big: array<vec4<f32>, WG * 17u>; @compute @workgroup_size(8) fn main() { big[0].x = 1.0; }",
        "var<workgroup> big: array<vec4<f32>, WG * 16u>; @compute @workgroup_size(8) fn main() { big[0].x = 1.0; }",
    ),
    (
        Rule::WorkgroupSize,
        "@compute @workgroup_size(WG, 8) fn main() { x[0] = 1.0; }",
        "@compute @workgroup_size(WG, 4) fn main() { x[0] = 1.0; }",
    ),
    (
        Rule::WorkgroupSize,
        "@compute @workgroup_size(1, 1, 128) fn main() { x[0] = 1.0; }",
        "@compute @workgroup_size(1, 1, 64) fn main() { x[0] = 1.0; }",
    ),
    (
        Rule::StorageBuffers,
        "@group(0) @binding(3) var<storage> a: array<u32>; @group(0) @binding(4) var<storage> b: array<u32>;
         @group(0) @binding(5) var<storage> c: array<u32>; @group(0) @binding(6) var<storage> d: array<u32>;
         @group(0) @binding(7) var<storage> e: array<u32>; @group(0) @binding(8) var<storage> f: array<u32>;
         @compute @workgroup_size(8) fn main() { x[0] = f32(a[0] + b[0] + c[0] + d[0] + e[0] + f[0] + bits[0]); }",
        "@group(0) @binding(3) var<storage> a: array<u32>; @compute @workgroup_size(8) fn main() { x[0] = f32(a[0]); }",
    ),
    (
        Rule::Vec3,
        "@group(0) @binding(3) var<storage> p: array<vec3<f32>>;",
        "@compute @workgroup_size(8) fn main(@builtin(workgroup_id) g: vec3<u32>) { x[0] = f32(g.x); }",
    ),
    (Rule::Vec3, "struct Place { at: vec3<f32> } @group(0) @binding(3) var<uniform> p: Place;", "struct Place { at: vec4<f32> }"),
    (
        Rule::UnguardedStore,
        "@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { x[id.x] = 1.0; }",
        "@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x >= dims.n { return; } x[id.x] = 1.0; }",
    ),
    (
        Rule::UnguardedStore, // a guard on something else is none
        "@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
         if i < dims.n { x[id.x] = 1.0; } }",
        "fn put(at: u32) { x[at] = 1.0; }
         @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < dims.n && id.y == 0u { put(id.x); } }",
    ),
    (
        Rule::UnguardedStore, // nor is a guard around another call
        "fn put(at: u32) { x[at] = 1.0; }
         @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < dims.n { put(id.x); } put(id.y); }",
        "fn put(at: u32) { if at < dims.n { x[at] = 1.0; } }
         @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3<u32>) { put(id.y); }",
    ),
];

fn found(text: &str) -> Vec<Finding> {
    let sets = naga::front::wgsl::parse_str(text).ok().map_or(Vec::new(), |m| override_sets(&m).expect("listed overrides"));
    lint(text, &sets)
}

fn body(inner: &str) -> String {
    format!(
        "{HEAD}
@compute @workgroup_size(WG) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
    let i = id.x;
    if i < dims.n {{
        let v = x[i];
        {inner}
    }}
}}"
    )
}

#[test]
fn every_rule_finds_its_violations_only() {
    let cases = BODIES
        .iter()
        .map(|(rule, bad, good)| (rule, body(bad), body(good)))
        .chain(TEXTS.iter().map(|(rule, bad, good)| (rule, format!("{HEAD}{bad}"), format!("{HEAD}{good}"))));
    let mut wrong = Vec::new();
    let mut proved = Vec::new();
    for (rule, bad, good) in cases {
        let rules: Vec<Rule> = found(&bad).iter().map(|f| f.rule).collect();
        if !rules.contains(rule) {
            wrong.push(format!("{rule:?} not found (but {rules:?}) in{bad}"));
        }
        let findings = found(&good);
        if !findings.is_empty() {
            wrong.push(format!("{findings:?} in the good case of {rule:?}:{good}"));
        }
        proved.push(*rule);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    for rule in Rule::ALL {
        assert!(proved.contains(rule), "{rule:?} has no case");
    }
}
