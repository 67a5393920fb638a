//! Rotary settings in both formats: transformers 5 has `rope_parameters`, 4 has `rope_theta` and `rope_scaling`.
//!
//! transformers 5 uses `rope_scaling` if both exist and ignores `rope_parameters`, including its `rope_theta`; transformers 4 reads only
//! `rope_scaling`. Two that differ are therefore rejected.

use super::{ConfigFields, number};
use crate::config::{Llama3Scaling, ModelConfig, RopeScaling, YarnScaling};
use crate::vfs::clean;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Default `rope_theta`.
const THETA: f64 = 10000.0;

type Rope = (f64, Option<RopeScaling>);

/// Base and scaling of a config.
pub(super) fn read(fields: &ConfigFields<'_>, max_position_embeddings: usize) -> Result<Rope> {
    let theta = number(fields.get("rope_theta"), "rope_theta")?;
    let dialect = |name: &'static str| -> Result<Option<Rope>> {
        let Some(value) = fields.get(name) else { return Ok(None) };
        let Some(map) = value.as_object() else { bail!("{name} = {}: must be an object", display_value(value)) };
        if map.is_empty() {
            return Ok(None);
        }
        RopeObject { name, map, fields, max_position_embeddings }.read(theta).map(Some)
    };
    match (dialect("rope_scaling")?, dialect("rope_parameters")?) {
        (None, None) => Ok((theta.unwrap_or(THETA), None)),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(old), Some(new)) => {
            let (old_json, new_json) = (parameters(old.0, old.1.as_ref()), parameters(new.0, new.1.as_ref()));
            // The type first: if it differs, the rest differs too.
            let names = ["rope_type"].into_iter().chain(["rope_theta"]);
            let names = names
                .chain([&old_json, &new_json].into_iter().filter_map(Value::as_object).flat_map(Map::keys).map(String::as_str));
            let differing = names.into_iter().find(|name| old_json[name] != new_json[name]);
            if let Some(name) = differing {
                bail!(
                    "rope_scaling and rope_parameters contradict each other: {name} is {} in rope_scaling, {} in rope_parameters{}; \
                     keep the one that you mean, with rope_theta in it, and remove the other",
                    display_value(&old_json[name]),
                    display_value(&new_json[name]),
                    if name == "rope_theta" {
                        " (a rope_scaling without rope_theta has that of the config, or else 10000)"
                    } else {
                        ""
                    }
                );
            }
            Ok(new)
        }
    }
}

/// The fields `rope_theta`, `rope_scaling` and `rope_parameters`, which transformers 4 and 5 read with the same result.
pub(super) fn write(model: &ModelConfig) -> [(&'static str, Value); 3] {
    let scaling = model.rope_scaling.as_ref();
    [
        ("rope_theta", json!(model.rope_theta)),
        ("rope_scaling", json!(scaling)),
        ("rope_parameters", parameters(model.rope_theta, scaling)),
    ]
}

/// `rope_parameters` as transformers 5 writes it.
fn parameters(theta: f64, scaling: Option<&RopeScaling>) -> Value {
    let mut out = scaling.map_or_else(|| json!({"rope_type": "default"}), |scaling| json!(scaling));
    out["rope_theta"] = json!(theta);
    out
}

fn display_value(value: &Value) -> String {
    clean(&value.to_string())
}

/// One of the two objects.
struct RopeObject<'a> {
    name: &'static str,
    map: &'a Map<String, Value>,
    fields: &'a ConfigFields<'a>,
    max_position_embeddings: usize,
}

impl RopeObject<'_> {
    fn read(&self, outer_theta: Option<f64>) -> Result<Rope> {
        let name = self.name;
        if self.map.values().any(Value::is_object) {
            bail!("{name}: gives each kind of layer its own rotation; lehr has one for all");
        }
        if let Some(part) = self.number("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            bail!("{name}.partial_rotary_factor = {part}: lehr rotates whole heads");
        }
        let own = self.number("rope_theta")?;
        if let (Some(own), Some(outer)) = (own, outer_theta)
            && own != outer
        {
            bail!("rope_theta = {outer}, but {name}.rope_theta = {own}: they contradict each other; remove the wrong one");
        }
        let theta = own.or(outer_theta).unwrap_or(THETA);
        Ok((theta, self.scaling(theta)?))
    }

    fn scaling(&self, theta: f64) -> Result<Option<RopeScaling>> {
        let name = self.name;
        let (kind, old_kind) = (self.map.get("rope_type"), self.map.get("type"));
        if let (Some(kind), Some(old)) = (kind, old_kind)
            && kind != old
        {
            bail!(
                "{name}.rope_type = {}, but {name}.type = {}: they contradict each other",
                display_value(kind),
                display_value(old)
            );
        }
        let kind = kind.or(old_kind);
        Ok(Some(match kind.map_or(Some("default"), Value::as_str) {
            Some("default") => return Ok(None),
            Some("linear") => RopeScaling::Linear { factor: self.positive("factor")? },
            Some("dynamic") => RopeScaling::Dynamic { factor: self.positive("factor")? },
            Some("yarn") => RopeScaling::Yarn(self.yarn(theta)?),
            Some("llama3") => RopeScaling::Llama3(self.llama3()?),
            _ => bail!(
                "{name}.rope_type = {}: lehr has only default, linear, dynamic, yarn and llama3",
                kind.map(display_value).unwrap_or_default()
            ),
        }))
    }

    fn yarn(&self, theta: f64) -> Result<YarnScaling> {
        let name = self.name;
        ensure!(theta != 1.0, "rope_theta = 1: yarn divides by its logarithm");
        let original = self.original()?;
        // A factor of null is the ratio of the two contexts.
        let factor = match self.map.get("factor") {
            Some(Value::Null) => self.max_position_embeddings as f64 / original as f64,
            _ => self.positive("factor")?,
        };
        // 0 is absent, as in Python's `or`.
        let turns = |key: &str, usual: f64| -> Result<f64> {
            let value = self.number(key)?.filter(|beta| *beta != 0.0).unwrap_or(usual);
            ensure!(value > 0.0, "{name}.{key} = {value}: must be above 0");
            Ok(value)
        };
        let attention_factor = self.number("attention_factor")?;
        if let Some(factor) = attention_factor {
            ensure!(factor > 0.0, "{name}.attention_factor = {factor}: must be above 0");
        }
        let truncate = match self.map.get("truncate") {
            None => true,
            Some(Value::Null) => false,
            Some(value) => {
                value.as_bool().with_context(|| format!("{name}.truncate = {}: must be true or false", display_value(value)))?
            }
        };
        Ok(YarnScaling {
            factor,
            original_max_position_embeddings: original,
            beta_fast: turns("beta_fast", 32.0)?,
            beta_slow: turns("beta_slow", 1.0)?,
            truncate,
            attention_factor,
            mscale: self.number("mscale")?,
            mscale_all_dim: self.number("mscale_all_dim")?,
        })
    }

    fn llama3(&self) -> Result<Llama3Scaling> {
        let scaling = Llama3Scaling {
            factor: self.positive("factor")?,
            low_freq_factor: self.positive("low_freq_factor")?,
            high_freq_factor: self.positive("high_freq_factor")?,
            original_max_position_embeddings: self.original()?,
        };
        let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
        ensure!(low < high, "{}.low_freq_factor = {low}: must be below high_freq_factor = {high}", self.name);
        Ok(scaling)
    }

    /// The context of the original pre-training: in this object, next to it as in Phi-3, or else the model's context.
    fn original(&self) -> Result<u64> {
        const KEY: &str = "original_max_position_embeddings";
        let whole = |value: f64, name: String| -> Result<u64> {
            ensure!(value > 0.0 && value.fract() == 0.0 && value < 1e12, "{name} = {value}: must be a whole number above 0");
            Ok(value as u64)
        };
        let own = self.number(KEY)?.map(|value| whole(value, format!("{}.{KEY}", self.name))).transpose()?;
        let outer = number(self.fields.get(KEY), KEY)?.map(|value| whole(value, KEY.to_owned())).transpose()?;
        match (own, outer) {
            (Some(own), Some(outer)) if own != outer => {
                bail!("{KEY} = {outer}, but {}.{KEY} = {own}: they contradict each other; remove the wrong one", self.name)
            }
            (own, outer) => Ok(own.or(outer).unwrap_or(self.max_position_embeddings as u64)),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        number(self.map.get(key), &format!("{}.{key}", self.name))
    }

    fn positive(&self, key: &str) -> Result<f64> {
        let value = self.number(key)?.with_context(|| format!("{}.{key} is missing", self.name))?;
        ensure!(value > 0.0, "{}.{key} = {value}: must be above 0", self.name);
        Ok(value)
    }
}
