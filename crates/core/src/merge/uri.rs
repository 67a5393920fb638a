//! `merge:RUN?last=10&every=100&method=sma`: a merge as a single argument, for `--init`.

use super::{MergeRule, WindowSpec};
use crate::config::{DecayShape, MergeMethod};
use crate::vfs::clean;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::path::PathBuf;

const PREFIX: &str = "merge:";
const KEYS: &str = "last, every, at, method, alpha, decay, weights";

/// A run, a window of it and a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeSpec {
    /// The run folder.
    pub run: PathBuf,
    /// The window of checkpoints.
    pub window: WindowSpec,
    /// The merge rule.
    pub rule: MergeRule,
}

impl MergeSpec {
    /// Whether the text describes a merge, to be parsed by [`Self::parse`].
    pub fn is_merge(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Parse `merge:RUN?last=10&every=100&method=sma&at=STEP&alpha=0.2&decay=linear&weights=1,2,3`; everything after the run is optional.
    ///
    /// # Errors
    /// One line that names the invalid part and its valid values.
    pub fn parse(text: &str) -> Result<Self> {
        let at = || clean(text);
        let rest = text.strip_prefix(PREFIX).with_context(|| format!("{}: must begin with {PREFIX}", at()))?;
        let (run, query) = rest.split_once('?').unwrap_or((rest, ""));
        ensure!(!run.is_empty(), "{}: names no run: write {PREFIX}RUN?last=10&every=100&method=sma", at());
        let (mut window, mut last) = (WindowSpec::default(), None);
        let (mut method, mut alpha, mut decay, mut weights) = (MergeMethod::default(), 0.2, DecayShape::default(), Vec::new());
        let mut seen = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let bad = |why: &str| anyhow::anyhow!("{}: {}={}: {why}", at(), clean(key), clean(value));
            ensure!(!seen.contains(&key), "{}: {} stands twice", at(), clean(key));
            seen.push(key);
            match key {
                "last" => last = Some(value.parse().map_err(|_| bad("must be a whole number"))?),
                "every" => window.every = Some(value.parse().map_err(|e: anyhow::Error| bad(&e.to_string()))?),
                "at" => window.at = Some(value.parse().map_err(|_| bad("must be a step"))?),
                "method" => method = choice(value).map_err(|names| bad(&format!("choose one of {names}")))?,
                "alpha" => alpha = value.parse().map_err(|_| bad("must be a number"))?,
                "decay" => decay = choice(value).map_err(|names| bad(&format!("choose one of {names}")))?,
                "weights" => weights = numbers(value).ok_or_else(|| bad("must be numbers with commas between them"))?,
                _ => bail!("{}: '{}' is not known; known: {KEYS}", at(), clean(key)),
            }
        }
        // The number of given weights determines the number of checkpoints.
        let given = (method == MergeMethod::Weights && !weights.is_empty()).then_some(weights.len());
        window.last = last.or(given).unwrap_or(window.last);
        let rule = MergeRule::new(method, alpha, decay, &weights, "").with_context(at)?;
        if let MergeRule::Weights(weights) = &rule {
            ensure!(weights.len() == window.last, "{}: {} weights for last={}", at(), weights.len(), window.last);
        }
        Ok(Self { run: run.into(), window, rule })
    }
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names = T::value_variants().iter().filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()));
        names.collect::<Vec<_>>().join(", ")
    })
}

fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|n| n.trim().parse().ok()).collect()
}

impl std::fmt::Display for MergeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}?last={}", self.run.display(), self.window.last)?;
        if let Some(every) = self.window.every {
            write!(f, "&every={every}")?;
        }
        if let Some(at) = self.window.at {
            write!(f, "&at={at}")?;
        }
        write!(f, "&method={}", self.rule.method().name())?;
        match &self.rule {
            MergeRule::Ema { alpha } | MergeRule::EmaNormalized { alpha } => write!(f, "&alpha={alpha}"),
            MergeRule::Wsm { decay } => write!(f, "&decay={}", decay.name()),
            MergeRule::Weights(w) => {
                write!(f, "&weights={}", w.iter().map(f64::to_string).collect::<Vec<_>>().join(","))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Interval;
    use super::*;

    #[test]
    fn merge_specs_round_trip() {
        let full = MergeSpec::parse("merge:runs/a b?every=4Mtok&last=3&method=ema&alpha=0.1&at=900").unwrap();
        assert_eq!((full.run.as_path(), full.window.last), (std::path::Path::new("runs/a b"), 3));
        assert_eq!((full.window.every, full.window.at), (Some(Interval::Tokens(4_000_000)), Some(900)));
        assert_eq!(full.rule, MergeRule::Ema { alpha: 0.1 });
        let bare = MergeSpec::parse("merge:r").unwrap();
        assert_eq!((bare.window, &bare.rule), (WindowSpec::default(), &MergeRule::Sma));
        let weights = MergeSpec::parse("merge:r?method=weights&weights=1,2,-0.5").unwrap();
        assert_eq!((weights.window.last, &weights.rule), (3, &MergeRule::Weights(vec![1.0, 2.0, -0.5])));
        let wsm = MergeSpec::parse("merge:r?method=wsm&decay=1-sqrt&last=7").unwrap();
        for spec in [full, bare, weights, wsm] {
            assert_eq!(MergeSpec::parse(&spec.to_string()).unwrap(), spec, "{spec}");
        }
    }

    #[test]
    fn invalid_merge_specs_are_refused() {
        for (text, says) in [
            ("runs/a", "merge:"),
            ("merge:", "names no run"),
            ("merge:?last=3", "names no run"),
            ("merge:r?last=x", "last=x"),
            ("merge:r?last=3&last=4", "last stands twice"),
            ("merge:r?every=4M", "4Mtok"),
            ("merge:r?at=new", "at=new"),
            ("merge:r?method=slerp", "ema-normalized"),
            ("merge:r?method=ema&alpha=2", "alpha 2"),
            ("merge:r?decay=steep", "1-sqrt"),
            ("merge:r?method=weights", "weights"),
            ("merge:r?method=weights&weights=1,x", "commas"),
            ("merge:r?method=weights&weights=1,2&last=3", "2 weights for last=3"),
            ("merge:r?metod=sma", "'metod' is not known"),
        ] {
            let error = format!("{:#}", MergeSpec::parse(text).unwrap_err());
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
