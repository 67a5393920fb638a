//! The files of a run under every fault: checkpoints, weights, locks, logs.

use lehr::config::{Architecture, Llama3Scaling, ModelConfig};
use lehr::event::{Event, Step};
use lehr::model_files::checkpoint::{self, CheckpointOrigin, CheckpointTarget, IfExists, SaveFailed};
use lehr::model_files::hf_config::{self, SpecialTokens};
use lehr::model_files::safetensors_file::{SafetensorsFile, serialized_bytes, write_safetensors};
use lehr::model_files::weight_files::WeightFiles;
use lehr::run_folder::{
    EventLog, EventReader, Retention, RetentionPolicy, RunFolder, RunLock, TensorBoard, checkpoints, read_all,
};
use lehr::vfs::fault::{FaultFs, FaultKind, PowerCut};
use lehr::vfs::{RealFs, Vfs};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

mod bad_weights;
mod faults;
mod hf;
mod logs;

/// Small random numbers for choosing places.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// In memory where there is such a place: the fault tests sync thousands of times, and what a sync is worth is simulated.
fn temp() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The tensors of the test checkpoints.
fn specs() -> Vec<(String, Vec<usize>)> {
    vec![("model.norm.weight".into(), vec![3]), ("model.embed_tokens.weight".into(), vec![4, 3])]
}

/// What a tensor of the test checkpoint holds; the step is in every number.
fn numbers(step: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product::<usize>()).map(|i| step as f32 + i as f32 / 8.0 + name.len() as f32).collect()
}

fn save(vfs: &dyn Vfs, run: &Path, step: u64) -> Result<(PathBuf, checkpoint::Manifest), SaveFailed> {
    let (parent, name) = (checkpoints::folder(run), checkpoint::step_name(step));
    let bytes = 2 * serialized_bytes(&BTreeMap::new(), &specs()).unwrap();
    let place = CheckpointTarget { parent: &parent, name: &name, bytes, existing: IfExists::Replace };
    let origin = CheckpointOrigin { step, run_id: "r1".into(), config_hash: "c1".into(), adapter: "none".into(), parent: None };
    checkpoint::save(vfs, place, &origin, |w| {
        for file in ["model.safetensors", "optimizer.safetensors"] {
            w.file(file, |out| {
                write_safetensors(out, &BTreeMap::new(), &specs(), |name, sink| {
                    let shape = &specs().iter().find(|s| s.0 == name).unwrap().1.clone();
                    sink.write(&numbers(step, name, shape))
                })
            })?;
        }
        w.json("trainer.json", &serde_json::json!({"step": step}))
    })
}

/// Load the newest checkpoint whole and tell its step; a mix of steps panics.
fn load(run: &Path) -> Option<u64> {
    let newest = checkpoints::newest_valid(&RealFs, run).unwrap();
    let found = newest.found?;
    let (weights, optimizer) = (found.weights(&RealFs).unwrap(), found.optimizer(&RealFs).unwrap());
    weights.expect(&specs(), &|_| false).unwrap();
    optimizer.expect(&specs()).unwrap();
    for (name, shape) in specs() {
        assert_eq!(weights.read_f32(&name, &shape).unwrap(), numbers(found.step(), &name, &shape));
        assert_eq!(optimizer.read_f32(&name, &shape).unwrap(), numbers(found.step(), &name, &shape));
    }
    let state: serde_json::Value = found.trainer(&RealFs).unwrap();
    assert_eq!(state["step"], found.step());
    Some(found.step())
}

/// A run folder with these checkpoints.
fn run_with(steps: &[u64]) -> tempfile::TempDir {
    let dir = temp();
    fs::create_dir(checkpoints::folder(dir.path())).unwrap();
    for step in steps {
        save(&RealFs, dir.path(), *step).unwrap();
    }
    dir
}

fn names_in(dir: &Path) -> Vec<String> {
    RealFs.list(dir).unwrap().into_iter().map(|e| e.name.into_string().unwrap()).collect()
}
