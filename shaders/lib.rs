//! The WGSL compute shaders of lehr, as text. Each file has the entry points of one op; `crates/compute/src/ops/STEM.rs` records them.

macro_rules! texts {
    ($folder:literal, $($stem:literal)*) => {
        &[$(($stem, include_str!(concat!($folder, $stem, ".wgsl")))),*]
    };
}

/// (stem, text) of all shaders.
pub const SHADERS: &[(&str, &str)] = texts!("", "adamw" "add_bias" "attention" "average" "bias" "embedding" "grad_norm" "logprob" "lora" "maxima" "objective" "parts" "qk_norm" "rmsnorm" "rope" "rowvec" "sample" "self_test" "status" "swiglu");

/// (name, text) of all texts available to `#import`.
pub const LIBRARY: &[(&str, &str)] = texts!("lib/", "bf16" "f16" "grid" "group" "reduce" "rng" "sigmoid");

/// The text of a shader.
///
/// # Panics
/// When the stem is unknown; at compile time in a constant.
pub const fn text(stem: &str) -> &'static str {
    let mut i = 0;
    while i < SHADERS.len() {
        if equal(SHADERS[i].0.as_bytes(), stem.as_bytes()) {
            return SHADERS[i].1;
        }
        i += 1;
    }
    panic!("no shader has this name: a new one is added to SHADERS in shaders/lib.rs")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_file_is_listed() {
        for (folder, listed) in [("", super::SHADERS), ("/lib", super::LIBRARY)] {
            let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
            let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut stems: Vec<_> = names.filter_map(|name| name.strip_suffix(".wgsl").map(str::to_owned)).collect();
            stems.sort();
            assert_eq!(stems, listed.iter().map(|(stem, _)| *stem).collect::<Vec<_>>());
        }
    }
}
