//! The schema of a Parquet file, checked before the crate's recursive reader gets it.
//!
//! The footer is Thrift in its compact protocol: a struct whose field 2 is the list of schema elements, parents before children; field 5 of
//! an element is the number of its children.

use crate::vfs::VfsReader;
use anyhow::{Context, Result, bail, ensure};

/// Maximum depth of nested groups.
const MAX_DEPTH: usize = 64;
/// Maximum size of a footer in bytes: files with thousands of columns have several MiB.
const MAX_FOOTER: u64 = 128 << 20;
/// Numbers of the fields that are read.
const SCHEMA: i16 = 2;
const CHILDREN: i16 = 5;

// Types of the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Checks that the schema is shallow enough to be read.
///
/// # Errors
/// A file that is truncated, damaged, or nested too deep.
pub(super) fn check(file: &dyn VfsReader) -> Result<()> {
    let bytes = file.bytes();
    let mut tail = [0; 8];
    ensure!(bytes >= 12, "{bytes} bytes, too few for a Parquet file");
    file.read_exact_at(&mut tail, bytes - 8)?;
    ensure!(tail.ends_with(b"PAR1"), "it does not end as a Parquet file: truncated or encrypted?");
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    ensure!(length <= MAX_FOOTER.min(bytes - 8), "its footer of {length} bytes cannot be right: damaged");
    let mut footer = vec![0; length as usize];
    file.read_exact_at(&mut footer, bytes - 8 - length)?;
    walk(&footer)
}

fn walk(footer: &[u8]) -> Result<()> {
    let mut thrift = CompactProtocol { left: footer };
    thrift.fields(0, &mut |thrift, field, kind| {
        if (field, kind) != (SCHEMA, LIST) {
            return Ok(false);
        }
        let (count, kind) = thrift.list()?;
        ensure!(kind == STRUCT, "its schema is not a list of elements: damaged");
        depth(thrift, count)?;
        Ok(true)
    })
}

/// Reads the elements of a schema and checks their depth.
fn depth(thrift: &mut CompactProtocol<'_>, count: u64) -> Result<()> {
    // Number of remaining children for each open group.
    let mut open: Vec<u64> = Vec::new();
    for _ in 0..count {
        let mut children = 0;
        thrift.fields(1, &mut |thrift, field, kind| {
            let is_it = (field, kind) == (CHILDREN, I32);
            if is_it {
                children = thrift.integer()?;
            }
            Ok(is_it)
        })?;
        if let Some(last) = open.last_mut() {
            *last -= 1;
        }
        if let Some(children) = u64::try_from(children).ok().filter(|children| *children > 0) {
            ensure!(children < count, "its schema has a group of {children} fields, but {count} elements in all: damaged");
            open.push(children);
            ensure!(open.len() <= MAX_DEPTH, "its schema is nested more than {MAX_DEPTH} deep");
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

/// The unread part of data in the compact protocol.
struct CompactProtocol<'a> {
    left: &'a [u8],
}

/// Reads a field of this number and type, or returns false without reading it.
type FieldReader<'t, 'a> = dyn FnMut(&mut CompactProtocol<'a>, i16, u8) -> Result<bool> + 't;

impl<'a> CompactProtocol<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let parts = usize::try_from(count).ok().and_then(|count| self.left.split_at_checked(count));
        let (taken, left) = parts.context("its footer is cut off: damaged")?;
        self.left = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn varint(&mut self) -> Result<u64> {
        let mut out = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            out |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(out);
            }
        }
        bail!("a number in its footer has no end: damaged")
    }

    /// An integer of any width.
    fn integer(&mut self) -> Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// (number of elements, element type)
    fn list(&mut self) -> Result<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Ok((count, head & 15))
    }

    /// Reads the fields of a struct; fields that `take` does not read are skipped.
    fn fields(&mut self, level: usize, take: &mut FieldReader<'_, 'a>) -> Result<()> {
        let mut field = 0i16;
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => self.integer()? as i16,
                step => field.wrapping_add(i16::from(step)),
            };
            if !take(self, field, kind)? && kind != TRUE && kind != FALSE {
                self.skip(level, kind)?;
            }
        }
    }

    /// Skips a value that is not stored in a field header.
    fn skip(&mut self, level: usize, kind: u8) -> Result<()> {
        ensure!(level < MAX_DEPTH, "its footer is nested more than {MAX_DEPTH} deep");
        match kind {
            TRUE | FALSE | BYTE => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => drop(self.bytes(8)?),
            BINARY => {
                let length = self.varint()?;
                self.bytes(length)?;
            }
            LIST | SET => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip(level + 1, kind))?;
            }
            MAP => {
                let count = self.varint()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| self.skip(level + 1, kinds >> 4).and_then(|()| self.skip(level + 1, kinds & 15)))?;
            }
            STRUCT => self.fields(level + 1, &mut |_, _, _| Ok(false))?,
            _ => bail!("its footer has a value of type {kind}: damaged"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{RealFs, Vfs as _};

    /// A field whose number is that of the previous one plus `step`.
    fn field(step: u8, kind: u8, value: &[u8]) -> Vec<u8> {
        [&[step << 4 | kind][..], value].concat()
    }

    /// A schema element: a name, and optionally children.
    fn element(children: Option<u8>) -> Vec<u8> {
        let children = children.map(|n| field(1, I32, &[2 * n])).unwrap_or_default();
        [field(4, BINARY, b"\x01a"), children, vec![0]].concat()
    }

    /// A footer with a version, a schema, and later fields that are skipped.
    fn footer(elements: &[Vec<u8>]) -> Vec<u8> {
        let count = [(elements.len() & 127 | 128) as u8, (elements.len() >> 7) as u8];
        let list = [&[15 << 4 | STRUCT][..], &count, &elements.concat()].concat();
        let rest = [
            field(1, I64, &[0x80, 0x01]),
            field(1, LIST, &[1 << 4 | STRUCT, 0x15, 0x02, 0]),
            field(1, TRUE, &[]),
            field(1, MAP, &[1, BINARY << 4 | DOUBLE, 1, b'k', 0, 0, 0, 0, 0, 0, 0, 0]),
            vec![0],
        ];
        [field(1, I32, &[2]), field(1, LIST, &list), rest.concat()].concat()
    }

    #[test]
    fn nesting_depth_is_counted() {
        let nested = |depth: usize| {
            let mut elements = vec![element(Some(1)); depth];
            elements.push(element(None));
            footer(&elements)
        };
        walk(&nested(MAX_DEPTH)).unwrap();
        assert!(walk(&nested(MAX_DEPTH + 1)).unwrap_err().to_string().contains("nested more than 64 deep"));
        assert!(walk(&nested(10_000)).is_err());
        // Siblings at the same depth do not count as nesting.
        let mut wide = vec![element(Some(60))];
        (0..60).for_each(|_| wide.extend([element(Some(1)), element(None)]));
        walk(&footer(&wide)).unwrap();
        let error = walk(&footer(&[element(Some(60)), element(None)])).unwrap_err().to_string();
        assert!(error.contains("a group of 60 fields, but 2 elements"), "{error}");
    }

    /// The crate's reader would overflow the stack, which aborts the process.
    #[test]
    fn deep_nesting_is_refused() {
        let mut element = element(Some(1));
        element.splice(0..0, field(3, I32, &[0]));
        // The name is field 4, directly after the repetition.
        element[2] = 1 << 4 | BINARY;
        let count = [0xA0, 0x8D, 0x06];
        let list = [&[15 << 4 | STRUCT][..], &count, &element.repeat(100_000)].concat();
        let footer =
            [field(1, I32, &[2]), field(1, LIST, &list), field(1, I64, &[0]), field(1, LIST, &[STRUCT]), vec![0]].concat();
        let length = (footer.len() as u32).to_le_bytes();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep.parquet");
        std::fs::write(&path, [b"PAR1", &footer[..], &length, b"PAR1"].concat()).unwrap();
        let opened =
            super::super::Columns::open("deep.parquet", RealFs.open(&path).unwrap(), super::super::FileFormat::Parquet, None);
        let error = opened.err().unwrap().to_string();
        assert!(error.contains("deep.parquet: cannot be read: its schema is nested more than 64 deep"), "{error}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = footer(&[element(Some(2)), element(None), element(None)]);
        walk(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(walk(&whole[..length]).is_err(), "{length}");
        }
        let lists = [vec![1 << 4 | LIST], vec![1 << 4 | LIST; 100]].concat();
        assert!(walk(&lists).unwrap_err().to_string().contains("footer is nested"));
        assert!(walk(&field(1, LIST, &[15 << 4 | BYTE, 0xff, 0xff, 0xff, 0xff, 0x0f])).is_err());
    }
}
