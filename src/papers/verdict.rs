//! Verdicts from measurements, by rules that are fixed in advance.

use super::stats::Estimate;
use serde::Serialize;

/// Condition of a claim on a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Requirement {
    /// More than this.
    Above(f64),
    /// Less than this.
    Below(f64),
    /// At most this far from 0.
    Within(f64),
    /// No condition: the number is only reported.
    Nothing,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CheckOutcome {
    /// The whole interval meets the condition.
    Yes,
    /// The whole interval violates the condition.
    No,
    /// The interval contains values on both sides.
    Unclear,
    /// There is no condition.
    Reported,
}

/// A measurement and its condition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimCheck {
    /// Description of the measurement, with its unit.
    pub what: String,
    /// The measurement.
    pub estimate: Estimate,
    /// The condition.
    #[serde(rename = "wants")]
    pub requirement: Requirement,
    /// The result.
    pub met: CheckOutcome,
}

/// Verdict on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClaimVerdict {
    /// Every check is met.
    #[serde(rename = "holds")]
    Holds,
    /// A check is contradicted.
    #[serde(rename = "does not hold")]
    Fails,
    /// No check is contradicted, but not all are clear.
    #[serde(rename = "undecided at this scale")]
    Undecided,
}

/// The rule as text, for tables.
pub const RULE: &str = "Each check is a number with a 95 % interval: the wider, on either side, of a bootstrap (seeds, and what was \
    measured in each, resampled) and Student's t over the seeds. A check is met when the whole interval lies where the claim needs it, contradicted \
    when the whole interval lies elsewhere, else unclear. A claim holds when all its checks are met, does not hold when one is \
    contradicted, and is undecided at this scale otherwise. Checks were written into the code before the numbers were seen.";

impl ClaimCheck {
    /// Compare a measurement with its condition.
    pub fn new(what: impl Into<String>, estimate: Estimate, requirement: Requirement) -> Self {
        let [low, high] = estimate.interval();
        let met = match requirement {
            Requirement::Nothing => CheckOutcome::Reported,
            _ if estimate.mean.is_nan() => CheckOutcome::Unclear,
            Requirement::Above(x) => outcome_of(low > x, high <= x),
            Requirement::Below(x) => outcome_of(high < x, low >= x),
            Requirement::Within(x) => outcome_of(low >= -x && high <= x, low > x || high < -x),
        };
        Self { what: what.into(), estimate, requirement, met }
    }
}

fn outcome_of(yes: bool, no: bool) -> CheckOutcome {
    match (yes, no) {
        (true, _) => CheckOutcome::Yes,
        (_, true) => CheckOutcome::No,
        _ => CheckOutcome::Unclear,
    }
}

impl ClaimVerdict {
    /// From a claim's checks; undecided without any.
    pub fn of(checks: &[ClaimCheck]) -> Self {
        let asked: Vec<CheckOutcome> = checks.iter().map(|c| c.met).filter(|m| *m != CheckOutcome::Reported).collect();
        if asked.contains(&CheckOutcome::No) {
            Self::Fails
        } else if !asked.is_empty() && asked.iter().all(|m| *m == CheckOutcome::Yes) {
            Self::Holds
        } else {
            Self::Undecided
        }
    }

    /// Text for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "does not hold",
            Self::Undecided => "undecided at this scale",
        }
    }
}

impl Requirement {
    /// Text for tables.
    pub fn words(self) -> String {
        match self {
            Self::Above(x) => format!("> {x}"),
            Self::Below(x) => format!("< {x}"),
            Self::Within(x) => format!("within ±{x}"),
            Self::Nothing => "reported".into(),
        }
    }
}

impl CheckOutcome {
    /// Text for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Yes => "met",
            Self::No => "contradicted",
            Self::Unclear => "unclear",
            Self::Reported => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], requirement: Requirement) -> ClaimCheck {
        ClaimCheck::new("x", Estimate::of_values(values), requirement)
    }

    #[test]
    fn each_verdict_can_be_reached() {
        let clear = check(&[1.0, 1.1, 0.9], Requirement::Above(0.0));
        let contrary = check(&[-1.0, -1.1, -0.9], Requirement::Above(0.0));
        let open = check(&[1.0, -1.0, 0.4], Requirement::Above(0.0));
        let reported = check(&[-5.0, -5.0, -5.0], Requirement::Nothing);
        let of = |checks: &[&ClaimCheck]| ClaimVerdict::of(&checks.iter().map(|c| (*c).clone()).collect::<Vec<_>>());
        assert_eq!(of(&[&clear, &clear, &reported]), ClaimVerdict::Holds);
        assert_eq!(of(&[&clear, &contrary, &open]), ClaimVerdict::Fails);
        assert_eq!(of(&[&clear, &open]), ClaimVerdict::Undecided);
        assert_eq!(of(&[&reported]), ClaimVerdict::Undecided);
        assert_eq!(of(&[]), ClaimVerdict::Undecided);
    }

    #[test]
    fn bounds_of_checks() {
        assert_eq!(check(&[0.01, -0.01, 0.0], Requirement::Within(0.1)).met, CheckOutcome::Yes);
        assert_eq!(check(&[0.5, 0.51, 0.49], Requirement::Within(0.1)).met, CheckOutcome::No);
        assert_eq!(check(&[0.1, 0.3, -0.2], Requirement::Within(0.1)).met, CheckOutcome::Unclear);
        assert_eq!(check(&[0.1, 0.11, 0.12], Requirement::Below(0.5)).met, CheckOutcome::Yes);
        assert_eq!(check(&[f64::NAN, 1.0], Requirement::Above(0.0)).met, CheckOutcome::Unclear);
        // One seed has no interval: nothing can be decided.
        assert_eq!(check(&[1.0], Requirement::Above(0.0)).met, CheckOutcome::Unclear);
    }
}
