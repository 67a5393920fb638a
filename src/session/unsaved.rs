//! A run that cannot save: told of at once, then rarely, tried again soon, and ended before hours of training could be lost.

use std::time::{Duration, Instant};

/// Between two tries that nobody asked for.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// Between two notes.
const TELL_EVERY: Duration = Duration::from_secs(20 * 60);

/// Saves that failed since the last one that did not.
#[derive(Debug, Default)]
pub struct Unsaved {
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    first: Instant,
    last: Instant,
    told: Instant,
    tries: u64,
}

/// What is to be said of a save that failed.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Nothing: it was said not long ago.
    Silence,
    /// This.
    Tell(String),
    /// That the run ends.
    End(String),
}

impl Unsaved {
    /// A save failed for this reason; without one for `minutes` (0: for ever) the run ends.
    pub fn failed(&mut self, why: &str, minutes: u64, now: Instant) -> Outcome {
        let ends = match minutes {
            0 => String::new(),
            _ => format!("; after {minutes} minutes without a save the run ends (--max-unsaved-minutes)"),
        };
        let Some(failed) = &mut self.failed else {
            self.failed = Some(Failed { first: now, last: now, told: now, tries: 1 });
            return Outcome::Tell(format!("NOT SAVED: {why}; training continues and tries again every minute{ends}"));
        };
        (failed.last, failed.tries) = (now, failed.tries + 1);
        let lasted = now - failed.first;
        let count = format!("nothing could be saved for {} minutes, in {} tries", lasted.as_secs() / 60, failed.tries);
        if minutes > 0 && lasted >= Duration::from_secs(60 * minutes) {
            return Outcome::End(format!("{count}: {why}; the run ends here (--max-unsaved-minutes {minutes})"));
        }
        if now - failed.told < TELL_EVERY {
            return Outcome::Silence;
        }
        failed.told = now;
        Outcome::Tell(format!("STILL NOT SAVED: {count}: {why}{ends}"))
    }

    /// A save went well; the words for it where others had not.
    pub fn saved(&mut self) -> Option<String> {
        let failed = self.failed.take()?;
        Some(format!("saved again, after {} tries that failed", failed.tries))
    }

    /// Somebody asked for the save that follows, and is to hear what becomes of it.
    pub fn ask(&mut self, now: Instant) {
        if let Some(failed) = &mut self.failed {
            failed.told = now.checked_sub(TELL_EVERY).unwrap_or(failed.told);
        }
    }

    /// Whether it is time to try again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|failed| now - failed.last >= TRY_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_at_once_then_rarely_and_ended() {
        let (start, mut unsaved, mut told) = (Instant::now(), Unsaved::default(), Vec::new());
        assert!(!unsaved.is_due(start) && unsaved.saved().is_none());
        let mut ended = None;
        // A step takes seven seconds.
        for second in (0..).step_by(7) {
            let now = start + Duration::from_secs(second);
            if second > 0 && !unsaved.is_due(now) {
                continue;
            }
            match unsaved.failed("the disk is full", 60, now) {
                Outcome::Silence => {}
                Outcome::Tell(text) => told.push((second / 60, text)),
                Outcome::End(text) => {
                    ended = Some((second, text));
                    break;
                }
            }
        }
        let (second, text) = ended.unwrap();
        assert!(
            (3600..3670).contains(&second) && text.contains("60 minutes, in 59 tries") && text.contains("full"),
            "{second} {text}"
        );
        assert_eq!(told.iter().map(|(minute, _)| *minute).collect::<Vec<_>>(), [0, 21, 42], "{told:?}");
        assert!(told[0].1.starts_with("NOT SAVED: the disk is full") && told[0].1.contains("--max-unsaved-minutes"));

        let later = start + Duration::from_secs(4000);
        unsaved.ask(later);
        assert!(matches!(unsaved.failed("full", 0, later), Outcome::Tell(_)), "who asks is answered, and 0 is for ever");
        assert!(unsaved.saved().is_some_and(|text| text.contains("60 tries")) && !unsaved.is_due(later));
    }
}
