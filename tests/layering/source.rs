//! Rust text without comments, strings and test code, by a scanner small enough to trust.

/// `text` with comments, string and character literals replaced by spaces; line breaks and offsets stay.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut out[at..end.max(at)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("spaces are UTF-8")
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let until = |mark: &[u8], from: usize| {
        rest[from..].windows(mark.len()).position(|w| w == mark).map_or(bytes.len(), |p| at + from + p + mark.len())
    };
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => until(b"\n", 0).saturating_sub(1).max(at + 2),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] if !after_word => {
            let start = rest.iter().position(|&b| b == b'"' || b == b'#').unwrap_or(0);
            let hashes = rest[start..].iter().take_while(|&&b| b == b'#').count();
            if rest.get(start + hashes) != Some(&b'"') {
                return at; // r#ident
            }
            until(&[b"\"".as_slice(), &vec![b'#'; hashes]].concat(), start + hashes + 1)
        }
        [b'"', ..] => escaped_end(bytes, at, b'"'),
        // A character; 'a without a second quote is a lifetime.
        [b'\'', b'\\', ..] => escaped_end(bytes, at, b'\''),
        [b'\'', first, ..] => {
            let width = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if rest.get(1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        _ => at,
    }
}

fn escaped_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// Offset after the brace that closes the one at `open`, in blanked text.
pub fn block_end(blanked: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in blanked.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    blanked.len()
}

/// Blanked text without the items under `#[cfg(test)]`, and the names of the modules among them that are files of their own.
pub fn without_tests(blanked: &str) -> (String, Vec<String>) {
    let mut out = blanked.to_string();
    let mut files = Vec::new();
    let mut from = 0;
    while let Some(start) = out[from..].find("#[cfg(test)]").map(|p| from + p) {
        let item = start + "#[cfg(test)]".len();
        let Some(stop) = out[item..].find(['{', ';']).map(|p| item + p) else { break };
        let end = if out.as_bytes()[stop] == b'{' { block_end(&out, stop) } else { stop + 1 };
        if out.as_bytes()[stop] == b';' {
            let words: Vec<&str> = out[item..stop].split_whitespace().collect();
            if let [.., "mod", name] = words[..] {
                files.push(name.to_string());
            }
        }
        let spaces: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &spaces);
        from = end;
    }
    (out, files)
}

/// Offsets where `word` stands alone in blanked text.
pub fn words<'a>(blanked: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_name = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
    blanked.match_indices(word).map(|(i, _)| i).filter(move |&i| {
        let bytes = blanked.as_bytes();
        let before = if i == 0 { None } else { Some(bytes[i - 1]) };
        !part_of_name(before) && !part_of_name(bytes.get(i + word.len()).copied())
    })
}

/// Line of an offset, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].bytes().filter(|&b| b == b'\n').count() + 1
}

/// (name, first line, lines) of every function with a body.
pub fn functions(blanked: &str) -> Vec<(String, usize, usize)> {
    words(blanked, "fn")
        .filter_map(|at| {
            let rest = &blanked[at + 2..];
            let name: String = rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let mut depth = 0;
            let stop = rest.bytes().position(|b| {
                depth += i32::from(matches!(b, b'(' | b'[')) - i32::from(matches!(b, b')' | b']'));
                depth == 0 && matches!(b, b'{' | b';')
            });
            let stop = at + 2 + stop?;
            if name.is_empty() || blanked.as_bytes()[stop] == b';' {
                return None;
            }
            let (first, last) = (line_of(blanked, at), line_of(blanked, block_end(blanked, stop) - 1));
            Some((name, first, last - first + 1))
        })
        .collect()
}

/// Top names after `crate::`, also in groups: `crate::{gpu::Gpu, ops}` has gpu and ops.
pub fn crate_paths(blanked: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(blanked, "crate") {
        let Some(rest) = blanked[at..].strip_prefix("crate::") else { continue };
        if !rest.starts_with('{') {
            found.push((at, rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()));
            continue;
        }
        let (mut depth, mut name, mut open) = (0, String::new(), true);
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {}
                c if depth == 1 && open && (c.is_alphanumeric() || c == '_') => {
                    name.push(c);
                    continue;
                }
                c if c.is_whitespace() => continue,
                _ => {
                    open = false;
                    continue;
                }
            }
            if !name.is_empty() && (c == ',' || depth != 1 || c == '}') {
                found.push((at, std::mem::take(&mut name)));
            }
            open = c == ',' || (c == '{' && depth == 1) || (open && depth > 1);
            if depth == 0 {
                break;
            }
        }
    }
    found
}
