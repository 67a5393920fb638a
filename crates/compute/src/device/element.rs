//! Types of stored numbers. All sums are in f32; 16-bit types only save memory.

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// 4 bytes: f32, or u32 for tokens and flags.
    #[default]
    F32,
    /// bfloat16, the upper half of an f32: two numbers a word, the first in the lower half.
    Bf16,
}

impl ElementType {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
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

/// A stored number as the CPU's kernels read it.
pub trait Number: bytemuck::Pod + Send + Sync {
    /// Its value.
    fn value(self) -> f32;

    /// Copy values; the slices have the same length.
    fn copy(from: &[Self], to: &mut [f32]);
}

impl Number for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }

    #[inline(always)]
    fn copy(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Number for Bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn copy(from: &[Self], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
    }
}

/// Numbers of a tensor of the CPU executor that may be stored in 16 bits.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [Bf16]),
}

impl<'a> Numbers<'a> {
    /// The numbers in the words of a tensor; one more than it has if it has an odd number of 16-bit ones.
    pub fn of(element: ElementType, words: &'a [f32]) -> Self {
        match element {
            ElementType::F32 => Self::F32(words),
            ElementType::Bf16 => Self::Bf16(bytemuck::cast_slice(words)),
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

    #[test]
    fn words_hold_the_first_number_in_their_lower_half() {
        let words = [f32::from_bits(0x4000_3F80)];
        let Numbers::Bf16(numbers) = Numbers::of(ElementType::Bf16, &words) else { unreachable!() };
        assert_eq!(numbers.iter().map(|n| n.to_f32()).collect::<Vec<_>>(), [1.0, 2.0]);
    }
}
