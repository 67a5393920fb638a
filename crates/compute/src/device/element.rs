//! Types of stored numbers. All sums are in f32; 16-bit types only save memory.

/// Storage type of a tensor's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 4 bytes: f32, or u32 for tokens and flags.
    #[default]
    F32,
    /// bfloat16, the upper half of an f32: two numbers a word, the first in the lower half. For weights that are not trained.
    Bf16,
    /// IEEE half precision, likewise. For caches of keys and values.
    F16,
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Alignment of tensors in an arena and of slices, in numbers: 256 bytes, the largest offset alignment that WebGPU allows.
    pub const fn align(self) -> usize {
        256 / self.bytes()
    }

    /// Suffix of the names of kernels for this type.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "",
            Self::Bf16 => "_bf16",
            Self::F16 => "_f16",
        }
    }
}

/// A bfloat16 number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// The nearest bfloat16, ties to even, as in PyTorch.
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        match x.is_nan() {
            // Rounding could carry a NaN into infinity.
            true => Self((bits >> 16) as u16 | 0x40),
            false => Self(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16),
        }
    }

    /// Exact.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// A number in IEEE half precision.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct F16(pub u16);

/// Largest number of [`F16`].
const MOST_F16: f32 = 65_504.0;

impl F16 {
    /// The nearest half-precision number, ties to even; beyond the largest, the largest.
    pub fn from_f32(x: f32) -> Self {
        /// Smallest normal number.
        const LEAST: f32 = 1.0 / 16_384.0;
        let sign = (x.to_bits() >> 16) as u16 & 0x8000;
        let size = x.abs().min(MOST_F16);
        let bits = size.to_bits();
        let stored = match size {
            _ if x.is_nan() => 0x7E00,
            // Seen from 0.5, an f32 has steps of 2^-24, as the numbers below the smallest normal one.
            _ if size < LEAST => (size + 0.5).to_bits() - 0.5f32.to_bits(),
            _ => (bits + 0xFFF + (bits >> 13 & 1) - (112 << 23)) >> 13,
        };
        Self(sign | stored as u16)
    }

    /// Exact.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        /// 2^112: the difference of the exponents' biases.
        const SCALE: f32 = f32::from_bits((127 + 112) << 23);
        let size = f32::from_bits(u32::from(self.0 & 0x7FFF) << 13) * SCALE;
        // Infinities and NaN have the largest exponent.
        let special = if size >= 65_536.0 { 0x7F80_0000 } else { 0 };
        f32::from_bits(size.to_bits() | special | u32::from(self.0 & 0x8000) << 16)
    }
}

/// A stored number as the CPU's kernels read it.
pub trait StoredNumber: bytemuck::Pod + Send + Sync {
    /// Its value.
    fn value(self) -> f32;

    /// The nearest stored number.
    fn nearest(value: f32) -> Self;

    /// Copy values; the slices have the same length.
    fn copy(from: &[Self], to: &mut [f32]);
}

impl StoredNumber for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    fn nearest(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn copy(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

macro_rules! number_of_16_bits {
    ($($number:ty),*) => {$(
        impl StoredNumber for $number {
            #[inline(always)]
            fn value(self) -> f32 {
                self.to_f32()
            }

            fn nearest(value: f32) -> Self {
                Self::from_f32(value)
            }

            #[inline(always)]
            fn copy(from: &[Self], to: &mut [f32]) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
            }
        }
    )*};
}
number_of_16_bits!(Bf16, F16);

/// Stored numbers as f32.
#[inline(always)]
pub(crate) fn values<T: StoredNumber, const N: usize>(stored: &[T; N]) -> [f32; N] {
    let mut values = [0.0; N];
    T::copy(stored, &mut values);
    values
}

/// The numbers of a weight on the CPU.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [Bf16]),
}

impl<'a> Numbers<'a> {
    /// The numbers in the words of a tensor; one more than it has if it has an odd number of 16-bit ones.
    ///
    /// # Panics
    /// For half precision, which no weight has (a defect of the caller).
    pub fn of(element: ElementType, words: &'a [f32]) -> Self {
        match element {
            ElementType::F32 => Self::F32(words),
            ElementType::Bf16 => Self::Bf16(bytemuck::cast_slice(words)),
            ElementType::F16 => panic!("a weight in half precision"),
        }
    }
}

impl<'a> From<&'a [f32]> for Numbers<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all numbers nearby, the nearest, and of two equally near ones the even one.
    #[test]
    fn rounding_takes_the_nearest() {
        let mut bits = 0x1234_5678u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            let got = Bf16::from_f32(x);
            if x.is_nan() {
                assert!(got.to_f32().is_nan());
                continue;
            }
            let distance = |b: Bf16| (f64::from(b.to_f32()) - f64::from(x)).abs();
            for other in [got.0.wrapping_sub(1), got.0.wrapping_add(1)].map(Bf16).into_iter().filter(|b| b.to_f32().is_finite()) {
                let nearer = if got.to_f32().is_finite() { distance(got) < distance(other) } else { x.abs() > 3.38e38 };
                assert!(nearer || distance(got) == distance(other) && got.0 & 1 == 0, "{x:e}: {got:?}, {other:?}");
            }
        }
        for bits in (0..=u16::MAX).filter(|bits| !Bf16(*bits).to_f32().is_nan()) {
            assert_eq!(Bf16::from_f32(Bf16(bits).to_f32()).0, bits, "what is a bfloat16 stays one");
        }
    }

    /// Against the definition: (-1)^sign 2^(exponent - 25) (1024 + fraction).
    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let size = match exponent {
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                0 => fraction * 2f64.powi(-24),
                _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
            };
            let (want, got) = (if sign == 1 { -size } else { size }, F16(bits).to_f32());
            assert!(f64::from(got) == want && got.is_sign_negative() == (sign == 1) || got.is_nan() && want.is_nan(), "{bits:x}");
            if want.is_finite() {
                assert_eq!(F16::from_f32(got).0, bits);
            }
        }
        assert_eq!([1e6, -1e6, f32::INFINITY].map(|x| F16::from_f32(x).to_f32()), [MOST_F16, -MOST_F16, MOST_F16]);
        assert!(F16::from_f32(f32::NAN).to_f32().is_nan());
    }

    #[test]
    fn halves_are_the_nearest() {
        let mut bits = 0x1234_5678u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents around those of halves.
            let x = f32::from_bits(bits & 0x807F_FFFF | (103 + (bits >> 23 & 31)) << 23);
            let got = F16::from_f32(x);
            let distance = |h: F16| (f64::from(h.to_f32()) - f64::from(x)).abs();
            for other in [got.0.wrapping_sub(1), got.0.wrapping_add(1)].map(F16).into_iter().filter(|h| h.to_f32().is_finite()) {
                assert!(distance(got) < distance(other) || distance(got) == distance(other) && got.0 & 1 == 0, "{x:e}: {got:?}");
            }
        }
    }

    #[test]
    fn words_hold_the_first_number_in_their_lower_half() {
        let words = [f32::from_bits(0x4000_3F80)];
        let Numbers::Bf16(numbers) = Numbers::of(ElementType::Bf16, &words) else { unreachable!() };
        assert_eq!(numbers.iter().map(|n| n.to_f32()).collect::<Vec<_>>(), [1.0, 2.0]);
    }
}
