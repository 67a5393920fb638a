//! Every operation of a save and a purge fails, kills, or loses power, one after the other.

use super::*;
use lehr::vfs::RealFs;

/// The file operations of one round of training: save, then purge.
fn round(vfs: &dyn Vfs, run: &Path, step: u64) -> Result<(), SaveFailed> {
    save(vfs, run, step)?;
    let mut keeper = Retention::new(RetentionPolicy { keep_last: 2, keep_every: 0 });
    // A purge that fails must not stop training.
    let _ = keeper.purge(vfs, run);
    Ok(())
}

fn operations(steps: &[u64], step: u64) -> usize {
    let dir = run_with(steps);
    let fs = FaultFs::counting();
    round(&fs, dir.path(), step).unwrap();
    fs.operations()
}

/// After the fault: old or new, nothing else; then a restart tidies, and the next save works.
fn recovers(run: &Path, old: &[Option<u64>], context: &str) {
    let restart = checkpoint::clean_stale(&RealFs, &checkpoints::folder(run));
    restart.unwrap_or_else(|e| panic!("{context}: {e:#}"));
    let step = load(run);
    assert!(old.contains(&step), "{context}: loaded {step:?}, may be {old:?}");
    for (_, path) in checkpoints::list(&RealFs, run).unwrap() {
        checkpoint::verify(&RealFs, &path).unwrap_or_else(|e| panic!("{context}: a half-deleted one keeps its name: {e:#}"));
    }
    for name in names_in(&checkpoints::folder(run)) {
        assert!(name.starts_with("step-"), "{context}: {name} is left");
    }
    save(&RealFs, run, 900).unwrap();
    assert_eq!(load(run), Some(900), "{context}");
}

#[test]
fn an_error_at_any_operation_leaves_old_or_new() {
    for trouble in FaultKind::ERRORS {
        for n in 0..operations(&[100, 200, 300], 400) {
            let dir = run_with(&[100, 200, 300]);
            let fs = FaultFs::new(n, trouble);
            let result = round(&fs, dir.path(), 400);
            let context = format!("{trouble:?} at {:?}", fs.log()[n]);
            if let Err(e) = &result {
                let text = e.to_string();
                assert!(text.contains("step-00000400") && text.contains("needs") && text.contains("free"), "{context}: {text}");
                assert_eq!(e.disk_full, trouble == FaultKind::NoSpace, "{context}: {text}");
            }
            // Without any restart: the loader sees old or new, two that verify are there, and nothing of a failed save is left
            // (but for what the failing operation itself could not remove).
            let loaded = load(dir.path());
            assert!([Some(300), Some(400)].contains(&loaded), "{context}: {loaded:?}");
            assert!(result.is_err() || loaded == Some(400), "{context}: reported saved but is not there");
            let valid = checkpoints::list(&RealFs, dir.path()).unwrap().into_iter();
            assert!(valid.filter(|(_, path)| checkpoint::verify(&RealFs, path).is_ok()).count() >= 2, "{context}");
            if result.is_err() {
                let left = names_in(&checkpoints::folder(dir.path()));
                assert!(left.iter().all(|name| name.starts_with("step-")), "{context}: {left:?}");
            }
            recovers(dir.path(), &[Some(300), Some(400)], &context);
        }
    }
}

#[test]
fn a_persistent_disk_error_is_reported_and_keeps_old_checkpoints() {
    let dir = run_with(&[100, 200]);
    let count = FaultFs::counting();
    save(&count, dir.path(), 300).unwrap();
    for n in 0..count.operations() {
        for trouble in FaultKind::ERRORS {
            let fs = FaultFs::lasting(n, trouble);
            let saved = save(&fs, dir.path(), 300);
            let context = format!("{trouble:?} from {:?}", fs.log()[n]);
            let left = names_in(&checkpoints::folder(dir.path()));
            if let Err(e) = saved {
                assert_eq!(left.iter().filter(|name| !name.starts_with("step-")).count(), 0, "{context}: {left:?}");
                assert!(e.to_string().contains("(injected)"), "{context}: {e}");
            }
            let loaded = load(dir.path());
            assert!([Some(200), Some(300)].contains(&loaded), "{context}: {loaded:?}");
            if loaded == Some(300) {
                fs::remove_dir_all(checkpoints::folder(dir.path()).join("step-00000300")).unwrap();
            }
            checkpoint::clean_stale(&RealFs, &checkpoints::folder(dir.path())).unwrap();
        }
    }
}

#[test]
fn a_kill_at_any_operation_leaves_old_or_new() {
    for n in 0..operations(&[100, 200], 300) {
        let dir = run_with(&[100, 200]);
        let fs = FaultFs::new(n, FaultKind::Killed);
        let saved = round(&fs, dir.path(), 300);
        let loaded = load(dir.path());
        assert!([Some(200), Some(300)].contains(&loaded), "{:?}", fs.log().last());
        assert!(saved.is_err() || loaded == Some(300));
        recovers(dir.path(), &[Some(200), Some(300)], &format!("killed at {:?}", fs.log()[n]));
    }
}

#[test]
fn saving_a_step_again_never_loses_both() {
    for trouble in [FaultKind::Killed, FaultKind::Io, FaultKind::NoSpace] {
        for n in 0..operations(&[300], 300) {
            let dir = run_with(&[300]);
            let fs = FaultFs::new(n, trouble);
            let _ = round(&fs, dir.path(), 300);
            recovers(dir.path(), &[Some(300)], &format!("{trouble:?} at {:?}", fs.log()[n]));
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_leaves_old_or_new() {
    let mut states = 0;
    for n in 0..=operations(&[100, 200, 300], 400) {
        for how in 0..8 {
            let dir = run_with(&[100, 200, 300]);
            let fs = FaultFs::new(n, FaultKind::Killed);
            let saved = round(&fs, dir.path(), 400).is_ok();
            let how = PowerCut { half_written: how & 1 > 0, renames_kept: how & 2 > 0, names_kept: how & 4 > 0 };
            fs.power_cut(how).unwrap();
            let context = format!("power cut after {:?}, {how:?}", fs.log().last());
            let allowed: &[Option<u64>] = if saved { &[Some(400)] } else { &[Some(300), Some(400)] };
            recovers(dir.path(), allowed, &context);
            states += 1;
        }
    }
    assert!(states > 300, "{states}");
}

#[test]
fn a_failed_fsync_is_never_repeated_on_the_same_file() {
    let dir = run_with(&[100]);
    let count = FaultFs::counting();
    save(&count, dir.path(), 200).unwrap();
    let syncs: Vec<usize> = (0..count.operations()).filter(|n| count.log()[*n].contains(" fsync ")).collect();
    assert!(syncs.len() >= 4);
    for n in syncs {
        let dir = run_with(&[100]);
        let fs = FaultFs::new(n, FaultKind::Io);
        save(&fs, dir.path(), 200).unwrap();
        let path = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        let failed = path(&fs.log()[n]);
        assert_eq!(fs.log().iter().filter(|line| path(line) == failed).count(), 1, "{failed}");
        assert_eq!(load(dir.path()), Some(200));
    }
}

#[test]
fn a_bit_flip_anywhere_is_detected_and_the_previous_one_used() {
    let dir = run_with(&[100, 200]);
    let step = checkpoints::folder(dir.path()).join("step-00000200");
    let mut random = Lcg(7);
    for round in 0..400 {
        let names = names_in(&step);
        let path = step.join(&names[random.below(names.len())]);
        let valid = fs::read(&path).unwrap();
        let mut bad = valid.clone();
        if round % 4 == 0 {
            bad.truncate(random.below(bad.len()));
        } else {
            let at = random.below(bad.len());
            bad[at] ^= 1 << random.below(8);
        }
        fs::write(&path, bad).unwrap();
        let newest = checkpoints::newest_valid(&RealFs, dir.path()).unwrap();
        assert_eq!(newest.found.unwrap().step(), 100, "round {round}, {}", path.display());
        assert_eq!(newest.skipped.len(), 1);
        assert!(newest.skipped[0].contains("step-00000200"), "{}", newest.skipped[0]);
        fs::write(&path, valid).unwrap();
    }
    assert_eq!(load(dir.path()), Some(200));
}

#[test]
fn every_manifest_bit_counts() {
    let dir = run_with(&[200]);
    let path = checkpoints::folder(dir.path()).join("step-00000200/MANIFEST.json");
    let valid = fs::read(&path).unwrap();
    for at in 0..valid.len() {
        let mut bad = valid.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, bad).unwrap();
        assert_eq!(load(dir.path()), None, "byte {at}");
    }
}

#[test]
fn mixed_renamed_and_foreign_folders_are_no_checkpoints() {
    let dir = run_with(&[100, 200, 300]);
    let at = |step: u64| checkpoints::folder(dir.path()).join(checkpoint::step_name(step));
    fs::copy(at(100).join("optimizer.safetensors"), at(300).join("optimizer.safetensors")).unwrap();
    fs::rename(at(200), at(250)).unwrap();
    fs::create_dir(at(400)).unwrap();
    fs::create_dir(at(400).with_file_name("step-5")).unwrap();
    let newest = checkpoints::newest_valid(&RealFs, dir.path()).unwrap();
    assert_eq!(newest.found.unwrap().step(), 100);
    let all = newest.skipped.join("\n");
    for part in ["step-00000400: MANIFEST.json", "step-00000300: optimizer.safetensors", "the folder's name says 250"] {
        assert!(all.contains(part), "{part} not in {all}");
    }
}

#[test]
fn a_newer_format_and_escaping_names_are_refused() {
    let dir = run_with(&[200]);
    let step = checkpoints::folder(dir.path()).join("step-00000200");
    let valid = fs::read_to_string(step.join("MANIFEST.json")).unwrap();
    fs::write(step.join("MANIFEST.json"), valid.replace("\"format\": 1", "\"format\": 9")).unwrap();
    let error = format!("{:#}", checkpoint::verify(&RealFs, &step).unwrap_err());
    assert!(error.contains("format 9") && error.contains("update lehr"), "{error}");
    let place = CheckpointTarget { parent: dir.path(), name: "out", bytes: 0, existing: IfExists::Refuse };
    for name in ["../x", "a/b", "", "..", "MANIFEST.json", "a\\b", "c:d"] {
        let result = checkpoint::save(&RealFs, place, &CheckpointOrigin::default(), |w| w.json(name, &1));
        assert!(result.is_err(), "{name}");
    }
    assert!(!dir.path().join("out").exists() && !dir.path().join("x").exists());
}

#[test]
fn an_export_never_overwrites_and_a_full_disk_says_how_much() {
    let dir = temp();
    let place = CheckpointTarget { parent: dir.path(), name: "out", bytes: 10, existing: IfExists::Refuse };
    let save = |place| checkpoint::save(&RealFs, place, &CheckpointOrigin::default(), |w| w.json("config.json", &1));
    fs::create_dir(dir.path().join("out")).unwrap();
    save(place).unwrap();
    let again = save(place).unwrap_err().to_string();
    assert!(again.contains("out: cannot be saved") && again.contains("not empty"), "{again}");
    let full = save(CheckpointTarget { name: "big", bytes: u64::MAX / 2, ..place }).unwrap_err();
    assert!(full.disk_full && full.to_string().contains("TiB") && full.free.is_some(), "{full}");
    assert_eq!(names_in(dir.path()), ["out"]);
}

#[test]
fn retention_deletes_only_verified_folders_and_keeps_pins() {
    let dir = run_with(&[100, 200, 300, 400, 500]);
    let at = |step: u64| checkpoints::folder(dir.path()).join(checkpoint::step_name(step));
    fs::write(at(500).join("trainer.json"), "{}").unwrap();
    let mut keeper = Retention::new(RetentionPolicy { keep_last: 2, keep_every: 0 });
    keeper.pin(100);
    let purged = keeper.purge(&RealFs, dir.path()).unwrap();
    assert_eq!(purged.deleted, [200]);
    assert_eq!(purged.warnings.len(), 1);
    assert!(purged.warnings[0].contains("step-00000500"), "{}", purged.warnings[0]);
    assert!(at(500).exists() && at(400).exists() && at(300).exists() && at(100).exists());
    keeper.unpin(100);
    assert_eq!(keeper.purge(&RealFs, dir.path()).unwrap().deleted, [100]);
}

/// A disk that holds two checkpoints and not quite a third: the oldest that need not stay makes space for it, and a valid checkpoint is there
/// at any moment.
#[test]
fn a_full_disk_gives_up_the_oldest_checkpoint() {
    const LARGE: u64 = 1 << 40;
    const NONE: [u64; 0] = [];
    let dir = run_with(&[100, 200]);
    let run = dir.path();
    let used = LARGE - FaultFs::small(run, LARGE).free_space(run).unwrap();
    let needed = save(&FaultFs::small(run, 0), run, 300).unwrap_err().needed;
    let disk = FaultFs::small(run, used + needed - 1);
    let full = save(&disk, run, 300).unwrap_err();
    assert!(full.disk_full && full.missing() == 1, "{full}");

    let mut keeper = Retention::new(RetentionPolicy { keep_last: 2, keep_every: 0 });
    let space = |keeper: &mut Retention, bytes, last| keeper.make_space(&disk, run, bytes, last).unwrap().deleted;
    assert_eq!(space(&mut keeper, LARGE, true), NONE, "not one is deleted in vain");
    keeper.keep_good([100].into_iter());
    assert_eq!(space(&mut keeper, 1, false), NONE, "a rescue may need it");
    keeper.pin(100);
    assert_eq!(space(&mut keeper, 1, true), NONE, "it is pinned");
    keeper.unpin(100);
    let mut every = Retention::new(RetentionPolicy { keep_last: 2, keep_every: 100 });
    assert_eq!(space(&mut every, 1, true), NONE, "a multiple of --keep-every");
    assert_eq!((space(&mut keeper, full.missing(), true), load(run)), (vec![100], Some(200)));
    save(&disk, run, 300).unwrap();
    assert_eq!((space(&mut keeper, 0, true), load(run)), (vec![200], Some(300)), "at least one, where the disk is full by quota");
    assert_eq!((space(&mut keeper, 1, true), load(run)), (vec![], Some(300)), "the last one stays");
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_not_followed() {
    let (dir, outside) = (run_with(&[100, 200, 300]), temp());
    fs::write(outside.path().join("precious"), "x").unwrap();
    let folder = checkpoints::folder(dir.path());
    std::os::unix::fs::symlink(outside.path(), folder.join("step-00000001")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.join(".tmp-step-00000002-1-1")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.join("step-00000100/inside")).unwrap();
    let mut keeper = Retention::new(RetentionPolicy { keep_last: 2, keep_every: 0 });
    assert_eq!(keeper.purge(&RealFs, dir.path()).unwrap().deleted, [100]);
    checkpoint::clean_stale(&RealFs, &folder).unwrap();
    assert!(outside.path().join("precious").exists());
}

#[test]
fn a_run_folder_is_created_once_and_survives_a_kill_at_any_operation() {
    let count = FaultFs::counting();
    let dir = temp();
    drop(RunFolder::create(&count, &dir.path().join("runs/a"), "x = 1\n").unwrap());
    for n in 0..count.operations() {
        for trouble in [FaultKind::Killed, FaultKind::NoSpace] {
            let dir = temp();
            let path = dir.path().join("runs/a");
            let _ = RunFolder::create(&FaultFs::new(n, trouble), &path, "x = 1\n");
            match RunFolder::create(&RealFs, &path, "x = 2\n") {
                Ok(folder) => assert_eq!(fs::read_to_string(folder.config()).unwrap(), "x = 2\n"),
                // Killed after config.toml: then it is a run and can be resumed.
                Err(e) => {
                    assert!(format!("{e:#}").contains("--resume"), "{n} {e:#}");
                    RunFolder::open_for_resume(&RealFs, &path).unwrap();
                }
            }
        }
    }
}
