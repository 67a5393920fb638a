//! The arithmetic of a merge: stored numbers are summed in f64, and sums are converted to stored numbers.
//!
//! A result is sum(w x) / sum(w) in f64, rounded to f32 and then, for F16 or BF16, rounded again, each time to nearest, ties to even, as
//! PyTorch's conversion from f64 does. The intermediate f32 is intended: the mean of bf16 numbers often lies exactly between two of
//! them, and f64's rounding error in 1/N must not decide there.

use crate::model_files::safetensors_file::Dtype;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Numbers converted at once where no direct conversion exists; they fit into the L1 cache.
const BLOCK: usize = 2048;

/// Whether numbers of this type can be merged.
pub fn mergeable(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Result type for numbers of two files: the common type, or F32 where they differ.
pub fn widest(a: Dtype, b: Dtype) -> Dtype {
    if a == b { a } else { Dtype::F32 }
}

/// acc = weight x if `first`, otherwise acc += weight x; x is read from little-endian `bytes`, which hold as many numbers as `acc`.
pub fn accumulate(dtype: Dtype, bytes: &[u8], weight: f64, first: bool, acc: &mut [f64]) {
    match dtype {
        Dtype::F32 => add(bytes.as_chunks().0, |b| f32::from_le_bytes(*b), weight, first, acc),
        Dtype::BF16 => add(bytes.as_chunks().0, bf16_to_f32, weight, first, acc),
        _ => {
            let (mut halves, mut floats) = ([f16::ZERO; BLOCK], [0f32; BLOCK]);
            for (bytes, acc) in bytes.chunks(2 * BLOCK).zip(acc.chunks_mut(BLOCK)) {
                let n = acc.len();
                halves.iter_mut().zip(bytes.as_chunks().0).for_each(|(h, b)| *h = f16::from_le_bytes(*b));
                halves[..n].convert_to_f32_slice(&mut floats[..n]);
                add(&floats[..n], |x| *x, weight, first, acc);
            }
        }
    }
}

fn bf16_to_f32(bytes: &[u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)
}

#[inline(always)]
fn add<T>(xs: &[T], float: impl Fn(&T) -> f32, weight: f64, first: bool, acc: &mut [f64]) {
    // The first value is assigned, not added to zero, so that -0 stays -0.
    if first {
        acc.iter_mut().zip(xs).for_each(|(a, x)| *a = weight * f64::from(float(x)));
    } else {
        acc.iter_mut().zip(xs).for_each(|(a, x)| *a += weight * f64::from(float(x)));
    }
}

/// The index of the first number that is not finite.
pub fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    fn find<const N: usize>(bytes: &[u8], float: impl Fn(&[u8; N]) -> f32) -> Option<(usize, f32)> {
        bytes.as_chunks::<N>().0.iter().map(float).enumerate().find(|(_, x)| !x.is_finite())
    }
    match dtype {
        Dtype::F32 => find(bytes, |b| f32::from_le_bytes(*b)),
        Dtype::BF16 => find(bytes, bf16_to_f32),
        _ => find(bytes, |b| f16::from_le_bytes(*b).to_f32()),
    }
}

/// acc / total as f32 into `out`.
pub fn divide(acc: &[f64], total: f64, out: &mut [f32]) {
    // x / 1 is x; the loop without a division is faster.
    if total == 1.0 {
        out.iter_mut().zip(acc).for_each(|(o, a)| *o = *a as f32);
    } else {
        out.iter_mut().zip(acc).for_each(|(o, a)| *o = (*a / total) as f32);
    }
}

/// Append numbers to `out` as little-endian bytes of `dtype`. False if one of them is not finite in that type: a finite f32 may overflow
/// F16 (beyond 65504) or BF16.
pub fn encode(dtype: Dtype, numbers: &[f32], out: &mut Vec<u8>) -> bool {
    let finite = |bits: u32, exponent: u32| bits & exponent != exponent;
    match dtype {
        Dtype::F32 => {
            out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
            numbers.iter().fold(true, |all, x| all & finite(x.to_bits(), 0x7f80_0000))
        }
        Dtype::BF16 => {
            out.extend(numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()));
            numbers.iter().fold(true, |all, x| all & finite(u32::from(bf16::from_f32(*x).to_bits()), 0x7f80))
        }
        _ => {
            let (mut halves, mut all) = ([f16::ZERO; BLOCK], true);
            for numbers in numbers.chunks(BLOCK) {
                let halves = &mut halves[..numbers.len()];
                halves.convert_from_f32_slice(numbers);
                all = halves.iter().fold(all, |all, h| all & finite(u32::from(h.to_bits()), 0x7c00));
                out.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
            }
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The value of a half-precision number from its fields, as IEEE 754 and bfloat16 define it.
    fn value(dtype: Dtype, bits: u16) -> f64 {
        let (exponent_bits, bias) = if dtype == Dtype::F16 { (5, 15) } else { (8, 127) };
        let mantissa_bits = 15 - exponent_bits;
        let exponent = i32::from(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
        let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        match exponent {
            0 => sign * mantissa * 2f64.powi(1 - bias),
            e => sign * (1.0 + mantissa) * 2f64.powi(e - bias),
        }
    }

    /// The nearest finite number of `dtype`, ties to even.
    fn nearest(dtype: Dtype, x: f64) -> u16 {
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let most = if dtype == Dtype::F16 { 0x7bff } else { 0x7f7f };
        let (mut low, mut high) = (0u16, most);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if value(dtype, middle) <= x.abs() { low = middle } else { high = middle }
        }
        let (below, above) = (x.abs() - value(dtype, low), value(dtype, high) - x.abs());
        let up = above < below || (above == below && low % 2 == 1);
        sign | if up { high } else { low }
    }

    fn to_bits(dtype: Dtype, x: f32) -> u16 {
        let mut out = Vec::new();
        assert!(encode(dtype, &[x], &mut out));
        u16::from_le_bytes(out.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn half_precision_rounds_to_nearest(bits in 0u32..0x4780_0000, negative: bool) {
            let x = f32::from_bits(bits | u32::from(negative) << 31);
            prop_assume!(x.abs() <= 65504.0);
            for dtype in [Dtype::F16, Dtype::BF16] {
                prop_assert_eq!(to_bits(dtype, x), nearest(dtype, f64::from(x)), "{} {}", dtype.name(), x);
            }
        }
    }

    #[test]
    fn half_precision_round_trips() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut acc = vec![f64::NAN; 65536];
            accumulate(dtype, &bytes, 1.0, true, &mut acc);
            for (bits, got) in (0..=u16::MAX).zip(&acc) {
                let special = first_not_finite(dtype, &bits.to_le_bytes()).is_some();
                assert_eq!(special, !got.is_finite());
                if !special {
                    assert_eq!(got.to_bits(), value(dtype, bits).to_bits(), "{} {bits:#x}", dtype.name());
                    assert_eq!(to_bits(dtype, *got as f32), bits, "{}", dtype.name());
                }
            }
        }
    }

    #[test]
    fn overflow_is_reported() {
        assert!(!encode(Dtype::F16, &[65520.0], &mut Vec::new()) && encode(Dtype::F16, &[65519.0], &mut Vec::new()));
        assert!(!encode(Dtype::BF16, &[f32::MAX], &mut Vec::new()) && !encode(Dtype::F32, &[f32::INFINITY], &mut Vec::new()));
        assert!(!encode(Dtype::F32, &[1.0, f32::NAN, 1.0], &mut Vec::new()));
    }
}
