//! Every WGSL text of the program: the files in `shaders/` and the texts that generators make.

use std::path::{Path, PathBuf};

/// One text, its imports resolved.
pub struct Text {
    pub stem: String,
    pub text: String,
    pub generated: bool,
}

/// A folder of the repository.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Stems of the files in a folder with this extension, sorted.
pub fn stems(dir: &Path, extension: &str) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| path.file_stem().expect("a stem").to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}

/// All texts; those whose imports do not resolve come as messages.
pub fn all() -> (Vec<Text>, Vec<String>) {
    let shaders = folder("shaders");
    let files = stems(&shaders, "wgsl").into_iter().map(|stem| {
        let path = shaders.join(format!("{stem}.wgsl"));
        (stem, std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), false)
    });
    let generated = lehr::ops::sources::generated().into_iter().map(|(stem, text)| (stem, text, true));
    let (mut texts, mut failures) = (Vec::new(), Vec::new());
    for (stem, source, generated) in files.chain(generated) {
        match lehr::device::resolve(&source) {
            Ok(text) if texts.iter().any(|t: &Text| t.stem == stem && t.text == text) => {}
            Ok(text) => texts.push(Text { stem, text, generated }),
            Err(error) => failures.push(format!("{stem}: {error:#}")),
        }
    }
    (texts, failures)
}

/// Values that an override constant takes; every override of every text is listed here. `None`: its default only.
const OVERRIDES: &[(&str, Option<&[f64]>)] = &[
    ("WG", None),
    // One invocation a row on software adapters, up to a workgroup on GPUs (ops::row_lanes).
    ("LANES", Some(&[1.0, 8.0, 64.0])),
    // Of the model; above 0 by config::validate.
    ("COLS4", Some(&[16.0, 48.0])),
    // Of adapters: output columns, rank, parts times rank; above 0 by config::validate.
    ("COLS", Some(&[36.0])),
    ("RANK", Some(&[3.0, 16.0])),
    ("WIDTH", Some(&[48.0])),
    ("HEADS", Some(&[1.0, 9.0])),
    ("QUARTER", Some(&[2.0, 16.0])),
];

/// Override constants by name.
pub type Set = Vec<(String, f64)>;

/// Every combination of override values with which a text is built.
///
/// # Errors
/// When an override is not listed in [`OVERRIDES`].
pub fn override_sets(module: &naga::Module) -> Result<Vec<Set>, String> {
    let mut sets = vec![Set::new()];
    for (_, constant) in module.overrides.iter() {
        let Some(name) = constant.name.as_deref() else { continue };
        let Some((_, values)) = OVERRIDES.iter().find(|(n, _)| *n == name) else {
            return Err(format!("override {name}: list its values in OVERRIDES (tests/shaders/texts.rs)"));
        };
        if let Some(values) = values {
            sets = sets
                .iter()
                .flat_map(|set| values.iter().map(move |&v| [set.clone(), vec![(name.to_string(), v)]].concat()))
                .collect();
        }
    }
    Ok(sets)
}

/// `LANES8`; empty for the defaults.
pub fn set_name(set: &Set) -> String {
    set.iter().map(|(name, value)| format!(".{name}{value}")).collect()
}
