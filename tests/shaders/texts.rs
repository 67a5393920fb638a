//! Every WGSL text of the program: the files in `shaders/` and the texts that generators make.

use std::path::{Path, PathBuf};

/// One text, its imports resolved.
pub struct Text {
    pub stem: String,
    pub text: String,
    pub generated: bool,
}

impl Text {
    /// Whether the text uses cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.text.contains(lehr::device::reflect::COOPERATIVE)
    }

    /// Whether a device of this backend may get it. Only Vulkan and Metal have cooperative matrices, Metal only 8 x 8.
    pub fn is_for(&self, backend: &str) -> bool {
        match backend {
            "spv" => true,
            "metal" => !self.text.contains("coop_mat16x16"),
            _ => !self.is_cooperative(),
        }
    }
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

pub use lehr::ops::sources::Set;

/// Every combination of override values with which a text is built.
///
/// # Errors
/// When an override is listed nowhere.
pub fn override_sets(module: &naga::Module) -> Result<Vec<Set>, String> {
    lehr::ops::sources::override_sets(module, false).map_err(|error| error.to_string())
}

/// `LANES8`; empty for the defaults.
pub fn set_name(set: &Set) -> String {
    set.iter().map(|(name, value)| format!(".{name}{value}")).collect()
}
