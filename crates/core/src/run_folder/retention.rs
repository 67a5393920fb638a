//! Checkpoint retention: keep the newest valid checkpoints, multiples of an interval, and pinned ones. At least two valid ones are kept,
//! but only one when the disk is full (`Retention::make_space`).

use super::checkpoints;
use crate::config::is_due;
use crate::model_files::checkpoint;
use crate::vfs::{Vfs, display_path, unique_suffix};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The retention policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Number of newest checkpoints to keep; values below 2 count as 2.
    pub keep_last: usize,
    /// Also keep every step that is a multiple of this; 0 for none.
    pub keep_every: u64,
}

impl RetentionPolicy {
    /// The steps to delete, oldest first, among valid checkpoints. Folders that are not valid are not counted.
    pub fn to_delete(&self, verified: &BTreeSet<u64>, pinned: &BTreeSet<u64>) -> Vec<u64> {
        let newest: BTreeSet<&u64> = verified.iter().rev().take(self.keep_last.max(2)).collect();
        let keep = |step: &u64| newest.contains(step) || pinned.contains(step) || is_due(*step, self.keep_every);
        verified.iter().filter(|step| !keep(step)).copied().collect()
    }
}

/// Applies the policy to one run. Each checkpoint is hashed once per process; its sizes are checked every time.
#[derive(Debug)]
pub struct Retention {
    policy: RetentionPolicy,
    pinned: BTreeSet<u64>,
    good: BTreeSet<u64>,
    hashed: BTreeSet<u64>,
}

/// Result of a purge.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PurgeResult {
    /// Deleted steps.
    pub deleted: Vec<u64>,
    /// One line for each folder that is not valid or could not be removed.
    pub warnings: Vec<String>,
}

impl Retention {
    /// Without pinned checkpoints.
    pub fn new(policy: RetentionPolicy) -> Self {
        Retention { policy, pinned: BTreeSet::new(), good: BTreeSet::new(), hashed: BTreeSet::new() }
    }

    /// Keep this step until it is unpinned: a merge will use it, or it is the best.
    pub fn pin(&mut self, step: u64) {
        self.pinned.insert(step);
    }

    /// Apply the policy to this step again.
    pub fn unpin(&mut self, step: u64) {
        self.pinned.remove(&step);
    }

    /// Keep these steps, which a rescue may return to; replaces those of the last call.
    pub fn keep_good(&mut self, steps: impl Iterator<Item = u64>) {
        self.good = steps.collect();
    }

    /// Call after this step was saved again, so that its hashes are verified again.
    pub fn invalidate(&mut self, step: u64) {
        self.hashed.remove(&step);
    }

    /// Delete what the policy does not keep. Call it after a save is durable. Errors of single folders are warnings; training continues.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn purge(&mut self, vfs: &dyn Vfs, run: &Path) -> Result<PurgeResult> {
        let mut out = PurgeResult::default();
        let verified = self.verified(vfs, run, &mut out)?;
        let pinned = &self.pinned | &self.good;
        let gone = self.policy.to_delete(&verified, &pinned);
        self.delete_steps(vfs, run, gone, &mut out);
        Ok(out)
    }

    /// Delete the oldest checkpoints until `bytes` are free, at least one of them; nothing if that cannot be reached. The newest valid
    /// checkpoint stays, and so do pinned ones, multiples of the interval, and, unless the run ends, those that a rescue may return to.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn make_space(&mut self, vfs: &dyn Vfs, run: &Path, bytes: u64, last: bool) -> Result<PurgeResult> {
        let mut out = PurgeResult::default();
        let verified = self.verified(vfs, run, &mut out)?;
        let may_go = |step: &u64| {
            let kept = self.pinned.contains(step) || is_due(*step, self.policy.keep_every) || (!last && self.good.contains(step));
            Some(step) != verified.last() && !kept
        };
        let candidates: Vec<u64> = verified.iter().copied().filter(may_go).collect();
        let (mut gone, mut freed) = (Vec::new(), 0);
        for step in candidates {
            let path = checkpoints::folder(run).join(checkpoint::step_name(step));
            freed += checkpoint::verify_sizes(vfs, &path).map_or(0, |manifest| manifest.bytes());
            gone.push(step);
            if freed >= bytes {
                self.delete_steps(vfs, run, gone, &mut out);
                break;
            }
        }
        Ok(out)
    }

    /// The steps of the valid checkpoints; others are warnings.
    fn verified(&mut self, vfs: &dyn Vfs, run: &Path, out: &mut PurgeResult) -> Result<BTreeSet<u64>> {
        let mut verified = BTreeSet::new();
        for (step, path) in checkpoints::list(vfs, run)? {
            let known = self.hashed.contains(&step);
            match if known { checkpoint::verify_sizes(vfs, &path) } else { checkpoint::verify(vfs, &path) } {
                Ok(_) => {
                    verified.insert(step);
                    self.hashed.insert(step);
                }
                Err(e) => out.warnings.push(format!("{e:#} (kept, not counted)")),
            }
        }
        Ok(verified)
    }

    /// Delete every checkpoint after `step`, to which the run has returned.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn remove_after(&mut self, vfs: &dyn Vfs, run: &Path, step: u64) -> Result<PurgeResult> {
        let mut out = PurgeResult::default();
        let steps = checkpoints::list(vfs, run)?.into_iter().map(|(at, _)| at).filter(|at| *at > step).collect();
        self.delete_steps(vfs, run, steps, &mut out);
        Ok(out)
    }

    fn delete_steps(&mut self, vfs: &dyn Vfs, run: &Path, steps: Vec<u64>, out: &mut PurgeResult) {
        for step in steps {
            let path = checkpoints::folder(run).join(checkpoint::step_name(step));
            match delete(vfs, &path) {
                Ok(()) => out.deleted.push(step),
                Err(e) => out.warnings.push(format!("{}: cannot be removed: {e}", display_path(&path))),
            }
            self.hashed.remove(&step);
        }
    }
}

/// Renames first, so that a partly deleted folder never has a checkpoint's name.
fn delete(vfs: &dyn Vfs, path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let trash: PathBuf = path.with_file_name(format!(".trash-{name}-{}", unique_suffix()));
    vfs.rename(path, &trash)?;
    if let Some(parent) = path.parent() {
        vfs.fsync_dir(parent)?;
    }
    vfs.remove_dir_all(&trash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn retention_keeps_what_the_policy_states(
            saves in prop::collection::vec((0u64..400, prop::bool::weighted(0.9), prop::bool::weighted(0.1)), 0..60),
            keep_last in 0usize..6,
            keep_every in 0u64..50,
        ) {
            let policy = RetentionPolicy { keep_last, keep_every };
            let (mut verified, mut pinned, mut good) = (BTreeSet::new(), BTreeSet::new(), 0);
            for (step, valid, pin) in saves {
                if pin { pinned.insert(step); }
                if valid && verified.insert(step) { good += 1; }
                let newest: Vec<u64> = verified.iter().rev().take(keep_last.max(2)).copied().collect();
                for gone in policy.to_delete(&verified, &pinned) {
                    prop_assert!(verified.remove(&gone), "deleted what was not there");
                    prop_assert!(!pinned.contains(&gone), "deleted a pinned one");
                    prop_assert!(keep_every == 0 || gone % keep_every != 0);
                }
                prop_assert!(verified.len() >= good.min(2), "fewer than two are left");
                prop_assert!(newest.iter().all(|step| verified.contains(step)));
                let others = verified.iter().filter(|s| !pinned.contains(s) && (keep_every == 0 || !s.is_multiple_of(keep_every)));
                prop_assert!(others.count() <= keep_last.max(2), "kept too many");
            }
        }
    }
}
