//! How far a long piece of work has come, and whether it goes on.

use anyhow::Result;

/// Gets (what is being done, how much of it is done, of how much). `Ok(false)` ends the work early; an error ends it with that error.
pub type Progress<'a> = dyn FnMut(&str, u64, u64) -> Result<bool> + 'a;

/// The end of work that has no result when [`Progress`] ends it early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Nobody listens.
///
/// # Errors
/// None.
pub fn silent(_: &str, _: u64, _: u64) -> Result<bool> {
    Ok(true)
}

/// Report progress of work that has no result when it ends early.
///
/// # Errors
/// [`Interrupted`], or what `progress` returns.
pub fn report(progress: &mut Progress<'_>, what: &str, done: u64, all: u64) -> Result<()> {
    if progress(what, done, all)? { Ok(()) } else { Err(Interrupted.into()) }
}
