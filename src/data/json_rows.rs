//! JSONL, an object a line, in bounded memory. Rows are hand-made and precious: one that cannot be used is an error that names file and
//! line.

use super::{shown, shown_path};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// A longer line is no row.
const MAX_LINE_BYTES: usize = 16 << 20;

/// An object of a line.
pub type Object = Map<String, Value>;

/// Reads a file and gives each object with its place (`file:line`) to `take`; `example` is what a row looks like, for messages, and
/// `progress` gets (bytes done, bytes in all).
///
/// # Errors
/// The first line that is no object, with its place and the cure; what `take` returns.
pub fn read_objects(
    path: &Path,
    example: &str,
    progress: &mut dyn FnMut(u64, u64),
    mut take: impl FnMut(&str, Object) -> Result<()>,
) -> Result<()> {
    let name = shown_path(path);
    let meta = std::fs::metadata(path).with_context(|| format!("{name}: cannot be opened"))?;
    ensure!(meta.is_file(), "{name}: not a regular file. Name a JSONL file");
    let file = File::open(path).with_context(|| format!("{name}: cannot be opened"))?;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut line, mut number, mut done) = (Vec::new(), 0u64, 0u64);
    loop {
        line.clear();
        number += 1;
        let read = reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line);
        let read = read.with_context(|| format!("{name}: cannot be read"))?;
        if read == 0 {
            return Ok(());
        }
        ensure!(read <= MAX_LINE_BYTES, "{name}:{number}: line longer than {} MiB. Is it JSONL?", MAX_LINE_BYTES >> 20);
        done += read as u64;
        if number.is_multiple_of(256) {
            progress(done.min(meta.len()), meta.len());
        }
        let bytes = line.strip_prefix(b"\xEF\xBB\xBF").filter(|_| number == 1).unwrap_or(&line).trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let place = format!("{name}:{number}");
        let object = parse(bytes, example).map_err(|e| anyhow!("{place}: {e}"))?;
        take(&place, object)?;
    }
}

fn parse(line: &[u8], example: &str) -> Result<Object> {
    let text =
        std::str::from_utf8(line).map_err(|e| anyhow!("not UTF-8 at byte {}. Save the file as UTF-8", e.valid_up_to() + 1))?;
    let value: Value = serde_json::from_str(text).map_err(|e| anyhow!("not JSON: {}", shown(&e.to_string())))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => bail!("not a JSON object. A row is {example} on one line"),
    }
}
