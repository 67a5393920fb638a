//! Progress of long work, and its early end.

use anyhow::Result;

/// Receives (description, amount done, total amount). `Ok(false)` ends the work early; an error ends it with that error.
pub type Progress<'a> = dyn FnMut(&str, u64, u64) -> Result<bool> + 'a;

/// The error of work that has no result when [`Progress`] ends it early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A [`Progress`] that ignores all reports.
///
/// # Errors
/// None.
pub fn silent(_: &str, _: u64, _: u64) -> Result<bool> {
    Ok(true)
}

/// Reports progress of work that has no result when it ends early.
///
/// # Errors
/// [`Interrupted`], or the error of `progress`.
pub fn report(progress: &mut Progress<'_>, what: &str, done: u64, all: u64) -> Result<()> {
    if progress(what, done, all)? { Ok(()) } else { Err(Interrupted.into()) }
}
