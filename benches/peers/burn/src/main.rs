//! lehr's training steps in burn, on wgpu or on the CPU: tokens per second.
//!
//! SwiGLU, tied embeddings, 65 characters. Forward, backward, AdamW; RMSNorm, RoPE, causal attention, all from burn's own modules. The
//! batch is random and stays the same, so the loss must fall.
//!
//! usage: peer-burn [STEPS] [WARMUP] [wgpu|cpu] [nano|small]      cpu is burn-flex, burn's backend in native code
//!
//! Differences from the recipe: weight decay applies to the gains too, and the gradient is clipped at norm 1 tensor by tensor,
//! as burn has no clipping over all of them.

use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding, RotaryEncodingConfig,
    SwiGlu, SwiGluConfig,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};

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
const INIT: Initializer = Initializer::Normal { mean: 0.0, std: 0.02 };

#[derive(Module, Debug)]
struct Block {
    attn_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: RmsNorm,
    gate_up: SwiGlu,
    down: Linear,
}

#[derive(Module, Debug)]
struct Llama {
    embed: Embedding,
    rope: RotaryEncoding,
    blocks: Vec<Block>,
    norm: RmsNorm,
}

fn linear(n_in: usize, n_out: usize, device: &Device) -> Linear {
    LinearConfig::new(n_in, n_out).with_bias(false).with_initializer(INIT).init(device)
}

impl Block {
    fn new(shape: &Shape, device: &Device) -> Self {
        let Shape { dim, inner, .. } = *shape;
        Block {
            attn_norm: RmsNormConfig::new(dim).init(device),
            q: linear(dim, dim, device),
            k: linear(dim, dim, device),
            v: linear(dim, dim, device),
            o: linear(dim, dim, device),
            mlp_norm: RmsNormConfig::new(dim).init(device),
            gate_up: SwiGluConfig::new(dim, inner).with_initializer(INIT).init(device),
            down: linear(inner, dim, device),
        }
    }

    fn forward(&self, shape: &Shape, x: Tensor<3>, rope: &RotaryEncoding) -> Tensor<3> {
        let Shape { heads: count, dim, tokens, batch, .. } = *shape;
        let h = self.attn_norm.forward(x.clone());
        let heads = |w: &Linear| w.forward(h.clone()).reshape([batch, tokens, count, dim / count]).swap_dims(1, 2);
        let (q, k, v) = (rope.forward(heads(&self.q)), rope.forward(heads(&self.k)), heads(&self.v));
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(q, k, v, None, None, options);
        let x = x + self.o.forward(y.swap_dims(1, 2).reshape([batch, tokens, dim]));
        let h = self.mlp_norm.forward(x.clone());
        x + self.down.forward(self.gate_up.forward(h))
    }
}

impl Llama {
    fn new(shape: &Shape, device: &Device) -> Self {
        Llama {
            embed: EmbeddingConfig::new(VOCAB, shape.dim).with_initializer(INIT).init(device),
            rope: RotaryEncodingConfig::new(shape.tokens, shape.dim / shape.heads).init(device),
            blocks: (0..shape.layers).map(|_| Block::new(shape, device)).collect(),
            norm: RmsNormConfig::new(shape.dim).init(device),
        }
    }

    fn loss(
        &self,
        shape: &Shape,
        inputs: Tensor<2, Int>,
        targets: Tensor<1, Int>,
        cross_entropy: &CrossEntropyLoss,
    ) -> Tensor<1> {
        let mut x = self.embed.forward(inputs);
        for block in &self.blocks {
            x = block.forward(shape, x, &self.rope);
        }
        let x = self.norm.forward(x).reshape([shape.batch * shape.tokens, shape.dim]);
        let logits = x.matmul(self.embed.weight.val().transpose());
        cross_entropy.forward(logits, targets)
    }
}

/// `batch` windows of `tokens` inputs and targets, random but always the same.
fn batch(shape: &Shape, device: &Device) -> (Tensor<2, Int>, Tensor<1, Int>) {
    let mut state = 2u64;
    let mut token = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1 << 24) as f32 * VOCAB as f32) as i32
    };
    let windows: Vec<Vec<i32>> = (0..shape.batch).map(|_| (0..=shape.tokens).map(|_| token()).collect()).collect();
    let inputs: Vec<i32> = windows.iter().flat_map(|w| w[..shape.tokens].to_vec()).collect();
    let targets: Vec<i32> = windows.iter().flat_map(|w| w[1..].to_vec()).collect();
    let (b, t) = (shape.batch, shape.tokens);
    (Tensor::from_data(TensorData::new(inputs, [b, t]), device), Tensor::from_data(TensorData::new(targets, [b * t]), device))
}

#[cfg(feature = "wgpu")]
fn device(cpu: bool) -> Device {
    if cpu { Device::flex() } else { Device::wgpu(Default::default()) }
}

#[cfg(not(feature = "wgpu"))]
fn device(cpu: bool) -> Device {
    assert!(cpu, "built without the feature wgpu");
    Device::flex()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| {
        args.get(i).map_or(default, |s| s.parse().expect("usage: peer-burn [STEPS] [WARMUP] [wgpu|cpu] [nano|small]"))
    };
    let (steps, warmup): (usize, usize) = (number(0, 30), number(1, 10));
    let device =
        device(args.get(2).is_some_and(|s| s == "cpu")).autodiff();
    let shape = if args.get(3).is_some_and(|s| s == "small") { SMALL } else { NANO };
    let tokens = shape.batch * shape.tokens;

    let mut model = Llama::new(&shape, &device);
    let mut optimizer = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.99)
        .with_epsilon(1e-8)
        .with_weight_decay(0.1)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    println!("{} parameters", model.num_params());

    let mut times = vec![];
    let mut first = 0.0;
    for step in 0..warmup + steps {
        let start = Instant::now();
        let (inputs, targets) = batch(&shape, &device);
        let loss = model.loss(&shape, inputs, targets, &cross_entropy);
        if step == 0 {
            first = loss.clone().into_scalar::<f32>();
        }
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, grads);
        device.sync().expect("the device is still there");
        let secs = start.elapsed().as_secs_f64();
        if step < warmup {
            eprintln!("warm-up step {step}: {:.0} ms", 1000.0 * secs);
        } else {
            times.push(secs);
        }
    }
    let (inputs, targets) = batch(&shape, &device);
    let last = model.loss(&shape, inputs, targets, &cross_entropy).into_scalar::<f32>();

    times.sort_by(f64::total_cmp);
    let rate = |secs: f64| tokens as f64 / secs;
    println!(
        "burn: {:.0} tokens/s (median of {steps}), best {:.0}, {:.1} ms a step; loss {first:.4} -> {last:.4} after {} steps",
        rate(times[steps / 2]),
        rate(times[0]),
        1000.0 * times[steps / 2],
        warmup + steps,
    );
}
