//! TensorBoard event files, written without TensorFlow: TFRecord frames around a few bytes of protobuf.

use super::lock::host_name;
use crate::event::{Event, Number};
use crate::vfs::{Vfs, VfsFile, display_path, unix_time};
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// An event file, open for writing.
pub struct TensorBoard<'a> {
    path: PathBuf,
    file: Box<dyn VfsFile + 'a>,
}

impl<'a> TensorBoard<'a> {
    /// Create an event file in `dir`. `restart` is the step from which a resumed run continues; TensorBoard then drops later points.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(vfs: &'a dyn Vfs, dir: &Path, restart: Option<u64>) -> Result<Self> {
        let now = unix_time() as u64;
        let (path, file) = Self::new_file(vfs, dir, &format!("events.out.tfevents.{now:010}.{}", host_name()))?;
        let mut this = TensorBoard { path, file };
        this.record(&event(now as f64, 0, &field_bytes(3, b"brain.Event:2")))?;
        if let Some(step) = restart {
            // SessionLog { status: START }: points at this step and later are dropped.
            this.record(&event(now as f64, step + 1, &field_bytes(7, &[1 << 3, 1])))?;
        }
        Ok(this)
    }

    fn new_file(vfs: &'a dyn Vfs, dir: &Path, name: &str) -> Result<(PathBuf, Box<dyn VfsFile + 'a>)> {
        for n in 0..1000 {
            // Two starts within one second.
            let path = dir.join(if n == 0 { name.to_owned() } else { format!("{name}.{n}") });
            match vfs.create_new(&path).and_then(|_| vfs.append(&path, 0)) {
                Ok((file, _)) => return Ok((path, file)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).with_context(|| format!("{}: cannot be made", display_path(&path))),
            }
        }
        bail!("{}: holds a thousand event files of this second", display_path(dir))
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Write scalars at a step.
    ///
    /// # Errors
    /// A disk error.
    pub fn scalars(&mut self, wall_time: f64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut inner = field_bytes(1, tag.as_bytes());
            inner.push((2 << 3) | 5);
            inner.extend((*value as f32).to_le_bytes());
            summary.extend(field_bytes(1, &inner));
        }
        self.record(&event(wall_time, step, &field_bytes(5, &summary)))
    }

    fn named(&mut self, wall_time: f64, step: u64, values: &[(String, f64)]) -> Result<()> {
        let values: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.scalars(wall_time, step, &values)
    }

    /// Write the numbers of an event; events without numbers are skipped.
    ///
    /// # Errors
    /// A disk error.
    pub fn event(&mut self, wall_time: f64, event: &Event) -> Result<()> {
        match event {
            Event::Step(s) => {
                let values = [
                    ("train/loss", s.loss),
                    ("train/grad_norm", s.grad_norm),
                    ("train/learning_rate", s.learning_rate),
                    ("train/entropy", s.entropy),
                    ("train/mean_token_accuracy", s.mean_token_accuracy),
                    ("train/epoch", s.epoch),
                    ("train/num_tokens", s.num_tokens as f64),
                    ("perf/tokens_per_second", s.tokens_per_second),
                    ("perf/mfu", s.mfu),
                ];
                self.scalars(wall_time, s.step, &values)?;
                let more: Vec<(&str, f64)> = s.metrics.iter().map(|(name, value)| (name.as_str(), value.0)).collect();
                if more.is_empty() { Ok(()) } else { self.scalars(wall_time, s.step, &more) }
            }
            Event::TaskEval(e) => {
                let kind = if e.temperature == 0.0 { "greedy" } else { "sampled" };
                let name = |what: &str| format!("eval/{}/{kind}/{what}", e.task);
                let mut values = vec![(name("accuracy"), e.all.accuracy), (name("reward"), e.all.reward)];
                values.extend(e.levels.iter().map(|(level, score)| (name(&format!("accuracy/{level}")), score.accuracy)));
                self.named(wall_time, e.step, &values)
            }
            Event::Eval(e) => {
                let values = [
                    ("eval/loss", e.eval_loss),
                    ("eval/perplexity", e.perplexity),
                    ("eval/mean_token_accuracy", e.eval_mean_token_accuracy),
                ];
                self.scalars(wall_time, e.step, &values)
            }
            Event::Merged(m) => {
                let values: Vec<(&str, f64)> = m.metrics.iter().map(|(name, value)| (name.as_str(), value.0)).collect();
                self.scalars(wall_time, m.step, &values)
            }
            Event::Tokens(t) => {
                let all = &t.quartiles.all;
                let lists = [("share", &all.share), ("gradient", &all.gradient), ("entropy", &all.entropy)];
                let bins = lists.iter().flat_map(|(what, list)| {
                    list.iter().enumerate().map(move |(i, value)| (format!("tokens/{what}_q{}", i + 1), value.0))
                });
                let norms = t.grad_norm.iter().map(|(pass, value)| (format!("grad_norm/{pass}"), value.0));
                self.named(wall_time, t.step, &bins.chain(norms).collect::<Vec<_>>())
            }
            Event::Norms(n) => {
                let lists = [("weights", &n.weights), ("gradients", &n.gradients)];
                let of = |(what, list): (&'static str, &Vec<Number>)| {
                    let named = n.parts.iter().zip(list.clone());
                    named.map(move |(part, norm)| (format!("norms/{what}/{part}"), norm.0)).collect::<Vec<_>>()
                };
                self.named(wall_time, n.step, &lists.into_iter().flat_map(of).collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }

    /// A TFRecord: length, its checksum, data, its checksum.
    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut out = length.to_vec();
        out.extend(masked_crc(&length).to_le_bytes());
        out.extend(data);
        out.extend(masked_crc(data).to_le_bytes());
        self.file.write_all(&out).with_context(|| format!("{}: cannot be written", display_path(&self.path)))
    }
}

/// CRC-32C, rotated and shifted as in TFRecord.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event { wall_time: 1, step: 2, rest }`.
fn event(wall_time: f64, step: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = vec![(1 << 3) | 1];
    out.extend(wall_time.to_le_bytes());
    out.push(2 << 3);
    varint(step, &mut out);
    out.extend(rest);
    out
}

/// A length-delimited protobuf field.
fn field_bytes(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(number << 3) | 2];
    varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
