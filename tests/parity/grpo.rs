//! One GRPO step: against PyTorch (`scripts/oracle/grpo.py golden`), and laws that hold for every batch.
//! Most of it through `lehr replay`.

use crate::common;

mod laws;
mod parity;
mod policy;
mod token;

use common::{golden, json_lines, lehr_in, run};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

type Tensors = BTreeMap<String, Vec<f64>>;

fn tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    file.tensors().into_iter().map(|(name, t)| (name, floats(t.data()))).collect()
}

/// Largest difference relative to |want| + rms(want).
fn worst(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len() as f64).sqrt();
    let one = |g: f64, w: f64| if g.is_finite() { (g - w).abs() / (w.abs() + rms).max(1e-30) } else { f64::INFINITY };
    got.iter().zip(want).map(|(g, w)| one(*g, *w)).fold(0.0, f64::max)
}

/// A replay and all that it wrote.
struct Replay {
    report: Value,
    grads: Tensors,
    rows: Vec<Value>,
    /// Weights afterwards.
    after: Tensors,
}

impl Replay {
    fn of(model: &str, rows: &[Value], flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_rows(dir.path(), rows);
        let model = golden(model);
        let mut command = lehr_in(dir.path(), ["replay", "--rollouts=rows.jsonl", "--json", "--model"]);
        command.arg(model).args(["--grads=grads.safetensors", "--rows=out.jsonl", "--out=after"]).args(flags);
        let report = json_lines(&mut command).remove(0);
        let text = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
        Self {
            report,
            grads: tensors(&dir.path().join("grads.safetensors")),
            rows: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            after: tensors(&dir.path().join("after/model.safetensors")),
        }
    }

    fn passes(&self) -> Vec<&str> {
        self.report["passes"].as_array().unwrap().iter().map(|p| p["pass"].as_str().unwrap()).collect()
    }

    /// A number of the first update of a pass.
    fn first(&self, pass: usize, name: &str) -> f64 {
        self.report["passes"][pass]["updates"][0][name].as_f64().unwrap()
    }

    /// The gradients of one pass, under plain names.
    fn gradient(&self, pass: &str) -> Tensors {
        let prefix = if self.passes().len() > 1 { format!("{pass}/") } else { String::new() };
        self.grads.iter().filter_map(|(n, g)| Some((n.strip_prefix(&prefix)?.to_string(), g.clone()))).collect()
    }
}

fn write_rows(dir: &Path, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(dir.join("rows.jsonl"), lines).unwrap();
}

/// What a replay says that must fail.
fn refused(rows: &str, flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let mut command = lehr_in(dir.path(), ["replay", "--rollouts=rows.jsonl", "--model"]);
    let output = run(command.arg(golden("qwen2")).args(flags));
    assert!(output.code == Some(1) || output.code == Some(2), "{:?}: {}", output.code, output.out);
    output.err
}
