//! What every claim works with: the plan, the bank, the device; and the loop that gets arms trained.

use super::arm::Arm;
use super::bank::Bank;
use super::plan::Plan;
use super::scale::Scale;
use super::texts::Texts;
use super::trajectory::{Ended, train};
use crate::session::control::Control;
use std::time::Duration;
use web_time::Instant;

/// A signal came.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the same command goes on from here")]
pub struct Interrupted;

/// See the module.
pub struct Context<'a> {
    /// Models, tokens, grid.
    pub scale: &'a Scale,
    /// Seeds of the paired arms.
    pub seeds: Vec<u64>,
    /// Corpora.
    pub texts: Texts,
    /// What is known already.
    pub bank: Bank,
    /// Adapter by name or index.
    pub adapter: Option<String>,
    /// Gets progress lines.
    pub tell: Box<dyn Fn(&str) + 'a>,
}

impl Context<'_> {
    /// Makes arms.
    pub fn plan(&self) -> Plan<'_> {
        Plan { scale: self.scale }
    }

    /// Stop here when a signal came.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check(&self) -> anyhow::Result<()> {
        if Control::interrupted() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Have all these arms trained, and before them those that they begin from. Arms that another process is at are waited for, so that
    /// several processes with one work folder share the work.
    ///
    /// # Errors
    /// A device fault, a full disk, or [`Interrupted`].
    pub fn ensure(&self, arms: &[Arm]) -> anyhow::Result<()> {
        let mut open: Vec<&Arm> = Vec::new();
        for arm in arms {
            collect(arm, &mut open);
        }
        open.retain(|arm| !self.bank.is_done(arm));
        let mut left: f64 = open.iter().map(|a| a.flops(self.texts.vocab)).sum();
        let mut rate = Rate::default();
        while !open.is_empty() {
            let before = open.len();
            let mut still = Vec::new();
            for arm in open {
                if self.bank.is_done(arm) {
                    left -= arm.flops(self.texts.vocab);
                } else if arm.parent().is_some_and(|p| !self.bank.is_done(p)) || !self.attempt(arm, &mut left, &mut rate)? {
                    still.push(arm);
                }
            }
            open = still;
            if open.len() == before {
                // All of them are somebody else's just now.
                self.check()?;
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        Ok(())
    }

    /// Train one arm; false while another process is at it.
    fn attempt(&self, arm: &Arm, left: &mut f64, rate: &mut Rate) -> anyhow::Result<bool> {
        let flops = arm.flops(self.texts.vocab);
        let begin = Instant::now();
        let mut last = Instant::now();
        let ended = train(&self.bank, arm, &self.texts, self.adapter.as_deref(), &mut |done| {
            if last.elapsed().as_secs() >= 10 {
                last = Instant::now();
                let part = done as f64 / arm.updates() as f64;
                let eta = rate.seconds(*left - part * flops, part * flops, begin.elapsed().as_secs_f64());
                (self.tell)(&format!("{}: {:.0} %, about {} left for all arms", arm.name, 100.0 * part, minutes(eta)));
            }
        })?;
        match ended {
            Ended::Busy => Ok(false),
            Ended::Interrupted => Err(Interrupted.into()),
            Ended::Done => {
                let seconds = begin.elapsed().as_secs_f64();
                rate.add(flops, seconds);
                *left -= flops;
                let updates = arm.updates();
                (self.tell)(&format!("{}: {updates} updates in {seconds:.0} s", arm.name));
                Ok(true)
            }
        }
    }
}

/// An arm after those that it needs, each once.
fn collect<'a>(arm: &'a Arm, out: &mut Vec<&'a Arm>) {
    if let Some(parent) = arm.parent() {
        collect(parent, out);
    }
    if !out.contains(&arm) {
        out.push(arm);
    }
}

/// Work done, and the time that it took.
#[derive(Default)]
struct Rate {
    flops: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, flops: f64, seconds: f64) {
        self.flops += flops;
        self.seconds += seconds;
    }

    /// Seconds that `flops` will take, going by what was done and by the arm under way.
    fn seconds(&self, flops: f64, under_way: f64, seconds: f64) -> f64 {
        flops * (self.seconds + seconds) / (self.flops + under_way).max(1.0)
    }
}

/// Seconds for people.
pub fn minutes(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
