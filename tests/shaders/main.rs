//! Gates over every WGSL text, without a GPU: imports, validity, portability rules, translation to every backend's language.
//!
//! Translations are left in `target/translated/` for `scripts/check-tint` and `scripts/check-dxc`.

mod data_flow;
mod expr;
mod lint;
mod rules;
mod statement_order;
mod texts;
mod translate;

use lint::Rule;
use std::fmt::Write as _;

/// Rules that a text breaks on purpose: stem (or its beginning, before `*`), function, rule, reason. Entries that excuse nothing fail.
const EXCUSED: &[(&str, &str, Rule, &str)] = &[
    (
        "logprob",
        "forward",
        Rule::UnboundedExp,
        "the row's maximum is subtracted, so that the argument is at most 0; the lower end is clamped",
    ),
    (
        "sample",
        "draw",
        Rule::UnboundedExp,
        "the row's maximum is subtracted, so that the argument is at most 0; the lower end is clamped",
    ),
    ("sample", "draw", Rule::Atomic, "the least column: an integer minimum does not depend on the order"),
    ("sample", "draw", Rule::FloatBits, "a log-probability is stored behind the tokens, in their buffer; nothing is tested"),
    ("sample", "rank_of", Rule::FloatBits, "an order of numbers, no test for NaN"),
    ("logprob", "forward", Rule::UnboundedLog, "the sum holds exp(0) = 1 of the row's maximum"),
];

/// Texts that are no op.
const NOT_AN_OP: &[&str] = &["status"];
/// Files of `crates/compute/src/ops` without a shader of their own.
const NOT_A_FILE: &[&str] = &["mod", "check", "sources", "stored", "wgsl_text"];

fn fail_if_any(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_shader_resolves_and_validates() {
    let (texts, mut failures) = texts::all();
    for text in &texts {
        match lehr::device::reflect::reflect(&text.stem, &text.text) {
            Ok(reflection) if reflection.entry_points.is_empty() => {
                failures.push(format!("{}: no entry point; a text for import belongs in shaders/lib", text.stem));
            }
            Ok(_) => {}
            Err(error) => failures.push(format!("{}: {error:#}", text.stem)),
        }
    }
    fail_if_any(&failures);
    assert!(texts.len() > 8, "only {} texts found", texts.len());
}

/// Functions (`subgroupAdd`, `quadSwapX`) and built-in values (`subgroup_size`); a variable may be called `subgroup`.
fn uses_subgroups(text: &str) -> bool {
    let follows = |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
    let code = text.lines().filter(|line| !line.contains("//"));
    code.into_iter().any(|line| ["subgroup", "quad"].iter().any(|word| line.split(word).skip(1).any(follows)))
}

/// A device without subgroup operations refuses a text that has some: only candidates whose names say so may.
#[test]
fn subgroup_operations_are_only_where_names_say_so() {
    let (texts, mut failures) = texts::all();
    let mut count = 0;
    for text in &texts {
        let (uses, named) = (uses_subgroups(&text.text), text.stem.starts_with("attention_") && text.stem.contains("_x"));
        count += usize::from(uses);
        if uses != named {
            failures.push(format!("{}: subgroup operations {uses}, by its name {named}", text.stem));
        }
    }
    fail_if_any(&failures);
    assert!(count > 10, "only {count} texts with subgroup operations");
}

#[test]
fn shader_names_are_unique() {
    let (texts, _) = texts::all();
    let mut seen = std::collections::BTreeMap::new();
    for text in &texts {
        if let Some(other) = seen.insert(&text.stem, &text.text) {
            assert!(*other == text.text, "two texts are called {}", text.stem);
        }
    }
}

/// Expressions of an entry point, those of called functions included once a call. The time of a compiler grows faster than this; the largest text
/// takes lavapipe of Mesa 26.2 (LLVM 22) 8 s, and twice as many expressions took minutes and 15 GB.
const MOST_EXPRESSIONS: usize = 9_000;

#[test]
fn entry_points_stay_below_the_expression_limit() {
    let (texts, mut failures) = texts::all();
    for text in &texts {
        let module = naga::front::wgsl::parse_str(&text.text).expect("a valid text");
        for entry in &module.entry_points {
            let size = expressions(&module, &entry.function);
            if size > MOST_EXPRESSIONS {
                failures.push(format!("{}.{}: {size} expressions, at most {MOST_EXPRESSIONS}", text.stem, entry.name));
            }
        }
    }
    fail_if_any(&failures);
}

fn expressions(module: &naga::Module, function: &naga::Function) -> usize {
    function.expressions.len() + called(module, &function.body)
}

/// Expressions of the functions that a block calls.
fn called(module: &naga::Module, block: &naga::Block) -> usize {
    use naga::Statement::{Block, Call, If, Loop, Switch};
    let of = |block: &naga::Block| called(module, block);
    block
        .iter()
        .map(|statement| match statement {
            Call { function, .. } => expressions(module, &module.functions[*function]),
            Block(inner) => of(inner),
            If { accept, reject, .. } => of(accept) + of(reject),
            Loop { body, continuing, .. } => of(body) + of(continuing),
            Switch { cases, .. } => cases.iter().map(|case| of(&case.body)).sum(),
            _ => 0,
        })
        .sum()
}

#[test]
fn a_broken_shader_is_refused() {
    assert!(lehr::device::resolve("#import nothing\n").is_err());
    let text = lehr::device::resolve("#import grid\nfn broken() -> u32 { return linear_group(1u); }\n").expect("an import");
    let error = format!("{:#}", lehr::device::reflect::reflect("broken", &text).err().expect("an error"));
    assert!(error.contains("broken.wgsl"), "{error}");
}

#[test]
fn every_library_is_listed_and_has_no_entry_point() {
    let files = texts::stems(&texts::folder("shaders/lib"), "wgsl");
    let mut listed: Vec<_> = lehr::device::LIBRARY.iter().map(|(name, _)| (*name).to_string()).collect();
    listed.sort();
    assert_eq!(files, listed, "shaders/lib and gpu::LIBRARY differ");
    for (name, text) in lehr::device::LIBRARY {
        assert!(!text.contains("@compute"), "shaders/lib/{name}.wgsl has an entry point");
    }
}

#[test]
fn every_shader_belongs_to_one_op() {
    let mut paths = Vec::new();
    rust_files(&texts::folder("crates/compute/src/ops"), &mut paths);
    // It lists them all.
    paths.retain(|path| !path.ends_with("src/ops/sources.rs"));
    let sources: Vec<_> = paths.iter().map(|p| (p, std::fs::read_to_string(p).expect("a source"))).collect();
    let mut failures = Vec::new();
    for stem in texts::stems(&texts::folder("shaders"), "wgsl").iter().filter(|s| !NOT_AN_OP.contains(&s.as_str())) {
        let marks = [format!("shader!(\"{stem}\")"), format!("stem: \"{stem}\"")];
        let users: Vec<_> =
            sources.iter().filter(|(_, text)| marks.iter().any(|m| text.contains(m))).map(|(path, _)| path).collect();
        let own = texts::folder("crates/compute/src/ops").join(format!("{stem}.rs"));
        match users[..] {
            [one] if !own.exists() || *one == &own => {}
            _ => failures.push(format!("shaders/{stem}.wgsl belongs to one op, {} if it exists; found {users:?}", own.display())),
        }
    }
    for stem in texts::stems(&texts::folder("crates/compute/src/ops"), "rs").iter().filter(|s| !NOT_A_FILE.contains(&s.as_str()))
    {
        if !texts::folder("shaders").join(format!("{stem}.wgsl")).exists() {
            failures.push(format!("crates/compute/src/ops/{stem}.rs has no shaders/{stem}.wgsl"));
        }
    }
    fail_if_any(&failures);
}

/// `lehr doctor` and `tests/kernels.rs` run what the list in `ops/mod.rs` has: a check outside of it would never run.
#[test]
fn every_check_is_in_the_list() {
    let folder = texts::folder("crates/compute/src/ops");
    let list = std::fs::read_to_string(folder.join("mod.rs")).expect("ops/mod.rs");
    let mut paths = Vec::new();
    rust_files(&folder, &mut paths);
    let (mut failures, mut count) = (Vec::new(), 0);
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source");
        if !text.contains("pub const CHECKS: &[Check]") {
            continue;
        }
        count += 1;
        // `matmul` of `ops/matmul/checks.rs`.
        let inner = path.strip_prefix(&folder).expect("a path inside").with_extension("");
        let module = inner.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        if !list.contains(&format!(" {module}::CHECKS,")) {
            failures.push(format!("{module}::CHECKS is not in the list of `checks` in crates/compute/src/ops/mod.rs"));
        }
    }
    fail_if_any(&failures);
    assert!(count > 10, "only {count} lists of checks were found");
}

fn rust_files(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_shader_breaks_a_portability_rule() {
    let (texts, mut failures) = texts::all();
    let mut excuses = vec![0; EXCUSED.len()];
    // Generated texts repeat themselves: one line for all that break the same rule in the same words.
    let mut broken: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for text in &texts {
        let sets = sets_of(text, &mut failures);
        for f in lint::lint(&text.text, &sets) {
            let excuse = EXCUSED.iter().position(|(stem, function, rule, _)| {
                let stem_fits = stem.strip_suffix('*').map_or(text.stem == *stem, |start| text.stem.starts_with(start));
                stem_fits && *function == f.function && *rule == f.rule
            });
            match excuse {
                Some(i) => excuses[i] += 1,
                None => broken
                    .entry(format!("{:?} in {}: {}", f.rule, f.function, f.what))
                    .or_default()
                    .push(format!("{}.wgsl:{}", text.stem, f.line)),
            }
        }
    }
    failures.extend(broken.into_iter().map(|(what, places)| {
        let more = if places.len() > 1 { format!(" and {} more", places.len() - 1) } else { String::new() };
        format!("{what}   [{}{more}]", places[0])
    }));
    for (excuse, used) in EXCUSED.iter().zip(excuses) {
        if used == 0 {
            failures.push(format!("excuse without a use: {excuse:?}"));
        }
    }
    for (field, _) in expr::DIVISORS {
        if !texts.iter().any(|t| t.text.contains(&format!("dims.{field}"))) {
            failures.push(format!("listed divisor without a use: {field}"));
        }
    }
    let places = "what a rule forbids, and why: `Rule` in tests/shaders/lint.rs; exceptions with a reason: EXCUSED in tests/shaders/main.rs";
    assert!(failures.is_empty(), "{} failures ({places}):\n{}", failures.len(), failures.join("\n"));
}

fn sets_of(text: &texts::Text, failures: &mut Vec<String>) -> Vec<texts::Set> {
    let Ok(module) = naga::front::wgsl::parse_str(&text.text) else { return Vec::new() };
    texts::override_sets(&module).unwrap_or_else(|error| {
        failures.push(format!("{}: {error}", text.stem));
        Vec::new()
    })
}

#[test]
fn every_entry_point_translates_for_every_backend() {
    let (texts, mut failures) = texts::all();
    let target = texts::folder("target/translated");
    let _ = std::fs::remove_dir_all(&target);
    let mut manifest = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    for text in &texts {
        let Ok(module) = naga::front::wgsl::parse_str(&text.text) else {
            failures.push(format!("{}: does not parse", text.stem));
            continue;
        };
        let sets = sets_of(text, &mut failures);
        let (outputs, failed) = translate::translate(text, &module, &sets);
        failures.extend(failed);
        for output in outputs {
            *counts.entry(output.backend).or_insert(0) += 1;
            save(&target.join(output.backend).join(&output.file), &output.bytes);
        }
        // Browsers have no cooperative matrices.
        if text.is_cooperative() {
            continue;
        }
        let file = format!("{}.wgsl", text.stem);
        // Tint needs the extension to be named, which naga does not know yet.
        let enable = if uses_subgroups(&text.text) { "enable subgroups;\n" } else { "" };
        save(&target.join("wgsl").join(&file), [enable, text.text.as_str()].concat().as_bytes());
        let entries: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
        let constants: Vec<std::collections::BTreeMap<_, _>> = sets.into_iter().map(|set| set.into_iter().collect()).collect();
        manifest.push(serde_json::json!({
            "file": file, "entries": entries, "constants": constants,
            "generated": text.generated,
        }));
    }
    save(&target.join("wgsl/manifest.json"), serde_json::to_string_pretty(&manifest).expect("JSON").as_bytes());
    let mut summary = format!("{} texts", texts.len());
    for (backend, count) in counts {
        let _ = write!(summary, ", {count} {backend}");
    }
    println!("translated: {summary}");
    fail_if_any(&failures);
}

fn save(path: &std::path::Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder under target");
    std::fs::write(path, bytes).expect("a file under target");
}
