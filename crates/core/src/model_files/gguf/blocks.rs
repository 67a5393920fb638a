//! GGUF's data types: plain floats, and quantised blocks with shared scales (`ggml-quants.c`).

use anyhow::{Result, ensure};
use half::{bf16, f16};

/// The supported types. The first four can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q6K,
}

/// Names of ggml's types by number, for messages; empty for unused numbers.
const NAMES: [&str; 40] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M",
    "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4",
];

impl BlockType {
    /// (ggml's number, type, numbers of a block, bytes of a block)
    const ALL: [(u32, BlockType, usize, usize); 8] = [
        (0, BlockType::F32, 1, 4),
        (1, BlockType::F16, 1, 2),
        (30, BlockType::BF16, 1, 2),
        (8, BlockType::Q8_0, 32, 34),
        (2, BlockType::Q4_0, 32, 18),
        (3, BlockType::Q4_1, 32, 20),
        (12, BlockType::Q4K, 256, 144),
        (14, BlockType::Q6K, 256, 210),
    ];

    fn row(self) -> (u32, BlockType, usize, usize) {
        *Self::ALL.iter().find(|row| row.1 == self).unwrap_or(&Self::ALL[0])
    }

    /// From ggml's number.
    pub(super) fn parse(code: u32) -> Result<Self> {
        let found = Self::ALL.iter().find(|row| row.0 == code);
        let name =
            NAMES.get(code as usize).filter(|name| !name.is_empty()).map_or_else(|| format!("type {code}"), |n| (*n).into());
        ensure!(found.is_some(), "{name}: lehr reads F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K: use another quantisation");
        Ok(found.map_or(Self::F32, |row| row.1))
    }

    /// ggml's number.
    pub(super) fn code(self) -> u32 {
        self.row().0
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        NAMES[self.code() as usize]
    }

    /// Numbers per block.
    pub fn block(self) -> usize {
        self.row().2
    }

    /// Bytes of N numbers, which must be whole blocks; `None` on overflow.
    pub fn bytes(self, numbers: u64) -> Option<u64> {
        (numbers / self.block() as u64).checked_mul(self.row().3 as u64)
    }

    /// Bytes per block.
    pub(super) fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Decode whole blocks and append; an incomplete last block is ignored.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        out.reserve(bytes.len() / self.block_bytes() * self.block());
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32())),
            Self::BF16 => out.extend(bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32())),
            Self::Q8_0 => bytes.as_chunks().0.iter().for_each(|b| q8_0(b, out)),
            Self::Q4_0 => bytes.as_chunks().0.iter().for_each(|b| q4_0(b, out)),
            Self::Q4_1 => bytes.as_chunks().0.iter().for_each(|b| q4_1(b, out)),
            Self::Q4K => bytes.as_chunks().0.iter().for_each(|b| q4_k(b, out)),
            Self::Q6K => bytes.as_chunks().0.iter().for_each(|b| q6_k(b, out)),
        }
    }

    /// Encode whole blocks and append.
    ///
    /// # Errors
    /// A number that the type cannot hold, or a type that cannot be written.
    pub(super) fn encode(self, numbers: &[f32], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::F32 => out.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => {
                for x in numbers {
                    let half = f16::from_f32(*x);
                    ensure!(half.is_finite(), "{x} is beyond F16's range; use bf16 or f32");
                    out.extend(half.to_le_bytes());
                }
            }
            Self::BF16 => {
                for x in numbers {
                    let half = bf16::from_f32(*x);
                    ensure!(half.is_finite(), "{x} is beyond BF16's range; use f32");
                    out.extend(half.to_le_bytes());
                }
            }
            Self::Q8_0 => {
                for block in numbers.as_chunks().0 {
                    to_q8_0(block, out)?;
                }
            }
            other => anyhow::bail!("{} is not written", other.name()),
        }
        Ok(())
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A scale, then 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(block[2..].iter().map(|q| f32::from(*q as i8) * d));
}

/// A scale, then 32 numbers of four bits: the low halves of 16 bytes, then the high ones.
fn q4_0(block: &[u8; 18], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    let value = |q: u8| f32::from(q as i8 - 8) * d;
    out.extend(block[2..].iter().map(|q| value(q & 15)));
    out.extend(block[2..].iter().map(|q| value(q >> 4)));
}

/// As [`q4_0`], with a minimum in place of a fixed offset.
fn q4_1(block: &[u8; 20], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend(block[4..].iter().map(|q| f32::from(q & 15) * d + m));
    out.extend(block[4..].iter().map(|q| f32::from(q >> 4) * d + m));
}

/// Two scales for eight groups of 32 numbers, each with a six-bit scale and minimum.
fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let s = &block[4..16];
    for group in 0..8 {
        let (scale, min) = match group {
            0..4 => (s[group] & 63, s[group + 4] & 63),
            _ => (s[group + 4] & 15 | s[group - 4] >> 6 << 4, s[group + 4] >> 4 | s[group] >> 6 << 4),
        };
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let bytes = &block[16 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        out.extend(bytes.iter().map(|q| scale * f32::from(q >> shift & 15) - min));
    }
}

/// One scale for 16 groups of 16 numbers, each with a signed eight-bit scale; four bits of a number are in one place and two in another.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for i in 0..256 {
        let (half, quarter, at) = (i / 128, i % 128 / 32, i % 32);
        let low = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        let high = high[half * 32 + at] >> (quarter * 2) & 3;
        let q = (low | high << 4) as i8 - 32;
        out.push(d * f32::from(scales[i / 16] as i8) * f32::from(q));
    }
}

/// As `quantize_row_q8_0_ref`: the scale is rounded to f16 after the numbers have been divided by the exact one.
fn to_q8_0(block: &[f32; 32], out: &mut Vec<u8>) -> Result<()> {
    let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let d = largest / 127.0;
    let half = f16::from_f32(d);
    ensure!(half.is_finite(), "{largest} is beyond Q8_0's range; use bf16 or f32");
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(half.to_le_bytes());
    out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type that can be written is read back, within its precision.
    #[test]
    fn blocks_round_trip() {
        let numbers: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 7.0).collect();
        for (kind, most) in [(BlockType::F32, 0.0), (BlockType::F16, 0.002), (BlockType::BF16, 0.02), (BlockType::Q8_0, 0.02)] {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            kind.encode(&numbers, &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, kind.bytes(64).unwrap());
            kind.decode(&bytes, &mut back);
            let worst = numbers.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= most, "{kind:?}: {worst}");
        }
        for (kind, number) in [(BlockType::F16, 70_000.0), (BlockType::BF16, f32::MAX), (BlockType::Q8_0, 1e9)] {
            assert!(kind.encode(&[number; 32], &mut Vec::new()).unwrap_err().to_string().contains("range"), "{kind:?}");
        }
    }
}
