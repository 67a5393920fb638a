//! The tuner: selects the fastest of several equivalent kernels on this adapter, by measurements that are cached on disk.
//!
//! The file is `tune.json` in `$LEHR_CACHE`, else in `lehr` in the user's cache folder: one group of answers per adapter (name, driver
//! version, lehr version), by key. A damaged file is ignored and rewritten; where it cannot be written, or in a browser, answers last as
//! long as the [`Device`]. Every candidate is correct, so the choice only affects speed.
//!
//! The search is successive halving: after each round of measurements the faster half remains, and always the first candidate, which is
//! used without tuning: another one replaces it only if it is clearly faster in as many measurements. [`Device::tuned_choices`] returns what
//! was found, with the times.

use super::{Device, lock};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use web_time::Instant;

/// A cached answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Choice(TunedChoice),
    Figure(f64),
}

/// The candidate that was selected, and the measurements behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedChoice {
    /// The selected candidate.
    pub chosen: String,
    /// The one that is used without tuning.
    #[serde(default)]
    pub untuned: String,
    /// Least seconds of each candidate; none for one that was refused, took too long to compile, or was not reached in time.
    pub seconds: BTreeMap<String, Option<f64>>,
}

/// Rounds of measurements: the last two candidates are measured in each.
const ROUNDS: usize = 4;
/// Candidates slower than the fastest by this factor are not measured again, whether they belong to the faster half or not.
const NEAR: f64 = 1.5;
/// Time limit of a question, plus one measurement.
const MOST_SECONDS: f64 = 10.0;
/// Time limit of all questions of a process, plus one question: afterwards the first candidate is used, and nothing is cached. It does not
/// apply where measurements are the purpose ([`Device::tune_anew`]).
const MOST_SECONDS_IN_ALL: f64 = 60.0;
/// A candidate other than the first is dropped when its first measurement takes longer, because it would be compiled at every start: some
/// drivers take many seconds.
const MOST_COMPILE_SECONDS: f64 = 4.0;
/// Another candidate replaces the first only below this share of its time, so that noise does not decide.
const CLEARLY: f64 = 0.9;

type Answers = BTreeMap<String, Answer>;

/// Nothing is measured until tuning is enabled: tests use the first candidate.
#[derive(Default)]
pub(super) struct Tuner {
    on: bool,
    /// Do not use choices that were cached by another process.
    anew: bool,
    folder: Option<PathBuf>,
    answers: Answers,
    /// That searches took.
    seconds: f64,
    /// Keys of the choices that were needed.
    asked: BTreeSet<String>,
}

/// `$LEHR_CACHE`, else `lehr` in the user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    disk::folder()
}

impl Device {
    /// Measure kernel choices from now on, unless `LEHR_TUNE=off`, and cache them in the user's cache folder.
    pub fn enable_tuning(&self) {
        if std::env::var("LEHR_TUNE").is_ok_and(|v| v == "off") {
            return;
        }
        self.enable_tuning_in(cache_folder());
    }

    /// As [`Device::enable_tuning`], with the cache in this folder, or none.
    pub fn enable_tuning_in(&self, folder: Option<PathBuf>) {
        let answers =
            folder.as_deref().and_then(disk::read).and_then(|mut all| all.remove(&self.tuning_group())).unwrap_or_default();
        *lock(&self.tuner) = Tuner { on: true, folder, answers, ..Tuner::default() };
    }

    /// Whether kernel choices are measured.
    pub fn is_tuning(&self) -> bool {
        lock(&self.tuner).on
    }

    /// Measure each choice again when it is first needed, and cache the new one. False, and without effect, if tuning is off.
    pub fn tune_anew(&self) -> bool {
        let mut tuner = lock(&self.tuner);
        tuner.anew = tuner.on;
        tuner.on
    }

    /// The choices that this device has needed since tuning was enabled, by key.
    pub fn tuned_choices(&self) -> Vec<(String, TunedChoice)> {
        let tuner = lock(&self.tuner);
        let choice = |key: &String| match tuner.answers.get(key) {
            Some(Answer::Choice(choice)) => Some((key.clone(), choice.clone())),
            _ => None,
        };
        tuner.asked.iter().filter_map(choice).collect()
    }

    /// The candidate for `key`: the cached one, else the one that `measure` finds clearly fastest; the first one if tuning is off, if none
    /// can be measured, if none is clearly faster, or if this process has measured for a minute. The same within a process.
    ///
    /// # Panics
    /// When there are no candidates (a defect of the caller).
    pub fn tuned(&self, key: &str, candidates: &[String], measure: impl FnMut(&str) -> anyhow::Result<f64>) -> String {
        {
            let mut tuner = lock(&self.tuner);
            if !tuner.on || candidates.len() < 2 {
                return candidates[0].clone();
            }
            let anew = tuner.asked.insert(key.to_string()) && tuner.anew;
            if let Some(Answer::Choice(TunedChoice { chosen, .. })) = tuner.answers.get(key)
                && candidates.contains(chosen)
                && !anew
            {
                return chosen.clone();
            }
            if tuner.seconds > MOST_SECONDS_IN_ALL && !tuner.anew {
                return candidates[0].clone();
            }
        }
        let begin = Instant::now();
        let best = search(candidates, measure);
        lock(&self.tuner).seconds += begin.elapsed().as_secs_f64();
        let (mut chosen, mut bar) = (&candidates[0], CLEARLY * best[0]);
        for (name, &seconds) in candidates.iter().zip(&best).skip(1) {
            if seconds < bar {
                (chosen, bar) = (name, seconds);
            }
        }
        let seconds = candidates.iter().zip(&best).map(|(name, &s)| (name.clone(), s.is_finite().then_some(s))).collect();
        let choice = TunedChoice { chosen: chosen.clone(), untuned: candidates[0].clone(), seconds };
        self.learn(key, Answer::Choice(choice));
        chosen.clone()
    }

    /// The largest value that `measure` ever returned for `key` on this adapter, including one new measurement (even if tuning is off): a
    /// peak measured on a busy machine can increase later.
    ///
    /// # Errors
    /// The error of `measure`.
    pub fn measured_peak(&self, key: &str, measure: impl FnOnce() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
        let known = match lock(&self.tuner).answers.get(key) {
            Some(Answer::Figure(known)) if known.is_finite() => *known,
            _ => 0.0,
        };
        let figure = measure()?;
        if figure > known {
            self.learn(key, Answer::Figure(figure));
        }
        Ok(figure.max(known))
    }

    /// Report that scratch tensors allocated for `purpose` have been dropped.
    pub fn scratch_freed(&self, purpose: &str) {
        self.ledger.remove(purpose);
    }

    fn learn(&self, key: &str, answer: Answer) {
        let mut tuner = lock(&self.tuner);
        tuner.answers.insert(key.to_string(), answer);
        if let Some(folder) = &tuner.folder
            && disk::write(folder, &self.fingerprint(), &self.tuning_group(), &tuner.answers).is_err()
        {
            // After a failed write, cache only in memory.
            tuner.folder = None;
        }
    }

    fn tuning_group(&self) -> String {
        format!("{}|lehr {}", self.fingerprint(), env!("CARGO_PKG_VERSION"))
    }
}

/// Least seconds of each candidate by successive halving; infinite for one that has none.
fn search(candidates: &[String], mut measure: impl FnMut(&str) -> anyhow::Result<f64>) -> Vec<f64> {
    let begin = Instant::now();
    let elapsed = || begin.elapsed().as_secs_f64();
    let mut best = vec![f64::INFINITY; candidates.len()];
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    for round in 0..ROUNDS {
        // Round robin, so that temporary load affects all alike. A candidate that the driver refuses is dropped.
        for &i in &left {
            let before = elapsed();
            if before > MOST_SECONDS {
                break;
            }
            let seconds = measure(&candidates[i]).unwrap_or(f64::INFINITY);
            if round > 0 || i == 0 || elapsed() - before < MOST_COMPILE_SECONDS {
                best[i] = best[i].min(seconds);
            }
        }
        left.sort_by(|&a, &b| best[a].total_cmp(&best[b]));
        let fastest = best[left[0]];
        left.truncate(left.len().div_ceil(2).max(2));
        left.retain(|&i| best[i] <= NEAR * fastest);
        // The first one is measured in every round, and first, so that its time is as good as the others'.
        left.retain(|&i| i != 0);
        left.insert(0, 0);
        if left.len() < 2 {
            break;
        }
    }
    best
}

#[cfg(not(target_arch = "wasm32"))]
mod disk {
    use super::{Answers, BTreeMap, Path, PathBuf};
    use std::io::Write as _;

    const FILE: &str = "tune.json";
    const MOST_BYTES: u64 = 1 << 20;

    pub(super) fn folder() -> Option<PathBuf> {
        use etcetera::BaseStrategy as _;
        if let Some(folder) = std::env::var_os("LEHR_CACHE").filter(|f| !f.is_empty()) {
            return Some(folder.into());
        }
        etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("lehr"))
    }

    /// All groups, or none if the file is missing, too large or damaged.
    pub(super) fn read(folder: &Path) -> Option<BTreeMap<String, Answers>> {
        let path = folder.join(FILE);
        let about = std::fs::metadata(&path).ok()?;
        if !about.is_file() || about.len() > MOST_BYTES {
            return None;
        }
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Write one group to the file; other groups are kept, except those of older versions of lehr on this adapter. The file is replaced
    /// atomically.
    pub(super) fn write(folder: &Path, adapter: &str, group: &str, answers: &Answers) -> std::io::Result<()> {
        let mut all = read(folder).unwrap_or_default();
        let old = format!("{adapter}|lehr ");
        all.retain(|name, _| !name.starts_with(&old));
        all.insert(group.to_string(), answers.clone());
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, &all)?;
        file.write_all(b"\n")?;
        file.persist(folder.join(FILE)).map_err(|e| e.error)?;
        Ok(())
    }
}

#[cfg(target_arch = "wasm32")]
mod disk {
    use super::{Answers, BTreeMap, Path, PathBuf};

    pub(super) fn folder() -> Option<PathBuf> {
        None
    }

    pub(super) fn read(_: &Path) -> Option<BTreeMap<String, Answers>> {
        None
    }

    pub(super) fn write(_: &Path, _: &str, _: &str, _: &Answers) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(folder: Option<&Path>) -> Device {
        let device = Device::open_named(None).expect("a device");
        if let Some(folder) = folder {
            device.enable_tuning_in(Some(folder.to_path_buf()));
        }
        device
    }

    fn names() -> Vec<String> {
        ["slow", "fast", "broken"].map(String::from).to_vec()
    }

    fn seconds(name: &str) -> anyhow::Result<f64> {
        match name {
            "slow" => Ok(2.0),
            "fast" => Ok(1.0),
            _ => anyhow::bail!("refused"),
        }
    }

    /// Half of the candidates remain after a round, and none that is much slower than the fastest; the last two are measured in each round,
    /// and so is the first.
    #[test]
    fn the_faster_half_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let times = BTreeMap::from([("a", 1.1), ("b", 0.9), ("c", 1.0), ("d", 1.2), ("e", 1.3), ("far", 3.0)]);
        let names: Vec<String> = times.keys().map(ToString::to_string).collect();
        let mut counts = BTreeMap::new();
        let device = device(Some(folder.path()));
        let chosen = device.tuned("key", &names, |name| {
            *counts.entry(name.to_string()).or_insert(0) += 1;
            Ok(times[name])
        });
        assert_eq!(chosen, "b");
        let want = [("a", ROUNDS), ("b", ROUNDS), ("c", ROUNDS), ("d", 1), ("e", 1), ("far", 1)];
        assert_eq!(counts, want.map(|(name, count)| (name.to_string(), count)).into());
        let seconds = times.into_iter().map(|(name, seconds)| (name.to_string(), Some(seconds))).collect();
        assert_eq!(device.tuned_choices(), [("key".to_string(), TunedChoice { chosen, untuned: "a".into(), seconds })]);
    }

    /// A faster candidate that the driver takes long to compile is not chosen, and its time is not reported.
    #[test]
    fn slow_compilation_is_not_worth_it() {
        let folder = tempfile::tempdir().unwrap();
        let device = device(Some(folder.path()));
        let names = ["quick", "slow to compile"].map(String::from);
        let chosen = device.tuned("key", &names, |name| {
            if name == "quick" {
                return Ok(1.0);
            }
            std::thread::sleep(std::time::Duration::from_secs_f64(MOST_COMPILE_SECONDS));
            Ok(0.1)
        });
        assert_eq!(chosen, "quick");
        assert_eq!(device.tuned_choices()[0].1.seconds["slow to compile"], None);
    }

    /// After a minute of searches a process uses the cached choice, else the first candidate, without caching it.
    #[test]
    fn a_process_does_not_measure_forever() {
        let folder = tempfile::tempdir().unwrap();
        let device = device(Some(folder.path()));
        assert_eq!(device.tuned("known", &names(), seconds), "fast");
        lock(&device.tuner).seconds = MOST_SECONDS_IN_ALL + 1.0;
        assert_eq!(device.tuned("known", &names(), never), "fast");
        assert_eq!(device.tuned("new", &names(), never), "slow");
        assert_eq!(device.tuned_choices().len(), 1);
        assert!(device.tune_anew());
        assert_eq!(device.tuned("new", &names(), seconds), "fast");
    }

    #[test]
    fn cached_choices_are_measured_anew_on_request() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(device(Some(folder.path())).tuned("key", &names(), seconds), "fast");
        let again = device(Some(folder.path()));
        assert!(again.tune_anew());
        let now = |name: &str| if name == "slow" { Ok(0.5) } else { seconds(name) };
        assert_eq!(again.tuned("key", &names(), now), "slow");
        assert_eq!(again.tuned("key", &names(), never), "slow");
        assert_eq!(device(Some(folder.path())).tuned("key", &names(), never), "slow");
        assert!(!device(None).tune_anew());
    }

    fn never(_: &str) -> anyhow::Result<f64> {
        panic!("measured again")
    }

    #[test]
    fn choices_are_measured_once_and_cached() {
        let folder = tempfile::tempdir().unwrap();
        let first = device(Some(folder.path()));
        assert_eq!(first.tuned("key", &names(), seconds), "fast");
        assert_eq!(first.tuned("key", &names(), never), "fast");
        assert_eq!(first.measured_peak("peak", || Ok(40.0)).unwrap(), 40.0);
        let second = device(Some(folder.path()));
        assert_eq!(second.tuned("key", &names(), never), "fast");
        assert_eq!(second.measured_peak("peak", || Ok(30.0)).unwrap(), 40.0);
        // A cached choice that is no longer a candidate is measured again.
        assert_eq!(second.tuned("key", &["slow".into(), "broken".into()], seconds), "slow");
    }

    #[test]
    fn tuning_off_takes_the_first_candidate() {
        assert_eq!(device(None).tuned("key", &names(), never), "slow");
    }

    #[test]
    fn damaged_and_unwritable_tuning_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.json");
        let group = device(None).tuning_group();
        let quoted = serde_json::to_string(&group).unwrap();
        let nan = format!("{{{quoted}: {{\"key\": 3, \"peak\": -1}}}}");
        for content in ["", "{", "[]", "{\"a\": {\"b\": [1]}}", &"[".repeat(100_000), &nan, &" ".repeat(3 << 20)] {
            std::fs::write(&path, content).unwrap();
            let device = device(Some(folder.path()));
            assert_eq!(device.tuned("key", &names(), seconds), "fast");
            assert_eq!(device.measured_peak("peak", || Ok(7.0)).unwrap(), 7.0);
            assert_eq!(disk::read(folder.path()).unwrap()[&group].len(), 2);
        }
        // An impossible folder: below a file.
        let device = device(Some(&path.join("below")));
        assert_eq!(device.tuned("key", &names(), seconds), "fast");
        assert_eq!(device.tuned("key", &names(), never), "fast");
    }
}
