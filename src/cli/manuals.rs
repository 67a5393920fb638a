//! `lehr completions` and `lehr man`: shell completions and manual pages, generated from the command line definition.

use super::output;
use anyhow::Context as _;
use std::io::Write as _;
use std::path::PathBuf;

/// Flags of `lehr completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Flags of `lehr man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Output folder; created if missing, pages of the same names are replaced.
    dir: PathBuf,
}

/// Print a shell's completions.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<i32> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "lehr", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(0)
}

/// Write the pages.
pub fn man(args: &ManArgs) -> anyhow::Result<i32> {
    let shown = crate::vfs::display_path(&args.dir);
    std::fs::create_dir_all(&args.dir).with_context(|| format!("{shown}: cannot be made"))?;
    clap_mangen::generate_to(super::command(), &args.dir).with_context(|| format!("{shown}: cannot be written"))?;
    output::note(&format!("manual pages written to {shown}"));
    Ok(0)
}
