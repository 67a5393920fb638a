//! Low-rank adapters (LoRA, Hu et al. 2021), with PEFT's names.

use super::ModelConfig;
use crate::device::ElementType;
use crate::number_format::did_you_mean;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Train low-rank adapters with frozen base weights. Names follow PEFT's LoraConfig.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "LoRA")]
pub struct LoraSettings {
    /// Train adapters of this rank (PEFT's r) and freeze the model of --init: no gradients or moments of its weights are kept. Checkpoints
    /// are then PEFT folders. All weights are trained when absent.
    #[arg(long, value_name = "R")]
    pub lora_rank: Option<usize>,
    /// An adapter's output is multiplied by alpha / rank; twice the rank when absent.
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,
    /// Projections that get an adapter (PEFT's target_modules): any of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj,
    /// separated by commas, or all-linear.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "all-linear")]
    pub lora_targets: Vec<String>,
}

/// The largest allowed rank; larger than any in use.
const MOST_RANK: usize = 1024;
/// The name for all projections.
const ALL_LINEAR: &str = "all-linear";

impl LoraSettings {
    /// The adapters of these settings; `None` where all weights are trained.
    ///
    /// # Errors
    /// An invalid rank, alpha or name.
    pub fn adapters(&self) -> anyhow::Result<Option<Lora>> {
        let Some(rank) = self.lora_rank else {
            anyhow::ensure!(self.lora_alpha.is_none(), "--lora-alpha: belongs to --lora-rank; give both, or none");
            anyhow::ensure!(self.lora_targets == [ALL_LINEAR], "--lora-targets: belongs to --lora-rank; give both, or none");
            return Ok(None);
        };
        anyhow::ensure!((1..=MOST_RANK).contains(&rank), "--lora-rank {rank}: must be at least 1 and at most {MOST_RANK}");
        let alpha = self.lora_alpha.unwrap_or(2.0 * rank as f64);
        anyhow::ensure!(alpha.is_finite() && alpha > 0.0, "--lora-alpha {alpha}: must be a positive number");
        let targets = Projection::parse(self.lora_targets.iter().map(String::as_str))
            .map_err(|error| anyhow::anyhow!("--lora-targets {}: {error}", self.lora_targets.join(",").escape_debug()))?;
        Ok(Some(Lora { rank, alpha, targets, base: ElementType::F32 }))
    }
}

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output of attention.
    O,
    /// Gate of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
}

impl Projection {
    /// All projections, in the order of a block.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its name in Hugging Face models and PEFT's target_modules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Its path within a block, such as `self_attn.q_proj`.
    pub fn path(self) -> String {
        let part = if self <= Self::O { "self_attn" } else { "mlp" };
        format!("{part}.{}", self.name())
    }

    /// The projections that these names select, in the order of a block.
    ///
    /// # Errors
    /// No name, or an unknown one.
    pub fn parse<'a>(names: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<Self>> {
        let mut found = Vec::new();
        for name in names {
            match Self::ALL.iter().find(|p| p.name() == name) {
                Some(projection) => found.push(*projection),
                None if name == ALL_LINEAR => found.extend(Self::ALL),
                None => {
                    let hint = did_you_mean(name, Self::ALL.iter().map(|p| p.name()).chain([ALL_LINEAR]));
                    anyhow::bail!("'{}' is not a projection{hint}", name.escape_debug());
                }
            }
        }
        anyhow::ensure!(!found.is_empty(), "names no projection; name at least one, or {ALL_LINEAR}");
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// One of the four matrix products of a block; q, k and v are fused, and so are gate and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Queries, keys and values.
    Qkv,
    /// Output of attention.
    AttnProj,
    /// Gate and up projection.
    GateUp,
    /// Down projection.
    Down,
}

impl Product {
    /// All products, in the order of a block.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::AttnProj, Self::GateUp, Self::Down];

    /// Its projections, in order of output columns.
    pub fn projections(self) -> &'static [Projection] {
        match self {
            Self::Qkv => &[Projection::Q, Projection::K, Projection::V],
            Self::AttnProj => &[Projection::O],
            Self::GateUp => &[Projection::Gate, Projection::Up],
            Self::Down => &[Projection::Down],
        }
    }
}

/// The adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Columns of B, rows of A (r).
    pub rank: usize,
    /// The factor is alpha / r.
    pub alpha: f64,
    /// Adapted projections, in the order of a block.
    pub targets: Vec<Projection>,
    /// How the base model's matrices are stored.
    pub base: ElementType,
}

impl Lora {
    /// Scale of an adapter's output: alpha / r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// The adapted projections of a product, each with its range of output columns.
    pub fn adapted(&self, c: &ModelConfig, product: Product) -> Vec<(Projection, Range<usize>)> {
        let mut start = 0;
        let mut found = Vec::new();
        for projection in product.projections() {
            let end = start + c.projection(*projection)[0];
            if self.targets.contains(projection) {
                found.push((*projection, start..end));
            }
            start = end;
        }
        found
    }
}

impl ModelConfig {
    /// [out features, in features] of a projection's weight.
    pub fn projection(&self, projection: Projection) -> [usize; 2] {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        match projection {
            Projection::Q => [self.query_dim(), width],
            Projection::K | Projection::V => [self.key_value_dim(), width],
            Projection::O => [width, self.query_dim()],
            Projection::Gate | Projection::Up => [inner, width],
            Projection::Down => [width, inner],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn names_select_projections_in_the_order_of_a_block() {
        let settings = |rank, alpha, targets: &str| LoraSettings {
            lora_rank: rank,
            lora_alpha: alpha,
            lora_targets: targets.split(',').map(str::to_owned).collect(),
        };
        let lora = settings(Some(4), None, "v_proj,q_proj,q_proj").adapters().unwrap().unwrap();
        assert_eq!((lora.targets.as_slice(), lora.scale()), (&[Projection::Q, Projection::V][..], 2.0));
        let all = settings(Some(8), Some(8.0), "all-linear").adapters().unwrap().unwrap();
        assert_eq!((all.targets.as_slice(), all.scale()), (&Projection::ALL[..], 1.0));
        assert_eq!(LoraSettings::default().adapters().unwrap(), None);
        for (bad, word) in [
            (settings(Some(0), None, "all-linear"), "--lora-rank 0"),
            (settings(Some(4), Some(f64::NAN), "all-linear"), "--lora-alpha NaN"),
            (settings(None, Some(4.0), "all-linear"), "--lora-alpha: belongs to --lora-rank"),
            (settings(None, None, "q_proj"), "--lora-targets: belongs to --lora-rank"),
            (settings(Some(4), None, "q_poj"), "did you mean"),
            (settings(Some(4), None, ""), "--lora-targets"),
        ] {
            let text = bad.adapters().unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn adapted_columns_are_those_of_the_fused_products() {
        let c = ModelConfig { num_key_value_heads: 2, ..Settings::default().model.config(65, 64) };
        let targets = vec![Projection::Q, Projection::V, Projection::Up];
        let lora = Lora { rank: 4, alpha: 8.0, targets, base: ElementType::F32 };
        let (q, kv, inner) = (c.query_dim(), c.key_value_dim(), c.intermediate_size);
        assert_eq!(lora.adapted(&c, Product::Qkv), [(Projection::Q, 0..q), (Projection::V, q + kv..q + 2 * kv)]);
        assert_eq!(lora.adapted(&c, Product::GateUp), [(Projection::Up, inner..2 * inner)]);
        assert_eq!(lora.adapted(&c, Product::AttnProj), []);
    }
}
