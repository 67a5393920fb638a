//! Parameters: named, shaped and initialised in one place, [`Weights::declare`].

use crate::config::{ModelConfig, Product, Projection};
use crate::device::{Arena, ArenaLayout, Device, ElementType, Tensor};
use crate::model_files::weight_files::{EMBEDDING, HEAD};
use crate::ops::lora::LoraParts;
use crate::rng::Rng;
use std::sync::Arc;

/// Initialisation of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightInit {
    /// Normal with this standard deviation.
    Normal(f64),
    /// All ones.
    Ones,
    /// All zeros.
    Zeros,
    /// Uniform between this and its negative.
    Uniform(f64),
}

/// One tensor of an arena. Projections with the same input are stacked as one matrix, so that one product computes them; files store them
/// separately, under Hugging Face's names.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// (Hugging Face name, shape) of each part, in order of rows.
    pub parts: Vec<(String, Vec<usize>)>,
    /// Shape of the whole.
    pub shape: Vec<usize>,
    /// Initialisation of every part.
    pub init: WeightInit,
}

impl TensorSpec {
    fn one(name: String, shape: &[usize], init: WeightInit) -> Self {
        Self::fused(&[(name, shape)], init)
    }

    fn fused(parts: &[(String, &[usize])], init: WeightInit) -> Self {
        let mut shape = parts[0].1.to_vec();
        shape[0] = parts.iter().map(|(_, s)| s[0]).sum();
        Self { parts: parts.iter().map(|(n, s)| (n.clone(), s.to_vec())).collect(), shape, init }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// An embedding or a head, which may be larger than a binding: its ops bind some rows at a time.
    fn is_table(&self) -> bool {
        [EMBEDDING, HEAD].contains(&self.parts[0].0.as_str())
    }

    /// True when empty (never, for a declared parameter).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// (Hugging Face name, shape, range of elements in the whole) of each part.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, &[usize], std::ops::Range<usize>)> {
        let mut start = 0;
        self.parts.iter().map(move |(name, shape)| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            (name.as_str(), shape.as_slice(), range)
        })
    }

    /// Random values, each part keyed by its own name, so that the order of declaration does not matter.
    pub fn initial_values(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0f32; self.len()];
        for (name, _, range) in self.ranges() {
            let part = &mut values[range];
            match self.init {
                WeightInit::Ones => part.fill(1.0),
                WeightInit::Zeros => part.fill(0.0),
                WeightInit::Normal(std) => Rng::new(seed, &format!("init/{name}")).fill_normal(0, std, part),
                WeightInit::Uniform(bound) => {
                    let rng = Rng::new(seed, &format!("init/{name}"));
                    let draw = |i: usize| bound * (2.0 * f64::from(rng.uniform(0, i as u64)) - 1.0);
                    part.iter_mut().enumerate().for_each(|(i, v)| *v = draw(i) as f32);
                }
            }
        }
        values
    }
}

/// The parameters of a model, of any type: specifications, indices, tensors.
#[derive(Clone, Debug)]
pub struct Weights<T> {
    /// (V, C); also the head when embeddings are tied.
    pub embed: T,
    /// In order.
    pub blocks: Vec<Block<T>>,
    /// (C)
    pub final_norm: T,
    /// (V, C), absent when tied.
    pub head: Option<T>,
}

/// The parameters of one block.
#[derive(Clone, Debug)]
pub struct Block<T> {
    /// (C)
    pub attn_norm: T,
    /// q, k and v projections (H D + 2 Hkv D, C)
    pub qkv: T,
    /// (H D + 2 Hkv D), Qwen2 and `attention_bias`
    pub qkv_bias: Option<T>,
    /// (D), Qwen3
    pub q_norm: Option<T>,
    /// (D), Qwen3
    pub k_norm: Option<T>,
    /// (C, H D)
    pub attn_proj: T,
    /// (C), `attention_bias`
    pub attn_proj_bias: Option<T>,
    /// (C)
    pub mlp_norm: T,
    /// gate and up projections (2 F, C)
    pub gate_up: T,
    /// (C, F)
    pub down: T,
}

impl<T> Weights<T> {
    /// The only place where parameters are named, shaped and initialised.
    pub fn declare(c: &ModelConfig, mut p: impl FnMut(TensorSpec) -> T) -> Self {
        let normal = WeightInit::Normal(c.initializer_range);
        let (width, inner, d) = (c.hidden_size, c.intermediate_size, c.head_dim);
        let (q, kv) = (c.query_dim(), c.key_value_dim());
        let mut block = |i: usize| {
            let name = |suffix: &str| format!("model.layers.{i}.{suffix}");
            Block {
                attn_norm: p(TensorSpec::one(name("input_layernorm.weight"), &[width], WeightInit::Ones)),
                qkv: p(TensorSpec::fused(
                    &[
                        (name("self_attn.q_proj.weight"), &[q, width]),
                        (name("self_attn.k_proj.weight"), &[kv, width]),
                        (name("self_attn.v_proj.weight"), &[kv, width]),
                    ],
                    normal,
                )),
                qkv_bias: c.qkv_bias().then(|| {
                    p(TensorSpec::fused(
                        &[
                            (name("self_attn.q_proj.bias"), &[q]),
                            (name("self_attn.k_proj.bias"), &[kv]),
                            (name("self_attn.v_proj.bias"), &[kv]),
                        ],
                        WeightInit::Zeros,
                    ))
                }),
                q_norm: c.qk_norm().then(|| p(TensorSpec::one(name("self_attn.q_norm.weight"), &[d], WeightInit::Ones))),
                k_norm: c.qk_norm().then(|| p(TensorSpec::one(name("self_attn.k_norm.weight"), &[d], WeightInit::Ones))),
                attn_proj: p(TensorSpec::one(name("self_attn.o_proj.weight"), &[width, q], normal)),
                attn_proj_bias: c
                    .attention_bias
                    .then(|| p(TensorSpec::one(name("self_attn.o_proj.bias"), &[width], WeightInit::Zeros))),
                mlp_norm: p(TensorSpec::one(name("post_attention_layernorm.weight"), &[width], WeightInit::Ones)),
                gate_up: p(TensorSpec::fused(
                    &[(name("mlp.gate_proj.weight"), &[inner, width]), (name("mlp.up_proj.weight"), &[inner, width])],
                    normal,
                )),
                down: p(TensorSpec::one(name("mlp.down_proj.weight"), &[width, inner], normal)),
            }
        };
        let blocks = (0..c.num_hidden_layers).map(&mut block).collect();
        Weights {
            blocks,
            embed: p(TensorSpec::one("model.embed_tokens.weight".into(), &[c.vocab_size, width], normal)),
            final_norm: p(TensorSpec::one("model.norm.weight".into(), &[width], WeightInit::Ones)),
            head: (!c.tie_word_embeddings).then(|| p(TensorSpec::one("lm_head.weight".into(), &[c.vocab_size, width], normal))),
        }
    }

    /// The weight of the last product: the head, or the tied embedding.
    pub fn output(&self) -> &T {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

/// A value for each product of a block with adapters, in the order of [`Product::ALL`].
#[derive(Clone, Debug)]
pub struct PerProduct<T>([Option<T>; 4]);

impl<T> PerProduct<T> {
    /// Call `make` with (product, parts, rank) for each product with adapters in a model of this shape.
    pub fn of(c: &ModelConfig, mut make: impl FnMut(Product, LoraParts, usize) -> T) -> Self {
        Self(Product::ALL.map(|product| {
            let lora = c.lora.as_ref()?;
            let columns: Vec<_> = lora.adapted(c, product).into_iter().map(|(_, columns)| columns).collect();
            (!columns.is_empty()).then(|| make(product, LoraParts { columns, scale: lora.scale() }, lora.rank))
        }))
    }

    /// The value of one product, if it has adapters.
    pub fn get(&self, product: Product) -> Option<&T> {
        self.0[product as usize].as_ref()
    }
}

/// The adapters of one product: y += scale (x a^T) b^T in the columns of each part.
#[derive(Clone, Debug)]
pub struct Adapter<T> {
    /// (parts x r, in features)
    pub a: T,
    /// (out features of all parts, r)
    pub b: T,
    /// The columns of y.
    pub parts: LoraParts,
}

/// The adapters of one block.
pub type BlockAdapters<T> = PerProduct<Adapter<T>>;

impl<T> BlockAdapters<T> {
    /// The only place where adapters are named (as in PEFT's files), shaped and initialised (as by PEFT: Kaiming's uniform distribution
    /// with a = sqrt(5), and zeros); one per block. Empty for a shape without adapters.
    pub fn declare(c: &ModelConfig, mut p: impl FnMut(TensorSpec) -> T) -> Vec<Self> {
        let Some(lora) = &c.lora else { return Vec::new() };
        let mut block = |i: usize| {
            Self::of(c, |product, parts, rank| {
                let adapted = lora.adapted(c, product);
                let inner = adapted.first().map_or(0, |(projection, _)| c.projection(*projection)[1]);
                let name = |projection: Projection, side: &str| {
                    format!("base_model.model.model.layers.{i}.{}.lora_{side}.weight", projection.path())
                };
                let a: Vec<_> = adapted.iter().map(|(projection, _)| (name(*projection, "A"), [rank, inner])).collect();
                let b: Vec<_> = adapted.iter().map(|(projection, rows)| (name(*projection, "B"), [rows.len(), rank])).collect();
                let fused = |of: &[(String, [usize; 2])], init| {
                    let parts: Vec<(String, &[usize])> = of.iter().map(|(name, shape)| (name.clone(), &shape[..])).collect();
                    TensorSpec::fused(&parts, init)
                };
                Adapter {
                    a: p(fused(&a, WeightInit::Uniform(1.0 / (inner as f64).sqrt()))),
                    b: p(fused(&b, WeightInit::Zeros)),
                    parts,
                }
            })
        };
        (0..c.num_hidden_layers).map(&mut block).collect()
    }
}

/// The trained parameters as a tree: all weights, or the adapters of each block with frozen weights.
#[derive(Clone, Debug)]
pub enum TrainedParameters<T> {
    /// All weights.
    Weights(Weights<T>),
    /// The adapters of each block.
    Adapters(Vec<BlockAdapters<T>>),
}

impl<T> TrainedParameters<T> {
    /// The weights, if they are trained.
    pub fn weights(&self) -> Option<&Weights<T>> {
        match self {
            Self::Weights(weights) => Some(weights),
            Self::Adapters(_) => None,
        }
    }

    /// The weights of block `i`, if they are trained.
    pub fn block(&self, i: usize) -> Option<&Block<T>> {
        self.weights().map(|weights| &weights.blocks[i])
    }

    /// The adapters of block `i`, if they are trained.
    pub fn adapters(&self, i: usize) -> Option<&BlockAdapters<T>> {
        match self {
            Self::Weights(_) => None,
            Self::Adapters(blocks) => Some(&blocks[i]),
        }
    }
}

/// The declared parameters of a model and their layout in an arena.
#[derive(Clone, Debug)]
pub struct Parameters {
    config: ModelConfig,
    specs: Vec<TensorSpec>,
    /// Of gradients and moments, in f32.
    layout: Arc<ArenaLayout>,
    /// Of values.
    stored: Arc<ArenaLayout>,
}

impl Parameters {
    /// Declare and lay out the weights of a model in f32, without adapters.
    ///
    /// # Errors
    /// When one tensor is larger than `max_binding_bytes`.
    pub fn new(config: &ModelConfig, max_binding_bytes: u64) -> anyhow::Result<Self> {
        Self::frozen(config, max_binding_bytes, ElementType::F32)
    }

    /// As [`Parameters::new`], of weights that are not trained: values of matrices are stored as `element`, those of vectors in f32.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn frozen(config: &ModelConfig, max_binding_bytes: u64, element: ElementType) -> anyhow::Result<Self> {
        let config = &ModelConfig { lora: None, ..config.clone() };
        let mut specs = Vec::new();
        Weights::declare(config, |spec| specs.push(spec));
        Self::of(config, specs, max_binding_bytes, element)
    }

    /// Declare and lay out the trained parameters: the adapters if the shape has any, else the weights.
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub fn trained(config: &ModelConfig, max_binding_bytes: u64) -> anyhow::Result<Self> {
        if config.lora.is_none() {
            return Self::new(config, max_binding_bytes);
        }
        let mut specs = Vec::new();
        BlockAdapters::declare(config, |spec| specs.push(spec));
        Self::of(config, specs, max_binding_bytes, ElementType::F32)
    }

    fn of(config: &ModelConfig, specs: Vec<TensorSpec>, max_binding_bytes: u64, matrices: ElementType) -> anyhow::Result<Self> {
        let element = |shape: &[usize]| if shape.len() >= 2 { matrices } else { ElementType::F32 };
        for spec in specs.iter().filter(|spec| !spec.is_table()) {
            let bytes = element(&spec.shape).bytes() * spec.len();
            anyhow::ensure!(
                bytes as u64 <= max_binding_bytes,
                "{} {:?} takes {} MiB, but this device binds at most {} MiB at once; use another adapter",
                spec.parts[0].0,
                spec.shape,
                bytes >> 20,
                max_binding_bytes >> 20
            );
        }
        let shapes: Vec<_> = specs.iter().map(|spec| spec.shape.clone()).collect();
        let layout = Arc::new(ArenaLayout::new(&shapes, max_binding_bytes));
        let stored = match matrices {
            ElementType::F32 => layout.clone(),
            _ => Arc::new(ArenaLayout::with_types(&shapes, max_binding_bytes, element)),
        };
        Ok(Self { config: config.clone(), layout, stored, specs })
    }

    /// In order of declaration.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Number of trainable parameters.
    pub fn count(&self) -> usize {
        self.specs.iter().map(TensorSpec::len).sum()
    }

    /// Write random values from a seed into an arena of these parameters.
    pub fn initialise(&self, device: &Device, values: &Arena, seed: u64) {
        for (spec, tensor) in self.tensors(values) {
            device.write_numbers(&tensor, &spec.initial_values(seed));
        }
    }

    /// Bytes of an arena of gradients or moments.
    pub fn arena_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes of the values.
    pub fn value_bytes(&self) -> u64 {
        self.stored.bytes()
    }

    /// The parts of the model by name, lowest first (`embed`, `layers.0`, ..., `norm`, and `head` if not tied), each with its tensors as
    /// indices into [`Parameters::specs`].
    pub fn parts(&self) -> Vec<(String, Vec<usize>)> {
        let mut n = 0;
        if self.config.lora.is_some() {
            let blocks = BlockAdapters::declare(&self.config, |_| {
                n += 1;
                n - 1
            });
            let tensors =
                |of: BlockAdapters<usize>| of.0.into_iter().flatten().flat_map(|adapter| [adapter.a, adapter.b]).collect();
            return blocks.into_iter().enumerate().map(|(i, block)| (format!("layers.{i}"), tensors(block))).collect();
        }
        let tree = Weights::declare(&self.config, |_| {
            n += 1;
            n - 1
        });
        let tensors = |b: &Block<usize>| {
            let always = [b.attn_norm, b.qkv, b.attn_proj, b.mlp_norm, b.gate_up, b.down];
            always.into_iter().chain([b.qkv_bias, b.q_norm, b.k_norm, b.attn_proj_bias].into_iter().flatten()).collect()
        };
        let blocks = tree.blocks.iter().enumerate().map(|(i, block)| (format!("layers.{i}"), tensors(block)));
        let head = tree.head.map(|head| ("head".to_owned(), vec![head]));
        let embed = std::iter::once(("embed".to_owned(), vec![tree.embed]));
        embed.chain(blocks).chain([("norm".to_owned(), vec![tree.final_norm])]).chain(head).collect()
    }

    /// (name in files, shape) of every part, in order of declaration.
    pub fn names(&self) -> Vec<(String, Vec<usize>)> {
        self.specs.iter().flat_map(|spec| spec.parts.iter().cloned()).collect()
    }

    /// Fill an arena tensor by tensor; `read` returns the numbers of (name in files, shape).
    ///
    /// # Errors
    /// The error of `read`.
    pub fn fill(&self, device: &Device, arena: &Arena, read: &mut super::WeightReader<'_>) -> anyhow::Result<()> {
        for (spec, tensor) in self.tensors(arena) {
            let mut whole = Vec::with_capacity(spec.len());
            for (name, shape, _) in spec.ranges() {
                whole.extend(read(name, shape)?);
            }
            device.write_numbers(&tensor, &whole);
        }
        Ok(())
    }

    /// Allocate an f32 arena for a role, such as gradients.
    pub fn arena(&self, device: &Device, role: &str) -> Arena {
        Arena::new(device, role, self.layout.clone())
    }

    /// Allocate the values.
    pub fn values(&self, device: &Device, role: &str) -> Arena {
        Arena::new(device, role, self.stored.clone())
    }

    /// The tensors of an arena, as a tree.
    pub fn tree(&self, arena: &Arena) -> TrainedParameters<Tensor> {
        let mut i = 0;
        let next = |spec: TensorSpec| {
            i += 1;
            arena.tensor(i - 1, &spec.parts[0].0)
        };
        match &self.config.lora {
            None => TrainedParameters::Weights(Weights::declare(&self.config, next)),
            Some(_) => TrainedParameters::Adapters(BlockAdapters::declare(&self.config, next)),
        }
    }

    /// The tensors of an arena in order of declaration, with their specifications.
    pub fn tensors<'a>(&'a self, arena: &'a Arena) -> impl Iterator<Item = (&'a TensorSpec, Tensor)> {
        self.specs.iter().enumerate().map(|(i, spec)| (spec, arena.tensor(i, &spec.parts[0].0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Architecture, Settings};

    #[test]
    fn initial_values_do_not_depend_on_order_or_neighbours() {
        let spec = TensorSpec::fused(&[("a".into(), &[3, 4]), ("b".into(), &[2, 4])], WeightInit::Normal(0.02));
        let alone = TensorSpec::one("b".into(), &[2, 4], WeightInit::Normal(0.02));
        assert_eq!(spec.initial_values(5)[12..], alone.initial_values(5));
        assert_ne!(alone.initial_values(5), alone.initial_values(6));
    }

    #[test]
    fn nano_parameter_count_matches_the_formula() {
        let c = Settings::default().model.config(65, 64);
        let p = Parameters::new(&c, 1 << 27).unwrap();
        let block = 4 * 128 * 128 + 3 * 128 * 352 + 2 * 128;
        assert_eq!(p.count(), 4 * block + 65 * 128 + 128);
    }

    #[test]
    fn tensors_are_counted_in_the_part_of_their_name() {
        for (architecture, tied, attention_bias) in [
            (Architecture::Llama, true, false),
            (Architecture::Llama, false, true),
            (Architecture::Mistral, true, false),
            (Architecture::Qwen2, false, false),
            (Architecture::Qwen3, true, true),
            (Architecture::Qwen3, false, false),
        ] {
            let c = ModelConfig {
                architecture,
                tie_word_embeddings: tied,
                attention_bias,
                ..Settings::default().model.config(65, 64)
            };
            let p = Parameters::new(&c, 1 << 27).unwrap();
            let mut seen = vec![0; p.specs().len()];
            for (part, these) in p.parts() {
                let prefix = match part.as_str() {
                    "embed" => "model.embed_tokens.".to_owned(),
                    "norm" => "model.norm.".to_owned(),
                    "head" => "lm_head.".to_owned(),
                    layer => format!("model.{layer}."),
                };
                for i in these {
                    seen[i] += 1;
                    assert!(p.specs()[i].parts.iter().all(|(name, _)| name.starts_with(&prefix)), "{part}: {:?}", p.specs()[i]);
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{seen:?}");
            let names: Vec<String> = p.parts().into_iter().map(|(name, _)| name).collect();
            let want = ["embed", "layers.0", "layers.1", "layers.2", "layers.3", "norm", "head"];
            assert_eq!(names, want[..7 - usize::from(tied)]);
        }
    }
}
