//! lehr's `nano` training step in candle on the processor: tokens per second.
//!
//! 4 layers, 4 heads, 128 wide, SwiGLU 352, tied embeddings, 65 characters, 12 windows of 64. Forward, backward, AdamW. The batch is
//! random and stays the same, so the loss must fall.
//!
//! Differences from the recipe: weight decay applies to the gains too. RMSNorm, RoPE and softmax are those of candle's functions that
//! can be differentiated; its fused ones cannot.

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use std::time::Instant;

const LAYERS: usize = 4;
const HEADS: usize = 4;
const DIM: usize = 128;
const HIDDEN: usize = 352;
const VOCAB: usize = 65;
const B: usize = 12;
const T: usize = 64;

struct Block {
    attn_norm: Var,
    qkv: [Var; 3],
    o: Var,
    mlp_norm: Var,
    gate: Var,
    up: Var,
    down: Var,
}

struct Llama {
    embed: Var,
    blocks: Vec<Block>,
    norm: Var,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

/// Rows of `x` by a matrix of [out, in].
fn linear(x: &Tensor, w: &Var) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

fn rms_norm(x: &Tensor, gain: &Var) -> Result<Tensor> {
    candle_nn::ops::rms_norm_slow(x, gain, 1e-5)
}

impl Llama {
    fn new(device: &Device) -> Result<Self> {
        let matrix = |rows: usize, cols: usize| Var::randn(0f32, 0.02, (rows, cols), device);
        let gain = || Var::ones(DIM, DType::F32, device);
        let block = || -> Result<Block> {
            Ok(Block {
                attn_norm: gain()?,
                qkv: [matrix(DIM, DIM)?, matrix(DIM, DIM)?, matrix(DIM, DIM)?],
                o: matrix(DIM, DIM)?,
                mlp_norm: gain()?,
                gate: matrix(HIDDEN, DIM)?,
                up: matrix(HIDDEN, DIM)?,
                down: matrix(DIM, HIDDEN)?,
            })
        };
        let half = DIM / HEADS / 2;
        let angles: Vec<f32> =
            (0..T).flat_map(|t| (0..half).map(move |i| t as f32 / 10000f32.powf(i as f32 / half as f32))).collect();
        let angles = Tensor::from_vec(angles, (T, half), device)?;
        let mask: Vec<f32> = (0..T).flat_map(|q| (0..T).map(move |k| if k > q { f32::NEG_INFINITY } else { 0.0 })).collect();
        Ok(Self {
            embed: matrix(VOCAB, DIM)?,
            blocks: (0..LAYERS).map(|_| block()).collect::<Result<_>>()?,
            norm: gain()?,
            cos: angles.cos()?,
            sin: angles.sin()?,
            mask: Tensor::from_vec(mask, (T, T), device)?,
        })
    }

    fn parameters(&self) -> Vec<Var> {
        let mut all = vec![self.embed.clone(), self.norm.clone()];
        for b in &self.blocks {
            all.extend(b.qkv.iter().chain([&b.attn_norm, &b.o, &b.mlp_norm, &b.gate, &b.up, &b.down]).cloned());
        }
        all
    }

    fn attention(&self, b: &Block, h: &Tensor) -> Result<Tensor> {
        let heads = |w: &Var| linear(h, w)?.reshape((B, T, HEADS, DIM / HEADS))?.transpose(1, 2)?.contiguous();
        let turned = |w: &Var| candle_nn::rotary_emb::rope_slow(&heads(w)?, &self.cos, &self.sin);
        let (q, k, v) = (turned(&b.qkv[0])?, turned(&b.qkv[1])?, heads(&b.qkv[2])?);
        let scores = (q.matmul(&k.t()?)? * ((DIM / HEADS) as f64).powf(-0.5))?.broadcast_add(&self.mask)?;
        let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        linear(&y.transpose(1, 2)?.reshape((B * T, DIM))?, &b.o)
    }

    fn loss(&self, inputs: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let mut x = self.embed.index_select(inputs, 0)?;
        for b in &self.blocks {
            x = (&x + self.attention(b, &rms_norm(&x, &b.attn_norm)?)?)?;
            let h = rms_norm(&x, &b.mlp_norm)?;
            x = (&x + linear(&(linear(&h, &b.gate)?.silu()? * linear(&h, &b.up)?)?, &b.down)?)?;
        }
        let logits = linear(&rms_norm(&x, &self.norm)?, &self.embed)?;
        candle_nn::loss::cross_entropy(&logits, targets)
    }
}

/// All gradients at a norm of 1 at most.
fn clip(grads: &mut GradStore, parameters: &[Var]) -> Result<()> {
    let mut squares = 0.0;
    for p in parameters {
        squares += grads.get(p).expect("every parameter has a gradient").sqr()?.sum_all()?.to_scalar::<f32>()?;
    }
    let scale = f64::from(1.0 / squares.sqrt().max(1.0));
    for p in parameters {
        let clipped = (grads.get(p).expect("as above") * scale)?;
        grads.insert(p, clipped);
    }
    Ok(())
}

/// B windows of T inputs and T targets, random but always the same.
fn batch(device: &Device) -> Result<(Tensor, Tensor)> {
    let mut state = 2u64;
    let mut token = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 24) as f32 * VOCAB as f32) as u32
    };
    let windows: Vec<Vec<u32>> = (0..B).map(|_| (0..=T).map(|_| token()).collect()).collect();
    let inputs: Vec<u32> = windows.iter().flat_map(|w| w[..T].to_vec()).collect();
    let targets: Vec<u32> = windows.iter().flat_map(|w| w[1..].to_vec()).collect();
    Ok((Tensor::new(inputs, device)?, Tensor::new(targets, device)?))
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).map(|s| s.parse::<usize>().expect("usage: peer-candle [STEPS] [WARMUP]"));
    let (steps, warmup) = (args.next().unwrap_or(30), args.next().unwrap_or(3));
    let device = Device::Cpu;
    let model = Llama::new(&device)?;
    let parameters = model.parameters();
    println!("{} parameters", parameters.iter().map(|p| p.elem_count()).sum::<usize>());
    let settings = ParamsAdamW { lr: 1e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let mut optimizer = AdamW::new(parameters.clone(), settings)?;
    let (mut times, mut first) = (vec![], 0.0);
    for step in 0..warmup + steps {
        let start = Instant::now();
        let (inputs, targets) = batch(&device)?;
        let loss = model.loss(&inputs, &targets)?;
        if step == 0 {
            first = loss.to_scalar::<f32>()?;
        }
        let mut grads = loss.backward()?;
        clip(&mut grads, &parameters)?;
        optimizer.step(&grads)?;
        if step >= warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let (inputs, targets) = batch(&device)?;
    let last = model.loss(&inputs, &targets)?.to_scalar::<f32>()?;
    times.sort_by(f64::total_cmp);
    let rate = |secs: f64| (B * T) as f64 / secs;
    println!(
        "candle: {:.0} tokens/s (median of {steps}), best {:.0}, {:.1} ms a step; loss {first:.4} -> {last:.4} after {} steps",
        rate(times[steps / 2]),
        rate(times[0]),
        1000.0 * times[steps / 2],
        warmup + steps,
    );
    Ok(())
}
