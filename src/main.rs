//! The `lehr` binary: everything is in the library, so that tests reach it.

fn main() {
    #[cfg(not(target_arch = "wasm32"))]
    std::process::exit(lehr::cli::main());
}
