//! Which checkpoints a run gives, and a whole life: train, merge, evaluate, begin from the merge.

use super::*;
use checkpoint::{CheckpointOrigin, CheckpointTarget as At, IfExists, save, step_name};
use lehr::merge::{Interval, WindowSpec, choose, choose_at_most};

/// A run of 32 tokens an update with (almost empty) checkpoints at these steps.
pub(super) fn fake_run(run: &Path, steps: &[u64]) {
    let folder = checkpoints::folder(run);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(run.join("config.toml"), "[train]\nbatch_size = 4\nseq_len = 8\n").unwrap();
    for step in steps {
        let origin = CheckpointOrigin { step: *step, ..CheckpointOrigin::default() };
        let name = step_name(*step);
        let at = At { parent: &folder, name: &name, bytes: 0, existing: IfExists::Refuse };
        save(&RealFs, at, &origin, |out| {
            let tensor = Stored::new(Dtype::F32, &[2], &[*step as f32, 1.0]);
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?;
            let bytes = safetensors::serialize([("w", view)], None)?;
            out.file("model.safetensors", |f| Ok(f.write_all(&bytes)?))?;
            out.file("optimizer.safetensors", |f| Ok(f.write_all(b"moments")?))?;
            out.file("config.json", |f| Ok(f.write_all(CONFIG.as_bytes())?))
        })
        .unwrap();
    }
}

fn spec(last: usize, every: Option<&str>, at: Option<u64>) -> WindowSpec {
    WindowSpec { last, every: every.map(|e| e.parse::<Interval>().unwrap()), at }
}

// Length: a table.
#[test]
fn windows_are_trailing_and_evenly_spaced() {
    let place = Place::new();
    let run = place.path("run");
    let steps = [100, 200, 300, 400, 500, 600, 700, 800, 900, 920, 940, 1000];
    fake_run(&run, &steps);
    let at = |step: u64| checkpoints::folder(&run).join(step_name(step));
    for (last, every, end, want, spacing) in [
        (3, Some("200"), None, vec![600, 800, 1000], 200),
        (3, None, None, vec![800, 900, 1000], 100),
        (10, None, None, (1..=10).map(|i| 100 * i).collect(), 100),
        (4, None, Some(900), vec![600, 700, 800, 900], 100),
        (3, Some("20"), Some(940), vec![900, 920, 940], 20),
        (3, None, Some(940), vec![900, 920, 940], 20),
        (2, None, None, vec![940, 1000], 60),
        (1, Some("7"), Some(300), vec![300], 0),
        (1, None, None, vec![1000], 0),
        // 32 tokens an update: 6400 tokens are 200 steps, and so is what is nearest to them.
        (3, Some("6400tok"), None, vec![600, 800, 1000], 200),
        (3, Some("6.39ktok"), None, vec![600, 800, 1000], 200),
        (5, Some("3200tok"), Some(500), vec![100, 200, 300, 400, 500], 100),
    ] {
        let found = choose(&RealFs, &run, &spec(last, every, end)).unwrap_or_else(|e| panic!("{last} {every:?} {end:?}: {e:#}"));
        assert_eq!((found.steps(), found.every_steps), (want, spacing), "{last} {every:?} {end:?}");
        assert_eq!((found.tokens_per_step, found.every_tokens()), (32, 32 * spacing));
        assert!(found.checkpoints.iter().all(|(step, path)| *path == at(*step)) && found.skipped.is_empty());
    }
    for (last, every, end, says) in [
        (11, Some("100"), None, "use --last 10"),
        (3, Some("150"), None, "no checkpoint of step 850; valid ones: 100, 200, ..., 900, 920, 940, 1000"),
        (5, Some("20"), None, "--save-every 20 --keep-every 20"),
        (2, Some("100"), Some(940), "step 840"),
        (3, Some("100"), Some(940), "--at 1000 has them all"),
        (3, None, Some(450), "--at 450: there is no valid checkpoint at that step"),
        (1, None, Some(450), "no checkpoint of step 450"),
        (11, None, None, "use --last 10"),
        (0, None, None, "--last 0"),
        (1001, None, None, "--last 1001"),
        (3, Some("4800tok"), None, "4800 tokens are 150 steps"),
    ] {
        let error = format!("{:#}", choose(&RealFs, &run, &spec(last, every, end)).unwrap_err());
        assert!(error.contains(says) && !error.contains('\n'), "{last} {every:?} {end:?}: {error}");
    }
    let fewer = |last, every| choose_at_most(&RealFs, &run, &spec(last, every, None)).map(|w| w.steps());
    assert_eq!(fewer(20, None).unwrap().len(), 10);
    assert_eq!(fewer(20, Some("300")).unwrap(), [100, 400, 700, 1000]);
    assert!(fewer(20, Some("7")).is_err());

    // A damaged newest one is skipped with a notice; a damaged one inside, or one that is named, is an error.
    let damage = |step: u64, file: &str| {
        let path = at(step).join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    damage(1000, "model.safetensors");
    let found = choose(&RealFs, &run, &spec(2, None, None)).unwrap();
    assert_eq!(found.steps(), [920, 940]);
    assert!(found.skipped.len() == 1 && found.skipped[0].contains("step-00001000: model.safetensors"), "{:?}", found.skipped);
    std::fs::write(at(800).join("model.safetensors"), "short").unwrap();
    let error = format!("{:#}", choose(&RealFs, &run, &spec(3, Some("100"), Some(900))).unwrap_err());
    assert!(error.contains("step 800 of the window is damaged") && error.contains("model.safetensors"), "{error}");
    // Selection checks file sizes; reading finds damaged contents. A merge does not read moments.
    damage(600, "config.json");
    damage(500, "optimizer.safetensors");
    let window = choose(&RealFs, &run, &spec(3, Some("100"), Some(600))).unwrap();
    let error = format!("{:#}", MergeInputs::open(&RealFs, &window.folders(), Verification::Hashes).unwrap_err());
    assert!(error.contains("step-00000600: config.json: its SHA-256"), "{error}");
    let window = choose(&RealFs, &run, &spec(3, Some("100"), Some(500))).unwrap();
    MergeInputs::open(&RealFs, &window.folders(), Verification::Hashes).unwrap();
}

#[test]
fn windows_need_a_run() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("empty/checkpoints")).unwrap();
    let error = |name: &str| format!("{:#}", choose(&RealFs, &place.path(name), &spec(2, None, None)).unwrap_err());
    assert!(error("none").contains("no such folder"), "{}", error("none"));
    assert!(error("empty").contains("config.toml"), "{}", error("empty"));
    std::fs::write(place.path("empty/config.toml"), "").unwrap();
    assert!(error("empty").contains("no checkpoint yet"), "{}", error("empty"));
    std::fs::write(place.path("empty/config.toml"), "[train]\nbatch_size = \"four\"\n").unwrap();
    assert!(error("empty").contains("batch_size"), "{}", error("empty"));
}

#[test]
fn a_run_is_trained_merged_evaluated_and_continued() {
    let place = Place::new();
    json_lines(&mut place.pretrain("run", &["--max-steps=24", "--save-every=4", "--keep-every=4", "--lr-scheduler=constant"]));
    let output = run(&mut place.lehr(["merge", "run", "--last=4", "--out=merged"]));
    assert_eq!((output.code, output.err.as_str()), (Some(0), ""), "{}", output.err);
    for part in [
        "sma of 4 checkpoints of run, every 4 steps (256 tokens)",
        "0.250000",
        "mean age 6 steps (384 tokens)",
        "effective number of checkpoints 4.00",
    ] {
        assert!(output.out.contains(part), "{part}\n{}", output.out);
    }
    // What it did: the mean of the files.
    let inputs: Vec<Tensors> =
        [12, 16, 20, 24].iter().map(|s| weights(&checkpoints::folder(&place.path("run")).join(step_name(*s)))).collect();
    for (name, tensor) in weights(&place.path("merged")) {
        let columns: Vec<Vec<f64>> = inputs.iter().map(|m| m[&name].numbers()).collect();
        for (i, x) in tensor.numbers().into_iter().enumerate() {
            assert_eq!(x, f64::from((columns.iter().map(|c| c[i]).sum::<f64>() / 4.0) as f32), "{name} {i}");
        }
    }
    let eval = |model: &str| {
        let model = format!("--model={model}");
        let output = json_lines(&mut place.lehr(["eval", &model, "--data=text.txt", "--val-fraction=0.1", "--json"]));
        output[0]["eval_loss"].as_f64().unwrap()
    };
    let (merged, last) = (eval("merged"), eval("run"));
    assert!((merged - last).abs() < 0.5, "{merged}, the last checkpoint has {last}");
    let output = json_lines(&mut place.pretrain("child", &["--max-steps=4", "--init=merged"]));
    let first = common::kind(&output, "Eval")[0]["eval_loss"].as_f64().unwrap();
    assert!((first - merged).abs() < 0.1, "the child begins at {first}, the merge has {merged}");
    let output = run(&mut place.lehr(["generate", "--model=merged", "--prompt=the ", "--max-new-tokens=4"]));
    assert_eq!(output.code, Some(0), "{}", output.err);
}
