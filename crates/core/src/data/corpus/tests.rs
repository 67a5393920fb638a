use super::*;
use crate::vfs::RealFs;
use std::fs;

fn read(corpus: &Corpus) -> Result<(Vec<String>, Vec<String>)> {
    let (mut notices, mut documents, mut current) = (Notices::new(), Vec::new(), String::new());
    let mut pieces = corpus.pieces();
    while let Some(piece) = pieces.next_piece(&mut notices)? {
        current.push_str(&piece.text);
        if piece.ends_document {
            documents.push(std::mem::take(&mut current));
        }
    }
    assert!(current.is_empty(), "text after the last document");
    assert_eq!(pieces.bytes_done(), corpus.total_bytes());
    Ok((documents, notices.take()))
}

/// Documents and notices of one file with this content, or the error, which must be one line.
fn read_file(name: &str, content: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let result = Corpus::open(&RealFs, &[path], &mut Notices::new()).and_then(|corpus| read(&corpus));
    result.map_err(|e| {
        let text = format!("{e:#}");
        assert!(!text.contains('\n') && text.contains(name), "{text:?}");
        text
    })
}

#[test]
fn content_hash_depends_on_every_character() {
    for text in ["a", " a\n\n", "\u{0}x\r\ny\r\n", "é\u{301}🙂\n", "no newline"] {
        assert_eq!(read_file("t.txt", text.as_bytes()).unwrap().0, [text]);
    }
    let with_mark = read_file("t.txt", "\u{FEFF}text".as_bytes()).unwrap();
    assert_eq!(with_mark.0, ["text"]);
    assert!(read_file("t.txt", b"a\r\nb").unwrap().1[0].contains("CR LF"));
}

#[test]
fn long_text_is_read_in_pieces_without_loss() {
    for unit in ["word and\nmore é東🙂 ", "\u{301}", "🙂", "x", "\n", " a"] {
        let text = unit.repeat((3 << 20) / unit.len() + 7) + "end";
        let corpus = Corpus::from_text("memory", text.clone());
        let (mut pieces, mut notices, mut largest, mut count) = (corpus.pieces(), Notices::new(), 0, 0);
        let mut joined = String::new();
        while let Some(piece) = pieces.next_piece(&mut notices).unwrap() {
            joined.push_str(&piece.text);
            largest = largest.max(piece.text.len());
            count += 1;
        }
        assert!(joined == text && largest <= 2 << 20 && count >= 3, "{unit:?}: {count} pieces, largest {largest}");
    }
    // Exactly the buffer size: the end is only found by reading further.
    let exact = "x".repeat(1 << 20);
    assert!(read_file("t.txt", exact.as_bytes()).unwrap().0 == [exact]);
}

#[test]
fn invalid_utf8_is_dropped_and_counted() {
    let mut text = "line\n".repeat(1000).into_bytes();
    text[2502] = 0xFF;
    text[2510] = 0xC3;
    let (documents, notices) = read_file("t.txt", &text).unwrap();
    assert_eq!(documents[0].len(), 4998);
    assert!(notices[0].contains("t.txt:501:3: not UTF-8"), "{notices:?}");
    assert!(notices[1].contains("2 bytes"));
    assert!(read_file("t.txt", &[b"a".repeat(90), vec![0xFF; 2]].concat()).unwrap_err().contains("more than 1 %"));
    // A character truncated by the end of the file.
    let cut = [b"word ".repeat(100), vec![0xF0, 0x9F]].concat();
    assert_eq!(read_file("t.txt", &cut).unwrap().0[0].len(), 500);
    let random: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(read_file("t.txt", &random).unwrap_err().contains("not UTF-8"));
}

#[test]
fn other_file_formats_are_recognised() {
    let utf16: Vec<u8> = "some ordinary text".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], &str); 8] = [
        (b"", "0 bytes"),
        (b" \n\n\t", "no usable text"),
        (b"PK\x03\x04zip", "zip"),
        (b"PAR1....", "Parquet"),
        (b"\xFF\xFEa\0", "UTF-16"),
        (&utf16, "UTF-16"),
        (b"BZh91AY&SY", "bzip2"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
    ];
    for (content, expected) in cases {
        for name in ["t.txt", "t.jsonl"] {
            let error = read_file(name, content).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
    // A compressed file is decompressed, so a truncated one is reported as damaged.
    assert!(read_file("t.txt", b"\x1F\x8B\x08\0").unwrap_err().contains("cannot be read"));
}

#[test]
fn jsonl_lines_are_documents() {
    let content = "\u{FEFF}{\"text\":\"one\\n\\u00e9\"}\r\n\r\n{\"id\":[1e999,{}],\"text\":\" two \"}\n{\"text\":\"three\"}";
    let (documents, notices) = read_file("t.jsonl", content.as_bytes()).unwrap();
    assert_eq!(documents, ["one\né", " two ", "three"]);
    assert!(notices.is_empty(), "{notices:?}");
    let (documents, notices) = read_file("t.json", b"[{\"text\": \"one\"},\n{\"text\": \"two\"}").unwrap();
    assert_eq!((documents.len(), notices.len()), (2, 1), "{notices:?}");
    assert!(notices[0].contains("t.json:2: the list is cut off"), "{notices:?}");
    assert!(read_file("t.jsonl", b"{\"text\": \"one\"}\n ").unwrap().1.is_empty());
}

#[test]
fn hostile_jsonl_lines_are_skipped_and_counted() {
    let deep = "[".repeat(10_000);
    let bad = [
        r#"{"txt":"x"}"#,
        r#"{"text":5}"#,
        r#"{"text":null}"#,
        r#"{"text":["x"]}"#,
        r#"{"text":{"text":"x"}}"#,
        r#"["x"]"#,
        r#""x""#,
        "NaN",
        r#"{"text":NaN}"#,
        r#"{"text":"\ud800"}"#,
        r#"{"text":"a","text":"b"}"#,
        r#"{"text":"a"} trailing"#,
        "{\"text\":\"raw\u{1}control\"}",
        &deep,
        r#"{"text":"unfinished"#,
    ];
    let content =
        format!("{{\"text\":\"good\"}}\n{}\n{{\"text\":\"\"}}\n{{\"text\":\"also\"}}\n{{\"text\":\"cut o", bad.join("\n"));
    let (documents, notices) = read_file("t.jsonl", content.as_bytes()).unwrap();
    assert_eq!(documents, ["good", "also"]);
    let found = |text: &str| notices.iter().filter(|n| n.contains(text)).count();
    assert_eq!(
        (found("skipped: "), found("15 of 19 lines"), found("1 of 19 documents left out: empty")),
        (4, 1, 1),
        "{notices:?}"
    );
    assert!(found(":2: skipped: missing field `text`") == 1 && found(":19: last line is cut off") == 1, "{notices:?}");
    assert!(read_file("t.jsonl", bad.join("\n").as_bytes()).unwrap_err().contains("no usable text"));
}

#[test]
fn invalid_utf8_in_jsonl_is_skipped_and_counted() {
    let mut content = "{\"text\":\"some words\"}\n".repeat(200).into_bytes();
    content[22 + 10] = 0xFF;
    let (documents, notices) = read_file("t.jsonl", &content).unwrap();
    assert_eq!(documents.len(), 199);
    assert!(notices[0].contains("t.jsonl:2:11: not UTF-8"), "{notices:?}");
    assert!(notices.iter().any(|n| n.contains("of the first 199 documents repeat")));
    (0..3).for_each(|i| content[22 * (5 + i) + 10] = 0xFF);
    assert!(read_file("t.jsonl", &content).unwrap_err().contains("4 of 200 lines"));
}

#[test]
fn overlong_lines_are_skipped() {
    let mut content = b"{\"text\":\"a\"}\n{\"text\":\"".to_vec();
    content.resize((16 << 20) + 100, b'x');
    content.extend(b"\"}\n{\"text\":\"b\"}\n");
    let (documents, notices) = read_file("t.jsonl", &content).unwrap();
    assert_eq!(documents, ["a", "b"]);
    assert!(notices[0].contains("t.jsonl:2: line longer than 16 MiB"));
}

#[test]
fn folders_are_read_in_the_order_of_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let open = || Corpus::open(&RealFs, &[folder.path().to_owned()], &mut Notices::new());
    assert!(open().err().unwrap().to_string().contains("no .txt"));
    fs::create_dir(at("b")).unwrap();
    fs::create_dir(at(".git")).unwrap();
    for (name, text) in [("c.txt", "3"), ("a.MD", "1"), ("b/z.text", "2"), (".git/x.txt", "no"), ("d.json", "no"), ("e.txt", "")]
    {
        fs::write(at(name), text).unwrap();
    }
    fs::write(at("d.jsonl"), "{\"text\":\"4\"}\n{\"text\":\"5\"}\n").unwrap();
    let corpus = open().unwrap();
    assert!(corpus.may_have_several_documents());
    assert_eq!(read(&corpus).unwrap().0, ["1", "2", "3", "4", "5"]);
}

#[test]
fn devices_and_missing_files_are_refused() {
    let error = |path: &str| Corpus::open(&RealFs, &[path.into()], &mut Notices::new()).err().unwrap().to_string();
    assert!(error("/no/such\u{1b}[2J").contains("/no/such\\u{1b}[2J: no such file"));
    if cfg!(unix) {
        assert!(error("/dev/zero").contains("not a regular file"));
    }
}

#[test]
fn a_file_changed_while_reading_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.txt");
    fs::write(&path, "some text").unwrap();
    let corpus = Corpus::open(&RealFs, std::slice::from_ref(&path), &mut Notices::new()).unwrap();
    fs::write(&path, "some more text").unwrap();
    assert!(read(&corpus).unwrap_err().to_string().contains("changed while it was read"));
}
