//! Untrusted files: a short mutation run of each target of `tests/fuzz/targets.rs`, from its corpus in `fuzz/corpus` and a
//! seed. `scripts/fuzz SECONDS` runs longer; cargo-fuzz (`fuzz/README.md`) is guided by coverage.
//!
//! LEHR_FUZZ_SECONDS (each target), LEHR_FUZZ_SEED. An input that fails is kept as `target/fuzz/TARGET.last`.

#[path = "fuzz/targets.rs"]
mod targets;

use lehr::rng::Rng;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// Maximum length of an input.
const MOST_BYTES: usize = 1 << 18;
/// Maximum number of accepted inputs that are added to the pool.
const MOST_KEPT: usize = 200;
/// Time limit of an input.
const SLOW: Duration = Duration::from_secs(20);
/// Tokens that are edge cases of number and bracket parsers.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "NaN",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "]}",
    "\\ud800",
    "\\u0000",
    "\u{FEFF}",
    "\u{1b}[2J",
    "\n",
    "\r\n",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "-%}",
    "not ",
    "|list",
    "|tojson",
    " + ",
    " * ",
    "namespace()",
    "range(99999)",
    "ns.x",
    "\"role\"",
    "\"content\"",
    "\"dtype\"",
    "\"data_offsets\"",
    "\"F32\"",
    "\"command\"",
    "\"vocab\"",
    "\"merges\"",
    "\"type\"",
    "\"added_tokens\"",
    "\"rope_scaling\"",
];

/// A stream of random numbers.
struct Draws {
    rng: Rng,
    count: u64,
}

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.count += 1;
        self.rng.below(0, self.count, n)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = root().join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// A random range of an input, at most `most` bytes long.
fn span(rng: &mut Draws, bytes: &[u8], most: usize) -> std::ops::Range<usize> {
    let start = rng.below(bytes.len() as u64 + 1) as usize;
    let length = rng.below(most.min(bytes.len() - start) as u64 + 1) as usize;
    start..start + length
}

/// Applies one random mutation.
fn mutate(rng: &mut Draws, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = |rng: &mut Draws, bytes: &[u8]| rng.below(bytes.len().max(1) as u64) as usize;
    match rng.below(10) {
        0 if !bytes.is_empty() => {
            let i = at(rng, bytes);
            bytes[i] ^= 1 << rng.below(8);
        }
        1 if !bytes.is_empty() => {
            let i = at(rng, bytes);
            bytes[i] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'[', b'\\', b'-'][rng.below(10) as usize];
        }
        2 => drop(bytes.drain(span(rng, bytes, 64))),
        3 => bytes.truncate(at(rng, bytes)),
        4 => {
            // Repeats a part: nesting, long lists, long names.
            let range = span(rng, bytes, 32);
            let times = 1 << rng.below(12);
            let part = bytes[range.clone()].repeat(times);
            bytes.splice(range.end..range.end, part);
        }
        5 => {
            let part = other[span(rng, other, 256)].to_vec();
            let range = span(rng, bytes, 256);
            bytes.splice(range, part);
        }
        6 => {
            // Replaces a number.
            let digits: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i].is_ascii_digit()).collect();
            let Some(start) = digits.get(rng.below(digits.len().max(1) as u64) as usize).copied() else { return };
            let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(start..end, WORDS[rng.below(10) as usize].bytes());
        }
        7 if bytes.len() >= 8 => {
            let i = rng.below(bytes.len() as u64 - 7) as usize;
            let value = [0, 1, u64::MAX, 1 << 31, 1 << 40, bytes.len() as u64][rng.below(6) as usize];
            bytes[i..i + 8].copy_from_slice(&value.to_le_bytes());
        }
        _ => {
            let i = at(rng, bytes);
            bytes.splice(i..i, WORDS[rng.below(WORDS.len() as u64) as usize].bytes());
        }
    }
    bytes.truncate(MOST_BYTES);
}

fn run((name, target): Target) {
    let seconds = number("LEHR_FUZZ_SECONDS", 2);
    let seed = number("LEHR_FUZZ_SEED", 0);
    let (mut rng, mut pool) = (Draws { rng: Rng::new(seed, name), count: 0 }, corpus(name));
    assert!(pool.len() > 1, "fuzz/corpus/{name} is missing");
    for input in &pool {
        target(input);
    }
    assert!(pool.iter().any(|input| target(input)), "no input of fuzz/corpus/{name} is accepted");
    let kept = root().join("target/fuzz");
    std::fs::create_dir_all(&kept).unwrap();
    let (last, own, begin) = (kept.join(format!("{name}.last")), pool.len(), Instant::now());
    let (mut inputs, mut good) = (0u64, 0u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let mut input = pool[rng.below(pool.len() as u64) as usize].clone();
        let other = pool[rng.below(pool.len() as u64) as usize].clone();
        (0..=rng.below(4)).for_each(|_| mutate(&mut rng, &mut input, &other));
        // After an abort, this file is the only record of the input.
        std::fs::write(&last, &input).unwrap();
        let start = Instant::now();
        let accepted = target(&input);
        assert!(start.elapsed() < SLOW, "{name}: {:?} for {}", start.elapsed(), last.display());
        (inputs, good) = (inputs + 1, good + u64::from(accepted));
        if accepted && pool.len() < own + MOST_KEPT {
            pool.push(input);
        }
    }
    eprintln!("{name}: {inputs} inputs, {good} accepted, in {seconds} s");
    std::fs::remove_file(&last).unwrap();
}

fn named(name: &str) {
    run(*TARGETS.iter().find(|(target, _)| *target == name).expect("a target of that name"));
}

#[test]
fn safetensors() {
    named("safetensors");
}

#[test]
fn config() {
    named("config");
}

#[test]
fn tokenizer() {
    named("tokenizer");
}

#[test]
fn template() {
    named("template");
}

#[test]
fn rows() {
    named("rows");
}

#[test]
fn gguf() {
    named("gguf");
}

#[test]
fn control() {
    named("control");
}
