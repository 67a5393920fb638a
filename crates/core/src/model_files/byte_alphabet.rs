//! GPT-2's byte alphabet: a character for each byte, so that vocabularies are text.

/// GPT-2's byte alphabet: printable Latin-1 represents itself, the other 68 bytes follow in order from U+0100.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The character for a byte in GPT-2's byte alphabet: the inverse of [`byte_of`].
pub(crate) fn char_of(byte: u8) -> char {
    match byte {
        0x00..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or(' '),
        0x7F..=0xA0 => char::from_u32(0x121 + u32::from(byte) - 0x7F).unwrap_or(' '),
        0xAD => '\u{143}',
        _ => char::from(byte),
    }
}
