//! Gates over the tree: layers, lengths, crates confined to one folder, names of types, no names of build machines.

mod source;

use source::{blank, crate_paths, functions, line_of, without_tests, words};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What may be imported: a module uses its own layer and those below.
const LAYERS: &[&[&str]] = &[
    &["rng"],
    &["device"],
    &["ops"],
    &["config", "event", "number_format", "plot", "progress", "stats", "vfs", "world"],
    &["model_files"],
    &["data"],
    &["model"],
    &["run_folder", "merge", "landscape"],
    &["train", "history"],
    &["session"],
    &["report", "story", "backend"],
    &["app"],
    &["papers"],
    &["cli", "main"],
];
/// Macros at the crate's root, and the module that defines them.
const MACROS: &[(&str, &str)] = &[("bind", "device"), ("shader", "device"), ("simd", "device"), ("uniform", "device")];
/// A crate and the one folder that may name it.
const HOMES: &[(&str, &str)] =
    &[("wgpu", "crates/compute/src/device/gpu"), ("egui", "src/app"), ("eframe", "src/app"), ("winit", "src/app")];
/// How the core reaches files, standard input, other programs and the clock past its host seam (`vfs`, `web_time`).
const PAST_THE_SEAM: &[&str] = &[
    "std::fs",
    "File::open",
    "File::create",
    "OpenOptions",
    "memmap2",
    "tempfile::",
    ".exists()",
    ".is_file()",
    ".is_dir()",
    "stdin()",
    "process::Command",
    "process::{Child",
];
/// Where the core may do so: file or folder, way, why.
const SEAM_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("crates/core/src/vfs", "", "the seam itself"),
    ("crates/core/src/run_folder/lock.rs", "std::fs", "the machine's name is not a file of a run"),
    ("crates/core/src/merge/ring.rs", "std::fs", "memory on disk: a file without a name"),
    ("crates/core/src/merge/ring.rs", "tempfile::", "memory on disk: a file without a name"),
    (
        "crates/core/src/data/tasks/process.rs",
        "process::{Child",
        "a program of the machine; hosts without processes refuse it by name",
    ),
];
/// Lines of a file, lines of a function.
const LONGEST: [usize; 2] = [800, 60];
/// Where a panic on None or Err is the right thing: file, line's text, why.
const MAY_PANIC: &[(&str, &str, &str)] = &[];

/// Files that every repository has; the tree in CONTRIBUTING.md need not name them.
const UNNAMED: &[&str] = &["README.md", "LICENSE-APACHE", "LICENSE-MIT", "Cargo.lock"];

struct File {
    path: String,
    text: String,
    /// Without comments, literals and test code.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The Rust files of `src`, modules under `#[cfg(test)]` left out.
fn sources() -> Vec<File> {
    let mut paths = Vec::new();
    walk(&root().join("src"), "rs", &mut paths);
    walk(&root().join("crates"), "rs", &mut paths);
    paths.sort();
    let (mut files, mut tests) = (Vec::new(), Vec::new());
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let (code, modules) = without_tests(&blank(&text));
        let folder = match path.file_stem().and_then(|s| s.to_str()) {
            Some("mod" | "lib" | "main") => path.parent().expect("a folder").to_path_buf(),
            _ => path.with_extension(""),
        };
        tests.extend(modules.into_iter().map(|m| relative(&folder.join(m))));
        files.push(File { path: relative(&path), text, code });
    }
    files.retain(|f| !tests.iter().any(|t| f.path == format!("{t}.rs") || f.path.starts_with(&format!("{t}/"))));
    files
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path inside").to_string_lossy().replace('\\', "/")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `crates/compute/src/device/open.rs` -> device
fn module_of(path: &str) -> &str {
    let inner = path.rsplit_once("src/").map_or(path, |(_, inner)| inner);
    inner.split(['/', '.']).next().unwrap_or(inner)
}

fn fail_if_any(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn wrong_layers(path: &str, code: &str) -> Vec<String> {
    let module = module_of(path);
    if module == "lib" {
        return Vec::new();
    }
    let Some(own) = layer(module) else { return vec![format!("{path}: {module} belongs to no layer (LAYERS)")] };
    let mut failures = Vec::new();
    for (at, name) in crate_paths(code) {
        let target = MACROS.iter().find(|(m, _)| *m == name).map_or(name.as_str(), |(_, home)| home);
        let line = line_of(code, at);
        match layer(target) {
            Some(other) if other > own => {
                failures.push(format!("{path}:{line}: {module} (layer {own}) uses {target} (layer {other})"));
            }
            Some(_) => {}
            None => failures.push(format!("{path}:{line}: crate::{name} belongs to no layer")),
        }
    }
    failures
}

#[test]
fn imports_go_downward() {
    let failures: Vec<_> = sources().iter().flat_map(|f| wrong_layers(&f.path, &f.code)).collect();
    fail_if_any(&failures);
}

/// Which modules a module imports, of (module, code); macros count as the module that defines them.
fn imports<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, BTreeSet<String>> {
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in files.filter(|(module, _)| *module != "lib") {
        let names = crate_paths(code).into_iter().map(|(_, name)| name);
        let targets = names.map(|name| MACROS.iter().find(|(m, _)| *m == name).map_or(name, |(_, home)| (*home).to_owned()));
        found.entry(module).or_default().extend(targets.filter(|target| target != module));
    }
    found
}

/// Modules that import each other in a circle: those that remain when every module without remaining imports is taken away.
fn circle(mut imports: BTreeMap<&str, BTreeSet<String>>) -> Vec<String> {
    loop {
        let left: BTreeSet<String> = imports.keys().map(|m| (*m).to_owned()).collect();
        let before = imports.len();
        imports.retain(|_, targets| targets.iter().any(|target| left.contains(target)));
        if imports.len() == before {
            return imports.keys().map(|module| format!("{module} is part of a circle of imports")).collect();
        }
    }
}

/// Modules of one layer may import each other, in one direction.
#[test]
fn modules_import_each_other_in_no_circle() {
    let files = sources();
    fail_if_any(&circle(imports(files.iter().map(|f| (module_of(&f.path), f.code.as_str())))));
    let found = imports([("a", "use crate::b::X;"), ("b", "use crate::c::X;"), ("c", "use crate::b::Y;"), ("d", "")].into_iter());
    assert_eq!(circle(found).len(), 3, "a hangs on the circle of b and c");
}

fn outside_home(path: &str, code: &str) -> Vec<String> {
    HOMES
        .iter()
        .filter(|(_, home)| !path.starts_with(home))
        .flat_map(|(name, home)| {
            words(code, name)
                .filter(|&at| code[at + name.len()..].starts_with("::") || code[..at].trim_end().ends_with("use"))
                .map(move |at| format!("{path}:{}: {name} is named outside of {home}", line_of(code, at)))
        })
        .collect()
}

#[test]
fn wgpu_and_egui_stay_in_their_folders() {
    let failures: Vec<_> = sources().iter().flat_map(|f| outside_home(&f.path, &f.code)).collect();
    fail_if_any(&failures);
}

/// Types that a file shows to others: its lines `pub struct NAME`, `pub(super) enum NAME` and the like.
fn shown_types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter(|line| line.starts_with("pub")).filter_map(|line| {
        let mut words = line.split(|c: char| c.is_whitespace() || "<(;:{=".contains(c)).filter(|word| !word.is_empty());
        words.find(|word| ["struct", "enum", "trait", "type"].contains(word)).and_then(|_| words.next())
    })
}

/// Names of types with several definitions. The flags of every command are its `Args`.
fn ambiguous(files: &[(&str, &str)]) -> Vec<String> {
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, code) in files {
        shown_types(code).filter(|name| *name != "Args").for_each(|name| homes.entry(name).or_default().push(path));
    }
    homes.retain(|_, paths| paths.len() > 1);
    homes.iter().map(|(name, paths)| format!("{name} is defined in {}", paths.join(", "))).collect()
}

#[test]
fn a_name_belongs_to_one_type() {
    let files = sources();
    let all: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.code.as_str())).collect();
    fail_if_any(&ambiguous(&all));
}

fn too_long(path: &str, text: &str, code: &str) -> Vec<String> {
    let mut failures = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > LONGEST[0] && !lines.iter().any(|l| l.starts_with("//! Length:") || l.starts_with("// Length:")) {
        failures.push(format!("{path}: {} lines; split it, or say why in a line `//! Length: ...`", lines.len()));
    }
    for (name, first, count) in functions(code) {
        let above = lines[..first - 1].iter().rev().map(|l| l.trim());
        let excused = above.take_while(|l| l.starts_with("//") || l.starts_with('#')).any(|l| l.starts_with("// Length:"));
        if count > LONGEST[1] && !excused {
            failures.push(format!("{path}:{first}: {name} has {count} lines; split it, or say why in `// Length: ...` above it"));
        }
    }
    failures
}

#[test]
fn files_and_functions_are_short() {
    let mut failures: Vec<_> = sources().iter().flat_map(|f| too_long(&f.path, &f.text, &f.code)).collect();
    let mut others = Vec::new();
    walk(&root().join("tests"), "rs", &mut others);
    walk(&root().join("shaders"), "wgsl", &mut others);
    for path in others {
        let text = std::fs::read_to_string(&path).expect("a text");
        failures.extend(too_long(&relative(&path), &text, &blank(&text)));
    }
    fail_if_any(&failures);
}

/// `exceptions` are marked as used.
fn past_the_seam(path: &str, code: &str, used: &mut [bool]) -> Vec<String> {
    if !path.starts_with("crates/core/src/") {
        return Vec::new();
    }
    let found = PAST_THE_SEAM.iter().flat_map(|way| code.match_indices(way).map(move |(at, _)| (at, *way)));
    // Whole words: `SafetensorsFile::open` is another name.
    let starts = |at: usize| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let found = found.filter(|(at, way)| starts(*at) || !way.starts_with(char::is_alphabetic));
    let is_clock = |at: usize| {
        let path = code[at..].split([';', '(', ')']).next().unwrap_or_default();
        ["Instant", "SystemTime"].iter().any(|name| words(path, name).next().is_some())
    };
    let clocks = code.match_indices("std::time::").filter(|(at, _)| is_clock(*at));
    let mut failures = Vec::new();
    for (at, way) in found.chain(clocks) {
        let excused = SEAM_EXCEPTIONS.iter().position(|(place, of, _)| path.starts_with(place) && (of.is_empty() || *of == way));
        match excused {
            Some(i) => used[i] = true,
            None => failures
                .push(format!("{path}:{}: {way}: the core reaches its host through `vfs` and `web_time`", line_of(code, at))),
        }
    }
    failures
}

#[test]
fn the_core_reaches_its_host_through_the_seam() {
    let mut used = vec![false; SEAM_EXCEPTIONS.len()];
    let mut failures: Vec<_> = sources().iter().flat_map(|f| past_the_seam(&f.path, &f.code, &mut used)).collect();
    let unused = SEAM_EXCEPTIONS.iter().zip(&used).filter(|(_, used)| !**used);
    failures.extend(unused.map(|((place, way, _), _)| format!("SEAM_EXCEPTIONS names {way} in {place}, which is not there")));
    fail_if_any(&failures);
}

fn panics(path: &str, text: &str, code: &str) -> Vec<String> {
    let unwraps = code.match_indices(".unwrap()").map(|(at, _)| at);
    // Only Option's and Result's: those take a message.
    let expects = code
        .match_indices(".expect(")
        .map(|(at, _)| at)
        .filter(|at| ["\"", "&format!"].iter().any(|m| text[at + ".expect(".len()..].trim_start().starts_with(m)));
    unwraps
        .chain(expects)
        .map(|at| line_of(code, at))
        .filter(|line| {
            let says = text.lines().nth(line - 1).unwrap_or_default();
            !MAY_PANIC.iter().any(|(file, part, _)| *file == path && says.contains(part))
        })
        .map(|line| format!("{path}:{line}: {}", text.lines().nth(line - 1).unwrap_or_default().trim()))
        .collect()
}

#[test]
fn sources_have_no_unwrap() {
    let files = sources();
    let mut failures: Vec<_> = files.iter().flat_map(|f| panics(&f.path, &f.text, &f.code)).collect();
    for (path, part, _) in MAY_PANIC {
        if !files.iter().any(|f| f.path == *path && f.text.contains(part)) {
            failures.push(format!("MAY_PANIC names {part} in {path}, which is not there"));
        }
    }
    fail_if_any(&failures);
}

/// Tracked files; None outside of a checkout (an unpacked crate).
fn tracked() -> Option<Vec<String>> {
    if !root().join(".git").exists() {
        return None;
    }
    let output = std::process::Command::new("git").arg("ls-files").current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect())
}

/// Folders of build machines and hosts of package registries. In pieces, because this file is searched too.
fn machine_words() -> Vec<String> {
    [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["debian", ".org"],
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

fn machine_names(path: &str, text: &str) -> Vec<String> {
    // Cargo writes its registry's name into lock files.
    if path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let names = machine_words();
    text.lines()
        .enumerate()
        .flat_map(|(i, line)| names.iter().filter(|n| line.contains(*n)).map(move |n| format!("{path}:{}: names {n}", i + 1)))
        .collect()
}

#[test]
fn no_file_contains_machine_names() {
    let Some(files) = tracked() else { return };
    assert!(files.len() > 20, "only {} tracked files", files.len());
    let read = |path: &String| std::fs::read_to_string(root().join(path)).ok().map(|text| (path.clone(), text));
    let failures: Vec<_> = files.iter().filter_map(read).flat_map(|(path, text)| machine_names(&path, &text)).collect();
    fail_if_any(&failures);
}

/// Paths in the tree of CONTRIBUTING.md, the fenced block under `## The tree`: the first word of a line, and of what follows two spaces.
fn tree_of(page: &str) -> Option<Vec<String>> {
    let block = page.split("\n## The tree\n").nth(1)?.split("```").nth(1)?;
    let cells = block.lines().skip(1).flat_map(|line| line.split("  "));
    let words = cells.filter_map(|cell| cell.split_whitespace().next());
    // The first word of a description has no dot or slash, or belongs to a list.
    let paths = words.filter(|word| (word.contains('/') || word.contains('.')) && !word.ends_with(','));
    Some(paths.map(|word| word.trim_end_matches('/').to_string()).collect())
}

/// What a tree names and is not there, and what is there and not named: top folders and files, and those of `src`.
fn tree_failures(tree: &[String], files: &[String]) -> Vec<String> {
    let below = |path: &str, folder: &str| path == folder || path.starts_with(&format!("{folder}/"));
    let gone = tree.iter().filter(|path| !files.iter().any(|file| below(file, path)));
    let mut failures: Vec<String> =
        gone.map(|path| format!("the tree in CONTRIBUTING.md names {path}, which is not there")).collect();
    let mut parts: Vec<String> = files
        .iter()
        .filter(|file| !file.starts_with('.') && !UNNAMED.contains(&file.as_str()))
        .map(|file| file.split('/').take(if file.starts_with("src/") { 2 } else { 1 }).collect::<Vec<_>>().join("/"))
        .collect();
    parts.sort();
    parts.dedup();
    let module = |path: &str| path.trim_end_matches(".rs").to_string();
    let missing = parts.iter().filter(|part| !tree.iter().any(|path| below(path, part) || module(path) == module(part)));
    failures.extend(missing.map(|part| format!("the tree in CONTRIBUTING.md does not name {part}")));
    failures
}

#[test]
fn contributing_lists_the_tree() {
    let Ok(page) = std::fs::read_to_string(root().join("CONTRIBUTING.md")) else { return };
    let Some(files) = tracked() else { return };
    let tree = tree_of(&page).expect("CONTRIBUTING.md has no fenced block under `## The tree`");
    fail_if_any(&tree_failures(&tree, &files));
}

mod gates_can_fail {
    use super::*;

    fn code(text: &str) -> String {
        without_tests(&blank(text)).0
    }

    #[test]
    fn layers() {
        assert_eq!(wrong_layers("crates/compute/src/device/a.rs", &code("use crate::ops::x;")).len(), 1);
        assert_eq!(wrong_layers("crates/compute/src/device/a.rs", &code("use crate::{config::A, ops::{x, y}, train};")).len(), 3);
        assert_eq!(wrong_layers("crates/compute/src/rng.rs", &code("fn f() { crate::shader!(1) }")).len(), 1);
        assert_eq!(wrong_layers("src/new/mod.rs", "").len(), 1);
        let fine =
            "use crate::{bind, device::{Device, self}, model_files}; // crate::train\n#[cfg(test)] mod tests { use crate::cli; }";
        assert_eq!(wrong_layers("crates/core/src/data/a.rs", &code(fine)), Vec::<String>::new());
        assert_eq!(wrong_layers("crates/core/src/data/a.rs", &code("use crate::model::Model;")).len(), 1);
    }

    #[test]
    fn homes() {
        assert_eq!(outside_home("crates/compute/src/ops/a.rs", &code("let x: wgpu::Buffer; use wgpu;")).len(), 2);
        assert_eq!(outside_home("crates/compute/src/device/gpu/a.rs", &code("let x: wgpu::Buffer;")).len(), 0);
        assert_eq!(outside_home("src/cli/a.rs", &code("let s = \"wgpu::Buffer\"; // egui::Ui")).len(), 0);
    }

    #[test]
    fn the_seam() {
        let found = |path: &str, text: &str| past_the_seam(path, &code(text), &mut vec![false; SEAM_EXCEPTIONS.len()]).len();
        let bad =
            "use std::fs; use std::time::{Duration, Instant}; fn f() { File::open(x); x.exists(); std::time::SystemTime::now() }";
        assert_eq!(found("crates/core/src/data/a.rs", bad), 5);
        assert_eq!(found("crates/core/src/run_folder/lock.rs", bad), 4);
        assert_eq!(found("crates/core/src/vfs/a.rs", bad) + found("src/cli/a.rs", bad), 0);
        let fine = "use web_time::{Duration, Instant}; fn f() { SafetensorsFile::open(y); vfs.exists(x)?; /* std::fs */ }\n#[cfg(test)] mod tests { use std::fs; }";
        assert_eq!(found("crates/core/src/data/a.rs", fine), 0);
    }

    #[test]
    fn type_names() {
        let one = "pub struct Row<'a> {}\nstruct Own;\npub(super) enum Step {}\npub fn f() {}\npub use a::Row;";
        assert_eq!(shown_types(one).collect::<Vec<_>>(), ["Row", "Step"]);
        let other = "pub(in crate::data) trait Step: Send {}\nstruct Row;\npub struct Args;";
        assert_eq!(shown_types(other).collect::<Vec<_>>(), ["Step", "Args"]);
        assert_eq!(ambiguous(&[("a.rs", one), ("b.rs", other)]), ["Step is defined in a.rs, b.rs"]);
        assert_eq!(ambiguous(&[("a.rs", "pub struct Args;"), ("b.rs", "pub struct Args;")]), Vec::<String>::new());
    }

    #[test]
    fn lengths() {
        let body = "let x = 1;\n".repeat(60);
        let long = format!("fn f(x: [u8; 2]) {{\n{body}}}\n");
        assert_eq!(too_long("a.rs", &long, &blank(&long)).len(), 1);
        let excused = format!("// Length: a table.\n/// What it does.\n#[inline]\n{long}");
        assert_eq!(too_long("a.rs", &excused, &blank(&excused)).len(), 0);
        let file = "const A: u32 = 1;\n".repeat(801);
        assert_eq!(too_long("a.rs", &file, &blank(&file)).len(), 1);
        let excused = format!("//! Length: a table.\n{file}");
        assert_eq!(too_long("a.rs", &excused, &blank(&excused)).len(), 0);
    }

    #[test]
    fn panicking() {
        let bad = "fn f() { a.unwrap(); b.expect(\"c\"); d.expect(\n    \"e\") }";
        assert_eq!(panics("a.rs", bad, &code(bad)).len(), 3);
        let fine =
            "fn f() { files.expect(names); \".unwrap()\"; a.unwrap_or(1) }\n#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }";
        assert_eq!(panics("a.rs", fine, &code(fine)), Vec::<String>::new());
    }

    #[test]
    fn machines() {
        for name in machine_words() {
            assert_eq!(machine_names("a.md", &format!("see {name}x")).len(), 1);
        }
        assert!(machine_names("a.md", "work/main").is_empty());
    }

    #[test]
    fn trees() {
        let readme = "```sh\nls\n```\n## The tree\n```\nsrc/gpu/   all of wgpu     src/lib.rs   layers\nCargo.toml\n```\n";
        let tree = tree_of(readme).expect("a tree");
        assert_eq!(tree, ["src/gpu", "src/lib.rs", "Cargo.toml"]);
        assert_eq!(tree_of("```\nls\n```"), None);
        let files = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let all = ["src/gpu/mod.rs", "src/lib.rs", "Cargo.toml", ".ci/run"];
        assert_eq!(tree_failures(&tree, &files(&all)), Vec::<String>::new());
        assert_eq!(tree_failures(&tree, &files(&all[1..])).len(), 1);
        assert_eq!(tree_failures(&tree, &files(&[&all[..], &["crates/compute/src/ops/mod.rs", "docs/a.md"]].concat())).len(), 2);
    }

    #[test]
    fn scanner() {
        let text = "a '{' b '\\'' c \"}\\\"{\" d r#\"\"}\"# e /* { */ f // {\n'static g 'é' h";
        let kept: String = blank(text).split_whitespace().collect();
        assert_eq!(kept, "abcdef'staticgh");
        assert_eq!(
            functions("fn f() -> u8 { {1} }\ntrait T { fn g(); }\nfn h() {\n}"),
            vec![("f".to_string(), 1, 1), ("h".to_string(), 3, 2)]
        );
    }
}
