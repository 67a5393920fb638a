//! A run that cannot save: reported immediately, then rarely; retried often; and ended before hours of training could be lost.

use crate::number_format::{counted, duration};
use std::time::Duration;
use web_time::Instant;

/// Interval between automatic retries.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// Interval between notices.
const REPORT_EVERY: Duration = Duration::from_secs(20 * 60);

/// Consecutive failed saves.
#[derive(Debug, Default)]
pub struct FailedSaves {
    failed: Option<FailedSave>,
}

#[derive(Debug)]
struct FailedSave {
    first: Instant,
    last: Instant,
    reported: Instant,
    tries: u64,
}

/// The report after a failed save.
#[derive(Debug, PartialEq)]
pub enum SaveNotice {
    /// Nothing, since it was reported recently.
    Silence,
    /// Report this message.
    Report(String),
    /// End the run with this message.
    End(String),
}

impl FailedSaves {
    /// Record a failed save; after `minutes` without a successful one (0: no limit) the run ends.
    pub fn failed(&mut self, why: &str, minutes: u64, now: Instant) -> SaveNotice {
        let ends = match minutes {
            0 => String::new(),
            _ => format!("; after {} without a save the run ends (--max-unsaved-minutes)", counted(minutes, "minute")),
        };
        let Some(failed) = &mut self.failed else {
            self.failed = Some(FailedSave { first: now, last: now, reported: now, tries: 1 });
            return SaveNotice::Report(format!(
                "NOT SAVED: {why}; training continues, and the save is retried every minute{ends}"
            ));
        };
        (failed.last, failed.tries) = (now, failed.tries + 1);
        let lasted = now - failed.first;
        let count = format!("no save succeeded for {}, in {}", duration(lasted.as_secs_f64()), counted(failed.tries, "try"));
        if minutes > 0 && lasted >= Duration::from_secs(60 * minutes) {
            return SaveNotice::End(format!("{count}: {why}; the run ends (--max-unsaved-minutes {minutes})"));
        }
        if now - failed.reported < REPORT_EVERY {
            return SaveNotice::Silence;
        }
        failed.reported = now;
        SaveNotice::Report(format!("STILL NOT SAVED: {count}: {why}{ends}"))
    }

    /// Record a successful save; returns a message if earlier ones had failed.
    pub fn saved(&mut self) -> Option<String> {
        let failed = self.failed.take()?;
        Some(format!("saved again, after {}", counted(failed.tries, "failed try")))
    }

    /// The next save was requested by the user, so its result is reported.
    pub fn request(&mut self, now: Instant) {
        if let Some(failed) = &mut self.failed {
            failed.reported = now.checked_sub(REPORT_EVERY).unwrap_or(failed.reported);
        }
    }

    /// Whether a retry is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|failed| now - failed.last >= TRY_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_reported_at_once_then_rarely_then_resolved() {
        let (start, mut unsaved, mut reported) = (Instant::now(), FailedSaves::default(), Vec::new());
        assert!(!unsaved.is_due(start) && unsaved.saved().is_none());
        let mut ended = None;
        // A step takes seven seconds.
        for second in (0..).step_by(7) {
            let now = start + Duration::from_secs(second);
            if second > 0 && !unsaved.is_due(now) {
                continue;
            }
            match unsaved.failed("the disk is full", 60, now) {
                SaveNotice::Silence => {}
                SaveNotice::Report(text) => reported.push((second / 60, text)),
                SaveNotice::End(text) => {
                    ended = Some((second, text));
                    break;
                }
            }
        }
        let (second, text) = ended.unwrap();
        assert!(
            (3600..3670).contains(&second) && text.contains("for 1 h 0 min, in 59 tries") && text.contains("full"),
            "{second} {text}"
        );
        assert_eq!(reported.iter().map(|(minute, _)| *minute).collect::<Vec<_>>(), [0, 21, 42], "{reported:?}");
        assert!(reported[0].1.starts_with("NOT SAVED: the disk is full") && reported[0].1.contains("--max-unsaved-minutes"));

        let later = start + Duration::from_secs(4000);
        unsaved.request(later);
        assert!(
            matches!(unsaved.failed("full", 0, later), SaveNotice::Report(_)),
            "each request is answered, and 0 means no limit"
        );
        assert!(unsaved.saved().is_some_and(|text| text.contains("60 failed tries")) && !unsaved.is_due(later));
    }
}
