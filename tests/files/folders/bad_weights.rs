//! Catalogue C1: every bad weight file is refused in one line that names the file and, where there is one, the tensor.

use super::*;
use lehr::vfs::RealFs;

/// A file with this header and this number of bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(vec![0; data]);
    out
}

fn entry(name: &str, rest: &str) -> String {
    format!(r#""{name}":{{{rest}}}"#)
}

fn f32s(name: &str, shape: &str, from: u64, to: u64) -> String {
    entry(name, &format!(r#""dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]"#))
}

fn length(n: u64, rest: &[u8]) -> Vec<u8> {
    [&n.to_le_bytes()[..], rest].concat()
}

/// Row of the catalogue, content, parts of the message.
fn table() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let one = |entry: String, data| file(&format!("{{{entry}}}"), data);
    let two = |a: String, b: String, data| file(&format!("{{{a},{b}}}"), data);
    let long = "n".repeat(10_000);
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    vec![
        ("1", vec![], vec!["0 bytes", "at least 8"]),
        ("2", vec![1; 7], vec!["7 bytes"]),
        ("3", length(u64::MAX, b"{}"), vec!["18446744073709551615", "10"]),
        ("4", length(100, b"{}"), vec!["100", "truncated"]),
        ("5", length(0, b""), vec!["header length 0"]),
        ("6", length(95 << 20, b"{"), vec!["16.0 MiB"]),
        ("7", length(3, b"{\xff}"), vec!["UTF-8 at byte 9"]),
        ("8a", file(r#"{"a":{"dtype":"F32""#, 0), vec!["'a'", "column"]),
        ("8b", file("\u{feff}{}", 0), vec!["starts with"]),
        ("8c", file("[]", 0), vec!["starts with '['"]),
        ("8d", file("null", 0), vec!["starts with 'n'"]),
        ("8e", file("{} x", 0), vec!["column"]),
        ("9", file(&deep, 0), vec!["'a'"]),
        ("10", one(f32s("a", "[1]", 0, 4), 7), vec!["3 extra bytes", "'a'"]),
        ("11", one(f32s("a", "[2]", 0, 8), 4), vec!["truncated", "'a'", "8", "4"]),
        ("12", two(f32s("a", "[2]", 0, 8), f32s("b", "[2]", 4, 12), 12), vec!["'a'", "'b'", "overlap"]),
        ("13", two(f32s("a", "[1]", 0, 4), f32s("b", "[1]", 8, 12), 12), vec!["'a'", "'b'", "4 bytes"]),
        ("13b", one(f32s("a", "[1]", 4, 8), 8), vec!["before the first", "'a'"]),
        ("14a", one(f32s("a", "[1]", 8, 4), 8), vec!["'a'", "backwards"]),
        ("14b", one(entry("a", r#""dtype":"F32","shape":[1],"data_offsets":[-4,0]"#), 4), vec!["'a'", "data_offsets"]),
        ("14c", one(entry("a", r#""dtype":"F32","shape":[1],"data_offsets":[0,4.5]"#), 4), vec!["'a'", "data_offsets"]),
        ("14d", one(entry("a", r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#), 4), vec!["'a'", "shape"]),
        ("15a", one(f32s("a", "[4194305,4194305,211106198978564]", 0, 4), 4), vec!["'a'", "overflow"]),
        ("15b", one(f32s("a", "[4194305,4194305,211106198978564,0]", 0, 0), 0), vec!["'a'", "overflow"]),
        ("16", one(f32s("a", "[3]", 0, 8), 8), vec!["'a'", "12 bytes", "hold 8"]),
        ("17a", one(entry("a", r#""dtype":"F31","shape":[1],"data_offsets":[0,4]"#), 4), vec!["'a'", "F31", "F32, F16 or BF16"]),
        ("17b", one(entry("a", r#""dtype":"I4","shape":[2],"data_offsets":[0,1]"#), 1), vec!["'a'", "I4"]),
        ("17c", one(entry("a", r#""shape":[1],"data_offsets":[0,4]"#), 4), vec!["'a'", "dtype is missing"]),
        ("19", two(f32s("a", "[1]", 0, 4), f32s("a", "[1]", 0, 4), 4), vec!["duplicate", "'a'"]),
        ("20", two(f32s("a", "[1]", 0, 4), f32s("a", "[1]", 4, 8), 8), vec!["duplicate", "'a'"]),
        ("20b", one(entry("a", r#""dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]"#), 4), vec!["'a'", "twice"]),
        ("22a", file(r#"{"__metadata__":{"x":1}}"#, 0), vec!["__metadata__", "texts"]),
        ("22b", one(f32s("__metadata__", "[1]", 0, 4), 4), vec!["__metadata__"]),
        ("23a", one(f32s("", "[1]", 0, 4), 4), vec!["empty name"]),
        ("23b", one(f32s(&long, "[1]", 0, 4), 4), vec!["10000 bytes long"]),
        ("23c", one(f32s("a\\u0000", "[1]", 0, 4), 4), vec!["control"]),
        ("23d", one(f32s("a\\u001b[2J", "[1]", 0, 4), 4), vec!["control", "u{1b}"]),
        ("39a", b"PK\x03\x04abcdefgh".to_vec(), vec!["PyTorch (zip)"]),
        ("39b", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), vec!["pickle"]),
        ("39c", b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), vec!["GGUF"]),
        ("39d", b"\n<!DOCTYPE html><html>".to_vec(), vec!["HTML"]),
        ("39e", b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), vec!["git lfs pull"]),
        ("39f", b"{\"weight_map\":{}}".to_vec(), vec!["JSON"]),
    ]
}

#[test]
fn malformed_files_are_refused_with_the_cause() {
    let dir = temp();
    let path = dir.path().join("model.safetensors");
    for (row, content, parts) in table() {
        fs::write(&path, content).unwrap();
        let start = std::time::Instant::now();
        let text = format!("{:#}", SafetensorsFile::open(&RealFs, &path).expect_err(row));
        assert!(text.contains("model.safetensors"), "{row}: {text}");
        for part in parts {
            assert!(text.contains(part), "{row}: '{part}' is not in: {text}");
        }
        assert!(!text.chars().any(char::is_control) && text.len() < 700, "{row}: {text:?}");
        assert!(start.elapsed().as_millis() < 500, "{row}");
    }
}

#[test]
fn huge_headers_are_cheap_to_refuse() {
    let mut header = String::from("{");
    for i in 0..300_000 {
        header.push_str(&format!(
            "{}\"t{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
            if i > 0 { "," } else { "" }
        ));
        if header.len() > 16_000_000 {
            break;
        }
    }
    header.push('}');
    let dir = temp();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, file(&header, 0)).unwrap();
    let text = format!("{:#}", SafetensorsFile::open(&RealFs, &path).unwrap_err());
    assert!(text.contains("200000 tensors"), "{text}");
}

#[test]
fn non_regular_files_are_refused_without_opening() {
    let dir = temp();
    let text = format!("{:#}", SafetensorsFile::open(&RealFs, dir.path()).unwrap_err());
    assert!(text.contains("a folder"), "{text}");
    let text = format!("{:#}", SafetensorsFile::open(&RealFs, &dir.path().join("no\n\u{1b}[2Jthing")).unwrap_err());
    assert!(text.contains("cannot be opened") && !text.chars().any(char::is_control), "{text:?}");
    #[cfg(unix)]
    {
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(format!("{:#}", SafetensorsFile::open(&RealFs, &pipe).unwrap_err()).contains("a pipe"));
        assert!(format!("{:#}", SafetensorsFile::open(&RealFs, Path::new("/dev/zero")).unwrap_err()).contains("device"));
    }
}

fn tensors(list: &[(&str, safetensors::Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = list
        .iter()
        .map(|(name, dtype, shape, data)| (*name, safetensors::tensor::TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn half_precision_is_converted_and_bad_numbers_are_named() {
    use safetensors::Dtype;
    let dir = temp();
    let path = dir.path().join("model.safetensors");
    let (h, b) = (half::f16::from_f32(-1.5), half::bf16::from_f32(3.0));
    let bad: Vec<u8> = [1.0f32, 2.0, f32::NAN, f32::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
    let content = tensors(&[
        ("f16", Dtype::F16, &[2], [h.to_le_bytes(), h.to_le_bytes()].concat()),
        ("bf16", Dtype::BF16, &[1, 2], [b.to_le_bytes(), b.to_le_bytes()].concat()),
        ("bad", Dtype::F32, &[4], bad),
        ("ids", Dtype::I64, &[1], vec![0; 8]),
        ("none", Dtype::F32, &[0, 4], vec![]),
        ("wide", Dtype::F32, &[2, 3], vec![0; 24]),
    ]);
    fs::write(&path, content).unwrap();
    let open = SafetensorsFile::open(&RealFs, &path).unwrap();
    assert_eq!(open.read_f32("f16", &[2]).unwrap(), [-1.5, -1.5]);
    assert_eq!(open.read_f32("bf16", &[1, 2]).unwrap(), [3.0, 3.0]);
    assert_eq!(open.read_f32("none", &[0, 4]).unwrap(), [0f32; 0]);
    for (name, shape, parts) in [
        ("bad", vec![4], vec!["'bad'", "2 of 4", "index 2", "NaN"]),
        ("ids", vec![1], vec!["'ids'", "I64"]),
        ("wide", vec![3, 2], vec!["'wide'", "[2, 3]", "[3, 2]", "transposed"]),
        ("gone", vec![3, 2], vec!["'gone'", "not in the file"]),
    ] {
        let text = format!("{:#}", open.read_f32(name, &shape).unwrap_err());
        for part in parts.iter().chain(&["model.safetensors"]) {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
    }
    // The file shrinks while it is open: an error, not a signal.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(400).unwrap();
    assert!(format!("{:#}", open.read_f32("wide", &[2, 3]).unwrap_err()).contains("shrink"));
}

#[test]
fn written_files_load_here_and_in_the_safetensors_crate() {
    let mut out = Vec::new();
    let metadata = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
    let mut list = specs();
    list.push(("large".into(), vec![1 << 10, 300]));
    write_safetensors(&mut out, &metadata, &list, |name, sink| {
        let shape = &list.iter().find(|s| s.0 == name).unwrap().1;
        numbers(1, name, shape).chunks(1000).try_for_each(|piece| sink.write(piece))
    })
    .unwrap();
    assert_eq!(out.len() as u64, serialized_bytes(&metadata, &list).unwrap());
    assert_eq!(u64::from_le_bytes(out[..8].try_into().unwrap()) % 8, 0);
    let theirs = safetensors::SafeTensors::deserialize(&out).unwrap();
    let (_, read) = safetensors::SafeTensors::read_metadata(&out).unwrap();
    assert_eq!(read.metadata().as_ref().unwrap()["format"], "pt");
    let dir = temp();
    fs::write(dir.path().join("model.safetensors"), &out).unwrap();
    let ours = WeightFiles::open(&RealFs, dir.path()).unwrap();
    for (name, shape) in &list {
        let expected = numbers(1, name, shape);
        assert_eq!(ours.read_f32(name, shape).unwrap(), expected);
        let view = theirs.tensor(name).unwrap();
        assert_eq!(view.shape(), shape);
        assert!(view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).eq(expected));
    }
}

#[test]
fn the_writer_refuses_unreadable_files() {
    let fill = |_: &str, sink: &mut lehr::model_files::safetensors_file::TensorSink| sink.write(&[1.0, 2.0]);
    for (names, part) in [
        (vec![("__metadata__", 2)], "__metadata__"),
        (vec![("", 2)], "''"),
        (vec![("a", 2), ("a", 2)], "'a' is written twice"),
        (vec![("a", 3)], "1 of [3] numbers are missing"),
        (vec![("a", 1)], "1 numbers more"),
    ] {
        let list: Vec<_> = names.iter().map(|(n, len)| (n.to_string(), vec![*len])).collect();
        let text = format!("{:#}", write_safetensors(&mut Vec::new(), &BTreeMap::new(), &list, fill).unwrap_err());
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

/// Differential: whatever is changed in a small file, we never panic, and what we accept the crate accepts with the same tensors.
#[test]
fn accepted_files_are_accepted_by_the_safetensors_crate() {
    let valid =
        tensors(&[("a", safetensors::Dtype::F32, &[2], vec![0; 8]), ("b.weight", safetensors::Dtype::BF16, &[2, 2], vec![0; 8])]);
    let dir = temp();
    let path = dir.path().join("x.safetensors");
    let (mut random, mut accepted) = (Lcg(3), 0);
    for _ in 0..4000 {
        let mut bad = valid.clone();
        for _ in 0..=random.below(2) {
            let at = random.below(bad.len());
            match random.below(4) {
                0 => bad[at] ^= 1 << random.below(8),
                1 => bad[at] = b"0123456789,:{}[]\"-"[random.below(18)],
                2 => drop(bad.remove(at)),
                _ => bad.insert(at, b"0{}[],: 9"[random.below(9)]),
            }
        }
        fs::write(&path, &bad).unwrap();
        if let Ok(ours) = SafetensorsFile::open(&RealFs, &path) {
            accepted += 1;
            let theirs = safetensors::SafeTensors::deserialize(&bad).expect("the crate refuses what we accept");
            assert_eq!(ours.tensors().len(), theirs.len());
            for (name, info) in ours.tensors() {
                assert_eq!(info.shape, theirs.tensor(name).unwrap().shape());
            }
        }
    }
    assert!(accepted > 50, "{accepted}");
}

#[test]
fn shards_are_joined_and_their_errors_named() {
    let dir = temp();
    let write = |name: &str, list: &[(&str, usize)]| {
        let list: Vec<_> = list.iter().map(|(n, len)| (*n, safetensors::Dtype::F32, vec![*len], vec![0u8; 4 * len])).collect();
        let list: Vec<_> = list.iter().map(|(n, d, s, b)| (*n, *d, s.as_slice(), b.clone())).collect();
        fs::write(dir.path().join(name), tensors(&list)).unwrap();
    };
    let index = |text: &str| fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    let error = || format!("{:#}", WeightFiles::open(&RealFs, dir.path()).unwrap_err());
    assert!(error().contains("neither"), "{}", error());
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(error().contains("PyTorch"), "{}", error());
    write("s1.safetensors", &[("a", 1)]);
    write("s2.safetensors", &[("b", 2)]);
    index(r#"{"metadata":{},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#);
    let open = WeightFiles::open(&RealFs, dir.path()).unwrap();
    assert_eq!(open.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(open.shape("b"), Some(&[2usize][..]));
    for (text, part) in [
        (r#"{"weight_map":{"a":"../s1.safetensors"}}"#, "'../s1.safetensors'"),
        (r#"{"weight_map":{"a":"s9.safetensors"}}"#, "s9.safetensors"),
        (r#"{"weight_map":{"c":"s1.safetensors"}}"#, "'c'"),
        (r#"{"weight_map":{}}"#, "names 0 files"),
        (r#"{"weight_map":"#, "index.json"),
    ] {
        index(text);
        assert!(error().contains(part), "'{part}' is not in: {}", error());
    }
    write("s2.safetensors", &[("a", 1), ("b", 2)]);
    index(r#"{"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}}"#);
    assert!(error().contains("'a' is in two files"), "{}", error());
}

#[test]
fn wrong_sets_of_tensors_are_listed_with_the_nearest_name() {
    let dir = temp();
    let names: Vec<String> = (0..8).map(|i| format!("model.layers.{i}.extra")).collect();
    let mut list: Vec<_> = names.iter().map(|n| (n.as_str(), safetensors::Dtype::F32, &[1usize][..], vec![0; 4])).collect();
    list.push(("model.norm.wieght", safetensors::Dtype::F32, &[3], vec![0; 12]));
    list.push(("model.embed_tokens.weight", safetensors::Dtype::F32, &[3, 4], vec![0; 48]));
    list.push(("rotary.inv_freq", safetensors::Dtype::F32, &[1], vec![0; 4]));
    fs::write(dir.path().join("model.safetensors"), tensors(&list)).unwrap();
    let open = WeightFiles::open(&RealFs, dir.path()).unwrap();
    let text = format!("{:#}", open.expect(&specs(), &|name| name.ends_with("inv_freq")).unwrap_err());
    for part in [
        "1 missing: 'model.norm.weight' (nearest: 'model.norm.wieght')",
        "9 unexpected: 'model.layers.0.extra'",
        ", ...",
        "'model.embed_tokens.weight' has [3, 4], needs [4, 3] (transposed?)",
    ] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    assert!(!text.contains("inv_freq") && !text.contains("layers.6"), "{text}");
}
