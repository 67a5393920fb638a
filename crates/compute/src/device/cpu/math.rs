//! Vector functions on f32 shared by all kernels: exp, sigmoid, partial loads and stores, sums in fixed trees.
//!
//! All of them are `#[inline(always)]`, so that they are compiled with the instruction set of the calling `simd!`.

use fearless_simd::prelude::*;

/// Lanes of the widest supported vector.
pub const WIDEST: usize = 16;
/// Number of terms per f32 sum, before f64 is used: keeps long sums accurate.
pub const BLOCK: usize = 4096;

/// Rounds to a whole number when added, and leaves that number plus the exponent's bias in the low bits of the sum.
const MAGIC: f32 = 12_582_912.0 + 127.0;
// ln 2 in two parts; products of the first with a whole number below 2^15 are exact, with or without fused multiply-add.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Here the exponent's bits are 0, and so is e^x: the lower bound for [`exp_inside`].
pub const EXP_LOWEST: f32 = -88.02;
/// Just below the number at which the exponent's bits overflow.
const EXP_HIGHEST: f32 = 88.376;

/// e^x for x in [[`EXP_LOWEST`], 88.376] or NaN: what [`exp`] and [`exp_neg`] do behind their clamps.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r = 1 + r + r^2 p(r) with p of degree 4, minimax in the relative error (0.05 of 2^-24).
#[inline(always)]
pub fn exp_inside<S: Simd>(_: S, x: S::f32s) -> S::f32s {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    scaled_exp::<S, false>(n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x)), shifted)
}

/// 2^n e^r, or with `MINUS` 2^n e^-r; `shifted` holds n as [`MAGIC`] leaves it.
#[inline(always)]
fn scaled_exp<S: Simd, const MINUS: bool>(r: S::f32s, shifted: S::f32s) -> S::f32s {
    // p's terms in pairs rather than one by one: the chain is shorter.
    let odd = if MINUS { -1.0 } else { 1.0 };
    let square = r * r;
    let low = r.mul_add(odd * 0.166_665_21, 0.499_999_94);
    let high = square.mul_add(0.001_382_041_1, r.mul_add(odd * 0.008_368_677, 0.041_668_27));
    let p = square.mul_add(high, low);
    let above_one = if MINUS { square.mul_sub(p, r) } else { square.mul_add(p, r) };
    let bits: S::u32s = shifted.bitcast();
    let scale: S::f32s = (bits << 23).bitcast();
    above_one.mul_add(scale, scale)
}

/// e^x. At most 1.1 ulp of error for x in [-87.33, 88.37]; 0 below -87.68, e^88.376 above, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    exp_inside(simd, x.clamp(EXP_LOWEST, EXP_HIGHEST))
}

/// e^x for x <= 0: as [`exp`], without the upper clamp.
#[inline(always)]
pub fn exp_neg<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // In this order a NaN is preserved, also on x86.
    exp_inside(simd, S::f32s::splat(simd, EXP_LOWEST).max(x))
}

/// 1 / (1 + e^-x); NaN for NaN. At most 2.5 ulp of error for x >= -87, where it is clamped (1.6e-38).
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // e^-x with the sign in the constants. Above, it ends where 1 + e^-x is 1 anyway.
    let x = x.clamp(-87.0, 87.0);
    let shifted = x.mul_add(-std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let e = scaled_exp::<S, true>(n.mul_add(LN_2_LOW, n.mul_add(LN_2_HIGH, x)), shifted);
    S::f32s::splat(simd, 1.0) / (e + 1.0)
}

/// Load at most one vector of numbers, padded with `pad`.
#[inline(always)]
pub fn load_part<S: Simd>(simd: S, from: &[f32], pad: f32) -> S::f32s {
    let mut all = [pad; WIDEST];
    all[..from.len()].copy_from_slice(from);
    S::f32s::from_slice(simd, &all[..S::f32s::LEN])
}

/// Load the last vector of `from`, which has at least one; all but the last `rest` lanes are `pad`.
#[inline(always)]
pub fn load_last<S: Simd>(simd: S, from: &[f32], rest: usize, pad: f32) -> S::f32s {
    last_lanes(simd, rest).select(S::f32s::from_slice(simd, &from[from.len() - S::f32s::LEN..]), S::f32s::splat(simd, pad))
}

/// Mask of the last `rest` lanes.
#[inline(always)]
pub fn last_lanes<S: Simd>(simd: S, rest: usize) -> S::mask32s {
    const LANES: [f32; WIDEST] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
    let n = S::f32s::LEN;
    S::f32s::from_slice(simd, &LANES[..n]).simd_ge((n - rest) as f32)
}

/// Store the first lanes of a vector.
#[inline(always)]
pub fn store_part<S: Simd>(simd: S, value: S::f32s, to: &mut [f32]) {
    let _ = simd;
    to.copy_from_slice(&value.as_slice()[..to.len()]);
}

/// Sum of the lanes of four sums, in a fixed tree.
#[inline(always)]
pub fn sum4<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> f32 {
    let _ = simd;
    ((a + b) + (c + d)).reduce_sum()
}

/// Highest lane of four, in a fixed tree. Undefined for NaN.
#[inline(always)]
pub fn max4<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> f32 {
    let _ = simd;
    a.max(b).max(c.max(d)).reduce_max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::levels;
    use fearless_simd::dispatch;

    /// `f` of each number.
    macro_rules! map {
        ($level:expr, $f:ident, $x:expr) => {
            dispatch!($level, s => {
                let mut out: Vec<f32> = $x.to_vec();
                for c in out.chunks_mut(LEN.min(lanes(s))) {
                    let v = $f(s, load_part(s, c, 0.0));
                    store_part(s, v, c);
                }
                out
            })
        };
    }

    const LEN: usize = WIDEST;

    #[inline(always)]
    fn lanes<S: Simd>(_: S) -> usize {
        S::f32s::LEN
    }

    /// Error in units in the last place of the expected value.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = want as f32;
        let unit = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / unit
    }

    /// Every `step`th f32 from `from` (towards 0) and `to`.
    fn sweep(from: f32, to: f32, step: usize) -> Vec<f32> {
        let side = |end: f32| (0..=end.abs().to_bits()).step_by(step).map(move |b| f32::from_bits(b).copysign(end));
        side(from).chain(side(to)).collect()
    }

    #[test]
    fn exp_is_within_its_bound() {
        // 1 runs all 2.2e9 numbers of the range (minutes); the worst of every seventh is 1.02.
        let step = std::env::var("LEHR_SWEEP").ok().and_then(|s| s.parse().ok()).unwrap_or(997);
        for level in levels() {
            let (mut worst, mut at) = (0.0, 0.0);
            for x in sweep(-87.33, 88.37, step).chunks(1 << 16) {
                for (x, y) in x.iter().zip(map!(level, exp, x)) {
                    let error = ulps(y, f64::from(*x).exp());
                    if error > worst {
                        (worst, at) = (error, *x);
                    }
                }
            }
            println!("{level:?}: exp within {worst:.3} ulp, at {at:e}");
            assert!(worst <= 1.2, "{level:?}: {worst} ulp at {at}");
        }
    }

    #[test]
    fn exp_neg_is_exp() {
        for level in levels() {
            let x = sweep(-200.0, -0.0, 9973);
            let bits = |v: Vec<f32>| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(map!(level, exp_neg, x)), bits(map!(level, exp, x)), "{level:?}");
        }
    }

    #[test]
    fn exp_at_its_ends() {
        for level in levels() {
            let x =
                [0.0, -0.0, -87.69, -1e30, f32::NEG_INFINITY, 88.377, 1e30, f32::INFINITY, f32::NAN, f32::from_bits(0xFFFF_FFFF)];
            let got = map!(level, exp, x);
            assert_eq!(got[..5], [1.0, 1.0, 0.0, 0.0, 0.0], "{level:?}");
            let top = 88.376f64.exp();
            assert!(got[5..8].iter().all(|&y| (f64::from(y) / top - 1.0).abs() < 1e-5), "{level:?}: {got:?}");
            assert!(got[8].is_nan() && got[9].is_nan(), "{level:?}: {got:?}");
            assert!(map!(level, exp_neg, [f32::NAN; 3]).iter().all(|y| y.is_nan()));
            // Between the smallest normal number and 0 precision is lost step by step, as in every subnormal number.
            let gradual = map!(level, exp, [-87.5]);
            assert!((f64::from(gradual[0]) - (-87.5f64).exp()).abs() < 2e-45, "{level:?}: {gradual:?}");
        }
    }

    #[test]
    fn sigmoid_is_within_its_bound() {
        for level in levels() {
            let x = sweep(-87.0, 87.0, 997);
            let mut worst = 0.0;
            for (x, y) in x.iter().zip(map!(level, sigmoid, x)) {
                worst = f64::max(worst, ulps(y, 1.0 / (1.0 + (-f64::from(*x)).exp())));
            }
            println!("{level:?}: sigmoid within {worst:.3} ulp");
            assert!(worst <= 2.5, "{level:?}: {worst} ulp");
            let ends = map!(level, sigmoid, [1e30, f32::INFINITY, -1e30, f32::NEG_INFINITY]);
            assert!(ends[..2] == [1.0, 1.0] && ends[2..].iter().all(|&s| s > 1.5e-38 && s < 1.7e-38), "{ends:?}");
            assert!(map!(level, sigmoid, [f32::NAN])[0].is_nan());
        }
    }
}
