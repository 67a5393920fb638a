//! Rows as JSON objects, in bounded memory: JSONL, a list, Parquet or Arrow, compressed or not. Rows are often hand-made, so an unusable
//! one is an error that names file and line.

use super::files::{self, MAX_RECORD_BYTES, Record, Records};
use super::{display_text, shown_path};
use crate::progress::{Progress, report};
use crate::vfs::Vfs;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};
use std::io::BufReader;
use std::path::Path;

/// Description of the progress.
const WHAT: &str = "reading rows";

/// A JSON object.
pub type Object = Map<String, Value>;

/// Reads a file and passes each object with its place (`file:line`, or `file: row n` for columnar formats) to `take`; `example` shows the
/// format in messages, and `progress` receives (bytes done, total bytes).
///
/// # Errors
/// The first row that is not an object, with its place and the remedy; errors of `take`.
pub fn read_objects(
    vfs: &dyn Vfs,
    path: &Path,
    example: &str,
    progress: &mut Progress<'_>,
    mut take: impl FnMut(&str, Object) -> Result<()>,
) -> Result<()> {
    let name = shown_path(path);
    let format = files::regular_rows(vfs, path)?;
    let file = vfs.open(path).with_context(|| format!("{name}: cannot be opened"))?;
    let bytes = file.bytes();
    #[cfg(not(target_arch = "wasm32"))]
    if matches!(format, files::FileFormat::Parquet | files::FileFormat::Arrow) {
        let mut rows = files::Columns::open(&name, file, format, None)?;
        while let Some((number, object)) = rows.next_row()? {
            if number.is_multiple_of(256) {
                report(progress, WHAT, rows.bytes_done(bytes), bytes)?;
            }
            take(&format!("{name}: row {number}"), object)?;
        }
        return Ok(());
    }
    let opened = files::unpack(&name, file)?;
    let done = opened.done.clone();
    let mut records = Records::new(BufReader::with_capacity(1 << 18, opened.reader), format == files::FileFormat::JsonList);
    for count in 1u64.. {
        let record = records.next().with_context(|| format!("{name}: cannot be read"))?;
        let place = format!("{name}:{}", records.start_line());
        ensure!(record != Record::TooLong, "{place}: row longer than {} MiB. Is it JSONL?", MAX_RECORD_BYTES >> 20);
        if record == Record::End {
            break;
        }
        if count.is_multiple_of(256) {
            report(progress, WHAT, done.load(std::sync::atomic::Ordering::Relaxed).min(bytes), bytes)?;
        }
        let text = records.bytes().trim_ascii();
        if text.is_empty() && record == Record::Whole(true) || text.is_empty() && format == files::FileFormat::JsonLines {
            continue;
        }
        let object = parse(text, example).map_err(|e| anyhow!("{place}: {e}"))?;
        take(&place, object)?;
    }
    Ok(())
}

fn parse(row: &[u8], example: &str) -> Result<Object> {
    let text =
        std::str::from_utf8(row).map_err(|e| anyhow!("not UTF-8 at byte {}. Save the file as UTF-8", e.valid_up_to() + 1))?;
    let value: Value = serde_json::from_str(text).map_err(|e| not_json(text, &e, example))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => bail!("not a JSON object. A row is {example}, on one line or in a list"),
    }
}

/// The error, with a hint about the most common mistakes in JSON.
fn not_json(text: &str, error: &serde_json::Error, example: &str) -> anyhow::Error {
    // The line number within the row is of no use.
    let what = error.to_string();
    let what = display_text(what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what));
    if error.is_eof() {
        return anyhow!("not JSON: {what}: it is cut off. A row is {example}, on one line or in a list");
    }
    let at = text.lines().take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum::<usize>()
        + error.column().saturating_sub(1);
    let near = text.get(at.saturating_sub(9)..(at + 9).min(text.len())).unwrap_or_default();
    if what.contains("recursion limit") {
        return anyhow!("JSON nested more than 127 deep, at byte {}; rows are flatter. Remove the field", at + 1);
    }
    match ["NaN", "Infinity"].into_iter().find(|word| near.contains(word)) {
        Some(word) => anyhow!("not JSON: {word} at byte {}, which JSON has no number for. Write null", at + 1),
        None if at == 0 => anyhow!("not JSON: {what} at byte 1. A row is {example}; convert CSV and other formats first"),
        None => anyhow!("not JSON: {what} at byte {}", at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::silent;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<(String, Object)>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        let mut out = Vec::new();
        read_objects(&crate::vfs::RealFs, &path, "{}", &mut silent, |place, object| {
            out.push((place.rsplit('/').next().unwrap_or_default().to_owned(), object));
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn json_arrays_and_json_lines_are_equivalent() {
        for (name, text, places) in [
            ("a.jsonl", "{\"a\": 1}\n\n{\"a\": 2}", ["a.jsonl:1", "a.jsonl:3"]),
            ("a.json", "[{\"a\": 1},\n {\n\"a\":\n 2}]\n", ["a.json:1", "a.json:2"]),
            ("a.json", "{\"a\": 1}\n{\"a\": 2}\n", ["a.json:1", "a.json:2"]),
            ("a.txt", "\n [ {\"a\": 1}, {\"a\": 2} ]", ["a.txt:2", "a.txt:2"]),
        ] {
            let rows = read(name, text.as_bytes()).unwrap();
            let found: Vec<_> = rows.iter().map(|(place, row)| (place.as_str(), row["a"].as_u64().unwrap())).collect();
            assert_eq!(found, [(places[0], 1), (places[1], 2)], "{text}");
            let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
            assert_eq!(read(name, &packed).unwrap(), rows);
        }
        assert!(read("a.json", b"[]").unwrap().is_empty());
    }

    #[test]
    fn errors_name_row_and_field() {
        for (text, wanted) in [
            ("[{\"a\": 1},\n\n3]", ":3: not a JSON object"),
            ("[{\"a\": 1},", ":1: not JSON: EOF while parsing a value: it is cut off"),
            ("[{\"a\": 1}", ":1: not JSON: EOF while parsing a value: it is cut off"),
            ("[{\"a\": 1}] {", ":1: not JSON: EOF"),
            ("{\"a\": 1, \"b\": NaN}", ":1: not JSON: NaN at byte 15, which JSON has no number for. Write null"),
            ("{\"a\": -Infinity}", ":1: not JSON: Infinity at byte"),
            ("{\"a\": }", ":1: not JSON: expected value at byte 7"),
            ("a,b\n1,2", ":1: not JSON: expected value at byte 1. A row is {}; convert CSV"),
            ("{\n\"a\": 1}", ":1: not JSON: EOF while parsing an object: it is cut off. A row is {}, on one line or in a list"),
        ] {
            let error = read("x.json", text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}\n{error}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(read("x.json", deep.as_bytes()).unwrap_err().to_string().contains(":1: JSON nested more than 127 deep"));
        let mut tar = vec![0; 512];
        tar[..5].copy_from_slice(b"a.txt");
        tar[257..262].copy_from_slice(b"ustar");
        assert!(read("a.jsonl", &tar).unwrap_err().to_string().contains("this is a tar archive; unpack it first"));
        let packed = zstd::encode_all(&tar[..], 1).unwrap();
        assert!(read("a.tar.zst", &packed).unwrap_err().to_string().contains("this is a tar archive"));
        let utf16: Vec<u8> = "\u{FEFF}{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(read("a.jsonl", &utf16).unwrap_err().to_string().contains("this is UTF-16 text; convert it to UTF-8 first"));
        assert!(read("a.parquet", b"{}").unwrap_err().to_string().contains("is not a Parquet file"));
        assert!(read("a.parquet", b"PAR1....PAR1").unwrap_err().to_string().contains("cannot be read"));
    }
}
