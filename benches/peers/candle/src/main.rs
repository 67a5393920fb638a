//! lehr's training steps in candle on the CPU: tokens per second.
//!
//! The recipe of the burn peer: SwiGLU, RMSNorm, RoPE, causal attention, tied embeddings, one random batch that stays the same, AdamW, so
//! the loss must fall. candle has no causal attention with a gradient, so that it is written as products, a mask and a softmax; the fused
//! norm, RoPE and softmax of candle-nn have no gradient either, so that their slow forms are used.
//!
//! Differences from the recipe: weight decay applies to the gains too, and the gradient is not clipped (candle has no clipping).
//!
//! usage: peer-candle [STEPS] [WARMUP] [nano|small]

use std::time::Instant;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

struct Shape {
    layers: usize,
    heads: usize,
    dim: usize,
    inner: usize,
    tokens: usize,
    batch: usize,
}

const NANO: Shape = Shape { layers: 4, heads: 4, dim: 128, inner: 352, tokens: 64, batch: 12 };
const SMALL: Shape = Shape { layers: 6, heads: 6, dim: 384, inner: 1024, tokens: 256, batch: 16 };
const VOCAB: usize = 65;

struct Block {
    attention_norm: Var,
    qkv: [Var; 3],
    out: Var,
    mlp_norm: Var,
    gate: Var,
    up: Var,
    down: Var,
}

struct Llama {
    shape: Shape,
    embedding: Var,
    blocks: Vec<Block>,
    norm: Var,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

fn matrix(rows: usize, cols: usize) -> Result<Var> {
    Var::randn(0f32, 0.02, (rows, cols), &Device::Cpu)
}

fn gain(n: usize) -> Result<Var> {
    Var::ones(n, DType::F32, &Device::Cpu)
}

fn rms_norm(x: &Tensor, gain: &Tensor) -> Result<Tensor> {
    candle_nn::ops::rms_norm_slow(x, gain, 1e-5)
}

/// x w^T for x [batch, tokens, in] and w [out, in].
fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (b, t, n) = x.dims3()?;
    x.reshape((b * t, n))?.matmul(&w.t()?)?.reshape((b, t, ()))
}

impl Block {
    fn new(shape: &Shape) -> Result<Self> {
        let (d, n) = (shape.dim, shape.inner);
        Ok(Self {
            attention_norm: gain(d)?,
            qkv: [matrix(d, d)?, matrix(d, d)?, matrix(d, d)?],
            out: matrix(d, d)?,
            mlp_norm: gain(d)?,
            gate: matrix(n, d)?,
            up: matrix(n, d)?,
            down: matrix(d, n)?,
        })
    }

    fn vars(&self) -> Vec<Var> {
        let mut vars = self.qkv.to_vec();
        vars.extend([&self.attention_norm, &self.out, &self.mlp_norm, &self.gate, &self.up, &self.down].map(Var::clone));
        vars
    }
}

impl Llama {
    fn new(shape: Shape) -> Result<Self> {
        let (t, half) = (shape.tokens, shape.dim / shape.heads / 2);
        let angles: Vec<f32> =
            (0..t).flat_map(|p| (0..half).map(move |i| p as f32 * 10000f32.powf(-(i as f32) / half as f32))).collect();
        let angles = Tensor::from_vec(angles, (t, half), &Device::Cpu)?;
        let mask: Vec<f32> = (0..t).flat_map(|q| (0..t).map(move |k| if k > q { f32::NEG_INFINITY } else { 0.0 })).collect();
        Ok(Self {
            embedding: matrix(VOCAB, shape.dim)?,
            blocks: (0..shape.layers).map(|_| Block::new(&shape)).collect::<Result<_>>()?,
            norm: gain(shape.dim)?,
            cos: angles.cos()?,
            sin: angles.sin()?,
            mask: Tensor::from_vec(mask, (t, t), &Device::Cpu)?,
            shape,
        })
    }

    fn vars(&self) -> Vec<Var> {
        let mut vars: Vec<Var> = self.blocks.iter().flat_map(Block::vars).collect();
        vars.extend([self.embedding.clone(), self.norm.clone()]);
        vars
    }

    fn attention(&self, block: &Block, x: &Tensor) -> Result<Tensor> {
        let Shape { heads, dim, tokens, batch, .. } = self.shape;
        let split = |w: &Var| linear(x, w)?.reshape((batch, tokens, heads, dim / heads))?.transpose(1, 2)?.contiguous();
        let [q, k, v] = &block.qkv;
        let q = candle_nn::rotary_emb::rope_slow(&split(q)?, &self.cos, &self.sin)?;
        let k = candle_nn::rotary_emb::rope_slow(&split(k)?, &self.cos, &self.sin)?;
        let scores = (q.matmul(&k.t()?)? / ((dim / heads) as f64).sqrt())?.broadcast_add(&self.mask)?;
        let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split(v)?)?;
        linear(&y.transpose(1, 2)?.reshape((batch, tokens, dim))?, &block.out)
    }

    fn loss(&self, inputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Shape { dim, tokens, batch, .. } = self.shape;
        let mut x = self.embedding.embedding(inputs)?.reshape((batch, tokens, dim))?;
        for block in &self.blocks {
            x = (&x + self.attention(block, &rms_norm(&x, &block.attention_norm)?)?)?;
            let h = rms_norm(&x, &block.mlp_norm)?;
            let h = (linear(&h, &block.gate)?.silu()? * linear(&h, &block.up)?)?;
            x = (&x + linear(&h, &block.down)?)?;
        }
        let logits = linear(&rms_norm(&x, &self.norm)?, &self.embedding)?.reshape((batch * tokens, VOCAB))?;
        candle_nn::loss::cross_entropy(&logits, targets)
    }
}

/// `batch` windows of `tokens` inputs and targets, random but always the same.
fn batch(shape: &Shape) -> Result<(Tensor, Tensor)> {
    let mut state = 2u64;
    let mut token = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 24) as f32 * VOCAB as f32) as u32
    };
    let windows: Vec<Vec<u32>> = (0..shape.batch).map(|_| (0..=shape.tokens).map(|_| token()).collect()).collect();
    let inputs: Vec<u32> = windows.iter().flat_map(|w| w[..shape.tokens].to_vec()).collect();
    let targets: Vec<u32> = windows.iter().flat_map(|w| w[1..].to_vec()).collect();
    let n = inputs.len();
    Ok((Tensor::from_vec(inputs, n, &Device::Cpu)?, Tensor::from_vec(targets, n, &Device::Cpu)?))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default| args.get(i).map_or(default, |s| s.parse().expect("usage: peer-candle [STEPS] [WARMUP] [nano|small]"));
    let (steps, warmup): (usize, usize) = (number(0, 30), number(1, 5));
    let shape = if args.get(2).is_some_and(|s| s == "small") { SMALL } else { NANO };
    let tokens = shape.batch * shape.tokens;

    let (inputs, targets) = batch(&shape)?;
    let model = Llama::new(shape)?;
    let vars = model.vars();
    println!("{} parameters", vars.iter().map(|v| v.elem_count()).sum::<usize>());
    let recipe = ParamsAdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let mut optimizer = AdamW::new(vars, recipe)?;

    let (mut times, mut first) = (vec![], 0.0);
    for step in 0..warmup + steps {
        let start = Instant::now();
        let loss = model.loss(&inputs, &targets)?;
        optimizer.backward_step(&loss)?;
        if step == 0 {
            first = loss.to_scalar::<f32>()?;
        }
        if step >= warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let last = model.loss(&inputs, &targets)?.to_scalar::<f32>()?;
    times.sort_by(f64::total_cmp);
    println!(
        "candle: {:.0} tokens/s (median of {steps}), best {:.0}, {:.1} ms a step; loss {first:.4} -> {last:.4} after {} steps",
        tokens as f64 / times[steps / 2],
        tokens as f64 / times[0],
        1000.0 * times[steps / 2],
        warmup + steps,
    );
    Ok(())
}
