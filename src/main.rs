//! The `lehr` binary: everything is in the library, so that tests reach it.

fn main() {
    // Mesa's device-selection layer complains on standard error where there is no desktop; we choose the adapter ourselves.
    if cfg!(target_os = "linux") && std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: the first statement of the process; no other thread reads the environment yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    std::process::exit(lehr::cli::main());
}
